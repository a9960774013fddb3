//! Answers ARP for the gateway.
//!
//! Uses: `class`, the ARP packet. Sets: nothing (the request becomes the reply in place).
//!
//! Only 169.254.1.1 is answered: pods and the node's host routes know no other next hop. A pod's request must carry
//! its own MAC and address. What the node's own stack asks about other addresses belongs to the uplink's network.
//!
//! Next: out by the port it came from; `l2_pass` (host port).

use podplane_packet::buf::PacketBuf;
use podplane_packet::build::arp_reply;
use podplane_packet::id::Mac;
use podplane_packet::wire::arp::{Arp, REQUEST};

use super::classify::ETH_LEN;
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers;
use crate::pass::Pass;
use crate::snapshot::{GATEWAY_V4, PortClass};

pub(crate) const NODE: Node = Node {
    does: "Answers ARP requests for the gateway.",
    drops: &[DropReason::UnknownPort, DropReason::ArpMalformed, DropReason::SpoofedArp, DropReason::ArpNotForGateway],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(port) = w.snap.port(p.ctx.via.port) else { return Next::Drop(DropReason::UnknownPort) };
    let pod = p.ctx.class == PortClass::Pod;
    let Ok(arp) = Arp::new(&p.buf.head()[ETH_LEN..]) else {
        return if pod { Next::Drop(DropReason::ArpMalformed) } else { Next::To(NodeId::L2Pass) };
    };
    let (mac, ip) = (arp.sender_mac(), arp.sender_ip());
    let asks = arp.operation() == REQUEST && arp.target_ip() == GATEWAY_V4;
    if !pod && !asks {
        return Next::To(NodeId::L2Pass);
    }
    // 0.0.0.0 is the sender of an address probe (RFC 5227), which claims nothing.
    if pod && (mac != port.mac || !ip.is_unspecified() && port.v4 != Some(ip)) {
        return Next::Drop(DropReason::SpoofedArp);
    }
    if !asks || ip == GATEWAY_V4 {
        return Next::Drop(DropReason::ArpNotForGateway);
    }
    let answered = headers::parsed(&p.buf, ETH_LEN).is_some_and(|q| arp_reply(p.buf.head_mut(), &q, Mac::GATEWAY));
    if !answered {
        return Next::Drop(DropReason::ArpMalformed);
    }
    Next::Transmit(p.ctx.via.port, Pass::gateway_reply())
}
