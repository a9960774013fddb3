//! Lines of tags and indices over a pool of entries.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use podplane_packet::id::WorkerId;

use super::config::check_capacity;
use super::entry::{FREE, LIVE, RETIRED};
use super::{
    Addr, Entry, EntryState, FlowConfig, FlowError, FlowHash, FlowKeys, Half, HalfRef, InsertError, Key, LineStats,
    Slot,
};
use crate::mem::{Array, Backing, match_tags, prefetch};
use crate::quota::Quota;

/// Places of one line.
const WAYS: usize = 12;
/// The bits of [`match_tags`] that stand for places.
const WAYS_MASK: u16 = (1 << WAYS) - 1;
/// Lines per entries: when the table is full seven of ten places are taken, so that 8 % of the lines are passed by.
const FILL: (usize, usize) = (3, 25);
/// The part of a table that is kept for ports with few flows is one over this.
const RESERVE: usize = 8;
/// The most keys that [`FlowTable::find_bulk`] takes.
const BULK: usize = 32;

/// One cache line of the index.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Line {
    /// Twelve tags (0: the place is empty), then how many entries passed by this line, as native-endian u32.
    head: [u8; 16],
    slots: [u32; WAYS],
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    #[inline(always)]
    fn passed(&self) -> u32 {
        u32::from_ne_bytes([self.head[12], self.head[13], self.head[14], self.head[15]])
    }

    fn set_passed(&mut self, n: u32) {
        self.head[WAYS..].copy_from_slice(&n.to_ne_bytes());
    }

    #[inline(always)]
    fn matches(&self, tag: u8) -> u16 {
        match_tags(&self.head, tag) & WAYS_MASK
    }
}

fn lines_of(capacity: usize) -> usize {
    (capacity * FILL.0).div_ceil(FILL.1)
}

/// The flow table of one worker and one family. See the [module](super).
#[derive(Debug)]
pub struct FlowTable<A: Addr> {
    lines: Array<Line>,
    /// Element 0 is never used, so that 0 can mean "none".
    entries: Array<Entry<A>>,
    keys: FlowKeys,
    /// Head of the list of freed entries, 0 for none.
    free: u32,
    /// Entries from here on were never used.
    fresh: u32,
    /// Entries that are live or retired.
    used: u32,
}

impl<A: Addr> FlowTable<A> {
    /// The largest capacity.
    pub const MAX_CAPACITY: usize = 1 << 28;

    /// An empty table; maps and populates all memory that it will ever use.
    ///
    /// # Errors
    /// [`FlowError`].
    pub fn new(config: FlowConfig) -> Result<Self, FlowError> {
        check_capacity(config.capacity)?;
        let entries = Array::new(config.capacity + 1, config.memory)
            .map_err(|source| FlowError::memory(config.capacity, Self::bytes(config.capacity), source))?;
        Self::with_entries(config, entries)
    }

    /// An empty table whose entries, one more than its capacity, lie in the given zeroed memory.
    pub(super) fn with_entries(config: FlowConfig, entries: Array<Entry<A>>) -> Result<Self, FlowError> {
        debug_assert_eq!(entries.len(), config.capacity + 1);
        let lines = Array::new(lines_of(config.capacity), config.memory)
            .map_err(|source| FlowError::memory(config.capacity, Self::bytes(config.capacity), source))?;
        Ok(FlowTable { lines, entries, keys: FlowKeys::new(config.seed), free: 0, fresh: 1, used: 0 })
    }

    fn bytes(capacity: usize) -> usize {
        (capacity + 1) * size_of::<Entry<A>>() + lines_of(capacity) * size_of::<Line>()
    }

    /// How many half-entries it holds at most.
    pub fn capacity(&self) -> usize {
        self.entries.len() - 1
    }

    /// How many slots are in use: live ones, and retired ones that wait for an acknowledgement.
    pub fn len(&self) -> usize {
        self.used as usize
    }

    /// Whether less than an eighth of the slots are free: kept for ports that have little, see [`Quota`].
    #[inline]
    pub fn is_scarce(&self) -> bool {
        self.capacity() - self.len() < self.capacity() / RESERVE
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// What memory the entries lie in.
    pub fn backing(&self) -> Backing {
        self.entries.backing()
    }

    /// The memfd of the entries, for whoever keeps them beyond our end.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.entries.fd()
    }

    /// The hash of a key, the same until the table is dropped.
    #[inline(always)]
    pub fn hash(&self, key: &Key<A>) -> FlowHash {
        A::flow_hash(key, &self.keys)
    }

    /// Asks for the home line of a hash; call it as early as the key is known.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) {
        prefetch(&self.lines[self.home(hash)]);
    }

    #[inline(always)]
    fn home(&self, hash: FlowHash) -> usize {
        hash.line(self.lines.len() as u32)
    }

    /// The next line of a probe sequence.
    #[inline(always)]
    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// The live entry of a key; `hash` must be its [`FlowTable::hash`].
    #[inline]
    pub fn find(&self, key: &Key<A>, hash: FlowHash) -> Option<Slot> {
        let (line, way) = self.locate(key, hash)?;
        Slot::from_index(self.lines[line].slots[way])
    }

    /// Where the index holds a key. Ends at a line that no entry passed by, after one round at the latest.
    #[inline]
    fn locate(&self, key: &Key<A>, hash: FlowHash) -> Option<(usize, usize)> {
        let tag = hash.tag();
        let mut at = self.home(hash);
        for _ in 0..self.lines.len() {
            let line = &self.lines[at];
            let mut candidates = line.matches(tag);
            while candidates != 0 {
                let way = candidates.trailing_zeros() as usize;
                if self.entries[line.slots[way] as usize].key() == key {
                    return Some((at, way));
                }
                candidates &= candidates - 1;
            }
            if line.passed() == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Looks up to 32 keys up at once: all tags first, then all entries, each a stage behind its prefetch. The home
    /// lines should have been asked for by [`FlowTable::prefetch`] before. `found[i]` becomes the entry of `keys[i]`.
    ///
    /// # Panics
    /// If the three slices differ in length or are longer than 32.
    pub fn find_bulk(&self, keys: &[Key<A>], hashes: &[FlowHash], found: &mut [Option<Slot>]) {
        assert!(keys.len() <= BULK && keys.len() == hashes.len() && keys.len() == found.len());
        for (hash, slot) in hashes.iter().zip(found.iter_mut()) {
            let line = &self.lines[self.home(*hash)];
            let candidates = line.matches(hash.tag());
            // Index 0 stands for "no candidate": its entry is never live, and its line is always in the cache.
            let first = line.slots[candidates.trailing_zeros() as usize % WAYS];
            let index = if candidates == 0 { 0 } else { first };
            prefetch(&self.entries[index as usize]);
            *slot = Slot::from_index(index);
        }
        for ((key, hash), slot) in keys.iter().zip(hashes).zip(found.iter_mut()) {
            let guess = slot.filter(|s| {
                let entry = &self.entries[s.index() as usize];
                entry.key() == key && entry.state.load(Ordering::Relaxed) == LIVE
            });
            *slot = if guess.is_some() { guess } else { self.find(key, *hash) };
        }
    }

    /// Inserts a half-entry, charged to its local port. `hash` must be the hash of its key.
    ///
    /// # Errors
    /// [`InsertError`]; nothing is changed then.
    pub fn insert(&mut self, hash: FlowHash, half: &Half<A>, quota: &mut Quota) -> Result<Slot, InsertError> {
        if let Some(slot) = self.find(&half.key, hash) {
            return Err(InsertError::Exists(slot));
        }
        let index = if self.free != 0 { self.free } else { self.fresh };
        let Some(slot) = Slot::from_index(index).filter(|s| (s.index() as usize) < self.entries.len()) else {
            return Err(InsertError::Full);
        };
        quota.charge(half.local_port, self.is_scarce()).map_err(|_| InsertError::Quota)?;
        if self.free != 0 {
            self.free = self.entries[index as usize].peer_index;
        } else {
            self.fresh += 1;
        }
        self.used += 1;
        self.entries[index as usize].write(half);
        self.link(hash, slot);
        Ok(slot)
    }

    /// Puts a half-entry of a former process where it lay, with the sequence number it had, so that references to it
    /// go on. To be followed by [`FlowTable::settle`] before anything is inserted.
    ///
    /// # Errors
    /// [`InsertError`]; `Full` if the slot is none of this table's or in use. Nothing is changed then.
    pub fn adopt(&mut self, at: Slot, sequence: u32, half: &Half<A>, quota: &mut Quota) -> Result<(), InsertError> {
        let hash = self.hash(&half.key);
        if let Some(slot) = self.find(&half.key, hash) {
            return Err(InsertError::Exists(slot));
        }
        if self.entries.get(at.index() as usize).is_none_or(|e| e.state() != EntryState::Free) {
            return Err(InsertError::Full);
        }
        quota.charge(half.local_port, false).map_err(|_| InsertError::Quota)?;
        let entry = &mut self.entries[at.index() as usize];
        entry.write(half);
        entry.sequence = sequence;
        self.used += 1;
        self.link(hash, at);
        Ok(())
    }

    /// Lists the slots that were left free between adopted ones. Walks all entries, so not for the packet path.
    pub fn settle(&mut self) {
        let last = (1..self.entries.len()).rev().find(|&i| self.entries[i].state() != EntryState::Free);
        self.fresh = last.map_or(1, |i| i as u32 + 1);
        self.free = 0;
        for i in (1..self.fresh).rev() {
            let entry = &mut self.entries[i as usize];
            if entry.state() == EntryState::Free {
                entry.peer_index = self.free;
                self.free = i;
            }
        }
    }

    /// Places an index in the first line with room; there is one, for the lines have 36 places per 25 entries.
    fn link(&mut self, hash: FlowHash, slot: Slot) {
        let mut at = self.home(hash);
        loop {
            let next = self.next(at);
            let line = &mut self.lines[at];
            let empty = line.matches(0);
            if empty != 0 {
                let way = empty.trailing_zeros() as usize;
                line.slots[way] = slot.index();
                line.head[way] = hash.tag();
                return;
            }
            line.set_passed(line.passed() + 1);
            at = next;
        }
    }

    fn unlink(&mut self, key: &Key<A>, hash: FlowHash) {
        let Some((found, way)) = self.locate(key, hash) else { return };
        let mut at = self.home(hash);
        while at != found {
            let next = self.next(at);
            let line = &mut self.lines[at];
            line.set_passed(line.passed() - 1);
            at = next;
        }
        self.lines[found].head[way] = 0;
        self.lines[found].slots[way] = 0;
    }

    /// An entry in use. `None` for free slots and slots of other tables.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<&Entry<A>> {
        self.entries.get(slot.index() as usize).filter(|e| e.state.load(Ordering::Relaxed) != FREE)
    }

    /// An entry in use, to be changed.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry<A>> {
        self.entries.get_mut(slot.index() as usize).filter(|e| e.state.load(Ordering::Relaxed) != FREE)
    }

    /// Asks for the cache line of an entry.
    #[inline]
    pub fn prefetch_entry(&self, slot: Slot) {
        if let Some(entry) = self.entries.get(slot.index() as usize) {
            prefetch(entry);
        }
    }

    /// The name of an entry in use, for another worker to keep.
    pub fn half_ref(&self, worker: WorkerId, slot: Slot) -> Option<HalfRef> {
        Some(HalfRef { worker, slot, sequence: self.get(slot)?.sequence() })
    }

    /// The slot that a reference into this table names, unless the entry was freed since.
    pub fn resolve(&self, half: HalfRef) -> Option<Slot> {
        self.get(half.slot).filter(|e| e.sequence() == half.sequence).map(|_| half.slot)
    }

    /// Replaces all of a live entry but its key, which `half` must repeat; the sequence number stays.
    ///
    /// # Errors
    /// [`InsertError::Quota`] if the local port changes and the new one may have no more; nothing is changed then.
    ///
    /// # Panics
    /// If the slot is not live or the key is another.
    pub fn replace(&mut self, slot: Slot, half: &Half<A>, quota: &mut Quota) -> Result<(), InsertError> {
        let entry = &mut self.entries[slot.index() as usize];
        assert!(entry.state() == EntryState::Live && entry.key() == &half.key, "replace keeps a live entry's key");
        if entry.local_port() != half.local_port {
            quota.charge(half.local_port, false).map_err(|_| InsertError::Quota)?;
            quota.release(entry.local_port());
        }
        entry.write(half);
        Ok(())
    }

    /// Takes a live entry out of the index: no lookup finds it, and its key may be inserted again, but the slot stays
    /// as it is (and charged) until [`FlowTable::free`]. Returns false if it was not live.
    pub fn retire(&mut self, slot: Slot) -> bool {
        let Some(entry) = self.get(slot).filter(|e| e.state() == EntryState::Live) else { return false };
        let key = *entry.key();
        let hash = self.hash(&key);
        self.unlink(&key, hash);
        self.entries[slot.index() as usize].state.store(RETIRED, Ordering::Release);
        true
    }

    /// Frees a slot, retiring it before if need be. Returns false if it was free already.
    pub fn free(&mut self, slot: Slot, quota: &mut Quota) -> bool {
        if self.get(slot).is_none() {
            return false;
        }
        self.retire(slot);
        let next = self.free;
        let entry = &mut self.entries[slot.index() as usize];
        quota.release(entry.local_port());
        entry.state.store(FREE, Ordering::Release);
        entry.sequence = entry.sequence.wrapping_add(1);
        entry.peer_index = next;
        self.free = slot.index();
        self.used -= 1;
        true
    }

    /// The live slots among `count` from index `from` on, for bounded walks; continue at `from + count` until that
    /// exceeds the capacity.
    pub fn live(&self, from: u32, count: usize) -> impl Iterator<Item = Slot> + '_ {
        let start = (from.max(1) as usize).min(self.fresh as usize);
        let end = (from as usize).saturating_add(count).clamp(start, self.fresh as usize);
        (start..end).filter_map(|i| {
            Slot::from_index(i as u32).filter(|_| self.entries[i].state.load(Ordering::Relaxed) == LIVE)
        })
    }

    /// Bytes mapped, index and entries.
    pub fn memory(&self) -> usize {
        self.lines.mapped() + self.entries.mapped()
    }

    /// How well the entries lie. Walks the whole table: for tests, benchmarks and slow gauges only.
    pub fn stats(&self) -> LineStats {
        let mut stats = LineStats { lines: self.lines.len(), ..LineStats::default() };
        for (at, line) in self.lines.iter().enumerate() {
            stats.passed_by += usize::from(line.passed() != 0);
            for way in 0..WAYS {
                let key = self.entries[line.slots[way] as usize].key();
                stats.displaced += usize::from(line.head[way] != 0 && self.home(self.hash(key)) != at);
            }
        }
        stats
    }
}
