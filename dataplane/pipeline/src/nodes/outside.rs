//! Plain out by the uplink, to a neighbour of the node.
//!
//! Uses: `out`, `pass`. Sets: the Ethernet addresses. Next: out.

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::PortId;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World, l2_pass};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::UDP;
use crate::snapshot::VXLAN_PORT;

pub(crate) const NODE: Node = Node {
    does: "Rewrites the Ethernet header for a neighbour on the uplink's network.",
    drops: &[
        DropReason::PortDown,
        DropReason::NotConfigured,
        DropReason::NotJudged,
        DropReason::NeighbourUnresolved,
        DropReason::VxlanFromHost,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Action::Outside(neighbour) = p.ctx.out else { return Next::Drop(DropReason::PortDown) };
    let Some(local) = w.snap.local() else { return Next::Drop(DropReason::NotConfigured) };
    let Some((_, Some(mac))) = w.snap.outside().neighbour(neighbour) else {
        return Next::Drop(DropReason::NeighbourUnresolved);
    };
    // A Service may have such a backend. The peer would take it for what this node says of its pods. (Fragments it drops.)
    if p.ctx.ip.proto == UDP && p.ctx.l4.dport == VXLAN_PORT && l2_pass::takes_vxlan(w.snap, p.ctx.ip.dst) {
        return Next::Drop(DropReason::VxlanFromHost);
    }
    let Some(pass) = p.ctx.pass.take() else { return Next::Drop(DropReason::NotJudged) };
    p.set_macs(mac, local.uplink_mac);
    p.buf.meta_mut().tunnel = 0;
    Next::Transmit(PortId::UPLINK, pass)
}
