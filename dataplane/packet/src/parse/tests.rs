//! The parser against frames made field by field, and against damaged ones.

use proptest::prelude::*;

use super::*;
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, any_bytes, frame_spec, mutated, segmented};

fn udp4(payload: usize) -> FrameSpec {
    FrameSpec {
        dst_mac: crate::id::Mac::GATEWAY,
        src_mac: crate::id::Mac([2, 0, 0, 0, 0, 9]),
        vlan: None,
        tos: 0,
        ttl: 64,
        ip: Ip::V4 { src: [10, 1, 0, 2].into(), dst: [10, 2, 0, 3].into(), id: 7, df: false, options: Vec::new() },
        l4: Transport::Udp { sport: 1000, dport: 53 },
        payload: vec![0x5a; payload],
    }
}

/// Rewrites the fragment field and mends the header checksum.
fn as_fragment(frame: &mut [u8], word: u16) {
    let mut ip = crate::wire::Ipv4::new_header(&mut frame[14..]).expect("sound");
    ip.set_flags_offset(word);
    ip.fill_checksum();
}

fn error(frame: &[u8]) -> Option<ParseError> {
    parse(frame, frame.len()).err()
}

fn expect(s: &FrameSpec) -> Parsed {
    let v6 = matches!(s.ip, Ip::V6 { .. });
    let l4_off = s.l2_len() + s.l3_header_len();
    let (l4, tcp_flags, nd) = match s.l4 {
        Transport::Tcp { sport, dport, flags, .. } => (L4::Ports { src: sport, dst: dport }, flags, false),
        Transport::Udp { sport, dport } | Transport::Sctp { sport, dport } => {
            (L4::Ports { src: sport, dst: dport }, 0, false)
        }
        Transport::Icmp { kind, code, rest } => {
            let id = u16::from_be_bytes([rest[0], rest[1]]);
            let l4 = match (v6, kind) {
                (false, 8) | (true, 128) => L4::Echo { request: true, id },
                (false, 0) | (true, 129) => L4::Echo { request: false, id },
                (false, 3 | 4 | 5 | 11 | 12) | (true, 0..=127) => L4::IcmpError { kind, code },
                _ => L4::Icmp { kind, code },
            };
            (l4, 0, v6 && (133..=137).contains(&kind))
        }
        Transport::Raw(_) => (L4::None, 0, false),
    };
    let (addrs, df) = match s.ip {
        Ip::V4 { src, dst, df, .. } => (Addrs::V4 { src, dst }, df),
        Ip::V6 { src, dst, .. } => (Addrs::V6 { src, dst }, true),
    };
    Parsed {
        kind: if nd {
            Kind::Nd
        } else if v6 {
            Kind::Ipv6
        } else {
            Kind::Ipv4
        },
        ethertype: if v6 { EtherType::IPV6 } else { EtherType::IPV4 },
        vlan: s.vlan,
        l3_off: s.l2_len() as u16,
        l4_off: l4_off as u16,
        payload_off: (l4_off + s.l4_header_len()) as u16,
        l3_len: (s.l3_header_len() + s.l4_header_len() + s.payload.len()) as u32,
        proto: s.proto(),
        tos: s.tos,
        ttl: s.ttl,
        df,
        tcp_flags: TcpFlags(tcp_flags),
        fragment: None,
        addrs,
        l4,
    }
}

#[test]
fn truncation_at_every_length_is_an_error() {
    let frame = udp4(30).build();
    for len in 0..frame.len() {
        assert!(error(&frame[..len]).is_some(), "{len}");
    }
    assert_eq!(error(&frame[..20]), Some(ParseError::Ipv4Truncated));
    assert_eq!(error(&frame[..50]), Some(ParseError::Ipv4ExceedsFrame));
    // The same bytes as the first segment of the whole packet.
    assert_eq!(parse(&frame[..20], frame.len()).err(), Some(ParseError::HeadersSplit));
    assert_eq!(parse(&frame[..40], frame.len()).err(), Some(ParseError::HeadersSplit));
    assert!(parse(&frame[..42], frame.len()).is_ok());
}

#[test]
fn header_faults_have_names() {
    let ok = udp4(30).build();
    let with = |at: usize, v: u8| {
        let mut f = ok.clone();
        f[at] = v;
        error(&f)
    };
    assert_eq!(with(14, 0x65), Some(ParseError::Ipv4BadVersion));
    assert_eq!(with(14, 0x44), Some(ParseError::Ipv4BadHeaderLength));
    assert_eq!(with(22, 63), Some(ParseError::Ipv4BadChecksum));
    assert_eq!(with(38, 0xff), Some(ParseError::UdpBadLength));
    assert_eq!(with(39, 7), Some(ParseError::UdpBadLength));
    let mut f = ok.clone();
    f[16..18].copy_from_slice(&19u16.to_be_bytes());
    crate::wire::Ipv4::new_header(&mut f[14..]).expect("sound").fill_checksum();
    assert_eq!(error(&f), Some(ParseError::Ipv4BadTotalLength));
    let mut s = udp4(0);
    s.ip = Ip::V4 { src: [1; 4].into(), dst: [2; 4].into(), id: 0, df: true, options: vec![131, 3, 4] };
    assert_eq!(error(&s.build()), Some(ParseError::Ipv4SourceRoute));
    s.ip = Ip::V4 { src: [1; 4].into(), dst: [2; 4].into(), id: 0, df: true, options: vec![7, 99] };
    assert_eq!(error(&s.build()), Some(ParseError::Ipv4BadOption));
}

#[test]
fn ipv4_fragments() {
    let mut first = udp4(32).build();
    first[38..40].copy_from_slice(&2000u16.to_be_bytes()); // the datagram's length, not the fragment's
    as_fragment(&mut first, 0x2000);
    let p = parse(&first, first.len()).expect("sound");
    assert_eq!(p.fragment, Some(Fragment { offset: 0, more: true, id: 7, data_off: 34 }));
    assert_eq!(p.l4, L4::Ports { src: 1000, dst: 53 });
    as_fragment(&mut first, 0x2003);
    let p = parse(&first, first.len()).expect("sound");
    assert_eq!((p.fragment.map(|f| f.offset), p.l4), (Some(24), L4::None));
    as_fragment(&mut first, 0x1fff);
    assert_eq!(error(&first), Some(ParseError::FragmentMalformed));
    let mut odd = udp4(33).build();
    as_fragment(&mut odd, 0x2000);
    assert_eq!(error(&odd), Some(ParseError::FragmentMalformed));
    as_fragment(&mut odd, 0x0003);
    assert!(error(&odd).is_none());
}

#[test]
fn tiny_tcp_fragments() {
    let mut s = udp4(0);
    s.l4 = Transport::Raw(proto::TCP);
    s.payload = vec![0; 16];
    let mut f = s.build();
    as_fragment(&mut f, 0x2000);
    assert_eq!(error(&f), Some(ParseError::FragmentSplitsTransport));
    as_fragment(&mut f, 0x2001);
    assert_eq!(error(&f), Some(ParseError::FragmentMalformed));
}

#[test]
fn ipv6_first_fragment_must_hold_the_chain() {
    let mut s = udp4(8);
    let frag = (proto::FRAGMENT, vec![0, 1, 0, 0, 0, 5]);
    s.ip = Ip::V6 { src: 1.into(), dst: 2.into(), label: 0, extensions: vec![frag.clone()] };
    let f = s.build();
    let p = parse(&f, f.len()).expect("sound");
    assert_eq!(p.fragment, Some(Fragment { offset: 0, more: true, id: 5, data_off: 62 }));
    // Destination options are announced behind the fragment header and cut short: RFC 7112.
    s.ip = Ip::V6 { src: 1.into(), dst: 2.into(), label: 0, extensions: vec![frag] };
    s.l4 = Transport::Raw(proto::DEST_OPTS);
    s.payload = vec![proto::UDP, 9, 0, 0, 0, 0, 0, 0];
    assert_eq!(error(&s.build()), Some(ParseError::FragmentSplitsTransport));
}

#[test]
fn padding_is_not_the_packet() {
    let mut f = udp4(4).build();
    let len = f.len();
    f.resize(60, 0xee);
    let p = parse(&f, f.len()).expect("sound");
    assert_eq!((p.frame_len(), p.payload_len()), (len, 4));
    assert_eq!(transport_ok(&VecBuf::new(&f), &p), Verdict::Good);
}

#[test]
fn tags() {
    let mut s = udp4(4);
    s.vlan = Some(0x2064);
    let f = s.build();
    assert_eq!(parse(&f, f.len()).expect("sound"), expect(&s));
    assert_eq!(error(&f[..16]), Some(ParseError::VlanTruncated));
    let deep = [&f[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2], &f[12..]].concat();
    assert_eq!(error(&deep), Some(ParseError::VlanTooDeep));
    let two = [&f[..12], &[0x88, 0xa8, 0, 1], &f[12..]].concat();
    assert_eq!(parse(&two, two.len()).expect("sound").vlan, Some(1));
}

#[test]
fn icmp_error_quotes_a_packet() {
    let quoted = udp4(0).build()[14..].to_vec();
    let mut s = udp4(0);
    s.l4 = Transport::Icmp { kind: 3, code: 4, rest: [0, 0, 5, 0x78] };
    s.payload = quoted[..28].to_vec();
    let f = s.build();
    let p = parse(&f, f.len()).expect("sound");
    let e = p.embedded(&f).expect("quotes enough");
    assert_eq!((e.l3_off, e.l4_off, e.proto, e.l4), (42, 62, 17, L4::Ports { src: 1000, dst: 53 }));
    assert_eq!(e.addrs, Addrs::V4 { src: [10, 1, 0, 2].into(), dst: [10, 2, 0, 3].into() });
    s.payload.truncate(27);
    let f = s.build();
    assert_eq!(parse(&f, f.len()).expect("sound").embedded(&f), Err(ParseError::IcmpQuoteMalformed));
}

#[test]
fn arp_addresses() {
    let mut f = [0u8; 60];
    f[12..14].copy_from_slice(&0x0806u16.to_be_bytes());
    f[14..20].copy_from_slice(&Arp::<&[u8]>::PREAMBLE);
    f[28..32].copy_from_slice(&[10, 0, 0, 9]);
    f[38..42].copy_from_slice(&[169, 254, 1, 1]);
    let p = parse(&f, 60).expect("sound");
    assert_eq!((p.kind, p.frame_len()), (Kind::Arp, 42));
    assert_eq!(p.addrs, Addrs::V4 { src: [10, 0, 0, 9].into(), dst: [169, 254, 1, 1].into() });
    assert_eq!(error(&f[..41]), Some(ParseError::ArpMalformed));
}

proptest! {
    #[test]
    fn every_field_is_found(s in frame_spec(), pad in 0usize..20) {
        let mut f = s.build();
        f.extend(vec![0xdd; pad]);
        prop_assert_eq!(parse(&f, f.len()), Ok(expect(&s)));
    }

    #[test]
    fn head_is_enough(s in frame_spec()) {
        let f = s.build();
        prop_assert_eq!(parse(&f[..s.headers_len()], f.len()), Ok(expect(&s)));
    }

    #[test]
    fn checksums_are_told_apart(
        (buf, s) in frame_spec().prop_flat_map(|s| (segmented(s.build(), s.headers_len()), Just(s))),
        at: prop::sample::Index,
        flip in 1u8..=255,
    ) {
        let p = parse(buf.head(), buf.len()).expect("sound");
        let none = matches!(s.l4, Transport::Sctp { .. } | Transport::Raw(_));
        prop_assert_eq!(transport_ok(&buf, &p), if none { Verdict::None } else { Verdict::Good });
        let mut bytes = buf.bytes();
        let at = usize::from(p.payload_off) + at.index(s.payload.len().max(1));
        // 0x00 and 0xff halves can be the same number in ones' complement, but only as whole words.
        if !none && at < bytes.len() {
            bytes[at] ^= flip;
            prop_assert_eq!(transport_ok(&VecBuf::new(&bytes), &p), Verdict::Bad);
        }
    }

    #[test]
    fn any_frame_is_an_answer_not_a_panic(f in prop_oneof![mutated(), any_bytes()], split: prop::sample::Index) {
        let head = &f[..split.index(f.len() + 1)];
        for (head, len) in [(&f[..], f.len()), (head, f.len())] {
            if let Ok(p) = parse(head, len) {
                prop_assert!(p.l3_off <= p.l4_off && p.l4_off <= p.payload_off);
                prop_assert!(usize::from(p.payload_off) <= head.len() || p.kind == Kind::Arp || p.l4 == L4::None);
                prop_assert!(usize::from(p.payload_off) <= p.frame_len() && p.frame_len() <= len);
                let _ = p.embedded(head);
                let _ = transport_ok(&VecBuf::new(&f), &p);
            }
        }
    }
}

use crate::buf::PacketBuf;
