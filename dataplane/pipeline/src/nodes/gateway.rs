//! Answers echo requests to the gateway's addresses.
//!
//! Uses: `ip`, `l4`, `via`. Sets: `out`, `pass` (the request becomes the reply in place).
//!
//! The addresses: 169.254.1.1 and fe80::1 on our own ports, and the node's address in its pod range from anywhere.
//!
//! Next: out by the port it came from; `encap` for a request that came through a tunnel.

use podplane_packet::buf::{Csum, PacketBuf};
use podplane_packet::checksum;
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
    let (request, reply) = match p.ctx.ip.proto {
        ICMP => (icmp4::ECHO_REQUEST, icmp4::ECHO_REPLY),
        ICMPV6 => (icmp6::ECHO_REQUEST, icmp6::ECHO_REPLY),
        _ => return Next::Drop(DropReason::GatewayNoService),
    };
    if p.ctx.l4.icmp != Some((request, 0)) {
        return Next::Drop(DropReason::IcmpForGateway);
    }
    let back_to = p.src_mac();
    p.set_macs(back_to, Mac::GATEWAY);
    let (l3, l4) = (usize::from(p.ctx.l3), p.ctx.l4_at());
    let head = p.buf.head_mut();
    headers::swap_addresses(&mut head[l3..]);
    headers::set_ttl(&mut head[l3..], 64);
    // The type is half of a 16-bit word of the sum; addresses only changed places (RFC 1624).
    let icmp = &mut head[l4..];
    let old = u16::from_be_bytes([icmp[0], icmp[1]]);
    icmp[0] = reply;
    let new = u16::from_be_bytes([icmp[0], icmp[1]]);
    let sum = checksum::update(u16::from_be_bytes([icmp[2], icmp[3]]), u32::from(old), u32::from(new));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    std::mem::swap(&mut p.ctx.ip.src, &mut p.ctx.ip.dst);
    if p.buf.meta().csum == Csum::Good {
        p.buf.meta_mut().csum = Csum::Unknown;
    }
    match p.ctx.via.vtep {
        None => Next::Transmit(p.ctx.via.port, Pass::gateway_reply()),
        Some(vtep) => {
            p.ctx.out = Action::Encap(vtep);
            p.ctx.pass = Some(Pass::gateway_reply());
            Next::To(NodeId::Encap)
        }
    }
}
