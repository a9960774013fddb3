//! Frames between the uplink and the node's own stack, unchanged.
//!
//! Uses: `class`. Sets: nothing. Next: out by the other of the two ports.

use podplane_packet::id::PortId;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::pass::Pass;
use crate::snapshot::PortClass;

pub(crate) const NODE: Node = Node {
    does: "Passes frames between uplink and host port unchanged.",
    drops: &[DropReason::PortDown],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let to = if p.ctx.class == PortClass::Uplink { PortId::HOST } else { PortId::UPLINK };
    match w.snap.port(to) {
        Some(_) => Next::Transmit(to, Pass::l2_pass_through()),
        None => Next::Drop(DropReason::PortDown),
    }
}
