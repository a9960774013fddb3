//! Answers neighbour solicitations for the gateway, and refuses all other neighbour discovery.
//!
//! Uses: `ip`, `l4`, the ND message. Sets: nothing (the answer is a new packet; the question is replaced by it).
//!
//! Only fe80::1 is answered. A pod speaks in its own name: its link-layer option must be its MAC, its source address
//! its own or any link-local one (which nobody but the gateway ever sees). Neighbour discovery never crosses a router:
//! RFC 4861 section 7.1 asks for hop limit 255 and code 0.
//!
//! Next: out by the port it came from.

use std::net::{IpAddr, Ipv6Addr};

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::Mac;
use podplane_packet::wire::ndp::{NdOption, Neighbour, options};
use podplane_packet::wire::{Icmpv6Type, Ipv6};

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::{self, ICMPV6};
use crate::pass::Pass;
use crate::snapshot::{GATEWAY_V6, PortClass, PortEntry};
use crate::world::Ctx;

pub(crate) const NODE: Node = Node {
    does: "Answers neighbour solicitations for the gateway.",
    drops: &[
        DropReason::UnknownPort,
        DropReason::NdMalformed,
        DropReason::SpoofedNd,
        DropReason::NdNotForGateway,
        DropReason::NdRouterSolicitation,
        DropReason::NoBuffers,
    ],
    parses: false,
};

/// Bytes of the answer: IPv6, neighbour advertisement, target link-layer option.
const ANSWER: usize = 40 + 24 + 8;

/// Whether the packet is neighbour discovery.
pub(super) fn is_nd(ctx: &Ctx) -> bool {
    ctx.ip.proto == ICMPV6 && ctx.l4.icmp.is_some_and(|(kind, _)| Icmpv6Type(kind).is_nd())
}

/// Whether a packet is a solicitation for the gateway.
pub(super) fn asks_for_gateway<B: PacketBuf>(p: &Pkt<B>) -> bool {
    is_nd(&p.ctx)
        && message(p).is_some_and(|m| Neighbour::new(m).is_ok_and(|n| n.is_solicitation() && n.target() == GATEWAY_V6))
}

/// The bytes of the ICMPv6 message.
fn message<B: PacketBuf>(p: &Pkt<B>) -> Option<&[u8]> {
    let start = p.ctx.l4_at();
    p.buf.head().get(start..usize::from(p.ctx.l3) + p.ctx.ip.len as usize)
}

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(port) = w.snap.port(p.ctx.via.port) else { return Next::Drop(DropReason::UnknownPort) };
    let (mac, src) = match examine(p, port) {
        Ok(answer) => answer,
        Err(reason) => return Next::Drop(reason),
    };
    let Some(mut answer) = w.env.alloc() else { return Next::Drop(DropReason::NoBuffers) };
    if !advertise(&mut answer, mac, src) {
        w.st.abandoned += 1;
        return Next::Drop(DropReason::NoBuffers);
    }
    answer.meta_mut().port = p.ctx.via.port;
    p.buf = answer;
    w.st.replaced += 1;
    Next::Transmit(p.ctx.via.port, Pass::gateway_reply())
}

/// Checks a solicitation; returns who asked.
fn examine<B: PacketBuf>(p: &Pkt<B>, port: &PortEntry) -> Result<(Mac, Ipv6Addr), DropReason> {
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
    let own = |a: Ipv6Addr| port.v6 == Some(a) || a.is_unspecified() || a.is_unicast_link_local() && a != GATEWAY_V6;
    if pod && !own(src) {
        return Err(DropReason::SpoofedNd);
    }
    let mut asked_by = p.src_mac();
    for option in options(nd.option_bytes()) {
        if let Ok(NdOption::SourceLinkLayer(mac) | NdOption::TargetLinkLayer(mac)) = option {
            if pod && mac != port.mac {
                return Err(DropReason::SpoofedNd);
            }
            asked_by = mac;
        }
    }
    if !nd.is_solicitation() {
        let claims_own = !pod || port.v6 == Some(nd.target()) || nd.target().is_unicast_link_local();
        let stolen = nd.target() == GATEWAY_V6 || !claims_own;
        return Err(if stolen { DropReason::SpoofedNd } else { DropReason::NdNotForGateway });
    }
    if nd.target() != GATEWAY_V6 {
        return Err(DropReason::NdNotForGateway);
    }
    Ok((asked_by, src))
}

/// Writes the advertisement: solicited for whoever has an address, to all nodes for a duplicate address probe
/// (RFC 4861 section 7.2.4).
fn advertise<B: PacketBuf>(buf: &mut B, mac: Mac, asker: Ipv6Addr) -> bool {
    let probe = asker.is_unspecified();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (dst, dst_mac) = if probe { (all_nodes, Mac([0x33, 0x33, 0, 0, 0, 1])) } else { (asker, mac) };
    let mut frame = [0; 14 + ANSWER];
    frame[..6].copy_from_slice(&dst_mac.0);
    frame[6..12].copy_from_slice(&Mac::GATEWAY.0);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    {
        let Ok(mut ip) = Ipv6::new_header(&mut frame[14..]) else { return false };
        ip.set_payload_len((ANSWER - 40) as u16);
        ip.set_next_header(ICMPV6);
        ip.set_hop_limit(255);
        ip.set_src(GATEWAY_V6);
        ip.set_dst(dst);
    }
    let icmp = &mut frame[54..];
    icmp[0] = Icmpv6Type::NEIGHBOUR_ADVERTISEMENT.0;
    let solicited = if probe { 0 } else { Neighbour::<&[u8]>::SOLICITED };
    let flags = Neighbour::<&[u8]>::ROUTER | Neighbour::<&[u8]>::OVERRIDE | solicited;
    icmp[4..8].copy_from_slice(&flags.to_be_bytes());
    icmp[8..24].copy_from_slice(&GATEWAY_V6.octets());
    icmp[24..26].copy_from_slice(&[2, 1]);
    icmp[26..32].copy_from_slice(&Mac::GATEWAY.0);
    let sum = headers::icmpv6_checksum(GATEWAY_V6, dst, &frame[54..]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    buf.append(&frame)
}
