//! The end of a flow that was allowed and is so no longer.
//!
//! The initiator's half becomes a cached drop, as if its packet had been the flow's first. The replies' half becomes one
//! too, a **barred** one: a server's next packet would otherwise be judged as the first of a flow that the server opens,
//! which may well be allowed, and the connection would go on the other way round. Barred TCP stays so until an hour
//! after its last packet, or until somebody opens a connection with a SYN. Other protocols have no sign of a beginning:
//! there the bar lasts as long as an answered flow that falls silent, and then a packet of the server's counts as its
//! own. Its packets do not prolong that, or two that use the same port at both ends (NTP, gossip) would be kept apart for
//! ever, whoever may open. Where policy allows the former flow again, the server's packets go on as answers, until the
//! client's next packet makes the flow anew, the way round that it was.
//!
//! The halves may belong to two workers. Whoever sees a packet of its half first ends it and tells the other: the
//! initiator's half by [`Msg::Retire`], which is repeated until it is acknowledged, the replies' half by [`Msg::Gone`],
//! which the initiator's half would also hear when it asks.

use podplane_packet::id::WorkerId;
use podplane_tables::flow::{Action, Entry, EntryState, Flags, Half, Slot, TimeoutClass};
use podplane_tables::mem::Pod;
use podplane_tables::quota::Quota;

use crate::drop::DropReason;
use crate::env::{Env, Millis};
use crate::flows::{Family, Flows, Part};
use crate::halves::{BARRED, Bar, Msg, post, reply_key, retire};
use crate::headers::TCP;
use crate::timeouts::{class, look};

/// Ends the flow of a half that the rules of `generation` forbid.
#[cold]
pub(crate) fn forbid<A: Family, E: Env>(flows: &mut Flows, env: &mut E, slot: Slot, bar: Bar)
where
    Entry<A>: Pod,
{
    flows.ended = true;
    let (me, now) = (flows.me, env.now());
    let (part, quota) = A::of(flows);
    let Some(half) = part.table.get(slot).map(Entry::half) else { return };
    if half.flags.has(Flags::REPLY) {
        bar_replies(part, quota, slot, bar, now);
        match half.peer {
            Some(creator) if creator.worker == me => {
                let initiator = part.table.resolve(creator).filter(|s| is_initiator(part, *s));
                if let Some(initiator) = initiator {
                    deny(part, quota, initiator, bar, now);
                }
            }
            Some(creator) => {
                post(env, me, creator.worker, Msg::<A>::Gone(creator));
            }
            None => {}
        }
        return;
    }
    match half.peer.map(|p| p.worker) {
        Some(other) if other != me => deny_apart(part, quota, env, (me, other), slot, bar),
        _ => {
            let key = part.table.get(slot).map(reply_key);
            let creator = part.table.half_ref(me, slot);
            if let (Some(key), Some(creator)) = (key, creator)
                && let Some(reply) = part.belonging(&key, creator)
            {
                bar_replies(part, quota, reply, bar, now);
            }
            deny(part, quota, slot, bar, now);
        }
    }
}

fn is_initiator<A: Family>(part: &Part<A>, slot: Slot) -> bool
where
    Entry<A>: Pod,
{
    let live = |e: &Entry<A>| e.state() == EntryState::Live && e.flags().has(Flags::INITIATOR);
    part.table.get(slot).is_some_and(live)
}

/// A half as a cached drop.
fn denied<A: Family>(half: &Half<A>, bar: Bar, now: Millis) -> Half<A> {
    let mut denied = *half;
    denied.verdict.action = Action::Drop(bar.reason as u8);
    denied.generation = bar.generation;
    denied.class = TimeoutClass::Deny;
    denied.peer = None;
    denied.last_seen = now;
    denied
}

/// Turns the initiator's half into a cached drop, where it lies.
fn deny<A: Family>(part: &mut Part<A>, quota: &mut Quota, slot: Slot, bar: Bar, now: Millis)
where
    Entry<A>: Pod,
{
    let Some(half) = part.table.get(slot).map(Entry::half) else { return };
    if part.table.replace(slot, &denied(&half, bar, now), quota).is_ok() {
        let timeout = part.timeouts.of(TimeoutClass::Deny);
        part.arm(slot, now.wrapping_add(timeout));
    }
}

/// The same where another worker owns the other half: the slot waits for its answer, and another one holds the drop, if
/// there is one.
fn deny_apart<A: Family, E: Env>(
    part: &mut Part<A>,
    quota: &mut Quota,
    env: &mut E,
    (me, other): (WorkerId, WorkerId),
    slot: Slot,
    bar: Bar,
) where
    Entry<A>: Pod,
{
    let Some(half) = part.table.get(slot).map(Entry::half) else { return };
    let now = env.now();
    let denied = denied(&half, bar, now);
    // What is to be told again and again stands in the slot itself.
    let waiting = Half { peer: half.peer, ..denied };
    if part.table.replace(slot, &waiting, quota).is_err() {
        return;
    }
    retire(part, env, me, other, slot);
    let hash = part.table.hash(&denied.key);
    if let Ok(slot) = part.insert(hash, &denied, quota) {
        let timeout = part.timeouts.of(TimeoutClass::Deny);
        part.arm(slot, now.wrapping_add(timeout));
    }
}

/// Turns the replies' half into a barred one.
pub(crate) fn bar_replies<A: Family>(part: &mut Part<A>, quota: &mut Quota, slot: Slot, bar: Bar, now: Millis)
where
    Entry<A>: Pod,
{
    let Some(half) = part.table.get(slot).map(Entry::half) else { return };
    let mut barred = denied(&half, bar, now);
    barred.flags = half.flags.without(Flags::REPLY).with(Flags::INITIATOR).with(BARRED);
    barred.class = match half.key.proto {
        TCP => TimeoutClass::TcpClosing,
        proto => class(proto, half.flags.with(Flags::PEER_SEEN)),
    };
    if part.table.replace(slot, &barred, quota).is_ok() {
        let timeout = part.timeouts.of(barred.class).min(look(barred.class));
        part.arm(slot, now.wrapping_add(timeout));
    }
}

/// What an entry says to the other half's owner when it is retired: whether that is to be barred.
pub(crate) fn bar_of<A: Family>(entry: &Entry<A>) -> Option<Bar>
where
    Entry<A>: Pod,
{
    let Action::Drop(number) = entry.action() else { return None };
    let reason = DropReason::ALL.get(usize::from(number)).copied()?;
    reason.is_policy().then_some(Bar { reason, generation: entry.generation() })
}
