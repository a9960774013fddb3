//! Reads the IP and transport headers of a packet from a pod or the host port.
//!
//! Uses: `l3`. Sets: `ip`, `l4`; cuts off what follows the IP packet (Ethernet padding).
//!
//! Frames of the node's own stack to the gateway's multicast group are ours only if they ask for the gateway; other
//! addresses share the group.
//!
//! Next: `antispoof` (pods), `nd`, `owner` (host port), `l2_pass`.

use super::{Next, Pkt, World, classify, nd};
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers;
use crate::snapshot::PortClass;

pub(crate) const NODE: Node = Node { does: "Reads and checks the IP and transport headers.", drops: &[], parses: true };

pub(crate) fn process<E: Env>(_w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let group = p.ctx.class == PortClass::Host && classify::to_gateway_group(&p.buf);
    match headers::read_into(&p.buf, usize::from(p.ctx.l3), &mut p.ctx.ip, &mut p.ctx.l4) {
        Ok(()) => {}
        Err(_) if group => return Next::To(NodeId::L2Pass),
        Err(reason) => return Next::Drop(reason),
    }
    if group && !nd::asks_for_gateway(p) {
        return Next::To(NodeId::L2Pass);
    }
    headers::trim(&mut p.buf, usize::from(p.ctx.l3), &p.ctx.ip);
    match p.ctx.class {
        PortClass::Pod => Next::To(NodeId::Antispoof),
        _ if nd::is_nd(p.ctx) => Next::To(NodeId::Nd),
        _ => Next::To(NodeId::Owner),
    }
}
