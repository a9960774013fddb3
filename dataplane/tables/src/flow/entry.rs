//! One half-entry: one direction of a connection and all that was decided about it.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use podplane_packet::id::{PortId, WorkerId};

use super::key::{Addr, Key};
use super::verdict::{Action, Flags, Rewrite, TimeoutClass, Verdict};
use crate::changed::{ChangedCells, Validity};
use crate::fib::NeighbourIndex;
use crate::{Millis, VtepIndex};

/// The place of an entry in its table's pool. Meaningless in another table; may be reused after the entry was freed,
/// so whoever keeps one keeps the sequence number with it ([`HalfRef`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) NonZeroU32);

impl Slot {
    /// The index, from 1 to the table's capacity.
    #[inline]
    pub const fn index(self) -> u32 {
        self.0.get()
    }

    /// The slot of that index; `None` for 0. Not checked against any table.
    #[inline]
    pub const fn from_index(index: u32) -> Option<Slot> {
        match NonZeroU32::new(index) {
            Some(i) => Some(Slot(i)),
            None => None,
        }
    }
}

/// Names a half-entry across workers. It outlives the entry: [`FlowTable::resolve`](super::FlowTable::resolve) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HalfRef {
    /// Whose table.
    pub worker: WorkerId,
    /// Where in it.
    pub slot: Slot,
    /// Which of the slot's successive users.
    pub sequence: u32,
}

/// Everything about one half-entry as plain values: what is inserted, and what is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half<A: Addr> {
    /// Which packets.
    pub key: Key<A>,
    /// What happens to them.
    pub verdict: Verdict<A>,
    /// The generation of the snapshot that judged them.
    pub generation: u32,
    /// When the last one came.
    pub last_seen: Millis,
    /// The other direction's half-entry; of an initiator's half only the worker counts, which finds it by its key.
    /// `None`: there is none (cached drops), or not yet.
    pub peer: Option<HalfRef>,
    /// What is remembered.
    pub flags: Flags,
    /// How long it may be silent.
    pub class: TimeoutClass,
    /// The port of this node whose flow it is; its quota pays.
    pub local_port: PortId,
    /// The peer node that the flow depends on, also where this direction does not go there.
    pub vtep: Option<VtepIndex>,
}

/// What the state word of an entry says, so that a scan of the memory after a crash can trust what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Not in use.
    Free,
    /// Being written when the writer died.
    Writing,
    /// Whole and in force.
    Live,
    /// Whole, found by no lookup any more; the slot waits for the other worker's acknowledgement.
    Retired,
}

pub(super) const FREE: u32 = 0;
pub(super) const WRITING: u32 = 0x5752_4954;
pub(super) const LIVE: u32 = 0x4c49_5645;
pub(super) const RETIRED: u32 = 0x5245_5449;

const NO_VTEP: u16 = u16::MAX;
const FORWARD: u8 = 1;
const ENCAP: u8 = 2;
const ENTER: u8 = 3;
const OUTSIDE: u8 = 4;

/// A half-entry in its table: one cache line (IPv4), or two of which hits without translation read the first (IPv6).
/// Integers only, so that any contents of the memory are some value.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Entry<A> {
    key: Key<A>,
    /// FREE, WRITING, LIVE or RETIRED. Written by the owning worker alone, as everything here.
    pub(super) state: AtomicU32,
    generation: u32,
    last_seen: u32,
    action: u8,
    class: u8,
    arg: u16,
    local_port: u16,
    vtep: u16,
    flags: u16,
    rewritten: u8,
    peer_worker: u8,
    /// The peer's slot; in a free entry the next free one.
    pub(super) peer_index: u32,
    peer_sequence: u32,
    pub(super) sequence: u32,
    new_sport: u16,
    new_dport: u16,
    new_src: A,
    new_dst: A,
}

impl<A: Addr> Entry<A> {
    /// The state word.
    pub fn state(&self) -> EntryState {
        match self.state.load(Ordering::Relaxed) {
            LIVE => EntryState::Live,
            WRITING => EntryState::Writing,
            RETIRED => EntryState::Retired,
            _ => EntryState::Free,
        }
    }

    /// Which packets.
    #[inline(always)]
    pub fn key(&self) -> &Key<A> {
        &self.key
    }

    /// Which of the slot's successive users this is.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Where packets go.
    #[inline(always)]
    pub fn action(&self) -> Action {
        match self.action {
            FORWARD => Action::Forward(PortId(self.arg)),
            ENCAP => Action::Encap(VtepIndex(self.arg)),
            ENTER => Action::Enter(VtepIndex(self.arg)),
            OUTSIDE => Action::Outside(NeighbourIndex(self.arg)),
            _ => Action::Drop(self.arg as u8),
        }
    }

    /// How the tuple is translated.
    #[inline(always)]
    pub fn rewrite(&self) -> Option<Rewrite<A>> {
        (self.rewritten != 0).then_some(Rewrite {
            src: self.new_src,
            dst: self.new_dst,
            sport: self.new_sport,
            dport: self.new_dport,
        })
    }

    /// The complete verdict.
    #[inline]
    pub fn verdict(&self) -> Verdict<A> {
        Verdict { action: self.action(), rewrite: self.rewrite() }
    }

    /// The generation of the snapshot that judged it.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Notes that the entry holds under a newer snapshot too.
    #[inline]
    pub fn restamp(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// When the last packet came.
    #[inline]
    pub fn last_seen(&self) -> Millis {
        self.last_seen
    }

    /// Notes that a packet came.
    #[inline(always)]
    pub fn touch(&mut self, now: Millis) {
        // Not stored again within one millisecond: a clean line need not be written back.
        if self.last_seen != now {
            self.last_seen = now;
        }
    }

    /// What is remembered.
    #[inline(always)]
    pub fn flags(&self) -> Flags {
        Flags(self.flags)
    }

    /// Remembers.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        self.flags = flags.0;
    }

    /// How long it may be silent.
    #[inline]
    pub fn class(&self) -> TimeoutClass {
        TimeoutClass::from_raw(self.class)
    }

    /// Changes how long it may be silent.
    #[inline]
    pub fn set_class(&mut self, class: TimeoutClass) {
        self.class = class as u8;
    }

    /// The port whose quota pays.
    #[inline]
    pub fn local_port(&self) -> PortId {
        PortId(self.local_port)
    }

    /// The peer node that the flow depends on.
    #[inline]
    pub fn vtep(&self) -> Option<VtepIndex> {
        (self.vtep != NO_VTEP).then_some(VtepIndex(self.vtep))
    }

    /// The other direction's half-entry.
    #[inline]
    pub fn peer(&self) -> Option<HalfRef> {
        let slot = Slot::from_index(self.peer_index)?;
        Some(HalfRef { worker: WorkerId(self.peer_worker), slot, sequence: self.peer_sequence })
    }

    /// Names the other direction's half-entry, once its owner has told.
    pub fn set_peer(&mut self, peer: Option<HalfRef>) {
        self.peer_index = peer.map_or(0, |p| p.slot.index());
        self.peer_worker = peer.map_or(0, |p| p.worker.0);
        self.peer_sequence = peer.map_or(0, |p| p.sequence);
    }

    /// Whether the entry may be used under the snapshot of this generation ([`ChangedCells::judge`]): it depends on
    /// its local port, the port, VTEP or neighbour it leads to, its VTEP, and all addresses of both tuples.
    #[inline]
    pub fn validity(&self, generation: u32, cells: &ChangedCells) -> Validity {
        if self.generation == generation {
            return Validity::Valid;
        }
        self.stale_validity(cells)
    }

    #[cold]
    fn stale_validity(&self, cells: &ChangedCells) -> Validity {
        let mut newest =
            cells.port(self.local_port()).max(cells.address(self.key.src.ip())).max(cells.address(self.key.dst.ip()));
        match self.action() {
            Action::Forward(port) => newest = newest.max(cells.port(port)),
            Action::Encap(vtep) | Action::Enter(vtep) => newest = newest.max(cells.vtep(vtep)),
            Action::Outside(neighbour) => newest = newest.max(cells.neighbour(neighbour)),
            Action::Drop(_) => {}
        }
        if let Some(vtep) = self.vtep() {
            newest = newest.max(cells.vtep(vtep));
        }
        if let Some(new) = self.rewrite() {
            newest = newest.max(cells.address(new.src.ip())).max(cells.address(new.dst.ip()));
        }
        if newest > self.generation { Validity::Revalidate } else { Validity::Restamp }
    }

    /// Everything as plain values.
    pub fn half(&self) -> Half<A> {
        Half {
            key: self.key,
            verdict: self.verdict(),
            generation: self.generation,
            last_seen: self.last_seen,
            peer: self.peer(),
            flags: self.flags(),
            class: self.class(),
            local_port: self.local_port(),
            vtep: self.vtep(),
        }
    }

    /// Writes everything between WRITING and LIVE.
    pub(super) fn write(&mut self, half: &Half<A>) {
        self.state.store(WRITING, Ordering::Relaxed);
        fence(Ordering::Release);
        self.key = half.key;
        self.generation = half.generation;
        self.last_seen = half.last_seen;
        (self.action, self.arg) = match half.verdict.action {
            Action::Forward(port) => (FORWARD, port.0),
            Action::Encap(vtep) => (ENCAP, vtep.0),
            Action::Enter(vtep) => (ENTER, vtep.0),
            Action::Outside(neighbour) => (OUTSIDE, neighbour.0),
            Action::Drop(reason) => (0, u16::from(reason)),
        };
        self.class = half.class as u8;
        self.local_port = half.local_port.0;
        self.vtep = half.vtep.map_or(NO_VTEP, |v| v.0);
        self.flags = half.flags.0;
        self.set_peer(half.peer);
        self.rewritten = u8::from(half.verdict.rewrite.is_some());
        let new = half.verdict.rewrite.unwrap_or(Rewrite { src: A::default(), dst: A::default(), sport: 0, dport: 0 });
        (self.new_src, self.new_dst, self.new_sport, self.new_dport) = (new.src, new.dst, new.sport, new.dport);
        self.state.store(LIVE, Ordering::Release);
    }
}
