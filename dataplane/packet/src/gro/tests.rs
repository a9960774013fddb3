//! Cutting what was merged gives back what was there before.

use proptest::prelude::*;

use super::*;
use crate::buf::Meta;
use crate::checksum::{pseudo_v4, pseudo_v6, sum};
use crate::id::{Mac, Vni};
use crate::parse::{Addrs, parse};
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, gso_spec, mutated, segments};
use crate::wire::{proto, vxlan};

fn good(bytes: &[u8]) -> VecBuf {
    VecBuf::new(bytes).with_meta(Meta { csum: Csum::Good, ..Meta::default() })
}

/// The frame as a packet of which nothing is known.
fn unknown(bytes: &[u8]) -> VecBuf {
    VecBuf::new(bytes)
}

/// What a receive function does: merges neighbours as long as they merge.
fn merge(frames: &[Vec<u8>], packet: fn(&[u8]) -> VecBuf) -> Vec<VecBuf> {
    let mut out = Vec::new();
    let mut held: Option<(VecBuf, Merge)> = None;
    for f in frames {
        let mut next = packet(f);
        let segment = Segment::read(&next);
        if let (Some((buf, m)), Some(s)) = (&mut held, &segment)
            && m.push(buf, &next, s).is_ok()
        {
            buf.push_segment(&f[s.headers()..s.frame_len()]);
            continue;
        }
        out.extend(held.take().map(finished));
        match segment.and_then(|s| Merge::start(next.head(), &s)) {
            Some(m) => {
                next.truncate(m.first().frame_len());
                held = Some((next, m));
            }
            None => out.push(next),
        }
    }
    out.extend(held.map(finished));
    out
}

fn finished((mut buf, m): (VecBuf, Merge)) -> VecBuf {
    assert!(m.finish(&mut buf));
    assert!(parse(buf.head(), buf.len()).is_ok_and(|p| p.frame_len() == buf.len()));
    buf
}

/// A stream of segments of `size` bytes as a sender makes them.
fn stream(spec: &FrameSpec, size: usize) -> Vec<FrameSpec> {
    let count = spec.payload.chunks(size).count();
    let one = |(i, chunk): (usize, &[u8])| {
        let mut s = spec.clone();
        s.payload = chunk.to_vec();
        if let Ip::V4 { id, options, .. } = &mut s.ip {
            *id = id.wrapping_add(i as u16);
            options.clear();
        }
        if let Ip::V6 { extensions, .. } = &mut s.ip {
            extensions.clear();
        }
        if let Transport::Tcp { seq, flags, .. } = &mut s.l4 {
            *seq = seq.wrapping_add((i * size) as u32);
            *flags = if i + 1 == count { *flags & 8 | 0x10 } else { 0x10 };
        }
        s
    };
    spec.payload.chunks(size).enumerate().map(one).collect()
}

fn built(stream: &[FrameSpec]) -> Vec<Vec<u8>> {
    stream.iter().map(FrameSpec::build).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A clean stream becomes one frame, and that frame the stream.
    #[test]
    fn a_stream_is_one_frame(spec in gso_spec(false), size in 50usize..1500) {
        let frames = built(&stream(&spec, size));
        for packet in [good, unknown] {
            let merged = merge(&frames, packet);
            prop_assert_eq!(merged.len(), 1);
            prop_assert_eq!(segments(&merged[0]), frames.clone());
        }
    }

    /// A frame as a pod's kernel makes it, cut and merged again, is the same frame, metadata included; so it is behind VXLAN.
    #[test]
    fn merging_undoes_cutting(
        spec in gso_spec(false), size in 50u16..1500, flags in 0u8..16, six: bool, tunnel: bool, id: u16,
    ) {
        let mut whole = stream(&spec, 100_000).remove(0);
        if let Transport::Tcp { flags: bits, .. } = &mut whole.l4 {
            let may = [TcpFlags::PSH, TcpFlags::FIN, TcpFlags::ECE, TcpFlags::CWR];
            *bits = may.iter().enumerate().fold(TcpFlags::ACK.0, |b, (i, f)| b | if flags >> i & 1 != 0 { f.0 } else { 0 });
        }
        if whole.payload.len() > usize::from(size) {
            let mut frame = partial(&whole, size);
            if tunnel {
                let outer = outer_of(&tunnelled(&[whole.clone()], six, id, false)[0], &whole);
                frame.prepend(outer.len()).expect("there is room")[..outer.len()].copy_from_slice(&outer);
                frame.meta_mut().shift(outer.len() as i32);
                frame.meta_mut().tunnel = outer.len() as u8;
            }
            let back = merge(&segments(&frame), unknown);
            prop_assert_eq!(back.len(), 1);
            prop_assert_eq!(back[0].bytes(), frame.bytes());
            prop_assert_eq!(back[0].meta(), frame.meta());
        }
    }

    /// The same behind VXLAN, whatever its outer headers; and any outer header that differs splits it.
    #[test]
    fn a_tunnelled_stream_is_one_frame(
        spec in gso_spec(false), size in 50usize..1500, six: bool, id: u16, checksum: bool,
        odd in prop::option::of((any::<prop::sample::Index>(), 0usize..50, 1u8..=255)),
    ) {
        let mut frames = tunnelled(&stream(&spec, size), six, id, checksum);
        let count = frames.len();
        let changed = odd.filter(|_| count > 1).map(|(which, at, by)| {
            let which = which.index(count);
            frames[which] = with_outer(&frames[which], at, by);
            which
        });
        let merged = merge(&frames, unknown);
        prop_assert!(merged.len() == 1 || changed.is_some());
        let again: Vec<_> = merged.iter().flat_map(segments).collect();
        let plain = |f: &Vec<u8>| without_ids(f);
        prop_assert_eq!(again.iter().map(plain).collect::<Vec<_>>(), frames.iter().map(plain).collect::<Vec<_>>());
        if merged.len() == 1 && count > 1 {
            prop_assert_eq!(usize::from(merged[0].meta().tunnel), if six { 70 } else { 50 });
        }
    }

    /// Damage of any field of any segments splits the merge, and never shows afterwards.
    #[test]
    fn nothing_is_changed(
        spec in gso_spec(false),
        size in 50usize..1500,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..90, any::<u8>()), 0..4),
        swap in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let mut frames = built(&stream(&spec, size));
        for (which, at, value) in edits {
            let f = &mut frames[which.index(usize::MAX) % spec.payload.chunks(size).count()];
            let (at, old) = (at.min(f.len() - 1), f.clone());
            f[at] = value;
            if let Some(sound) = resealed(f) { *f = sound } else { *f = old }
        }
        if let Some((a, b)) = swap {
            let n = frames.len();
            frames.swap(a.index(n), b.index(n));
        }
        let again: Vec<_> = merge(&frames, good).iter().flat_map(segments).collect();
        prop_assert_eq!(again.len(), frames.len());
        for (got, want) in again.iter().zip(&frames) {
            prop_assert_eq!(without_ids(got), without_ids(want));
        }
    }

    #[test]
    fn no_panic_on_any_pair(a in mutated(), b in mutated(), same: bool) {
        let b = if same { a.clone() } else { b };
        let (mut a, b) = (good(&a), good(&b));
        if let (Some(s), Some(t)) = (Segment::read(&a), Segment::read(&b))
            && let Some(mut m) = Merge::start(a.head(), &s)
        {
            let _ = m.push(&a, &b, &t);
            let _ = m.finish(&mut a);
        }
    }
}

/// The frame without the identifications of packets that are never fragmented, which mean nothing.
fn without_ids(frame: &[u8]) -> Vec<u8> {
    let mut f = frame.to_vec();
    let mut l2 = 0;
    while let Ok(p) = crate::parse::parse_at(frame, l2, frame.len()) {
        let l3 = usize::from(p.l3_off);
        if p.df && !p.addrs.is_v6() && p.kind == crate::parse::Kind::Ipv4 {
            f[l3 + 4..l3 + 6].fill(0);
            f[l3 + 10..l3 + 12].fill(0);
        }
        if !matches!(p.l4, crate::parse::L4::Ports { dst: 4789, .. }) || p.proto != proto::UDP || l2 != 0 {
            break;
        }
        // The outer checksum covers the inner identification.
        let udp = usize::from(p.l4_off);
        if f[udp + 6..udp + 8] != [0, 0] {
            f[udp + 6..udp + 8].fill(1);
        }
        l2 = usize::from(p.payload_off) + 8;
    }
    f
}

/// The frame as a GSO frame: the checksum field holds the pseudo-header's sum.
fn partial(spec: &FrameSpec, size: u16) -> VecBuf {
    let mut f = spec.build();
    let p = parse(&f, f.len()).expect("sound");
    let at = usize::from(p.l4_off) + 16;
    f[at..at + 2].copy_from_slice(&fold(p.pseudo_sum(p.l4_len())).to_be_bytes());
    let gso = if p.addrs.is_v6() { Gso::Tcp6 { size } } else { Gso::Tcp4 { size } };
    let csum = Csum::Partial { start: p.l4_off, offset: 16 };
    VecBuf::segmented(&f, usize::from(p.payload_off), &[200, 900]).with_meta(Meta { csum, gso, ..Meta::default() })
}

/// The outer headers of a tunnelled frame around `inner`.
fn outer_of(frame: &[u8], inner: &FrameSpec) -> Vec<u8> {
    frame[..frame.len() - inner.build().len()].to_vec()
}

/// Each frame in a VXLAN packet of its own, as a sender makes them.
fn tunnelled(inner: &[FrameSpec], six: bool, id: u16, checksum: bool) -> Vec<Vec<u8>> {
    let one = |(i, s): (usize, &FrameSpec)| {
        let ip = if six {
            Ip::V6 { src: 21.into(), dst: 22.into(), label: 0x12345, extensions: vec![] }
        } else {
            let (df, id) = (id & 1 != 0, id.wrapping_add(i as u16));
            Ip::V4 { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into(), id, df, options: vec![] }
        };
        let outer = FrameSpec {
            dst_mac: Mac([6; 6]),
            src_mac: Mac([7; 6]),
            vlan: None,
            tos: 2,
            ttl: 64,
            ip,
            l4: Transport::Udp { sport: 50_000, dport: 4789 },
            payload: [&vxlan::header(Vni::try_from(77).expect("fits"))[..], &s.build()].concat(),
        };
        let mut f = outer.build();
        let udp = outer.l2_len() + outer.l3_header_len();
        if !checksum {
            f[udp + 6..udp + 8].fill(0);
        }
        f
    };
    inner.iter().enumerate().map(one).collect()
}

/// The tunnelled frame with one byte of its outer headers changed and its checksums made right, if it still is a frame.
fn with_outer(frame: &[u8], at: usize, by: u8) -> Vec<u8> {
    let mut f = frame.to_vec();
    f[at] ^= by;
    if let Ok(mut ip) = crate::wire::Ipv4::new_header(&mut f[14..]) {
        ip.fill_checksum();
    }
    let sound =
        parse(&f, f.len()).is_ok_and(|p| p.proto == proto::UDP && p.frame_len() == f.len() && p.fragment.is_none());
    if sound { f } else { frame.to_vec() }
}

/// The frame with its checksums made right, if it still parses as TCP.
fn resealed(f: &[u8]) -> Option<Vec<u8>> {
    let mut f = f.to_vec();
    let l3 = if f[12..14] == [0x81, 0] { 18 } else { 14 };
    if let Ok(mut ip) = crate::wire::Ipv4::new_header(&mut f[l3..]) {
        ip.fill_checksum();
    }
    let p = parse(&f, f.len()).ok().filter(|p| p.proto == proto::TCP && p.fragment.is_none())?;
    let pseudo = match p.addrs {
        Addrs::V4 { src, dst } => pseudo_v4(src, dst, proto::TCP, p.l4_len() as u32),
        Addrs::V6 { src, dst } => pseudo_v6(src, dst, proto::TCP, p.l4_len() as u32),
        Addrs::None => return None,
    };
    let at = usize::from(p.l4_off);
    f.truncate(p.frame_len());
    f[at + 16..at + 18].fill(0);
    let field = !fold(pseudo + sum(&f[at..]));
    f[at + 16..at + 18].copy_from_slice(&field.to_be_bytes());
    Some(f)
}

fn pair() -> [FrameSpec; 2] {
    let spec = FrameSpec {
        dst_mac: Mac::GATEWAY,
        src_mac: Mac([2; 6]),
        vlan: None,
        tos: 0,
        ttl: 9,
        ip: Ip::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), id: 65_535, df: false, options: vec![] },
        l4: Transport::Tcp {
            sport: 1,
            dport: 2,
            seq: u32::MAX - 9,
            ack: 4,
            flags: 0x10,
            window: 5,
            options: vec![1; 12],
        },
        payload: vec![1; 200],
    };
    stream(&spec, 100).try_into().expect("two segments")
}

fn decision(change: impl Fn(&mut [FrameSpec; 2])) -> Result<(), NoMerge> {
    let mut specs = pair();
    change(&mut specs);
    let [a, b] = specs.map(|s| good(&s.build()));
    Merge::start(a.head(), &read(&a)).expect("can start").push(&a, &b, &read(&b))
}

fn read(buf: &VecBuf) -> Segment {
    Segment::read(buf).expect("TCP")
}

macro_rules! tcp {
    ($s:expr, $field:ident = $value:expr) => {
        if let Transport::Tcp { $field, .. } = &mut $s[1].l4 {
            *$field = $value;
        }
    };
}

#[test]
fn each_rule_alone() {
    assert_eq!(decision(|_| ()), Ok(()));
    assert_eq!(decision(|s| tcp!(s, flags = 0x18)), Ok(()));
    assert_eq!(decision(|s| tcp!(s, sport = 9)), Err(NoMerge::Unrelated));
    assert_eq!(decision(|s| tcp!(s, ack = 5)), Err(NoMerge::Flush));
    assert_eq!(decision(|s| tcp!(s, window = 6)), Err(NoMerge::Flush));
    assert_eq!(decision(|s| tcp!(s, seq = 1)), Err(NoMerge::Flush));
    assert_eq!(decision(|s| tcp!(s, options = vec![0; 12])), Err(NoMerge::Flush));
    assert_eq!(decision(|s| tcp!(s, options = vec![1; 8])), Err(NoMerge::Flush));
    assert_eq!(decision(|s| tcp!(s, flags = 0x11)), Ok(()));
    for bits in [0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
        assert_eq!(decision(|s| tcp!(s, flags = bits)), Err(NoMerge::Flush), "{bits:#x}");
    }
    assert_eq!(decision(|s| s[1].tos = 3), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s[1].ttl = 8), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s[1].dst_mac = Mac([4; 6])), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s[1].payload = vec![1; 101]), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s[1].payload = vec![]), Err(NoMerge::Flush));
    let ip = |s: &mut FrameSpec, new: u16, set: bool| {
        if let Ip::V4 { id, df, .. } = &mut s.ip {
            (*id, *df) = (new, set);
        }
    };
    assert_eq!(decision(|s| ip(&mut s[1], 7, false)), Err(NoMerge::Flush));
    assert_eq!(decision(|s| ip(&mut s[1], 0, true)), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s.iter_mut().for_each(|s| ip(s, 7, true))), Ok(()));
}

#[test]
fn a_short_or_pushed_segment_ends_it() {
    for change in [
        |s: &mut FrameSpec| s.payload.truncate(50),
        |s: &mut FrameSpec| {
            if let Transport::Tcp { flags, .. } = &mut s.l4 {
                *flags = 0x18;
            }
        },
    ] {
        let [a, mut b] = pair();
        change(&mut b);
        let [a, b] = [a, b].map(|s| good(&s.build()));
        let mut m = Merge::start(a.head(), &read(&a)).expect("can start");
        assert!(!m.is_closed());
        m.push(&a, &b, &read(&b)).expect("merges");
        assert!(m.is_closed() && m.segments() == 2);
        let ends = read(&b).parsed().tcp_flags.has(TcpFlags::PSH);
        assert_eq!(Merge::start(b.head(), &read(&b)).is_none(), ends);
    }
}

#[test]
fn a_first_congestion_window_reduced_is_kept_and_a_second_not_taken() {
    let mut specs = pair();
    if let Transport::Tcp { flags, .. } = &mut specs[0].l4 {
        *flags = 0x90;
    }
    tcp!(specs, flags = 0x10);
    let frames = built(&specs);
    let merged = merge(&frames, good);
    assert_eq!((merged.len(), segments(&merged[0])), (1, frames.clone()));
    let frames = [frames[1].clone(), frames[0].clone()];
    assert_eq!(merge(&frames, good).len(), 2);
}

#[test]
fn what_is_wrong_or_tiny_is_not_merged() {
    let [a, b] = pair().map(|s| unknown(&s.build()));
    let (s, t) = (read(&a), read(&b));
    let start = || Merge::start(a.head(), &s).expect("can start");
    assert_eq!(start().push(&a, &b, &t), Ok(()));
    for broken in [true, false] {
        let (mut a, mut b) = (a.clone(), b.clone());
        let at = a.head().len() - 1;
        (if broken { &mut a } else { &mut b }).head_mut()[at] ^= 1;
        let mut m = start();
        assert_eq!(m.push(&a, &b, &t), Err(NoMerge::Flush));
        assert_eq!((m.segments(), m.is_closed()), (1, broken));
    }
    let mut tiny = pair();
    tiny.iter_mut().for_each(|s| s.payload.truncate(MIN_SIZE - 1));
    let tiny = good(&tiny[0].build());
    assert_eq!(Merge::start(tiny.head(), &read(&tiny)), None);
}
