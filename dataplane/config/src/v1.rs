//! Raw messages, version 1. Encoded with postcard, one message a ring record.
//!
//! A transaction is `Begin`, any number of `Upsert` and `Delete`, `Commit`. It is applied whole or refused whole; the
//! dataplane answers `Applied` once every worker forwards by it, or `Refused` and keeps what it had. In a `full`
//! transaction whatever was not upserted is removed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The version of these messages; the handshake compares it.
pub const API_VERSION: u16 = 1;

/// The longest encoded message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

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
