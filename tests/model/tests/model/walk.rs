//! From the oracle's answer to where a packet arrives, and in whose name: docs/services.md, "Whose address a backend sees".

use std::net::SocketAddr;

use podplane_model::objects::Cluster;
use podplane_model::oracle::{self, From, Gets, PortId};

use crate::wire::{MASQUERADE, Place, Seen, Sent, What, gateway, node, node_of, pod_of, routed};

/// In whose name a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// As it was sent.
    Own,
    /// The node's address in its pod range; the port stays.
    Gateway(usize),
    /// The node's, with a masquerade port.
    Node(usize),
}

/// A way in which a packet may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at: Place,
    pub dst: SocketAddr,
    pub source: Source,
}

impl Arrival {
    pub fn is(&self, sent: &Sent, seen: &Seen) -> bool {
        let v6 = sent.src.is_ipv6();
        let source = match self.source {
            Source::Own => seen.src == sent.src,
            Source::Gateway(n) => seen.src == SocketAddr::new(gateway(v6, n), sent.src.port()),
            Source::Node(n) => seen.src.ip() == node(v6, n) && MASQUERADE.contains(&seen.src.port()),
        };
        source && (seen.at, seen.dst) == (self.at, self.dst) && seen.what == What::Packet(sent.protocol, sent.flags)
    }
}

/// What may come of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these.
    Arrives(Vec<Arrival>),
    Refused,
    Nothing,
}

/// What comes of the first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub outcome: Outcome,
    /// The node that looks the address up.
    pub judge: usize,
    pub affinity: Option<(PortId, u32)>,
    /// Whether the dataplane follows the flow.
    pub tracked: bool,
}

/// By which way the packet comes to the node that looks the address up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Its own pod, its own process.
    Pod,
    Host,
    /// A pod of the other node.
    Tunnel,
    /// The other node.
    Peer,
    /// The world outside.
    World,
}

/// What comes of a first packet, `views` being what each node knows. `None`: no stack would send it to us.
pub fn expected(views: &[Cluster], sent: &Sent) -> Option<Expected> {
    let home = sent.from.node();
    let to = node_of(sent.dst.ip()).filter(|n| *n != home);
    let (judge, from, by) = match (sent.from, to) {
        (Place::Pod(_), Some(other)) => (other, From::Inside, By::Tunnel),
        (Place::Host(_), Some(other)) => (other, From::Outside, By::Peer),
        (Place::Wire(_), Some(_)) => return None,
        (Place::Pod(_), None) => (home, From::Inside, By::Pod),
        (Place::Host(_), None) => (home, From::Inside, By::Host),
        (Place::Wire(_), None) => (home, From::Outside, By::World),
    };
    let answer = oracle::ask(&views[judge], judge, from, sent.src.ip(), sent.dst, sent.protocol);
    let expected = |outcome, tracked| Some(Expected { outcome, judge, affinity: answer.affinity.clone(), tracked });
    match &answer.gets {
        Gets::Backend(all) => {
            let arrivals = all.iter().map(|backend| arrival(judge, by, sent, *backend)).collect();
            expected(Outcome::Arrives(arrivals), true)
        }
        Gets::Refusal => expected(Outcome::Refused, false),
        Gets::Silence => expected(Outcome::Nothing, false),
        Gets::NoService => {
            let (arrival, tracked) = untranslated(judge, by, sent)?;
            expected(Outcome::Arrives(vec![arrival]), tracked)
        }
    }
}

fn arrival(judge: usize, by: By, sent: &Sent, dst: SocketAddr) -> Arrival {
    let at = place_of(judge, dst);
    let source = match (by, at) {
        // It would be answered within its own namespace.
        (By::Pod, Place::Pod(_)) if at == sent.from => Source::Gateway(judge),
        (By::Pod, Place::Pod(_) | Place::Host(_)) => Source::Own,
        (By::Pod, Place::Wire(_)) if dst.ip() == routed(dst.is_ipv6()) => Source::Own,
        (By::Host, Place::Pod(_)) if sent.src.ip().is_loopback() => Source::Gateway(judge),
        (By::Host, Place::Pod(_)) => Source::Own,
        (By::Host, Place::Host(n)) if n == judge => Source::Gateway(judge),
        (By::Tunnel | By::Peer | By::World, Place::Pod(_) | Place::Host(_)) if at.node() == judge => Source::Own,
        (By::World, Place::Pod(_)) => Source::Own,
        _ => Source::Node(judge),
    };
    Arrival { at, dst, source }
}

/// Where a backend is; what is nobody's is behind the router.
fn place_of(judge: usize, address: SocketAddr) -> Place {
    let pod = pod_of(address.ip()).map(Place::Pod);
    pod.or_else(|| node_of(address.ip()).map(Place::Host)).unwrap_or(Place::Wire(judge))
}

/// What is no Service's goes where its address says; whether it makes a flow.
fn untranslated(judge: usize, by: By, sent: &Sent) -> Option<(Arrival, bool)> {
    let arrival = |at, source| Arrival { at, dst: sent.dst, source };
    let own = node_of(sent.dst.ip()) == Some(judge);
    match by {
        By::Pod if !own => Some((self::arrival(judge, by, sent, sent.dst), true)),
        By::Pod | By::Tunnel => Some((arrival(Place::Host(judge), Source::Own), true)),
        By::Host if !own => None,
        By::Host | By::Peer | By::World => Some((arrival(Place::Host(judge), Source::Own), false)),
    }
}
