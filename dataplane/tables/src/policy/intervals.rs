//! A line cut into intervals, each with a row; found by a tree of 16 keys a node.

use super::row::{Bits, Row};

const NODE: usize = 16;

/// A point of a line: a port with its protocol, or an address.
pub(super) trait Key: Copy + Ord + std::fmt::Debug {
    const MIN: Self;
    const MAX: Self;
    /// The next point; `None` after the last.
    fn next(self) -> Option<Self>;
    /// The point before; `None` before the first.
    fn previous(self) -> Option<Self>;
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
}

/// From the first point to the last, and the position that rows have there.
pub(super) type Span<K> = (K, K, u32);

#[derive(Clone, Debug)]
pub(super) struct Intervals<K> {
    /// The levels of the tree, the root first. A level holds each 16th key of the next one; the lowest holds the
    /// intervals' first points. Places without a key hold the greatest one.
    nodes: Box<[[K; NODE]]>,
    /// Of each level from the root: its first node, and how many keys it has. Never empty.
    levels: Box<[(u32, u32)]>,
    /// Each interval's row, in order.
    rows: Box<[Row]>,
}

impl<K: Key> Default for Intervals<K> {
    fn default() -> Self {
        Intervals::new(vec![(K::MIN, Row::empty())])
    }
}

impl<K: Key> Intervals<K> {
    /// From the first points, ascending from the least of all.
    fn new(parts: Vec<(K, Row)>) -> Self {
        let mut heights: Vec<Vec<K>> = vec![parts.iter().map(|(first, _)| *first).collect()];
        while let Some(keys) = heights.last().filter(|keys| keys.len() > NODE) {
            heights.push(keys.iter().copied().step_by(NODE).collect());
        }
        let (mut nodes, mut levels) = (Vec::new(), Vec::new());
        for keys in heights.iter().rev() {
            levels.push((nodes.len() as u32, keys.len() as u32));
            nodes.extend(keys.chunks(NODE).map(|keys| {
                let mut node = [K::MAX; NODE];
                node[..keys.len()].copy_from_slice(keys);
                node
            }));
        }
        let rows = parts.into_iter().map(|(_, row)| row).collect();
        Intervals { nodes: nodes.into(), levels: levels.into(), rows }
    }

    /// The row at a point.
    #[inline(always)]
    pub(super) fn get(&self, point: K) -> &Row {
        if self.rows.len() == 1 {
            return &self.rows[0];
        }
        let mut at = 0;
        for &(first, keys) in &self.levels {
            let node = &self.nodes[first as usize + at];
            let below: usize = node.iter().map(|key| usize::from(*key <= point)).sum();
            // Not beyond the keys, though the point be the greatest of all, as places without a key are. A node's
            // first key is never above the point.
            at = (at * NODE + below - 1).min(keys as usize - 1);
        }
        &self.rows[at]
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Bytes, without the rows themselves.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.levels) + size_of_val(&*self.rows)
    }

    fn firsts(&self) -> impl Iterator<Item = K> {
        let lowest = self.levels[self.levels.len() - 1].0 as usize;
        self.nodes[lowest..].iter().flatten().copied().take(self.rows.len())
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
