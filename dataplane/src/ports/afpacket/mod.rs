//! Our own driver for kernel interfaces: packet sockets with virtio headers and batched system calls.
//!
//! Layers, from the bottom: `socket` (one system call each), `mmsg` (batches over arrays of raw pointers), `vnet`
//! (pure: the virtio header against our own parse), `rx` and `tx` (buffers to frames and back), `open`, and
//! [`KernelPort`], one worker's end.

mod mmsg;
mod open;
mod rx;
mod shared;
mod socket;
mod tx;
mod vnet;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use podplane_packet::id::PortId;

use super::Pkt;
use super::coalesce::Coalescer;
use super::split::Split;

pub(crate) use rx::RecvBatch;
pub use shared::{Shared, SocketBudget};
pub(crate) use tx::SendBatch;

/// Bytes that one visit to a port receives, roughly: a burst of big frames must not throw each other out of the cache,
/// nor keep the other ports waiting.
const VISIT_BYTES: usize = 256 << 10;

/// One worker's end of a kernel interface.
#[derive(Debug)]
pub struct KernelPort {
    shared: Arc<Shared>,
    /// Index of this end's socket in `shared`.
    socket: usize,
    port: PortId,
    /// Whether this end receives.
    receives: bool,
    /// Whether merged VXLAN is taken apart here, and TCP segments are merged.
    uplink: bool,
    /// How many frames are asked for at once.
    ask: usize,
    /// What was received and found no room in the burst, in order, behind `split`.
    backlog: VecDeque<Pkt>,
    /// A merged VXLAN frame that is being taken apart.
    split: Option<Split>,
    coalescer: Coalescer,
    /// Segments of the queue's first packet that were sent already (a frame cut into several messages).
    resume: usize,
    /// Since when the device has taken nothing.
    stalled: Option<Instant>,
}

impl KernelPort {
    /// What an idle worker waits on. Also once the interface is gone, so that the worker can stop waiting on it: what
    /// was in the socket's queue then stays there and keeps the descriptor readable.
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.receives.then(|| self.shared.socket(self.socket).as_fd())
    }

    /// Whether this end receives.
    pub fn polls_rx(&self) -> bool {
        self.receives
    }
}
