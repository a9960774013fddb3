//! What a Node object says that matters here, checked by itself.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::k8s::{Node, Taint};

/// The family of the addresses between nodes, the same in the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Whether `address` is of this family.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Family::Ipv4)
    }

    /// Bytes that the overlay adds to a pod's packet: outer IP, UDP (8), VXLAN (8) and the inner Ethernet header (14)
    /// (RFC 7348 section 5).
    pub fn overhead(self) -> u16 {
        match self {
            Family::Ipv4 => 20 + 8 + 8 + 14,
            Family::Ipv6 => 40 + 8 + 8 + 14,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ipv4" => Ok(Family::Ipv4),
            "ipv6" => Ok(Family::Ipv6),
            _ => Err(format!("\"{text}\" is no family of addresses: ipv4 or ipv6")),
        }
    }
}

/// What the dataplanes need to know of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its first InternalIP of the underlay's family.
    pub vtep: IpAddr,
    /// All its InternalIPs, sorted. ExternalIPs are often translated on the way and are not the node's own.
    pub addresses: Vec<IpAddr>,
    /// The first InternalIP of each family.
    pub primary: Vec<IpAddr>,
    /// Its zone (label `topology.kubernetes.io/zone`); empty where it has none.
    pub zone: String,
    /// Its pods' ranges, at most one of each family, IPv4 first; empty while no controller has given it any.
    pub pod_cidrs: Vec<IpNet>,
    /// Who keeps what two nodes claim: the older one (RFC 3339 text; later than all where it is not stated).
    pub created: String,
}

/// What this node's own object says of the node's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// The object's UID; empty where it states none.
    pub uid: String,
    /// Whether somebody asked for its end.
    pub deleted: bool,
    /// Its taints.
    pub taints: Vec<Taint>,
}

/// The cluster autoscaler's mark of a node that it is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

impl OwnNode {
    /// What `node` says.
    pub fn of(node: &Node) -> OwnNode {
        OwnNode {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            deleted: node.metadata.deletion_timestamp.is_some(),
            taints: node.spec.taints.clone().unwrap_or_default(),
        }
    }

    /// Whether the node is being removed: load balancers should send it nothing new.
    pub fn is_going(&self) -> bool {
        self.deleted || self.taints.iter().any(|taint| taint.key == TO_BE_DELETED)
    }
}

/// The least room of a range, in bits: the network, the node's own address, one pod (and IPv4's broadcast).
const MIN_HOST_BITS: u8 = 2;
/// The label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The longest name, in bytes (a DNS subdomain, RFC 1123).
const MAX_NAME: usize = 253;

impl NodeFacts {
    /// Checks a Node by itself; the error says what is wrong with it and what to do.
    pub fn of(node: &Node, underlay: Family) -> Result<NodeFacts, String> {
        let name = &node.metadata.name;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{name:?} is no name of a node"));
        }
        let pod_cidrs = pod_cidrs(node)?;
        let listed = internal_ips(node)?;
        let vtep = *listed.iter().find(|a| underlay.has(**a)).ok_or_else(|| {
            format!(
                "status.addresses has no InternalIP of family {underlay}, which nodes use between each other: \
                 add one, or choose the other family for the whole cluster (--underlay)"
            )
        })?;
        let first = |family: Family| listed.iter().copied().find(|address| family.has(*address));
        let primary = [Family::Ipv4, Family::Ipv6].into_iter().filter_map(first).collect();
        let mut addresses = listed;
        addresses.sort_unstable();
        addresses.dedup();
        for net in &pod_cidrs {
            if let Some(address) = addresses.iter().find(|a| net.contains(*a)) {
                return Err(format!("spec.podCIDRs: {net} contains {address}, the node's own address"));
            }
        }
        // "~" sorts behind every digit.
        let created = node.metadata.creation_timestamp.clone().unwrap_or_else(|| "~".into());
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default();
        Ok(NodeFacts { vtep, addresses, primary, zone, pod_cidrs, created })
    }
}

fn internal_ips(node: &Node) -> Result<Vec<IpAddr>, String> {
    let stated = node.status.addresses.iter().flatten().filter(|a| a.kind == "InternalIP");
    stated.map(|a| unicast("status.addresses", &a.address)).collect()
}

fn unicast(field: &str, text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("{field}: \"{text}\" is no IP address"))?;
    if is_unicast(address) { Ok(address) } else { Err(format!("{field}: {address} is no address of a host")) }
}

/// Whether a node or a pod can have the address and be reached by it from other nodes.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    let special = address.is_multicast() || address.is_unspecified() || address.is_loopback();
    !special
        && match address {
            // From 240.0.0.0 on reserved (RFC 1112 section 4): the dataplane forwards nothing there.
            IpAddr::V4(v4) => !v4.is_link_local() && (1..240).contains(&v4.octets()[0]),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

fn pod_cidrs(node: &Node) -> Result<Vec<IpNet>, String> {
    let listed = node.spec.pod_cidrs.as_deref().unwrap_or_default();
    // `podCIDR` is the first of `podCIDRs`, and all there is in objects of before 1.16.
    let listed = if listed.is_empty() { node.spec.pod_cidr.as_slice() } else { listed };
    let mut ranges: Vec<IpNet> = Vec::new();
    for text in listed.iter().filter(|text| !text.is_empty()) {
        let net = pod_cidr(text)?;
        if let Some(other) = ranges.iter().find(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) {
            return Err(format!("spec.podCIDRs: {net} is of the same family as {other}: one of each is supported"));
        }
        ranges.push(net);
    }
    ranges.sort_unstable_by_key(|net| net.addr());
    Ok(ranges)
}

fn pod_cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet =
        text.parse().map_err(|_| format!("spec.podCIDRs: \"{text}\" is no range such as 10.244.1.0/24"))?;
    if net.trunc() != net {
        return Err(format!("spec.podCIDRs: {net} has bits set behind its prefix: {} is meant?", net.trunc()));
    }
    if !is_unicast(net.network()) || !is_unicast(net.broadcast()) && net.addr().is_ipv4() {
        return Err(format!("spec.podCIDRs: {net} is no range of addresses that pods can have"));
    }
    if net.max_prefix_len() - net.prefix_len() < MIN_HOST_BITS {
        return Err(format!("spec.podCIDRs: {net} has no room for a pod: /30 or /126 is the least"));
    }
    Ok(net)
}
