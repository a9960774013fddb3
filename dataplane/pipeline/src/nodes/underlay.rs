//! What comes from the uplink: VXLAN for us, news about the path of our own VXLAN, what belongs to Services and to
//! masqueraded flows, and everything else.
//!
//! Uses: `l3`. Sets: `ip`, `l4` (the outer ones), `borrowed`.
//!
//! Plain packets are ours if they go to a frontend, into a ServiceCIDR, to a masquerade port, to pods, or if they are ICMP
//! errors about such a packet's answer. A packet to a masquerade port, or to what was a frontend, is ours only if it belongs
//! to a flow. What goes to pods is never left to the node's stack, which would send it on to us as if by its own will: policy
//! has to see that it comes from outside.
//!
//! The rest of the uplink's traffic is not ours to judge, so whatever cannot be read passes to the node's own stack
//! unchanged. An ICMP "too big" about our VXLAN lowers that peer's MTU and passes too: the node's own traffic to the
//! peer takes the same path.
//!
//! Next: `decap`, `owner`, `l2_pass`.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::WorkerId;
use podplane_packet::wire::Icmp;
use podplane_packet::wire::udp::UDP_LEN;
use podplane_packet::wire::vxlan::{VXLAN_LEN, Vxlan};
use podplane_tables::fib::NextHop;

use super::{Next, Pkt, World, encap};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::halves::{Body, HalfMsg};
use crate::headers::{self, ICMP, ICMPV6, SCTP, TCP, UDP, icmp4, icmp6};
use crate::snapshot::{Local, Snapshot, VXLAN_PORT};
use crate::world::{Ip, L4};

pub(crate) const NODE: Node = Node {
    does: "Finds VXLAN, Services' and masqueraded traffic among the uplink's.",
    drops: &[DropReason::VxlanOuterFragment],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(local) = w.snap.local() else { return Next::To(NodeId::L2Pass) };
    if headers::read_into(&p.buf, usize::from(p.ctx.l3), &mut p.ctx.ip, &mut p.ctx.l4).is_err() {
        return Next::To(NodeId::L2Pass);
    }
    let (ip, l4) = (&p.ctx.ip, &p.ctx.l4);
    if ip.dst == local.vtep && ip.proto == UDP && l4.dport == VXLAN_PORT {
        return match ip.frag {
            None => Next::To(NodeId::Decap),
            Some(_) => Next::Drop(DropReason::VxlanOuterFragment),
        };
    }
    if ip.dst == local.vtep
        && l4.error
        && let Some((peer, mtu)) = too_big(p, local)
    {
        learn(w, peer, mtu);
        return Next::To(NodeId::L2Pass);
    }
    // A flooded frame for another node may go to a frontend that both serve.
    if !p.buf.head().starts_with(&local.uplink_mac.0) {
        return Next::To(NodeId::L2Pass);
    }
    match claim(w.snap, local, ip, l4) {
        Claim::Passes => Next::To(NodeId::L2Pass),
        ours => {
            headers::trim(&mut p.buf, usize::from(p.ctx.l3), ip);
            p.ctx.borrowed = ours == Claim::IfKnown;
            Next::To(NodeId::Owner)
        }
    }
}

/// Whose a plain packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Not ours: it belongs to the node's own stack.
    Passes,
    /// Ours if it belongs to a flow.
    IfKnown,
    /// Ours.
    Ours,
}

/// Says whose a plain packet is. Of a fragment, whose ports may not be known yet, the addresses decide for now.
fn claim(snap: &Snapshot, local: &Local, ip: &Ip, l4: &L4) -> Claim {
    if ip.frag.is_none() {
        return claim_whole(snap, local, ip, l4);
    }
    let services = snap.services();
    let (dst, v6) = (ip.dst, ip.dst.is_ipv6());
    match local.masquerade(v6) == Some(dst) || services.has_address(dst) || local.service_cidrs.contains(dst) {
        true => Claim::IfKnown,
        false if is_pods(snap, dst) => Claim::Ours,
        false => Claim::Passes,
    }
}

/// The same for a packet whose ports are known.
pub(super) fn claim_whole(snap: &Snapshot, local: &Local, ip: &Ip, l4: &L4) -> Claim {
    let services = snap.services();
    // An error goes the way of the answers to what it quotes.
    let (dst, proto, dport) = match l4.quoted {
        // One that is about nothing of a pod's ends in `related`, by name.
        _ if l4.error && is_pods(snap, ip.dst) => return Claim::Ours,
        Some(q) if q.later || q.src != ip.dst => return Claim::Passes,
        Some(q) => (q.src, q.proto, q.sport),
        None if l4.error => return Claim::Passes,
        None => (ip.dst, ip.proto, l4.dport),
    };
    let has_ports = matches!(proto, TCP | UDP | SCTP);
    let reply = |(kind, _)| matches!((proto, kind), (ICMP, icmp4::ECHO_REPLY) | (ICMPV6, icmp6::ECHO_REPLY));
    // Of a later fragment the type is not known.
    let unseen = l4.error || ip.frag.is_some();
    let echo = matches!(proto, ICMP | ICMPV6) && (unseen || l4.icmp.is_some_and(reply));
    if (has_ports || echo) && local.is_masquerade(dst, dport) {
        return Claim::IfKnown;
    }
    if has_ports && services.find(dst, proto, dport).is_some() {
        return if l4.error { Claim::IfKnown } else { Claim::Ours };
    }
    // First, for a ClusterIP that is no Service's any more is nobody's.
    if local.service_cidrs.contains(dst) || is_pods(snap, dst) {
        return Claim::Ours;
    }
    if has_ports && services.was_frontend(dst, proto, dport) { Claim::IfKnown } else { Claim::Passes }
}

/// Whether an address is a pod's, here or on another node, or may become one's.
fn is_pods(snap: &Snapshot, address: IpAddr) -> bool {
    matches!(snap.route(address), Some(NextHop::Local(_) | NextHop::Vtep(_) | NextHop::Blackhole))
}

/// Reads an ICMP "too big" that quotes VXLAN of ours: the peer, and the MTU of the path to it.
fn too_big<B: PacketBuf>(p: &Pkt<B>, local: &Local) -> Option<(IpAddr, u32)> {
    let quoted = p.ctx.l4.quoted?;
    let icmp = Icmp::new(p.buf.head().get(p.ctx.l4_at()..)?).ok()?;
    let mtu = match (p.ctx.ip.proto, p.ctx.l4.icmp?) {
        (ICMP, (icmp4::UNREACHABLE, 4)) => u32::from(icmp.mtu_v4()),
        (ICMPV6, (icmp6::TOO_BIG, 0)) => icmp.mtu_v6(),
        _ => return None,
    };
    // Whoever forges news without having seen our packets must guess more than two addresses.
    let ours = quoted.src == local.vtep && quoted.proto == UDP && quoted.sport >= encap::FIRST_SOURCE_PORT;
    (ours && quoted.dport == VXLAN_PORT && our_network(p, local)).then_some((quoted.dst, mtu))
}

/// Whether the quoted VXLAN header names a network of ours: that of pods, or the one after it, which is that of entry
/// nodes. A router need not quote more than eight bytes behind the IP header (RFC 792), so a quote that ends before is
/// no reason for doubt.
#[cold]
fn our_network<B: PacketBuf>(p: &Pkt<B>, local: &Local) -> bool {
    let head = p.buf.head();
    let Some(outer) = headers::parsed(&p.buf, usize::from(p.ctx.l3)) else { return false };
    let Ok(quote) = outer.embedded(head) else { return false };
    let vxlan = usize::from(quote.l4_off) + UDP_LEN;
    let end = outer.frame_len().min(head.len());
    if vxlan + VXLAN_LEN > end {
        return true;
    }
    let vni = Vxlan::new(&head[vxlan..end]).map(|header| header.vni().get());
    let ours = local.vni.get();
    vni.is_ok_and(|vni| vni == ours || vni == ours + 1)
}

/// Lowers the MTU of a peer, here and at the other workers.
fn learn<E: Env>(w: &mut World<'_, E>, peer: IpAddr, path_mtu: u32) {
    let Some(NextHop::Node(vtep)) = w.snap.route(peer) else { return };
    let Some(entry) = w.snap.vtep(vtep).filter(|v| v.addr == peer) else { return };
    let Some(mtu) = entry.lowered_to(path_mtu) else { return };
    let since = entry.since;
    let now = w.now;
    w.st.pmtu.learn(vtep, since, mtu, now);
    let me = w.st.worker;
    for worker in (0..w.snap.workers()).map(WorkerId).filter(|other| *other != me) {
        // A worker that misses the news gets an ICMP error of its own.
        let _ = w.env.push_half(worker, HalfMsg { from: me, body: Body::Pmtu { vtep, since, mtu } });
    }
}
