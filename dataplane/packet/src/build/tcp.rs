//! Resets for TCP segments that nobody takes.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{Ipv4Fields, Ipv6Fields, TTL, ethernet, ipv4, ipv6};
use crate::buf::{Csum, PacketBuf};
use crate::checksum::{fold, pseudo_v4, pseudo_v6, sum};
use crate::id::Mac;
use crate::parse::{Addrs, L4, Parsed};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::tcp::TCP_LEN;
use crate::wire::{EtherType, Tcp, TcpFlags, proto};

/// Whether a segment may be answered with a reset at all: a whole TCP segment between unicast addresses that is no reset
/// itself (RFC 9293 section 3.10.7.1; RFC 1122 section 4.2.3.10). How often is the caller's to limit, and whether its
/// checksum is right the caller's to know.
pub fn may_reset(p: &Parsed) -> bool {
    let unicast = match p.addrs {
        Addrs::V4 { src, dst } => {
            let host = |a: Ipv4Addr| a.octets()[0] != 0 && a.octets()[0] < 224;
            host(src) && host(dst)
        }
        Addrs::V6 { src, dst } => {
            let host = |a: Ipv6Addr| !a.is_multicast() && !a.is_unspecified();
            host(src) && host(dst)
        }
        Addrs::None => false,
    };
    p.proto == proto::TCP && p.fragment.is_none() && unicast && !p.tcp_flags.has(TcpFlags::RST)
}

/// Appends to `out`, an empty buffer, a frame with the reset that a host without such a connection answers `original`
/// (parsed as `p`) with (RFC 9293 section 3.10.7.1), from the address and port that it was sent to: the acknowledged
/// number as the sequence number, or zero and the acknowledgement of all that the segment occupies. `false`: it is no TCP
/// segment, or `out` has no room; drop both.
///
/// Whether a reset may be sent is for [`may_reset`] to say.
#[must_use]
pub fn tcp_reset<O, B>(out: &mut O, original: &B, p: &Parsed, src_mac: Mac, dst_mac: Mac) -> bool
where
    O: PacketBuf + ?Sized,
    B: PacketBuf + ?Sized,
{
    let Some(Ok(segment)) = original.head().get(p.l4_off.into()..).map(Tcp::new) else { return false };
    let (L4::Ports { src: to, dst: from }, proto::TCP) = (p.l4, p.proto) else { return false };
    let (seq, ack, flags) = if p.tcp_flags.has(TcpFlags::ACK) {
        (segment.ack(), 0, TcpFlags::RST)
    } else {
        let occupied = p.payload_len() as u32 + u32::from(p.tcp_flags.has(TcpFlags::SYN));
        let occupied = occupied + u32::from(p.tcp_flags.has(TcpFlags::FIN));
        (0, segment.seq().wrapping_add(occupied), TcpFlags::RST.with(TcpFlags::ACK))
    };
    let mut h = [0; TCP_LEN];
    h[..2].copy_from_slice(&from.to_be_bytes());
    h[2..4].copy_from_slice(&to.to_be_bytes());
    h[4..8].copy_from_slice(&seq.to_be_bytes());
    h[8..12].copy_from_slice(&ack.to_be_bytes());
    h[12] = (TCP_LEN / 4) as u8 * 16;
    h[13] = flags.0;
    let pseudo = match p.addrs {
        Addrs::V4 { src, dst } => pseudo_v4(dst, src, proto::TCP, TCP_LEN as u32),
        Addrs::V6 { src, dst } => pseudo_v6(dst, src, proto::TCP, TCP_LEN as u32),
        Addrs::None => return false,
    };
    let (proto, tos, ttl, payload_len) = (proto::TCP, 0, TTL, TCP_LEN);
    let checksum = !fold(pseudo + sum(&h));
    h[16..18].copy_from_slice(&checksum.to_be_bytes());
    let done = match p.addrs {
        // Atomic, so that the identification need not be unique (RFC 6864 section 4.1).
        Addrs::V4 { src, dst } => {
            let fields = Ipv4Fields { src: dst, dst: src, proto, tos, ttl, id: 0, df: true, payload_len };
            let mut frame = [0; ETHERNET_LEN + IPV4_LEN + TCP_LEN];
            frame[..ETHERNET_LEN].copy_from_slice(&ethernet(dst_mac, src_mac, EtherType::IPV4));
            frame[ETHERNET_LEN..][..IPV4_LEN].copy_from_slice(&ipv4(&fields));
            frame[ETHERNET_LEN + IPV4_LEN..].copy_from_slice(&h);
            out.append(&frame)
        }
        Addrs::V6 { src, dst } => {
            let fields = Ipv6Fields { src: dst, dst: src, proto, tos, ttl, label: 0, payload_len };
            let mut frame = [0; ETHERNET_LEN + IPV6_LEN + TCP_LEN];
            frame[..ETHERNET_LEN].copy_from_slice(&ethernet(dst_mac, src_mac, EtherType::IPV6));
            frame[ETHERNET_LEN..][..IPV6_LEN].copy_from_slice(&ipv6(&fields));
            frame[ETHERNET_LEN + IPV6_LEN..].copy_from_slice(&h);
            out.append(&frame)
        }
        Addrs::None => false,
    };
    if done {
        out.meta_mut().csum = Csum::Good;
    }
    done
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parse::{Verdict, parse, transport_ok};
    use crate::testing::{FrameSpec, Ip, Transport, VecBuf, frame_spec};

    /// The reset by the book: its fields, from RFC 9293 section 3.10.7.1.
    fn book(s: &FrameSpec) -> Option<FrameSpec> {
        let Transport::Tcp { sport, dport, seq, ack, flags, .. } = s.l4 else { return None };
        let (fin, syn, rst, acks) = (flags & 1, flags >> 1 & 1, flags & 4 != 0, flags & 16 != 0);
        if rst {
            return None;
        }
        let len = s.payload.len() as u32 + u32::from(fin + syn);
        let (seq, ack, flags) = if acks { (ack, 0, 4) } else { (0, seq.wrapping_add(len), 20) };
        let ip = match &s.ip {
            Ip::V4 { src, dst, .. } => Ip::V4 { src: *dst, dst: *src, id: 0, df: true, options: Vec::new() },
            Ip::V6 { src, dst, .. } => Ip::V6 { src: *dst, dst: *src, label: 0, extensions: Vec::new() },
        };
        let l4 = Transport::Tcp { sport: dport, dport: sport, seq, ack, flags, window: 0, options: Vec::new() };
        let (dst_mac, src_mac) = (s.src_mac, Mac::GATEWAY);
        Some(FrameSpec { dst_mac, src_mac, vlan: None, tos: 0, ttl: 64, ip, l4, payload: Vec::new() })
    }

    proptest! {
        #[test]
        fn resets_are_those_of_the_book(s in frame_spec()) {
            let buf = VecBuf::new(&s.build());
            let p = parse(buf.head(), buf.len()).expect("sound");
            let mut out = VecBuf::empty();
            let is_tcp = matches!(s.l4, Transport::Tcp { .. });
            prop_assert_eq!(tcp_reset(&mut out, &buf, &p, Mac::GATEWAY, s.src_mac), is_tcp);
            if let Some(want) = book(&s) {
                prop_assert_eq!(out.bytes(), want.build());
                // No reset about this reset.
                let answer = parse(out.head(), out.len()).expect("sound");
                prop_assert!(!may_reset(&answer));
                prop_assert_eq!(transport_ok(&VecBuf::new(&out.bytes()), &answer), Verdict::Good);
            } else {
                prop_assert!(!may_reset(&p));
            }
        }
    }

    #[test]
    fn only_whole_segments_between_hosts() {
        let tcp = Transport::Tcp { sport: 1, dport: 2, seq: 3, ack: 4, flags: 2, window: 5, options: Vec::new() };
        let may = |src: [u8; 4], dst: [u8; 4], fragment: bool| {
            let ip = Ip::V4 { src: src.into(), dst: dst.into(), id: 0, df: false, options: Vec::new() };
            let (dst_mac, src_mac, l4, payload) = (Mac::GATEWAY, Mac([2; 6]), tcp.clone(), vec![0; 12]);
            let mut f = FrameSpec { dst_mac, src_mac, vlan: None, tos: 0, ttl: 1, ip, l4, payload }.build();
            if fragment {
                f[20] = 0x20;
                let Ok(mut ip) = crate::wire::Ipv4::new_header(&mut f[14..]) else { panic!("IPv4") };
                ip.fill_checksum();
            }
            may_reset(&parse(&f, f.len()).expect("sound"))
        };
        assert!(may([10, 0, 0, 1], [10, 0, 0, 2], false));
        assert!(!may([10, 0, 0, 1], [10, 0, 0, 2], true));
        assert!(!may([0; 4], [10, 0, 0, 2], false) && !may([224, 0, 0, 1], [10, 0, 0, 2], false));
        assert!(!may([10, 0, 0, 1], [255; 4], false) && !may([10, 0, 0, 1], [239, 0, 0, 1], false));
    }
}
