//! Virtual reassembly: later fragments wait until the first one names the flow.
//!
//! Uses: `ip.frag`, `l4`. Sets: `ip.proto`, ports, `key`, `hash`.
//!
//! Fragments are forwarded as they came, each by the verdict of its flow; none is merged.
//!
//! Plain fragments to node and Service addresses meet here before anybody knows whose they are. Once their ports are
//! known, they go on in order to the worker that owns them, or to the node's own stack.
//!
//! Next: held; then `flow`, `l2_pass`, or another worker.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::WorkerId;
use podplane_tables::reasm::{DatagramKey, First, Fragment, Outcome, Refusal};

use super::underlay::{self, Claim};
use super::{Next, Pkt, World, egress, owner};
use crate::drop::DropReason;
use crate::engine::walk;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::headers::{ICMP, ICMPV6};
use crate::owner::{Arrival, Ends, owner as owner_of};
use crate::world::{Ctx, Held, zone};

pub(crate) const NODE: Node = Node {
    does: "Holds fragments until the first one names their flow.",
    drops: &[
        DropReason::IcmpTypeUnsupported,
        DropReason::FragmentOverlap,
        DropReason::FragmentDuplicate,
        DropReason::FragmentMalformed,
        DropReason::FragmentTooLong,
        DropReason::FragmentEndConflict,
        DropReason::FragmentTooMany,
        DropReason::FragmentTableFull,
        DropReason::FragmentPortLimit,
        DropReason::FragmentHeldFull,
        DropReason::FragmentPortHeldFull,
        DropReason::FragmentTimeout,
    ],
    parses: false,
};

/// How many datagrams one call of housekeeping ends.
const EXPIRIES: usize = 64;

pub(crate) fn process<E: Env>(_w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    // Only echo is forwarded in fragments: an error that came in pieces quotes too little to be trusted.
    let first = p.ctx.ip.frag.is_some_and(|f| f.offset == 0);
    let strange = matches!(p.ctx.ip.proto, ICMP | ICMPV6) && owner::echo(p.ctx).is_none();
    if first && strange && !p.ctx.borrowed {
        return Next::Drop(DropReason::IcmpTypeUnsupported);
    }
    Next::Hold
}

/// Describes a fragment to the table.
fn describe(ctx: &Ctx) -> Option<Fragment> {
    let (ip, l4) = (&ctx.ip, &ctx.l4);
    let frag = ip.frag?;
    let key = match (ip.src, ip.dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => DatagramKey::v4(s, d, frag.id as u16, ip.proto, ctx.zone()),
        (IpAddr::V6(s), IpAddr::V6(d)) => DatagramKey::v6(s, d, frag.id, ctx.zone()),
        _ => return None,
    };
    let first = First { proto: ip.proto, sport: l4.sport, dport: l4.dport };
    Some(Fragment {
        key,
        port: ctx.via.port,
        offset: frag.offset.into(),
        len: ip.len.saturating_sub(frag.data.into()),
        more: frag.more,
        first: (frag.offset == 0).then_some(first),
    })
}

/// Gives a fragment to the table and sends on whatever that sets free, in order of arrival.
pub(crate) fn hold<E: Env>(w: &mut World<'_, E>, p: Pkt<'_, E::Buf>) {
    let Some(fragment) = describe(p.ctx) else { return w.drop(p.ctx.via.port, DropReason::FragmentMalformed) };
    // Taken out of the state so that what is set free can walk the graph; as large as one datagram can need.
    let mut freed = std::mem::take(&mut w.st.freed);
    w.st.reassembly.push(w.now, &fragment, p.hold(), |outcome| freed.push(outcome));
    release(w, &mut freed);
    w.st.freed = freed;
}

/// Ends the datagrams whose first fragment did not come.
pub(crate) fn expire<E: Env>(w: &mut World<'_, E>) {
    let mut freed = std::mem::take(&mut w.st.freed);
    for _ in 0..EXPIRIES {
        w.st.reassembly.expire(w.now, 1, |outcome| freed.push(outcome));
        if freed.is_empty() {
            break;
        }
        release(w, &mut freed);
    }
    w.st.freed = freed;
}

fn release<E: Env>(w: &mut World<'_, E>, freed: &mut Vec<Outcome<Held<E::Buf>>>) {
    for outcome in freed.drain(..) {
        match outcome {
            Outcome::Refuse(p, refusal) => w.drop(p.ctx.via.port, reason(refusal)),
            Outcome::Pass(Held { buf, mut ctx }, first) => {
                let mut p = Pkt { buf, ctx: &mut ctx };
                p.ctx.ip.proto = first.proto;
                (p.ctx.l4.sport, p.ctx.l4.dport) = (first.sport, first.dport);
                // An error in pieces speaks for itself alone.
                (p.ctx.l4.error, p.ctx.l4.quoted) = (false, None);
                match whose(w, &mut p) {
                    Whose::Mine => {
                        owner::set_key(w, p.ctx);
                        walk(w, p, NodeId::Flow);
                    }
                    Whose::Worker(other) => {
                        p.buf.meta_mut().gathered = true;
                        w.finish(p, Next::HandOver(other));
                    }
                    Whose::Nobody => walk(w, p, NodeId::L2Pass),
                }
            }
        }
    }
}

enum Whose {
    Mine,
    Worker(WorkerId),
    /// It belongs to the node's own stack, or comes from it and is nothing of ours.
    Nobody,
}

/// Whose fragment it is, now that its ports are known.
fn whose<E: Env>(w: &World<'_, E>, p: &mut Pkt<E::Buf>) -> Whose {
    let (zone, gathered) = (p.ctx.zone(), p.buf.meta().gathered);
    if zone == zone::HOST && p.ctx.borrowed && !egress::is_answer(w.snap, &p.ctx.ip, &p.ctx.l4) {
        return Whose::Nobody;
    }
    if zone != zone::PLAIN {
        return Whose::Mine;
    }
    let Some(local) = w.snap.local() else { return Whose::Nobody };
    match underlay::claim_whole(w.snap, local, &p.ctx.ip, &p.ctx.l4) {
        Claim::Passes => return Whose::Nobody,
        claim => p.ctx.borrowed = claim == Claim::IfKnown,
    }
    match owner_of(w.snap, Arrival::Plain, Ends::of(&p.ctx.ip, &p.ctx.l4)) {
        other if other != w.st.worker && !gathered => Whose::Worker(other),
        _ => Whose::Mine,
    }
}

/// The drop reason of each refusal.
fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Overlap => DropReason::FragmentOverlap,
        Refusal::Duplicate => DropReason::FragmentDuplicate,
        Refusal::Malformed => DropReason::FragmentMalformed,
        Refusal::TooLong => DropReason::FragmentTooLong,
        Refusal::EndConflict => DropReason::FragmentEndConflict,
        Refusal::TooManyFragments => DropReason::FragmentTooMany,
        Refusal::TooManyDatagrams => DropReason::FragmentTableFull,
        Refusal::PortDatagrams => DropReason::FragmentPortLimit,
        Refusal::HeldFull => DropReason::FragmentHeldFull,
        Refusal::PortHeldFull => DropReason::FragmentPortHeldFull,
        Refusal::Timeout => DropReason::FragmentTimeout,
    }
}
