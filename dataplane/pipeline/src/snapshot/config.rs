//! What control asks for, as plain data, and why it can be refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podplane_packet::id::{Mac, PortId, Vni, WorkerId};
use thiserror::Error;

use podplane_tables::VtepIndex;

use super::MIN_MTU;
use super::policy::{PolicyMap, PortPolicy};
use super::services::{Backend, Masquerade, OutsideConfig, Protocol, ServiceId, ServiceMap};

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortClass {
    /// The other nodes.
    Uplink,
    /// The node's own network stack.
    Host,
    /// A pod.
    Pod,
}

/// A port as workers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// What it leads to.
    pub kind: PortClass,
    /// The worker that receives from it and owns its packets. Never changes while the port lives; control picks it.
    /// Without meaning for the uplink, which every worker receives from.
    pub home: WorkerId,
    /// The Ethernet address behind the port: the pod's, the node's own (host port), the uplink's.
    pub mac: Mac,
    /// The pod's IPv4 address. `None` for uplink and host port.
    pub v4: Option<Ipv4Addr>,
    /// The pod's IPv6 address. `None` for uplink and host port.
    pub v6: Option<Ipv6Addr>,
    /// The longest IP packet that may leave by the port, in bytes.
    pub mtu: u16,
    /// Distinguishes successive users of one index: control gives each new attachment another value.
    pub incarnation: u32,
    /// The pod's rules; none for uplink and host port.
    pub policy: PortPolicy,
}

impl PortEntry {
    /// The pod's addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// An address of the range; host bits are ignored.
    pub addr: IpAddr,
    /// The length in bits, 0 to 32 or 128.
    pub len: u8,
}

/// This node, as control wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConfig {
    /// Our VTEP: one of `addresses`.
    pub vtep: IpAddr,
    /// The node's addresses that other nodes know.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the node's kernel has besides: pods reach them, but no other node knows them. What is none to be
    /// reached, or is a pod's, a peer's or in a ServiceCIDR or pod range, is left out.
    pub unannounced: Vec<IpAddr>,
    /// The node's pod ranges, at most one of each family.
    pub pod_cidrs: Vec<Prefix>,
    /// The VXLAN network.
    pub vni: Vni,
    /// The pods' MTU in bytes.
    pub pod_mtu: u16,
    /// The ranges of ClusterIPs: what no Service has is dropped.
    pub service_cidrs: Vec<Prefix>,
    /// Where pods go under their own addresses, beside pods, nodes and Services.
    pub no_masquerade: Vec<Prefix>,
    /// What is given to that which leaves the cluster. `None`: nothing leaves.
    pub masquerade: Option<Masquerade>,
    /// The key of Maglev's hashes, alike on all nodes.
    pub cluster_seed: [u64; 2],
}

/// Another node, as control wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its VTEP, of the family of ours.
    pub vtep: IpAddr,
    /// All its addresses, the VTEP included or not.
    pub addresses: Vec<IpAddr>,
    /// Its pod ranges.
    pub pod_cidrs: Vec<Prefix>,
    /// The MAC of the next hop towards the VTEP, as the node's kernel resolved it. `None`: not (yet) known.
    pub next_hop: Option<Mac>,
}

/// Everything that a snapshot is compiled from.
#[derive(Clone, Debug, Default)]
pub struct SnapshotConfig {
    /// How many workers forward packets: homes are below it.
    pub workers: u8,
    /// Random key of the cells that remember what changed; taken from the first snapshot.
    pub seed: [u64; 2],
    /// The ports. Without configuration from the agent: uplink and host port.
    pub ports: Vec<(PortId, PortEntry)>,
    /// This node. `None` before the agent was heard: only uplink and host port are joined, at L2.
    pub local: Option<LocalConfig>,
    /// The other nodes.
    pub peers: Vec<PeerConfig>,
    /// All Services.
    pub services: ServiceMap,
    /// The most bytes that the tables which choose among Services' backends may take, those of the snapshot before among
    /// them. `None`: as many as they need.
    pub table_limit: Option<usize>,
    /// The world outside the cluster.
    pub outside: OutsideConfig,
    /// What policy is about; the ports say which rules are whose.
    pub policy: PolicyMap,
}

/// Why a configuration cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// More ports than [`PortId::MAX`], or an index beyond it.
    #[error("port {0:?} is beyond the {max} ports of a node", max = PortId::MAX)]
    PortOutOfRange(PortId),
    /// Two ports of one index.
    #[error("port {0:?} is given twice")]
    PortTwice(PortId),
    /// Index 0 must be the uplink, 1 the host port, the others pods.
    #[error("port {0:?} has the class {1:?}: index 0 is the uplink, 1 the host port, all others are pods")]
    PortClass(PortId, PortClass),
    /// A home that is no worker.
    #[error("port {0:?} has the home {1:?}, but there are {2} workers")]
    Home(PortId, WorkerId, u8),
    /// No worker, or more than [`WorkerId::MAX`].
    #[error("{0} workers: 1 to {max} are possible", max = WorkerId::MAX)]
    Workers(u8),
    /// A pod port without addresses, or another port with addresses.
    #[error("port {0:?}: a pod has one or two addresses, the uplink and the host port have none")]
    PortAddresses(PortId),
    /// An MTU below [`MIN_MTU`] (pods, when IPv6 is used) or below 576.
    #[error("MTU {1} of {0} is too small: at least {min} bytes are needed", min = MIN_MTU)]
    Mtu(String, u16),
    /// An address that two users claim.
    #[error("address {0} is claimed twice")]
    AddressTwice(IpAddr),
    /// An address that no unicast packet may carry.
    #[error("address {0} cannot be a node's, a pod's or a VTEP's")]
    AddressInvalid(IpAddr),
    /// A prefix whose length exceeds the family's, or that two nodes claim.
    #[error("pod range {0:?} is malformed, overlaps another node's, or leaves no address for the node")]
    PrefixInvalid(Prefix),
    /// The local VTEP is not among the node's addresses.
    #[error("our VTEP {0} is not one of the node's addresses")]
    VtepNotLocal(IpAddr),
    /// This node is configured, but there is no uplink.
    #[error("port 0, the uplink, is missing: nothing can be configured without it")]
    NoUplink,
    /// A peer whose VTEP has another family than ours.
    #[error("the VTEP {0} is not of the family of ours, {1}")]
    VtepFamily(IpAddr, IpAddr),
    /// The forwarding table refused the routes.
    #[error("the routes cannot be compiled: {0}")]
    Routes(String),
    /// More peers than [`VtepIndex::MAX`].
    #[error("more than {max} peers", max = VtepIndex::MAX)]
    TooManyPeers,
    /// Two Services with one frontend.
    #[error("{0} port {1}/{2:?} is claimed by {3:?} and by {4:?}; the agent must have settled that before")]
    FrontendTwice(IpAddr, u16, Protocol, ServiceId, ServiceId),
    /// A frontend that no packet may be sent to, with port 0, or that names a set of another family or none at all.
    #[error("{0:?}: the frontend {1} port {2} is no unicast address, has no port, or names no set of its family")]
    FrontendInvalid(ServiceId, IpAddr, u16),
    /// A backend that no packet may be sent to (loopback, link-local: CVE-2021-25740), or without a port.
    #[error("{0:?}: the backend {address} port {port} is no unicast address beyond the link, or has no port", address = .1.address, port = .1.port)]
    BackendInvalid(ServiceId, Backend),
    /// A set that is empty, not sorted, has duplicates, mixes families, or is too large.
    #[error("{0:?}: set {1} is empty, unsorted, of two families or of more than 65535 backends")]
    SetInvalid(ServiceId, usize),
    /// The tables of the Services' backends would take more memory than they may.
    #[error(
        "the tables that choose among Services' backends may take {limit} bytes and have {has}; there is no room for that \
         of a set of {backends} backends: raise the dataplane's --service-memory, or have fewer or smaller Services"
    )]
    ServiceMemory {
        /// How many bytes they may take.
        limit: usize,
        /// How many they have.
        has: usize,
        /// How many backends the set has that found no room.
        backends: usize,
    },
    /// The masquerade addresses or ports cannot be used.
    #[error(
        "masquerade: at most one address a family, each one of the node's, and ports from 1024 on, first not above last"
    )]
    MasqueradeInvalid,
    /// A port whose rules do not exist: open it must not be.
    #[error(
        "port {0:?} is to be judged by rule set {1}, which does not exist; the agent must send both in one transaction"
    )]
    RuleSet(PortId, u32),
    /// Rules uplink and host port cannot have.
    #[error("port {0:?} is no pod and can have no rules")]
    PortPolicy(PortId),
    /// The rules cannot be compiled.
    #[error("the rules of policy cannot be compiled: {0}")]
    Policy(String),
    /// A route of the world outside that has no neighbour, or too many neighbours.
    #[error("outside: the gateway {0} is not among the neighbours, or there are more than {max} of them", max = podplane_tables::fib::NeighbourIndex::MAX)]
    Neighbour(IpAddr),
}
