//! What the ends of one kernel interface have in common, and the memory that the sockets of a node may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::socket::{PacketSocket, interface_facts};
use crate::ports::LinkState;

/// The most that one socket's receive buffer gets: some sixty of the biggest frames.
const RECEIVE_MOST: usize = 8 << 20;
/// The least, also when the node's share is used up: three of the biggest frames.
const RECEIVE_LEAST: usize = 512 << 10;
/// What may be on its way out of one socket. Kept below the backlog of a CPU, which a veth's frames pass.
pub(super) const SEND: usize = 4 << 20;

/// Kernel memory that the receive buffers of all sockets may hold together. Early ports get more than late ones; what
/// a port had comes back when it is closed.
#[derive(Debug)]
pub struct SocketBudget {
    /// Bytes not given out. Written by control alone (any thread may; it is a plain counter).
    left: AtomicUsize,
}

impl SocketBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Arc<SocketBudget> {
        Arc::new(SocketBudget { left: AtomicUsize::new(bytes) })
    }

    /// Takes a socket's share: a thirty-second of what is left, within limits. Beyond the budget the least is given
    /// still, for a port without a buffer would be none.
    pub(super) fn take(self: &Arc<Self>) -> Share {
        let bytes = (self.left.load(Relaxed) / 32).clamp(RECEIVE_LEAST, RECEIVE_MOST);
        let left = self.left.load(Relaxed);
        self.left.store(left.saturating_sub(bytes), Relaxed);
        Share { budget: Arc::clone(self), bytes, taken: bytes.min(left) }
    }
}

/// What one socket got; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<SocketBudget>,
    /// The size of the buffer.
    pub(super) bytes: usize,
    taken: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.taken, Relaxed);
    }
}

/// The sockets of one interface and what was seen of it. Dropped by control: closing takes a while in the kernel.
#[derive(Debug)]
pub struct Shared {
    sockets: Vec<PacketSocket>,
    name: String,
    /// A `LinkState`; written by whoever finds out.
    state: AtomicU8,
    /// Added to by control alone.
    overruns: AtomicU64,
    _shares: Vec<Share>,
}

impl Shared {
    pub(super) fn new(name: String, sockets: Vec<PacketSocket>, shares: Vec<Share>) -> Shared {
        Shared { sockets, name, state: AtomicU8::new(0), overruns: AtomicU64::new(0), _shares: shares }
    }

    pub(super) fn socket(&self, i: usize) -> &PacketSocket {
        &self.sockets[i]
    }

    /// The state that a worker found last.
    pub(crate) fn last_state(&self) -> LinkState {
        match self.state.load(Relaxed) {
            0 => LinkState::Up,
            1 => LinkState::Down,
            _ => LinkState::Gone,
        }
    }

    /// Notes a state, unless the interface is gone for good. Writes only what changes.
    pub(super) fn note(&self, state: LinkState) {
        if self.last_state() != state && self.last_state() != LinkState::Gone {
            self.state.store(state as u8, Relaxed);
        }
    }

    /// Finds out what an ENETDOWN or ENXIO meant.
    pub(super) fn note_lost(&self, socket: usize) -> LinkState {
        self.note(if self.sockets[socket].is_bound() { LinkState::Down } else { LinkState::Gone });
        self.last_state()
    }

    /// Asks the kernel for the state now. For control, not for workers.
    pub(crate) fn state(&self) -> LinkState {
        if !self.sockets[0].is_bound() {
            self.note(LinkState::Gone);
        } else if let Ok(facts) = interface_facts(&self.name) {
            self.note(if facts.up { LinkState::Up } else { LinkState::Down });
        }
        self.last_state()
    }

    /// Frames that found a socket's buffer full, since it was opened. For control.
    pub(crate) fn receive_overruns(&self) -> u64 {
        let new: u64 = self.sockets.iter().map(|s| u64::from(s.take_drops())).sum();
        self.overruns.fetch_add(new, Relaxed) + new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lasts_for_every_pod_and_comes_back() {
        let budget = SocketBudget::new(512 << 20);
        let shares: Vec<Share> = (0..250).map(|_| budget.take()).collect();
        assert_eq!(shares[0].bytes, RECEIVE_MOST);
        assert!(shares.iter().all(|s| s.bytes >= RECEIVE_LEAST));
        let total: usize = shares.iter().map(|s| s.bytes).sum();
        assert!(total <= 640 << 20, "{total}");
        drop(shares);
        assert_eq!(budget.left.load(Relaxed), 512 << 20);
    }
}
