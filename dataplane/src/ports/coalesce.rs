//! Merging what an uplink receives: consecutive TCP segments of a flow, plain or in VXLAN datagrams of their own, become
//! one GSO frame whose payload stays where it was received. The rules are [`gro`](podplane_packet::gro)'s.
//!
//! A merge stands in the burst where its first segment arrived and never waits for a later visit: nothing is delayed, the
//! order within a flow is kept, and what comes behind in the packet path sees one packet instead of dozens.

use arrayvec::ArrayVec;
use dpdk_glue::Frozen;
use podplane_packet::buf::PacketBuf;
use podplane_packet::gro::{Bytes, Merge, NoMerge, Segment};
use podplane_pipeline::DropReason;

use super::buffers::Pools;
use super::{Burst, Pkt};

/// Merges of one visit that are open at a time: as many flows as Linux keeps for a hash bucket.
const FLOWS: usize = 8;
/// Buffers that a merge may be a chain of: 64 KiB of datagrams of 1,400 bytes that lie across two buffers each.
const MAX_PIECES: usize = 128;
/// Shorter frames do not begin a merge: no payload worth it is behind VXLAN's and TCP's headers.
const LEAST: usize = 150;

/// The merges of one visit to a port.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    open: ArrayVec<Open, FLOWS>,
}

#[derive(Debug)]
struct Open {
    /// Where in the burst.
    at: usize,
    merge: Merge,
}

impl Coalescer {
    /// Adds a received packet to `burst`, which has room, or to a packet in it.
    #[inline]
    pub(crate) fn add(&mut self, mut pkt: Pkt, burst: &mut Burst) {
        if self.open.is_empty() && pkt.len() < LEAST {
            return burst.push(pkt);
        }
        let Some(segment) = Segment::read(&pkt) else { return burst.push(pkt) };
        let pieces = pkt.segment_count();
        if let Some((i, _)) = self.place(&pkt, &segment, pieces, burst) {
            let at = self.open[i].at;
            pkt.truncate(segment.frame_len());
            let before = burst[at].len();
            if pkt.adj(segment.headers()) {
                // Cannot fail: `MAX_PIECES` and 64 KiB are far below the limits of a chain.
                let _ = burst[at].mbuf_mut().chain(pkt.into_mbuf());
            }
            debug_assert!(burst[at].len() == before + segment.payload());
            return self.close_if_ended(i, burst);
        }
        match Merge::start(pkt.head(), &segment) {
            Some(merge) => self.start(merge, pkt, burst),
            None => burst.push(pkt),
        }
    }

    /// Adds a segment to a packet in `burst`, if one takes it: its payload is the bytes `offset .. offset + len` of `frame`,
    /// which are shown, not copied.
    pub(crate) fn attach<B: Bytes>(
        &mut self,
        next: &B,
        segment: &Segment,
        frame: &Frozen,
        (offset, len): (usize, usize),
        pools: &Pools,
        burst: &mut Burst,
    ) -> Result<bool, DropReason> {
        let Some((i, before)) = self.place(next, segment, 2, burst) else { return Ok(false) };
        let pkt = &mut burst[self.open[i].at];
        if pkt.mbuf_mut().attach(frame, offset, len, &pools.slices).is_err() {
            self.open[i].merge = before;
            return Err(DropReason::NoBuffers);
        }
        self.close_if_ended(i, burst);
        Ok(true)
    }

    /// Which open merge took the segment, and as it was before. One of the same flow that does not take it is closed: the
    /// segment comes after.
    #[inline]
    fn place<B: Bytes>(
        &mut self,
        next: &B,
        segment: &Segment,
        pieces: usize,
        burst: &mut Burst,
    ) -> Option<(usize, Merge)> {
        for i in 0..self.open.len() {
            let Open { at, merge } = &mut self.open[i];
            let first = &burst[*at];
            // What is cut off in front must leave something of the first buffer.
            if first.segment_count() + pieces > MAX_PIECES || segment.headers() >= next.front().len() {
                merge.close();
            }
            let before = *merge;
            match merge.push(first, next, segment) {
                Ok(()) => return Some((i, before)),
                Err(NoMerge::Unrelated) => {}
                Err(NoMerge::Flush) => {
                    self.close(i, burst);
                    return None;
                }
            }
        }
        None
    }

    /// Puts `pkt` into the burst as the beginning of a merge.
    pub(crate) fn start(&mut self, merge: Merge, mut pkt: Pkt, burst: &mut Burst) {
        pkt.truncate(merge.first().frame_len());
        if self.open.is_full() {
            self.close(0, burst);
        }
        self.open.push(Open { at: burst.len(), merge });
        burst.push(pkt);
    }

    fn close_if_ended(&mut self, i: usize, burst: &mut Burst) {
        if self.open[i].merge.is_closed() {
            self.close(i, burst);
        }
    }

    fn close(&mut self, i: usize, burst: &mut Burst) {
        let Open { at, merge } = self.open.remove(i);
        let finished = merge.finish(&mut burst[at]);
        debug_assert!(finished, "a merge is as long as what was appended");
        if !finished {
            // The first segment is sound by itself.
            burst[at].truncate(merge.first().frame_len());
        }
    }

    /// Ends all merges: before anybody else sees the burst.
    pub(crate) fn finish(&mut self, burst: &mut Burst) {
        while !self.open.is_empty() {
            self.close(self.open.len() - 1, burst);
        }
    }
}
