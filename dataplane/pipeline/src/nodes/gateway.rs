//! Answers echo requests to the gateway's addresses.
//!
//! Uses: `ip`, `l4`, `via`. Sets: `out`, `pass` (the request becomes the reply in place).
//!
//! The addresses: the link-local ones on our own ports, and the node's address in its pod range from anywhere.
//!
//! Next: out by the port it came from; `encap` for a request that came through a tunnel.

use podplane_packet::build::echo_reply;
use podplane_packet::id::Mac;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers::{self, ICMP, ICMPV6, icmp4, icmp6};
use crate::pass::Pass;

pub(crate) const NODE: Node = Node {
    does: "Answers echo requests to the gateway.",
    drops: &[DropReason::GatewayNoService, DropReason::IcmpForGateway],
    parses: false,
};

pub(crate) fn process<E: Env>(_w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let request = match p.ctx.ip.proto {
        ICMP => icmp4::ECHO_REQUEST,
        ICMPV6 => icmp6::ECHO_REQUEST,
        _ => return Next::Drop(DropReason::GatewayNoService),
    };
    if p.ctx.l4.icmp != Some((request, 0)) {
        return Next::Drop(DropReason::IcmpForGateway);
    }
    let asker = p.src_mac();
    let parsed = headers::parsed(&p.buf, usize::from(p.ctx.l3));
    if !parsed.is_some_and(|q| echo_reply(&mut p.buf, &q)) {
        return Next::Drop(DropReason::IcmpForGateway);
    }
    // It may have been asked by broadcast, which is no source.
    p.set_macs(asker, Mac::GATEWAY);
    std::mem::swap(&mut p.ctx.ip.src, &mut p.ctx.ip.dst);
    match p.ctx.via.vtep {
        None => Next::Transmit(p.ctx.via.port, Pass::gateway_reply()),
        Some(vtep) => {
            p.ctx.out = if p.ctx.via.entry { Action::Enter(vtep) } else { Action::Encap(vtep) };
            p.ctx.pass = Some(Pass::gateway_reply());
            Next::To(NodeId::Encap)
        }
    }
}
