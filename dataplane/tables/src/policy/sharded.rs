//! A hash table in shards that are copied when written: a clone shares all shards, a change copies one of them and the
//! list of shards.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use super::SelectorId;
use super::row::Row;
use crate::mem;

/// Entries of a shard, on average, before the shards double.
const FILL: usize = 24;
/// Places of the smallest shard.
const LEAST: usize = 4;

/// What can be looked up.
pub(super) trait Key: Clone + Eq {
    /// 64 bits that depend on all of the key and on the seed.
    fn mix(&self, seed: u64) -> u64;
}

/// The two halves of a product, folded.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

impl Key for u32 {
    #[inline(always)]
    fn mix(&self, seed: u64) -> u64 {
        fold(u64::from(*self) ^ seed, ODD[0])
    }
}

impl Key for u128 {
    #[inline(always)]
    fn mix(&self, seed: u64) -> u64 {
        fold(fold(*self as u64 ^ seed, ODD[0]) ^ (*self >> 64) as u64, ODD[1])
    }
}

impl Key for Arc<[SelectorId]> {
    fn mix(&self, seed: u64) -> u64 {
        self.iter().fold(fold(self.len() as u64 ^ seed, ODD[0]), |hash, s| fold(hash ^ u64::from(s.0), ODD[1]))
    }
}

impl Key for Row {
    fn mix(&self, seed: u64) -> u64 {
        self.words().fold(seed, |hash, word| fold(hash ^ word, ODD[0]))
    }
}

type Shard<K, V> = Arc<[Option<(K, V)>]>;

#[derive(Clone)]
pub(super) struct Sharded<K, V> {
    /// None, or a power of two; the places of each are a power of two, one of which at least is free.
    shards: Arc<[Shard<K, V>]>,
    len: usize,
    seed: u64,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        // Random, so that nobody can choose addresses that share a shard.
        Sharded { shards: Arc::from([]), len: 0, seed: RandomState::new().build_hasher().finish() }
    }
}

impl<K, V> Sharded<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.shards.iter().flat_map(|shard| shard.iter().flatten())
    }

    /// Bytes, without what keys and values own.
    pub(super) fn memory(&self) -> usize {
        self.shards.iter().map(|shard| size_of_val(&**shard) + 32).sum()
    }
}

impl<K: Key, V: Clone> Sharded<K, V> {
    #[inline(always)]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Asks for the place where [`Sharded::get`] begins to search.
    #[inline(always)]
    pub(super) fn prefetch(&self, key: &K) {
        let hash = key.mix(self.seed);
        if let Some(shard) = self.shards.get(self.shard(hash)) {
            mem::prefetch(&shard[hash as usize & (shard.len() - 1)]);
        }
    }

    /// The key that is here.
    pub(super) fn get_key(&self, key: &K) -> Option<&K> {
        self.entry(key).map(|(found, _)| found)
    }

    #[inline(always)]
    fn entry(&self, key: &K) -> Option<&(K, V)> {
        let hash = key.mix(self.seed);
        let shard = self.shards.get(self.shard(hash))?;
        let mask = shard.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(entry) = &shard[at] {
            if entry.0 == *key {
                return Some(entry);
            }
            at = (at + 1) & mask;
        }
        None
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.get(key)?;
        let hash = key.mix(self.seed);
        let index = self.shard(hash);
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[index]);
        let at = find(shard, key, hash);
        shard[at].as_mut().map(|(_, value)| value)
    }

    /// What was there before.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= FILL * self.shards.len() {
            self.resize((2 * self.shards.len()).max(1));
        }
        let hash = key.mix(self.seed);
        let index = self.shard(hash);
        let shard = &mut Arc::make_mut(&mut self.shards)[index];
        let at = find(shard, &key, hash);
        if shard[at].is_some() {
            return Arc::make_mut(shard)[at].replace((key, value)).map(|(_, old)| old);
        }
        self.len += 1;
        if (shard.iter().flatten().count() + 1) * 2 > shard.len() {
            *shard = rehashed(shard.iter().flatten().cloned(), 2 * shard.len(), self.seed);
        }
        let at = find(shard, &key, hash);
        Arc::make_mut(shard)[at] = Some((key, value));
        None
    }

    /// What was there.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let hash = key.mix(self.seed);
        let index = self.shard(hash);
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[index]);
        let mask = shard.len() - 1;
        let mut hole = find(shard, key, hash);
        let (_, value) = shard[hole].take()?;
        // Whoever follows and may stand in the hole moves there, so that no search ends too early.
        let mut next = (hole + 1) & mask;
        while let Some((key, _)) = &shard[next] {
            let home = key.mix(self.seed) as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                shard.swap(hole, next);
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.len -= 1;
        if self.shards.len() > 1 && self.len * 8 < FILL * self.shards.len() {
            self.resize(self.shards.len() / 2);
        }
        Some(value)
    }

    #[inline(always)]
    fn shard(&self, hash: u64) -> usize {
        (hash >> 32) as usize & self.shards.len().wrapping_sub(1)
    }

    fn resize(&mut self, shards: usize) {
        let mut parts: Vec<Vec<(K, V)>> = (0..shards).map(|_| Vec::new()).collect();
        for (key, value) in self.iter() {
            parts[(key.mix(self.seed) >> 32) as usize & (shards - 1)].push((key.clone(), value.clone()));
        }
        let places = |n: usize| (2 * n).next_power_of_two().max(LEAST);
        self.shards = parts
            .into_iter()
            .map(|part| {
                let places = places(part.len());
                rehashed(part.into_iter(), places, self.seed)
            })
            .collect();
    }
}

/// The place of the key, or the free one where it belongs.
fn find<K: Key, V>(shard: &[Option<(K, V)>], key: &K, hash: u64) -> usize {
    let mask = shard.len() - 1;
    let mut at = hash as usize & mask;
    while shard[at].as_ref().is_some_and(|(found, _)| found != key) {
        at = (at + 1) & mask;
    }
    at
}

fn rehashed<K: Key, V>(entries: impl Iterator<Item = (K, V)>, places: usize, seed: u64) -> Shard<K, V> {
    let mut slots: Vec<Option<(K, V)>> = (0..places).map(|_| None).collect();
    for (key, value) in entries {
        let at = find(&slots, &key, key.mix(seed));
        slots[at] = Some((key, value));
    }
    slots.into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_a_map_and_leaves_its_clones_alone(
            steps in proptest::collection::vec((0u32..400, any::<Option<u32>>()), 1..1200),
            at in 0usize..1200,
        ) {
            let mut table = Sharded::<u32, u32>::default();
            let mut model = HashMap::new();
            let mut kept = None;
            for (step, (key, value)) in steps.iter().enumerate() {
                match value {
                    Some(value) => prop_assert_eq!(table.insert(*key, *value), model.insert(*key, *value)),
                    None => prop_assert_eq!(table.remove(key), model.remove(key)),
                }
                prop_assert_eq!(table.get(key), model.get(key));
                prop_assert_eq!(table.len(), model.len());
                if step == at {
                    kept = Some((table.clone(), model.clone()));
                }
            }
            for (table, model) in kept.into_iter().chain([(table, model)]) {
                prop_assert_eq!(table.iter().copied().collect::<HashMap<_, _>>(), model.clone());
                for key in 0..400 {
                    prop_assert_eq!(table.get(&key), model.get(&key));
                }
            }
        }
    }
}
