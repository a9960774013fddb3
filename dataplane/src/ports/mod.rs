//! Ports: where packets enter and leave a worker.
//!
//! A port is opened by control ([`PortOpener`]), which sends one end of it ([`PortIo`]) to each worker and gets the
//! ends back when the port goes; workers only receive and send. A port that disappears under our hands is a state
//! ([`LinkState`]), never a fault.
//!
//! | kind | device | receives | sends |
//! |---|---|---|---|
//! | [`PortIo::Kernel`] | veth, or any kernel interface, by our AF_PACKET driver | the home's end; an uplink: every end | every end |
//! | [`PortIo::Ethdev`] | a DPDK device by its arguments | as many ends as it has queues | every end, or the home's ([`TxFrom`]) |

pub(crate) mod buffers;
mod coalesce;
mod error;
mod ethdev;
mod opener;
mod pkt;
mod queue;
mod soft;
mod split;

pub mod afpacket;

#[cfg(test)]
pub(crate) mod tests;

pub use buffers::{Buffers, PoolSizes, Pools};
pub use error::OpenError;
pub use ethdev::EthdevPort;
pub use opener::{OpenedPort, PortMonitor, PortOpener, Role};
pub use pkt::Pkt;
pub use queue::TxQueue;

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use podplane_packet::id::{Mac, WorkerId};
use podplane_pipeline::counters::WorkerCounters;

/// How many packets are received or sent at once: the pipeline's.
pub use podplane_pipeline::BURST;

/// What one visit of a port receives.
pub type Burst = ArrayVec<Pkt, BURST>;

/// What is known of a port once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// The interface's name, or the ethdev's.
    pub name: String,
    /// The device's own Ethernet address.
    pub mac: Mac,
    /// Largest layer 3 packet in bytes.
    pub mtu: u16,
    /// The interface index of a kernel interface (also of the one below `net_tap` and `net_af_packet`, if known).
    pub ifindex: Option<u32>,
    /// Who may send.
    pub tx: TxFrom,
}

/// Which workers may send on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxFrom {
    /// Every worker, by its own end.
    Any,
    /// One worker alone; others hand their packets over to it.
    Home(WorkerId),
}

/// Whether a port's device can carry packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// As far as is known it can.
    #[default]
    Up,
    /// The interface is administratively down; it may come back.
    Down,
    /// The interface was removed; it does not come back under this port.
    Gone,
}

/// What one visit to a port's receive side came to. Packets and their bytes are counted by the pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxOutcome {
    /// More may be waiting: visit again without waiting for the descriptor.
    pub more: bool,
    /// The device's state as this visit found it.
    pub state: LinkState,
}

/// What one visit to a port's send side came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOutcome {
    /// Packets that the device took (a GSO frame is one).
    pub packets: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The device is full and the queue not empty: try again soon (tens of microseconds).
    pub blocked: bool,
}

/// One worker's end of a port. Belongs to that worker while it has it; control opens and closes.
#[derive(Debug)]
pub enum PortIo {
    /// A kernel interface.
    Kernel(afpacket::KernelPort),
    /// A DPDK device.
    Ethdev(EthdevPort),
}

impl PortIo {
    /// Receives packets into the room that `burst` has, with their metadata set. Never blocks. Frames that cannot be
    /// taken are counted as drops of this port. An end that does not receive returns at once.
    #[inline]
    pub fn rx(&mut self, bufs: &mut Buffers, burst: &mut Burst, counters: &WorkerCounters) -> RxOutcome {
        match self {
            PortIo::Kernel(p) => p.rx(bufs, burst, counters),
            PortIo::Ethdev(p) => p.rx(bufs, burst, counters),
        }
    }

    /// Sends from the front of `queue`, in order, until it is empty or the device full. What the device refuses for
    /// good is dropped and counted on the port where it came in. Never blocks.
    #[inline]
    pub fn tx(&mut self, bufs: &mut Buffers, queue: &mut TxQueue, counters: &WorkerCounters) -> TxOutcome {
        match self {
            PortIo::Kernel(p) => p.tx(bufs, queue, counters),
            PortIo::Ethdev(p) => p.tx(bufs, queue, counters),
        }
    }

    /// What an idle worker waits on (readable: packets, or a change of state). `None`: nothing to wait on; an end
    /// that [receives](Self::polls_rx) must then be visited by a timer of at most 500 us.
    #[inline]
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            PortIo::Kernel(p) => p.wait_fd(),
            PortIo::Ethdev(p) => p.wait_fd(),
        }
    }

    /// Whether this end receives.
    #[inline]
    pub fn polls_rx(&self) -> bool {
        match self {
            PortIo::Kernel(p) => p.polls_rx(),
            PortIo::Ethdev(p) => p.polls_rx(),
        }
    }

    /// Whether this end may send; if not, packets go to the home's end.
    #[inline]
    pub fn sends(&self) -> bool {
        match self {
            PortIo::Kernel(_) => true,
            PortIo::Ethdev(p) => p.sends(),
        }
    }
}
