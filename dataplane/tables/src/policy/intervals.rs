//! A line cut into intervals, each with a row. The line from the second interval's first point on has buckets of equal
//! width, which say where to search; few intervals begin in one bucket unless they crowd.

use super::row::{Bits, Row};

/// Intervals' first points that are compared at once.
const WINDOW: usize = 8;
/// The most buckets.
const BUCKETS: usize = 1 << 16;

/// A point of a line: a port with its protocol, or an address.
pub(super) trait Key: Copy + Ord + std::fmt::Debug {
    const MIN: Self;
    const MAX: Self;
    /// The next point; `None` after the last.
    fn next(self) -> Option<Self>;
    /// The point before; `None` before the first.
    fn previous(self) -> Option<Self>;
    /// How far it is from `base`, which is not after it, in widths of `shift` bits.
    fn offset(self, base: Self, shift: u32) -> usize;
}

impl Key for u32 {
    const MIN: u32 = u32::MIN;
    const MAX: u32 = u32::MAX;
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<u32> {
        self.checked_sub(1)
    }
    #[inline(always)]
    fn offset(self, base: u32, shift: u32) -> usize {
        usize::try_from((self - base) >> shift).unwrap_or(usize::MAX)
    }
}

impl Key for u128 {
    const MIN: u128 = u128::MIN;
    const MAX: u128 = u128::MAX;
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<u128> {
        self.checked_sub(1)
    }
    #[inline(always)]
    fn offset(self, base: u128, shift: u32) -> usize {
        usize::try_from((self - base) >> shift).unwrap_or(usize::MAX)
    }
}

/// From the first point to the last, and the position that rows have there.
pub(super) type Span<K> = (K, K, u32);

#[derive(Clone, Debug)]
pub(super) struct Intervals<K> {
    /// The intervals' first points, then so many times the greatest point that a window from any of them is full.
    firsts: Box<[K]>,
    /// Each interval's row, in order.
    rows: Box<[Row]>,
    /// For each bucket the last interval that begins before it (at least 1), and at the end the last of all. Empty: all fit one window.
    buckets: Box<[u32]>,
    /// The width of a bucket, as a power of two.
    shift: u32,
}

impl<K: Key> Default for Intervals<K> {
    fn default() -> Self {
        Intervals::new(vec![(K::MIN, Row::empty())])
    }
}

impl<K: Key> Intervals<K> {
    /// From the first points, ascending from the least of all.
    fn new(parts: Vec<(K, Row)>) -> Self {
        let (mut firsts, rows): (Vec<K>, Vec<Row>) = parts.into_iter().unzip();
        let (mut buckets, mut shift) = (Vec::new(), 0);
        if firsts.len() > WINDOW + 1 {
            let wanted = (8 * firsts.len()).next_power_of_two().min(BUCKETS);
            let (base, last) = (firsts[1], firsts.len() - 1);
            while firsts[last].offset(base, shift) >= wanted {
                shift += 1;
            }
            // The last interval that begins before the bucket, or the first of all that have buckets.
            let mut at = 1;
            for bucket in 0..=firsts[last].offset(base, shift) {
                while at < last && firsts[at + 1].offset(base, shift) < bucket {
                    at += 1;
                }
                buckets.push(at as u32);
            }
            buckets.push(last as u32);
        }
        firsts.extend([K::MAX; WINDOW]);
        Intervals { firsts: firsts.into(), rows: rows.into(), buckets: buckets.into(), shift }
    }

    /// The row at a point.
    #[inline(always)]
    pub(super) fn get(&self, point: K) -> &Row {
        if self.rows.len() == 1 {
            return &self.rows[0];
        }
        let mut low = 0;
        if !self.buckets.is_empty() {
            let base = self.firsts[1];
            if point < base {
                return &self.rows[0];
            }
            let bucket = point.offset(base, self.shift).min(self.buckets.len() - 2);
            low = self.buckets[bucket] as usize;
            let mut high = self.buckets[bucket + 1] as usize;
            // Crowded: halve until one window has all that may begin at the point or before.
            while high - low > WINDOW {
                let middle = low.midpoint(high);
                if self.firsts[middle] <= point { low = middle } else { high = middle - 1 }
            }
        }
        let window = &self.firsts[low + 1..low + 1 + WINDOW];
        let after: usize = window.iter().map(|first| usize::from(*first <= point)).sum();
        // Not beyond the last, though the point be the greatest of all, as what fills the window is.
        &self.rows[(low + after).min(self.rows.len() - 1)]
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Bytes, without the rows themselves.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.firsts) + size_of_val(&*self.buckets) + size_of_val(&*self.rows)
    }

    fn firsts(&self) -> impl Iterator<Item = K> {
        self.firsts.iter().copied().take(self.rows.len())
    }

    /// Without the positions of `clear` in their spans and with those of `set` in theirs. Spans of one list and one
    /// position do not overlap. Rows that nothing changes are shared.
    pub(super) fn edit(&self, clear: &[Span<K>], set: &[Span<K>]) -> Self {
        let mut events = Vec::with_capacity(2 * (clear.len() + set.len()));
        for (list, spans) in [clear, set].into_iter().enumerate() {
            for &(first, last, position) in spans {
                events.push((first, true, list, position));
                events.extend(last.next().map(|end| (end, false, list, position)));
            }
        }
        // Ends before starts, for a span of the same position may follow at once.
        events.sort_unstable();
        let mut events = events.into_iter().peekable();
        let mut old = self.firsts().zip(self.rows.iter()).peekable();
        let mut masks = [Bits::default(), Bits::default()];
        let mut parts: Vec<(K, Row)> = Vec::with_capacity(self.rows.len() + 2);
        let mut row = &self.rows[0];
        loop {
            let next = [old.peek().map(|(first, _)| *first), events.peek().map(|event| event.0)];
            let Some(point) = next.into_iter().flatten().min() else { break };
            if let Some((_, found)) = old.next_if(|(first, _)| *first == point) {
                row = found;
            }
            while let Some((_, starts, list, position)) = events.next_if(|event| event.0 == point) {
                if starts { masks[list].insert(position) } else { masks[list].remove(position) }
            }
            let edited = row.edit(&masks[1], &masks[0]);
            if parts.last().is_none_or(|(_, before)| !before.is(&edited) && *before != edited) {
                parts.push((point, edited));
            }
        }
        Intervals::new(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Model = Vec<(u32, u32, u32)>;

    fn row(model: &Model, point: u32) -> Row {
        let here = model.iter().filter(|(first, last, _)| (first..=last).contains(&&point)).map(|span| span.2);
        Row::empty().edit(&here.collect(), &Bits::default())
    }

    fn spans() -> impl Strategy<Value = Model> {
        let point = prop_oneof![0u32..400, Just(u32::MAX), Just(u32::MAX - 1)];
        let span = (point.clone(), point).prop_map(|(a, b)| (a.min(b), a.max(b)));
        // Each span a position of its own.
        proptest::collection::vec(span, 0..80).prop_map(|spans| {
            spans.into_iter().enumerate().map(|(i, (first, last))| (first, last, i as u32 * 7)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_all_spans_in_turn(all in spans(), cut in 0usize..80, moved in 0u32..90) {
            let points = || (0..402).chain([u32::MAX - 2, u32::MAX - 1, u32::MAX]);
            let cut = cut.min(all.len());
            let built = Intervals::default().edit(&[], &all);
            let partly = Intervals::default().edit(&[], &all[..cut]);
            let emptied = built.edit(&all[cut..], &[]);
            let shifted: Model = all[..cut].iter().map(|(a, b, p)| (a.saturating_add(moved), b.saturating_add(moved), *p)).collect();
            let edited = partly.edit(&all[..cut], &shifted);
            for point in points() {
                prop_assert_eq!(built.get(point), &row(&all, point));
                prop_assert_eq!(partly.get(point), &row(&all[..cut].to_vec(), point));
                prop_assert_eq!(emptied.get(point), partly.get(point));
                prop_assert_eq!(edited.get(point), &row(&shifted, point));
            }
            prop_assert_eq!(emptied.rows.len(), partly.rows.len());
            prop_assert_eq!(built.edit(&all, &[]).rows.len(), 1);
        }
    }
}
