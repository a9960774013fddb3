//! One hop: TTL, MTU, and which way out.
//!
//! Uses: `out`, `ip`, `l4`, `rewrite`. Sets: `way`, `cut`, `complaint`, `awaits`; takes one off the TTL.
//!
//! For a GSO packet the size of its segments counts. A TCP one without DF is given smaller segments, which is what
//! fragmenting them would have come to, only better.
//!
//! A packet whose neighbour is not known waits before anything is changed, and walks again.
//!
//! Next: `translate`, and behind it or at once `deliver`, `encap`, `outside`, `fragment`; `icmp_error`.

use podplane_packet::buf::{Gso, PacketBuf};
use podplane_packet::id::PortId;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers;
use crate::world::Complaint;

pub(crate) const NODE: Node = Node {
    does: "Takes one off the TTL and compares the size with the next hop's MTU.",
    drops: &[
        DropReason::PortDown,
        DropReason::Hairpin,
        DropReason::FragmentationFailed,
        DropReason::NeighbourUnresolved,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if p.ctx.ip.ttl <= 1 {
        return complain(p, Complaint::TtlExceeded);
    }
    let (limit, way) = match p.ctx.out {
        Action::Forward(port) if port == p.ctx.via.port && p.ctx.rewrite.is_none() => {
            return Next::Drop(DropReason::Hairpin);
        }
        Action::Forward(port) => match w.snap.port(port) {
            Some(entry) => (entry.mtu, NodeId::Deliver),
            None => return Next::Drop(DropReason::PortDown),
        },
        Action::Encap(vtep) | Action::Enter(vtep) => match w.snap.vtep(vtep) {
            Some(entry) => (w.st.pmtu.of(vtep, entry, w.now), NodeId::Encap),
            None => return Next::Drop(DropReason::PortDown),
        },
        Action::Outside(neighbour) => match (w.snap.outside().neighbour(neighbour), w.snap.port(PortId::UPLINK)) {
            (Some((_, Some(_))), Some(uplink)) => (uplink.mtu, NodeId::Outside),
            // An error is not worth the wait.
            (Some((address, None)), Some(_)) if !p.ctx.l4.error => {
                p.ctx.awaits = Some(address);
                return Next::Wait;
            }
            (Some(_), Some(_)) => return Next::Drop(DropReason::NeighbourUnresolved),
            _ => return Next::Drop(DropReason::PortDown),
        },
        Action::Drop(_) => return Next::Drop(DropReason::PortDown),
    };
    let next = match fit(p, limit) {
        Fit::Whole => way,
        Fit::Cut => {
            p.ctx.cut = limit;
            NodeId::Fragment
        }
        Fit::TooBig => return complain(p, Complaint::TooBig(limit)),
        Fit::Never => return Next::Drop(DropReason::FragmentationFailed),
    };
    let l3 = usize::from(p.ctx.l3);
    headers::decrement_ttl(&mut p.buf.head_mut()[l3..]);
    p.ctx.way = next;
    Next::To(if p.ctx.rewrite.is_some() { NodeId::Translate } else { next })
}

enum Fit {
    Whole,
    Cut,
    TooBig,
    Never,
}

/// Whether a packet fits an MTU; makes a TCP GSO packet that may be cut fit.
fn fit<B: PacketBuf>(p: &mut Pkt<B>, limit: u16) -> Fit {
    let headers = p.ctx.ip.header + p.ctx.l4.header;
    let gso = p.buf.meta().gso;
    let longest = match gso {
        Gso::None => p.ctx.ip.len,
        _ => p.ctx.ip.len.min(u32::from(headers) + u32::from(gso.size())),
    };
    match gso {
        _ if longest <= u32::from(limit) => Fit::Whole,
        _ if p.ctx.ip.df => Fit::TooBig,
        Gso::None => Fit::Cut,
        Gso::Tcp4 { .. } if limit > headers => {
            p.buf.meta_mut().gso = Gso::Tcp4 { size: limit - headers };
            Fit::Whole
        }
        _ => Fit::Never,
    }
}

fn complain<B>(p: &mut Pkt<B>, complaint: Complaint) -> Next {
    p.ctx.complaint = complaint;
    Next::To(NodeId::IcmpError)
}
