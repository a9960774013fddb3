//! Answers ARP for the gateway.
//!
//! Uses: `class`, the ARP packet. Sets: nothing (the request becomes the reply in place).
//!
//! Only 169.254.1.1 is answered: pods and the node's host routes know no other next hop. A pod's request must carry
//! its own MAC and address. What the node's own stack asks about other addresses belongs to the uplink's network.
//!
//! Next: out by the port it came from; `l2_pass` (host port).

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::Mac;
use podplane_packet::wire::arp::{Arp, REPLY, REQUEST};

use super::classify::ETH_LEN;
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
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
    let head = p.buf.head_mut();
    let Ok(mut arp) = Arp::new(&mut head[ETH_LEN..]) else {
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
    arp.set_operation(REPLY);
    arp.set_target_mac(mac);
    arp.set_target_ip(ip);
    arp.set_sender_mac(Mac::GATEWAY);
    arp.set_sender_ip(GATEWAY_V4);
    head[..6].copy_from_slice(&mac.0);
    head[6..12].copy_from_slice(&Mac::GATEWAY.0);
    Next::Transmit(p.ctx.via.port, Pass::gateway_reply())
}
