//! Builders against the parser and frames made by the book.

use core::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::buf::PacketBuf;
use crate::parse::{Addrs, Kind, L4, Verdict, parse, transport_ok};
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, frame_spec, segmented};
use crate::wire::proto;

const ME: Mac = Mac::GATEWAY;
const POD: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn answer(v6: bool) -> Answer {
    let from = if v6 { "fd00::1".parse().expect("an address") } else { [169, 254, 1, 1].into() };
    Answer { from, src_mac: ME, dst_mac: POD }
}

fn spec(ip: Ip, l4: Transport, payload: Vec<u8>) -> FrameSpec {
    FrameSpec { dst_mac: ME, src_mac: POD, vlan: None, tos: 0, ttl: 255, ip, l4, payload }
}

fn v6(src: Ipv6Addr, dst: Ipv6Addr) -> Ip {
    Ip::V6 { src, dst, label: 0, extensions: Vec::new() }
}

proptest! {
    #[test]
    fn errors_quote_what_fits(
        (buf, s) in frame_spec().prop_flat_map(|s| (segmented(s.build(), s.headers_len()), Just(s))),
        more in 0usize..1500,
    ) {
        let mut buf = buf;
        if more > 200 {
            // Longer packets, to see the quotation cut.
            let mut s = s.clone();
            s.payload.resize(more, 7);
            buf = VecBuf::new(&s.build());
        }
        let p = parse(buf.head(), buf.len()).expect("sound");
        let v6 = p.addrs.is_v6();
        let mut out = VecBuf::empty();
        let error = IcmpError::TooBig { mtu: 1400 };
        prop_assert!(icmp_error(&mut out, &buf, &p, error, &answer(v6)));
        let e = parse(out.head(), out.len()).expect("sound");
        prop_assert_eq!(transport_ok(&VecBuf::new(&out.bytes()), &e), Verdict::Good);
        prop_assert_eq!(e.addrs.dst(), p.addrs.src());
        prop_assert_eq!(e.addrs.src(), Some(answer(v6).from));
        let (most, l4) = if v6 {
            (MAX_ERROR_V6, L4::IcmpError { kind: 2, code: 0 })
        } else {
            (MAX_ERROR_V4, L4::IcmpError { kind: 3, code: 4 })
        };
        prop_assert_eq!(e.l4, l4);
        prop_assert_eq!(e.payload_len(), (p.l3_len as usize).min(most - if v6 { 48 } else { 28 }));
        prop_assert_eq!(&out.head()[usize::from(e.payload_off)..], &buf.bytes()[usize::from(p.l3_off)..][..e.payload_len()]);
        prop_assert_eq!(out.head()[usize::from(e.l4_off) + 4..][..4].to_vec(), [0, 0, 5, 0x78]);
        // An error about this error is never sent.
        prop_assert!(!may_answer(&e, error));
        // What is quoted is found again, unless it is an error itself.
        if !matches!(p.l4, L4::IcmpError { .. }) && p.l4_len() >= 8 {
            prop_assert_eq!(e.embedded(out.head()).map(|q| (q.addrs, q.l4)), Ok((p.addrs, p.l4)));
        }
    }

    #[test]
    fn ttl_and_tos_keep_the_checksum(s in frame_spec(), tos: u8) {
        let mut f = s.build();
        let mut p = parse(&f, f.len()).expect("sound");
        let moved = decrement_ttl(&mut f, &mut p);
        prop_assert_eq!(moved, s.ttl > 1);
        set_tos(&mut f, &mut p, tos);
        prop_assert_eq!(parse(&f, f.len()), Ok(p));
        prop_assert_eq!((p.ttl, p.tos), (s.ttl - u8::from(moved), tos));
    }

    #[test]
    fn echo_is_reflected(id: [u8; 4], payload in prop::collection::vec(any::<u8>(), 0..90), six: bool) {
        let ip = if six { v6(1.into(), 2.into()) } else {
            Ip::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), id: 5, df: false, options: vec![] }
        };
        let kind = if six { 128 } else { 8 };
        let mut buf = VecBuf::new(&spec(ip, Transport::Icmp { kind, code: 0, rest: id }, payload).build());
        let p = parse(buf.head(), buf.len()).expect("sound");
        let body = buf.bytes()[usize::from(p.payload_off)..].to_vec();
        prop_assert!(echo_reply(&mut buf, &p));
        let r = parse(buf.head(), buf.len()).expect("sound");
        prop_assert_eq!(r.l4, L4::Echo { request: false, id: u16::from_be_bytes([id[0], id[1]]) });
        prop_assert_eq!((r.addrs.src(), r.addrs.dst(), r.ttl), (p.addrs.dst(), p.addrs.src(), TTL));
        prop_assert_eq!(transport_ok(&buf, &r), Verdict::Good);
        prop_assert_eq!(&buf.head()[..12], &[POD.0, ME.0].concat()[..]);
        prop_assert_eq!(&buf.bytes()[usize::from(r.payload_off)..], &body[..]);
        prop_assert!(!echo_reply(&mut buf, &r));
    }
}

#[test]
fn no_errors_about_what_must_not_be_answered() {
    let err = IcmpError::TimeExceeded;
    let udp = Transport::Udp { sport: 1, dport: 2 };
    let v4 =
        |src: [u8; 4], dst: [u8; 4]| Ip::V4 { src: src.into(), dst: dst.into(), id: 0, df: false, options: vec![] };
    let may = |ip| {
        let f = spec(ip, udp.clone(), vec![]).build();
        may_answer(&parse(&f, f.len()).expect("sound"), err)
    };
    assert!(may(v4([10, 0, 0, 1], [10, 0, 0, 2])));
    assert!(!may(v4([0; 4], [10, 0, 0, 2])) && !may(v4([127, 0, 0, 1], [10, 0, 0, 2])));
    assert!(!may(v4([224, 0, 0, 1], [10, 0, 0, 2])) && !may(v4([10, 0, 0, 1], [224, 0, 0, 2])));
    assert!(!may(v4([10, 0, 0, 1], [255; 4])));
    let group: Ipv6Addr = "ff02::5".parse().expect("an address");
    assert!(may(v6(5.into(), 6.into())) && !may(v6(0.into(), 6.into())) && !may(v6(5.into(), group)));
    let f = spec(v6(5.into(), group), udp, vec![]).build();
    assert!(may_answer(&parse(&f, f.len()).expect("sound"), IcmpError::TooBig { mtu: 1300 }));
}

#[test]
fn arp_request_becomes_reply() {
    let mut f = [&ethernet(Mac::BROADCAST, POD, EtherType::ARP)[..], &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
    f.extend([&POD.0[..], &[10, 0, 0, 9], &[0; 6], &[169, 254, 1, 1]].concat());
    let p = parse(&f, f.len()).expect("sound");
    assert!(arp_reply(&mut f, &p, ME));
    let want = [&ethernet(POD, ME, EtherType::ARP)[..], &[0, 1, 8, 0, 6, 4, 0, 2], &ME.0, &[169, 254, 1, 1]].concat();
    assert_eq!(f, [&want[..], &POD.0, &[10, 0, 0, 9]].concat());
    assert!(!arp_reply(&mut f, &p, ME));
}

fn solicitation(src: Ipv6Addr, target: Ipv6Addr, option: bool) -> VecBuf {
    let l4 = Transport::Icmp { kind: 135, code: 0, rest: [0; 4] };
    let mut payload = target.octets().to_vec();
    if option {
        payload.extend([1, 1]);
        payload.extend(POD.0);
    }
    VecBuf::new(&spec(v6(src, crate::wire::ndp::solicited_node(target)), l4, payload).build())
}

#[test]
fn neighbour_solicitation_becomes_advertisement() {
    let gateway: Ipv6Addr = "fe80::1".parse().expect("an address");
    let pod: Ipv6Addr = "fe80::9".parse().expect("an address");
    for (src, option) in [(pod, true), (pod, false), (Ipv6Addr::UNSPECIFIED, false)] {
        let mut buf = solicitation(src, gateway, option);
        let p = parse(buf.head(), buf.len()).expect("sound");
        assert_eq!(p.kind, Kind::Nd);
        assert!(neighbour_advertisement(&mut buf, &p, ME));
        let fresh = VecBuf::new(&buf.bytes());
        let a = parse(fresh.head(), fresh.len()).expect("sound");
        assert_eq!((a.kind, a.ttl, a.l4, fresh.len()), (Kind::Nd, 255, L4::Icmp { kind: 136, code: 0 }, 86));
        assert_eq!(transport_ok(&fresh, &a), Verdict::Good);
        let (dst, mac, flags) = if src.is_unspecified() {
            ("ff02::1".parse().expect("an address"), Mac([0x33, 0x33, 0, 0, 0, 1]), 0xa000_0000)
        } else {
            (src, POD, 0xe000_0000)
        };
        assert_eq!(a.addrs, Addrs::V6 { src: gateway, dst });
        assert_eq!(fresh.head()[..12], [mac.0, ME.0].concat());
        let na = crate::wire::ndp::Neighbour::new(&fresh.head()[54..]).expect("sound");
        assert_eq!((na.target(), na.flags(), na.is_solicitation()), (gateway, flags, false));
        assert_eq!(na.option_bytes(), [&[2, 1][..], &ME.0].concat());
        assert!(!neighbour_advertisement(&mut buf, &a, ME));
    }
}

#[test]
fn a_solicitation_that_crossed_a_router_is_refused() {
    let mut buf = solicitation(5.into(), 6.into(), true);
    buf.head_mut()[21] = 254;
    let p = parse(buf.head(), buf.len()).expect("sound");
    assert!(!neighbour_advertisement(&mut buf, &p, ME));
}

#[test]
fn headers_are_those_of_the_book() {
    let mut s = spec(
        Ip::V4 { src: [10, 1, 0, 2].into(), dst: [10, 2, 0, 3].into(), id: 7, df: true, options: vec![] },
        Transport::Udp { sport: 1000, dport: 4789 },
        vec![1, 2, 3],
    );
    (s.tos, s.ttl) = (0xb8, 64);
    let f = s.build();
    let fields = Ipv4Fields {
        src: [10, 1, 0, 2].into(),
        dst: [10, 2, 0, 3].into(),
        proto: proto::UDP,
        tos: 0xb8,
        ttl: 64,
        id: 7,
        df: true,
        payload_len: 11,
    };
    assert_eq!(f[..14], ethernet(ME, POD, EtherType::IPV4));
    assert_eq!(f[14..34], ipv4(&fields));
    assert_eq!(f[34..42], udp(1000, 4789, 3, u16::from_be_bytes([f[40], f[41]])));
    s.ip = Ip::V6 { src: 1.into(), dst: 2.into(), label: 0xabcde, extensions: vec![] };
    let fields = Ipv6Fields {
        src: 1.into(),
        dst: 2.into(),
        proto: proto::UDP,
        tos: 0xb8,
        ttl: 64,
        label: 0xabcde,
        payload_len: 11,
    };
    assert_eq!(s.build()[14..54], ipv6(&fields));
}
