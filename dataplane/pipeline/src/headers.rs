//! The packet crate's parser in the pipeline's terms, and small rewrites of headers in place.

use std::net::IpAddr;

use podplane_packet::buf::{Gso, PacketBuf};
use podplane_packet::checksum;
use podplane_packet::parse::{self, Addrs};
use podplane_packet::wire::{EtherType, Ipv6, proto};

use crate::drop::DropReason;
use crate::world::{Frag, Ip, L4, Quoted};

pub(crate) use proto::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// ICMP types as numbers.
pub(crate) mod icmp4 {
    use podplane_packet::wire::Icmpv4Type as T;
    pub(crate) const ECHO_REPLY: u8 = T::ECHO_REPLY.0;
    pub(crate) const UNREACHABLE: u8 = T::UNREACHABLE.0;
    pub(crate) const REDIRECT: u8 = T::REDIRECT.0;
    pub(crate) const ECHO_REQUEST: u8 = T::ECHO_REQUEST.0;
}

/// ICMPv6 types as numbers.
pub(crate) mod icmp6 {
    use podplane_packet::wire::Icmpv6Type as T;
    pub(crate) const TOO_BIG: u8 = T::TOO_BIG.0;
    pub(crate) const ECHO_REQUEST: u8 = T::ECHO_REQUEST.0;
    pub(crate) const ECHO_REPLY: u8 = T::ECHO_REPLY.0;
    pub(crate) const ROUTER_ADVERTISEMENT: u8 = T::ROUTER_ADVERTISEMENT.0;
    pub(crate) const REDIRECT: u8 = T::REDIRECT.0;
}

/// Reads the headers of the packet whose IP header starts at `at`, behind an Ethernet header.
pub(crate) fn read<B: PacketBuf>(buf: &B, at: usize) -> Result<(Ip, L4), DropReason> {
    let (mut ip, mut l4) = (Ip::default(), L4::default());
    read_into(buf, at, &mut ip, &mut l4)?;
    Ok((ip, l4))
}

/// The same, written where it is wanted: copying costs as much as reading. On errors nothing is written.
pub(crate) fn read_into<B: PacketBuf>(buf: &B, at: usize, ip: &mut Ip, l4: &mut L4) -> Result<(), DropReason> {
    let head = buf.head();
    match head.get(at - 2..at) {
        Some(&[0x08, 0x00]) => take(head, parse::parse_ipv4(head, at, buf.len())?, ip, l4),
        Some(&[0x86, 0xdd]) => take(head, parse::parse_ipv6(head, at, buf.len())?, ip, l4),
        Some(_) => return Err(DropReason::EtherTypeUnsupported),
        None => return Err(DropReason::FrameTooShort),
    }
    if l4.error {
        l4.quoted = parsed(buf, at).and_then(|p| quoted(&p, head));
    }
    Ok(())
}

#[inline(always)]
fn take(head: &[u8], p: parse::Parsed, ip: &mut Ip, l4: &mut L4) {
    (ip.src, ip.dst) = match p.addrs {
        Addrs::V4 { src, dst } => (IpAddr::V4(src), IpAddr::V4(dst)),
        Addrs::V6 { src, dst } => (IpAddr::V6(src), IpAddr::V6(dst)),
        // Not for IP.
        Addrs::None => return,
    };
    (ip.proto, ip.tos, ip.ttl, ip.df) = (p.proto, p.tos, p.ttl, p.df);
    (ip.header, ip.len) = (p.l4_off - p.l3_off, p.l3_len);
    ip.frag = p.fragment.map(|f| Frag { id: f.id, offset: f.offset, more: f.more, data: f.data_off - p.l3_off });
    *l4 = L4 { header: p.payload_off - p.l4_off, ..L4::default() };
    match p.l4 {
        parse::L4::None => {}
        parse::L4::Ports { src, dst } => (l4.sport, l4.dport) = (src, dst),
        parse::L4::Echo { id, .. } => {
            (l4.sport, l4.dport) = (id, id);
            l4.icmp = head.get(usize::from(p.l4_off)..).and_then(|m| Some((*m.first()?, *m.get(1)?)));
        }
        parse::L4::Icmp { kind, code } => l4.icmp = Some((kind, code)),
        parse::L4::IcmpError { kind, code } => {
            l4.icmp = Some((kind, code));
            l4.error = true;
        }
    }
    if p.proto == TCP && l4.header != 0 {
        l4.tcp_flags = Some(p.tcp_flags.0);
    }
}

/// The parser's own view of a packet, for the packet crate's builders: read again, for they are off the usual way.
#[cold]
pub(crate) fn parsed<B: PacketBuf>(buf: &B, at: usize) -> Option<parse::Parsed> {
    let t = buf.head().get(at - 2..at)?;
    parse::parse_l3(buf.head(), EtherType(u16::from_be_bytes([t[0], t[1]])), None, at, buf.len()).ok()
}

/// The packet that an ICMP error is about.
#[cold]
fn quoted(p: &parse::Parsed, head: &[u8]) -> Option<Quoted> {
    let e = p.embedded(head).ok()?;
    let (sport, dport) = match e.l4 {
        parse::L4::Ports { src, dst } => (src, dst),
        parse::L4::Echo { id, .. } => (id, id),
        _ => (0, 0),
    };
    let (src, dst) = match e.addrs {
        Addrs::V4 { src, dst } => (IpAddr::V4(src), IpAddr::V4(dst)),
        Addrs::V6 { src, dst } => (IpAddr::V6(src), IpAddr::V6(dst)),
        Addrs::None => return None,
    };
    Some(Quoted {
        src,
        dst,
        proto: e.proto,
        sport,
        dport,
        later: matches!(e.l4, parse::L4::None) && has_ports(e.proto),
    })
}

const fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | SCTP | ICMP | ICMPV6)
}

/// Cuts off what follows the IP packet: Ethernet padding.
pub(crate) fn trim<B: PacketBuf>(buf: &mut B, at: usize, ip: &Ip) {
    let end = at + ip.len as usize;
    if buf.len() > end && buf.meta().gso == Gso::None {
        buf.truncate(end);
    }
}

/// Takes one off the TTL or hop limit of the IP header that `ip` starts with, and adjusts the checksum (RFC 1624).
#[inline]
pub(crate) fn decrement_ttl(ip: &mut [u8]) {
    if ip[0] >> 4 == 4 {
        let old = word(ip, 8);
        ip[8] -= 1;
        fix_v4(ip, old, word(ip, 8));
    } else {
        ip[7] -= 1;
    }
}

/// Sets TOS or traffic class.
pub(crate) fn set_tos(ip: &mut [u8], tos: u8) {
    if ip[0] >> 4 == 4 {
        let old = word(ip, 0);
        ip[1] = tos;
        fix_v4(ip, old, word(ip, 0));
    } else if let Ok(mut v6) = Ipv6::new_header(ip) {
        v6.set_traffic_class(tos);
    }
}

fn word(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn fix_v4(ip: &mut [u8], old: u16, new: u16) {
    let sum = checksum::update(word(ip, 10), u32::from(old), u32::from(new));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Recomputes the checksum of the IPv4 header of `len` bytes that `ip` starts with.
pub(crate) fn fill_v4_checksum(ip: &mut [u8], len: usize) {
    ip[10..12].fill(0);
    let sum = !checksum::fold(checksum::sum(&ip[..len]));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}
