//! Frames between the uplink and the node's own stack, unchanged.
//!
//! Uses: `class`, `l3`. Sets: nothing. Next: out by the other of the two ports.
//!
//! One thing the node's processes may not say: VXLAN to a peer. The peer knows us by our address alone, so whoever may
//! open a socket here (no privilege needed) could speak for every pod of this node.

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::PortId;
use podplane_packet::wire::EtherType;
use podplane_tables::fib::NextHop;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::{self, UDP};
use crate::pass::Pass;
use crate::snapshot::{PortClass, Snapshot, VXLAN_PORT};

pub(crate) const NODE: Node = Node {
    does: "Passes frames between uplink and host port unchanged.",
    drops: &[DropReason::PortDown, DropReason::VxlanFromHost],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if p.ctx.class == PortClass::Host && is_vxlan_to_peer(w.snap, p) {
        return Next::Drop(DropReason::VxlanFromHost);
    }
    let to = if p.ctx.class == PortClass::Uplink { PortId::HOST } else { PortId::UPLINK };
    match w.snap.port(to) {
        Some(_) => Next::Transmit(to, Pass::l2_pass_through()),
        None => Next::Drop(DropReason::PortDown),
    }
}

/// Whether a peer would take the frame off its tunnel. Fragments it drops.
fn is_vxlan_to_peer<B: PacketBuf>(snap: &Snapshot, p: &Pkt<B>) -> bool {
    let l3 = usize::from(p.ctx.l3);
    let ethertype = p.buf.head().get(l3.saturating_sub(2)..l3).map(|t| EtherType(u16::from_be_bytes([t[0], t[1]])));
    if !matches!(ethertype, Some(EtherType::IPV4 | EtherType::IPV6)) || snap.local().is_none() {
        return false;
    }
    let Ok((ip, l4)) = headers::read(&p.buf, l3) else { return false };
    ip.proto == UDP
        && ip.frag.is_none()
        && l4.dport == VXLAN_PORT
        && matches!(snap.route(ip.dst), Some(NextHop::Node(v)) if snap.vtep(v).is_some_and(|peer| peer.addr == ip.dst))
}
