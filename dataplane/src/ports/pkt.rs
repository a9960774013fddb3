//! The packet of the ports: a chain of DPDK's buffers with our metadata beside it.
#![allow(unsafe_code)]

use dpdk_glue::{Mbuf, MbufRepr, Segments};
use podplane_packet::buf::{Meta, PacketBuf};

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
