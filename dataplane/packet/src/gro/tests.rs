//! Cutting what was merged gives back what was there before.

use proptest::prelude::*;

use super::*;
use crate::gso::{MAX_HEADERS, Segmenter};
use crate::parse::parse;
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, gso_spec, mutated};

fn good(bytes: &[u8]) -> VecBuf {
    VecBuf::new(bytes).with_meta(Meta { csum: Csum::Good, ..Meta::default() })
}

/// What a receive function does: merges neighbours as long as they merge.
fn merge(frames: &[Vec<u8>]) -> Vec<VecBuf> {
    let mut out = Vec::new();
    let mut held: Option<(VecBuf, Parsed, Merge)> = None;
    for f in frames {
        let next = good(f);
        let p = parse(next.head(), next.len()).expect("sound");
        if let Some((buf, first, m)) = &mut held {
            // The head of the first segment as it was, for the payloads of others are appended behind it.
            let head = &buf.head()[..usize::from(first.payload_off)];
            if m.push((head, first, buf.meta()), (next.head(), &p, next.meta())).is_ok() {
                buf.push_segment(&f[usize::from(p.payload_off)..p.frame_len()]);
                continue;
            }
        }
        out.extend(held.take().map(finished));
        match Merge::start(next.head(), &p, next.meta()) {
            Some(m) => {
                let mut next = next;
                next.truncate(p.frame_len());
                held = Some((next, p, m));
            }
            None => out.push(next),
        }
    }
    out.extend(held.map(finished));
    out
}

fn finished((mut buf, mut p, m): (VecBuf, Parsed, Merge)) -> VecBuf {
    assert!(m.finish(&mut buf, &mut p));
    assert_eq!(parse(buf.head(), buf.len()), Ok(p));
    buf
}

fn cut(buf: &VecBuf) -> Vec<Vec<u8>> {
    if buf.meta().gso == Gso::None {
        return vec![buf.bytes()];
    }
    let s = Segmenter::new(buf).expect("can be segmented");
    let mut header = [0; MAX_HEADERS];
    let segments = (0..s.segments()).map(|i| {
        let seg = s.segment(buf, i, &mut header).expect("within");
        let mut payload = vec![0; seg.payload_len];
        assert!(buf.copy_to(seg.payload_off, &mut payload));
        [&header[..seg.header_len], &payload].concat()
    });
    segments.collect()
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
        let merged = merge(&frames);
        prop_assert_eq!(merged.len(), 1);
        prop_assert_eq!(cut(&merged[0]), frames);
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
        let again: Vec<_> = merge(&frames).iter().flat_map(cut).collect();
        prop_assert_eq!(again.len(), frames.len());
        for (got, want) in again.iter().zip(&frames) {
            let (mut got, mut want) = (got.clone(), want.clone());
            // The identification of a packet that is never fragmented means nothing.
            let p = parse(&want, want.len()).expect("sound");
            if p.df && !p.addrs.is_v6() && p.kind != crate::parse::Kind::Other {
                for f in [&mut got, &mut want] {
                    let l3 = usize::from(p.l3_off);
                    f[l3 + 4..l3 + 6].fill(0);
                    f[l3 + 10..l3 + 12].fill(0);
                }
            }
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn no_panic_on_any_pair(a in mutated(), b in mutated(), same: bool) {
        let b = if same { a.clone() } else { b };
        let (mut a, b) = (good(&a), good(&b));
        let parsed = (parse(a.head(), a.len()), parse(b.head(), b.len()));
        if let (Ok(mut p), Ok(q)) = parsed
            && let Some(mut m) = Merge::start(a.head(), &p, a.meta())
        {
            let _ = m.push((a.head(), &p, a.meta()), (b.head(), &q, b.meta()));
            let _ = m.finish(&mut a, &mut p);
        }
    }
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
        dst_mac: crate::id::Mac::GATEWAY,
        src_mac: crate::id::Mac([2; 6]),
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
    let parsed = |b: &VecBuf| parse(b.head(), b.len()).expect("sound");
    let mut m = Merge::start(a.head(), &parsed(&a), a.meta()).expect("can start");
    m.push((a.head(), &parsed(&a), a.meta()), (b.head(), &parsed(&b), b.meta()))
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
    for bits in [0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
        assert_eq!(decision(|s| tcp!(s, flags = bits)), Err(NoMerge::Flush), "{bits:#x}");
    }
    assert_eq!(decision(|s| s[1].tos = 3), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s[1].ttl = 8), Err(NoMerge::Flush));
    assert_eq!(decision(|s| s[1].dst_mac = crate::id::Mac([4; 6])), Err(NoMerge::Flush));
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
        let (p, q) = (parse(a.head(), a.len()).expect("sound"), parse(b.head(), b.len()).expect("sound"));
        let mut m = Merge::start(a.head(), &p, a.meta()).expect("can start");
        assert!(!m.is_closed());
        m.push((a.head(), &p, a.meta()), (b.head(), &q, b.meta())).expect("merges");
        assert!(m.is_closed() && m.segments() == 2);
        assert_eq!(Merge::start(b.head(), &q, b.meta()).is_none(), q.tcp_flags.has(TcpFlags::PSH));
    }
}

#[test]
fn unverified_is_not_merged() {
    let [a, _] = pair();
    let f = a.build();
    let p = parse(&f, f.len()).expect("sound");
    assert_eq!(Merge::start(&f, &p, &Meta::default()), None);
    assert!(Merge::start(&f, &p, good(&f).meta()).is_some());
}
