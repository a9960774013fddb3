//! Translation against packets built anew from their fields.

mod errors;

use proptest::prelude::*;

use super::*;
use crate::buf::{Gso, Meta};
use crate::checksum::complete;
use crate::parse::parse;
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, any_bytes, frame_spec, mutated, segmented};

/// The fields after translation: the oracle, together with [`FrameSpec::build`].
fn translated(s: &FrameSpec, new: &Tuple) -> FrameSpec {
    let mut s = s.clone();
    match (&mut s.ip, new.src, new.dst) {
        (Ip::V4 { src, dst, .. }, IpAddr::V4(a), IpAddr::V4(b)) => (*src, *dst) = (a, b),
        (Ip::V6 { src, dst, .. }, IpAddr::V6(a), IpAddr::V6(b)) => (*src, *dst) = (a, b),
        _ => panic!("two families"),
    }
    let v6 = matches!(s.ip, Ip::V6 { .. });
    match &mut s.l4 {
        Transport::Tcp { sport, dport, .. } | Transport::Udp { sport, dport } | Transport::Sctp { sport, dport } => {
            (*sport, *dport) = (new.sport, new.dport);
        }
        Transport::Icmp { kind, rest, .. } if l4::is_echo(*kind, v6) => {
            rest[..2].copy_from_slice(&new.sport.to_be_bytes());
        }
        Transport::Icmp { .. } | Transport::Raw(_) => {}
    }
    s
}

/// The fields that translation changes, as they are.
fn tuple(s: &FrameSpec) -> Tuple {
    let (src, dst) = match s.ip {
        Ip::V4 { src, dst, .. } => (src.into(), dst.into()),
        Ip::V6 { src, dst, .. } => (src.into(), dst.into()),
    };
    let (sport, dport) = match s.l4 {
        Transport::Tcp { sport, dport, .. } | Transport::Udp { sport, dport } | Transport::Sctp { sport, dport } => {
            (sport, dport)
        }
        Transport::Icmp { rest: [a, b, ..], .. } => (u16::from_be_bytes([a, b]), u16::from_be_bytes([a, b])),
        Transport::Raw(_) => (0, 0),
    };
    Tuple { src, dst, sport, dport }
}

/// New addresses of the frame's family, and ports; now and then equal to the old.
fn with_tuple(s: FrameSpec) -> impl Strategy<Value = (FrameSpec, Tuple)> {
    let old = tuple(&s);
    let v6 = old.src.is_ipv6();
    let address = move || {
        any::<[u8; 16]>().prop_map(move |a| if v6 { IpAddr::from(a) } else { IpAddr::from([a[0], a[1], a[2], a[3]]) })
    };
    let port = |old: u16| prop_oneof![3 => any::<u16>(), 1 => Just(old), 1 => Just(0), 1 => Just(0xffff)];
    (
        prop_oneof![2 => address(), 1 => Just(old.src)],
        prop_oneof![2 => address(), 1 => Just(old.dst)],
        port(old.sport),
        port(old.dport),
    )
        .prop_map(move |(src, dst, sport, dport)| {
            let echo = matches!(s.l4, Transport::Icmp { .. });
            (s.clone(), Tuple { src, dst, sport, dport: if echo { sport } else { dport } })
        })
}

/// Any frame that can be translated, in a chain, with what it becomes.
fn translatable() -> impl Strategy<Value = (VecBuf, FrameSpec, Tuple)> {
    frame_spec()
        .prop_filter("segments left", |s| !routed(s))
        .prop_flat_map(with_tuple)
        .prop_flat_map(|(s, new)| (segmented(s.build(), s.headers_len()), Just(s), Just(new)))
}

/// A routing header with segments left.
fn routed(s: &FrameSpec) -> bool {
    matches!(&s.ip, Ip::V6 { extensions, .. } if extensions.iter().any(|(kind, b)| *kind == 43 && b[1] != 0))
}

fn place(buf: &VecBuf) -> Place {
    (&parse(buf.head(), buf.len()).expect("sound")).into()
}

/// The frame's first fragment with `first` bytes of its payload, or what is behind them.
fn fragment(s: &FrameSpec, first: usize, later: bool) -> Vec<u8> {
    let f = s.build();
    let (l2, l4) = (s.l2_len(), s.l2_len() + s.l3_header_len());
    let cut = l4 + first;
    let mut piece = if later { [&f[..l4], &f[cut..]].concat() } else { f[..cut].to_vec() };
    let field = if later { first as u16 / 8 } else { 0x2000 };
    let len = (piece.len() - l2) as u16;
    match &s.ip {
        Ip::V4 { .. } => {
            piece[l2 + 2..l2 + 4].copy_from_slice(&len.to_be_bytes());
            piece[l2 + 6..l2 + 8].copy_from_slice(&field.to_be_bytes());
            let Ok(mut ip) = crate::wire::Ipv4::new_header(&mut piece[l2..]) else { panic!("IPv4") };
            ip.fill_checksum();
        }
        Ip::V6 { .. } => {
            piece[l2 + 4..l2 + 6].copy_from_slice(&(len - 40).to_be_bytes());
            let word = if later { first as u16 } else { 1 };
            piece[l4 - 6..l4 - 4].copy_from_slice(&word.to_be_bytes());
        }
    }
    piece
}

/// Frames that are long enough to be cut, IPv6 with a fragment header last.
fn fragmentable() -> impl Strategy<Value = FrameSpec> {
    frame_spec().prop_filter("segments left", |s| !routed(s)).prop_map(|mut s| {
        if let Ip::V6 { extensions, .. } = &mut s.ip {
            extensions.retain(|(kind, _)| *kind != 44 && *kind != 51 && *kind != 60);
            extensions.push((44, vec![0, 0, 1, 2, 3, 4]));
        }
        s.payload.resize(s.payload.len() + 80, 7);
        s
    })
}

/// Makes a TCP, UDP or ICMPv6 checksum partial. `None`: the protocol has none.
fn partial(s: &FrameSpec) -> Option<VecBuf> {
    let offset = match (&s.l4, &s.ip) {
        (Transport::Tcp { .. }, _) => 16,
        (Transport::Udp { .. }, _) => 6,
        (Transport::Icmp { .. }, _) => 2,
        _ => return None,
    };
    let mut f = s.build();
    let start = s.l2_len() + s.l3_header_len();
    let field = start + offset;
    let pseudo = pseudo(s, f.len() - start);
    f[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    let csum = Csum::Partial { start: start as u16, offset: offset as u16 };
    Some(VecBuf::segmented(&f, s.headers_len(), &[s.headers_len() + 9]).with_meta(Meta { csum, ..Meta::default() }))
}

/// The sum over the pseudo-header by the book; ICMP over IPv4 has none.
fn pseudo(s: &FrameSpec, len: usize) -> u16 {
    let addresses = match (&s.ip, &s.l4) {
        (Ip::V4 { .. }, Transport::Icmp { .. }) => return 0,
        (Ip::V4 { src, dst, .. }, _) => [src.octets(), dst.octets()].concat(),
        (Ip::V6 { src, dst, .. }, _) => [src.octets(), dst.octets()].concat(),
    };
    crate::testing::naive_sum(&[&addresses[..], &(len as u32).to_be_bytes(), &[0, 0, 0, s.proto()]].concat())
}

proptest! {
    #[test]
    fn as_if_built_anew((buf, s, new) in translatable()) {
        let mut buf = buf;
        let at = place(&buf);
        prop_assert_eq!(translate(&mut buf, &at, &new), Ok(()));
        prop_assert_eq!(buf.bytes(), translated(&s, &new).build());
        // And back.
        prop_assert_eq!(translate(&mut buf, &at, &tuple(&s)), Ok(()));
        prop_assert_eq!(buf.bytes(), s.build());
    }

    #[test]
    fn first_fragments((s, new) in fragmentable().prop_flat_map(with_tuple)) {
        let mut buf = VecBuf::new(&fragment(&s, 64, false));
        let at = place(&buf);
        prop_assert_eq!(at.part, Part::First);
        let before = buf.clone();
        let ports = (tuple(&s).sport, tuple(&s).dport) != (new.sport, new.dport);
        if matches!(s.l4, Transport::Sctp { .. }) && ports {
            prop_assert_eq!(translate(&mut buf, &at, &new), Err(NatError::SctpFragment));
            prop_assert_eq!(buf, before);
        } else {
            prop_assert_eq!(translate(&mut buf, &at, &new), Ok(()));
            prop_assert_eq!(buf.bytes(), fragment(&translated(&s, &new), 64, false));
        }
    }

    #[test]
    fn later_fragments((s, new) in fragmentable().prop_flat_map(with_tuple)) {
        let mut buf = VecBuf::new(&fragment(&s, 64, true));
        let at = place(&buf);
        prop_assert_eq!(at.part, Part::Later);
        prop_assert_eq!(translate(&mut buf, &at, &new), Ok(()));
        prop_assert_eq!(buf.bytes(), fragment(&translated(&s, &new), 64, true));
    }

    #[test]
    fn partial_checksums((s, new) in frame_spec().prop_filter("routed", |s| !routed(s)).prop_flat_map(with_tuple)) {
        let Some(mut buf) = partial(&s) else { return Ok(()) };
        let at = place(&buf);
        let gso = Gso::Tcp4 { size: 100 };
        buf.meta_mut().gso = gso;
        let meta = *buf.meta();
        prop_assert_eq!(translate(&mut buf, &at, &new), Ok(()));
        prop_assert_eq!(*buf.meta(), meta);
        let want = partial(&translated(&s, &new)).expect("it had one before");
        // Zero and all ones are the same sum, and nobody reads it for anything else.
        let field = at.l4 + match s.l4 { Transport::Tcp { .. } => 16, Transport::Udp { .. } => 6, _ => 2 };
        let mut got = buf.bytes();
        let sum = u16::from_be_bytes([got[field], got[field + 1]]);
        let book = u16::from_be_bytes([want.bytes()[field], want.bytes()[field + 1]]);
        prop_assert_eq!(sum % 0xffff, book % 0xffff);
        got[field..field + 2].copy_from_slice(&book.to_be_bytes());
        prop_assert_eq!(got, want.bytes());
        prop_assert_eq!(complete(&mut buf), Ok(()));
        let p = parse(buf.head(), buf.len()).expect("sound");
        let plain = VecBuf::new(&buf.bytes());
        prop_assert_eq!(crate::parse::transport_ok(&plain, &p), crate::parse::Verdict::Good);
    }

    #[test]
    fn damage_stays_damage((buf, s, new) in translatable(), at: prop::sample::Index, flip in 1u8..255) {
        let mut bytes = buf.bytes();
        if s.payload.is_empty() || matches!(s.l4, Transport::Raw(_)) {
            return Ok(());
        }
        let hit = s.headers_len() + at.index(s.payload.len());
        bytes[hit] ^= flip;
        let mut buf = VecBuf::new(&bytes);
        let at = place(&buf);
        prop_assert_eq!(translate(&mut buf, &at, &new), Ok(()));
        let mut want = translated(&s, &new).build();
        want[hit] ^= flip;
        prop_assert_eq!(buf.bytes(), want);
    }

    #[test]
    fn no_udp_checksum_stays_none((s, new) in frame_spec().prop_filter("routed", |s| !routed(s)).prop_flat_map(with_tuple)) {
        let mut s = s;
        s.l4 = Transport::Udp { sport: 1, dport: 2 };
        let none = |s: &FrameSpec| {
            let mut f = s.build();
            let at = s.l2_len() + s.l3_header_len() + 6;
            f[at..at + 2].fill(0);
            f
        };
        let mut buf = VecBuf::new(&none(&s));
        let at = place(&buf);
        prop_assert_eq!(translate(&mut buf, &at, &new), Ok(()));
        prop_assert_eq!(buf.bytes(), none(&translated(&s, &new)));
    }

    #[test]
    fn any_bytes_are_an_answer_not_a_panic(
        f in prop_oneof![3 => mutated(), 1 => any_bytes()],
        (l3, l4, off) in (0usize..80, 0usize..140, 0u16..40),
        (proto, part, sound, six, is_partial) in any::<(u8, u8, bool, bool, bool)>(),
        ports: (u16, u16),
    ) {
        let mut buf = VecBuf::new(&f);
        let parts = [Part::Whole, Part::First, Part::Later];
        let at = match parse(&f, f.len()) {
            Ok(p) if sound => Place::from(&p),
            _ => Place { l3, l4, proto: [6, 17, 132, 1, 58, 136, proto][usize::from(proto) % 7], part: parts[usize::from(part) % 3] },
        };
        if is_partial {
            buf.meta_mut().csum = Csum::Partial { start: at.l4 as u16, offset: off };
        }
        let (src, dst) = if six { ([1; 16].into(), [2; 16].into()) } else { ([1; 4].into(), [2; 4].into()) };
        let new = Tuple { src, dst, sport: ports.0, dport: ports.1 };
        let before = buf.clone();
        for run in [translate::<VecBuf>, translate_error::<VecBuf>] {
            let mut buf = before.clone();
            let done = run(&mut buf, &at, &new);
            prop_assert_eq!(buf.len(), before.len());
            let (was, is) = (before.bytes(), buf.bytes());
            if done.is_err() {
                prop_assert_eq!(&was, &is);
            }
            // Nothing in front of the IP header is anybody's business here.
            prop_assert_eq!(&was[..at.l3.min(was.len())], &is[..at.l3.min(is.len())]);
        }
    }
}

fn udp4() -> FrameSpec {
    FrameSpec {
        dst_mac: crate::id::Mac([1; 6]),
        src_mac: crate::id::Mac([2; 6]),
        vlan: None,
        tos: 0,
        ttl: 64,
        ip: Ip::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), id: 1, df: true, options: Vec::new() },
        l4: Transport::Udp { sport: 1000, dport: 53 },
        payload: vec![1, 2, 3, 4],
    }
}

fn v4(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Tuple {
    Tuple { src: src.into(), dst: dst.into(), sport, dport }
}

#[test]
fn a_udp_checksum_never_becomes_none() {
    // Search ports until the sum comes to zero.
    let s = udp4();
    let found = (0..=u16::MAX).find(|port| {
        let mut buf = VecBuf::new(&s.build());
        let at = place(&buf);
        translate(&mut buf, &at, &v4([10, 0, 0, 1], [10, 0, 0, 9], *port, 53)).expect("translated");
        buf.bytes()[40..42] == [0xff, 0xff]
    });
    assert!(found.is_some(), "one port in 65,536 gives zero, written as all ones");
}

#[test]
fn what_cannot_be_translated_is_refused_by_name() {
    let s = udp4();
    let fresh = || VecBuf::new(&s.build());
    let at = place(&fresh());
    let new = v4([1; 4], [2; 4], 3, 4);
    let six = Tuple { src: [1; 16].into(), dst: [2; 16].into(), ..new };
    assert_eq!(translate(&mut fresh(), &at, &six), Err(NatError::Family));
    assert_eq!(translate(&mut fresh(), &at, &Tuple { dst: [2; 16].into(), ..new }), Err(NatError::Family));
    assert_eq!(translate(&mut fresh(), &Place { l4: 200, ..at }, &new), Err(NatError::Headers));
    let mut elsewhere = fresh();
    elsewhere.meta_mut().csum = Csum::Partial { start: 33, offset: 6 };
    assert_eq!(translate(&mut elsewhere, &at, &new), Err(NatError::Partial));
    elsewhere.meta_mut().csum = Csum::Partial { start: 34, offset: 16 };
    assert_eq!(translate(&mut elsewhere, &at, &new), Err(NatError::Partial));
    assert_eq!(translate_error(&mut fresh(), &at, &new), Err(NatError::Quote));
    let mut routed = s.clone();
    let body = vec![4, 1, 0, 0, 0, 0];
    routed.ip = Ip::V6 { src: 1.into(), dst: 2.into(), label: 0, extensions: vec![(43, body)] };
    let mut buf = VecBuf::new(&routed.build());
    let at = place(&buf);
    assert_eq!(translate(&mut buf, &at, &six), Err(NatError::Routed));
    assert_eq!(buf.bytes(), routed.build());
}

#[test]
fn an_sctp_packet_without_a_crc_stays_without() {
    let mut s = udp4();
    s.l4 = Transport::Sctp { sport: 1, dport: 2 };
    let mut f = s.build();
    f[42..46].fill(0);
    let mut buf = VecBuf::new(&f);
    let at = place(&buf);
    translate(&mut buf, &at, &v4([1; 4], [2; 4], 3, 4)).expect("translated");
    assert_eq!(buf.bytes()[34..46], [0, 3, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0]);
}
