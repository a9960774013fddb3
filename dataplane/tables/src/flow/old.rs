//! The flows of a process that is gone, read from the memory that it left.
//!
//! Nothing in it is believed: the process may have died at any point, and whoever kept the file may have written it.
//! So it is read by copies, never mapped; every number is checked before it is used; a pair of halves is taken only
//! if the one of the replies names the initiator's, and that one its worker and its tuple; and whatever is taken is judged anew before its first packet goes anywhere
//! ([`Present::generation`]).

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use podplane_packet::id::{PortId, WorkerId};
use thiserror::Error;

use super::memory::{HEADER, Header, Layout, MemoryConfig};
use super::names::{self, Identity, OldNames};
use super::{Action, Addr, Entry, EntryState, Flags, FlowTable, Half, HalfRef, Key, Slot};
use crate::fib::NeighbourIndex;
use crate::mem::{Pod, from_bytes, is_sealed_memory};
use crate::quota::Quota;
use crate::{Millis, VtepIndex, reached};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Why a former process' flows cannot be gone on with. A fresh memory is taken then.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// It cannot be read.
    #[error("reading the flows that the former process left: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("the file is no flow memory of this version: flows begin anew after an upgrade that changes its layout")]
    Foreign,
    /// Its owners and places are not ours.
    #[error(
        "the flows are those of {theirs_workers} workers with {theirs} entries each, not of {ours_workers} with {ours}: \
         flows begin anew when --workers or --memory change"
    )]
    Shape {
        /// Its workers.
        theirs_workers: u8,
        /// Its entries for each of them.
        theirs: usize,
        /// Our workers.
        ours_workers: u8,
        /// Our entries for each.
        ours: usize,
    },
}

/// The memory of a process that is gone.
#[derive(Debug)]
pub struct OldFlows {
    file: File,
    config: MemoryConfig,
    layout: Layout,
    names: OldNames,
}

/// One connection of a former process, in this process' numbers, times and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<A: Addr> {
    /// Where the initiator's half is, here as there.
    pub initiator_at: HalfRef,
    /// The initiator's half; of its `peer` only the worker is the other half's.
    pub initiator: Half<A>,
    /// Where the half of the replies is.
    pub reply_at: HalfRef,
    /// The half of the replies.
    pub reply: Half<A>,
}

/// What became of the halves of replies that were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Connections that go on.
    pub taken: u64,
    /// Connections that do not, by reason.
    pub rejected: [u64; 3],
}

/// Why a connection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Rejected {
    /// The halves are no pair: one of them was being made or ended.
    Unpaired = 0,
    /// Its port, peer or neighbour is gone.
    Gone = 1,
    /// There is no room for it: a quota, or another connection with the same key.
    NoRoom = 2,
}

impl Adopted {
    /// Counts a connection.
    pub fn count(&mut self, result: Result<(), Rejected>) {
        match result {
            Ok(()) => self.taken += 1,
            Err(reason) => self.rejected[reason as usize] += 1,
        }
    }

    /// These and those of `other`.
    #[must_use]
    pub fn and(self, other: Adopted) -> Adopted {
        let rejected = std::array::from_fn(|i| self.rejected[i] + other.rejected[i]);
        Adopted { taken: self.taken + other.taken, rejected }
    }

    /// How many were rejected for a reason.
    pub fn rejected(&self, reason: Rejected) -> u64 {
        self.rejected[reason as usize]
    }
}

/// From the former process' indices to ours, and from its clock to ours.
#[derive(Debug)]
pub struct Renumber {
    ports: Box<[Option<PortId>]>,
    vteps: Box<[Option<VtepIndex>]>,
    neighbours: Box<[Option<NeighbourIndex>]>,
    /// What is added to its times.
    shift: Millis,
    now: Millis,
    generation: u32,
}

/// What a former process' flows become part of.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// Our clock's origin ([`MemoryConfig::origin`]).
    pub origin: u64,
    /// The time by our clock.
    pub now: Millis,
    /// The generation that the flows are said to be judged under: one whose successor stamps everything, so that they
    /// are judged before they are used.
    pub generation: u32,
}

impl Renumber {
    /// Finds our numbers for `old`'s names. The uplink and the host port are the same always.
    pub fn new(
        old: &OldFlows,
        present: Present,
        port: impl Fn(Identity) -> Option<PortId>,
        vtep: impl Fn(IpAddr) -> Option<VtepIndex>,
        neighbour: impl Fn(IpAddr) -> Option<NeighbourIndex>,
    ) -> Renumber {
        let mut new = Renumber {
            ports: vec![None; PortId::MAX].into(),
            vteps: vec![None; VtepIndex::MAX].into(),
            neighbours: vec![None; NeighbourIndex::MAX].into(),
            shift: old.config.origin.wrapping_sub(present.origin) as Millis,
            now: present.now,
            generation: present.generation,
        };
        for own in [PortId::UPLINK, PortId::HOST] {
            new.ports[own.index()] = Some(own);
        }
        for (index, identity, _) in old.names.ports().filter(|p| p.0 >= PortId::FIRST_POD) {
            new.ports[index.index()] = port(identity);
        }
        for (index, address) in old.names.vteps() {
            new.vteps[index.index()] = vtep(address);
        }
        for (index, address) in old.names.neighbours() {
            new.neighbours[index.index()] = neighbour(address);
        }
        new
    }

    fn port(&self, old: PortId) -> Option<PortId> {
        *self.ports.get(old.index())?
    }

    fn vtep(&self, old: VtepIndex) -> Option<VtepIndex> {
        *self.vteps.get(old.index())?
    }

    /// A half of a connection as it is here. `None`: something that it depends on is gone.
    fn half<A: Addr>(&self, old: &Half<A>, peer: HalfRef) -> Option<Half<A>> {
        let new = self.alone(old).filter(|half| !matches!(half.verdict.action, Action::Drop(_)))?;
        Some(Half { peer: Some(peer), ..new })
    }

    /// The same for a half without another.
    fn alone<A: Addr>(&self, old: &Half<A>) -> Option<Half<A>> {
        let mut new = *old;
        new.local_port = self.port(old.local_port)?;
        if let Some(vtep) = old.vtep {
            new.vtep = Some(self.vtep(vtep)?);
        }
        new.verdict.action = match old.verdict.action {
            Action::Forward(port) => Action::Forward(self.port(port)?),
            Action::Encap(vtep) => Action::Encap(self.vtep(vtep)?),
            Action::Enter(vtep) => Action::Enter(self.vtep(vtep)?),
            Action::Outside(n) => Action::Outside((*self.neighbours.get(n.index())?)?),
            drop @ Action::Drop(_) => drop,
        };
        new.generation = self.generation;
        new.peer = None;
        let seen = old.last_seen.wrapping_add(self.shift);
        // Nothing was seen in the future; such a flow would never end.
        new.last_seen = if reached(self.now, seen) { seen } else { self.now };
        Some(new)
    }
}

impl OldFlows {
    /// Looks at what a former process left, for `ours`: the same workers and capacity.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub fn open(file: OwnedFd, ours: &MemoryConfig) -> Result<OldFlows, ResumeError> {
        if !is_sealed_memory(file.as_fd()) {
            return Err(ResumeError::Foreign);
        }
        let file = File::from(file);
        let words = read_words(&file, 0, HEADER)?;
        let header = words.try_into().map(Header).map_err(|_| ResumeError::Foreign)?;
        let config = header.config().ok_or(ResumeError::Foreign)?;
        if (config.workers, config.capacity) != (ours.workers, ours.capacity) {
            return Err(ResumeError::Shape {
                theirs_workers: config.workers,
                theirs: config.capacity,
                ours_workers: ours.workers,
                ours: ours.capacity,
            });
        }
        let layout = Layout::of(config.workers, config.capacity).ok_or(ResumeError::Foreign)?;
        if file.metadata()?.len() < layout.bytes as u64 {
            return Err(ResumeError::Foreign);
        }
        let names = OldNames(read_words(&file, layout.names, names::WORDS)?);
        Ok(OldFlows { file, config, layout, names })
    }

    /// What decides the owners of packets without a home: to be gone on with, or halves would lie with others than
    /// their packets come to.
    pub fn seed(&self) -> [u64; 2] {
        self.config.seed
    }

    /// The neighbours outside the cluster that flows may go to.
    pub fn neighbours(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.names.neighbours().map(|(_, address)| address)
    }

    /// The home that an endpoint's port had.
    pub fn home(&self, endpoint: &str) -> Option<WorkerId> {
        let identity = self.identity(endpoint);
        self.ports().find(|(_, id, _)| *id == identity).map(|(.., home)| home)
    }

    /// The identity that an endpoint has in this memory.
    pub fn identity(&self, endpoint: &str) -> Identity {
        Identity::new(self.config.names_key, endpoint)
    }

    /// Whose the ports were, and which worker was their home: to be it again, for the halves lie there.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, Identity, WorkerId)> + '_ {
        self.names.ports().filter(|(.., home)| home.0 < self.config.workers)
    }

    /// Calls `take` for each connection of a family that can go on, which says whether it was taken, and `bar` for each
    /// half without another that has the flag `barred`, with its place, whose drops stay drops. Costs a read of the whole
    /// memory and one system call for each connection, so it belongs on a thread that may wait.
    ///
    /// # Errors
    /// The file cannot be read to its end.
    pub fn pairs<A: Addr>(
        &self,
        renumber: &Renumber,
        barred: Flags,
        mut take: impl FnMut(&Pair<A>) -> bool,
        mut bar: impl FnMut(HalfRef, &Half<A>),
    ) -> Result<Adopted, ResumeError> {
        let mut adopted = Adopted::default();
        for worker in 0..self.config.workers {
            self.scan::<A>(worker, |at, entry| {
                if entry.flags().has(Flags::INITIATOR) {
                    let alone = entry.flags().has(barred) && entry.peer().is_none();
                    if let Some(half) = alone.then(|| renumber.alone(&entry.half())).flatten() {
                        bar(at, &half);
                    }
                    return Ok(());
                }
                if matches!(entry.action(), Action::Drop(_)) {
                    return Ok(());
                }
                let result = match self.pair(at, &entry, renumber)? {
                    Ok(pair) if take(&pair) => Ok(()),
                    Ok(_) => Err(Rejected::NoRoom),
                    Err(reason) => Err(reason),
                };
                adopted.count(result);
                Ok(())
            })?;
        }
        Ok(adopted)
    }

    /// Every live half of a worker.
    fn scan<A: Addr>(
        &self,
        worker: u8,
        mut found: impl FnMut(HalfRef, Entry<A>) -> Result<(), ResumeError>,
    ) -> Result<(), ResumeError> {
        let size = size_of::<Entry<A>>();
        let first = self.layout.entries(worker, A::V6) as u64;
        let mut bytes = vec![0; CHUNK];
        let mut next = 1u32;
        while next as usize <= self.config.capacity {
            let count = (CHUNK / size).min(self.config.capacity + 1 - next as usize);
            let bytes = &mut bytes[..count * size];
            self.file.read_exact_at(bytes, first + u64::from(next) * size as u64)?;
            for raw in bytes.chunks_exact(size) {
                if let (Some(entry), Some(slot)) = (whole::<A>(raw), Slot::from_index(next)) {
                    let sequence = entry.sequence();
                    found(HalfRef { worker: WorkerId(worker), slot, sequence }, entry)?;
                }
                next += 1;
            }
        }
        Ok(())
    }

    /// The connection that a half of replies belongs to.
    fn pair<A: Addr>(
        &self,
        reply_at: HalfRef,
        reply: &Entry<A>,
        renumber: &Renumber,
    ) -> Result<Result<Pair<A>, Rejected>, ResumeError> {
        let here = |p: &HalfRef| p.worker.0 < self.config.workers && p.slot.index() as usize <= self.config.capacity;
        let Some(initiator_at) = reply.peer().filter(here) else { return Ok(Err(Rejected::Unpaired)) };
        let mut bytes = [0; 128];
        let bytes = &mut bytes[..size_of::<Entry<A>>()];
        let first = self.layout.entries(initiator_at.worker.0, A::V6);
        let at = first + initiator_at.slot.index() as usize * size_of::<Entry<A>>();
        self.file.read_exact_at(bytes, at as u64)?;
        let initiator = whole::<A>(bytes).filter(|initiator| {
            initiator.flags().has(Flags::INITIATOR)
                && !matches!(initiator.action(), Action::Drop(_))
                && initiator.sequence() == initiator_at.sequence
                && initiator.peer().is_some_and(|peer| peer.worker == reply_at.worker)
                && is_answered_by(initiator, reply.key())
        });
        let Some(initiator) = initiator else { return Ok(Err(Rejected::Unpaired)) };
        let whose = HalfRef { worker: reply_at.worker, ..initiator_at };
        let halves = renumber.half(&initiator.half(), whose).zip(renumber.half(&reply.half(), initiator_at));
        Ok(halves.map(|(initiator, reply)| Pair { initiator_at, initiator, reply_at, reply }).ok_or(Rejected::Gone))
    }
}

impl<A: Addr> Pair<A> {
    /// Puts both halves where they lay. `with` calls its argument with a worker's table and quotas. False: there is no
    /// room for them, and nothing has changed.
    pub fn adopt(&self, mut with: impl FnMut(WorkerId, &mut dyn FnMut(&mut FlowTable<A>, &mut Quota))) -> bool {
        let mut put = |at: HalfRef, half: &Half<A>| {
            let mut taken = false;
            with(at.worker, &mut |table, quota| taken = table.adopt(at.slot, at.sequence, half, quota).is_ok());
            taken
        };
        if !put(self.initiator_at, &self.initiator) {
            return false;
        }
        if put(self.reply_at, &self.reply) {
            return true;
        }
        with(self.initiator_at.worker, &mut |table, quota| {
            table.free(self.initiator_at.slot, quota);
        });
        false
    }
}

/// Whether the replies to an initiator's packets have such a key (in some zone).
fn is_answered_by<A: Addr>(initiator: &Entry<A>, reply: &Key<A>) -> bool {
    let there = initiator.key();
    let (src, dst, sport, dport) = match initiator.rewrite() {
        Some(new) => (new.src, new.dst, new.sport, new.dport),
        None => (there.src, there.dst, there.sport, there.dport),
    };
    Key::new(src, dst, sport, dport, there.proto, reply.zone).reversed(reply.zone) == *reply
}

/// The entry that the bytes are, if it is whole, in force, and of one direction alone.
fn whole<A: Addr>(bytes: &[u8]) -> Option<Entry<A>>
where
    Entry<A>: Pod,
{
    let directions = Flags::INITIATOR.with(Flags::REPLY);
    from_bytes::<Entry<A>>(bytes).filter(|entry| {
        let direction = entry.flags().0 & directions.0;
        entry.state() == EntryState::Live && [Flags::INITIATOR.0, Flags::REPLY.0].contains(&direction)
    })
}

fn read_words(file: &File, at: usize, count: usize) -> Result<Vec<u64>, ResumeError> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, at as u64)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}
