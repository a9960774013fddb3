//! Whether a flow that was judged under an older snapshot holds, where something that it depends on changed since.
//!
//! Policy comes first: a connection that it forbids by now ends, whichever half's packet comes first ([`crate::forbid`]).
//! Each half is judged by the whole connection, so neither relies on the other, which may belong to another worker.
//!
//! TCP and SCTP keep their backend until they end. A flow of another protocol whose backend is no longer one of its
//! frontend's, or whose destination became a frontend, is made anew. Halves of replies follow the other half; they are
//! only given their way anew.

use std::net::IpAddr;

use podplane_packet::id::PortId;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::{Action, Addr, Flags, Half};

use crate::drop::DropReason;
use crate::halves::{BARRED, leads_to};
use crate::headers::{SCTP, TCP};
use crate::judge::{Connection, Denial, judge_again};
use crate::snapshot::outside::Way;
use crate::snapshot::services::{Backend, Target};
use crate::snapshot::{Local, Snapshot};
use crate::world::zone;

/// What becomes of a half.
pub(crate) enum Judged<A: Addr> {
    /// It holds, perhaps with another way out.
    Holds(Half<A>),
    /// Its flow ends; the packet opens another.
    Anew,
    /// Policy forbids its connection by now.
    Forbidden(Denial),
}

/// Judges a half anew.
pub(crate) fn judge<A: Addr>(snap: &Snapshot, mut half: Half<A>) -> Judged<A> {
    if half.flags.has(BARRED) {
        match judge_again(snap, &Connection::of(&half)) {
            Err(denial) => half.verdict.action = Action::Drop(denial.direction.reason() as u8),
            // Its packets answer again. It stays what it is, so that they never open a flow of the server's own, which a
            // later rule about the client would not end; the client's next packet puts the replies' half in its place.
            Ok(()) => {
                half.verdict.action = way(snap, &half);
                half.vtep = vtep(snap, &half);
            }
        }
        half.generation = snap.generation();
        return Judged::Holds(half);
    }
    let initiator = half.flags.has(Flags::INITIATOR);
    let cached_drop = half.peer.is_none() && matches!(half.verdict.action, Action::Drop(_));
    if cached_drop && !initiator {
        // What answers a flow that was refused: for its one second it is nothing else, whatever changes.
        half.generation = snap.generation();
        return Judged::Holds(half);
    }
    if initiator && (cached_drop || is_stale(snap, &half) || entry_is_gone(snap, &half)) {
        return Judged::Anew;
    }
    if let Err(denial) = judge_again(snap, &Connection::of(&half)) {
        return Judged::Forbidden(denial);
    }
    half.verdict.action = way(snap, &half);
    half.vtep = vtep(snap, &half);
    half.generation = snap.generation();
    Judged::Holds(half)
}

/// Whether the translation is not what a new flow would get.
fn is_stale<A: Addr>(snap: &Snapshot, half: &Half<A>) -> bool {
    let Some(local) = snap.local() else { return false };
    let key = &half.key;
    let (src, dst) = (key.src.ip(), key.dst.ip());
    let new = half.verdict.rewrite;
    if !has_source(local, half) || !takes_its_way(snap, half) || !may_come_from(snap, src, key.zone) {
        return true;
    }
    if matches!(key.proto, TCP | SCTP) || key.zone == zone::ENTRY {
        return false;
    }
    let (to, port) = new.map_or((dst, key.dport), |n| (n.dst.ip(), n.dport));
    match snap.services().find(dst, key.proto, key.dport) {
        Some(frontend) => match frontend.target(key.zone == zone::PLAIN) {
            Target::Set(set) => !frontend.serves(src) || !set.contains(Backend { address: to, port }),
            Target::Reject | Target::Drop => true,
        },
        // A node port may lead to the same address.
        None => (to, port) != (dst, key.dport) || local.service_cidrs.contains(dst),
    }
}

/// Whether the address and port that the flow was given are still given, so that its answers come to us.
fn has_source<A: Addr>(local: &Local, half: &Half<A>) -> bool {
    let key = &half.key;
    let Some(new) = half.verdict.rewrite else { return true };
    let (src, leads) = (new.src.ip(), leads_to(half.flags));
    // The node's own address stays as it is where the node itself goes out.
    let masqueraded = new.src != key.src || key.zone == zone::HOST && leads == zone::PLAIN;
    !masqueraded || local.gateway(src.is_ipv6()) == Some(src) || local.is_masquerade(src, new.sport)
}

/// Whether a client may bear an address that comes in a zone. Of what pods send, and of what comes through tunnels, each
/// packet's is looked at before its flow.
pub(crate) fn may_come_from(snap: &Snapshot, client: IpAddr, zone: u8) -> bool {
    let is_service = || snap.local().is_some_and(|local| local.service_cidrs.contains(client));
    match (zone, snap.route(client)) {
        // The node's own stack speaks for itself and for strangers behind its other devices, whom nobody takes for the
        // node. What is ours or a peer's comes to us by no such way.
        (zone::HOST, Some(NextHop::Local(_) | NextHop::Vtep(_) | NextHop::Node(_) | NextHop::Blackhole)) => false,
        (zone::HOST, _) => true,
        // Nor does anybody outside speak for pods, whose packets come through tunnels, or for this node, or for a Service.
        (zone::PLAIN, Some(hop)) => matches!(hop, NextHop::Node(_)),
        (zone::PLAIN | zone::ENTRY, None) => !is_service(),
        _ => true,
    }
}

/// Whether what goes out of the cluster still does so by the device that its source address was chosen for.
fn takes_its_way<A: Addr>(snap: &Snapshot, half: &Half<A>) -> bool {
    let dst = half.verdict.rewrite.map_or(half.key.dst, |n| n.dst).ip();
    let strange = matches!(snap.route(dst), None | Some(NextHop::Node(_)));
    match leads_to(half.flags) {
        zone::HOST if strange => snap.outside().way(dst) == Way::Host,
        zone::PLAIN => strange && snap.outside().way(dst) != Way::Host,
        _ => true,
    }
}

/// Whether the entry node that the flow came by is gone, and its index perhaps another's.
fn entry_is_gone<A: Addr>(snap: &Snapshot, half: &Half<A>) -> bool {
    half.key.zone == zone::ENTRY && half.vtep.is_some_and(|v| snap.changed().vtep(v) > half.generation)
}

/// The way out under the snapshot. What leads to the node's own stack without a route of ours answers somebody behind
/// the node, and goes back there.
fn way<A: Addr>(snap: &Snapshot, half: &Half<A>) -> Action {
    let drop = |reason: DropReason| Action::Drop(reason as u8);
    let leads = leads_to(half.flags);
    let dst = half.verdict.rewrite.map_or(half.key.dst, |n| n.dst).ip();
    let tunnelled = matches!(half.key.zone, zone::TUNNEL | zone::ENTRY);
    match (snap.route(dst), leads) {
        (Some(NextHop::Local(port)), _) => Action::Forward(port),
        (Some(NextHop::Host), _) => Action::Forward(PortId::HOST),
        (Some(NextHop::Blackhole | NextHop::Gateway), _) => drop(DropReason::NoSuchPod),
        (Some(NextHop::Vtep(vtep)), zone::ENTRY) => Action::Enter(vtep),
        // Answers to somebody outside are no pod's, which has the address by now.
        (Some(NextHop::Vtep(_)), zone::PLAIN) => drop(DropReason::NoRoute),
        (Some(NextHop::Node(_)) | None, zone::PLAIN) => match snap.outside().way(dst) {
            Way::By(neighbour) => Action::Outside(neighbour),
            // The index that it had is nobody's, or another's.
            Way::Unresolved(_) => drop(DropReason::NeighbourUnresolved),
            Way::Host | Way::None => drop(DropReason::NoRoute),
        },
        (Some(NextHop::Vtep(_) | NextHop::Node(_)), _) if tunnelled && half.verdict.rewrite.is_none() => {
            drop(DropReason::VxlanNotLocal)
        }
        (Some(NextHop::Vtep(vtep) | NextHop::Node(vtep)), _) => Action::Encap(vtep),
        // Back to the entry node that remembers the client.
        (None, zone::ENTRY) => match half.vtep.filter(|v| snap.changed().vtep(*v) <= half.generation) {
            Some(vtep) => Action::Enter(vtep),
            None => drop(DropReason::NoRoute),
        },
        (None, zone::HOST) => Action::Forward(PortId::HOST),
        _ => drop(DropReason::NoRoute),
    }
}

/// The peer that sends in this direction, or whom this direction goes to: by the FIB, for an ICMP error that is the first
/// to come may be from anybody. A client outside is known by its entry node alone.
fn vtep<A: Addr>(snap: &Snapshot, half: &Half<A>) -> Option<podplane_tables::VtepIndex> {
    let by_source = snap.route(half.key.src.ip()).and_then(NextHop::peer);
    match (half.key.zone, half.verdict.action) {
        (zone::TUNNEL, _) => by_source,
        (zone::ENTRY, _) => by_source.or(half.vtep),
        (_, Action::Encap(vtep) | Action::Enter(vtep)) => Some(vtep),
        _ => by_source,
    }
}
