//! What Services are judged by beside themselves: this node, the ranges of ClusterIPs, the pods' host ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use podplane_config::v1::{Endpoint, HostPort, Protocol};

use crate::k8s::ServiceCidr;
use crate::node::{NodeFacts, is_unicast};
use crate::nodes::Resolved;
use crate::settings::Settings;

/// At which of the node's addresses node ports are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first address of each family, as kube-proxy's nftables mode.
    #[default]
    Primary,
    /// Those in these ranges.
    Within(Vec<IpNet>),
}

impl std::str::FromStr for NodePortAddresses {
    type Err = String;

    /// `primary`, or ranges separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "primary" {
            return Ok(NodePortAddresses::Primary);
        }
        let nets = text.split(',').map(|net| net.trim().parse::<IpNet>().map(|net| net.trunc()));
        let nets: Result<Vec<_>, _> = nets.collect();
        nets.map(NodePortAddresses::Within)
            .map_err(|_| format!("\"{text}\": \"primary\" or ranges such as 192.0.2.0/24,fd00::/64 are expected"))
    }
}

/// What Services are judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The node's zone; empty where it has none.
    pub(crate) zone: String,
    /// All addresses of the node.
    pub(crate) addresses: Vec<IpAddr>,
    /// The first of each family.
    pub(crate) primary: Vec<IpAddr>,
    /// Those that serve node ports.
    pub(crate) node_port_addresses: Vec<IpAddr>,
    /// Ranges of ClusterIPs.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// For what leaves the cluster, at `primary`.
    pub(crate) masquerade_ports: (u16, u16),
    /// The pods' host ports.
    pub(crate) host_ports: HostPorts,
}

impl Surroundings {
    pub(crate) fn of(settings: &Settings, node: Option<&NodeFacts>, service_cidrs: Vec<IpNet>) -> Surroundings {
        let Some(node) = node else { return Surroundings { service_cidrs, ..Surroundings::default() } };
        let node_port_addresses = match &settings.node_port_addresses {
            NodePortAddresses::Primary => node.primary.clone(),
            NodePortAddresses::Within(nets) => {
                let within = |address: &&IpAddr| nets.iter().any(|net| net.contains(*address));
                node.addresses.iter().filter(within).copied().collect()
            }
        };
        Surroundings {
            zone: node.zone.clone(),
            addresses: node.addresses.clone(),
            primary: node.primary.clone(),
            node_port_addresses,
            service_cidrs,
            masquerade_ports: settings.masquerade_ports,
            host_ports: HostPorts::default(),
        }
    }

    /// Whether an address and port are for what leaves the cluster.
    pub(crate) fn masquerades(&self, address: IpAddr, port: u16) -> bool {
        let (first, last) = self.masquerade_ports;
        (first..=last).contains(&port) && self.primary.contains(&address)
    }

    /// Why a host port cannot be had: it lies in the range for what leaves the cluster.
    pub(crate) fn host_port_problem(&self, port: &HostPort) -> Option<String> {
        let at = |address: &IpAddr| port.address.is_none_or(|own| own == *address);
        let hit =
            self.primary.iter().filter(|address| at(address)).any(|address| self.masquerades(*address, port.port));
        let (first, last) = self.masquerade_ports;
        hit.then(|| {
            format!(
                "host port {} lies within {first} to {last}, the node's ports for what leaves the cluster: choose \
                 another, or move them with the agent's --masquerade-ports",
                port.port
            )
        })
    }
}

/// Who has which host port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostPorts(BTreeMap<(Protocol, u16), Vec<HostPortHolder>>);

/// Where (`None`: at all of the node's addresses), and its name for people.
type HostPortHolder = (Option<IpAddr>, String);

impl HostPorts {
    /// Who serves a port at an address, as a person would name it.
    pub(crate) fn holder(&self, address: IpAddr, own: &[IpAddr], protocol: Protocol, port: u16) -> Option<&str> {
        let everywhere = is_everywhere(address, own);
        let holders = self.0.get(&(protocol, port))?;
        let hit = holders.iter().find(|(at, _)| at.map_or(everywhere, |at| at == address));
        hit.map(|(_, name)| name.as_str())
    }

    /// Who has a port that `wanted` would need.
    pub(crate) fn conflict(&self, wanted: &HostPort, own: &[IpAddr]) -> Option<&str> {
        let holders = self.0.get(&(wanted.protocol, wanted.port))?;
        let overlap = |at: &Option<IpAddr>| match (*at, wanted.address) {
            (Some(at), Some(address)) => at == address,
            (None, None) => true,
            (None, Some(address)) | (Some(address), None) => is_everywhere(address, own),
        };
        holders.iter().find(|(at, _)| overlap(at)).map(|(_, name)| name.as_str())
    }

    pub(crate) fn add(&mut self, endpoint: &Endpoint, port: &HostPort) {
        let name = if endpoint.pod.is_empty() { &endpoint.id } else { &endpoint.pod };
        self.0.entry((port.protocol, port.port)).or_default().push((port.address, name.clone()));
    }

    /// The ports that are held here or there, but not alike.
    pub(crate) fn differ(&self, other: &HostPorts) -> Vec<(Protocol, u16)> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).copied().collect();
        keys.into_iter().filter(|key| self.0.get(key) != other.0.get(key)).collect()
    }
}

/// Whether a host port without an address is served there.
fn is_everywhere(address: IpAddr, own: &[IpAddr]) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST) || own.contains(&address)
}

/// What a ServiceCIDR says, checked by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CidrFacts {
    nets: Vec<IpNet>,
}

impl CidrFacts {
    pub(crate) fn of(cidr: &ServiceCidr) -> Result<CidrFacts, String> {
        let mut nets = Vec::new();
        for text in cidr.spec.cidrs.iter().flatten() {
            let net: IpNet =
                text.parse().map_err(|_| format!("spec.cidrs: \"{text}\" is no range such as 10.96.0.0/16"))?;
            if !is_unicast(net.network()) || net.prefix_len() == 0 {
                return Err(format!("spec.cidrs: {net} is no range of addresses that Services can have"));
            }
            nets.push(net.trunc());
        }
        Ok(CidrFacts { nets })
    }
}

/// The name under which the ranges of the command line are refused.
pub(crate) const FALLBACK: &str = "--service-cidr";

/// The ranges in force, sorted, and why others are not, by name. What pods and nodes have is theirs.
pub(crate) fn service_cidrs(
    stated: &BTreeMap<String, CidrFacts>,
    fallback: &[IpNet],
    nodes: &Resolved,
) -> (Vec<IpNet>, BTreeMap<String, String>) {
    let mut refused = BTreeMap::new();
    let mut nets = Vec::new();
    let own = stated.iter().flat_map(|(name, facts)| facts.nets.iter().map(move |net| (name.as_str(), *net)));
    // Kubernetes before 1.33 has no such objects, a folder may have none.
    let fallback = fallback.iter().map(|net| (FALLBACK, net.trunc())).filter(|_| stated.is_empty());
    for (name, net) in own.chain(fallback) {
        match nodes.within(&net) {
            Some(what) => drop(refused.insert(name.to_owned(), format!("{net} contains {what}"))),
            None => nets.push(net),
        }
    }
    nets.sort_unstable();
    nets.dedup();
    (nets, refused)
}
