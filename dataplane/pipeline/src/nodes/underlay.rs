//! What comes from the uplink: VXLAN for us, news about the path of our own VXLAN, and everything else.
//!
//! Uses: `l3`. Sets: `ip`, `l4` (the outer ones).
//!
//! The rest of the uplink's traffic is not ours to judge, so whatever cannot be read passes to the node's own stack
//! unchanged. An ICMP "too big" about our VXLAN lowers that peer's MTU and passes too: the node's own traffic to the
//! peer takes the same path.
//!
//! Next: `decap`, `l2_pass`.

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
use crate::headers::{self, ICMP, ICMPV6, UDP, icmp4, icmp6};
use crate::snapshot::{Local, VXLAN_PORT};

pub(crate) const NODE: Node = Node {
    does: "Finds VXLAN for this node among the uplink's traffic.",
    drops: &[DropReason::VxlanOuterFragment],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(local) = w.snap.local() else { return Next::To(NodeId::L2Pass) };
    let Ok((ip, l4)) = headers::read(&p.buf, usize::from(p.ctx.l3)) else { return Next::To(NodeId::L2Pass) };
    if ip.dst != local.vtep {
        return Next::To(NodeId::L2Pass);
    }
    p.ctx.ip = ip;
    p.ctx.l4 = l4;
    match (ip.proto, ip.frag, l4.icmp) {
        (UDP, None, _) if l4.dport == VXLAN_PORT => Next::To(NodeId::Decap),
        (UDP, Some(frag), _) if frag.offset == 0 && l4.dport == VXLAN_PORT => {
            Next::Drop(DropReason::VxlanOuterFragment)
        }
        (ICMP | ICMPV6, None, Some(_)) if l4.error => {
            if let Some((peer, mtu)) = too_big(p, local) {
                learn(w, peer, mtu);
            }
            Next::To(NodeId::L2Pass)
        }
        _ => Next::To(NodeId::L2Pass),
    }
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
