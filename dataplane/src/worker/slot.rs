//! One worker's end of a port with what the worker keeps beside it.

use podplane_packet::id::WorkerId;

use super::backlog::{Pace, Run};
use crate::ports::{PortIo, TxQueue};

/// Bytes that a port may receive in one visit before it owes the others a turn: four of the largest GSO frames. A pod
/// that sends 64 KiB frames else gets forty times the share of one that sends full-sized packets.
const QUANTUM: u32 = 256 * 1024;

/// One worker's end of a port. Made by control, so that the worker allocates nothing.
#[derive(Debug)]
pub struct PortSlot {
    /// The device.
    pub(super) io: PortIo,
    /// What waits to be sent.
    pub(super) queue: TxQueue,
    /// The worker that sends for this one, if it may not send itself.
    pub(super) via: Option<WorkerId>,
    /// Whether the port is on the list of those that have something to be received.
    pub(super) ready: bool,
    /// Whether the port is on the list of those that have something to be sent.
    pub(super) dirty: bool,
    /// How its device takes what waits for it.
    pub(super) pace: Pace,
    /// Where the packets that came in by it went.
    pub(super) run: Run,
    /// Whether it is not read for a while: see [`Run`].
    pub(super) held: bool,
    /// Whether it must be visited by time: it receives and has nothing to wait on.
    pub(super) polled: bool,
    /// Whether the device has gone; it is not visited any more.
    pub(super) gone: bool,
    /// Bytes received beyond the quantum, to be paid back by waiting.
    debt: u32,
}

impl PortSlot {
    /// The end `io`; a worker that may not send sends by `via`.
    pub fn new(io: PortIo, via: Option<WorkerId>) -> Box<PortSlot> {
        let polled = io.polls_rx() && io.wait_fd().is_none();
        let queue = TxQueue::default();
        Box::new(PortSlot {
            io,
            queue,
            via,
            ready: false,
            dirty: false,
            pace: Pace::default(),
            run: Run::default(),
            held: false,
            polled,
            gone: false,
            debt: 0,
        })
    }

    /// Notes that a visit received `bytes`.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.debt = self.debt.saturating_add(bytes as u32).saturating_sub(QUANTUM);
    }

    /// Whether the port must let the others go first this time.
    pub(super) fn owes(&mut self) -> bool {
        let owes = self.debt > 0;
        self.debt = self.debt.saturating_sub(QUANTUM);
        owes
    }
}
