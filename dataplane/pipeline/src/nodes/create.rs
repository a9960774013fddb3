//! Creates the flow: the initiator's half here, the replies' half at its owner.
//!
//! Uses: `key`, `hash`, `via`, `out`, `back`, `rewrite`. Sets: `slot`; `rewrite`, where another flow holds the reply's
//! tuple and this one is given another source port.
//!
//! The other half is pushed before the packet is transmitted, so a reply always finds it. Nothing is created, and the
//! packet is dropped, if either half has no place here or the push finds the queue full; a refusal by another worker
//! comes back as a message.
//!
//! Next: `forward`.

use podplane_packet::id::PortId;
use podplane_tables::flow::{Action, Addr, Entry, Flags, Half, HalfRef, Key, Rewrite, Verdict};
use podplane_tables::mem::Pod;

use super::masquerade::{is_free, with_source_port};
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::flows::Family;
use crate::graph::{Node, NodeId};
use crate::halves;
use crate::headers::{SCTP, TCP, UDP};
use crate::owner::{Arrival, Ends, owner};
use crate::snapshot::PortClass;
use crate::timeouts::{class, goes_on, look, observe};
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

/// How many other source ports are tried.
const TRIES: u32 = 64;
/// The least of them: those below are their owners' privilege.
const FIRST_PORT: u32 = 1024;

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let created = match p.ctx.key {
        AnyKey::V4(key) => create(w, p.ctx, key),
        AnyKey::V6(key) => create(w, p.ctx, key),
    };
    match created {
        Ok(()) => Next::To(NodeId::Forward),
        Err(reason) => Next::Drop(reason),
    }
}

/// The zone in which replies to what leaves so come in.
pub(super) fn reply_zone(out: Action) -> u8 {
    match out {
        Action::Forward(PortId::HOST) => zone::HOST,
        Action::Forward(_) | Action::Drop(_) => zone::POD,
        Action::Encap(_) => zone::TUNNEL,
        Action::Enter(_) => zone::ENTRY,
        Action::Outside(_) => zone::PLAIN,
    }
}

/// Who opens a flow pays for it; for what comes by the uplink, the pod that it is for, or else the uplink.
pub(super) fn payer(ctx: &Ctx) -> PortId {
    match (ctx.class, ctx.out) {
        (PortClass::Uplink, Action::Forward(port)) if port != PortId::HOST => port,
        _ => ctx.via.port,
    }
}

/// What a packet's tuple becomes, as entries hold it.
pub(super) fn rewrite<A: Family>(ctx: &Ctx) -> Option<Rewrite<A>>
where
    Entry<A>: Pod,
{
    ctx.rewrite.map(|n| Rewrite { src: A::of_ip(n.src), dst: A::of_ip(n.dst), sport: n.sport, dport: n.dport })
}

fn create<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, key: Key<A>) -> Result<(), DropReason>
where
    Entry<A>: Pod,
{
    if ctx.renumber {
        renumber(w, ctx)?;
    }
    let created = match attempt(w, ctx, key) {
        Err(DropReason::FlowCollision) => {
            renumber(w, ctx)?;
            attempt(w, ctx, key)
        }
        other => other,
    };
    if created.is_ok()
        && ctx.rewrite.is_some()
        && let Some(frontend) = w.snap.services().find(ctx.ip.dst, ctx.ip.proto, ctx.l4.dport)
    {
        frontend.hit(w.st.worker);
    }
    created
}

/// Gives the flow another source port, as conntrack does. A masquerade port is random already.
#[cold]
fn renumber<E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx) -> Result<(), DropReason> {
    let tuple = ctx.new_tuple();
    let masqueraded = w.snap.local().is_some_and(|l| l.is_masquerade(tuple.src, tuple.sport));
    if masqueraded && ctx.rewrite.is_some() {
        return Ok(());
    }
    if !matches!(ctx.ip.proto, TCP | UDP | SCTP) {
        return Err(DropReason::FlowCollision);
    }
    for _ in 0..TRIES {
        let port = FIRST_PORT + w.st.flows.random() % (u32::from(u16::MAX) + 1 - FIRST_PORT);
        let new = with_source_port(tuple, ctx.ip.proto, port as u16);
        if is_free(&w.st.flows, ctx, &new) {
            ctx.rewrite = Some(new);
            return Ok(());
        }
    }
    Err(DropReason::FlowCollision)
}

fn attempt<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &mut Ctx, key: Key<A>) -> Result<(), DropReason>
where
    Entry<A>: Pod,
{
    let me = w.st.worker;
    let arrival = match ctx.out {
        Action::Forward(port) => Arrival::Port(port),
        Action::Outside(_) => Arrival::Plain,
        _ => Arrival::Tunnel,
    };
    let new = ctx.new_tuple();
    let rewrite = rewrite(ctx);
    let reply_key = halves::reversed(&key, rewrite, reply_zone(ctx.out));
    if reply_key == key {
        return Err(DropReason::FlowKeySelf);
    }
    let other = owner(w.snap, arrival, Ends { src: new.dst, dst: new.src, dport: new.sport });
    let (forward, reply) = both(w, ctx, key, reply_key, rewrite)?;
    let (part, quota) = A::of(&mut w.st.flows);
    let slot = part.insert(ctx.hash, &forward, quota)?;
    let Some(mine) = part.table.half_ref(me, slot) else { return Err(DropReason::FlowCollision) };
    let reply = Half { peer: Some(mine), ..reply };
    let installed = if other == me {
        part.install(me, &reply, quota).map(|installed| {
            halves::oust(part, quota, w.env, me, installed.ousted);
            installed.paired
        })
    } else {
        halves::push(w.env, me, other, reply).map(|()| true)
    };
    match installed {
        Ok(paired) => {
            if let Some(entry) = part.table.get_mut(slot).filter(|_| paired) {
                entry.set_peer(Some(HalfRef { worker: other, ..mine }));
            }
            let timeout = part.timeouts.of(forward.class).min(look(forward.class));
            part.arm(slot, w.now.wrapping_add(timeout));
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
fn both<A: Addr, E: Env>(
    w: &World<'_, E>,
    ctx: &Ctx,
    key: Key<A>,
    reply_key: Key<A>,
    rewrite: Option<Rewrite<A>>,
) -> Result<(Half<A>, Half<A>), DropReason> {
    if let Action::Forward(port) = ctx.out {
        w.snap.port(port).ok_or(DropReason::PortDown)?;
    }
    let to_vtep = match ctx.out {
        Action::Encap(vtep) | Action::Enter(vtep) => Some(vtep),
        _ => None,
    };
    let flags = observe(Flags::INITIATOR.with(ctx.client), ctx.l4.tcp_flags);
    let forward = Half {
        key,
        verdict: Verdict { action: ctx.out, rewrite },
        generation: w.snap.generation(),
        last_seen: w.now,
        peer: None,
        flags: halves::leading_to(flags, reply_key.zone),
        class: class(key.proto, flags),
        local_port: payer(ctx),
        vtep: ctx.via.vtep.or(to_vtep),
    };
    let undo = rewrite.map(|_| Rewrite { src: key.dst, dst: key.src, sport: key.dport, dport: key.sport });
    let from_outside = matches!(key.zone, zone::PLAIN | zone::ENTRY);
    let moved = if from_outside && goes_on(ctx.l4.tcp_flags) { halves::MOVED } else { Flags::NONE };
    let reply = Half {
        key: reply_key,
        verdict: Verdict { action: ctx.back, rewrite: undo },
        flags: halves::leading_to(Flags::REPLY.with(ctx.client), key.zone).with(moved),
        vtep: to_vtep.or(ctx.via.vtep),
        ..forward
    };
    Ok((forward, reply))
}
