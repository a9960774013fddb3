//! Applies the verdict that the flow's entry caches.
//!
//! Uses: `key`, `hash`, `slot`, `via`. Sets: `out`, `pass`.
//!
//! An entry judged under an older snapshot is used if nothing that it depends on changed since; else its forward tuple
//! is judged again in place, so the connection keeps both its halves.
//!
//! Next: `forward` (hit), `route` (miss).

use std::net::IpAddr;

use podplane_packet::id::PortId;
use podplane_tables::changed::Validity;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::{Action, Entry, Flags, Key};
use podplane_tables::mem::Pod;

use super::{Next, Pkt, World, policy};
use crate::drop::DropReason;
use crate::env::Env;
use crate::flows::Family;
use crate::graph::{Node, NodeId};
use crate::snapshot::Snapshot;
use crate::timeouts::{TIMEOUTS, class, observe};
use crate::world::{AnyKey, Ctx};

pub(crate) const NODE: Node = Node {
    does: "Applies the flow's cached verdict.",
    drops: &[
        DropReason::VxlanInnerSource,
        DropReason::PolicyDenied,
        DropReason::FlowRefused,
        DropReason::NoRoute,
        DropReason::NoSuchPod,
        DropReason::VxlanNotLocal,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let hit = match p.ctx.key {
        AnyKey::V4(key) => apply(w, &mut p.ctx, &key, true),
        AnyKey::V6(key) => apply(w, &mut p.ctx, &key, true),
    };
    match hit {
        Hit::Allowed => Next::To(NodeId::Forward),
        Hit::Denied(reason) => Next::Drop(reason),
        Hit::Miss => Next::To(NodeId::Route),
    }
}

/// Applies the verdict of the flow that an ICMP error belongs to.
pub(super) fn related<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let hit = match p.ctx.key {
        AnyKey::V4(key) => apply(w, &mut p.ctx, &key, false),
        AnyKey::V6(key) => apply(w, &mut p.ctx, &key, false),
    };
    match hit {
        Hit::Allowed => Next::To(NodeId::Forward),
        Hit::Denied(reason) => Next::Drop(reason),
        Hit::Miss => Next::Drop(DropReason::IcmpErrorWithoutFlow),
    }
}

enum Hit {
    Allowed,
    Denied(DropReason),
    Miss,
}

/// Applies the entry of `key`; `own`: the packet is one of the flow, and keeps it alive.
#[inline]
fn apply<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, key: &Key<A>, own: bool) -> Hit
where
    Entry<A>: Pod,
{
    let (part, quota) = A::of(&mut w.st.flows);
    // A miss looks once more: an earlier packet of this burst may have created the flow.
    let Some(slot) = ctx.slot.or_else(|| part.table.find(key, ctx.hash)) else { return Hit::Miss };
    let Some(entry) = part.table.get_mut(slot) else { return Hit::Miss };
    match entry.validity(w.snap.generation(), w.snap.changed()) {
        Validity::Valid => {}
        Validity::Restamp => entry.restamp(w.snap.generation()),
        Validity::Revalidate => {
            let mut half = entry.half();
            half.verdict.action = rejudge(w.snap, half.verdict.action, key.dst.ip(), ctx);
            half.generation = w.snap.generation();
            // Who sends in this direction, by the FIB: an ICMP error that is the first to come may be from anybody.
            half.vtep = match (half.verdict.action, w.snap.route(key.src.ip())) {
                (Action::Encap(vtep), _) | (_, Some(NextHop::Vtep(vtep) | NextHop::Node(vtep))) => Some(vtep),
                _ => None,
            };
            if part.table.replace(slot, &half, quota).is_err() {
                return Hit::Denied(DropReason::FlowRefused);
            }
        }
    }
    let Some(entry) = part.table.get_mut(slot) else { return Hit::Miss };
    if ctx.via.vtep.is_some() && entry.vtep() != ctx.via.vtep {
        return Hit::Denied(DropReason::VxlanInnerSource);
    }
    ctx.out = entry.action();
    if let Action::Drop(reason) = ctx.out {
        // Not touched: a flood must not keep its own verdict alive.
        return Hit::Denied(cached_reason(reason));
    }
    ctx.pass = Some(policy::of_cached_verdict());
    if !own {
        return Hit::Allowed;
    }
    entry.touch(w.now);
    let flags = observe(entry.flags(), ctx.l4.tcp_flags);
    if flags != entry.flags() {
        entry.set_flags(flags);
        let class = class(key.proto, flags);
        if flags.has(Flags::INITIATOR) && class != entry.class() {
            entry.set_class(class);
            part.arm(slot, w.now.wrapping_add(TIMEOUTS.of(class).min(crate::timeouts::LOOK)));
        }
    }
    Hit::Allowed
}

/// The drop reason that an entry holds.
fn cached_reason(number: u8) -> DropReason {
    DropReason::ALL.get(usize::from(number)).copied().unwrap_or(DropReason::PolicyDenied)
}

/// Where packets of a flow go under a newer snapshot. What leads to the node's own stack without a route of ours
/// answers somebody behind the node, and goes back there.
fn rejudge(snap: &Snapshot, before: Action, dst: IpAddr, ctx: &Ctx) -> Action {
    let via_tunnel = ctx.via.vtep.is_some();
    let drop = |reason: DropReason| Action::Drop(reason as u8);
    match snap.route(dst) {
        Some(NextHop::Local(port)) => Action::Forward(port),
        Some(NextHop::Host) => Action::Forward(PortId::HOST),
        Some(NextHop::Vtep(_) | NextHop::Node(_)) if via_tunnel => drop(DropReason::VxlanNotLocal),
        Some(NextHop::Vtep(vtep) | NextHop::Node(vtep)) => Action::Encap(vtep),
        Some(NextHop::Blackhole | NextHop::Gateway) => drop(DropReason::NoSuchPod),
        None if before == Action::Forward(PortId::HOST) => before,
        _ => drop(DropReason::NoRoute),
    }
}
