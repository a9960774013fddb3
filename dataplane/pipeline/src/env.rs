//! What one worker's packet path asks of the world. The root package implements it over ports and queues, the
//! simulator over vectors.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{PortId, WorkerId};

use crate::halves::HalfMsg;
use crate::pass::Pass;

/// Milliseconds of a coarse monotonic clock; wraps after 49 days, so compare by wrapping difference only.
pub type Millis = u32;

/// How many packets the engine takes at once.
pub const BURST: usize = 32;

/// The world around an [`Engine`](crate::engine::Engine). None of its functions may block.
///
/// A buffer that is dropped frees itself.
pub trait Env {
    /// The packets.
    type Buf: PacketBuf;

    /// The time, read once a burst by the caller and constant during it.
    fn now(&self) -> Millis;

    /// An empty small buffer with at least 128 bytes of headroom and about 2 KiB of room behind it. `None`: the pool
    /// is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;

    /// Queues a finished frame on a port, behind those queued before. `pass` proves that somebody entitled let it go;
    /// only policy, the gateway's own replies and L2 pass-through mint one.
    fn transmit(&mut self, port: PortId, buf: Self::Buf, pass: Pass);

    /// Hands a packet, as it was received, to the worker that owns it; it comes out of that worker's next burst.
    ///
    /// # Errors
    /// The queue is full; the packet comes back.
    fn hand_over(&mut self, to: WorkerId, buf: Self::Buf) -> Result<(), Self::Buf>;

    /// Asks for the MAC of a neighbour on the uplink's own network, which comes with a later snapshot; `by`: the port by
    /// which the packet came that waits for it. The question may be lost and is asked again, at most once a second for
    /// each waiting neighbour. A world without neighbours to ask for need not do anything.
    fn resolve(&mut self, address: IpAddr, by: PortId) {
        let _ = (address, by);
    }

    /// Sends a message about half-entries to another worker, in order with all earlier ones to it.
    ///
    /// # Errors
    /// The queue is full; the message comes back.
    fn push_half(&mut self, to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg>;
}
