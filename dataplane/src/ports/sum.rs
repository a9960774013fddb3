//! The Internet checksum (RFC 1071) over a packet's pieces.

/// A running ones' complement sum. Order of pieces matters only by their parity, which is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    /// Sum of 16-bit words in network order, carries above bit 15.
    acc: u64,
    /// Whether an odd number of bytes was added so far.
    odd: bool,
}

impl Sum {
    /// A sum that starts with this one (a pseudo-header's, for instance).
    #[inline]
    pub(crate) fn from(start: u16) -> Sum {
        Sum { acc: u64::from(start), odd: false }
    }

    /// Adds the bytes that follow.
    #[inline]
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let mut part = words(bytes);
        if self.odd {
            part = part.swap_bytes();
        }
        self.acc += u64::from(part);
        self.odd ^= bytes.len() & 1 != 0;
    }

    /// Adds the sum of bytes that follow an even number of bytes.
    #[inline]
    pub(crate) fn join(&mut self, other: Sum) {
        self.acc += other.acc;
        self.odd ^= other.odd;
    }

    /// The folded sum, not complemented.
    #[inline]
    pub(crate) fn folded(self) -> u16 {
        fold(self.acc)
    }

    /// The checksum: the complement.
    #[inline]
    pub(crate) fn checksum(self) -> u16 {
        !self.folded()
    }
}

fn fold(mut acc: u64) -> u16 {
    while acc > 0xffff {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    acc as u16
}

/// The folded sum of `bytes` as 16-bit words in network order, an odd last byte padded with zero. Works on words of
/// the machine's order, for the sum is the same but for the order of its own two bytes (RFC 1071 section 2 (B));
/// independent lanes let the compiler use vectors.
fn words(bytes: &[u8]) -> u16 {
    let mut lanes = [0u64; 8];
    let mut chunks = bytes.chunks_exact(32);
    for c in &mut chunks {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += u64::from(u32::from_ne_bytes([c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]]));
        }
    }
    let mut acc: u64 = lanes.iter().sum();
    let mut pairs = chunks.remainder().chunks_exact(2);
    for p in &mut pairs {
        acc += u64::from(u16::from_ne_bytes([p[0], p[1]]));
    }
    if let [last] = pairs.remainder() {
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be_bytes(fold(acc).to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn equals_the_slow_sum_however_it_is_cut(bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in proptest::collection::vec(0usize..300, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut sum = Sum::default();
            for w in cuts.windows(2) {
                sum.add(&bytes[w[0]..w[1]]);
            }
            prop_assert_eq!(sum.folded() % 0xffff, slow(&bytes) % 0xffff);
        }
    }
}
