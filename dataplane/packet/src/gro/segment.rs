//! What a merge asks of one frame.

use super::MIN_SIZE;
use crate::buf::{Csum, Gso, Meta, PacketBuf};
use crate::gso::{Outer, behind};
use crate::parse::{Kind, L4, Parsed, parse, parse_at};
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::tcp::TcpFlags;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::{VXLAN_LEN, VXLAN_PORT};
use crate::wire::{be16, proto};

/// Control bits that a segment of a merge may have.
const ALLOWED: TcpFlags =
    TcpFlags(TcpFlags::ACK.0 | TcpFlags::PSH.0 | TcpFlags::FIN.0 | TcpFlags::ECE.0 | TcpFlags::CWR.0);

/// A frame's bytes as far as merging reads them: a buffer, or a part of a bigger one.
pub trait Bytes {
    /// The first bytes of the frame, all headers among them.
    fn front(&self) -> &[u8];
    /// The folded [sum](crate::checksum::sum) over `len` bytes from `offset` on. `None`: the frame ends before.
    fn sum_of(&self, offset: usize, len: usize) -> Option<u16>;
}

impl<B: PacketBuf> Bytes for B {
    fn front(&self) -> &[u8] {
        self.head()
    }

    fn sum_of(&self, offset: usize, len: usize) -> Option<u16> {
        crate::checksum::sum_chain(self, offset, len)
    }
}

/// A frame that carries TCP, plain or behind VXLAN. Offsets are from the first byte of the frame, outer headers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub(super) outer: Option<Outer>,
    pub(super) p: Parsed,
    /// The tag that the device stripped.
    pub(super) vlan: Option<u16>,
    /// Its headers allow it to be part of a merge.
    pub(super) mergeable: bool,
    /// What is known of the (inner) TCP checksum and of the outer UDP checksum.
    tcp_good: bool,
    udp_good: bool,
}

impl Segment {
    /// Reads a received frame. `None`: no TCP, a fragment of it, or nothing that parses.
    #[inline]
    pub fn read<B: PacketBuf + ?Sized>(buf: &B) -> Option<Segment> {
        let (head, meta) = (buf.head(), buf.meta());
        let p = parse(head, buf.len()).ok()?;
        let L4::Ports { dst, .. } = p.l4 else { return None };
        match p.proto {
            _ if p.fragment.is_some() || meta.tunnel != 0 => None,
            proto::TCP => Some(Segment::plain(head, p, meta)),
            proto::UDP if dst == VXLAN_PORT && meta.gso == Gso::None => Segment::tunnelled(head, &p, meta),
            _ => None,
        }
    }

    fn plain(head: &[u8], p: Parsed, meta: &Meta) -> Segment {
        Segment {
            outer: None,
            p,
            vlan: meta.vlan,
            mergeable: meta.gso == Gso::None && mergeable(head, &p),
            tcp_good: is_good(meta.csum, p.l4_off, 16),
            udp_good: true,
        }
    }

    fn tunnelled(head: &[u8], p: &Parsed, meta: &Meta) -> Option<Segment> {
        let head = head.get(..head.len().min(p.frame_len()))?;
        let tunnel = usize::from(p.payload_off) + VXLAN_LEN;
        let udp_good = is_good(meta.csum, p.l4_off, 6);
        let s = Segment::behind(head, p.frame_len(), tunnel, udp_good, meta)?;
        let whole = usize::from(be16(head, usize::from(p.l4_off) + 4)) == p.l4_len();
        Some(Segment { mergeable: s.mergeable && whole, ..s })
    }

    /// Reads a frame of `len` bytes behind `tunnel` bytes of outer headers, whose own lengths are not looked at: those of
    /// one datagram of several that came behind one set of headers. `udp_good`: the outer checksum need not be verified.
    /// `None`: the outer headers are not VXLAN's, or no TCP is inside.
    #[inline]
    pub fn behind(head: &[u8], len: usize, tunnel: usize, udp_good: bool, meta: &Meta) -> Option<Segment> {
        let outer = Outer::new(head, tunnel).ok()?;
        let valid = head[tunnel - VXLAN_LEN] & 0x08 != 0;
        let p = parse_at(head, tunnel, len).ok()?;
        if !valid || p.proto != proto::TCP || p.fragment.is_some() || !matches!(p.l4, L4::Ports { .. }) {
            return None;
        }
        let plain_outer = outer.udp - outer.l3 == if outer.v6 { IPV6_LEN } else { IPV4_LEN };
        Some(Segment {
            outer: Some(outer),
            p,
            vlan: meta.vlan,
            mergeable: plain_outer && p.frame_len() == len && mergeable(head, &p),
            tcp_good: false,
            udp_good: udp_good || !outer.checksum,
        })
    }

    /// Bytes of headers, outer ones included: where the payload starts.
    #[inline]
    pub const fn headers(&self) -> usize {
        self.p.payload_off as usize
    }

    /// Bytes of TCP payload.
    #[inline]
    pub const fn payload(&self) -> usize {
        self.p.payload_len()
    }

    /// Bytes of the frame without padding.
    #[inline]
    pub const fn frame_len(&self) -> usize {
        self.p.frame_len()
    }

    /// The (inner) frame's headers.
    #[inline]
    pub const fn parsed(&self) -> &Parsed {
        &self.p
    }

    /// Whether the checksums hold, by what is known of them or by the bytes.
    pub(super) fn verify<B: Bytes>(&self, bytes: &B) -> bool {
        if self.tcp_good && self.udp_good {
            return true;
        }
        let head = bytes.front();
        let Some(payload) = bytes.sum_of(self.headers(), self.payload()) else { return false };
        let holds = |pseudo, from: usize| behind(pseudo, &head[from..self.headers()], payload) == 0xffff;
        let tcp = self.tcp_good || holds(self.p.pseudo_sum(self.p.l4_len()), usize::from(self.p.l4_off));
        let udp = |o: Outer| holds(o.pseudo_sum(head, self.frame_len() - o.udp), o.udp);
        tcp && (self.udp_good || self.outer.is_some_and(udp))
    }

    /// Where the outermost IP packet starts.
    pub(super) fn l3(&self) -> usize {
        self.outer.map_or(usize::from(self.p.l3_off), |o| o.l3)
    }

    /// Bytes behind the outer UDP header if `payload` were the payload's length.
    pub(super) fn datagram(&self, payload: usize) -> usize {
        self.outer.map_or(0, |o| self.headers() + payload - o.udp - UDP_LEN)
    }
}

/// Whether a checksum needs no verification: the device did it, or it is yet to be completed (the data never left a memory).
#[inline]
fn is_good(csum: Csum, l4: u16, at: u16) -> bool {
    match csum {
        Csum::Good => true,
        Csum::Partial { start, offset } => start == l4 && offset == at,
        Csum::Unknown => false,
    }
}

/// Whether a packet can be part of a merge by its headers: whole TCP with payload, without IP options or extension headers,
/// with no control bits but those allowed, its headers in `head`, and not so small that merging it would be an attack on the one
/// who cuts.
#[inline]
fn mergeable(head: &[u8], p: &Parsed) -> bool {
    let ip_len = match p.kind {
        Kind::Ipv4 => IPV4_LEN,
        Kind::Ipv6 => IPV6_LEN,
        _ => return false,
    };
    p.tcp_flags.has(TcpFlags::ACK)
        && p.tcp_flags.without(ALLOWED).0 == 0
        && usize::from(p.l4_off - p.l3_off) == ip_len
        && p.payload_len() > 0
        && usize::from(p.payload_off) <= head.len()
}

/// Whether a payload is long enough to be the segment size of a merge.
#[inline]
pub(super) const fn long_enough(payload: usize) -> bool {
    payload >= MIN_SIZE && payload <= u16::MAX as usize
}
