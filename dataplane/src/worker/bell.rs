//! The bell of a thread that waits in `epoll` or `poll`: an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use podplane_sleeper::Bell;

/// An eventfd. Readable once it was rung, until it is hushed.
#[derive(Debug)]
pub struct EventBell(OwnedFd);

impl EventBell {
    /// A silent bell.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(EventBell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Silences it.
    pub fn hush(&self) {
        // Would block: it was silent already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl Bell for EventBell {
    #[inline]
    fn ring(&self) {
        // Would block: the counter is at its end, so it rings.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for EventBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
