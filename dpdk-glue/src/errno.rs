//! DPDK's error numbers.

use std::ffi::CStr;
use std::fmt;

/// An error number of libc or DPDK, always positive. Displays as DPDK's text for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// "No such device".
    pub(crate) const NO_DEVICE: Self = Self(libc::ENODEV);

    /// The number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The calling thread's `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local variable of libdpdk.
        Self(unsafe { dpdk_sys::shim_errno() })
    }

    /// Turns a result in DPDK's style into a `Result`: negative is an error number.
    pub(crate) fn check(ret: i32) -> Result<i32, Self> {
        if ret < 0 { Err(Self(-ret)) } else { Ok(ret) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a string that is valid until the thread's next call; it is copied out here.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
