//! Out by a port of this node: to a pod, or to the node's own stack.
//!
//! Uses: `out`, `pass`. Sets: the Ethernet addresses. Next: out.

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::Mac;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;

pub(crate) const NODE: Node = Node {
    does: "Rewrites the Ethernet header for a pod or the node.",
    drops: &[DropReason::PortDown, DropReason::NotJudged],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Action::Forward(port) = p.ctx.out else { return Next::Drop(DropReason::PortDown) };
    let Some(entry) = w.snap.port(port) else { return Next::Drop(DropReason::PortDown) };
    // Without a token nothing leaves, whatever led here.
    let Some(pass) = p.ctx.pass.take() else { return Next::Drop(DropReason::NotJudged) };
    p.set_macs(entry.mac, Mac::GATEWAY);
    p.buf.meta_mut().tunnel = 0;
    Next::Transmit(port, pass)
}
