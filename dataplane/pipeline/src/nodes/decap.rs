//! Takes the outer headers off VXLAN for us.
//!
//! Uses: `ip`, `l4` (the outer ones). Sets: `via.vtep`, `l3`, `ip`, `l4` (the inner ones).
//!
//! Accepted is what a known peer sends with our VNI to the gateway's MAC, with a source that routes to that peer. In the
//! entry network (our VNI + 1) a peer also sends in the name of clients outside the cluster, but not of other nodes. An
//! outer UDP checksum is not verified (RFC 7348 section 4.1 leaves it open): what it would protect is checked here
//! field by field, and the inner packet has checksums of its own. For the same reason a zero one is accepted over IPv6
//! (RFC 6935 section 5, RFC 6936 section 4).
//!
//! The packet's owner is found before anything is taken off, so that it is handed over as it was received.
//!
//! Next: hand over; `owner`.

use podplane_packet::buf::{Csum, Gso, PacketBuf};
use podplane_packet::id::Mac;
use podplane_packet::wire::{EtherType, Ethernet, Vxlan};
use podplane_tables::VtepIndex;
use podplane_tables::fib::NextHop;

use super::classify::ETH_LEN;
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::ecn;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers;
use crate::owner::{Arrival, Ends, owner};
use crate::snapshot::Snapshot;
use crate::world::{Ip, L4};

pub(crate) const NODE: Node =
    Node { does: "Checks and takes off the outer headers of VXLAN.", drops: DROPS, parses: true };

const DROPS: &[DropReason] = &[
    DropReason::NotConfigured,
    DropReason::VxlanBadHeader,
    DropReason::VxlanUnknownPeer,
    DropReason::VxlanWrongVni,
    DropReason::VxlanGso,
    DropReason::VxlanInnerNotIp,
    DropReason::VxlanInnerMac,
    DropReason::VxlanInnerSource,
    DropReason::EcnIllegal,
    DropReason::HandOverQueueFull,
];

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    match examine(w.snap, p) {
        Ok(inner) => {
            let whose = owner(w.snap, Arrival::Tunnel, Ends::of(&inner.ip, &inner.l4));
            if whose != w.st.worker {
                return Next::HandOver(whose);
            }
            strip(p, &inner)
        }
        Err(reason) => Next::Drop(reason),
    }
}

/// What lies inside the tunnel.
struct Inner {
    /// Where the inner Ethernet header starts.
    at: usize,
    vtep: VtepIndex,
    entry: bool,
    ip: Ip,
    l4: L4,
    /// The traffic class after decapsulation.
    tos: u8,
}

fn examine<B: PacketBuf>(snap: &Snapshot, p: &Pkt<B>) -> Result<Inner, DropReason> {
    let local = snap.local().ok_or(DropReason::NotConfigured)?;
    let vxlan = p.ctx.l4_at() + 8;
    // A driver that merged inner segments behind one set of outer headers says so by the tunnel's length.
    let meta = p.buf.meta();
    if meta.gso != Gso::None && usize::from(meta.tunnel) != vxlan + 8 {
        return Err(DropReason::VxlanGso);
    }
    let bytes = p.buf.head().get(vxlan..).ok_or(DropReason::VxlanBadHeader)?;
    let header = Vxlan::new(bytes).map_err(|_| DropReason::VxlanBadHeader)?;
    let vtep = match snap.route(p.ctx.ip.src) {
        Some(NextHop::Node(v)) if snap.vtep(v).is_some_and(|entry| entry.addr == p.ctx.ip.src) => v,
        _ => return Err(DropReason::VxlanUnknownPeer),
    };
    let entry = header.vni().get() == local.vni.get() + 1;
    if header.vni() != local.vni && !entry {
        return Err(DropReason::VxlanWrongVni);
    }
    let eth = Ethernet::new(header.payload()).map_err(|_| DropReason::VxlanBadHeader)?;
    if eth.dst() != Mac::GATEWAY {
        return Err(DropReason::VxlanInnerMac);
    }
    if !matches!(eth.ethertype(), EtherType::IPV4 | EtherType::IPV6) {
        return Err(DropReason::VxlanInnerNotIp);
    }
    let at = vxlan + 8;
    let (ip, l4) = headers::read(&p.buf, at + ETH_LEN)?;
    let from = snap.route(ip.src);
    if from.and_then(NextHop::peer) != Some(vtep) && !(entry && from.is_none()) {
        return Err(DropReason::VxlanInnerSource);
    }
    let tos = ecn::decapsulate(ip.tos, p.ctx.ip.tos).ok_or(DropReason::EcnIllegal)?;
    Ok(Inner { at, vtep, entry, ip, l4, tos })
}

fn strip<B: PacketBuf>(p: &mut Pkt<B>, inner: &Inner) -> Next {
    if !p.buf.adj(inner.at) {
        return Next::Drop(DropReason::VxlanBadHeader);
    }
    let meta = p.buf.meta_mut();
    if usize::from(meta.tunnel) == inner.at {
        meta.shift(-(inner.at as i32));
    } else {
        // What the device said was about the outer checksum.
        meta.csum = Csum::Unknown;
    }
    meta.tunnel = 0;
    p.ctx.via.vtep = Some(inner.vtep);
    p.ctx.via.entry = inner.entry;
    p.ctx.l3 = ETH_LEN as u16;
    p.ctx.ip = inner.ip;
    p.ctx.l4 = inner.l4;
    headers::trim(&mut p.buf, ETH_LEN, &inner.ip);
    if inner.tos != inner.ip.tos {
        headers::set_tos(&mut p.buf.head_mut()[ETH_LEN..], inner.tos);
        p.ctx.ip.tos = inner.tos;
    }
    Next::To(NodeId::Owner)
}
