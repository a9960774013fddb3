//! Taking a merged VXLAN frame apart: VXLAN datagrams of one flow arrive in one UDP GSO frame. Runs of TCP segments
//! become one tunnelled packet with the inner segmentation in its metadata, sharing the payload's buffers; what cannot
//! be merged becomes a packet of its own.

use dpdk_glue::Frozen;
use podplane_packet::buf::{Csum, Gso, Meta, PacketBuf};
use podplane_pipeline::DropReason;

use super::Pkt;
use super::afpacket::frame::{Layout, UDP, be16};
use super::buffers::Pools;
use super::cut::{set_v4, transport_checksum};
use super::inner::{MAX_INNER, Run, Segment, VXLAN, VXLAN_PORT};
use super::sum::Sum;

/// A merged VXLAN frame that is being taken apart, from the front.
#[derive(Debug)]
pub(crate) struct Split {
    frame: Frozen,
    meta: Meta,
    layout: Layout,
    /// Bytes up to the end of the UDP header.
    outer: usize,
    /// Bytes of each datagram's payload but the last's.
    size: usize,
    /// Where the next datagram's payload starts.
    at: usize,
}

impl Split {
    /// Begins with a frame, if it is VXLAN in UDP GSO; otherwise gives it back.
    pub(crate) fn new(pkt: Pkt) -> Result<Split, Pkt> {
        let meta = *pkt.meta();
        let Gso::Udp { size } = meta.gso else { return Err(pkt) };
        let layout = match pkt.layout() {
            Some(l) if l.proto == UDP && be16(pkt.head(), l.l4 + 2) == Some(VXLAN_PORT) => l,
            _ => return Err(pkt),
        };
        let outer = layout.l4 + 8;
        // The metadata count the outer headers in a byte.
        if pkt.head().len() < outer || outer + VXLAN > 255 {
            return Err(pkt);
        }
        let frame = Frozen::from(pkt.into_mbuf());
        Ok(Split { frame, meta, layout, outer, size: usize::from(size), at: outer })
    }

    /// The next packet. `None`: that was all.
    pub(crate) fn next(&mut self, pools: &Pools) -> Option<Result<Pkt, DropReason>> {
        let first = self.datagram(self.at)?;
        let Some(segment) = self.candidate(self.at, first) else {
            return Some(self.single(first, pools));
        };
        let mut run = Run::new(segment);
        let mut at = self.at + first;
        while let Some(len) = self.datagram(at) {
            match self.candidate(at, len) {
                Some(next) if run.add(&next) => at += len,
                _ => break,
            }
        }
        if run.count() == 1 {
            return Some(self.single(first, pools));
        }
        Some(self.merged(&run, segment, at, pools))
    }

    /// Bytes of the datagram that starts at `at`; `None` at the end.
    fn datagram(&self, at: usize) -> Option<usize> {
        let left = self.frame.get().pkt_len() - at;
        (left > 0).then_some(left.min(self.size))
    }

    /// Reads a datagram, and verifies the inner checksum: what is merged says that it was right.
    fn candidate(&self, at: usize, len: usize) -> Option<Segment> {
        let mut start = [0; MAX_INNER];
        let start = &mut start[..len.min(MAX_INNER)];
        if len < VXLAN || !self.frame.get().copy_to(at, start) {
            return None;
        }
        let segment = Segment::read(start, len)?;
        let mut sum = Sum::default();
        self.frame.get().for_each_slice(at + segment.headers(), segment.payload(), |s| sum.add(s));
        segment.verified(start, sum).then_some(segment)
    }

    /// The outer headers for `bytes` bytes behind the UDP header.
    fn write_outer(&self, out: &mut [u8], bytes: usize) {
        let Layout { l3, l4, v4, .. } = self.layout;
        out.copy_from_slice(&self.frame.get().data()[..self.outer]);
        if v4 {
            let id = u16::from_be_bytes([out[l3 + 4], out[l3 + 5]]);
            set_v4(&mut out[l3..l4], l4 - l3 + 8 + bytes, id);
        } else {
            out[l3 + 4..l3 + 6].copy_from_slice(&((l4 - l3 - 40 + 8 + bytes) as u16).to_be_bytes());
        }
        out[l4 + 4..l4 + 6].copy_from_slice(&((8 + bytes) as u16).to_be_bytes());
        out[l4 + 6..l4 + 8].fill(0);
    }

    /// A copy of the next datagram as a packet of its own, as it would have come without merging.
    fn single(&mut self, len: usize, pools: &Pools) -> Result<Pkt, DropReason> {
        let at = self.at;
        self.at += len;
        let mut pkt = pools.linear(self.outer + len).ok_or(DropReason::NoBuffers)?;
        if !pkt.mbuf_mut().set_len(self.outer + len) {
            return Err(DropReason::NoBuffers);
        }
        let bytes = pkt.head_mut();
        self.write_outer(&mut bytes[..self.outer], len);
        if !self.frame.get().copy_to(at, &mut bytes[self.outer..]) {
            return Err(DropReason::RxTruncated);
        }
        let l4 = self.layout.l4;
        let mut sum = Sum::from(self.layout.pseudo_sum(bytes, bytes.len() - l4));
        sum.add(&bytes[l4..]);
        bytes[l4 + 6..l4 + 8].copy_from_slice(&transport_checksum(sum, UDP).to_be_bytes());
        *pkt.meta_mut() = Meta { gso: Gso::None, csum: Csum::Good, ..self.meta };
        Ok(pkt)
    }

    /// The datagrams from the next one to `end` as one tunnelled packet. Its payload stays where it was received.
    fn merged(&mut self, run: &Run, first: Segment, end: usize, pools: &Pools) -> Result<Pkt, DropReason> {
        let start = std::mem::replace(&mut self.at, end);
        let headers = self.outer + first.headers();
        let mut pkt = pools.linear(headers).ok_or(DropReason::NoBuffers)?;
        if !pkt.mbuf_mut().set_len(headers) {
            return Err(DropReason::NoBuffers);
        }
        let (outer, inner) = pkt.head_mut().split_at_mut(self.outer);
        self.write_outer(outer, inner.len() + run.payload());
        if !self.frame.get().copy_to(start, inner) {
            return Err(DropReason::RxTruncated);
        }
        run.finish(inner);
        let mut at = start;
        while at < end {
            let payload = (end - at).min(self.size) - first.headers();
            pkt.mbuf_mut()
                .attach(&self.frame, at + first.headers(), payload, &pools.slices)
                .map_err(|_| DropReason::NoBuffers)?;
            at += first.headers() + payload;
        }
        let size = first.payload() as u16;
        let l4 = self.outer + VXLAN + first.transport();
        *pkt.meta_mut() = Meta {
            csum: Csum::Partial { start: l4 as u16, offset: 16 },
            gso: if first.v4() { Gso::Tcp4 { size } } else { Gso::Tcp6 { size } },
            tunnel: (self.outer + VXLAN) as u8,
            ..self.meta
        };
        Ok(pkt)
    }
}
