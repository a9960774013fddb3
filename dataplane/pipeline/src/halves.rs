//! The two halves of a connection: messages between the workers that own them, and the end of a flow.
//!
//! No worker reads or writes another's entries. The initiator's half owns the lifetime of both: when its timer fires
//! and its own packets have ceased, it asks the other half's owner when that was last seen ([`Msg::Query`]) and either
//! goes on or retires the pair. A message to the replies' half names it by its key and by the reference of the
//! initiator's half (worker, slot, sequence), so it can never hit another connection; a message back names the
//! initiator's half by that reference.
//!
//! In the table, `peer` of the replies' half is that reference; `peer` of the initiator's half says in `worker` who owns
//! the replies' half and repeats its own slot and sequence, for it never learns the other's slot.
//!
//! Every message but [`Msg::Push`] may be lost to a full queue: whoever waits for an answer asks again, and the owner
//! of a half that does not exist says so.

use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::flow::{
    Action, Addr, Entry, EntryState, Flags, Half, HalfRef, InsertError, Key, Rewrite, Slot, TimeoutClass, Timeouts, V4,
    V6, Verdict,
};
use podplane_tables::mem::Pod;
use podplane_tables::quota::Quota;
use podplane_tables::wheel::Look;
use podplane_tables::{VtepIndex, reached};

use crate::drop::DropReason;
use crate::env::{Env, Millis};
use crate::flows::{Family, Flows};
use crate::forbid::{bar_of, bar_replies};
use crate::snapshot::Snapshot;
use crate::timeouts::{RETRY, class, learn, look};

/// How many flows one call of housekeeping looks at.
const LOOKS: usize = 256;

/// One message, opaque to whoever carries it. Plain data, two or three cache lines long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfMsg {
    pub(crate) from: WorkerId,
    pub(crate) body: Body,
}

impl HalfMsg {
    /// Who sent it.
    pub fn from(&self) -> WorkerId {
        self.from
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    V4(Msg<V4>),
    V6(Msg<V6>),
    /// The underlay's path to a peer is narrower than our uplink.
    Pmtu {
        vtep: VtepIndex,
        /// Which of the index's successive users.
        since: u32,
        /// The longest IP packet inside the tunnel.
        mtu: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Msg<A: Addr> {
    /// Creator to owner: install this half; its `peer` is the creator's.
    Push(Half<A>),
    /// Owner to creator: the half could not be installed; `collision`: another flow holds its key.
    Refused { creator: HalfRef, collision: bool },
    /// Initiator to owner: when did you see a packet last?
    Query { key: Key<A>, creator: HalfRef },
    /// Owner to initiator: so long ago, and this is remembered.
    Seen { creator: HalfRef, age: Millis, flags: Flags },
    /// Owner to initiator: there is no such half.
    Gone(HalfRef),
    /// Initiator to owner: free your half, or let it be barred.
    Retire { key: Key<A>, creator: HalfRef, bar: Option<Bar> },
    /// Owner to initiator: it is freed.
    Retired(HalfRef),
}

/// Why and since which generation of rules a flow is forbidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) reason: DropReason,
    pub(crate) generation: u32,
}

/// Sends a message that may be lost.
pub(crate) fn post<A: Family, E: Env>(env: &mut E, me: WorkerId, to: WorkerId, msg: Msg<A>) -> bool
where
    Entry<A>: Pod,
{
    env.push_half(to, HalfMsg { from: me, body: A::wrap(msg) }).is_ok()
}

/// Sends a half to its owner.
///
/// # Errors
/// The queue is full.
pub(crate) fn push<A: Family, E: Env>(env: &mut E, me: WorkerId, to: WorkerId, half: Half<A>) -> Result<(), DropReason>
where
    Entry<A>: Pod,
{
    if post(env, me, to, Msg::Push(half)) { Ok(()) } else { Err(DropReason::HalfQueueFull) }
}

/// Takes one message.
pub(crate) fn receive<A: Family, E: Env>(flows: &mut Flows, env: &mut E, from: WorkerId, msg: Msg<A>)
where
    Entry<A>: Pod,
{
    let me = flows.me;
    let now = env.now();
    let (part, quota) = A::of(flows);
    match msg {
        Msg::Push(half) => {
            // The creator is who sent it: anything else would be answered to the wrong worker.
            let Some(creator) = half.peer.filter(|p| p.worker == from) else { return };
            match part.install(me, &half, quota) {
                Ok(installed) => oust(part, quota, env, me, installed.ousted),
                Err(reason) => {
                    let collision = reason == DropReason::FlowCollision;
                    if !collision {
                        deny_replies(flows, &half, now);
                    }
                    post(env, me, from, Msg::<A>::Refused { creator, collision });
                }
            }
        }
        Msg::Query { key, creator } => {
            let found = part.belonging(&key, creator).and_then(|slot| part.table.get(slot));
            let answer = match found {
                Some(e) => Msg::Seen { creator, age: now.wrapping_sub(e.last_seen()), flags: e.flags() },
                None => Msg::Gone(creator),
            };
            post::<A, E>(env, me, from, answer);
        }
        Msg::Retire { key, creator, bar } => {
            match (part.belonging(&key, creator), bar) {
                (Some(slot), Some(bar)) => bar_replies(part, quota, slot, bar, now),
                (Some(slot), None) => part.free(slot, quota),
                (None, _) => {}
            }
            post(env, me, from, Msg::<A>::Retired(creator));
        }
        Msg::Refused { creator, collision } => refuse::<A>(flows, creator, collision, now),
        Msg::Seen { creator, age, flags } => seen::<A, E>(flows, env, from, creator, age, flags),
        Msg::Gone(half) | Msg::Retired(half) => {
            if let Some(slot) = part.table.resolve(half).filter(|_| half.worker == me) {
                let reply = part.table.get(slot).is_some_and(|e| e.flags().has(Flags::REPLY));
                if !reply {
                    part.free(slot, quota);
                }
            }
        }
    }
}

/// Ends the initiator's half of a flow whose half of the replies another flow has taken over.
pub(crate) fn oust<A: Family, E: Env>(
    part: &mut crate::flows::Part<A>,
    quota: &mut Quota,
    env: &mut E,
    me: WorkerId,
    initiator: Option<HalfRef>,
) where
    Entry<A>: Pod,
{
    match initiator {
        Some(half) if half.worker != me => {
            // Should this be lost, the half finds out when its time has come and it asks.
            post::<A, E>(env, me, half.worker, Msg::Gone(half));
        }
        Some(half) => {
            if let Some(slot) = part.table.resolve(half) {
                part.free(slot, quota);
            }
        }
        None => {}
    }
}

/// Sees to it that what answers a refused flow's first packet, which may be on its way already, is not taken for the first
/// packet of a flow of its own, which nobody would translate.
fn deny_replies<A: Family>(flows: &mut Flows, refused: &Half<A>, now: Millis)
where
    Entry<A>: Pod,
{
    if !flows.may_deny(now) {
        return;
    }
    let (part, quota) = A::of(flows);
    let denied = Half {
        verdict: Verdict { action: Action::Drop(DropReason::FlowRefused as u8), rewrite: None },
        flags: Flags::NONE,
        class: TimeoutClass::Deny,
        peer: None,
        // The port that the flow would be charged to may have no more; how many of these there are is bounded.
        local_port: PortId::HOST,
        last_seen: now,
        ..*refused
    };
    let slot = match part.table.insert(part.table.hash(&denied.key), &denied, quota) {
        Ok(slot) => slot,
        Err(InsertError::Exists(slot)) if part.table.get(slot).is_some_and(|e| e.class() == TimeoutClass::Deny) => {
            if let Some(entry) = part.table.get_mut(slot) {
                entry.touch(now);
            }
            slot
        }
        // Where there is no room, answers have none either.
        Err(_) => return,
    };
    let timeout = part.timeouts.of(TimeoutClass::Deny);
    part.arm(slot, now.wrapping_add(timeout));
}

/// Turns the initiator's half into a cached drop; after a collision into one that the flow's next packet ends, which is
/// given another source port.
fn refuse<A: Family>(flows: &mut Flows, half: HalfRef, collision: bool, now: Millis)
where
    Entry<A>: Pod,
{
    let (part, quota) = A::of(flows);
    let Some(slot) = part.table.resolve(half) else { return };
    let Some(entry) = part.table.get(slot) else { return };
    if entry.state() != EntryState::Live || !entry.flags().has(Flags::INITIATOR) {
        return;
    }
    let mut denied = entry.half();
    denied.verdict.action = Action::Drop(DropReason::FlowRefused as u8);
    if collision {
        denied.flags = denied.flags.with(RENUMBER);
    }
    denied.class = TimeoutClass::Deny;
    denied.peer = None;
    denied.last_seen = now;
    if part.table.replace(slot, &denied, quota).is_ok() {
        let timeout = part.timeouts.of(TimeoutClass::Deny);
        part.arm(slot, now.wrapping_add(timeout));
    }
}

/// The other half's answer to a query.
fn seen<A: Family, E: Env>(flows: &mut Flows, env: &mut E, from: WorkerId, creator: HalfRef, age: Millis, other: Flags)
where
    Entry<A>: Pod,
{
    let (me, now) = (flows.me, env.now());
    let (part, _) = A::of(flows);
    let timeouts = part.timeouts;
    let Some(slot) = part.table.resolve(creator).filter(|_| creator.worker == me) else { return };
    let Some(entry) = part.table.get_mut(slot) else { return };
    if entry.state() != EntryState::Live || !entry.flags().has(Flags::INITIATOR) {
        return;
    }
    let deadline = merge(entry, &timeouts, now.wrapping_sub(age), other);
    if !reached(now, deadline) {
        let class = entry.class();
        part.arm(slot, soonest(now, deadline, class));
        return;
    }
    retire(part, env, me, from, slot);
}

/// Takes over what the other half knows; returns when the flow ends if nothing more comes.
fn merge<A: Addr>(entry: &mut Entry<A>, timeouts: &Timeouts, other_seen: Millis, other: Flags) -> Millis {
    if reached(other_seen, entry.last_seen()) {
        entry.touch(other_seen);
    }
    let flags = learn(entry.flags(), other);
    let class = class(entry.key().proto, flags);
    entry.set_flags(flags);
    entry.set_class(class);
    entry.last_seen().wrapping_add(timeouts.of(class))
}

fn soonest(now: Millis, deadline: Millis, class: TimeoutClass) -> Millis {
    let look = now.wrapping_add(look(class));
    if reached(look, deadline) { deadline } else { look }
}

/// Takes the initiator's half out of the table and has the other one freed; the slot waits for the acknowledgement.
pub(crate) fn retire<A: Family, E: Env>(
    part: &mut crate::flows::Part<A>,
    env: &mut E,
    me: WorkerId,
    to: WorkerId,
    slot: Slot,
) where
    Entry<A>: Pod,
{
    part.table.retire(slot);
    ask_to_free(&part.table, env, me, to, slot);
    part.arm(slot, env.now().wrapping_add(RETRY));
}

fn ask_to_free<A: Family, E: Env>(
    table: &podplane_tables::flow::FlowTable<A>,
    env: &mut E,
    me: WorkerId,
    to: WorkerId,
    slot: Slot,
) where
    Entry<A>: Pod,
{
    if let (Some(entry), Some(creator)) = (table.get(slot), table.half_ref(me, slot)) {
        post(env, me, to, Msg::Retire { key: reply_key(entry), creator, bar: bar_of(entry) });
    }
}

/// The key of the replies' half: that of what this direction leaves with, reversed. Its zone is that of the place where
/// this direction leads.
pub(crate) fn reply_key<A: Addr>(entry: &Entry<A>) -> Key<A> {
    reversed(entry.key(), entry.rewrite(), leads_to(entry.flags()))
}

/// The key of replies to what came with `key` and leaves as `rewrite` says.
pub(crate) fn reversed<A: Addr>(key: &Key<A>, rewrite: Option<Rewrite<A>>, zone: u8) -> Key<A> {
    match rewrite {
        Some(new) => Key::new(new.dst, new.src, new.dport, new.sport, key.proto, zone),
        None => key.reversed(zone),
    }
}

/// Ends a flow by its initiator's half at once: its key may be used again when this returns.
pub(crate) fn end<A: Family, E: Env>(flows: &mut Flows, env: &mut E, slot: Slot)
where
    Entry<A>: Pod,
{
    flows.ended = true;
    let me = flows.me;
    let (part, quota) = A::of(flows);
    let Some(entry) = part.table.get(slot) else { return };
    let key = reply_key(entry);
    match entry.peer().map(|p| p.worker) {
        Some(other) if other != me => retire(part, env, me, other, slot),
        peer => {
            let creator = part.table.half_ref(me, slot);
            if let Some(reply) = peer.and(creator).and_then(|c| part.belonging(&key, c)) {
                part.free(reply, quota);
            }
            part.free(slot, quota);
        }
    }
}

/// A cached drop because of a collision of reply tuples: the next packet tries another source port.
pub(crate) const RENUMBER: Flags = Flags(1 << (ZONE_SHIFT + 3));

/// A cached drop that was the replies' half of a flow that policy forbids by now.
pub(crate) const BARRED: Flags = Flags(1 << (ZONE_SHIFT + 4));

/// In a half of replies on its way to its owner: the connection was there before, as its first packet here tells, so it takes
/// the place of one that led through another entry node. No table holds it, so the bit may be that of cached drops.
pub(crate) const MOVED: Flags = RENUMBER;

/// Flag bits that hold the zone of the other half's key.
const ZONE_SHIFT: u32 = Flags::FIRST_FREE_BIT + 2;

/// Remembers in a half in which zone the packets of the other direction come in: where this one leads to.
pub(crate) const fn leading_to(flags: Flags, zone: u8) -> Flags {
    Flags(flags.0 | (zone as u16 & 7) << ZONE_SHIFT)
}

/// What [`leading_to`] remembered.
pub(crate) const fn leads_to(flags: Flags) -> u8 {
    (flags.0 >> ZONE_SHIFT) as u8 & 7
}

/// Whether a flow leads from or to a port that is gone: nothing will end it, and it is charged to whoever gets the
/// port's index next.
fn is_orphan<A: Addr>(half: &Half<A>, snap: &Snapshot) -> bool {
    let gone = |port| snap.port(port).is_none();
    gone(half.local_port) || matches!(half.verdict.action, Action::Forward(port) if gone(port))
}

/// Looks at the flows whose time may have come. Bounded.
pub(crate) fn expire<A: Family, E: Env>(flows: &mut Flows, env: &mut E, snap: &Snapshot)
where
    Entry<A>: Pod,
{
    let (me, now) = (flows.me, env.now());
    let (part, quota) = A::of(flows);
    let crate::flows::Part { table, wheel, timeouts } = part;
    wheel.run(now, LOOKS, |index| {
        let Some(slot) = Slot::from_index(index) else { return Look::Done };
        let Some(entry) = table.get_mut(slot) else { return Look::Done };
        let half = entry.half();
        if half.flags.has(Flags::REPLY) {
            return Look::Done;
        }
        let other = half.peer.map(|p| p.worker);
        if let (EntryState::Retired, Some(other)) = (entry.state(), other) {
            ask_to_free(table, env, me, other, slot);
            return Look::Again(now.wrapping_add(RETRY));
        }
        let orphan = is_orphan(&half, snap);
        let deadline = if orphan { now } else { half.last_seen.wrapping_add(timeouts.of(half.class)) };
        let idle = now.wrapping_sub(half.last_seen);
        if !reached(now, deadline) && idle < look(half.class) {
            return Look::Again(soonest(now, deadline, half.class));
        }
        let Some(other) = other else {
            // A cached drop, or a half without another.
            if !reached(now, deadline) {
                return Look::Again(soonest(now, deadline, half.class));
            }
            table.free(slot, quota);
            return Look::Done;
        };
        let key = reply_key(entry);
        let Some(creator) = table.half_ref(me, slot) else { return Look::Done };
        if other != me && orphan {
            table.retire(slot);
            ask_to_free(table, env, me, other, slot);
            return Look::Again(now.wrapping_add(RETRY));
        }
        if other != me {
            post::<A, E>(env, me, other, Msg::Query { key, creator });
            return Look::Again(now.wrapping_add(if reached(now, deadline) { RETRY } else { look(half.class) }));
        }
        let reply = table
            .find(&key, table.hash(&key))
            .filter(|s| table.get(*s).is_some_and(|e| e.peer() == Some(creator) && e.flags().has(Flags::REPLY)));
        let known = reply.and_then(|s| table.get(s)).map(|e| (e.last_seen(), e.flags()));
        let Some(entry) = table.get_mut(slot) else { return Look::Done };
        let deadline = match known {
            Some((seen, flags)) if !orphan => merge(entry, timeouts, seen, flags),
            _ => deadline,
        };
        let class = entry.class();
        if !reached(now, deadline) {
            return Look::Again(soonest(now, deadline, class));
        }
        if let Some(reply) = reply {
            table.free(reply, quota);
        }
        table.free(slot, quota);
        Look::Done
    });
}
