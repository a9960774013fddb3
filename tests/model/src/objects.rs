//! A cluster as plain data, and its objects as an API server would return them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

/// A protocol of a Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// As Kubernetes writes it: TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub const fn text(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Its InternalIPs, one of each family.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A pod's `hostPort`, at all addresses of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The pod's node.
    pub node: usize,
    /// Its protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    /// The pod's addresses, one of each family, and its port.
    pub backends: Vec<SocketAddr>,
}

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the Service's addresses; 65536 is a mistake that makes the whole object one.
    pub port: u32,
    /// The port at the nodes' addresses.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Minutes after some hour: who is older keeps what two claim.
    pub created: u8,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    pub kind: &'static str,
    /// `clusterIP: None`.
    pub headless: bool,
    /// A label that leaves it to others.
    pub label: Option<&'static str>,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// `sessionAffinity: ClientIP` with this timeout in seconds.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `status.loadBalancer.ingress`; `false`: `ipMode: Proxy`.
    pub ingress: Vec<(IpAddr, bool)>,
    /// `loadBalancerSourceRanges`.
    pub ranges: Vec<IpNet>,
    /// `externalIPs`.
    pub external_ips: Vec<IpAddr>,
}

impl Service {
    /// Whether it is served by addresses and ports at all, and by us.
    pub fn is_served(&self) -> bool {
        self.kind != "ExternalName" && !self.headless && self.label.is_none() && !self.cluster_ips.is_empty()
    }

    /// Whether the object as a whole makes no sense: what it said before stays in force. Of what is others' business
    /// nothing is asked.
    pub fn is_mistaken(&self) -> bool {
        self.is_served() && self.ports.iter().any(|port| port.port == 0 || port.port > 65_535)
    }
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its node.
    pub node: Option<usize>,
    /// The three conditions, where they are stated.
    pub ready: Option<bool>,
    /// See `ready`.
    pub serving: Option<bool>,
    /// See `ready`.
    pub terminating: Option<bool>,
    /// `hints.forZones`.
    pub for_zones: Vec<String>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The name of its Service.
    pub service: String,
    /// `addressType: IPv6`.
    pub v6: bool,
    /// Names, protocols and numbers of its ports.
    pub ports: Vec<(String, Protocol, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// All objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Slices by name.
    pub slices: BTreeMap<String, Slice>,
    /// Host ports; no object says them, the plugin's call does.
    pub host_ports: Vec<HostPort>,
    /// Ranges of ClusterIPs.
    pub service_cidrs: Vec<IpNet>,
    /// Whether the agent serves `externalIPs`.
    pub external_ips: bool,
}

/// The namespace of everything that has one.
pub const NAMESPACE: &str = "ns";

/// A Node's text.
pub fn node(node: &Node) -> Value {
    let labels = node.zone.as_ref().map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
    let addresses: Vec<Value> =
        node.addresses.iter().map(|a| json!({"type": "InternalIP", "address": a.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDRs": node.pod_cidrs.iter().map(IpNet::to_string).collect::<Vec<_>>()},
        "status": {"addresses": addresses},
    })
}

/// A ServiceCIDR's text.
pub fn service_cidr(nets: &[IpNet]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": nets.iter().map(IpNet::to_string).collect::<Vec<_>>()},
    })
}

/// A Service's text.
pub fn service(name: &str, s: &Service) -> Value {
    let texts = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let port = |p: &Port| {
        let mut port = json!({"name": p.name, "protocol": p.protocol.text(), "port": p.port});
        if let Some(number) = p.node_port {
            port["nodePort"] = json!(number);
        }
        port
    };
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let mut spec = json!({
        "type": s.kind,
        "clusterIPs": if s.headless { vec!["None".to_owned()] } else { texts(&s.cluster_ips) },
        "ports": s.ports.iter().map(port).collect::<Vec<_>>(),
        "internalTrafficPolicy": policy(s.internal_local),
        "externalTrafficPolicy": policy(s.external_local),
        "loadBalancerSourceRanges": s.ranges.iter().map(IpNet::to_string).collect::<Vec<_>>(),
        "externalIPs": texts(&s.external_ips),
    });
    if let Some(seconds) = s.affinity {
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    let labels = s.label.map_or(json!({}), |label| json!({label: "other"}));
    let ingress: Vec<Value> = s
        .ingress
        .iter()
        .map(|(ip, vip)| json!({"ip": ip.to_string(), "ipMode": if *vip { "VIP" } else { "Proxy" }}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE, "name": name, "labels": labels,
            "creationTimestamp": format!("2026-01-01T00:{:02}:00Z", s.created),
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// An EndpointSlice's text.
pub fn slice(name: &str, s: &Slice, nodes: &[Node]) -> Value {
    let named = |names: &[String]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    let endpoint = |e: &Endpoint| {
        let mut conditions = json!({});
        for (name, value) in [("ready", e.ready), ("serving", e.serving), ("terminating", e.terminating)] {
            if let Some(value) = value {
                conditions[name] = json!(value);
            }
        }
        let mut endpoint = json!({
            "addresses": [e.address.to_string()],
            "conditions": conditions,
            "hints": {"forZones": named(&e.for_zones), "forNodes": named(&e.for_nodes)},
        });
        if let Some(node) = e.node.and_then(|n| nodes.get(n)) {
            endpoint["nodeName"] = json!(node.name);
        }
        endpoint
    };
    let port = |(name, protocol, port): &(String, Protocol, u16)| json!({"name": name, "protocol": protocol.text(), "port": port});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"kubernetes.io/service-name": s.service}},
        "addressType": if s.v6 { "IPv6" } else { "IPv4" },
        "ports": s.ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": s.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
