//! Frames that the node's own stack sends to the uplink's network: most pass, but answers of this node's own backends
//! to clients outside must be translated back.
//!
//! Uses: `l3`. Sets: `ip`, `l4`, `borrowed`.
//!
//! Taken is what comes from an address and port that is such a backend, with the ICMP errors about what was sent to
//! one, and fragments, whose ports are not known yet. Whatever then belongs to no flow passes unchanged.
//!
//! Next: `owner`, `l2_pass`.

use podplane_tables::fib::NextHop;

use super::{Next, Pkt, World};
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers;
use crate::snapshot::Snapshot;
use crate::world::{Ip, L4};

pub(crate) const NODE: Node = Node {
    does: "Finds answers of this node's own backends among what its stack sends to the uplink.",
    drops: &[],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Ok((ip, l4)) = headers::read(&p.buf, usize::from(p.ctx.l3)) else { return Next::To(NodeId::L2Pass) };
    let passes = match ip.frag {
        None => !is_answer(w.snap, &ip, &l4),
        // Backends here are at this node's own addresses.
        Some(_) => w.snap.route(ip.src) != Some(NextHop::Host),
    };
    if passes {
        return Next::To(NodeId::L2Pass);
    }
    p.ctx.ip = ip;
    p.ctx.l4 = l4;
    p.ctx.borrowed = true;
    Next::To(NodeId::Owner)
}

/// Whether a packet whose ports are known may be such an answer.
pub(super) fn is_answer(snap: &Snapshot, ip: &Ip, l4: &L4) -> bool {
    match l4.quoted {
        Some(q) => snap.services().is_host_backend(q.dst, q.proto, q.dport),
        None => snap.services().is_host_backend(ip.src, ip.proto, l4.sport),
    }
}
