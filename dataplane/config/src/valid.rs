//! Validated configuration: what the dataplane keeps and compiles.
//!
//! [`Assembler`] turns a stream of messages into whole transactions; [`State::apply`] checks a transaction against
//! what is in force and either replaces it all or changes nothing. Whoever holds a [`State`] need not check again.
//!
//! A state is cheap to copy, for copies share what is alike (persistent maps), and only what a transaction touches is
//! checked: one Service of ten thousand costs microseconds.

mod objects;
mod policy;
mod service;
mod state;
mod transaction;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podplane_packet::id::{Mac, PortId, Vni};

use crate::v1;

pub use policy::Policy;
pub use service::{Service, ServicePort};
pub use state::{Claim, State};
pub use transaction::{Assembler, MAX_TRANSACTION_BYTES, OutOfOrder, Transaction, object_bytes};

/// The most peers that a node can have: what a FIB's next hop can name.
pub const MAX_PEERS: usize = 16 * 1024;
/// The most endpoints that a node can have.
pub const MAX_ENDPOINTS: usize = PortId::MAX - PortId::FIRST_POD.index();
/// The most Services.
pub const MAX_SERVICES: usize = 128 * 1024;
/// The most frontends of all Services together.
pub const MAX_FRONTENDS: usize = 1 << 20;
/// The most backends of all sets of all Services together: each costs some 200 bytes of Maglev's tables.
pub const MAX_BACKENDS: usize = 2 << 20;
/// The most backends of all sets of one port of a Service.
pub const MAX_BACKENDS_PER_PORT: usize = 32 * 1024;
/// The most addresses with a known owner.
pub const MAX_ADDRESSES: usize = 512 * 1024;
/// The most selectors and bindings of named ports that match one address.
pub const MAX_SELECTORS: usize = 64 * 1024;
/// The most matches of addresses and selectors: what all addresses together have.
pub const MAX_MATCHES: usize = 32 << 20;
/// The most rules.
pub const MAX_RULES: usize = 256 * 1024;
/// The most selectors of one rule.
pub const MAX_SELECTORS_PER_RULE: usize = 16 * 1024;
/// The most nets of one rule, those that are left out of others included.
pub const MAX_NETS_PER_RULE: usize = 32 * 1024;
/// The most ranges of ports of one rule.
pub const MAX_PORTS_PER_RULE: usize = 16 * 1024;
/// The most rule sets.
pub const MAX_RULE_SETS: usize = 128 * 1024;
/// The most rules of one rule set: what a row of the tables' bits has room for.
pub const MAX_RULES_PER_SET: usize = 28 * 1024;
/// The most rules of all rule sets together.
pub const MAX_RULE_USES: usize = 8 << 20;
/// What all owners, rules and rule sets may take of [`MAX_TRANSACTION_BYTES`] ([`object_bytes`]): a full synchronisation
/// is one transaction, and Services need room, too.
pub const MAX_POLICY_BYTES: usize = 192 << 20;
/// The most host ports of one endpoint.
pub const MAX_HOST_PORTS: usize = 1024;
/// The least MTU with which IPv6 works (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// The fewest ports to masquerade with: one for each worker that can be.
pub const MIN_MASQUERADE_PORTS: usize = 64;
/// The longest list of networks of a node.
const MAX_NETWORKS: usize = 4096;

/// Why a transaction was refused whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct Refusal {
    /// The object, as a person would name it.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

fn refuse<T>(object: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { object: object.into(), reason: reason.into() })
}

/// A pair that may have either or both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerFamily<A, B> {
    /// IPv4.
    pub v4: Option<A>,
    /// IPv6.
    pub v6: Option<B>,
}

// Not derived: the derive would ask the same of the addresses.
impl<A, B> Default for PerFamily<A, B> {
    fn default() -> Self {
        PerFamily { v4: None, v6: None }
    }
}

/// At most one address of each family.
pub type Addresses = PerFamily<Ipv4Addr, Ipv6Addr>;
/// At most one range of each family.
pub type Ranges = PerFamily<Ipv4Net, Ipv6Net>;

impl Addresses {
    /// Those that are there.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Whether there is one of the family of `other`.
    pub fn has_family_of(&self, other: IpAddr) -> bool {
        self.of_family(other).is_some()
    }

    /// The one of the family of `other`.
    pub fn of_family(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// Adds one; `Err`: there is one of its family already.
    fn add(&mut self, address: IpAddr) -> Result<(), ()> {
        let twice = match address {
            IpAddr::V4(v4) => self.v4.replace(v4).is_some(),
            IpAddr::V6(v6) => self.v6.replace(v6).is_some(),
        };
        if twice { Err(()) } else { Ok(()) }
    }
}

impl Ranges {
    /// Those that are there.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// The node's own address in each range: the network's + 1.
    pub fn gateways(&self) -> Addresses {
        Addresses {
            v4: self.v4.map(|net| Ipv4Addr::from(u32::from(net.network()) + 1)),
            v6: self.v6.map(|net| Ipv6Addr::from(u128::from(net.network()) + 1)),
        }
    }
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// All its addresses, the VTEP included, sorted, each once.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    pub pod_cidrs: Ranges,
    /// The VXLAN network.
    pub vni: Vni,
    /// The pods' MTU in bytes.
    pub pod_mtu: u16,
    /// Ranges of ClusterIPs, sorted, each once. None contains a node's address or touches a pods' range.
    pub service_cidrs: Vec<IpNet>,
    /// Where pods go under their own address beside pods, nodes and Services, sorted, each once.
    pub no_masquerade: Vec<IpNet>,
    /// What leaves the cluster gets these; `None`: nothing leaves.
    pub masquerade: Option<Masquerade>,
    /// The key of Maglev's hashes.
    pub cluster_seed: [u64; 2],
}

/// Addresses and ports for what leaves the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Own addresses, at least one.
    pub addresses: Addresses,
    /// First port, not 0.
    pub first: u16,
    /// Last port; there are at least [`MIN_MASQUERADE_PORTS`].
    pub last: u16,
}

impl Masquerade {
    /// Whether this address and port are for what leaves the cluster.
    pub fn has(&self, address: IpAddr, port: u16) -> bool {
        (self.first..=self.last).contains(&port) && self.addresses.of_family(address) == Some(address)
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its VTEP, of the family of ours.
    pub vtep: IpAddr,
    /// All its addresses, sorted, each once.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    pub pod_cidrs: Ranges,
}

/// A pod's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// "namespace/name", or empty.
    pub pod: String,
    /// The device.
    pub port: v1::PortKind,
    /// The pod's Ethernet address: unicast, not the gateway's.
    pub mac: Mac,
    /// The pod's addresses, at least one.
    pub addresses: Addresses,
    /// Ports of the node that lead to it; an address, if given, is of a family that the pod has.
    pub host_ports: Vec<v1::HostPort>,
    /// The rules that it has; the rule sets are there.
    pub policy: v1::EndpointPolicy,
}

#[cfg(test)]
mod tests;
