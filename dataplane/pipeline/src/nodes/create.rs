//! Creates the flow: the initiator's half here, the replies' half at its owner.
//!
//! Uses: `key`, `hash`, `via`, `out`. Sets: `slot`.
//!
//! The other half is pushed before the packet is transmitted, so a reply always finds it. Nothing is created, and the
//! packet is dropped, if either half has no place here or the push finds the queue full; a refusal by another worker
//! comes back as a message.
//!
//! Next: `forward`.

use podplane_packet::id::PortId;
use podplane_tables::flow::{Action, Addr, Entry, Flags, Half, HalfRef, Key, Verdict};
use podplane_tables::mem::Pod;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::flows::Family;
use crate::graph::{Node, NodeId};
use crate::halves;
use crate::owner::{Arrival, owner};
use crate::snapshot::PortClass;
use crate::timeouts::{LOOK, TIMEOUTS, class, observe};
use crate::world::{AnyKey, Ctx, zone};

pub(crate) const NODE: Node = Node {
    does: "Creates both halves of the flow.",
    drops: &[
        DropReason::PortDown,
        DropReason::FlowKeySelf,
        DropReason::FlowTableFull,
        DropReason::FlowQuota,
        DropReason::FlowCollision,
        DropReason::HalfQueueFull,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let created = match p.ctx.key {
        AnyKey::V4(key) => create(w, &mut p.ctx, key),
        AnyKey::V6(key) => create(w, &mut p.ctx, key),
    };
    match created {
        Ok(()) => Next::To(NodeId::Forward),
        Err(reason) => Next::Drop(reason),
    }
}

fn create<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, key: Key<A>) -> Result<(), DropReason>
where
    Entry<A>: Pod,
{
    let me = w.st.worker;
    let (arrival, reply_zone) = match ctx.out {
        Action::Forward(port) => {
            let kind = w.snap.port(port).ok_or(DropReason::PortDown)?.kind;
            (Arrival::Port(port), zone(kind))
        }
        _ => (Arrival::Tunnel, zone(PortClass::Uplink)),
    };
    let reply_key = key.reversed(reply_zone);
    if reply_key == key {
        return Err(DropReason::FlowKeySelf);
    }
    let other = owner(w.snap, arrival, ctx.ip.src, None);
    let (forward, reply) = both(w, ctx, key, reply_key);
    let (part, quota) = A::of(&mut w.st.flows);
    let slot = part.insert(ctx.hash, &forward, quota)?;
    let Some(mine) = part.table.half_ref(me, slot) else { return Err(DropReason::FlowCollision) };
    let reply = Half { peer: Some(mine), ..reply };
    let installed = if other == me {
        part.install(me, &reply, quota).map(|there| there.is_some())
    } else {
        halves::push(w.env, me, other, reply).map(|()| true)
    };
    match installed {
        Ok(paired) => {
            if let Some(entry) = part.table.get_mut(slot).filter(|_| paired) {
                entry.set_peer(Some(HalfRef { worker: other, ..mine }));
            }
            part.arm(slot, w.now.wrapping_add(TIMEOUTS.of(forward.class).min(LOOK)));
            ctx.slot = Some(slot);
            Ok(())
        }
        Err(reason) => {
            // Nobody else has heard of the slot, so it may be used again at once.
            part.free(slot, quota);
            Err(reason)
        }
    }
}

/// Both halves, as yet without references to each other.
fn both<A: Addr, E: Env>(w: &World<'_, E>, ctx: &Ctx, key: Key<A>, reply_key: Key<A>) -> (Half<A>, Half<A>) {
    let back = match ctx.via.vtep {
        Some(vtep) => Action::Encap(vtep),
        None => Action::Forward(ctx.via.port),
    };
    let to_vtep = match ctx.out {
        Action::Encap(vtep) => Some(vtep),
        _ => None,
    };
    // Who opens the flow pays; for what comes from other nodes, whom it is for.
    let local_port = match (ctx.class, ctx.out) {
        (PortClass::Uplink, Action::Forward(port)) => port,
        (PortClass::Uplink, _) => PortId::HOST,
        _ => ctx.via.port,
    };
    let flags = observe(Flags::INITIATOR, ctx.l4.tcp_flags);
    let forward = Half {
        key,
        verdict: Verdict { action: ctx.out, rewrite: None },
        generation: w.snap.generation(),
        last_seen: w.now,
        peer: None,
        flags: halves::with_reply_zone(flags, reply_key.zone),
        class: class(key.proto, flags),
        local_port,
        vtep: ctx.via.vtep.or(to_vtep),
    };
    let reply =
        Half { key: reply_key, verdict: Verdict { action: back, rewrite: None }, flags: Flags::REPLY, ..forward };
    (forward, reply)
}
