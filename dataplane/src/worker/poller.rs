//! One worker's epoll: its bell and the descriptors of the ports that it receives from.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use podplane_packet::id::PortId;
use rustix::event::{Timespec, epoll};

use super::bell::EventBell;

/// The bell's token; ports have their indices.
const BELL: u64 = u64::MAX;
/// Events taken at once.
const EVENTS: usize = 64;

/// One worker's epoll. Level-triggered: what is not read stays ready.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// An epoll that hears `bell`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(bell: &EventBell) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Poller { epoll })
    }

    /// Waits on a port's descriptor from now on.
    ///
    /// # Errors
    /// The kernel refuses: memory, or the user's limit of watches.
    pub fn add(&self, port: PortId, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(u64::from(port.0)), epoll::EventFlags::IN)?)
    }

    /// Listens to a port's descriptor or, for a while, not.
    pub fn listen(&self, port: PortId, fd: impl AsFd, on: bool) {
        let flags = if on { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        // Gone: whoever reads it next finds out.
        let _ = epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(u64::from(port.0)), flags);
    }

    /// Forgets a descriptor.
    pub fn remove(&self, fd: impl AsFd) {
        // Not there any more: as wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Calls `ready` with each port that has something, after waiting for `timeout` (`None`: as long as it takes) if
    /// nothing has. Silences `bell` if it rang.
    pub fn wait(&self, timeout: Option<Duration>, bell: &EventBell, mut ready: impl FnMut(PortId)) {
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        // Interrupted: the caller looks at everything again anyhow.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut space, timeout.as_ref()) else { return };
        for event in events {
            match { event.data }.u64() {
                BELL => bell.hush(),
                port => ready(PortId(port as u16)),
            }
        }
    }
}
