//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): which backend of a set a connection gets, alike on all
//! nodes without their talking to one another.
//!
//! Each backend has a permutation of the table's places and takes in its turn the first place of it that is still
//! free. So shares differ by one place at most, and a backend that leaves gives up its own places and few others.
//!
//! The table's size is a rung of a fixed ladder of primes, at least 100 places a backend, so that sets of about equal
//! size have tables of equal size. Measured over many seeds (the test `what_leaving_moves` asserts the bounds):
//!
//! | change | places of the others that move |
//! |---|---|
//! | one of 100 backends leaves (size stays) | 1.3 % on average, 1.5 % at most |
//! | one of 10 leaves (size stays: 1,009) | 2.6 % on average; fewer backends mean larger shares to give away |
//! | a step of the ladder (80 to 81 backends, 8,009 to 16,001 places) | 96 %: nearly all |
//!
//! A step moves nearly everything because the permutations are modulo the size. It moves new connections only: a flow
//! keeps its backend, and ClientIP affinity is remembered ([`crate::affinity`]).

use crate::flow::siphash13;

/// About doubling primes, the last for 65,535 backends (indices are `u16`). Equal on all nodes and in all versions.
const LADDER: [u32; 17] = [
    101, 251, 503, 1009, 2003, 4001, 8009, 16_001, 32_003, 64_007, 128_021, 256_019, 512_009, 1_024_021, 2_048_003,
    4_096_013, 6_553_577,
];

const FREE: u16 = u16::MAX;

/// The lookup table of one set of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    places: Box<[u16]>,
}

/// Where a backend is in its permutation: `at`, `at + skip`, `at + 2 * skip`... modulo the size.
#[derive(Clone, Copy)]
struct Walk {
    at: u32,
    skip: u32,
}

impl Maglev {
    /// The most backends a set can have: beyond them, indices would not fit. More are ignored.
    pub const MAX_BACKENDS: usize = u16::MAX as usize;

    /// How many places the table of a set of so many backends has.
    pub fn size_for(backends: usize) -> usize {
        let wanted = backends.saturating_mul(100);
        LADDER.iter().map(|&p| p as usize).find(|&p| p >= wanted).unwrap_or(LADDER[LADDER.len() - 1] as usize)
    }

    /// Bytes of memory of the table of a set of so many backends.
    pub fn bytes_for(backends: usize) -> usize {
        let places = if backends < 2 { 1 } else { Self::size_for(backends) };
        places * size_of::<u16>()
    }

    /// Builds the table of a set. `names` are stable hashes of the backends' identities, in an order that all nodes
    /// agree upon; `seed` is the cluster's. Without backends every [`Maglev::pick`] is 0, which is nobody's index.
    ///
    /// Costs 11 us for 10 backends and 0.24 ms for 100 (`benches/tables.rs`): 10,000 sets of 10 take 110 ms of one core.
    pub fn build(names: &[u64], seed: [u64; 2]) -> Maglev {
        let names = &names[..names.len().min(Self::MAX_BACKENDS)];
        if names.len() < 2 {
            return Maglev { places: vec![0; 1].into() };
        }
        let size = Self::size_for(names.len()) as u32;
        let mut walks: Vec<Walk> = names.iter().map(|&name| Walk::of(name, seed, size)).collect();
        let mut places = vec![FREE; size as usize].into_boxed_slice();
        let mut left = size;
        loop {
            for (backend, walk) in walks.iter_mut().enumerate() {
                let mut at = walk.at;
                while places[at as usize] != FREE {
                    at = step(at, walk.skip, size);
                }
                places[at as usize] = backend as u16;
                walk.at = step(at, walk.skip, size);
                left -= 1;
                if left == 0 {
                    return Maglev { places };
                }
            }
        }
    }

    /// The index of the backend for a connection. `hash` must be spread over all 64 bits.
    #[inline]
    pub fn pick(&self, hash: u64) -> usize {
        // The upper half of the product: as even as a remainder, without a division.
        let place = (u128::from(hash) * self.places.len() as u128) >> 64;
        self.places[place as usize] as usize
    }

    /// How many places it has.
    pub fn size(&self) -> usize {
        self.places.len()
    }

    /// Bytes of memory of the table.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.places)
    }
}

impl Walk {
    fn of(name: u64, seed: [u64; 2], size: u32) -> Walk {
        let hash = siphash13(seed, &[name]);
        // Halves of one 64-bit hash: independent, and each far larger than any size.
        Walk { at: scale(hash as u32, size), skip: 1 + scale((hash >> 32) as u32, size - 1) }
    }
}

fn scale(hash: u32, to: u32) -> u32 {
    ((u64::from(hash) * u64::from(to)) >> 32) as u32
}

#[inline(always)]
fn step(at: u32, skip: u32, size: u32) -> u32 {
    // Both are below the size, so once is enough; the sum fits, for sizes are below 2^31.
    let next = at + skip;
    if next >= size { next - size } else { next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: [u64; 2] = [0x706f_6470, 0x6c61_6e65];

    fn names(n: usize, salt: u64) -> Vec<u64> {
        (0..n as u64).map(|i| siphash13([salt, 1], &[i])).collect()
    }

    /// The paper's words: permutations written out, every backend in turn.
    fn slow(names: &[u64], seed: [u64; 2]) -> Vec<u16> {
        let size = Maglev::size_for(names.len());
        let permutations: Vec<Vec<usize>> = names
            .iter()
            .map(|&name| {
                let walk = Walk::of(name, seed, size as u32);
                (0..size).map(|j| (walk.at as usize + j * walk.skip as usize) % size).collect()
            })
            .collect();
        let mut places = vec![None; size];
        while places.iter().any(Option::is_none) {
            for (backend, permutation) in permutations.iter().enumerate() {
                if let Some(&place) = permutation.iter().find(|&&p| places[p].is_none()) {
                    places[place] = Some(backend as u16);
                }
            }
        }
        places.into_iter().flatten().collect()
    }

    fn shares(table: &Maglev, backends: usize) -> Vec<usize> {
        let mut shares = vec![0; backends];
        table.places.iter().for_each(|&b| shares[b as usize] += 1);
        shares
    }

    /// The part of the places of backends other than `gone` that have another backend in `after`.
    fn moved(before: &Maglev, after: &Maglev, gone: u16) -> f64 {
        assert_eq!(before.size(), after.size());
        let others = before.places.iter().zip(&after.places).filter(|(b, _)| **b != gone);
        let (mut all, mut moved) = (0u32, 0u32);
        for (&was, &is) in others {
            all += 1;
            moved += u32::from(was != is + u16::from(is >= gone));
        }
        f64::from(moved) / f64::from(all)
    }

    fn leave(backends: usize, salt: u64, gone: usize) -> f64 {
        let mut names = names(backends, salt);
        let before = Maglev::build(&names, SEED);
        names.remove(gone);
        moved(&before, &Maglev::build(&names, SEED), gone as u16)
    }

    #[test]
    fn the_ladder_is_of_primes_that_about_double() {
        for pair in LADDER.windows(2) {
            let ratio = f64::from(pair[1]) / f64::from(pair[0]);
            assert!((1.5..2.5).contains(&ratio), "{pair:?}");
        }
        for p in LADDER {
            assert!((2..).take_while(|d| d * d <= p).all(|d| p % d != 0), "{p} is no prime");
        }
        for backends in 1..=Maglev::MAX_BACKENDS {
            assert!(Maglev::size_for(backends) >= 100 * backends);
        }
    }

    #[test]
    fn shares_are_even() {
        for (backends, salt) in [(2, 1), (5, 2), (100, 3), (100, 4), (160, 5), (1000, 6)] {
            let shares = shares(&Maglev::build(&names(backends, salt), SEED), backends);
            let (most, least) = (*shares.iter().max().unwrap(), *shares.iter().min().unwrap());
            assert!(most as f64 <= 1.02 * least as f64, "{backends} backends: {least} to {most}");
        }
    }

    #[test]
    fn what_leaving_moves() {
        let cases: Vec<f64> = (0..20).map(|salt| leave(100, salt, (salt as usize * 37) % 100)).collect();
        let (mean, most) = (cases.iter().sum::<f64>() / 20.0, cases.iter().fold(0.0, |a: f64, &b| a.max(b)));
        println!("one of 100 leaves: {mean:.4} on average, {most:.4} at most");
        assert!(most <= 0.02, "{most}");
        let few: f64 = (0..20).map(|salt| leave(10, salt, salt as usize % 10)).sum::<f64>() / 20.0;
        println!("one of 10 leaves: {few:.4} on average");
        assert!(few <= 0.05, "{few}");
    }

    #[test]
    fn what_a_step_moves() {
        let names = names(81, 1);
        let (before, after) = (Maglev::build(&names[..80], SEED), Maglev::build(&names, SEED));
        assert!(before.size() < after.size());
        let keys = 100_000u64;
        let moved = (0..keys).filter(|&k| {
            let hash = siphash13([5, 6], &[k]);
            before.pick(hash) != after.pick(hash)
        });
        let moved = moved.count() as f64 / keys as f64;
        println!("a step moves {moved:.4}");
        assert!((0.9..1.0).contains(&moved), "{moved}: the documentation says 96 %");
    }

    #[test]
    fn small_sets() {
        assert_eq!(Maglev::build(&[], SEED).pick(u64::MAX), 0);
        assert_eq!(Maglev::build(&[7], SEED).pick(u64::MAX), 0);
        let twins = Maglev::build(&[7, 7], SEED);
        let shares = shares(&twins, 2);
        assert!(shares[0].abs_diff(shares[1]) <= 1, "equal names share too: {shares:?}");
        assert_eq!(twins.bytes(), 2 * twins.size());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn equals_the_paper(names in proptest::collection::vec(any::<u64>(), 2..30), seed: [u64; 2], hash: u64) {
            let table = Maglev::build(&names, seed);
            prop_assert_eq!(&*table.places, &slow(&names, seed)[..]);
            prop_assert!(table.pick(hash) < names.len());
        }
    }
}
