//! All workers' entries in one memfd, which somebody else can keep while we are gone.
//!
//! | part | contents |
//! |---|---|
//! | header | what the rest is, the clock's origin, two keys |
//! | names | who ports, VTEPs and neighbours are ([`Names`]) |
//! | for each worker | its IPv4 entries, its IPv6 entries |
//!
//! Every part begins at a base page. Lines, timers, free lists and quotas are not in it: they are made anew from the
//! entries ([`OldFlows`](super::OldFlows)). Native byte order: it never leaves the machine, nor outlives its boot.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use podplane_packet::id::WorkerId;

use super::config::check_capacity;
use super::names::{self, Names};
use super::{Entry, FlowConfig, FlowError, FlowTable, V4, V6};
use crate::mem::{Array, Backing, Carver, Want};

/// "podplane" and the version of this layout, entries and the meaning of their flags included: change it with them.
const MAGIC: u64 = u64::from_ne_bytes(*b"podplan\x02");
/// Words of the header.
pub(super) const HEADER: usize = 8;

/// What a flow memory is for.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// How many workers, 1 to [`WorkerId::MAX`].
    pub workers: u8,
    /// Half-entries of each family and worker.
    pub capacity: usize,
    /// What memory is wanted.
    pub memory: Want,
    /// What decides the owner of packets without a home, which a later process needs to find the same owners.
    pub seed: [u64; 2],
    /// A random key of the endpoints' identities.
    pub names_key: [u64; 2],
    /// The machine's monotonic clock, in milliseconds, when the flows' clock stood at 0.
    pub origin: u64,
}

/// The memory of all flow tables of this process.
#[derive(Debug)]
pub struct FlowMemory {
    config: MemoryConfig,
    carver: Carver,
    header: Array<AtomicU64>,
    names: Names,
    /// Entries that no table has taken, by worker.
    entries: Vec<Option<Entries>>,
}

type Entries = (Array<Entry<V4>>, Array<Entry<V6>>);

impl FlowMemory {
    /// Maps and populates it.
    ///
    /// # Errors
    /// [`FlowError`].
    pub fn new(config: MemoryConfig) -> Result<FlowMemory, FlowError> {
        check_capacity(config.capacity)?;
        let layout = Layout::of(config.workers, config.capacity);
        let bytes = layout.map_or(usize::MAX, |l| l.bytes);
        let error = |source| FlowError::memory(config.capacity, bytes, source);
        let short = || error(std::io::ErrorKind::OutOfMemory.into());
        let mut carver = Carver::new(bytes, config.memory).map_err(error)?;
        let header = carver.carve::<AtomicU64>(HEADER).ok_or_else(short)?;
        let names = Names::new(carver.carve(names::WORDS).ok_or_else(short)?, config.names_key);
        let mut entries = Vec::with_capacity(usize::from(config.workers));
        for _ in 0..config.workers {
            let v4 = carver.carve(config.capacity + 1).ok_or_else(short)?;
            entries.push(Some((v4, carver.carve(config.capacity + 1).ok_or_else(short)?)));
        }
        let memory = FlowMemory { config, carver, header, names, entries };
        memory.describe();
        Ok(memory)
    }

    fn describe(&self) {
        for (word, value) in self.header.iter().zip(Header::of(&self.config).0) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Goes on with a former process' seed. To be called before there are flows.
    pub fn set_seed(&mut self, seed: [u64; 2]) {
        self.config.seed = seed;
        self.describe();
    }

    /// A worker's tables, once. `seed` is the key of their hashes, random for each process.
    ///
    /// # Errors
    /// [`FlowError`]: no memory for the index, or the worker has its tables already.
    pub fn tables(&mut self, worker: WorkerId, seed: [u64; 2]) -> Result<(FlowTable<V4>, FlowTable<V6>), FlowError> {
        let taken = || FlowError::memory(self.config.capacity, 0, std::io::ErrorKind::AlreadyExists.into());
        let (v4, v6) = self.entries.get_mut(worker.index()).and_then(Option::take).ok_or_else(taken)?;
        let config = FlowConfig { capacity: self.config.capacity, seed, memory: self.config.memory };
        Ok((FlowTable::with_entries(config, v4)?, FlowTable::with_entries(config, v6)?))
    }

    /// Who the indices in the entries are; for control to write.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What it was made for.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// The file, for whoever shall keep it while we are gone. `None`: it has none, and flows end with the process.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.carver.fd()
    }

    /// What memory it is.
    pub fn backing(&self) -> Backing {
        self.carver.backing()
    }
}

/// The first words of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header(pub(super) [u64; HEADER]);

impl Header {
    fn of(config: &MemoryConfig) -> Header {
        let [seed0, seed1] = config.seed;
        let [key0, key1] = config.names_key;
        Header([MAGIC, u64::from(config.workers), config.capacity as u64, seed0, seed1, key0, key1, config.origin])
    }

    /// What a former process wrote: checked only as far as it says. `None`: another layout, or none of ours.
    pub(super) fn config(&self) -> Option<MemoryConfig> {
        let Header([magic, workers, capacity, seed0, seed1, key0, key1, origin]) = *self;
        Some(MemoryConfig {
            workers: u8::try_from(workers).ok().filter(|_| magic == MAGIC)?,
            capacity: usize::try_from(capacity).ok()?,
            memory: Want::Base,
            seed: [seed0, seed1],
            names_key: [key0, key1],
            origin,
        })
    }
}

/// Where things lie in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) names: usize,
    first: usize,
    v6: usize,
    worker: usize,
    pub(super) bytes: usize,
}

impl Layout {
    /// `None`: such numbers are impossible.
    pub(super) fn of(workers: u8, capacity: usize) -> Option<Layout> {
        let page = |at: usize| at.checked_next_multiple_of(4096);
        check_capacity(capacity).ok()?;
        if !(1..=WorkerId::MAX).contains(&usize::from(workers)) {
            return None;
        }
        let names = page(HEADER * 8)?;
        let first = page(names + names::WORDS * 8)?;
        let v6 = page((capacity + 1).checked_mul(size_of::<Entry<V4>>())?)?;
        let worker = v6.checked_add(page((capacity + 1).checked_mul(size_of::<Entry<V6>>())?)?)?;
        let bytes = first.checked_add(worker.checked_mul(usize::from(workers))?)?;
        Some(Layout { names, first, v6, worker, bytes })
    }

    /// Where a worker's entries of a family begin.
    pub(super) fn entries(&self, worker: u8, v6: bool) -> usize {
        self.first + usize::from(worker) * self.worker + if v6 { self.v6 } else { 0 }
    }
}
