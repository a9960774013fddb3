//! Rows: sets of positions, as bits in chunks of which only those with a bit are kept.

use std::sync::{Arc, LazyLock};

use crate::mem;

/// Words of a chunk.
const WORDS: usize = 8;
/// Positions of a chunk.
const BITS: usize = 64 * WORDS;
/// Chunks of a row: what the header has room for.
const CHUNKS: usize = 8 * (WORDS - 1);
/// The first so many chunks are there even if they are empty, when one of them follows that is not: chunk c is line c + 1
/// in all rows of a set with no more chunks than that.
const DENSE: usize = 4;
/// Positions of a row.
pub(super) const POSITIONS: usize = CHUNKS * BITS;

/// 512 positions, in one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
struct Chunk([u64; WORDS]);

static NOTHING: Chunk = Chunk([0; WORDS]);
static EMPTY: LazyLock<Row> = LazyLock::new(|| Row(Arc::from([NOTHING])));

/// Positions, immutable and shared.
///
/// The first line is the header: a word that says which chunks are there (bit c for chunk c), then for each chunk a byte
/// that says at which line it lies, 0 if nowhere. The chunks follow in order; what lines there are depends on the
/// positions alone, so that equal sets are equal lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row(Arc<[Chunk]>);

/// Chunks for so many positions.
pub(super) const fn chunks(positions: usize) -> usize {
    positions.div_ceil(BITS)
}

impl Default for Row {
    fn default() -> Row {
        Row::empty()
    }
}

impl Row {
    /// No position.
    pub(super) fn empty() -> Row {
        EMPTY.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present() == 0
    }

    fn new(chunks: impl Iterator<Item = (usize, Chunk)>) -> Row {
        let mut lines = vec![NOTHING];
        for (index, chunk) in chunks.filter(|(_, chunk)| *chunk != NOTHING) {
            while index < DENSE && lines.len() <= index {
                lines.push(NOTHING);
            }
            let place = lines.len() as u64;
            lines[0].0[0] |= 1 << index;
            lines[0].0[1 + index / 8] |= place << (index % 8 * 8);
            lines.push(chunk);
        }
        if lines.len() == 1 { Row::empty() } else { Row(lines.into()) }
    }

    #[inline(always)]
    fn present(&self) -> u64 {
        self.0[0].0[0]
    }

    #[inline(always)]
    fn chunk(&self, index: usize) -> &Chunk {
        let place = (self.0[0].0[1 + index / 8] >> (index % 8 * 8)) as usize & 0xff;
        if place == 0 { &NOTHING } else { &self.0[place] }
    }

    /// Whether each of a set's first `chunks` chunks is there, which its length says: then chunk c is line c + 1, and the
    /// header need not be read.
    #[inline(always)]
    fn is_dense(&self, chunks: usize) -> bool {
        self.0.len() == chunks + 1
    }

    /// Asks for the lines that [`first`] reads first.
    #[inline(always)]
    pub(super) fn prefetch(&self, chunks: usize) {
        if chunks > DENSE && !self.is_dense(chunks) {
            mem::prefetch(&self.0[0]);
        }
        if let Some(chunk) = self.0.get(1) {
            mem::prefetch(chunk);
        }
    }

    /// This row with the positions of `set`, and without those of `clear` that `set` has not.
    pub(super) fn edit(&self, set: &Bits, clear: &Bits) -> Row {
        let touched = set.present | clear.present & self.present();
        let word = |c: usize, i: usize, word: u64| word & !clear.word(c, i) | set.word(c, i);
        if ones(touched).all(|c| self.chunk(c).0.iter().enumerate().all(|(i, old)| word(c, i, *old) == *old)) {
            return self.clone();
        }
        Row::new(ones(self.present() | set.present).map(|c| {
            let mut chunk = *self.chunk(c);
            if touched >> c & 1 != 0 {
                for (i, old) in chunk.0.iter_mut().enumerate() {
                    *old = word(c, i, *old);
                }
            }
            (c, chunk)
        }))
    }

    /// Whether both are the same memory, which says that they are equal and asks for no more than that.
    pub(super) fn is(&self, other: &Row) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Who it is, for as long as somebody holds it.
    pub(super) fn identity(&self) -> usize {
        self.0.as_ptr() as usize
    }

    pub(super) fn words(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|chunk| chunk.0)
    }

    /// Bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.0) + 64
    }

    #[cfg(test)]
    fn positions(&self) -> Vec<usize> {
        (0..POSITIONS).filter(|p| self.chunk(p / BITS).0[p % BITS / 64] >> (p % 64) & 1 != 0).collect()
    }
}

/// The rows that decide about a flow.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) ports: &'a Row,
    pub(super) class: &'a Row,
    pub(super) net: &'a Row,
    /// Chunks of the longest row of the set.
    pub(super) chunks: usize,
}

impl Rows<'_> {
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        self.ports.prefetch(self.chunks);
        self.class.prefetch(self.chunks);
        self.net.prefetch(self.chunks);
    }

    /// The first position from `from` on that is in `ports` and in `class` or `net`.
    #[inline(always)]
    pub(super) fn first(&self, from: usize) -> Option<usize> {
        let Rows { ports, class, net, chunks } = *self;
        if chunks <= DENSE {
            for at in from / BITS..ports.0.len() - 1 {
                let line = |row: &'_ Row| *row.0.get(at + 1).unwrap_or(&NOTHING);
                if let Some(position) = common(at, &ports.0[at + 1], &line(class), &line(net), from) {
                    return Some(position);
                }
            }
            return None;
        }
        if ports.is_dense(chunks) && class.is_dense(chunks) && net.is_dense(chunks) {
            let lines = ports.0[1..].iter().zip(&class.0[1..]).zip(&net.0[1..]).enumerate().skip(from / BITS);
            for (at, ((ports, class), net)) in lines {
                if let Some(position) = common(at, ports, class, net, from) {
                    return Some(position);
                }
            }
            return None;
        }
        let mut shared = ports.present() & (class.present() | net.present());
        if from != 0 {
            shared = if from < POSITIONS { shared >> (from / BITS) << (from / BITS) } else { 0 };
        }
        while shared != 0 {
            let at = shared.trailing_zeros() as usize;
            let found = common(at, ports.chunk(at), class.chunk(at), net.chunk(at), from);
            if found.is_some() {
                return found;
            }
            shared &= shared - 1;
        }
        None
    }
}

/// The first position from `from` on of those that the chunk `at` of each row has in common.
#[inline(always)]
fn common(at: usize, ports: &Chunk, class: &Chunk, net: &Chunk, from: usize) -> Option<usize> {
    let mut words: [u64; WORDS] = std::array::from_fn(|i| ports.0[i] & (class.0[i] | net.0[i]));
    if from > at * BITS {
        let from = from - at * BITS;
        words[..from / 64].fill(0);
        words[from / 64] = words[from / 64] >> (from % 64) << (from % 64);
    }
    if words.iter().fold(0, |any, word| any | word) == 0 {
        return None;
    }
    // Where it stands is anybody's guess, so without branches.
    let first = (0..WORDS).rev().fold((0, 0), |first, i| if words[i] != 0 { (i, words[i]) } else { first });
    Some(at * BITS + first.0 * 64 + first.1.trailing_zeros() as usize)
}

/// The ones of a word, ascending.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(at)
    })
}

/// Positions under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    /// Which chunks have a bit.
    present: u64,
    chunks: Vec<Chunk>,
}

impl Bits {
    pub(super) fn insert(&mut self, position: u32) {
        let (chunk, word, bit) = place(position);
        if self.chunks.len() <= chunk {
            self.chunks.resize(chunk + 1, NOTHING);
        }
        self.chunks[chunk].0[word] |= bit;
        self.present |= 1 << chunk;
    }

    pub(super) fn remove(&mut self, position: u32) {
        let (chunk, word, bit) = place(position);
        if let Some(found) = self.chunks.get_mut(chunk) {
            found.0[word] &= !bit;
            if *found == NOTHING {
                self.present &= !(1 << chunk);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present == 0
    }

    fn word(&self, chunk: usize, word: usize) -> u64 {
        self.chunks.get(chunk).map_or(0, |found| found.0[word])
    }
}

impl FromIterator<u32> for Bits {
    fn from_iter<I: IntoIterator<Item = u32>>(positions: I) -> Bits {
        let mut bits = Bits::default();
        for position in positions {
            bits.insert(position);
        }
        bits
    }
}

fn place(position: u32) -> (usize, usize, u64) {
    let position = position as usize;
    debug_assert!(position < POSITIONS);
    (position / BITS, position % BITS / 64, 1 << (position % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Few chunks, so that some are met often, and the last one.
    fn positions() -> impl Strategy<Value = BTreeSet<u32>> {
        let position = prop_oneof![0u32..1600, Just(POSITIONS as u32 - 1), 0..POSITIONS as u32];
        proptest::collection::btree_set(position, 0..40)
    }

    /// Close to one another, so that all chunks are there.
    fn near() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(0u32..1100, 0..60)
    }

    fn row(positions: &BTreeSet<u32>) -> Row {
        Row::empty().edit(&positions.iter().copied().collect(), &Bits::default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rows_are_sets(a in positions(), set in positions(), clear in positions()) {
            let mut expected = &(&a - &clear) | &set;
            let edited = row(&a).edit(&set.iter().copied().collect(), &clear.iter().copied().collect());
            prop_assert!(edited.positions().into_iter().eq(expected.iter().map(|p| *p as usize)));
            prop_assert_eq!(&edited, &row(&expected));
            let mut bits: Bits = expected.iter().copied().collect();
            for position in &a {
                bits.remove(*position);
                expected.remove(position);
            }
            prop_assert_eq!(bits.is_empty(), expected.is_empty());
            prop_assert_eq!(Row::empty().edit(&bits, &Bits::default()), row(&expected));
        }

        #[test]
        fn the_first_common_position(
            (a, b, c) in prop_oneof![(positions(), positions(), positions()), (near(), near(), near())],
            from in 0usize..=POSITIONS,
        ) {
            let peers = &b | &c;
            let common = &a & &peers;
            let last = a.iter().chain(&b).chain(&c).max().copied().unwrap_or(0) as usize;
            let chunks = last / BITS + 1;
            for from in [0, from, from % 1600] {
                let expected = common.range(from as u32..).next().map(|p| *p as usize);
                for chunks in [chunks, CHUNKS] {
                    let rows = Rows { ports: &row(&a), class: &row(&b), net: &row(&c), chunks };
                    prop_assert_eq!(rows.first(from), expected);
                }
            }
        }
    }
}
