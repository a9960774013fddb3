//! Threads that DPDK knows: each has a number, and with it a cache in every mempool.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::eal::Eal;
use crate::errno::Errno;

/// The number of a thread that is no lcore.
pub(crate) const NONE: u32 = u32::MAX;

thread_local! {
    /// DPDK's own thread-local number, kept here too because reading C's costs a call.
    static CURRENT: Cell<u32> = const { Cell::new(NONE) };
}

/// Threads that have caches, EAL's main lcore among them.
static LCORES: AtomicU32 = AtomicU32::new(0);

/// Whether a thread other than the calling one has caches.
pub(crate) fn others() -> bool {
    LCORES.load(Ordering::Acquire) > u32::from(current() != NONE)
}

/// The calling thread's lcore number, or [`NONE`].
#[inline(always)]
pub(crate) fn current() -> u32 {
    CURRENT.get()
}

/// Notes that EAL made the calling thread its main lcore.
pub(crate) fn adopt_current() {
    // SAFETY: reads a thread-local variable of libdpdk.
    CURRENT.set(unsafe { dpdk_sys::shim_lcore_id() });
    LCORES.fetch_add(1, Ordering::Relaxed);
}

/// Notes that EAL has ended.
pub(crate) fn forget_current() {
    CURRENT.set(NONE);
}

/// Why a thread did not become an lcore.
#[derive(Debug, thiserror::Error)]
pub enum LcoreError {
    /// The thread is one already.
    #[error("this thread is already lcore {0}; register a thread once")]
    Already(u32),
    /// DPDK refused.
    #[error("the thread cannot become an lcore: {errno}; DPDK is built for {max} of them, run fewer workers", max = dpdk_sys::RTE_MAX_LCORE)]
    Refused {
        /// DPDK's reason.
        errno: Errno,
    },
    /// The thread cannot run on that CPU.
    #[error("the thread cannot be bound to CPU {cpu}: {error}; choose one that `taskset -p $$` lists")]
    Affinity {
        /// The CPU.
        cpu: usize,
        /// The kernel's reason.
        error: std::io::Error,
    },
}

/// The calling thread as an lcore: it has a cache in every mempool until this is dropped. Stays on its thread.
#[derive(Debug)]
pub struct Lcore {
    id: u32,
    _eal: Eal,
    _this_thread: PhantomData<*const ()>,
}

impl Lcore {
    /// Registers the calling thread where it runs now. Bind it to its CPUs before: DPDK notes the socket.
    pub fn register(eal: &Eal) -> Result<Self, LcoreError> {
        if current() != NONE {
            return Err(LcoreError::Already(current()));
        }
        // SAFETY: EAL runs, and the thread is not registered.
        if unsafe { dpdk_sys::rte_thread_register() } < 0 {
            return Err(LcoreError::Refused { errno: Errno::last() });
        }
        adopt_current();
        Ok(Self { id: current(), _eal: eal.clone(), _this_thread: PhantomData })
    }

    /// Binds the calling thread to one CPU and registers it.
    pub fn register_on(eal: &Eal, cpu: usize) -> Result<Self, LcoreError> {
        bind(cpu).map_err(|error| LcoreError::Affinity { cpu, error })?;
        Self::register(eal)
    }

    /// The number, below `RTE_MAX_LCORE`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The calling thread's number, also of EAL's main lcore; `None`: not registered.
    pub fn current() -> Option<u32> {
        (current() != NONE).then(current)
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        // SAFETY: EAL runs (this holds it) and the thread is registered. Its caches are emptied first: what they hold
        // would be lost until another thread gets the same number.
        unsafe {
            dpdk_sys::shim_flush_caches();
            dpdk_sys::rte_thread_unregister();
        }
        CURRENT.set(NONE);
        // Whoever sees this sees all that the thread did to its caches.
        LCORES.fetch_sub(1, Ordering::Release);
    }
}

fn bind(cpu: usize) -> std::io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: cpu_set_t is plain data, for which all zeroes is the empty set; the bit is within its size.
    let ret = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if ret == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
