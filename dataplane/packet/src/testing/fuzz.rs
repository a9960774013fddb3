//! What the fuzz targets of `tests/fuzz` do with their input, so that ordinary tests can do it over kept seeds.

use super::{VecBuf, segment};
use crate::buf::{Csum, Gso, Meta, PacketBuf};
use crate::build::{Answer, IcmpError, arp_reply, echo_reply, icmp_error, may_answer, neighbour_advertisement};
use crate::build::{decrement_ttl, set_tos};
use crate::checksum::complete;
use crate::gro::{Merge, Segment};
use crate::gso::Segmenter;
use crate::id::Mac;
use crate::nat::{Place, Tuple, translate, translate_error};
use crate::parse::{Kind, L4, Parsed, Verdict, parse, parse_at, transport_ok};
use crate::wire::vxlan::VXLAN_LEN;
use crate::wire::{Ipv4, proto};

/// Makes an IPv4 header's checksum right, which chance hardly does, so that what lies behind it is reached.
fn seal(frame: &mut [u8], l2: usize) {
    let tagged = frame.get(l2 + 12..l2 + 14) == Some(&[0x81, 0]);
    let l3 = l2 + if tagged { 18 } else { 14 };
    if let Some(Ok(mut ip)) = frame.get_mut(l3..).map(Ipv4::new_header) {
        ip.fill_checksum();
    }
}

/// First byte: how many 255ths of the frame are its first segment (odd: the IPv4 checksum is made right); the rest: the frame.
///
/// # Panics
/// If a promise of the parser is broken.
pub fn parse_frame(data: &[u8]) {
    let Some((&split, frame)) = data.split_first() else { return };
    let mut frame = frame.to_vec();
    if split & 1 != 0 {
        seal(&mut frame, 0);
    }
    let frame = &frame[..];
    let head = &frame[..(frame.len() * usize::from(split)).div_ceil(255).min(frame.len())];
    let Ok(mut p) = parse(head, frame.len()) else { return };
    assert!(p.l3_off <= p.l4_off && p.l4_off <= p.payload_off);
    assert!(usize::from(p.payload_off) <= p.frame_len() && p.frame_len() <= frame.len());
    if let Ok(e) = p.embedded(head) {
        assert!(p.payload_off <= e.l3_off && e.l3_off < e.l4_off && usize::from(e.l4_off) <= p.frame_len());
    }
    let whole = parse(frame, frame.len());
    assert_eq!(whole, Ok(p), "the head alone tells as much as the frame");
    answers(frame, &p);
    let mut copy = head.to_vec();
    let _ = decrement_ttl(&mut copy, &mut p);
    set_tos(&mut copy, &mut p, split);
    assert_eq!(parse(&copy, frame.len()), Ok(p));
}

/// Every answer to a frame is itself a sound frame.
fn answers(frame: &[u8], p: &Parsed) {
    let me = Mac::GATEWAY;
    let from = if p.addrs.is_v6() { [0xfd; 16].into() } else { [169, 254, 1, 1].into() };
    let answer = Answer { from, src_mac: me, dst_mac: Mac([2; 6]) };
    let mut out = VecBuf::empty();
    let whole = VecBuf::new(frame);
    if may_answer(p, IcmpError::TimeExceeded) {
        assert!(icmp_error(&mut out, &whole, p, IcmpError::TimeExceeded, &answer));
        sound(&out);
    }
    let good = transport_ok(&whole, p) == Verdict::Good;
    let mut reply = whole.clone();
    if echo_reply(&mut reply, p) && good {
        sound(&reply);
    }
    let mut advert = whole.clone();
    if neighbour_advertisement(&mut advert, p, me) {
        sound(&advert);
    }
    let mut arp = frame.to_vec();
    if p.kind == Kind::Arp && arp_reply(&mut arp, p, me) {
        assert_eq!(parse(&arp, arp.len()).map(|a| a.addrs.src()), Ok(p.addrs.dst()));
    }
}

/// Parses, and its checksum is right by its bytes alone.
fn sound(buf: &VecBuf) {
    let bytes = VecBuf::new(&buf.bytes());
    let p = parse(bytes.head(), bytes.len()).expect("what we make parses");
    assert_eq!(transport_ok(&bytes, &p), Verdict::Good, "{p:?}");
}

/// Eight bytes (GSO kind and checksum state, size, tunnel length, checksum start, where to cut the chain), then a frame, whose
/// inner IPv4 checksum is made right.
///
/// # Panics
/// If segments do not cover the payload or are not sound.
pub fn gso(data: &[u8]) {
    let Some((&[kind, s0, s1, tunnel, c0, c1, cut0, cut1], frame)) = data.split_first_chunk() else { return };
    let size = u16::from_be_bytes([s0, s1]);
    let gso = [Gso::Tcp4 { size }, Gso::Tcp6 { size }, Gso::Udp { size }, Gso::None][usize::from(kind & 3)];
    let csum = match kind >> 2 & 3 {
        0 => Csum::Unknown,
        1 => Csum::Good,
        k => Csum::Partial { start: u16::from_be_bytes([c0, c1]), offset: if k == 2 { 16 } else { 6 } },
    };
    let cut = usize::from(u16::from_be_bytes([cut0, cut1]));
    let mut frame = frame.to_vec();
    seal(&mut frame, usize::from(tunnel));
    let buf = VecBuf::segmented(&frame, 0, &[cut, cut * 2]).with_meta(Meta { gso, csum, tunnel, ..Meta::default() });
    if let Ok(s) = Segmenter::new(&buf) {
        let mut at = s.header_len();
        for i in 0..s.segments() {
            let (bytes, next) = segment(&s, &buf, i);
            assert_eq!(next.0, at);
            at += next.1;
            let inner = VecBuf::new(&bytes[usize::from(tunnel)..]);
            let p = parse(inner.head(), inner.len()).expect("segments parse");
            assert_ne!(transport_ok(&inner, &p), Verdict::Bad);
        }
        assert_eq!(at, s.parsed().frame_len());
    }
    let mut buf = buf;
    let _ = complete(&mut buf);
}

/// Two bytes of length, the first frame, the second; their IPv4 checksums are made right.
///
/// # Panics
/// If a merge, cut again, is not what was merged.
pub fn gro(data: &[u8]) {
    let Some((&len, rest)) = data.split_first_chunk() else { return };
    let Some((a, b)) = rest.split_at_checked(usize::from(u16::from_be_bytes(len))) else { return };
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    seal(&mut a, 0);
    seal(&mut b, 0);
    let meta = Meta { csum: Csum::Good, ..Meta::default() };
    let [a, b] = [a, b].map(|f| VecBuf::new(&f).with_meta(meta));
    let (Some(s), Some(t)) = (Segment::read(&a), Segment::read(&b)) else { return };
    let Some(mut m) = Merge::start(a.head(), &s) else { return };
    if m.push(&a, &b, &t).is_err() {
        return;
    }
    let (a, b) = (&a.head()[..s.frame_len()], &b.head()[..t.frame_len()]);
    let mut buf = VecBuf::new(a).with_meta(meta);
    buf.push_segment(&b[t.headers()..]);
    assert!(m.finish(&mut buf));
    assert!(parse(buf.head(), buf.len()).is_ok_and(|p| p.frame_len() == buf.len()));
    let s = Segmenter::new(&buf).expect("what was merged can be cut");
    assert_eq!(s.segments(), 2);
    for (i, want) in [a, b].into_iter().enumerate() {
        let (got, _) = segment(&s, &buf, i);
        assert_eq!(canonical(&got), canonical(want));
    }
}

/// Twelve bytes (where the checksum is partial, new ports, new addresses), then a frame, whose IPv4 checksum is made right.
///
/// # Panics
/// If a translation that is refused changes the packet, or one that is not changes what it may not, makes a good checksum
/// bad or a bad one good, or cannot be undone.
pub fn nat(data: &[u8]) {
    let Some((&[kind, offset, s0, s1, d0, d1, a, b, c, d, e, f], frame)) = data.split_first_chunk() else { return };
    let mut frame = frame.to_vec();
    seal(&mut frame, 0);
    let Ok(p) = parse(&frame, frame.len()) else { return };
    let (Some(src), Some(dst), Kind::Ipv4 | Kind::Ipv6) = (p.addrs.src(), p.addrs.dst(), p.kind) else { return };
    let mut new = Tuple { src, dst, sport: u16::from_be_bytes([s0, s1]), dport: u16::from_be_bytes([d0, d1]) };
    (new.src, new.dst) = match p.addrs.is_v6() {
        false => ([a, b, c, d].into(), [d, e, f, a].into()),
        true => ([[a, b, c, d]; 4].concat()[..].try_into().map_or(src, |a: [u8; 16]| a.into()), dst),
    };
    let mut buf = VecBuf::new(&frame);
    if kind & 1 != 0 {
        buf.meta_mut().csum = Csum::Partial { start: p.l4_off, offset: offset.into() };
    }
    let at = Place::from(&p);
    let error = matches!(p.l4, L4::IcmpError { .. });
    let run = if error { translate_error::<VecBuf> } else { translate::<VecBuf> };
    let before = buf.clone();
    if run(&mut buf, &at, &new).is_err() {
        return assert_eq!(buf, before);
    }
    let now = parse(buf.head(), buf.len()).expect("what parsed goes on to parse");
    assert_eq!(
        (now.addrs.dst(), now.proto, now.l3_len, now.payload_off),
        (Some(new.dst), p.proto, p.l3_len, p.payload_off)
    );
    let (was, is) = (transport_ok(&before, &p), transport_ok(&buf, &now));
    // An ICMP message of zeros only has no sum (RFC 1624 section 3), and a quoted one may be any.
    assert!(was == is || was == Verdict::Bad && matches!(p.proto, proto::ICMP | proto::ICMPV6), "{was:?}, {is:?}");
    let old = match p.l4 {
        L4::Ports { src: sport, dst: dport } => Tuple { src, dst, sport, dport },
        L4::Echo { id, .. } => Tuple { src, dst, sport: id, dport: id },
        _ => Tuple { src, dst, ..new },
    };
    if !error && was == Verdict::Good && kind & 1 == 0 {
        assert_eq!(translate(&mut buf, &at, &old), Ok(()));
        let mut back = buf.bytes();
        // Both zeros are one sum; ours is the usual one.
        for (field, original) in back.chunks_exact_mut(2).zip(frame.chunks_exact(2)) {
            if field == [0, 0] && original == [0xff, 0xff] {
                field.fill(0xff);
            }
        }
        assert_eq!(back, frame);
    }
}

/// Without what a merge may change: the identification of unfragmentable packets, and the checksums, which the input claims to be
/// right without being asked.
fn canonical(frame: &[u8]) -> Vec<u8> {
    let mut f = frame.to_vec();
    let mut l2 = 0;
    loop {
        let p = parse_at(frame, l2, frame.len()).expect("it parsed before");
        let (l3, l4) = (usize::from(p.l3_off), usize::from(p.l4_off));
        if !p.addrs.is_v6() {
            f[l3 + 10..l3 + 12].fill(0);
            if p.df {
                f[l3 + 4..l3 + 6].fill(0);
            }
        }
        if p.proto == proto::TCP {
            f[l4 + 16..l4 + 18].fill(0);
            return f;
        }
        f[l4 + 6..l4 + 8].fill(0);
        l2 = usize::from(p.payload_off) + VXLAN_LEN;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_bytes, frame_spec, gso_spec, mutated};

    /// Runs a target over the seeds that are kept for it.
    fn replay(name: &str, target: fn(&[u8])) {
        let dir = format!("{}/../../tests/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut seen = 0;
        for entry in std::fs::read_dir(&dir).expect("the seeds are part of the repository") {
            target(&std::fs::read(entry.expect("an entry").path()).expect("a seed can be read"));
            seen += 1;
        }
        assert!(seen > 0, "{dir} is empty");
    }

    #[test]
    fn seeds() {
        replay("parse", parse_frame);
        replay("gso", gso);
        replay("gro", gro);
    }

    proptest! {
        #[test]
        fn parse_copes(f in prop_oneof![mutated(), any_bytes()], split: u8) {
            parse_frame(&[&[split][..], &f].concat());
        }

        #[test]
        fn gso_copes(head: [u8; 8], spec in gso_spec(false), sound: bool, size in 1u8..250) {
            let mut f = spec.build();
            f.truncate(2000);
            let head = if sound { [4 | head[0] & 1, 0, size, 0, 0, 0, head[6] & 1, head[7]] } else { head };
            gso(&[&head[..], &f].concat());
        }

        #[test]
        fn nat_copes(head: [u8; 12], f in prop_oneof![3 => mutated(), 1 => frame_spec().prop_map(|s| s.build())], sound: bool) {
            let mut head = head;
            if sound {
                head[1] = [16, 6, 2][usize::from(head[1]) % 3];
            }
            nat(&[&head[..], &f].concat());
        }

        #[test]
        fn gro_copes(a in mutated(), b in mutated(), same: bool) {
            let len = (a.len() as u16).to_be_bytes();
            gro(&[&len[..], &a, if same { &a } else { &b }].concat());
        }
    }
}
