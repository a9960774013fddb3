//! A pod speaks only for itself.
//!
//! Uses: `ip`, `l4`, the port entry. Sets: nothing.
//!
//! The source MAC was compared by `classify`. Here: the source address must be the pod's. A link-local IPv6 source is
//! let through for neighbour discovery (which `nd` checks) and for echo with the gateway's link-local address, which
//! answers to the same port only; routed it would be dropped anyway (RFC 4291 section 2.5.6). Router advertisements and
//! redirects never come from pods.
//!
//! Next: `nd`, `owner`.

use std::net::IpAddr;

use super::{Next, Pkt, World, nd};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers::{ICMP, ICMPV6, icmp4, icmp6};
use crate::snapshot::GATEWAY_V6;
use crate::world::Ctx;

pub(crate) const NODE: Node = Node {
    does: "Drops what a pod sends in the name of others.",
    drops: &[
        DropReason::UnknownPort,
        DropReason::SpoofedIpv4,
        DropReason::SpoofedIpv6,
        DropReason::RouterAdvertisementFromPod,
        DropReason::RedirectFromPod,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(port) = w.snap.port(p.ctx.via.port) else { return Next::Drop(DropReason::UnknownPort) };
    if let Some((kind, _)) = p.ctx.l4.icmp {
        match (p.ctx.ip.proto, kind) {
            (ICMPV6, icmp6::ROUTER_ADVERTISEMENT) => return Next::Drop(DropReason::RouterAdvertisementFromPod),
            (ICMPV6, icmp6::REDIRECT) | (ICMP, icmp4::REDIRECT) => return Next::Drop(DropReason::RedirectFromPod),
            _ => {}
        }
    }
    if nd::is_nd(p.ctx) {
        return Next::To(NodeId::Nd);
    }
    match p.ctx.ip.src {
        IpAddr::V4(src) if port.v4 == Some(src) => Next::To(NodeId::Owner),
        IpAddr::V4(_) => Next::Drop(DropReason::SpoofedIpv4),
        IpAddr::V6(src) if port.v6 == Some(src) => Next::To(NodeId::Owner),
        IpAddr::V6(src) if src.is_unicast_link_local() && link_local_allowed(p.ctx) => Next::To(NodeId::Owner),
        IpAddr::V6(_) => Next::Drop(DropReason::SpoofedIpv6),
    }
}

/// Echo with the gateway; and multicast (MLD), which `owner` drops by its own name.
fn link_local_allowed(ctx: &Ctx) -> bool {
    ctx.ip.dst.is_multicast() || ctx.ip.dst == IpAddr::V6(GATEWAY_V6) && ctx.ip.proto == ICMPV6
}
