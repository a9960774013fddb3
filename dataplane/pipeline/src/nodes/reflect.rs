//! Back to the node's own stack, unchanged.
//!
//! Uses: `class`. Sets: the Ethernet addresses.
//!
//! The node's rules bring everything that its processes send to its own addresses and the range of node ports here. What
//! is no frontend is meant for another process of the node.
//!
//! Next: out by the host port.

use podplane_packet::id::{Mac, PortId};

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::pass::Pass;
use crate::snapshot::PortClass;

pub(crate) const NODE: Node = Node {
    does: "Gives the node's packets to itself back to it.",
    drops: &[DropReason::PortDown, DropReason::Hairpin],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if p.ctx.class != PortClass::Host {
        return Next::Drop(DropReason::Hairpin);
    }
    let Some(port) = w.snap.port(PortId::HOST) else { return Next::Drop(DropReason::PortDown) };
    p.set_macs(port.mac, Mac::GATEWAY);
    Next::Transmit(PortId::HOST, Pass::reflected())
}
