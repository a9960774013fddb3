//! Who may open a connection to whom: the rules of the world around the rule sets.
//!
//! - A connection is judged by its client and its server: the client's own address, before this node's is put in its
//!   place, and the server's after Service translation.
//! - The egress rules of the client count if it is a pod of this node, the ingress rules of the server likewise; both
//!   must accept. Other nodes judge their pods themselves.
//! - A pod and its own node always reach each other. From the node is what came in by the host port to the gateway of
//!   what the node itself sends **and** bears one of the node's own addresses; what the node's kernel forwards for others,
//!   masqueraded or not, and what others send under a node's address, is not. To the node is what leads to its own stack.
//! - A pod that reaches itself is exempt from NetworkPolicy (`own`), not from the tiers around it.
//! - Replies and ICMP errors are not judged here: they belong to a flow that was.

use std::net::IpAddr;

use podplane_packet::id::PortId;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::{Addr, Flags, Half};
use podplane_tables::policy::{Decision, L4, Query, RuleSetId};

use crate::drop::DropReason;
use crate::halves::{BARRED, leads_to};
use crate::headers::{SCTP, TCP, UDP};
use crate::snapshot::Snapshot;
use crate::world::{Ctx, zone};

/// A connection as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    client: IpAddr,
    server: IpAddr,
    proto: u8,
    /// The server's port; of no meaning for protocols without.
    port: u16,
    /// The zone that the client's packets come in.
    from: u8,
    /// The node's kernel forwarded them.
    forwarded: bool,
}

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The server's.
    Ingress,
    /// The client's.
    Egress,
}

impl Direction {
    /// Why packets are dropped that such rules forbid.
    pub(crate) const fn reason(self) -> DropReason {
        match self {
            Direction::Ingress => DropReason::PolicyIngress,
            Direction::Egress => DropReason::PolicyEgress,
        }
    }
}

/// The rules of one end, and whom they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    direction: Direction,
    port: PortId,
    set: Option<RuleSetId>,
    peer: IpAddr,
}

/// The proof that a connection was judged and accepted. Made in this file alone.
#[derive(Debug)]
#[must_use]
pub(crate) struct Accepted(());

/// Whose rules forbid a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The pod's port.
    pub(crate) port: PortId,
    pub(crate) direction: Direction,
}

impl Connection {
    /// The one that a packet without a flow opens. Behind `route`, before anything masquerades.
    pub(crate) fn opened_by(ctx: &Ctx) -> Connection {
        let new = ctx.new_tuple();
        Connection {
            client: ctx.ip.src,
            server: new.dst,
            proto: ctx.ip.proto,
            port: new.dport,
            from: ctx.zone(),
            forwarded: ctx.client.has(Flags::FORWARDED),
        }
    }

    /// The one that a half-entry belongs to.
    pub(crate) fn of<A: Addr>(half: &Half<A>) -> Connection {
        let key = &half.key;
        let forwarded = half.flags.has(Flags::FORWARDED);
        let (to, port) = half.verdict.rewrite.map_or((key.dst, key.dport), |n| (n.dst, n.dport));
        if half.flags.has(Flags::INITIATOR) && !half.flags.has(BARRED) {
            let (client, server) = (key.src.ip(), to.ip());
            Connection { client, server, proto: key.proto, port, from: key.zone, forwarded }
        } else {
            // What replies are translated back to is the client's own address.
            let (client, server) = (to.ip(), key.src.ip());
            Connection { client, server, proto: key.proto, port: key.sport, from: leads_to(half.flags), forwarded }
        }
    }

    fn l4(&self) -> L4 {
        let port = matches!(self.proto, TCP | UDP | SCTP).then_some(self.port);
        L4 { protocol: self.proto, port }
    }

    /// Whether client and server are the same pod.
    fn own(&self) -> bool {
        self.from == zone::POD && self.client == self.server
    }

    /// Whether the node itself is the client. 127.0.0.1 is no address that it could have forwarded from.
    fn is_from_node(&self, snap: &Snapshot) -> bool {
        let own = |a: IpAddr| a.is_loopback() || snap.route(a) == Some(NextHop::Host);
        self.from == zone::HOST && !self.forwarded && own(self.client)
    }

    /// The port of this node's pod at an end, if there is one.
    pub(crate) fn pod(&self, snap: &Snapshot, direction: Direction) -> Option<PortId> {
        let address = match direction {
            Direction::Ingress => self.server,
            Direction::Egress if self.from == zone::POD => self.client,
            Direction::Egress => return None,
        };
        match snap.route(address) {
            Some(NextHop::Local(port)) => Some(port),
            _ => None,
        }
    }

    /// The end whose rules count, if any do.
    fn side(&self, snap: &Snapshot, direction: Direction) -> Option<Side> {
        let port = self.pod(snap, direction)?;
        let policy = snap.port(port)?.policy;
        let (set, peer, exempt) = match direction {
            Direction::Ingress => (policy.ingress, self.client, self.is_from_node(snap)),
            Direction::Egress => (policy.egress, self.server, snap.route(self.server) == Some(NextHop::Host)),
        };
        (!exempt).then_some(Side { direction, port, set, peer })
    }

    /// What an end's rules are asked, if it has any.
    fn query(&self, snap: &Snapshot, side: &Side) -> Option<Query> {
        let Side { direction, set, peer, .. } = *side;
        let stranger = direction == Direction::Ingress && !self.is_client_believed(snap);
        set.map(|set| Query { set, peer, l4: self.l4(), own: self.own(), stranger })
    }

    /// Whether the client may be the owner of its address: pods speak by their ports and through their nodes' tunnels,
    /// both of which are held to their own addresses. Who comes by another way, where no route says whose the address
    /// is, is somebody outside, although an owner may be known whose node is not there yet, or no more.
    fn is_client_believed(&self, snap: &Snapshot) -> bool {
        matches!(self.from, zone::POD | zone::TUNNEL) || snap.route(self.client).is_some()
    }
}

/// Judges a new connection. `counts`: rules count that they decided it.
pub(crate) fn judge(snap: &Snapshot, c: &Connection, counts: bool) -> Result<Accepted, Denial> {
    by(snap, c, |query| if counts { snap.policies().judge(query) } else { snap.policies().peek(query) }.accept)
}

/// Judges a connection that was judged before.
pub(crate) fn judge_again(snap: &Snapshot, c: &Connection) -> Result<(), Denial> {
    by(snap, c, |query| snap.policies().peek(query).accept).map(|_| ())
}

#[inline]
fn by(snap: &Snapshot, c: &Connection, accepts: impl Fn(&Query) -> bool) -> Result<Accepted, Denial> {
    for direction in [Direction::Egress, Direction::Ingress] {
        if let Some(side) = c.side(snap, direction)
            && let Some(query) = c.query(snap, &side)
            && !accepts(&query)
        {
            return Err(Denial { port: side.port, direction });
        }
    }
    Ok(Accepted(()))
}

/// What the rules of one end say, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whose rules.
    pub direction: Direction,
    /// The pod's port.
    pub port: PortId,
    /// The rules; `None`: none apply.
    pub set: Option<RuleSetId>,
    /// What they decide.
    pub decision: Option<Decision>,
}

impl Judgement {
    /// Whether they let the connection be.
    pub fn accepts(&self) -> bool {
        self.decision.is_none_or(|decision| decision.accept)
    }
}

/// What the rules of both ends say of a connection; counts nothing.
pub(crate) fn peek(snap: &Snapshot, c: Connection) -> impl Iterator<Item = Judgement> {
    [Direction::Egress, Direction::Ingress].into_iter().filter_map(move |direction| {
        let side = c.side(snap, direction)?;
        let Side { direction, port, set, .. } = side;
        let decision = c.query(snap, &side).map(|query| snap.policies().peek(&query));
        Some(Judgement { direction, port, set, decision })
    })
}

/// Where the client of an imagined connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A pod of this node.
    Pod,
    /// The node's own stack.
    Node,
    /// Another node, or the world outside.
    Elsewhere,
}

impl Snapshot {
    /// Judges an imagined connection as workers judge real ones, but tells what each end's rules decide. Ends that are no
    /// pods of this node, or exempt (a pod and its own node), are not told of. `server` is where a Service leads to,
    /// `port` its port, host byte order, of no meaning for protocols without.
    pub fn explain_policy(
        &self,
        from: Origin,
        client: IpAddr,
        server: IpAddr,
        proto: u8,
        port: u16,
    ) -> impl Iterator<Item = Judgement> {
        let from = match from {
            Origin::Pod => zone::POD,
            Origin::Node => zone::HOST,
            Origin::Elsewhere => zone::TUNNEL,
        };
        peek(self, Connection { client, server, proto, port, from, forwarded: false })
    }
}
