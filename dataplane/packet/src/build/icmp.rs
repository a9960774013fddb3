//! ICMP errors: when one may be sent, and what it says.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Ipv4Fields, Ipv6Fields, TTL, ethernet, ipv4, ipv6};
use crate::buf::{Csum, PacketBuf};
use crate::checksum::{fold, pseudo_v6, sum};
use crate::id::Mac;
use crate::parse::{Addrs, Kind, L4, Parsed};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::icmp::ICMP_LEN;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::{EtherType, Icmpv4Type, Icmpv6Type, proto};

/// Longest IPv4 packet with an ICMP error (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_V4: usize = 576;
/// Longest IPv6 packet with an ICMPv6 error (RFC 4443 section 2.4 c).
pub const MAX_ERROR_V6: usize = 1280;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const CONTROL: u8 = 0xc0;

/// What a router has to complain about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// TTL or hop limit exceeded in transit.
    TimeExceeded,
    /// The packet does not fit the next hop's MTU: "fragmentation needed" or "packet too big".
    TooBig {
        /// That MTU, layer 3 bytes.
        mtu: u16,
    },
    /// No route, or nobody there: with the protocol's own code (RFC 792, RFC 4443 section 3.1).
    Unreachable {
        /// Code.
        code: u8,
    },
}

impl IcmpError {
    fn v4(self) -> (Icmpv4Type, u8, u32) {
        match self {
            IcmpError::TimeExceeded => (Icmpv4Type::TIME_EXCEEDED, 0, 0),
            IcmpError::TooBig { mtu } => (Icmpv4Type::UNREACHABLE, 4, u32::from(mtu)),
            IcmpError::Unreachable { code } => (Icmpv4Type::UNREACHABLE, code, 0),
        }
    }

    fn v6(self) -> (Icmpv6Type, u8, u32) {
        match self {
            IcmpError::TimeExceeded => (Icmpv6Type::TIME_EXCEEDED, 0, 0),
            // A node must cope with 1280 (RFC 8200 section 5), and RFC 8201 has less ignored.
            IcmpError::TooBig { mtu } => (Icmpv6Type::TOO_BIG, 0, u32::from(mtu).max(1280)),
            IcmpError::Unreachable { code } => (Icmpv6Type::UNREACHABLE, code, 0),
        }
    }
}

/// Whether an error about this packet may be sent at all (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e). How often is the
/// caller's to limit.
pub fn may_answer(p: &Parsed, error: IcmpError) -> bool {
    if p.fragment.is_some_and(|f| !f.is_first()) || matches!(p.l4, L4::IcmpError { .. }) || p.kind == Kind::Nd {
        return false;
    }
    match p.addrs {
        Addrs::V4 { src, dst } => unicast_v4(src) && !dst.is_multicast() && !dst.is_broadcast(),
        Addrs::V6 { src, dst } => {
            let to_group = dst.is_multicast() && !matches!(error, IcmpError::TooBig { .. });
            !to_group && !src.is_unspecified() && !src.is_multicast() && !src.is_loopback()
        }
        Addrs::None => false,
    }
}

fn unicast_v4(a: Ipv4Addr) -> bool {
    let first = a.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// Who answers, and how the answer finds its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The answering router's address, of the packet's family.
    pub from: IpAddr,
    /// Ethernet source of the answer.
    pub src_mac: Mac,
    /// Ethernet destination of the answer.
    pub dst_mac: Mac,
}

/// Appends to `out`, an empty buffer, a frame that tells the sender of `original` (parsed as `p`) about `error`. It quotes as
/// much as fits. `false`: the families differ, `out` has no room, or the packet is not IP; drop both.
///
/// Whether an error may be sent is for [`may_answer`] to say.
pub fn icmp_error<O, B>(out: &mut O, original: &B, p: &Parsed, error: IcmpError, answer: &Answer) -> bool
where
    O: PacketBuf + ?Sized,
    B: PacketBuf + ?Sized,
{
    let mut frame = [0; ETHERNET_LEN + MAX_ERROR_V6];
    let len = match (answer.from, p.addrs) {
        (IpAddr::V4(from), Addrs::V4 { src, .. }) => error_v4(&mut frame, original, p, error, from, src),
        (IpAddr::V6(from), Addrs::V6 { src, .. }) => error_v6(&mut frame, original, p, error, from, src),
        _ => None,
    };
    let Some(len) = len else { return false };
    let ethertype = if p.addrs.is_v6() { EtherType::IPV6 } else { EtherType::IPV4 };
    frame[..ETHERNET_LEN].copy_from_slice(&ethernet(answer.dst_mac, answer.src_mac, ethertype));
    let done = out.append(&frame[..len]);
    if done {
        out.meta_mut().csum = Csum::Good;
    }
    done
}

fn error_v4<B: PacketBuf + ?Sized>(
    frame: &mut [u8],
    original: &B,
    p: &Parsed,
    error: IcmpError,
    src: Ipv4Addr,
    dst: Ipv4Addr,
) -> Option<usize> {
    const ICMP: usize = ETHERNET_LEN + IPV4_LEN;
    let (Icmpv4Type(kind), code, rest) = error.v4();
    let quoted = (p.l3_len as usize).min(MAX_ERROR_V4 - IPV4_LEN - ICMP_LEN);
    let end = message(frame, ICMP, original, p, quoted, (kind, code, rest))?;
    let checksum = !fold(sum(&frame[ICMP..end]));
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&checksum.to_be_bytes());
    let fields = Ipv4Fields {
        src,
        dst,
        proto: proto::ICMP,
        tos: CONTROL,
        ttl: TTL,
        id: 0,
        // Atomic, so that the identification need not be unique (RFC 6864 section 4.1).
        df: true,
        payload_len: ICMP_LEN + quoted,
    };
    frame[ETHERNET_LEN..ICMP].copy_from_slice(&ipv4(&fields));
    Some(end)
}

fn error_v6<B: PacketBuf + ?Sized>(
    frame: &mut [u8],
    original: &B,
    p: &Parsed,
    error: IcmpError,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) -> Option<usize> {
    const ICMP: usize = ETHERNET_LEN + IPV6_LEN;
    let (Icmpv6Type(kind), code, rest) = error.v6();
    let quoted = (p.l3_len as usize).min(MAX_ERROR_V6 - IPV6_LEN - ICMP_LEN);
    let end = message(frame, ICMP, original, p, quoted, (kind, code, rest))?;
    let len = ICMP_LEN + quoted;
    let pseudo = pseudo_v6(src, dst, proto::ICMPV6, len as u32);
    let checksum = !fold(pseudo + sum(&frame[ICMP..end]));
    frame[ICMP + 2..ICMP + 4].copy_from_slice(&checksum.to_be_bytes());
    let fields = Ipv6Fields { src, dst, proto: proto::ICMPV6, tos: CONTROL, ttl: TTL, label: 0, payload_len: len };
    frame[ETHERNET_LEN..ICMP].copy_from_slice(&ipv6(&fields));
    Some(end)
}

/// Writes the ICMP header and quotation at `at`; the checksum stays zero. Returns where it ends.
fn message<B: PacketBuf + ?Sized>(
    frame: &mut [u8],
    at: usize,
    original: &B,
    p: &Parsed,
    quoted: usize,
    (kind, code, rest): (u8, u8, u32),
) -> Option<usize> {
    frame[at] = kind;
    frame[at + 1] = code;
    frame[at + 4..at + ICMP_LEN].copy_from_slice(&rest.to_be_bytes());
    let end = at + ICMP_LEN + quoted;
    original.copy_to(usize::from(p.l3_off), &mut frame[at + ICMP_LEN..end]).then_some(end)
}
