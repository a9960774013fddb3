//! What waits for a port's device.

use std::collections::VecDeque;

use podplane_packet::buf::PacketBuf;

use super::Pkt;

/// One worker's packets for one port, in order. Bounded by packets and bytes, and allocated once: a port whose reader
/// is slow costs its senders packets, nobody else anything.
#[derive(Debug)]
pub struct TxQueue {
    packets: VecDeque<Pkt>,
    bytes: usize,
    /// Segments behind the packets' first ones.
    chained: usize,
    max_packets: usize,
    max_bytes: usize,
}

impl Default for TxQueue {
    fn default() -> Self {
        Self::new(Self::DEFAULT_PACKETS, Self::DEFAULT_BYTES)
    }
}

impl TxQueue {
    /// Packets that wait at most, unless said otherwise: some bursts.
    pub const DEFAULT_PACKETS: usize = 256;
    /// Bytes that wait at most, unless said otherwise: 32 of the largest GSO frames.
    pub const DEFAULT_BYTES: usize = 2 << 20;

    /// An empty queue. The limit in bytes is checked before a packet is added, so one packet always fits.
    pub fn new(max_packets: usize, max_bytes: usize) -> TxQueue {
        TxQueue { packets: VecDeque::with_capacity(max_packets), bytes: 0, chained: 0, max_packets, max_bytes }
    }

    /// Adds a packet at the back.
    ///
    /// # Errors
    /// The queue is full; the packet comes back, to be dropped as `tx-queue-full`.
    #[inline]
    pub fn push(&mut self, pkt: Pkt) -> Result<(), Pkt> {
        if self.packets.len() >= self.max_packets || self.bytes >= self.max_bytes {
            return Err(pkt);
        }
        self.bytes += pkt.len();
        self.chained += pkt.segment_count() - 1;
        self.packets.push_back(pkt);
        Ok(())
    }

    /// Takes the packet at the front.
    #[inline]
    pub fn pop(&mut self) -> Option<Pkt> {
        let pkt = self.packets.pop_front()?;
        self.bytes -= pkt.len();
        self.chained -= pkt.segment_count() - 1;
        Some(pkt)
    }

    /// Takes the packet at the back, if it is not the one at the front too: a driver may be in the middle of that.
    pub fn pop_last(&mut self) -> Option<Pkt> {
        let pkt = if self.packets.len() > 1 { self.packets.pop_back()? } else { return None };
        self.bytes -= pkt.len();
        self.chained -= pkt.segment_count() - 1;
        Some(pkt)
    }

    /// The packet at `index` from the front.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&Pkt> {
        self.packets.get(index)
    }

    /// The packet at `index` from the front, to be completed (its length and segments must stay).
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Pkt> {
        self.packets.get_mut(index)
    }

    /// How many packets wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether none waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many bytes wait.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many buffers the packets have beside their first ones.
    #[inline]
    pub fn chained(&self) -> usize {
        self.chained
    }

    /// Whether a packet would be refused.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.packets.len() >= self.max_packets || self.bytes >= self.max_bytes
    }
}
