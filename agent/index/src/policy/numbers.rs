//! Maps by numbers that we give out ourselves.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by a number of ours. A pod that thousands of policies select asks it tens of thousands of times, and nobody
/// outside chooses the numbers, so the hash need not withstand anybody.
pub(super) type ByNumber<T> = HashMap<u32, T, BuildHasherDefault<Spread>>;

/// Spreads numbers that follow one another (Knuth, The Art of Computer Programming, volume 3, 6.4: multiplication by
/// the golden ratio).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        let product = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The map takes its buckets from the low bits and its tags from the high ones.
        self.0 = product ^ (product >> 32);
    }
}
