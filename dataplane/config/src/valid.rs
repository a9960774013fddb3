//! Validated configuration: what the dataplane keeps and compiles.
//!
//! [`Assembler`] turns a stream of messages into whole transactions; [`State::apply`] checks a transaction against
//! what is in force and either replaces it all or changes nothing. Whoever holds a [`State`] need not check again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podplane_packet::id::{Mac, PortId, Vni};

use crate::v1;

/// The most peers that a node can have: what a FIB's next hop can name.
pub const MAX_PEERS: usize = 16 * 1024;
/// The most endpoints that a node can have.
pub const MAX_ENDPOINTS: usize = PortId::MAX - PortId::FIRST_POD.index();
/// The most messages of one transaction: every object that can exist, removed and made again.
const MAX_TRANSACTION: usize = 2 * (MAX_PEERS + MAX_ENDPOINTS + 1);
/// The least MTU with which IPv6 works (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// The longest name of a node or an endpoint, in bytes.
const MAX_NAME: usize = 512;
/// The longest name of a network interface, in bytes (`IFNAMSIZ` less the terminator).
const MAX_IFNAME: usize = 15;

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
}

/// A whole transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Its generation.
    pub generation: u64,
    full: bool,
    /// The last word on each object: `None` removes it.
    changes: BTreeMap<v1::Key, Option<v1::Object>>,
}

impl Transaction {
    /// Whether it is a full synchronisation: what it does not name is removed.
    pub fn is_full(&self) -> bool {
        self.full
    }
}

/// Collects messages into transactions.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Transaction>,
    messages: usize,
}

/// A message that cannot stand where it stands: the agent is broken, and the connection must be given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// A change or a commit without `Begin`.
    #[error("a change outside of a transaction")]
    NotOpen,
    /// `Begin` inside a transaction.
    #[error("a transaction inside of transaction {0}")]
    Nested(u64),
    /// `Commit` of another generation.
    #[error("transaction {open} was closed as {closed}")]
    OtherGeneration {
        /// That of `Begin`.
        open: u64,
        /// That of `Commit`.
        closed: u64,
    },
    /// More messages than objects can exist.
    #[error("a transaction of more than {MAX_TRANSACTION} messages")]
    TooLong,
}

impl Assembler {
    /// Takes the next message; answers the transaction that it completes.
    pub fn message(&mut self, message: v1::ToDataplane) -> Result<Option<Transaction>, OutOfOrder> {
        match (message, &mut self.open) {
            (v1::ToDataplane::Begin { .. }, Some(open)) => Err(OutOfOrder::Nested(open.generation)),
            (v1::ToDataplane::Begin { generation, full }, None) => {
                self.open = Some(Transaction { generation, full, changes: BTreeMap::new() });
                self.messages = 0;
                Ok(None)
            }
            (_, None) => Err(OutOfOrder::NotOpen),
            (v1::ToDataplane::Commit { generation }, Some(open)) if generation == open.generation => {
                Ok(self.open.take())
            }
            (v1::ToDataplane::Commit { generation }, Some(open)) => {
                Err(OutOfOrder::OtherGeneration { open: open.generation, closed: generation })
            }
            (v1::ToDataplane::Upsert(object), Some(open)) => {
                open.changes.insert(key_of(&object), Some(object));
                self.count()
            }
            (v1::ToDataplane::Delete(key), Some(open)) => {
                open.changes.insert(key, None);
                self.count()
            }
        }
    }

    fn count(&mut self) -> Result<Option<Transaction>, OutOfOrder> {
        self.messages += 1;
        if self.messages > MAX_TRANSACTION { Err(OutOfOrder::TooLong) } else { Ok(None) }
    }
}

fn key_of(object: &v1::Object) -> v1::Key {
    match object {
        v1::Object::Local(_) => v1::Key::Local,
        v1::Object::Peer(peer) => v1::Key::Peer(peer.name.clone()),
        v1::Object::Endpoint(endpoint) => v1::Key::Endpoint(endpoint.id.clone()),
    }
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// This node; without it nothing is forwarded for pods.
    pub local: Option<LocalNode>,
    /// The other nodes by name.
    pub peers: BTreeMap<String, Peer>,
    /// The endpoints by identity.
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl State {
    /// The state after `transaction`, or why it is refused; `self` is what it was in both cases.
    pub fn apply(&self, transaction: &Transaction) -> Result<State, Refusal> {
        let mut next = if transaction.full { State::default() } else { self.clone() };
        for (key, object) in &transaction.changes {
            next.change(key, object.as_ref())?;
        }
        next.check()?;
        Ok(next)
    }

    fn change(&mut self, key: &v1::Key, object: Option<&v1::Object>) -> Result<(), Refusal> {
        match (key, object) {
            (_, Some(v1::Object::Local(raw))) => self.local = Some(local(raw)?),
            (_, Some(v1::Object::Peer(raw))) => {
                self.peers.insert(raw.name.clone(), peer(raw)?);
            }
            (_, Some(v1::Object::Endpoint(raw))) => {
                self.endpoints.insert(raw.id.clone(), endpoint(raw)?);
            }
            (v1::Key::Local, None) => self.local = None,
            (v1::Key::Peer(name), None) => {
                self.peers.remove(name);
            }
            (v1::Key::Endpoint(id), None) => {
                self.endpoints.remove(id);
            }
        }
        Ok(())
    }

    /// What no object can know of itself.
    fn check(&self) -> Result<(), Refusal> {
        if self.peers.len() > MAX_PEERS {
            return refuse("nodes", format!("{} peers; this dataplane takes {MAX_PEERS}", self.peers.len()));
        }
        if self.endpoints.len() > MAX_ENDPOINTS {
            return refuse("endpoints", format!("{}; this node takes {MAX_ENDPOINTS}", self.endpoints.len()));
        }
        self.check_nodes()?;
        self.check_endpoints()
    }

    fn check_nodes(&self) -> Result<(), Refusal> {
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut ranges: Vec<(IpNet, String)> = Vec::new();
        let local = self.local.iter().map(|n| (format!("this node ({})", n.name), n.vtep, &n.addresses, n.pod_cidrs));
        let peers = self.peers.iter().map(|(name, p)| (format!("node {name}"), p.vtep, &p.addresses, p.pod_cidrs));
        for (name, vtep, addresses, cidrs) in local.chain(peers) {
            if let Some(local) = self.local.as_ref().filter(|local| local.vtep.is_ipv4() != vtep.is_ipv4()) {
                return refuse(name, format!("its VTEP {vtep} is not of the family of ours, {}", local.vtep));
            }
            for &address in addresses {
                if let Some(owner) = owners.insert(address, name.clone()) {
                    return refuse(name, format!("its address {address} is also that of {owner}"));
                }
            }
            ranges.extend(cidrs.iter().map(|net| (net, name.clone())));
        }
        check_ranges(ranges, &owners)
    }

    fn check_endpoints(&self) -> Result<(), Refusal> {
        let mut owners = BTreeMap::new();
        let mut devices = BTreeMap::new();
        let nodes = self.local.iter().flat_map(|n| n.addresses.iter().copied().chain(n.pod_cidrs.gateways().iter()));
        for address in nodes.chain(self.peers.values().flat_map(|p| p.addresses.iter().copied())) {
            owners.insert(address, "a node");
        }
        for (id, endpoint) in &self.endpoints {
            for address in endpoint.addresses.iter() {
                if let Some(owner) = owners.insert(address, id) {
                    return refuse(format!("endpoint {id}"), format!("its address {address} is also that of {owner}"));
                }
            }
            let v1::PortKind::Veth { host_ifname } = &endpoint.port;
            if let Some(other) = devices.insert(host_ifname, id) {
                return refuse(format!("endpoint {id}"), format!("its device {host_ifname} is also that of {other}"));
            }
        }
        Ok(())
    }
}

/// Ranges of pods overlap neither each other nor any node's address.
fn check_ranges(mut ranges: Vec<(IpNet, String)>, nodes: &BTreeMap<IpAddr, String>) -> Result<(), Refusal> {
    // Sorted by network, an overlap is always with the widest range that began before.
    ranges.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    for pair in ranges.windows(2) {
        let ((before, owner), (net, name)) = (&pair[0], &pair[1]);
        if before.contains(&net.network()) {
            return refuse(name, format!("its pods' range {net} overlaps {before} of {owner}"));
        }
    }
    for (net, name) in &ranges {
        if let Some((address, owner)) = nodes.range(net.network()..=net.broadcast()).next() {
            return refuse(name, format!("its pods' range {net} contains {address}, an address of {owner}"));
        }
    }
    Ok(())
}

fn name(object: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return refuse(object, format!("{name:?} is no name: 1 to {MAX_NAME} bytes without control characters"));
    }
    Ok(())
}

/// An address that a host can have.
fn unicast(object: &str, address: IpAddr) -> Result<IpAddr, Refusal> {
    let bad = address.is_multicast()
        || address.is_unspecified()
        || address.is_loopback()
        || match address {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
    if bad { refuse(object, format!("{address} is no address that a node or a pod can have")) } else { Ok(address) }
}

fn node_addresses(object: &str, vtep: IpAddr, raw: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    let mut addresses = raw.iter().map(|&a| unicast(object, a)).collect::<Result<Vec<_>, _>>()?;
    addresses.sort_unstable();
    addresses.dedup();
    if !addresses.contains(&vtep) {
        return refuse(object, format!("its VTEP {vtep} is none of its addresses"));
    }
    Ok(addresses)
}

fn pod_cidrs(object: &str, raw: &[IpNet]) -> Result<Ranges, Refusal> {
    let mut ranges = Ranges::default();
    for net in raw {
        unicast(object, net.network())?;
        if net.max_prefix_len() - net.prefix_len() < 2 {
            return refuse(object, format!("the pods' range {net} has no room for a pod: /30 or /126 is the least"));
        }
        let twice = match net {
            IpNet::V4(net) => ranges.v4.replace(net.trunc()).is_some(),
            IpNet::V6(net) => ranges.v6.replace(net.trunc()).is_some(),
        };
        if twice {
            return refuse(object, format!("{net} is a second range of the same family: one of each is supported"));
        }
    }
    Ok(ranges)
}

fn local(raw: &v1::LocalNode) -> Result<LocalNode, Refusal> {
    let object = format!("this node ({})", raw.name);
    name(&object, &raw.name)?;
    let vni = Vni::try_from(raw.vni).or_else(|e| refuse(&object, e.to_string()))?;
    // The network after ours is that of entry nodes.
    if vni.get() == 0 || Vni::try_from(vni.get() + 1).is_err() {
        return refuse(&object, format!("VNI {} cannot be used: 1 to 16777214 can", raw.vni));
    }
    if raw.pod_mtu < MIN_MTU {
        return refuse(&object, format!("a pods' MTU of {} is below {MIN_MTU}, the least for IPv6", raw.pod_mtu));
    }
    Ok(LocalNode {
        name: raw.name.clone(),
        vtep: raw.vtep,
        addresses: node_addresses(&object, raw.vtep, &raw.addresses)?,
        pod_cidrs: pod_cidrs(&object, &raw.pod_cidrs)?,
        vni,
        pod_mtu: raw.pod_mtu,
    })
}

fn peer(raw: &v1::Peer) -> Result<Peer, Refusal> {
    let object = format!("node {}", raw.name);
    name(&object, &raw.name)?;
    Ok(Peer {
        vtep: raw.vtep,
        addresses: node_addresses(&object, raw.vtep, &raw.addresses)?,
        pod_cidrs: pod_cidrs(&object, &raw.pod_cidrs)?,
    })
}

fn endpoint(raw: &v1::Endpoint) -> Result<Endpoint, Refusal> {
    let object = format!("endpoint {}", raw.id);
    name(&object, &raw.id)?;
    let v1::PortKind::Veth { host_ifname } = &raw.port;
    if host_ifname.is_empty() || host_ifname.len() > MAX_IFNAME || host_ifname.contains(['/', ' ', '\n', '\0']) {
        return refuse(object, format!("{host_ifname:?} is no name of a network interface"));
    }
    let mac = Mac(raw.mac);
    if mac.is_group() || mac == Mac::default() || mac == Mac::GATEWAY {
        return refuse(object, format!("{mac} is no address that a pod can have"));
    }
    let mut addresses = Addresses::default();
    for &address in &raw.addresses {
        let twice = match unicast(&object, address)? {
            IpAddr::V4(v4) => addresses.v4.replace(v4).is_some(),
            IpAddr::V6(v6) => addresses.v6.replace(v6).is_some(),
        };
        if twice {
            return refuse(object, format!("{address} is a second address of the same family"));
        }
    }
    if addresses.iter().next().is_none() {
        return refuse(object, "it has no address");
    }
    Ok(Endpoint { pod: raw.pod.clone(), port: raw.port.clone(), mac, addresses })
}

#[cfg(test)]
mod tests;
