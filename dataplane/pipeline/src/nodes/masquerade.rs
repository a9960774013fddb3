//! Whose address the backend, or the world outside, sees.
//!
//! Uses: `out`, `ip`, `via`, `rewrite`. Sets: `rewrite` (source).
//!
//! The client's own address is kept wherever its replies come back through this node. Where they would not:
//! - what would be answered within a namespace (a pod that reaches itself, the node itself, 127.0.0.1), and what others
//!   than pods send by this node to another of its devices, gets the node's address in its pod range and keeps its port,
//! - what leaves plain by the uplink, what comes from another node's address and goes on through a tunnel, and what the
//!   node's stack sends through a tunnel under an address that other nodes do not know, gets the node's own address and a
//!   masquerade port.
//!
//! Masquerade ports (and echo identifiers) are chosen at random (RFC 6056 section 3.3.2) among those of this worker: port
//! less the first, modulo the number of workers, names the worker that plain replies come to. A port is in use if the
//! flow table holds its reply's key, so one port serves many remotes. Of the free ones those that have rested go first: a
//! remote remembers a TCP connection that it closed for longer than we do (TIME-WAIT), and answers a SYN that it takes
//! for one of that connection with an ACK, which costs the client a second.
//!
//! Next: `create`.

use std::net::IpAddr;

use podplane_packet::id::PortId;
use podplane_packet::nat::Tuple;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::Action;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::{Env, Millis};
use crate::flows::Flows;
use crate::graph::{Node, NodeId};
use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::snapshot::{Local, Snapshot};
use crate::world::{AnyKey, Ctx, zone};

pub(crate) const NODE: Node = Node {
    does: "Gives the node's address to what could not be answered otherwise.",
    drops: &[
        DropReason::NotConfigured,
        DropReason::NoRoute,
        DropReason::NotMasqueradable,
        DropReason::NoMasqueradePort,
    ],
    parses: false,
};

/// How many ports are tried at random, and as many again in order. With 95 % in use toward one remote, one flow in a
/// thousand is refused.
const TRIES: u32 = 64;
/// After which a port has rested: as conntrack remembers what is in TIME-WAIT. Linux's own TIME-WAIT takes a minute.
const REST: Millis = 120_000;
/// How many free ports are compared where none has rested.
const CHOICES: u32 = 8;

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(local) = w.snap.local() else { return Next::Drop(DropReason::NotConfigured) };
    let tuple = p.ctx.new_tuple();
    let v6 = tuple.dst.is_ipv6();
    match source(w.snap, local, p.ctx, tuple.dst) {
        Source::Own => {}
        Source::Gateway => {
            let Some(src) = local.gateway(v6) else { return Next::Drop(DropReason::NoRoute) };
            p.ctx.rewrite = Some(Tuple { src, ..tuple });
        }
        Source::Node => {
            let Some(src) = local.masquerade(v6) else { return Next::Drop(DropReason::NoRoute) };
            if !matches!(p.ctx.ip.proto, TCP | UDP | SCTP | ICMP | ICMPV6) {
                return Next::Drop(DropReason::NotMasqueradable);
            }
            let ports = Ports { local, workers: w.snap.workers() };
            let Some(new) = ports.choose(&mut w.st.flows, w.now, p.ctx, Tuple { src, ..tuple }) else {
                return Next::Drop(DropReason::NoMasqueradePort);
            };
            w.st.flows.give(new.sport, w.now);
            p.ctx.rewrite = Some(new);
        }
    }
    Next::To(NodeId::Create)
}

/// Whose address is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Own,
    Gateway,
    Node,
}

fn source(snap: &Snapshot, local: &Local, ctx: &Ctx, dst: IpAddr) -> Source {
    match (ctx.zone(), ctx.out) {
        // What the node's stack sends on to another of its devices: answers to pods come back here by its routes.
        (zone::POD, Action::Forward(PortId::HOST)) => Source::Own,
        (_, Action::Forward(PortId::HOST)) if snap.route(dst) != Some(NextHop::Host) => Source::Gateway,
        (zone::POD, Action::Forward(port)) if port == ctx.via.port => Source::Gateway,
        (zone::POD, Action::Outside(_)) if local.no_masquerade.contains(dst) => Source::Own,
        (zone::HOST, Action::Forward(PortId::HOST)) => Source::Gateway,
        (zone::POD | zone::HOST, Action::Outside(_)) => Source::Node,
        (zone::HOST, _) if ctx.ip.src.is_loopback() => Source::Gateway,
        // Whom another node does not know it would not answer through this one.
        (zone::HOST, Action::Encap(_)) if !local.announced.contains(&ctx.ip.src) => Source::Node,
        (zone::TUNNEL | zone::PLAIN, Action::Encap(_) | Action::Outside(_)) => Source::Node,
        _ => Source::Own,
    }
}

/// The masquerade ports of this node.
struct Ports<'a> {
    local: &'a Local,
    workers: u8,
}

impl Ports<'_> {
    /// A tuple with a port that no flow toward this remote has: the first that has rested, or else the one of some that
    /// has rested longest.
    fn choose(&self, flows: &mut Flows, now: Millis, ctx: &Ctx, tuple: Tuple) -> Option<Tuple> {
        let (first, last) = self.local.masquerade_ports;
        let workers = u32::from(self.workers);
        let me = u32::from(flows.me.0);
        let all = u32::from(last) - u32::from(first) + 1;
        // Of `all` ports, those whose distance from the first is `me` modulo `workers`.
        let mine = (all + workers - 1).checked_sub(me)? / workers;
        if mine == 0 {
            return None;
        }
        let mut at = flows.random() % mine;
        let (mut best, mut free) = (None, 0);
        for i in 0..(2 * TRIES).min(mine + TRIES) {
            at = if i < TRIES && mine > TRIES { flows.random() % mine } else { (at + 1) % mine };
            let port = first + (at * workers + me) as u16;
            let new = with_source_port(tuple, ctx.ip.proto, port);
            if !is_free(flows, ctx, &new) {
                continue;
            }
            let rested = flows.rested(port, now);
            if best.is_none_or(|(longest, _)| rested > longest) {
                best = Some((rested, new));
            }
            free += 1;
            if rested >= REST || free == CHOICES {
                break;
            }
        }
        best.map(|(_, new)| new)
    }
}

/// The tuple with another source port, or echo identifier.
pub(super) fn with_source_port(tuple: Tuple, proto: u8, port: u16) -> Tuple {
    match proto {
        ICMP | ICMPV6 => Tuple { sport: port, dport: port, ..tuple },
        _ => Tuple { sport: port, ..tuple },
    }
}

/// Whether this worker's table has room for the reply's key. Where another worker owns replies, it has the last word.
pub(super) fn is_free(flows: &Flows, ctx: &Ctx, new: &Tuple) -> bool {
    let zone = super::create::reply_zone(ctx.out);
    let key = AnyKey::new(new.dst, new.src, new.dport, new.sport, ctx.ip.proto, zone);
    flows.find(&key).is_none()
}
