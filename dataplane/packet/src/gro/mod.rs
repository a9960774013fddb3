//! Merging consecutive TCP segments of a flow into one GSO frame: the inverse of [`gso`](crate::gso).
//!
//! The rules are those of Linux (`tcp_gro_receive`, `inet_gro_receive`), so that cutting the merged frame again gives the
//! segments back: equal but for what counts up, contiguous, all of one size but for a shorter last one. A push ends a
//! merge. IPv4 identifications must count up unless DF is set, when they mean nothing (RFC 6864 section 4.1).

use crate::buf::{Csum, Gso, Meta, PacketBuf};
use crate::checksum::{fold, pseudo_v4, pseudo_v6, sum};
use crate::parse::{Addrs, Parsed};
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::tcp::{TCP_LEN, TcpFlags};
use crate::wire::{be16, be32, proto};

/// Longest layer 3 packet that a merge may come to.
pub const MAX_L3: usize = 65_535;

/// Why a segment does not continue a merge. The merge so far is complete and can be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoMerge {
    /// Another flow, or not a segment that can be merged at all: nothing is known of the order between the two.
    Unrelated,
    /// Of the same flow, but it must come after the merge as a packet of its own.
    Flush,
}

/// A merge in progress: what is known of it beside the first segment's bytes, which the caller keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    size: u16,
    payload_len: u32,
    next_seq: u32,
    next_id: u16,
    segments: u16,
    push: bool,
    closed: bool,
}

/// Whether a packet can be part of a merge: whole, unencapsulated, verified TCP with payload, without IP options or extension
/// headers, with no control bits but ACK and PSH, its headers in `head`.
#[inline]
pub fn mergeable(head: &[u8], p: &Parsed, meta: &Meta) -> bool {
    let ip_len = if p.addrs.is_v6() { IPV6_LEN } else { IPV4_LEN };
    p.proto == proto::TCP
        && p.tcp_flags.without(TcpFlags::PSH) == TcpFlags::ACK
        && meta.csum == Csum::Good
        && meta.gso == Gso::None
        && meta.tunnel == 0
        && p.fragment.is_none()
        && p.addrs != Addrs::None
        && usize::from(p.l4_off - p.l3_off) == ip_len
        && p.payload_len() > 0
        && usize::from(p.payload_off) <= head.len()
}

impl Merge {
    /// Starts with a first segment. `None`: it cannot be part of a merge, or is pushed and so would end it at once.
    #[inline]
    pub fn start(head: &[u8], p: &Parsed, meta: &Meta) -> Option<Merge> {
        if !mergeable(head, p, meta) || p.tcp_flags.has(TcpFlags::PSH) {
            return None;
        }
        let len = p.payload_len();
        Some(Merge {
            size: len as u16,
            payload_len: len as u32,
            next_seq: be32(head, usize::from(p.l4_off) + 4).wrapping_add(len as u32),
            next_id: be16(head, usize::from(p.l3_off) + 4).wrapping_add(1),
            segments: 1,
            push: false,
            closed: false,
        })
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

    /// Takes the next segment into the merge that `first` (its head, headers and metadata) began. If it is taken, the caller
    /// appends the segment's payload, `payload_off .. frame_len` without padding, to the first segment's buffer.
    ///
    /// # Errors
    /// [`NoMerge`]; nothing is changed.
    #[inline]
    pub fn push(
        &mut self,
        (head, p, meta): (&[u8], &Parsed, &Meta),
        (next_head, next, next_meta): (&[u8], &Parsed, &Meta),
    ) -> Result<(), NoMerge> {
        if p.addrs != next.addrs || p.l4 != next.l4 || p.proto != next.proto || meta.vlan != next_meta.vlan {
            return Err(NoMerge::Unrelated);
        }
        let len = next.payload_len();
        let seq_off = usize::from(p.l4_off) + 4;
        let total = p.payload_off as usize - p.l3_off as usize + self.payload_len as usize + len;
        // Beyond the first line offsets are known to be equal, and within both heads.
        let fits = mergeable(next_head, next, next_meta)
            && !self.closed
            && same_layout(p, next)
            && len <= usize::from(self.size)
            && total <= MAX_L3
            && be32(next_head, seq_off) == self.next_seq
            && same_headers(head, next_head, p)
            && (p.addrs.is_v6() || p.df || be16(next_head, usize::from(p.l3_off) + 4) == self.next_id);
        if !fits {
            return Err(NoMerge::Flush);
        }
        self.payload_len += len as u32;
        self.next_seq = self.next_seq.wrapping_add(len as u32);
        self.next_id = self.next_id.wrapping_add(1);
        self.segments += 1;
        self.push = next.tcp_flags.has(TcpFlags::PSH);
        self.closed = self.push || len < usize::from(self.size);
        Ok(())
    }

    /// Turns the buffer of the first segment, to which the payloads were appended, into one GSO frame: lengths, PSH, checksum
    /// (partial) and metadata; `p` becomes true for it. A merge of one segment stays as it was. `false`: the buffer is
    /// not that of `p` or not as long as the merge; unchanged, to be dropped.
    pub fn finish<B: PacketBuf + ?Sized>(&self, buf: &mut B, p: &mut Parsed) -> bool {
        if self.segments == 1 {
            return true;
        }
        let (l3, l4) = (usize::from(p.l3_off), usize::from(p.l4_off));
        let l3_len = usize::from(p.payload_off) - l3 + self.payload_len as usize;
        if buf.len() != l3 + l3_len || buf.head().len() < usize::from(p.payload_off) {
            return false;
        }
        let head = buf.head_mut();
        let l4_len = (l3 + l3_len - l4) as u32;
        let (pseudo, gso) = match p.addrs {
            Addrs::V4 { src, dst } => {
                let ip = &mut head[l3..l4];
                ip[2..4].copy_from_slice(&(l3_len as u16).to_be_bytes());
                ip[10..12].fill(0);
                let checksum = !fold(sum(ip));
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                (pseudo_v4(src, dst, proto::TCP, l4_len), Gso::Tcp4 { size: self.size })
            }
            Addrs::V6 { src, dst } => {
                head[l3 + 4..l3 + 6].copy_from_slice(&((l3_len - IPV6_LEN) as u16).to_be_bytes());
                (pseudo_v6(src, dst, proto::TCP, l4_len), Gso::Tcp6 { size: self.size })
            }
            Addrs::None => return false,
        };
        let tcp = &mut head[l4..];
        if self.push {
            tcp[13] |= TcpFlags::PSH.0;
            p.tcp_flags = p.tcp_flags.with(TcpFlags::PSH);
        }
        tcp[16..18].copy_from_slice(&fold(pseudo).to_be_bytes());
        p.l3_len = l3_len as u32;
        let meta = buf.meta_mut();
        meta.csum = Csum::Partial { start: p.l4_off, offset: 16 };
        meta.gso = gso;
        true
    }
}

#[inline]
fn same_layout(a: &Parsed, b: &Parsed) -> bool {
    (a.l3_off, a.l4_off, a.payload_off, a.tos, a.ttl, a.df) == (b.l3_off, b.l4_off, b.payload_off, b.tos, b.ttl, b.df)
}

/// Whether two heads of one layout agree in all that a merge does not count up or recompute: Ethernet; IPv4 but for length,
/// identification and checksum, or IPv6 but for the length; TCP but for sequence number, PSH and checksum.
#[inline]
fn same_headers(a: &[u8], b: &[u8], p: &Parsed) -> bool {
    let (l3, l4, end) = (usize::from(p.l3_off), usize::from(p.l4_off), usize::from(p.payload_off));
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let network = if p.addrs.is_v6() {
        same(l3, l3 + 4) && same(l3 + 6, l4)
    } else {
        same(l3, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4)
    };
    same(0, l3)
        && network
        && same(l4, l4 + 4)
        && same(l4 + 8, l4 + 13)
        && (a[l4 + 13] ^ b[l4 + 13]) & !TcpFlags::PSH.0 == 0
        && same(l4 + 14, l4 + 16)
        && same(l4 + 18, l4 + TCP_LEN)
        && same(l4 + TCP_LEN, end)
}

#[cfg(test)]
mod tests;
