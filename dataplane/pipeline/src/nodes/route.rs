//! Where the first packet of a flow goes, by its translated destination, and where replies to it go.
//!
//! Uses: `ip`, `via`, `rewrite`. Sets: `out`, `back`; `then`, `complaint` where no route or no pod is; `awaits`, where the
//! neighbour on its way is not known yet.
//!
//! Next: `policy`, and then what those say; `reflect` for the node's packets to itself.

use std::net::IpAddr;

use podplane_packet::id::PortId;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::revalidate::may_come_from;
use crate::snapshot::Snapshot;
use crate::snapshot::outside::Way;
use crate::world::{Complaint, Ctx, zone};

pub(crate) const NODE: Node = Node {
    does: "Looks the destination up: a pod, the node, a peer, the world outside.",
    drops: &[
        DropReason::SpoofedFromHost,
        DropReason::SpoofedFromUplink,
        DropReason::Hairpin,
        DropReason::VxlanNotLocal,
        DropReason::VxlanInnerSource,
        DropReason::GatewayNoService,
        DropReason::NoRoute,
    ],
    parses: false,
};

/// Where a packet goes that does not simply go on.
enum End {
    Drop(DropReason),
    Complain(Complaint),
    Wait(IpAddr),
    Reflect,
}

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if !may_come_from(w.snap, p.ctx.ip.src, p.ctx.zone()) {
        return Next::Drop(match p.ctx.zone() {
            zone::HOST => DropReason::SpoofedFromHost,
            zone::ENTRY => DropReason::VxlanInnerSource,
            _ => DropReason::SpoofedFromUplink,
        });
    }
    match back(w.snap, p.ctx).and_then(|back| Ok((back, out(w.snap, p.ctx)?))) {
        Ok((back, out)) => {
            p.ctx.back = back;
            p.ctx.out = out;
            Next::To(NodeId::Policy)
        }
        Err(End::Drop(reason)) => Next::Drop(reason),
        // Neither an answer nor a neighbour that is asked for shall tell anybody what policy hides.
        Err(End::Wait(neighbour)) => {
            p.ctx.awaits = Some(neighbour);
            Next::To(NodeId::Policy)
        }
        Err(End::Reflect) => Next::To(NodeId::Reflect),
        Err(End::Complain(complaint)) => {
            p.ctx.complaint = complaint;
            p.ctx.then = NodeId::IcmpError;
            Next::To(NodeId::Policy)
        }
    }
}

/// Where the packet goes.
fn out(snap: &Snapshot, ctx: &Ctx) -> Result<Action, End> {
    let at = ctx.zone();
    let translated = ctx.rewrite.is_some();
    let dst = ctx.new_tuple().dst;
    let tunnelled = matches!(at, zone::TUNNEL | zone::ENTRY);
    match snap.route(dst) {
        Some(NextHop::Local(port)) if !translated && port == ctx.via.port => Err(End::Drop(DropReason::Hairpin)),
        Some(NextHop::Local(port)) => Ok(Action::Forward(port)),
        Some(NextHop::Host) if at == zone::HOST && !translated => Err(End::Reflect),
        Some(NextHop::Host) if at == zone::ENTRY => Err(End::Drop(DropReason::VxlanNotLocal)),
        Some(NextHop::Host) => Ok(Action::Forward(PortId::HOST)),
        // Beyond one tunnel there is not another, except for what a Service sends on in this node's name.
        Some(NextHop::Vtep(_) | NextHop::Node(_)) if tunnelled && !translated => {
            Err(End::Drop(DropReason::VxlanNotLocal))
        }
        // A client whom the backend's node knows by another way would be answered by that way.
        Some(NextHop::Vtep(vtep)) if at == zone::PLAIN && snap.route(ctx.ip.src).is_none() => Ok(Action::Enter(vtep)),
        Some(NextHop::Vtep(vtep)) => Ok(Action::Encap(vtep)),
        // A node's own stack answers plain, so it is asked plain by all whom it does not reach through the tunnel.
        Some(NextHop::Node(vtep)) if at == zone::POD || !translated => Ok(Action::Encap(vtep)),
        Some(NextHop::Node(_)) => plain(snap, dst),
        Some(NextHop::Gateway) => Err(End::Drop(DropReason::GatewayNoService)),
        Some(NextHop::Blackhole) => Err(End::Complain(Complaint::NoSuchPod)),
        _ if tunnelled && !translated => Err(End::Drop(DropReason::VxlanNotLocal)),
        _ if at == zone::POD || translated => plain(snap, dst),
        _ => Err(End::Complain(Complaint::NoRoute)),
    }
}

/// Out of the cluster: by the uplink, or by the node's own stack to another of its devices.
fn plain(snap: &Snapshot, dst: IpAddr) -> Result<Action, End> {
    match snap.outside().way(dst) {
        Way::By(index) => match snap.outside().neighbour(index) {
            Some((_, Some(_))) => Ok(Action::Outside(index)),
            Some((address, None)) => Err(End::Wait(address)),
            None => Err(End::Complain(Complaint::NoRoute)),
        },
        Way::Unresolved(address) => Err(End::Wait(address)),
        Way::Host => Ok(Action::Forward(PortId::HOST)),
        Way::None => Err(End::Complain(Complaint::NoRoute)),
    }
}

/// Where replies go.
fn back(snap: &Snapshot, ctx: &Ctx) -> Result<Action, End> {
    match (ctx.zone(), ctx.via.vtep) {
        (zone::TUNNEL, Some(vtep)) => Ok(Action::Encap(vtep)),
        (_, Some(vtep)) => Ok(Action::Enter(vtep)),
        (zone::PLAIN, None) => match snap.outside().way(ctx.ip.src) {
            // Its MAC is not needed before there is a reply.
            Way::By(index) => Ok(Action::Outside(index)),
            Way::Unresolved(address) => Err(End::Wait(address)),
            // Whom the node reaches by another device would not know the answer, which does not come from there.
            Way::Host | Way::None => Err(End::Drop(DropReason::NoRoute)),
        },
        _ => Ok(Action::Forward(ctx.via.port)),
    }
}
