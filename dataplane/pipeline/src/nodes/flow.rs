//! Applies the verdict that the flow's entry caches.
//!
//! Uses: `key`, `hash`, `slot`, `via`. Sets: `out`, `rewrite`, `pass`.
//!
//! An entry judged under an older snapshot is used if nothing that it depends on changed since; else it is judged again
//! in place ([`crate::revalidate`]), so the connection keeps both its halves. A packet of a known flow is translated or
//! dropped, never passed untranslated.
//!
//! Next: `forward` (hit), `service` (miss), `l2_pass` (a miss of what need not be ours).

use podplane_tables::changed::Validity;
use podplane_tables::flow::{Action, Entry, Flags, Half, Slot, V4, V6};
use podplane_tables::mem::Pod;

use podplane_packet::nat::Tuple;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::flows::Family;
use crate::forbid::forbid;
use crate::graph::{Node, NodeId};
use crate::halves::{self, BARRED, Bar, RENUMBER};
use crate::headers::TCP;
use crate::judge::{Connection, Denial, Direction};
use crate::pass::Pass;
use crate::revalidate::{Judged, judge};
use crate::timeouts::{class, is_closed, is_opening, look, observe};
use crate::world::{AnyKey, Ctx, zone};

pub(crate) const NODE: Node = Node {
    does: "Applies the flow's cached verdict.",
    drops: &[
        DropReason::VxlanInnerSource,
        DropReason::EntryConflict,
        DropReason::PolicyIngress,
        DropReason::PolicyEgress,
        DropReason::FlowRefused,
        DropReason::NoRoute,
        DropReason::NoSuchPod,
        DropReason::NeighbourUnresolved,
        DropReason::VxlanNotLocal,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    match examine(w, p.ctx, true) {
        Hit::Allowed => Next::To(NodeId::Forward),
        Hit::Denied(Next::Drop(DropReason::NeighbourUnresolved)) if p.ctx.awaits.is_some() => Next::Wait,
        Hit::Denied(drop) => drop,
        Hit::Miss if p.ctx.borrowed => Next::To(NodeId::L2Pass),
        Hit::Miss => Next::To(NodeId::Service),
    }
}

/// Applies the verdict of the flow that an ICMP error belongs to.
pub(super) fn related<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    match examine(w, p.ctx, false) {
        Hit::Allowed => Next::To(NodeId::Forward),
        Hit::Denied(drop) => drop,
        Hit::Miss if p.ctx.borrowed => Next::To(NodeId::L2Pass),
        Hit::Miss => Next::Drop(DropReason::IcmpErrorWithoutFlow),
    }
}

enum Hit {
    Allowed,
    /// With the end of the packet.
    Denied(Next),
    Miss,
}

/// What an entry says that cannot simply be applied.
enum Unusual {
    Denied(Next),
    /// Policy forbids the flow by now.
    Forbidden(Denial),
    /// The flow has to end; this packet opens another.
    End,
}

#[inline]
fn examine<E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, own: bool) -> Hit {
    // A miss looks once more: an earlier packet of this burst may have created the flow. So does a hit, if one ended a flow.
    let found = if w.st.flows.ended { None } else { ctx.slot };
    let Some(slot) = found.or_else(|| w.st.flows.find_hashed(&ctx.key, ctx.hash)) else { return Hit::Miss };
    match ctx.key {
        AnyKey::V4(_) => apply::<V4, E>(w, ctx, slot, own),
        AnyKey::V6(_) => apply::<V6, E>(w, ctx, slot, own),
    }
}

/// Applies an entry; `own`: the packet is one of the flow, and keeps it alive.
#[inline]
fn apply<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, slot: Slot, own: bool) -> Hit
where
    Entry<A>: Pod,
{
    let (part, _) = A::of(&mut w.st.flows);
    let Some(entry) = part.table.get_mut(slot) else { return Hit::Miss };
    let validity = entry.validity(w.snap.generation(), w.snap.changed());
    if validity == Validity::Restamp {
        entry.restamp(w.snap.generation());
    }
    let moved = ctx.via.vtep.is_some() && entry.vtep() != ctx.via.vtep;
    let flags = entry.flags();
    // A flow of the node's is none of those whom its kernel gives the same address and port, nor theirs the node's.
    let other_client = is_of_another_client(flags, ctx.client);
    let again =
        own && is_opening(ctx.l4.tcp_flags) && (entry.rewrite().is_some() && is_closed(flags) || flags.has(BARRED));
    if validity == Validity::Revalidate || moved || again || other_client || matches!(entry.action(), Action::Drop(_)) {
        ctx.slot = Some(slot);
        let stale = validity == Validity::Revalidate;
        let judged = if other_client { Err(Unusual::End) } else { unusual::<A, E>(w, ctx, stale, again) };
        match judged {
            Ok(()) => {}
            Err(Unusual::Denied(drop)) => return Hit::Denied(drop),
            Err(Unusual::Forbidden(Denial { port, direction })) => {
                let bar = Bar { reason: direction.reason(), generation: w.snap.generation() };
                forbid::<A, E>(&mut w.st.flows, w.env, slot, bar);
                return Hit::Denied(Next::DropAt(port, bar.reason));
            }
            Err(Unusual::End) if own => {
                halves::end::<A, E>(&mut w.st.flows, w.env, slot);
                ctx.slot = None;
                return Hit::Miss;
            }
            Err(Unusual::End) => return Hit::Miss,
        }
    }
    let (part, _) = A::of(&mut w.st.flows);
    let Some(entry) = part.table.get_mut(slot) else { return Hit::Miss };
    ctx.out = entry.action();
    ctx.rewrite = entry.rewrite().map(|n| Tuple { src: n.src.ip(), dst: n.dst.ip(), sport: n.sport, dport: n.dport });
    ctx.pass = Some(Pass::by_cached_verdict());
    if !own {
        return Hit::Allowed;
    }
    entry.touch(w.now);
    let flags = observe(entry.flags(), ctx.l4.tcp_flags);
    if flags != entry.flags() {
        entry.set_flags(flags);
        let class = class(entry.key().proto, flags);
        if flags.has(Flags::INITIATOR) && class != entry.class() {
            entry.set_class(class);
            let timeout = part.timeouts.of(class).min(look(class));
            part.arm(slot, w.now.wrapping_add(timeout));
        }
    }
    Hit::Allowed
}

/// Whether a packet of an initiator's half came by another gateway of the host port than the flow's first one. What
/// answers may come by either.
#[inline]
fn is_of_another_client(flags: Flags, client: Flags) -> bool {
    let initiator = flags.0 & (Flags::INITIATOR.0 | BARRED.0) == Flags::INITIATOR.0;
    initiator && (flags.0 ^ client.0) & Flags::FORWARDED.0 != 0
}

/// Judges an entry again, moves it to another entry node, or says why the packet may not go on.
#[cold]
fn unusual<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, stale: bool, again: bool) -> Result<(), Unusual>
where
    Entry<A>: Pod,
{
    let gone = || Unusual::Denied(Next::Drop(DropReason::FlowRefused));
    let (part, quota) = A::of(&mut w.st.flows);
    let Some(slot) = ctx.slot else { return Err(gone()) };
    let Some(mut half) = part.table.get(slot).map(Entry::half) else { return Err(gone()) };
    let initiator = half.flags.has(Flags::INITIATOR);
    if stale {
        match judge(w.snap, half) {
            Judged::Anew => return Err(Unusual::End),
            Judged::Forbidden(denial) => return Err(Unusual::Forbidden(denial)),
            Judged::Holds(next) => half = next,
        }
        if part.table.replace(slot, &half, quota).is_err() {
            return Err(gone());
        }
    }
    if half.flags.has(RENUMBER) {
        ctx.renumber = true;
        return Err(Unusual::End);
    }
    if let Action::Drop(number) = half.verdict.action
        && cached_reason(number).is_policy()
    {
        return Err(denied_by_policy(w, ctx, &half));
    }
    // A connection to a Service that ended is not opened again toward a backend that may be gone.
    if again && initiator {
        return Err(Unusual::End);
    }
    if ctx.via.vtep.is_some() && half.vtep != ctx.via.vtep {
        if half.key.zone != zone::ENTRY || !initiator {
            return Err(Unusual::Denied(Next::Drop(DropReason::VxlanInnerSource)));
        }
        if is_opening(ctx.l4.tcp_flags) && !is_closed(half.flags) {
            return Err(Unusual::Denied(Next::Drop(DropReason::EntryConflict)));
        }
        // An error says nothing about the way of the client's packets.
        if !ctx.l4.error {
            part.enter_by(w.st.worker, slot, ctx.via.vtep, quota);
        }
    }
    if let Action::Drop(reason) = half.verdict.action {
        let reason = cached_reason(reason);
        if reason == DropReason::NeighbourUnresolved {
            // It was forgotten, for it did not answer: it is asked for again, and the flow judged anew once it is known.
            ctx.awaits = Some(half.verdict.rewrite.map_or(half.key.dst, |n| n.dst).ip());
        }
        // Not touched: a flood must not keep its own verdict alive.
        return Err(Unusual::Denied(Next::Drop(reason)));
    }
    Ok(())
}

/// What a cached denial says to a packet. One of a connection that was barred may ask for a new one.
fn denied_by_policy<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &Ctx, half: &Half<A>) -> Unusual
where
    Entry<A>: Pod,
{
    let barred = half.flags.has(BARRED);
    if barred && is_opening(ctx.l4.tcp_flags) {
        return Unusual::End;
    }
    let Action::Drop(number) = half.verdict.action else { return Unusual::End };
    let reason = cached_reason(number);
    if barred
        && half.key.proto == TCP
        && !ctx.l4.error
        && let Some(entry) = ctx.slot.and_then(|slot| A::of(&mut w.st.flows).0.table.get_mut(slot))
    {
        entry.touch(w.now);
    }
    let direction = if reason == DropReason::PolicyIngress { Direction::Ingress } else { Direction::Egress };
    let port = Connection::of(half).pod(w.snap, direction);
    Unusual::Denied(Next::DropAt(port.unwrap_or(ctx.via.port), reason))
}

/// The drop reason that an entry holds.
fn cached_reason(number: u8) -> DropReason {
    DropReason::ALL.get(usize::from(number)).copied().unwrap_or(DropReason::FlowRefused)
}
