//! Whose packet it is, and what kind: for us, a fragment, an ICMP error, or a packet of a flow.
//!
//! Uses: `ip`, `l4`, `via`, `class`. Sets: `key`, `hash` (and asks for the flow table's cache line).
//!
//! The owner itself is a pure function in [`crate::owner`]. Tunnelled packets went through it in `decap`, before their
//! outer headers were taken off. Plain fragments meet at one worker first, until their ports are known.
//!
//! Next: hand over; `gateway`, `reassemble`, `related`, `flow`.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::WorkerId;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::Key;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP, icmp4, icmp6};
use crate::owner::{Arrival, Ends, gatherer, owner};
use crate::snapshot::{GATEWAY_V4, Local, PortClass, Snapshot, gateway_v6};
use crate::world::{AnyKey, Ctx};

pub(crate) const NODE: Node = Node {
    does: "Finds the worker that owns the packet, and the packet's flow key.",
    drops: &[
        DropReason::NotConfigured,
        DropReason::Multicast,
        DropReason::Martian,
        DropReason::LinkLocalForwarded,
        DropReason::GatewayNoService,
        DropReason::IcmpTypeUnsupported,
        DropReason::HandOverQueueFull,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(local) = w.snap.local() else { return Next::Drop(DropReason::NotConfigured) };
    if let Some(whose) = whose(w.snap, p).filter(|whose| *whose != w.st.worker) {
        return Next::HandOver(whose);
    }
    let (from, to) = (scope(p.ctx.ip.src), scope(p.ctx.ip.dst));
    if let Some(reason) = from.unroutable().or(to.unroutable()).filter(|_| !loops(w.snap, p.ctx)) {
        return Next::Drop(reason);
    }
    if is_gateway(p.ctx.ip.dst, local, p.ctx.class) && !answers_hairpin(p.ctx, local) {
        return match p.ctx.ip.frag {
            None => Next::To(NodeId::Gateway),
            Some(_) => Next::Drop(DropReason::GatewayNoService),
        };
    }
    if from == Scope::LinkLocal || to == Scope::LinkLocal {
        return Next::Drop(DropReason::LinkLocalForwarded);
    }
    if p.ctx.ip.frag.is_some() {
        return Next::To(NodeId::Reassemble);
    }
    match key(w, p.ctx) {
        Ok(node) => Next::To(node),
        Err(reason) => Next::Drop(reason),
    }
}

/// The worker that a packet has to go to. Tunnelled ones are there already.
fn whose<B: PacketBuf>(snap: &Snapshot, p: &Pkt<B>) -> Option<WorkerId> {
    let ip = &p.ctx.ip;
    match (p.ctx.class, p.ctx.via.vtep, ip.frag) {
        (PortClass::Uplink, Some(_), _) => None,
        // Whoever gathered it knew its ports.
        (PortClass::Uplink, None, Some(_)) if p.buf.meta().gathered => None,
        (PortClass::Uplink, None, Some(frag)) if !matches!(snap.route(ip.dst), Some(NextHop::Local(_))) => {
            Some(gatherer(snap, ip.src, ip.dst, frag.id))
        }
        (PortClass::Uplink, None, _) => Some(owner(snap, Arrival::Plain, Ends::of(ip, &p.ctx.l4))),
        _ => Some(owner(snap, Arrival::Port(p.ctx.via.port), Ends::of(ip, &p.ctx.l4))),
    }
}

/// Whether a packet to the node's address in the pod range may be an answer to what was sent in that address's name, or
/// an ICMP error about it.
fn answers_hairpin(ctx: &Ctx, local: &Local) -> bool {
    let answer =
        matches!(ctx.ip.proto, TCP | UDP | SCTP) || ctx.l4.quoted.is_some_and(|q| !matches!(q.proto, ICMP | ICMPV6));
    answer && local.gateway(ctx.ip.dst.is_ipv6()) == Some(ctx.ip.dst)
}

/// What kind of packet it is; sets the flow key.
fn key<E: Env>(w: &World<'_, E>, ctx: &mut Ctx) -> Result<NodeId, DropReason> {
    if ctx.l4.error {
        return Ok(NodeId::Related);
    }
    if ctx.l4.icmp.is_some() && echo(ctx).is_none() {
        return Err(DropReason::IcmpTypeUnsupported);
    }
    set_key(w, ctx);
    Ok(NodeId::Flow)
}

/// Sets the flow key of a packet whose ports are known, and asks for its line of the flow table.
pub(super) fn set_key<E: Env>(w: &World<'_, E>, ctx: &mut Ctx) {
    let (sport, dport, proto, zone) = (ctx.l4.sport, ctx.l4.dport, ctx.ip.proto, ctx.zone());
    let (v4, v6) = (&w.st.flows.v4.table, &w.st.flows.v6.table);
    // Each family by itself: a key that may be of either is put together byte by byte.
    match (ctx.ip.src, ctx.ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let key = Key::v4(src, dst, sport, dport, proto, zone);
            ctx.hash = v4.hash(&key);
            v4.prefetch(ctx.hash);
            ctx.key = AnyKey::V4(key);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let key = Key::v6(src, dst, sport, dport, proto, zone);
            ctx.hash = v6.hash(&key);
            v6.prefetch(ctx.hash);
            ctx.key = AnyKey::V6(key);
        }
        // The parser saw both in one header.
        _ => debug_assert!(false, "addresses of two families"),
    }
}

/// The identifier of an ICMP echo message.
pub(super) fn echo(ctx: &Ctx) -> Option<u16> {
    let (kind, _) = ctx.l4.icmp?;
    let echo = match ctx.ip.proto {
        ICMP => matches!(kind, icmp4::ECHO_REQUEST | icmp4::ECHO_REPLY),
        _ => matches!(kind, icmp6::ECHO_REQUEST | icmp6::ECHO_REPLY),
    };
    echo.then_some(ctx.l4.sport)
}

/// Whether a packet of the node's own goes to a Service by a loopback address.
#[cold]
fn loops(snap: &Snapshot, ctx: &Ctx) -> bool {
    ctx.class == PortClass::Host && ctx.ip.dst.is_loopback() && snap.services().has_address(ctx.ip.dst)
}

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Global,
    LinkLocal,
    Multicast,
    /// It may not stand in a packet on a wire (RFC 6890).
    Martian,
}

impl Scope {
    /// Why a packet with such an address is not routed, whatever else it is.
    fn unroutable(self) -> Option<DropReason> {
        match self {
            Scope::Global | Scope::LinkLocal => None,
            Scope::Multicast => Some(DropReason::Multicast),
            Scope::Martian => Some(DropReason::Martian),
        }
    }
}

fn scope(a: IpAddr) -> Scope {
    match a {
        IpAddr::V4(a) => match a.octets() {
            [169, 254, ..] => Scope::LinkLocal,
            [224..=239, ..] | [255, 255, 255, 255] => Scope::Multicast,
            [0 | 127 | 240.., ..] => Scope::Martian,
            _ => Scope::Global,
        },
        IpAddr::V6(a) if a.is_multicast() => Scope::Multicast,
        IpAddr::V6(a) if a.is_unicast_link_local() => Scope::LinkLocal,
        IpAddr::V6(a) if a.is_unspecified() || a.is_loopback() => Scope::Martian,
        IpAddr::V6(_) => Scope::Global,
    }
}

/// Whether we answer for an address. The link-local gateways exist on our own ports only.
fn is_gateway(a: IpAddr, local: &Local, class: PortClass) -> bool {
    match a {
        IpAddr::V4(a) => local.gateway_v4 == Some(a) || a == GATEWAY_V4 && class != PortClass::Uplink,
        IpAddr::V6(a) => local.gateway_v6 == Some(a) || a == gateway_v6(class) && class != PortClass::Uplink,
    }
}
