//! What a worker counts. Workers only count; readers add up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use podplane_packet::id::PortId;

use crate::drop::DropReason;

/// One worker's counters. **Written by that worker alone** (plain load and store, no locked instruction), read by
/// anybody at any time: each number is exact, their sum over counters may be a packet apart.
#[derive(Debug)]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
}

/// One worker's counters of one port.
#[derive(Debug)]
pub struct PortCounters {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    drops: [AtomicU64; DropReason::COUNT],
}

impl Default for PortCounters {
    fn default() -> Self {
        PortCounters {
            rx_packets: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
        }
    }
}

/// Adds to a counter that has one writer: no `lock` prefix.
#[inline]
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

impl PortCounters {
    /// Packets and bytes that came in by the port and that this worker owned (or could not hand over to their owner):
    /// each packet is counted once, by one worker.
    pub fn rx(&self) -> (u64, u64) {
        (self.rx_packets.load(Relaxed), self.rx_bytes.load(Relaxed))
    }

    /// Packets and bytes that this worker's pipeline queued on the port.
    pub fn tx(&self) -> (u64, u64) {
        (self.tx_packets.load(Relaxed), self.tx_bytes.load(Relaxed))
    }

    /// Packets that came in by the port and were dropped for `reason`; of those that policy forbade, the ones that the
    /// rules of the port's pod forbade.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].load(Relaxed)
    }
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self::new(PortId::MAX)
    }
}

impl WorkerCounters {
    /// Zeroed counters for ports 0 to `ports` - 1; what happens on a port beyond is counted on the last.
    pub fn new(ports: usize) -> WorkerCounters {
        WorkerCounters { ports: (0..ports.clamp(1, PortId::MAX)).map(|_| PortCounters::default()).collect() }
    }

    /// The counters of a port.
    #[inline]
    pub fn port(&self, port: PortId) -> &PortCounters {
        &self.ports[port.index().min(self.ports.len() - 1)]
    }

    /// Counts packets taken from a port. The engine does that itself; others need not.
    #[inline]
    pub fn count_rx(&self, port: PortId, packets: u64, bytes: u64) {
        let c = self.port(port);
        add(&c.rx_packets, packets);
        add(&c.rx_bytes, bytes);
    }

    /// Counts packets queued on a port.
    #[inline]
    pub fn count_tx(&self, port: PortId, packets: u64, bytes: u64) {
        let c = self.port(port);
        add(&c.tx_packets, packets);
        add(&c.tx_bytes, bytes);
    }

    /// Counts a drop of one packet that came in by `port`.
    #[inline]
    pub fn count_drop(&self, port: PortId, reason: DropReason) {
        add(&self.port(port).drops[reason.index()], 1);
    }

    /// The sum of a reason over all ports.
    pub fn total_drops(&self, reason: DropReason) -> u64 {
        self.ports.iter().map(|p| p.drops(reason)).sum()
    }
}
