//! Taking a merged VXLAN frame apart: VXLAN datagrams of one flow arrive in one UDP GSO frame. TCP segments inside are merged
//! ([`Coalescer`]) and show parts of the frame's own buffers; what is no TCP is copied into a packet of its own.

use dpdk_glue::Frozen;
use podplane_packet::buf::{Csum, Gso, Meta, PacketBuf};
use podplane_packet::checksum::Accumulator;
use podplane_packet::gro::{Bytes, Merge, Segment};
use podplane_packet::gso::Outer;
use podplane_packet::parse::{L4, parse};
use podplane_packet::wire::proto;
use podplane_packet::wire::vxlan::{VXLAN_LEN, VXLAN_PORT};
use podplane_pipeline::DropReason;

use super::buffers::Pools;
use super::coalesce::Coalescer;
use super::{Burst, Pkt};

/// Bytes of a datagram that are looked at, outer headers included: all headers of what can be merged.
const HEAD: usize = 256;

/// A merged VXLAN frame that is being taken apart, from the front.
#[derive(Debug)]
pub(crate) struct Split {
    frame: Frozen,
    meta: Meta,
    outer: Outer,
    /// Bytes of each datagram's payload but the last's.
    size: usize,
    /// Where the next datagram's payload starts.
    at: usize,
    /// The IPv4 identification of the next.
    id: u16,
    /// The outer headers and the start of the datagram in hand.
    head: [u8; HEAD],
}

/// A datagram of a frame, seen as if it had come by itself.
struct Datagram<'a> {
    head: &'a [u8],
    frame: &'a Frozen,
    /// What to add to an offset within its own frame.
    shift: usize,
}

impl Bytes for Datagram<'_> {
    fn front(&self) -> &[u8] {
        self.head
    }

    fn sum_of(&self, offset: usize, len: usize) -> Option<u16> {
        let mut sum = Accumulator::default();
        self.frame.get().for_each_slice(offset + self.shift, len, |s| sum.add(s)).then(|| sum.finish())
    }
}

impl Split {
    /// Begins with a frame, if it is VXLAN in UDP GSO; otherwise gives it back.
    pub(crate) fn new(pkt: Pkt) -> Result<Split, Pkt> {
        let meta = *pkt.meta();
        let Gso::Udp { size } = meta.gso else { return Err(pkt) };
        let tunnel = match parse(pkt.head(), pkt.len()) {
            Ok(p) if p.proto == proto::UDP && matches!(p.l4, L4::Ports { dst: VXLAN_PORT, .. }) => {
                usize::from(p.payload_off) + VXLAN_LEN
            }
            _ => return Err(pkt),
        };
        let Ok(outer) = Outer::new(pkt.head(), tunnel) else { return Err(pkt) };
        let at = outer.vxlan();
        let mut head = [0; HEAD];
        head[..at].copy_from_slice(&pkt.head()[..at]);
        let id = outer.id(&head);
        Ok(Split { frame: Frozen::from(pkt.into_mbuf()), meta, outer, size: usize::from(size), at, id, head })
    }

    /// Adds the next datagram to `burst`, which has room, or to a packet in it. `None`: there is none left.
    pub(crate) fn next(
        &mut self,
        pools: &Pools,
        coalescer: &mut Coalescer,
        burst: &mut Burst,
    ) -> Option<Result<(), DropReason>> {
        let left = self.frame.get().pkt_len() - self.at;
        if left == 0 {
            return None;
        }
        let (at, len, outer) = (self.at, left.min(self.size), self.outer.vxlan());
        self.at += len;
        self.outer.set_id(&mut self.head, self.id);
        self.id = self.id.wrapping_add(1);
        let shown = HEAD.min(outer + len);
        if !self.frame.get().copy_to(at, &mut self.head[outer..shown]) {
            return Some(Err(DropReason::BadOffload));
        }
        let head = &self.head[..shown];
        // What is behind one set of headers in one memory needs no outer checksum.
        let segment = Segment::behind(head, outer + len, outer + VXLAN_LEN, true, &self.meta);
        let datagram = Datagram { head, frame: &self.frame, shift: at - outer };
        if let Some(segment) = &segment {
            let payload = (at - outer + segment.headers(), segment.payload());
            match coalescer.attach(&datagram, segment, &self.frame, payload, pools, burst) {
                Ok(true) => return Some(Ok(())),
                Ok(false) => {}
                Err(reason) => return Some(Err(reason)),
            }
            if let Some(merge) = Merge::start(head, segment) {
                let first = self.first(head, segment.headers(), payload, len, pools);
                return Some(first.map(|pkt| coalescer.start(merge, pkt, burst)));
            }
        }
        Some(self.copy(at, len, pools).map(|pkt| burst.push(pkt)))
    }

    /// A packet of the headers and, shown where it is, the payload.
    fn first(
        &self,
        head: &[u8],
        headers: usize,
        payload: (usize, usize),
        len: usize,
        pools: &Pools,
    ) -> Result<Pkt, DropReason> {
        let mut pkt = pools.alloc(headers)?;
        if !pkt.append(&head[..headers]) {
            return Err(DropReason::LinearTooLong);
        }
        let shown = pkt.mbuf_mut().attach(&self.frame, payload.0, payload.1, &pools.slices);
        shown.map_err(|_| DropReason::NoBuffers)?;
        self.describe(pkt, len)
    }

    /// A copy of a datagram as a packet of its own, as it would have come without merging.
    fn copy(&self, at: usize, len: usize, pools: &Pools) -> Result<Pkt, DropReason> {
        let outer = self.outer.vxlan();
        let mut pkt = pools.alloc(outer + len)?;
        if !pkt.mbuf_mut().set_len(outer + len) {
            return Err(DropReason::LinearTooLong);
        }
        let bytes = pkt.head_mut();
        bytes[..outer].copy_from_slice(&self.head[..outer]);
        if !self.frame.get().copy_to(at, &mut bytes[outer..]) {
            return Err(DropReason::BadOffload);
        }
        self.describe(pkt, len)
    }

    /// Makes outer headers and metadata those of a datagram with `len` bytes behind the UDP header.
    fn describe(&self, mut pkt: Pkt, len: usize) -> Result<Pkt, DropReason> {
        let udp = self.outer.write_partial(pkt.head_mut(), len).ok_or(DropReason::BadOffload)?;
        let csum = Csum::Partial { start: udp as u16, offset: 6 };
        *pkt.meta_mut() = Meta { gso: Gso::None, csum, ..self.meta };
        Ok(pkt)
    }
}
