//! What a new flow's client gets who sends to a Service's address and port.
//!
//! Uses: `ip`, `l4`, `via`, `class`. Sets: `rewrite` (destination only).
//!
//! A client that came plain by the uplink is outside, everybody else inside. `sessionAffinity: ClientIP` is remembered
//! by the worker that owns the client; a backend that left the set is chosen anew.
//!
//! Next: `route`; `policy`, and then `refuse`.

use podplane_packet::nat::Tuple;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::siphash13;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::engine::State;
use crate::env::{Env, Millis};
use crate::graph::{Node, NodeId};
use crate::snapshot::nets::number;
use crate::snapshot::services::{Backend, Frontend, Set, Target};
use crate::world::{Ctx, zone};

pub(crate) const NODE: Node = Node {
    does: "Chooses a backend for a new flow to a Service.",
    drops: &[
        DropReason::NotConfigured,
        DropReason::ServiceUnallocated,
        DropReason::ServiceNoLocalEndpoint,
        DropReason::ServiceSource,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(local) = w.snap.local() else { return Next::Drop(DropReason::NotConfigured) };
    let Tuple { src, dst, dport, .. } = p.ctx.tuple();
    let at = p.ctx.zone();
    // Peers translate before they encapsulate, except for what they send to this node itself.
    if at == zone::ENTRY || at == zone::TUNNEL && w.snap.route(dst) != Some(NextHop::Host) {
        return Next::To(NodeId::Route);
    }
    let services = w.snap.services();
    let Some(frontend) = services.find(dst, p.ctx.ip.proto, dport) else {
        return match local.service_cidrs.contains(dst) {
            true if services.is_cluster_ip(dst) => refuse(p.ctx),
            true => Next::Drop(DropReason::ServiceUnallocated),
            false => Next::To(NodeId::Route),
        };
    };
    if !frontend.serves(src) {
        return Next::Drop(DropReason::ServiceSource);
    }
    let set = match frontend.target(at == zone::PLAIN) {
        Target::Set(set) => set,
        Target::Reject => return refuse(p.ctx),
        Target::Drop => return Next::Drop(DropReason::ServiceNoLocalEndpoint),
    };
    let Some(backend) = choose(w.st, w.now, local.cluster_seed, p.ctx, frontend, set) else {
        return refuse(p.ctx);
    };
    p.ctx.rewrite = Some(Tuple { dst: backend.address, dport: backend.port, ..p.ctx.tuple() });
    Next::To(NodeId::Route)
}

/// Lets the client be told, unless policy would have kept it from whatever there were.
#[cold]
fn refuse(ctx: &mut Ctx) -> Next {
    ctx.then = NodeId::Refuse;
    Next::To(NodeId::Policy)
}

/// The client's backend.
fn choose<B>(
    st: &mut State<B>,
    now: Millis,
    seed: [u64; 2],
    ctx: &Ctx,
    frontend: &Frontend,
    set: &Set,
) -> Option<Backend> {
    let Tuple { src, dst, sport, dport } = ctx.tuple();
    let client = number(src);
    let Some(timeout) = frontend.affinity else {
        let to = number(dst);
        let ports = u64::from(sport) << 32 | u64::from(dport) << 16 | u64::from(ctx.ip.proto);
        let words = [client as u64, (client >> 64) as u64, to as u64, (to >> 64) as u64, ports];
        return set.pick(siphash13(seed, &words));
    };
    let service = frontend.service.0;
    if let Some((address, port)) = st.affinity.get(now, src, service, timeout)
        && set.contains(Backend { address, port })
    {
        return Some(Backend { address, port });
    }
    // By the client alone, so that another entry node, or this one when it forgot, is likely to choose the same.
    let backend = set.pick(siphash13(seed, &[client as u64, (client >> 64) as u64]))?;
    st.affinity.set(now, src, service, (backend.address, backend.port));
    Some(backend)
}
