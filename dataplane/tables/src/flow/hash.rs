//! The keyed hash of the flow table: SipHash-1-3 over a fixed number of words, so that nobody who does not know the
//! seed can choose tuples that meet in one line.

/// The hash of a key. Bits 0 to 31 choose the line, the top byte is the tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// The tag in the line, never 0 (which marks an empty place).
    #[inline(always)]
    pub(super) const fn tag(self) -> u8 {
        let tag = (self.0 >> 56) as u8;
        if tag == 0 { 1 } else { tag }
    }

    /// The home line out of `lines`, without a division.
    #[inline(always)]
    pub(super) const fn line(self, lines: u32) -> usize {
        (((self.0 & 0xffff_ffff) * lines as u64) >> 32) as usize
    }
}

/// SipHash-1-3 (Aumasson and Bernstein 2012) of `8 * N` bytes given as native-endian words read little-endian.
#[inline(always)]
pub fn siphash13<const N: usize>(seed: [u64; 2], words: &[u64; N]) -> u64 {
    let mut v = [
        seed[0] ^ 0x736f_6d65_7073_6575,
        seed[1] ^ 0x646f_7261_6e64_6f6d,
        seed[0] ^ 0x6c79_6765_6e65_7261,
        seed[1] ^ 0x7465_6462_7974_6573,
    ];
    for &word in words {
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    let last = ((8 * N as u64) & 0xff) << 56;
    v[3] ^= last;
    round(&mut v);
    v[0] ^= last;
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    fn reference(seed: [u64; 2], words: &[u64]) -> u64 {
        let mut h = SipHasher13::new_with_keys(seed[0], seed[1]);
        for w in words {
            h.write(&w.to_le_bytes());
        }
        h.finish()
    }

    proptest! {
        #[test]
        fn equals_the_reference(seed: [u64; 2], short: [u64; 2], long: [u64; 5]) {
            prop_assert_eq!(siphash13(seed, &short), reference(seed, &short));
            prop_assert_eq!(siphash13(seed, &long), reference(seed, &long));
        }

        #[test]
        fn lines_and_tags_are_in_range(hash: u64, lines in 1u32..) {
            prop_assert!(FlowHash(hash).line(lines) < lines as usize);
            prop_assert_ne!(FlowHash(hash).tag(), 0);
        }
    }
}
