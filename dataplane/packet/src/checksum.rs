//! The internet checksum (RFC 1071): over bytes, over chains of buffers, incrementally, with pseudo-headers.
//!
//! Sums are ones' complement sums of 16-bit words in network order, uncomplemented, in a `u32` that [`fold`] brings down
//! to 16 bits; sums of even-length pieces are added with `+` (up to 65,535 of them). What goes into a packet is `!fold(sum)`.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::buf::{Csum, PacketBuf};

/// Bytes added up at a time: enough for the compiler to use vector registers.
const LANES: usize = 8;

/// The sum over `bytes`, at most 0xffff; an odd last byte counts as the high half of a word.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut lanes = [0u64; LANES];
    let mut chunks = bytes.chunks_exact(4 * LANES);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut acc: u64 = lanes.iter().sum();
    let mut words = chunks.remainder().chunks_exact(4);
    for word in &mut words {
        acc += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    acc += match *words.remainder() {
        [] => 0,
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, ..] => u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0])),
    };
    // The sum does not depend on the byte order in which it was taken but for the order of its own bytes (RFC 1071 2 B).
    u32::from(u16::from_be(fold64(acc)))
}

/// Brings a sum down to 16 bits. Zero only if every byte was zero.
#[inline]
pub const fn fold(sum: u32) -> u16 {
    let s = (sum & 0xffff) + (sum >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

#[inline]
const fn fold64(sum: u64) -> u16 {
    let s = (sum & 0xffff_ffff) + (sum >> 32);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

/// A sum over pieces of any length, odd ones included, as if they lay behind each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accumulator {
    sum: u32,
    odd: bool,
}

impl Accumulator {
    /// Starts from a sum, for instance a pseudo-header's.
    #[inline]
    pub const fn new(sum: u32) -> Self {
        Accumulator { sum, odd: false }
    }

    /// Adds the bytes behind those added so far.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let piece = fold(sum(bytes));
        let piece = if self.odd { piece.swap_bytes() } else { piece };
        self.sum = u32::from(fold(self.sum)) + u32::from(piece);
        self.odd ^= bytes.len() & 1 != 0;
    }

    /// The sum of all, at most 16 bits.
    #[inline]
    pub const fn finish(self) -> u16 {
        fold(self.sum)
    }
}

/// The sum over a TCP, UDP or ICMP pseudo-header for IPv4 (RFC 9293 section 3.1); `len` is that of the transport header
/// and payload in bytes.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u32) -> u32 {
    let (s, d) = (src.to_bits(), dst.to_bits());
    (s >> 16) + (s & 0xffff) + (d >> 16) + (d & 0xffff) + u32::from(protocol) + (len >> 16) + (len & 0xffff)
}

/// The sum over a pseudo-header for IPv6 (RFC 8200 section 8.1).
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> u32 {
    sum(&src.octets()) + sum(&dst.octets()) + u32::from(protocol) + (len >> 16) + (len & 0xffff)
}

/// What a checksum field becomes when 16-bit words under it change from those summed in `old` to those summed in `new`
/// (RFC 1624 equation 3; never turns a valid sum into -0).
#[inline]
pub const fn update(field: u16, old: u32, new: u32) -> u16 {
    !fold(!field as u32 + (!fold(old)) as u32 + fold(new) as u32)
}

/// As [`update`], for a field that holds an uncomplemented partial sum ([`Csum::Partial`]).
#[inline]
pub const fn update_partial(field: u16, old: u32, new: u32) -> u16 {
    fold(field as u32 + (!fold(old)) as u32 + fold(new) as u32)
}

/// The sum over `len` bytes from `offset` on across segments. `None`: the packet ends before.
pub fn sum_chain<B: PacketBuf + ?Sized>(buf: &B, offset: usize, len: usize) -> Option<u16> {
    let mut acc = Accumulator::default();
    buf.for_each_slice(offset, len, &mut |s| acc.add(s)).then(|| acc.finish())
}

/// A packet's metadata names a checksum field that does not lie in its head, or the packet ends before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the partial checksum's place lies beyond the packet's headers")]
pub struct BadPartial;

/// Completes a partial checksum: sums from `start` to the end of the packet (the field holds the pseudo-header's sum), stores
/// the complement and marks it good. A zero becomes 0xffff (RFC 768; harmless for TCP). Other states are left alone.
/// The packet must carry no Ethernet padding.
///
/// # Errors
/// [`BadPartial`]; the packet is unchanged.
pub fn complete<B: PacketBuf + ?Sized>(buf: &mut B) -> Result<(), BadPartial> {
    let Csum::Partial { start, offset } = buf.meta().csum else { return Ok(()) };
    let start = usize::from(start);
    let field = start + usize::from(offset);
    if field + 2 > buf.head().len() || start >= buf.len() {
        return Err(BadPartial);
    }
    let sum = sum_chain(buf, start, buf.len() - start).ok_or(BadPartial)?;
    buf.head_mut()[field..field + 2].copy_from_slice(&not_zero(!sum).to_be_bytes());
    buf.meta_mut().csum = Csum::Good;
    Ok(())
}

/// Replaces a checksum of zero, which UDP reads as "none" (RFC 768), by its other form.
#[inline]
pub const fn not_zero(field: u16) -> u16 {
    if field == 0 { 0xffff } else { field }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, in words of network order.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for w in bytes.chunks(2) {
            sum += u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: the header sums to 0xcd7a without the field; 0x5555 becomes 0x3285; the field 0xdd2f becomes 0.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn longest_packet_of_ones_does_not_overflow() {
        let b = [0xff; 65535];
        assert_eq!(fold(sum(&b)), naive(&b));
    }

    proptest! {
        #[test]
        fn as_naive(bytes in prop::collection::vec(any::<u8>(), 0..300), skip in 0usize..9) {
            let b = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(fold(sum(b)), naive(b));
        }

        #[test]
        fn pieces_of_any_length(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..8)) {
            let mut acc = Accumulator::default();
            pieces.iter().for_each(|p| acc.add(p));
            prop_assert_eq!(acc.finish(), naive(&pieces.concat()));
        }

        #[test]
        fn incremental(
            mut bytes in prop::collection::vec(any::<u8>(), 8..64), at in 0usize..3, new in any::<[u8; 4]>(),
        ) {
            bytes[7] |= 1; // RFC 1624 section 3: all-zero data has no checksum
            let before = !naive(&bytes);
            let old: [u8; 4] = bytes[at * 2..at * 2 + 4].try_into().unwrap();
            bytes[at * 2..at * 2 + 4].copy_from_slice(&new);
            if bytes.iter().any(|&b| b != 0) {
                prop_assert_eq!(update(before, sum(&old), sum(&new)), !naive(&bytes));
                prop_assert_eq!(update_partial(!before, sum(&old), sum(&new)) % 0xffff, naive(&bytes) % 0xffff);
            }
        }

        #[test]
        fn pseudo_headers(a: [u8; 16], b: [u8; 16], p: u8, len in 0u32..70_000) {
            let mut bytes = [a, b].concat();
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 0, 0, p]);
            prop_assert_eq!(fold(pseudo_v6(a.into(), b.into(), p, len)), naive(&bytes));
            let (a4, b4) = ([a[0], a[1], a[2], a[3]], [b[0], b[1], b[2], b[3]]);
            let mut bytes = [a4, b4].concat();
            bytes.extend([0, p]);
            bytes.extend(len.to_be_bytes());
            prop_assert_eq!(fold(pseudo_v4(a4.into(), b4.into(), p, len)), naive(&bytes));
        }
    }
}
