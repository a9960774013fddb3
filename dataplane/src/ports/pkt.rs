//! The packet of the ports: a chain of DPDK's buffers with our metadata beside it.
#![allow(unsafe_code)]

use dpdk_glue::{Mbuf, MbufRepr, Segments};
use podplane_packet::buf::{Csum, Meta, PacketBuf};

use super::afpacket::frame::Layout;
use super::cut::transport_checksum;
use super::sum::Sum;

/// A packet: an mbuf chain whose first buffer's private area holds the [`Meta`].
#[derive(Debug)]
#[repr(transparent)]
pub struct Pkt(Mbuf);

// SAFETY: a transparent wrapper of Mbuf.
unsafe impl MbufRepr for Pkt {}

impl Pkt {
    /// Takes a buffer of one of the [`Pools`](super::Pools) as a packet with fresh metadata (a buffer keeps what its
    /// last user wrote).
    #[inline]
    pub fn new(mut mbuf: Mbuf) -> Pkt {
        *mbuf.private_mut::<Meta>() = Meta::default();
        Pkt(mbuf)
    }

    /// The buffers.
    #[inline]
    pub fn mbuf(&self) -> &Mbuf {
        &self.0
    }

    /// The buffers, to be changed.
    #[inline]
    pub fn mbuf_mut(&mut self) -> &mut Mbuf {
        &mut self.0
    }

    /// Gives the buffers away; the metadata stay in the first one's private area.
    #[inline]
    pub fn into_mbuf(self) -> Mbuf {
        self.0
    }

    /// The bytes of each segment.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        self.0.segments()
    }

    /// How many segments there are.
    #[inline]
    pub fn segment_count(&self) -> usize {
        self.0.segment_count()
    }

    /// Sums the bytes from `start` to the end.
    pub(crate) fn sum_from(&self, start: usize) -> Sum {
        let mut sum = Sum::default();
        self.0.for_each_slice(start, self.0.pkt_len().saturating_sub(start), |s| sum.add(s));
        sum
    }

    /// Sums from `start` to the end and stores the checksum at `start + offset`, whose field takes part in the sum.
    /// `false`: the field is not in the first segment.
    pub(crate) fn complete(&mut self, start: usize, offset: usize, proto: u8) -> bool {
        let at = start + offset;
        if at + 2 > self.0.data_len() {
            return false;
        }
        let checksum = transport_checksum(self.sum_from(start), proto);
        self.0.data_mut()[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        true
    }

    /// Completes a partial checksum, if there is one. `false`: it does not lie in the first segment.
    pub(crate) fn complete_checksum(&mut self) -> bool {
        let Csum::Partial { start, offset } = self.meta().csum else { return true };
        // Only UDP's checksum lies 6 bytes into its header, and only there a zero has a meaning of its own.
        let proto = if offset == 6 { super::afpacket::frame::UDP } else { super::afpacket::frame::TCP };
        let done = self.complete(usize::from(start), usize::from(offset), proto);
        if done {
            self.meta_mut().csum = Csum::Good;
        }
        done
    }

    /// Where this frame's own headers lie (the outer ones, of a tunnelled frame).
    pub(crate) fn layout(&self) -> Option<Layout> {
        Layout::of(self.0.data())
    }
}

impl PacketBuf for Pkt {
    #[inline]
    fn head(&self) -> &[u8] {
        self.0.data()
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.pkt_len()
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.0.prepend(n)
    }

    #[inline]
    fn adj(&mut self, n: usize) -> bool {
        self.0.adj(n)
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    #[inline]
    fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.0.append(bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        true
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) -> bool {
        self.0.copy_to(offset, dst)
    }

    fn for_each_slice(&self, offset: usize, len: usize, f: &mut dyn FnMut(&[u8])) -> bool {
        self.0.for_each_slice(offset, len, f)
    }

    #[inline]
    fn meta(&self) -> &Meta {
        self.0.private()
    }

    #[inline]
    fn meta_mut(&mut self) -> &mut Meta {
        self.0.private_mut()
    }
}
