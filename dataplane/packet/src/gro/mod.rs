//! Merging consecutive TCP segments of a flow into one GSO frame, plain or behind VXLAN: the inverse of [`gso`](crate::gso).
//!
//! The rules are those of Linux (`tcp_gro_receive`, `inet_gro_receive`, `vxlan_gro_receive`), so that cutting the merged frame
//! again gives the segments back: headers equal but for what counts up, contiguous, all of one size but for a shorter last
//! one, checksums right. Options (timestamps among them), TTL, TOS and ECN must be equal, outer ones too: a congestion mark
//! never spreads to segments that did not have it. CWR may stand on the first segment only; PSH and FIN end a merge.
//! IPv4 identifications must count up unless DF is set, when they mean nothing (RFC 6864 section 4.1).

mod segment;

pub use segment::{Bytes, Segment};

use crate::buf::{Csum, Gso, PacketBuf};
use crate::checksum::fold;
use crate::gso::write_ip;
use crate::wire::tcp::{TCP_LEN, TcpFlags};
use crate::wire::{be16, be32};

/// Longest layer 3 packet that a merge may come to, outer headers included.
pub const MAX_L3: usize = 65_535;
/// Least payload of the segments of a merge: what a receiver of GSO frames takes for one (a least MSS of 88 bytes, Linux
/// `TCP_MIN_MSS`, less 40 bytes of options).
pub const MIN_SIZE: usize = 48;

/// Control bits that the last segment alone may have.
const LAST: TcpFlags = TcpFlags(TcpFlags::PSH.0 | TcpFlags::FIN.0);

/// Why a segment does not continue a merge. The merge so far is complete and can be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoMerge {
    /// Another flow: nothing is known of the order between the two.
    Unrelated,
    /// Of the same flow, but it must come after the merge as a packet of its own.
    Flush,
}

/// A merge in progress: what is known of it beside the first segment's bytes, which the caller keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    first: Segment,
    payload_len: u32,
    next_seq: u32,
    segments: u16,
    last: TcpFlags,
    /// The first segment's checksums were found right.
    verified: bool,
    closed: bool,
}

impl Merge {
    /// Starts with a first segment, the frame that begins with `head`. `None`: it cannot be part of a merge, or would end it at
    /// once. Its checksum is looked at when there is a second one.
    #[inline]
    pub fn start(head: &[u8], first: &Segment) -> Option<Merge> {
        let len = first.payload();
        if !first.mergeable || first.p.tcp_flags.0 & LAST.0 != 0 || !segment::long_enough(len) {
            return None;
        }
        Some(Merge {
            first: *first,
            payload_len: len as u32,
            next_seq: be32(head, usize::from(first.p.l4_off) + 4).wrapping_add(len as u32),
            segments: 1,
            last: TcpFlags(0),
            verified: false,
            closed: false,
        })
    }

    /// The first segment.
    #[inline]
    pub const fn first(&self) -> &Segment {
        &self.first
    }

    /// How many segments there are so far.
    #[inline]
    pub const fn segments(&self) -> u16 {
        self.segments
    }

    /// Whether no further segment can join: finish it now.
    #[inline]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets no further segment join: the caller has no room for one.
    #[inline]
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Takes the next segment into the merge that `first` (the first segment's bytes, unchanged but for payloads behind them)
    /// began. If it is taken, the caller appends its payload, [`headers`](Segment::headers) `..` [`frame_len`](Segment::frame_len)
    /// of its frame, to the first segment's.
    ///
    /// # Errors
    /// [`NoMerge`]; nothing is changed but that the merge may be closed.
    #[inline]
    pub fn push<A: Bytes, B: Bytes>(&mut self, first: &A, next: &B, segment: &Segment) -> Result<(), NoMerge> {
        let (a, b) = (&self.first.p, &segment.p);
        if a.addrs != b.addrs || a.l4 != b.l4 || self.first.outer.is_some() != segment.outer.is_some() {
            return Err(NoMerge::Unrelated);
        }
        let len = segment.payload();
        let follows = segment.mergeable
            && !self.closed
            && len <= self.first.payload()
            && self.first.headers() - self.first.l3() + self.payload_len as usize + len <= MAX_L3
            && be32(next.front(), usize::from(b.l4_off) + 4) == self.next_seq
            && b.tcp_flags.0 & TcpFlags::CWR.0 == 0
            && self.same_headers(first.front(), next.front(), segment);
        if !follows || !segment.verify(next) {
            return Err(NoMerge::Flush);
        }
        self.verified = self.verified || self.first.verify(first);
        self.closed |= !self.verified;
        if self.closed {
            return Err(NoMerge::Flush);
        }
        self.payload_len += len as u32;
        self.next_seq = self.next_seq.wrapping_add(len as u32);
        self.segments += 1;
        self.last = TcpFlags(b.tcp_flags.0 & LAST.0);
        self.closed = self.last.0 != 0 || len < self.first.payload();
        Ok(())
    }

    /// Turns the buffer of the first segment, to which the payloads were appended, into one GSO frame: lengths, PSH and FIN,
    /// checksums and metadata (`csum` partial, `gso`, `tunnel`). The outer UDP checksum stays zero where it was. A merge of one
    /// segment stays as it was. `false`: the buffer is not as long as the merge; unchanged.
    pub fn finish<B: PacketBuf + ?Sized>(&self, buf: &mut B) -> bool {
        if self.segments == 1 {
            return true;
        }
        let p = &self.first.p;
        let (l3, l4, headers) = (usize::from(p.l3_off), usize::from(p.l4_off), self.first.headers());
        let payload = self.payload_len as usize;
        if buf.len() != headers + payload || buf.head().len() < headers {
            return false;
        }
        let head = buf.head_mut();
        if let Some(outer) = &self.first.outer {
            outer.write_lengths(head, 0, self.first.datagram(payload));
        }
        write_ip(&mut head[l3..l4], p.addrs.is_v6(), headers - l3 + payload, 0);
        head[l4 + 13] |= self.last.0;
        let sum = fold(p.pseudo_sum(headers - l4 + payload));
        head[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        let size = self.first.payload() as u16;
        let meta = buf.meta_mut();
        meta.csum = Csum::Partial { start: p.l4_off, offset: 16 };
        meta.gso = if p.addrs.is_v6() { Gso::Tcp6 { size } } else { Gso::Tcp4 { size } };
        meta.tunnel = self.first.outer.map_or(0, |o| o.len() as u8);
        true
    }

    /// Whether the next frame's headers agree with the first's in all that a merge does not count up or recompute.
    #[inline]
    fn same_headers(&self, a: &[u8], b: &[u8], next: &Segment) -> bool {
        let (p, q) = (&self.first.p, &next.p);
        if (p.l3_off, p.l4_off, p.payload_off) != (q.l3_off, q.l4_off, q.payload_off)
            || self.first.outer != next.outer
            || self.first.vlan != next.vlan
        {
            return false;
        }
        let (l3, l4, end) = (usize::from(p.l3_off), usize::from(p.l4_off), usize::from(p.payload_off));
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        let outer = match &self.first.outer {
            // Ethernet; IP; ports; not the UDP length and checksum; VXLAN and inner Ethernet.
            Some(o) => {
                same(0, o.l3) && self.same_ip(a, b, o.l3, o.udp, o.v6) && same(o.udp, o.udp + 4) && same(o.udp + 8, l3)
            }
            None => same(0, l3),
        };
        outer
            && self.same_ip(a, b, l3, l4, p.addrs.is_v6())
            && same(l4, l4 + 4)
            && same(l4 + 8, l4 + 13)
            && (a[l4 + 13] ^ b[l4 + 13]) & !(LAST.0 | TcpFlags::CWR.0) == 0
            && same(l4 + 14, l4 + 16)
            && same(l4 + 18, l4 + TCP_LEN)
            && same(l4 + TCP_LEN, end)
    }

    /// The same of IP headers without options: IPv4 but for length, identification and checksum, IPv6 but for the length.
    #[inline]
    fn same_ip(&self, a: &[u8], b: &[u8], l3: usize, end: usize, v6: bool) -> bool {
        let same = |from: usize, to: usize| a[from..to] == b[from..to];
        if v6 {
            return same(l3, l3 + 4) && same(l3 + 6, end);
        }
        let df = a[l3 + 6] & 0x40 != 0;
        same(l3, l3 + 2)
            && same(l3 + 6, l3 + 10)
            && same(l3 + 12, end)
            && (df || be16(b, l3 + 4) == be16(a, l3 + 4).wrapping_add(self.segments))
    }
}

#[cfg(test)]
mod tests;
