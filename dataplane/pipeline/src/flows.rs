//! A worker's flows: one table, one timer wheel per family, one account of quotas.

use std::net::IpAddr;

use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::VtepIndex;
use podplane_tables::flow::{
    Action, Addr, Entry, Flags, FlowConfig, FlowError, FlowHash, FlowTable, Half, HalfRef, InsertError, Key, Slot,
    TimeoutClass, Timeouts, V4, V6, siphash13,
};
use podplane_tables::mem::{Pod, Want};
use podplane_tables::quota::Quota;
use podplane_tables::wheel::Wheel;

use crate::drop::DropReason;
use crate::env::{BURST, Millis};
use crate::halves::{self, BARRED, Body, MOVED, Msg};
use crate::timeouts::TIMEOUTS;
use crate::world::{AnyKey, zone};

/// Buckets of the wheel, as a power of two: 1,024 of 128 ms, a horizon of 131 s.
const BUCKET_BITS: u32 = 10;
const TICK_SHIFT: u32 = 7;

/// The flows of one family.
#[derive(Debug)]
pub(crate) struct Part<A: Addr>
where
    Entry<A>: Pod,
{
    pub(crate) table: FlowTable<A>,
    pub(crate) wheel: Wheel,
    pub(crate) timeouts: Timeouts,
}

/// All flows of a worker.
#[derive(Debug)]
pub(crate) struct Flows {
    pub(crate) me: WorkerId,
    pub(crate) v4: Part<V4>,
    pub(crate) v6: Part<V6>,
    pub(crate) quota: Quota,
    /// Since the last lookup of a burst a flow has ended: what that lookup found may be another's place by now.
    pub(crate) ended: bool,
    /// Of the numbers that must not be guessed (RFC 6056 section 3.1): a keyed hash of a counter.
    secret: [u64; 2],
    drawn: u64,
    /// Replies that were denied since then.
    denied: (Millis, u32),
    /// When each masquerade port was last given to a flow; 0: never.
    given: Box<[Millis]>,
}

/// The most replies that are denied in a second, and the part of a table that they may be, one over this: whoever provokes
/// refusals must not fill the table with what is remembered of them.
const DENIALS: (usize, usize) = (1024, 32);

/// What became of a half of replies that was not refused.
pub(crate) struct Installed {
    /// It is there, and belongs to its initiator's half.
    pub(crate) paired: bool,
    /// The initiator's half of the flow whose place it took.
    pub(crate) ousted: Option<HalfRef>,
}

/// Whether a half of replies and the one that is there are those of one connection of a client outside, which enters
/// by this node and by another.
fn enters_elsewhere<A: Addr>(there: &Entry<A>, new: &Half<A>) -> bool {
    let entrances = (halves::leads_to(there.flags()), halves::leads_to(new.flags));
    there.flags().has(Flags::REPLY) && matches!(entrances, (zone::ENTRY, zone::PLAIN) | (zone::PLAIN, zone::ENTRY))
}

/// Chooses the part of a family.
pub(crate) trait Family: Addr
where
    Entry<Self>: Pod,
{
    /// Its part, and the quotas that both share.
    fn of(flows: &mut Flows) -> (&mut Part<Self>, &mut Quota);
    /// An address of this family; of the other one, the unspecified address, which no packet of this family has.
    fn of_ip(address: IpAddr) -> Self;
    /// A message as workers send it to each other.
    fn wrap(msg: Msg<Self>) -> Body;
}

impl Family for V4 {
    fn of(flows: &mut Flows) -> (&mut Part<V4>, &mut Quota) {
        (&mut flows.v4, &mut flows.quota)
    }

    fn of_ip(address: IpAddr) -> V4 {
        match address {
            IpAddr::V4(a) => a.octets(),
            IpAddr::V6(_) => V4::default(),
        }
    }

    fn wrap(msg: Msg<V4>) -> Body {
        Body::V4(msg)
    }
}

impl Family for V6 {
    fn of(flows: &mut Flows) -> (&mut Part<V6>, &mut Quota) {
        (&mut flows.v6, &mut flows.quota)
    }

    fn of_ip(address: IpAddr) -> V6 {
        match address {
            IpAddr::V6(a) => a.octets(),
            IpAddr::V4(_) => V6::default(),
        }
    }

    fn wrap(msg: Msg<V6>) -> Body {
        Body::V6(msg)
    }
}

impl Flows {
    pub(crate) fn new(
        me: WorkerId,
        capacity: usize,
        port_quota: u32,
        seed: [u64; 2],
        memory: Want,
        now: Millis,
    ) -> Result<Flows, FlowError> {
        let config = FlowConfig { capacity, seed, memory };
        let tables = (FlowTable::new(config)?, FlowTable::new(config)?);
        Ok(Flows::with_tables(me, tables, port_quota, seed, now))
    }

    /// Flows in these tables.
    pub(crate) fn with_tables(
        me: WorkerId,
        (v4, v6): (FlowTable<V4>, FlowTable<V6>),
        port_quota: u32,
        seed: [u64; 2],
        now: Millis,
    ) -> Flows {
        let mut quota = Quota::new(port_quota);
        // What the node itself opens is bounded by the table alone.
        quota.set_limit(PortId::HOST, u32::MAX);
        // What others open with the node and through it may take all but the reserve.
        quota.set_limit(PortId::UPLINK, (v4.capacity() + v6.capacity()) as u32);
        let secret = [!seed[0], seed[1].rotate_left(17)];
        Flows {
            me,
            v4: Part::new(v4, now),
            v6: Part::new(v6, now),
            quota,
            ended: false,
            secret,
            drawn: 0,
            denied: (now, 0),
            given: vec![0; 1 << 16].into(),
        }
    }

    /// For how long a masquerade port has not been given to any flow.
    pub(crate) fn rested(&self, port: u16, now: Millis) -> Millis {
        match self.given[usize::from(port)] {
            0 => Millis::MAX,
            at => now.wrapping_sub(at),
        }
    }

    /// Notes that a flow has a masquerade port now.
    pub(crate) fn give(&mut self, port: u16, now: Millis) {
        self.given[usize::from(port)] = now.max(1);
    }

    /// Whether the replies to one more refused flow may be denied, which is remembered for a second.
    pub(crate) fn may_deny(&mut self, now: Millis) -> bool {
        if now.wrapping_sub(self.denied.0) >= self.v4.timeouts.of(TimeoutClass::Deny) {
            self.denied = (now, 0);
        }
        let most = (self.v4.table.capacity() / DENIALS.1).clamp(4, DENIALS.0) as u32;
        let may = self.denied.1 < most;
        self.denied.1 += u32::from(may);
        may
    }

    #[inline]
    pub(crate) fn hash(&self, key: &AnyKey) -> FlowHash {
        match key {
            AnyKey::V4(k) => self.v4.table.hash(k),
            AnyKey::V6(k) => self.v6.table.hash(k),
        }
    }

    /// Other timeouts from now on; flows that are there keep theirs until they are looked at again.
    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) {
        (self.v4.timeouts, self.v6.timeouts) = (timeouts, timeouts);
    }

    /// The entry of a key of either family.
    pub(crate) fn find(&self, key: &AnyKey) -> Option<Slot> {
        self.find_hashed(key, self.hash(key))
    }

    /// The same for a key whose hash is known.
    pub(crate) fn find_hashed(&self, key: &AnyKey, hash: FlowHash) -> Option<Slot> {
        match key {
            AnyKey::V4(k) => self.v4.table.find(k, hash),
            AnyKey::V6(k) => self.v6.table.find(k, hash),
        }
    }

    /// A number that nobody can guess.
    pub(crate) fn random(&mut self) -> u32 {
        self.drawn += 1;
        siphash13(self.secret, &[self.drawn, 0]) as u32
    }

    /// Half-entries in use.
    pub(crate) fn len(&self) -> usize {
        self.v4.table.len() + self.v6.table.len()
    }
}

/// Keys of one family of a burst, looked up at once.
pub(crate) struct Bulk<A: Addr> {
    keys: [Key<A>; BURST],
    hashes: [FlowHash; BURST],
    found: [Option<Slot>; BURST],
    whose: [u8; BURST],
    len: usize,
}

impl<A: Addr> Bulk<A> {
    pub(crate) fn new() -> Self {
        Bulk {
            keys: [Key::default(); BURST],
            hashes: [FlowHash::default(); BURST],
            found: [None; BURST],
            whose: [0; BURST],
            len: 0,
        }
    }

    /// Adds the key of the burst's packet number `whose`.
    #[inline]
    pub(crate) fn push(&mut self, key: &Key<A>, hash: FlowHash, whose: usize) {
        self.keys[self.len] = *key;
        self.hashes[self.len] = hash;
        self.whose[self.len] = whose as u8;
        self.len += 1;
    }

    /// Looks all up and tells each packet's number what was found.
    #[inline]
    pub(crate) fn find(&mut self, part: &Part<A>, mut tell: impl FnMut(usize, Option<Slot>))
    where
        Entry<A>: Pod,
    {
        let n = self.len;
        part.table.find_bulk(&self.keys[..n], &self.hashes[..n], &mut self.found[..n]);
        for i in 0..n {
            tell(usize::from(self.whose[i]), self.found[i]);
        }
    }
}

impl<A: Addr> Part<A>
where
    Entry<A>: Pod,
{
    fn new(table: FlowTable<A>, now: Millis) -> Self {
        // Slots count from 1.
        let wheel = Wheel::new(table.capacity() + 1, BUCKET_BITS, TICK_SHIFT, now);
        Part { table, wheel, timeouts: TIMEOUTS }
    }

    /// Inserts the initiator's half.
    pub(crate) fn insert(&mut self, hash: FlowHash, half: &Half<A>, quota: &mut Quota) -> Result<Slot, DropReason> {
        self.table.insert(hash, half, quota).map_err(|e| match e {
            InsertError::Full => DropReason::FlowTableFull,
            InsertError::Quota => DropReason::FlowQuota,
            InsertError::Exists(_) => DropReason::FlowCollision,
        })
    }

    /// Installs the half of the replies, whose `peer` is the initiator's half, unless this worker keeps a half of its own
    /// instead (it initiated the same connection at the same time, and wins).
    ///
    /// # Errors
    /// Why the flow must be refused.
    pub(crate) fn install(&mut self, me: WorkerId, half: &Half<A>, quota: &mut Quota) -> Result<Installed, DropReason> {
        let hash = self.table.hash(&half.key);
        let moved = half.flags.has(MOVED);
        let half = &Half { flags: half.flags.without(MOVED), ..*half };
        let slot = match self.table.insert(hash, half, quota) {
            Ok(_) => return Ok(Installed { paired: true, ousted: None }),
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
            Err(InsertError::Quota) => return Err(DropReason::FlowQuota),
            Err(InsertError::Exists(slot)) => slot,
        };
        let Some(entry) = self.table.get(slot) else { return Err(DropReason::FlowCollision) };
        let denied = matches!(entry.action(), Action::Drop(_)) || entry.flags().has(BARRED);
        if moved && !denied && enters_elsewhere(entry, half) {
            let ousted = entry.peer();
            self.table.replace(slot, half, quota).map_err(|_| DropReason::FlowQuota)?;
            return Ok(Installed { paired: true, ousted });
        }
        // Equal reply tuples of two flows, of which one at least is translated: one of them needs another port.
        if !denied && half.verdict.rewrite != entry.rewrite() {
            return Err(DropReason::FlowCollision);
        }
        let creator = half.peer.map_or(me, |p| p.worker);
        if entry.flags().has(Flags::INITIATOR) && !denied && creator >= me {
            return Ok(Installed { paired: false, ousted: None });
        }
        self.table.replace(slot, half, quota).map_err(|_| DropReason::FlowQuota)?;
        // The initiator's half owns the lifetime from now on.
        self.wheel.disarm(slot.index());
        Ok(Installed { paired: true, ousted: None })
    }

    /// The half of this key that belongs to the given initiator's half.
    pub(crate) fn belonging(&self, key: &Key<A>, creator: HalfRef) -> Option<Slot> {
        let slot = self.table.find(key, self.table.hash(key))?;
        self.table.get(slot).filter(|e| e.peer() == Some(creator) && e.flags().has(Flags::REPLY)).map(|_| slot)
    }

    /// Moves a flow that came in by the entry network to another entry node: both halves, for they belong to one worker,
    /// the home of the pod that they lead to.
    pub(crate) fn enter_by(&mut self, me: WorkerId, slot: Slot, vtep: Option<VtepIndex>, quota: &mut Quota) {
        let Some(entry) = self.table.get(slot) else { return };
        let (mut forward, key) = (entry.half(), halves::reply_key(entry));
        forward.vtep = vtep;
        // Neither half changes its port, so no quota refuses.
        let _ = self.table.replace(slot, &forward, quota);
        let creator = self.table.half_ref(me, slot);
        let Some(reply) = creator.and_then(|creator| self.belonging(&key, creator)) else { return };
        if let (Some(vtep), Some(entry)) = (vtep, self.table.get(reply)) {
            let mut half = entry.half();
            half.vtep = Some(vtep);
            half.verdict.action = Action::Enter(vtep);
            let _ = self.table.replace(reply, &half, quota);
        }
    }

    /// Frees a half and its timer.
    pub(crate) fn free(&mut self, slot: Slot, quota: &mut Quota) {
        self.wheel.disarm(slot.index());
        self.table.free(slot, quota);
    }

    /// Puts a slot on the wheel.
    pub(crate) fn arm(&mut self, slot: Slot, deadline: Millis) {
        self.wheel.arm(slot.index(), deadline);
    }
}
