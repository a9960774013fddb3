//! ICMP errors: they belong to the flow of the packet that they quote.
//!
//! Uses: `l4.quoted`, `ip`, `via`. Sets: `key`, `hash`, `slot`.
//!
//! An error about a packet from X to Y goes the way of the replies from Y to X, so it is judged by that half-entry and
//! dropped if there is none. It must be addressed to X, and a pod may complain only about what was sent to itself.
//! Errors do not keep a flow alive.
//!
//! Next: `forward`; `l2_pass` for what need not be ours.

use std::net::IpAddr;

use super::{Next, Pkt, World, flow};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::snapshot::PortClass;
use crate::world::AnyKey;

pub(crate) const NODE: Node = Node {
    does: "Finds the flow that an ICMP error is about.",
    drops: &[
        DropReason::IcmpQuoteMalformed,
        DropReason::IcmpErrorWithoutFlow,
        DropReason::UnknownPort,
        DropReason::VxlanInnerSource,
        DropReason::EntryConflict,
        DropReason::NeighbourUnresolved,
        DropReason::PolicyIngress,
        DropReason::PolicyEgress,
        DropReason::FlowRefused,
        DropReason::NoRoute,
        DropReason::NoSuchPod,
        DropReason::VxlanNotLocal,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(q) = p.ctx.l4.quoted else { return Next::Drop(DropReason::IcmpQuoteMalformed) };
    // A later fragment quotes no ports.
    if q.later || p.ctx.ip.dst != q.src {
        return Next::Drop(DropReason::IcmpErrorWithoutFlow);
    }
    if p.ctx.class == PortClass::Pod {
        let Some(port) = w.snap.port(p.ctx.via.port) else { return Next::Drop(DropReason::UnknownPort) };
        let own = match q.dst {
            IpAddr::V4(a) => port.v4 == Some(a),
            IpAddr::V6(a) => port.v6 == Some(a),
        };
        if !own {
            return Next::Drop(DropReason::IcmpErrorWithoutFlow);
        }
    }
    p.ctx.key = AnyKey::new(q.dst, q.src, q.dport, q.sport, q.proto, p.ctx.zone());
    p.ctx.hash = w.st.flows.hash(&p.ctx.key);
    p.ctx.slot = None;
    flow::related(w, p)
}
