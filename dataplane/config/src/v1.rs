//! Raw messages. Encoded with postcard, one message a ring record.
//!
//! A transaction is `Begin`, any number of `Upsert`, `Extend` and `Delete`, `Commit`. It is applied whole or refused
//! whole; the dataplane answers `Applied` once every worker forwards by it, or `Refused` and keeps what it had. In a
//! `full` transaction whatever was not upserted is removed.
//!
//! Kubernetes' words end here: what traffic to an address gets was decided by the agent. [`upsert`] makes the messages
//! of an object, several where a Service is too large for one.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The version of these messages; the handshake compares it, for records say nothing of their form. It grows with each
/// change of a message:
///
/// | version | what came |
/// |---|---|
/// | 1 | nodes, endpoints, Services |
/// | 2 | addresses, rules and rule sets; the policy of endpoints |
pub const API_VERSION: u16 = 2;

/// The longest encoded message, in bytes: what one record of the ring takes. One port of a Service, with
/// [`crate::valid::MAX_BACKENDS_PER_PORT`] backends, fits.
pub const MAX_MESSAGE: usize = podplane_shm_ring::channel::MAX_RECORD;

/// Agent to dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDataplane {
    /// Opens a transaction.
    Begin {
        /// Grows with each transaction of this agent; given back in the answer.
        generation: u64,
        /// A full synchronisation: what is not named before `Commit` is removed.
        full: bool,
    },
    /// Creates or replaces one object.
    Upsert(Object),
    /// More ports of a Service that this transaction has upserted.
    Extend(Service),
    /// Removes one object; one that is not there is no error.
    Delete(Key),
    /// Closes the transaction.
    Commit {
        /// That of `Begin`.
        generation: u64,
    },
}

/// Dataplane to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDataplane {
    /// Every worker has passed a quiescent point on this generation.
    Applied {
        /// That of the transaction.
        generation: u64,
        /// Endpoints of it whose device could not be opened, with the reason; everything else is in force.
        failed: Vec<EndpointFailure>,
    },
    /// The transaction was refused whole.
    Refused {
        /// That of the transaction.
        generation: u64,
        /// What was wrong, where, and what to do.
        reason: String,
    },
}

/// An endpoint that the dataplane could not connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointFailure {
    /// Its identity.
    pub id: String,
    /// The cause and the cure.
    pub reason: String,
}

/// What the dataplane keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// This node. Exactly one must exist before anything is forwarded.
    Local(LocalNode),
    /// Another node.
    Peer(Peer),
    /// A pod's (or other container's) port on this node.
    Endpoint(Endpoint),
    /// A Service.
    Service(Service),
    /// Whose an address is.
    Address(Address),
    /// A rule.
    Rule(Rule),
    /// The rules of pods in one direction.
    RuleSet(RuleSet),
}

impl Object {
    /// What names it.
    pub fn key(&self) -> Key {
        match self {
            Object::Local(_) => Key::Local,
            Object::Peer(peer) => Key::Peer(peer.name.clone()),
            Object::Endpoint(endpoint) => Key::Endpoint(endpoint.id.clone()),
            Object::Service(service) => Key::Service(service.name.clone()),
            Object::Address(address) => Key::Address(address.address),
            Object::Rule(rule) => Key::Rule(rule.id),
            Object::RuleSet(set) => Key::RuleSet(set.id),
        }
    }
}

/// Names an object for removal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// This node.
    Local,
    /// A node by name.
    Peer(String),
    /// An endpoint by identity.
    Endpoint(String),
    /// A Service by "namespace/name".
    Service(String),
    /// Whose an address is, by the address.
    Address(IpAddr),
    /// A rule by its number.
    Rule(u32),
    /// A rule set by its number.
    RuleSet(u32),
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// Its VTEP: an own address, of the cluster-wide underlay family.
    pub vtep: IpAddr,
    /// All its addresses, the VTEP included.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges, at most one of each family. The network's address + 1 is the node's own: the source of
    /// its ICMP errors.
    pub pod_cidrs: Vec<IpNet>,
    /// The VXLAN network of the cluster.
    pub vni: u32,
    /// The pods' MTU in bytes: the uplink's less the overlay.
    pub pod_mtu: u16,
    /// Ranges of ClusterIPs: what goes there and is no frontend's is refused or dropped, and never leaves the node.
    pub service_cidrs: Vec<IpNet>,
    /// Where pods go under their own address beside pods, nodes and Services: the user's nonMasqueradeCIDRs. The
    /// pods' ranges, the nodes' addresses and `service_cidrs` are implied.
    pub no_masquerade: Vec<IpNet>,
    /// What leaves the cluster gets these addresses and ports. `None`: nothing leaves.
    pub masquerade: Option<Masquerade>,
    /// Alike on all nodes: the key of Maglev's hashes, so that all nodes choose alike.
    pub cluster_seed: [u64; 2],
}

/// Addresses and ports for what leaves the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masquerade {
    /// Own addresses, at most one of each family, at least one. A family without one does not leave.
    pub addresses: Vec<IpAddr>,
    /// First and last port, ICMP echo id alike. No frontend and no host port on `addresses` lies within.
    pub ports: (u16, u16),
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its VTEP, of the same family as ours.
    pub vtep: IpAddr,
    /// All its addresses: traffic between them and pods is encapsulated.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    pub pod_cidrs: Vec<IpNet>,
}

/// A pod's port on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Identity of the attachment: "containerID/ifname" of the CNI call.
    pub id: String,
    /// "namespace/name" of the pod, for people; empty without one (`cnitool`).
    pub pod: String,
    /// The device.
    pub port: PortKind,
    /// The pod's own Ethernet address.
    pub mac: [u8; 6],
    /// The pod's addresses, at most one of each family, at least one.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// The rules that it has. The agent says nothing of a pod before it knows them.
    pub policy: EndpointPolicy,
}

/// A port of the node that leads to a pod (CNI's `portMappings`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address at which it is served: a unicast one, or one of 127.0.0.0/8. `None`: all addresses of the node of
    /// the pod's families, and 127.0.0.1.
    pub address: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// The pod's port.
    pub target: u16,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// That of a number in IP headers; `None`: another protocol.
    pub fn of_number(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
    }
}

impl std::fmt::Display for Protocol {
    /// As Kubernetes writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// A Service: what packets to its addresses get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// "namespace/name".
    pub name: String,
    /// Its ports: one entry for each port, protocol and family.
    pub ports: Vec<ServicePort>,
}

/// A Service's port in one family. The chosen backend of a client (`affinity_seconds`) is shared by its frontends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name in the Service; may be empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Session affinity by client address, for so many seconds after the client's last new connection.
    pub affinity_seconds: Option<u32>,
    /// Sets of backends, named by index in [`Choice::Set`]: different from one another, none empty, each sorted and
    /// without duplicates, all of the family of the frontends.
    pub sets: Vec<Vec<Backend>>,
    /// Where it is served, at least one, all of one family.
    pub frontends: Vec<Frontend>,
}

/// A place that answers for a Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Its address: a pod's, a node's, or one outside the cluster. Neither loopback nor link-local (CVE-2021-25740).
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// An address and port at which a Service's port is served. Address, protocol and port belong to one frontend or host
/// port only, in the whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// What made it, for people.
    pub kind: FrontendKind,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// What traffic of pods and of this node gets.
    pub inside: Choice,
    /// What traffic gets that came in by the uplink from outside the cluster.
    pub outside: Choice,
    /// `Some`: only clients in these ranges are served, pods and this node alike; the others are dropped silently.
    pub sources: Option<Vec<IpNet>>,
}

/// What made a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort` on an address of this node.
    NodePort,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

/// What a first packet to a frontend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Choice {
    /// A backend of this set.
    Set(u16),
    /// A refusal: TCP reset, ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
}

/// The kinds of pod ports. vhost-user, ethdev, tap and memif join here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortKind {
    /// A veth pair; the dataplane takes its host end.
    Veth {
        /// Name of the host end in the node's namespace.
        host_ifname: String,
    },
}

mod policy;
mod split;

pub use policy::{Address, EndpointPolicy, Net, Peers, PortRange, Rule, RuleAction, RuleSet, Tier};
pub use split::{TooLarge, fits, upsert};
