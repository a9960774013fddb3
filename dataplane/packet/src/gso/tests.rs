//! The segmenter against one that builds every segment anew from its fields.

use proptest::prelude::*;

use super::*;
use crate::buf::Meta;
use crate::checksum::{complete, pseudo_v4, pseudo_v6};
use crate::id::{Mac, Vni};
use crate::parse::{Verdict, parse, transport_ok};
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, gso_spec, mutated, segmented, segments};
use crate::wire::vxlan;

/// The naive segmenter: changes the fields of the description and builds each segment by the book.
fn naive(spec: &FrameSpec, size: usize) -> Vec<FrameSpec> {
    let chunks: Vec<_> = spec.payload.chunks(size).collect();
    let last = chunks.len() - 1;
    let cut = |(i, chunk): (usize, &&[u8])| {
        let mut s = spec.clone();
        s.payload = chunk.to_vec();
        if let Ip::V4 { id, .. } = &mut s.ip {
            *id = id.wrapping_add(i as u16);
        }
        if let Transport::Tcp { seq, flags, .. } = &mut s.l4 {
            *seq = seq.wrapping_add((i * size) as u32);
            *flags &= if i == 0 { 0xff } else { 0x7f };
            *flags &= if i == last { 0xff } else { 0xf6 };
        }
        s
    };
    chunks.iter().enumerate().map(cut).collect()
}

/// What makes a described frame one that segmentation accepts.
fn acceptable(mut s: FrameSpec) -> FrameSpec {
    if let Transport::Tcp { flags, .. } = &mut s.l4 {
        *flags &= !(TcpFlags::SYN.0 | TcpFlags::RST.0);
    }
    if let Ip::V6 { extensions, .. } = &mut s.ip {
        extensions.retain(|(kind, _)| *kind != proto::FRAGMENT);
    }
    s
}

fn gso_of(s: &FrameSpec, size: u16) -> Gso {
    match (&s.l4, &s.ip) {
        (Transport::Udp { .. }, _) => Gso::Udp { size },
        (_, Ip::V4 { .. }) => Gso::Tcp4 { size },
        (_, Ip::V6 { .. }) => Gso::Tcp6 { size },
    }
}

/// As a pod's kernel hands it over: one frame, the checksum field holding the pseudo-header's sum.
fn frame(s: &FrameSpec, size: u16, cuts: &[usize]) -> VecBuf {
    let mut f = s.build();
    let start = s.l2_len() + s.l3_header_len();
    let offset = if s.proto() == proto::TCP { 16 } else { 6 };
    let len = (f.len() - start) as u32;
    let pseudo = match &s.ip {
        Ip::V4 { src, dst, .. } => pseudo_v4(*src, *dst, s.proto(), len),
        Ip::V6 { src, dst, .. } => pseudo_v6(*src, *dst, s.proto(), len),
    };
    f[start + offset..start + offset + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    let meta = Meta {
        csum: Csum::Partial { start: start as u16, offset: offset as u16 },
        gso: gso_of(s, size),
        ..Meta::default()
    };
    VecBuf::segmented(&f, s.headers_len(), cuts).with_meta(meta)
}

/// A VXLAN packet by the book around a frame.
fn tunnelled(inner: Vec<u8>, six: bool, id: u16) -> FrameSpec {
    let ip = if six {
        Ip::V6 { src: 21.into(), dst: 22.into(), label: 0x12345, extensions: vec![] }
    } else {
        Ip::V4 { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into(), id, df: true, options: vec![] }
    };
    let vni = Vni::try_from(77).expect("fits");
    FrameSpec {
        dst_mac: Mac([6; 6]),
        src_mac: Mac([7; 6]),
        vlan: None,
        tos: 2,
        ttl: 64,
        ip,
        l4: Transport::Udp { sport: 50_000, dport: 4789 },
        payload: [&vxlan::header(vni)[..], &inner].concat(),
    }
}

fn any_spec() -> impl Strategy<Value = FrameSpec> {
    prop_oneof![2 => gso_spec(false), 1 => gso_spec(true)].prop_map(acceptable)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn as_naive(s in any_spec(), size in 4u16..3000, cuts in prop::collection::vec(0usize..6000, 0..4)) {
        let buf = frame(&s, size, &cuts);
        let want: Vec<_> = naive(&s, size.into()).iter().map(FrameSpec::build).collect();
        prop_assert_eq!(&segments(&buf), &want);
        let p = parse(buf.head(), buf.len()).expect("sound");
        prop_assert_eq!(wire_l3_len(&p, buf.meta().gso), want[0].len() - s.l2_len());
        for w in want {
            let p = parse(&w, w.len()).expect("sound");
            prop_assert_eq!(transport_ok(&VecBuf::new(&w), &p), Verdict::Good);
        }
    }

    #[test]
    fn tunnelled_as_naive(s in any_spec(), size in 100u16..3000, six: bool, id: u16, checksum: bool) {
        let mut buf = frame(&s, size, &[300]);
        let mut outer = tunnelled(Vec::new(), six, id).build();
        let udp = outer.len() - 16;
        outer[udp + 6..udp + 8].copy_from_slice(&u16::from(checksum).to_be_bytes());
        // Lengths are not known when the headers are prepended.
        let len = if six { 14 + 4..14 + 6 } else { 14 + 2..14 + 4 };
        outer[len].fill(0);
        buf.prepend(outer.len()).expect("there is room")[..outer.len()].copy_from_slice(&outer);
        buf.meta_mut().shift(outer.len() as i32);
        buf.meta_mut().tunnel = outer.len() as u8;
        for (i, (got, inner)) in segments(&buf).iter().zip(naive(&s, size.into())).enumerate() {
            let mut want = tunnelled(inner.build(), six, id.wrapping_add(i as u16)).build();
            if !checksum {
                want[udp + 6..udp + 8].fill(0);
            }
            prop_assert_eq!(got, &want);
        }
    }

    #[test]
    fn completing_is_segmenting_into_one(s in any_spec(), cuts in prop::collection::vec(0usize..6000, 0..4)) {
        let mut buf = frame(&s, u16::MAX, &cuts);
        let want = s.build();
        prop_assert_eq!(&segments(&buf), std::slice::from_ref(&want));
        complete(&mut buf).expect("the place is in the head");
        let at = s.l2_len() + s.l3_header_len() + 16;
        let mut got = buf.bytes();
        // TCP's zero is written in its other form.
        if s.proto() == proto::TCP && want[at..at + 2] == [0, 0] && got[at..at + 2] == [0xff, 0xff] {
            got[at..at + 2].fill(0);
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn no_panic_on_any_frame(
        buf in mutated().prop_flat_map(|f| segmented(f, 0)), start in 0u16..200, kind in 0u8..3, size in 0u16..100,
        tunnel in prop_oneof![Just(0u8), any::<u8>(), Just(50)], good: bool,
    ) {
        let gso = [Gso::Tcp4 { size }, Gso::Tcp6 { size }, Gso::Udp { size }][usize::from(kind)];
        let csum = if good { Csum::Good } else { Csum::Partial { start, offset: 16 } };
        let buf = buf.with_meta(Meta { gso, csum, tunnel, ..Meta::default() });
        if let Ok(s) = Segmenter::new(&buf) {
            let mut header = [0; MAX_HEADERS];
            let total: usize = (0..s.segments())
                .map(|i| s.segment(&buf, i, &mut header).expect("within").payload_len)
                .sum();
            prop_assert_eq!(total, s.parsed().payload_len());
            prop_assert_eq!(s.segment(&buf, s.segments(), &mut header), None);
            prop_assert_eq!(s.segment(&buf, 0, &mut header[..s.header_len() - 1]), None);
        }
        let mut buf = buf;
        let _ = complete(&mut buf);
    }
}

#[test]
fn what_is_refused() {
    let spec = |flags| FrameSpec {
        dst_mac: Mac::GATEWAY,
        src_mac: Mac::GATEWAY,
        vlan: None,
        tos: 0,
        ttl: 9,
        ip: Ip::V4 { src: [1; 4].into(), dst: [2; 4].into(), id: 0, df: true, options: vec![] },
        l4: Transport::Tcp { sport: 1, dport: 2, seq: 3, ack: 4, flags, window: 5, options: vec![] },
        payload: vec![1; 5000],
    };
    let with = |flags, size, change: fn(&mut Meta)| {
        let mut buf = frame(&spec(flags), size, &[]);
        change(buf.meta_mut());
        Segmenter::new(&buf).map(|s| s.segments())
    };
    assert_eq!(with(0x10, 1000, |_| ()), Ok(5));
    assert_eq!(with(0x10, 0, |_| ()), Err(GsoError::NotGso));
    assert_eq!(with(0x10, 1000, |m| m.gso = Gso::None), Err(GsoError::NotGso));
    assert_eq!(with(0x10, 1, |_| ()), Err(GsoError::TooMany));
    assert_eq!(with(0x12, 1000, |_| ()), Err(GsoError::Mismatch));
    assert_eq!(with(0x14, 1000, |_| ()), Err(GsoError::Mismatch));
    assert_eq!(with(0x10, 1000, |m| m.gso = Gso::Tcp6 { size: 9 }), Err(GsoError::Mismatch));
    assert_eq!(with(0x10, 1000, |m| m.gso = Gso::Udp { size: 9 }), Err(GsoError::Mismatch));
    assert_eq!(with(0x10, 1000, |m| m.csum = Csum::Unknown), Err(GsoError::Checksum));
    assert_eq!(with(0x10, 1000, |m| m.shift(2)), Err(GsoError::Checksum));
    assert_eq!(with(0x10, 1000, |m| m.tunnel = 50), Err(GsoError::BadTunnel));
    let mut cut_short = frame(&spec(0x10), 1000, &[]);
    cut_short.truncate(30);
    assert_eq!(Segmenter::new(&cut_short).err(), Some(GsoError::Parse(ParseError::Ipv4Truncated)));
}
