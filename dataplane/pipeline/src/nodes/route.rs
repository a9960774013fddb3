//! Where the first packet of a flow goes.
//!
//! Uses: `ip`, `via`. Sets: `out`, `complaint`.
//!
//! Next: `policy`; `icmp_error` where no route or no pod is.

use podplane_packet::id::PortId;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::snapshot::PortClass;
use crate::world::Complaint;

pub(crate) const NODE: Node = Node {
    does: "Looks the destination up: a pod, the node, a peer.",
    drops: &[DropReason::SpoofedFromHost, DropReason::Hairpin, DropReason::VxlanNotLocal, DropReason::GatewayNoService],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    // The node's own stack speaks for itself and for strangers. It may forward what the underlay brought, and what is
    // ours or a peer's comes to us by no such way.
    let taken = |hop| matches!(hop, NextHop::Local(_) | NextHop::Vtep(_) | NextHop::Node(_) | NextHop::Blackhole);
    if p.ctx.class == PortClass::Host && w.snap.route(p.ctx.ip.src).is_some_and(taken) {
        return Next::Drop(DropReason::SpoofedFromHost);
    }
    p.ctx.out = match w.snap.route(p.ctx.ip.dst) {
        Some(NextHop::Local(port)) => Action::Forward(port),
        Some(NextHop::Host) => Action::Forward(PortId::HOST),
        Some(NextHop::Vtep(_) | NextHop::Node(_)) if p.ctx.class == PortClass::Uplink => {
            return Next::Drop(DropReason::VxlanNotLocal);
        }
        Some(NextHop::Vtep(vtep) | NextHop::Node(vtep)) => Action::Encap(vtep),
        Some(NextHop::Gateway) => return Next::Drop(DropReason::GatewayNoService),
        Some(NextHop::Blackhole) => return complain(p, Complaint::NoSuchPod),
        _ if p.ctx.class == PortClass::Uplink => return Next::Drop(DropReason::VxlanNotLocal),
        _ => return complain(p, Complaint::NoRoute),
    };
    if p.ctx.out == Action::Forward(p.ctx.via.port) {
        return Next::Drop(DropReason::Hairpin);
    }
    Next::To(NodeId::Policy)
}

fn complain<B>(p: &mut Pkt<B>, complaint: Complaint) -> Next {
    p.ctx.complaint = complaint;
    Next::To(NodeId::IcmpError)
}
