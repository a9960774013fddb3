//! A hash map in parts, so that a changed entry costs the copy of a few others and the rest is shared.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

const PARTS: usize = 256;

/// Multiply and fold. The keys are the operator's, so nobody else can make them collide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fold(u64);

impl Hasher for Fold {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        let product = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }
}

/// A map with that hash.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// The map. A clone shares all parts; a change copies the part that it falls into.
#[derive(Clone, Debug)]
pub(crate) struct Shards<K, V> {
    parts: Box<[Arc<Map<K, V>>]>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(Map::default());
        Shards { parts: (0..PARTS).map(|_| Arc::clone(&empty)).collect() }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Shards<K, V> {
    #[inline]
    fn part(key: &K) -> usize {
        // Other bits than those by which a map finds its places.
        (BuildHasherDefault::<Fold>::default().hash_one(key) >> 24) as usize % PARTS
    }

    /// The value of a key.
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.parts[Self::part(key)].get(key)
    }

    /// Puts a value in; returns the one that was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        Arc::make_mut(&mut self.parts[Self::part(&key)]).insert(key, value)
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let part = &mut self.parts[Self::part(key)];
        if part.contains_key(key) { Arc::make_mut(part).remove(key) } else { None }
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}
