//! ICMP errors against errors built anew about packets built anew.

use proptest::prelude::*;

use super::super::*;
use super::{partial, routed, translated, tuple, with_tuple};
use crate::checksum::complete;
use crate::testing::{FrameSpec, Ip, Transport, VecBuf, frame_spec};

/// An error about `quoted`, from `from`, of which it quotes `len` bytes, with some bytes of extensions behind.
fn complaint(quoted: &FrameSpec, from: IpAddr, cut: usize, tail: &[u8]) -> FrameSpec {
    let bytes = quoted.build();
    let quote = &bytes[quoted.l2_len()..];
    let mut s = quoted.clone();
    s.ip = match (&quoted.ip, from) {
        (Ip::V4 { src, .. }, IpAddr::V4(from)) => {
            Ip::V4 { src: from, dst: *src, id: 9, df: false, options: Vec::new() }
        }
        (Ip::V6 { src, .. }, IpAddr::V6(from)) => Ip::V6 { src: from, dst: *src, label: 0, extensions: Vec::new() },
        _ => panic!("two families"),
    };
    s.l4 = Transport::Icmp { kind: if from.is_ipv4() { 3 } else { 1 }, code: 4, rest: [0, 0, 5, 0x78] };
    s.payload = [&quote[..cut.min(quote.len())], tail].concat();
    s
}

/// What `complaint` must be after translation, from the fields of both packets. Words that the cut splits, and the CRC of
/// SCTP, stay as they were.
fn complaint_translated(quoted: &FrameSpec, new: &Tuple, from: IpAddr, cut: usize, tail: &[u8]) -> FrameSpec {
    let mut quoted_new = new.reversed();
    if matches!(quoted.l4, Transport::Icmp { .. }) && cut < quoted.l3_header_len() + 6 {
        // The checksum is there and the identifier is not: nobody can tell what it was.
        quoted_new.sport = tuple(quoted).sport;
    }
    let inner = translated(quoted, &quoted_new);
    let from = if from == tuple(quoted).dst { new.src } else { from };
    let mut s = complaint(&inner, from, cut, tail);
    let l4 = quoted.l3_header_len();
    let was = &quoted.build()[quoted.l2_len()..];
    let end = cut.min(was.len());
    if end > l4 && (end - l4) % 2 == 1 {
        s.payload[end - 1] = was[end - 1];
    }
    if matches!(quoted.l4, Transport::Sctp { .. }) {
        let crc = (l4 + 8).min(end)..(l4 + 12).min(end);
        s.payload[crc.clone()].copy_from_slice(&was[crc]);
    }
    s
}

fn quotations() -> impl Strategy<Value = (FrameSpec, Tuple, bool, usize, Vec<u8>)> {
    let quoted = frame_spec().prop_filter("segments left, or an error itself", |s| {
        !routed(s) && !matches!(s.ip, Ip::V6 { ref extensions, .. } if extensions.iter().any(|e| e.0 == 44))
    });
    (
        quoted.prop_flat_map(with_tuple),
        any::<bool>(),
        any::<prop::sample::Index>(),
        prop::collection::vec(any::<u8>(), 0..30),
    )
        .prop_map(|((s, new), by_end, cut, tail)| {
            let (head, whole) = (s.l3_header_len(), s.build().len() - s.l2_len());
            let cut = head + cut.index((whole - head).min(40) + 1);
            // Extensions lie behind padding, so they are never taken for the transport header.
            let tail = if cut == whole { tail } else { Vec::new() };
            let tail = if whole - head < 40 { Vec::new() } else { tail };
            (s, new, by_end, cut, tail)
        })
}

fn router(v6: bool) -> IpAddr {
    if v6 { [0x20; 16].into() } else { [192, 0, 2, 77].into() }
}

fn place(s: &FrameSpec) -> Place {
    Place { l3: s.l2_len(), l4: s.l2_len() + s.l3_header_len(), proto: s.proto(), part: Part::Whole }
}

proptest! {
    #[test]
    fn errors_as_if_built_anew((s, new, by_end, cut, tail) in quotations()) {
        let from = if by_end { tuple(&s).dst } else { router(new.src.is_ipv6()) };
        let outer = complaint(&s, from, cut, &tail);
        let mut buf = VecBuf::new(&outer.build());
        let at = place(&outer);
        prop_assert_eq!(translate_error(&mut buf, &at, &new), Ok(()));
        let want = complaint_translated(&s, &new, from, cut, &tail);
        prop_assert_eq!(buf.bytes(), want.build());
    }

    #[test]
    fn errors_with_a_partial_checksum((s, new, by_end, cut, tail) in quotations()) {
        let from = if by_end { tuple(&s).dst } else { router(new.src.is_ipv6()) };
        let outer = complaint(&s, from, cut, &tail);
        let chain = partial(&outer).expect("ICMP");
        let at = place(&outer);
        let mut whole = VecBuf::new(&chain.bytes()).with_meta(*chain.meta());
        prop_assert_eq!(translate_error(&mut whole, &at, &new), Ok(()));
        prop_assert_eq!(complete(&mut whole), Ok(()));
        let want = complaint_translated(&s, &new, from, cut, &tail).build();
        let mut got = whole.bytes();
        let sum = at.l4 + 2;
        // `complete` writes the other zero.
        if want[sum..sum + 2] == [0, 0] && got[sum..sum + 2] == [0xff, 0xff] {
            got[sum..sum + 2].fill(0);
        }
        prop_assert_eq!(got, want);
    }
}
