//! Answers neighbour solicitations for the gateway, and refuses all other neighbour discovery.
//!
//! Uses: `ip`, `l4`, the ND message. Sets: nothing (the question becomes the answer in place).
//!
//! Only the gateway's link-local address is answered: fe80::1 to pods, another to the node. A pod speaks in its own name: its link-layer option must be its MAC, its source address
//! its own or any link-local one (which nobody but the gateway ever sees). Neighbour discovery never crosses a router:
//! RFC 4861 section 7.1 asks for hop limit 255 and code 0.
//!
//! Next: out by the port it came from.

use std::net::{IpAddr, Ipv6Addr};

use podplane_packet::buf::PacketBuf;
use podplane_packet::build::neighbour_advertisement;
use podplane_packet::id::Mac;
use podplane_packet::wire::Icmpv6Type;
use podplane_packet::wire::ndp::{NdOption, Neighbour, options};

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::{self, ICMPV6};
use crate::pass::Pass;
use crate::snapshot::{PortClass, PortEntry, gateway_v6};
use crate::world::Ctx;

pub(crate) const NODE: Node = Node {
    does: "Answers neighbour solicitations for the gateway.",
    drops: &[
        DropReason::UnknownPort,
        DropReason::NdMalformed,
        DropReason::SpoofedNd,
        DropReason::NdNotForGateway,
        DropReason::NdRouterSolicitation,
    ],
    parses: false,
};

/// Whether the packet is neighbour discovery.
pub(super) fn is_nd(ctx: &Ctx) -> bool {
    ctx.ip.proto == ICMPV6 && ctx.l4.icmp.is_some_and(|(kind, _)| Icmpv6Type(kind).is_nd())
}

/// Whether a packet is a solicitation for the gateway.
pub(super) fn asks_for_gateway<B: PacketBuf>(p: &Pkt<B>) -> bool {
    is_nd(p.ctx)
        && message(p).is_some_and(|m| {
            Neighbour::new(m).is_ok_and(|n| n.is_solicitation() && n.target() == gateway_v6(p.ctx.class))
        })
}

/// The bytes of the ICMPv6 message.
fn message<'p, B: PacketBuf>(p: &'p Pkt<'_, B>) -> Option<&'p [u8]> {
    let start = p.ctx.l4_at();
    p.buf.head().get(start..usize::from(p.ctx.l3) + p.ctx.ip.len as usize)
}

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(port) = w.snap.port(p.ctx.via.port) else { return Next::Drop(DropReason::UnknownPort) };
    if let Err(reason) = examine(p, port) {
        return Next::Drop(reason);
    }
    let parsed = headers::parsed(&p.buf, usize::from(p.ctx.l3));
    if parsed.is_some_and(|q| neighbour_advertisement(&mut p.buf, &q, Mac::GATEWAY)) {
        Next::Transmit(p.ctx.via.port, Pass::gateway_reply())
    } else {
        Next::Drop(DropReason::NdMalformed)
    }
}

/// Checks that this is a solicitation for the gateway that tells the truth.
fn examine<B: PacketBuf>(p: &Pkt<B>, port: &PortEntry) -> Result<(), DropReason> {
    let Some((kind, code)) = p.ctx.l4.icmp else { return Err(DropReason::NdMalformed) };
    if p.ctx.ip.ttl != 255 || code != 0 || p.ctx.ip.frag.is_some() {
        return Err(DropReason::NdMalformed);
    }
    if Icmpv6Type(kind) == Icmpv6Type::ROUTER_SOLICITATION {
        return Err(DropReason::NdRouterSolicitation);
    }
    let (Some(bytes), IpAddr::V6(src)) = (message(p), p.ctx.ip.src) else { return Err(DropReason::NdMalformed) };
    let nd = Neighbour::new(bytes).map_err(|_| DropReason::NdMalformed)?;
    let pod = p.ctx.class == PortClass::Pod;
    let gateway = gateway_v6(p.ctx.class);
    let own = |a: Ipv6Addr| port.v6 == Some(a) || a.is_unspecified() || a.is_unicast_link_local() && a != gateway;
    if pod && !own(src) {
        return Err(DropReason::SpoofedNd);
    }
    for option in options(nd.option_bytes()) {
        if let Ok(NdOption::SourceLinkLayer(mac) | NdOption::TargetLinkLayer(mac)) = option
            && pod
            && mac != port.mac
        {
            return Err(DropReason::SpoofedNd);
        }
    }
    if !nd.is_solicitation() {
        let claims_own = !pod || port.v6 == Some(nd.target()) || nd.target().is_unicast_link_local();
        let stolen = nd.target() == gateway || !claims_own;
        return Err(if stolen { DropReason::SpoofedNd } else { DropReason::NdNotForGateway });
    }
    if nd.target() != gateway {
        return Err(DropReason::NdNotForGateway);
    }
    Ok(())
}
