//! What an agent is told once, and what of the node's own traffic concerns the dataplane.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1;

use crate::node::Family;
use crate::surroundings::NodePortAddresses;

/// What does not change while an agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this node's Node object.
    pub node: String,
    /// The family of the addresses between nodes, the same in the whole cluster.
    pub underlay: Family,
    /// The VXLAN network of the cluster.
    pub vni: u32,
    /// First and last node port, the API server's `--service-node-port-range`.
    pub node_ports: (u16, u16),
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Whether `spec.externalIPs` are served: whoever may make a Service can then catch any address's traffic
    /// (CVE-2020-8554).
    pub external_ips: bool,
    /// Ranges of ClusterIPs where there is no ServiceCIDR object.
    pub service_cidrs: Vec<IpNet>,
    /// Where pods go under their own address beside pods, nodes and Services.
    pub no_masquerade: Vec<IpNet>,
    /// First and last port for what leaves the cluster; apart from the node ports.
    pub masquerade_ports: (u16, u16),
}

impl Settings {
    /// Those of a cluster that changes no default.
    pub fn new(node: impl Into<String>, underlay: Family, vni: u32) -> Settings {
        Settings {
            node: node.into(),
            underlay,
            vni,
            node_ports: (30_000, 32_767),
            node_port_addresses: NodePortAddresses::Primary,
            external_ips: false,
            service_cidrs: Vec::new(),
            no_masquerade: Vec::new(),
            masquerade_ports: (55_000, 65_535),
        }
    }

    /// The key of Maglev's hashes: alike on all nodes, and no secret, for what it decides is only which backend.
    pub(crate) fn cluster_seed(&self) -> [u64; 2] {
        [u64::from_be_bytes(*b"podplane"), self.vni.into()]
    }
}

/// What of this node's own traffic has to be led to the dataplane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTraffic {
    /// Ranges of ClusterIPs.
    pub service_cidrs: Vec<IpNet>,
    /// This node's addresses.
    pub addresses: Vec<IpAddr>,
    /// Those that serve node ports.
    pub node_port_addresses: Vec<IpAddr>,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// First and last port for what leaves the cluster.
    pub masquerade_ports: (u16, u16),
    /// What load balancers' and external addresses serve; without those of other nodes, which the underlay needs and
    /// which serve it themselves.
    pub outer: BTreeSet<(IpAddr, v1::Protocol, u16)>,
    /// Host ports in force: one without an address is served at `addresses` and 127.0.0.1.
    pub host_ports: BTreeSet<(Option<IpAddr>, v1::Protocol, u16)>,
}
