//! Frames between the uplink and the node's own stack, unchanged.
//!
//! Uses: `class`, `l3`. Sets: nothing. Next: out by the other of the two ports.
//!
//! One thing the node's processes may not say: VXLAN to a peer. The peer knows us by our address alone, so whoever may
//! open a socket here (no privilege needed) could speak for every pod of this node.
//!
//! Nor may its stack send a pod's packets on to the uplink, to which pods have a way of their own: it would be in the pods'
//! name, and past what masquerades them.
//!
//! And two things nobody on the wire may say, because the host port has `route_localnet` and `accept_local` so that the
//! node reaches its own host ports and node ports: packets to or from 127.0.0.0/8 (CVE-2020-8558), and packets from this
//! node's own addresses, but for neighbour discovery, which finds duplicates so.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::PortId;
use podplane_packet::wire::{EtherType, Icmpv6Type};
use podplane_tables::fib::NextHop;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::{self, ICMPV6, UDP};
use crate::pass::Pass;
use crate::snapshot::{PortClass, Snapshot, VXLAN_PORT};

pub(crate) const NODE: Node = Node {
    does: "Passes frames between uplink and host port unchanged.",
    drops: &[
        DropReason::PortDown,
        DropReason::SpoofedFromHost,
        DropReason::VxlanFromHost,
        DropReason::Martian,
        DropReason::SpoofedFromUplink,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if p.ctx.class == PortClass::Host
        && let Some(reason) = oversteps(w.snap, p)
    {
        return Next::Drop(reason);
    }
    if p.ctx.class == PortClass::Uplink
        && let Some(reason) = pretends(w.snap, p.buf.head())
    {
        return Next::Drop(reason);
    }
    let to = if p.ctx.class == PortClass::Uplink { PortId::HOST } else { PortId::UPLINK };
    match w.snap.port(to) {
        Some(_) => Next::Transmit(to, Pass::l2_pass_through()),
        None => Next::Drop(DropReason::PortDown),
    }
}

/// Why the node's stack may not send such a frame to the uplink. A peer would take VXLAN off its tunnel, but for fragments,
/// which it drops.
fn oversteps<B: PacketBuf>(snap: &Snapshot, p: &Pkt<B>) -> Option<DropReason> {
    let l3 = usize::from(p.ctx.l3);
    let ethertype = p.buf.head().get(l3.saturating_sub(2)..l3).map(|t| EtherType(u16::from_be_bytes([t[0], t[1]])));
    if !matches!(ethertype, Some(EtherType::IPV4 | EtherType::IPV6)) || snap.local().is_none() {
        return None;
    }
    let (ip, l4) = headers::read(&p.buf, l3).ok()?;
    if matches!(snap.route(ip.src), Some(NextHop::Local(_))) {
        return Some(DropReason::SpoofedFromHost);
    }
    let vxlan = ip.proto == UDP && ip.frag.is_none() && l4.dport == VXLAN_PORT && takes_vxlan(snap, ip.dst);
    vxlan.then_some(DropReason::VxlanFromHost)
}

/// Whether an address is a peer's VTEP.
pub(super) fn takes_vxlan(snap: &Snapshot, dst: IpAddr) -> bool {
    matches!(snap.route(dst), Some(NextHop::Node(v)) if snap.vtep(v).is_some_and(|peer| peer.addr == dst))
}

/// Whether a frame from the wire bears an address that means the node itself. Tags make no difference: the node's
/// stack takes those of VLAN 0 off. Read by hand, for what cannot be parsed passes too.
fn pretends(snap: &Snapshot, mut frame: &[u8]) -> Option<DropReason> {
    frame = frame.get(12..)?;
    for _ in 0..2 {
        if matches!(frame, [0x81, 0x00, ..] | [0x88, 0xa8, ..]) {
            frame = frame.get(4..)?;
        }
    }
    let (ethertype, ip) = frame.split_first_chunk::<2>()?;
    let own = |a: IpAddr| snap.route(a) == Some(NextHop::Host);
    match EtherType(u16::from_be_bytes(*ethertype)) {
        EtherType::IPV4 => {
            let src = *ip.get(12..)?.first_chunk::<4>()?;
            let dst = *ip.get(16..)?.first_chunk::<4>()?;
            match src[0] == 127 || dst[0] == 127 {
                true => Some(DropReason::Martian),
                false => own(src.into()).then_some(DropReason::SpoofedFromUplink),
            }
        }
        EtherType::IPV6 => {
            let src = *ip.get(8..)?.first_chunk::<16>()?;
            let discovery = ip[6] == ICMPV6 && ip.get(40).is_some_and(|kind| Icmpv6Type(*kind).is_nd());
            (!discovery && own(src.into())).then_some(DropReason::SpoofedFromUplink)
        }
        _ => None,
    }
}
