//! A cluster as plain data, and its objects as an API server would return them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::api::{ClusterNetworkPolicySpec, Labels, NetworkPolicySpec};

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// As Kubernetes writes it.
    pub const fn text(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// Namespace and name.
pub type Name = (String, String);

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its InternalIPs, one of each family.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A port that a container states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// Its protocol; missing is TCP.
    pub protocol: Option<Protocol>,
    /// Its number.
    pub number: u16,
    /// Whose it is.
    pub of: Container,
}

/// A sort of container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// One of `containers`.
    Main,
    /// One of `initContainers` that runs beside the others (`restartPolicy: Always`).
    Sidecar,
    /// One of `initContainers` that is over when the others begin.
    Init,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Its node, by number.
    pub node: usize,
    /// `status.phase`.
    pub phase: &'static str,
    /// Whether it has a `deletionTimestamp`.
    pub terminating: bool,
    /// Whether it has its node's network.
    pub host_network: bool,
    /// `status.podIPs`, at most one of each family.
    pub ips: Vec<IpAddr>,
    /// Ports of its containers.
    pub ports: Vec<ContainerPort>,
}

impl Pod {
    /// Whether it is over although its object is still there: then its addresses may be another's.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }
}

/// A Service with one port and one backend, which is all that policy needs of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `spec.clusterIPs`, one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// The nodes' port.
    pub node_port: u16,
    /// The addresses of its only backend, one of each family, and its port.
    pub backend: Vec<IpAddr>,
    /// See `backend`.
    pub target: u16,
}

/// All objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Nodes; a name is a number.
    pub nodes: BTreeMap<usize, Node>,
    /// Labels of namespaces, without `kubernetes.io/metadata.name`, which the API server adds.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods.
    pub pods: BTreeMap<Name, Pod>,
    /// NetworkPolicies.
    pub policies: BTreeMap<Name, NetworkPolicySpec>,
    /// ClusterNetworkPolicies.
    pub cluster_policies: BTreeMap<String, ClusterNetworkPolicySpec>,
    /// Services of the namespace `services`.
    pub services: BTreeMap<String, Service>,
}

/// One object, by what tells it from others. `Slice` is the EndpointSlice of one family that belongs to a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A node.
    Node(usize),
    /// A namespace.
    Namespace(String),
    /// A pod.
    Pod(Name),
    /// A NetworkPolicy.
    Policy(Name),
    /// A ClusterNetworkPolicy.
    ClusterPolicy(String),
    /// A Service with its EndpointSlices.
    Service(String),
}

impl Cluster {
    /// Everything that is there.
    pub fn keys(&self) -> Vec<Key> {
        let mut all: Vec<Key> = self.nodes.keys().map(|n| Key::Node(*n)).collect();
        all.extend(self.namespaces.keys().cloned().map(Key::Namespace));
        all.extend(self.pods.keys().cloned().map(Key::Pod));
        all.extend(self.policies.keys().cloned().map(Key::Policy));
        all.extend(self.cluster_policies.keys().cloned().map(Key::ClusterPolicy));
        all.extend(self.services.keys().cloned().map(Key::Service));
        all
    }

    /// What is different in `other`: there, gone or changed.
    pub fn differences(&self, other: &Cluster) -> Vec<Key> {
        let mut keys = self.keys();
        keys.extend(other.keys());
        keys.sort();
        keys.dedup();
        keys.retain(|key| !self.is_same(other, key));
        keys
    }

    fn is_same(&self, other: &Cluster, key: &Key) -> bool {
        match key {
            Key::Node(n) => self.nodes.get(n) == other.nodes.get(n),
            Key::Namespace(n) => self.namespaces.get(n) == other.namespaces.get(n),
            Key::Pod(n) => self.pods.get(n) == other.pods.get(n),
            Key::Policy(n) => self.policies.get(n) == other.policies.get(n),
            Key::ClusterPolicy(n) => self.cluster_policies.get(n) == other.cluster_policies.get(n),
            Key::Service(n) => self.services.get(n) == other.services.get(n),
        }
    }

    /// Makes one object as it is in `other`.
    pub fn take(&mut self, other: &Cluster, key: &Key) {
        fn put<K: Ord + Clone, V: Clone>(to: &mut BTreeMap<K, V>, from: &BTreeMap<K, V>, key: &K) {
            match from.get(key) {
                Some(value) => drop(to.insert(key.clone(), value.clone())),
                None => drop(to.remove(key)),
            }
        }
        match key {
            Key::Node(n) => put(&mut self.nodes, &other.nodes, n),
            Key::Namespace(n) => put(&mut self.namespaces, &other.namespaces, n),
            Key::Pod(n) => put(&mut self.pods, &other.pods, n),
            Key::Policy(n) => put(&mut self.policies, &other.policies, n),
            Key::ClusterPolicy(n) => put(&mut self.cluster_policies, &other.cluster_policies, n),
            Key::Service(n) => put(&mut self.services, &other.services, n),
        }
    }

    /// The texts of an object that is there: one, but of a Service as many as it has families, and one.
    pub fn texts(&self, key: &Key) -> Vec<Value> {
        match key {
            Key::Node(n) => vec![node(&self.nodes[n])],
            Key::Namespace(n) => vec![namespace(n, &self.namespaces[n])],
            Key::Pod(n) => vec![pod(n, &self.pods[n], &self.nodes)],
            Key::Policy(n) => vec![policy(n, &self.policies[n])],
            Key::ClusterPolicy(n) => vec![cluster_policy(n, &self.cluster_policies[n])],
            Key::Service(n) => service(n, &self.services[n]),
        }
    }
}

fn texts<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(T::to_string).collect()
}

/// A Node's text.
pub fn node(node: &Node) -> Value {
    let address = |a: &IpAddr| json!({"type": "InternalIP", "address": a.to_string()});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": node.labels},
        "spec": {"podCIDRs": texts(&node.pod_cidrs)},
        "status": {"addresses": node.addresses.iter().map(address).collect::<Vec<_>>()},
    })
}

/// A Namespace's text.
pub fn namespace(name: &str, labels: &Labels) -> Value {
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A Pod's text.
pub fn pod((namespace, name): &Name, pod: &Pod, nodes: &BTreeMap<usize, Node>) -> Value {
    let container = |n: usize, p: &ContainerPort| {
        let mut port = json!({"name": p.name, "containerPort": p.number});
        if let Some(protocol) = p.protocol {
            port["protocol"] = json!(protocol.text());
        }
        let mut container = json!({"name": format!("c{n}"), "ports": [port]});
        if p.of == Container::Sidecar {
            container["restartPolicy"] = json!("Always");
        }
        container
    };
    let of = |main: bool| {
        let mine = pod.ports.iter().enumerate().filter(|(_, p)| (p.of == Container::Main) == main);
        mine.map(|(n, p)| container(n, p)).collect::<Vec<_>>()
    };
    let mut metadata = json!({
        "namespace": namespace, "name": name, "uid": pod.uid, "labels": pod.labels,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    if pod.terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
    }
    let mut spec = json!({"containers": of(true), "initContainers": of(false)});
    if let Some(node) = nodes.get(&pod.node) {
        spec["nodeName"] = json!(node.name);
    }
    if pod.host_network {
        spec["hostNetwork"] = json!(true);
    }
    let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let mut status = json!({"phase": pod.phase, "podIPs": ips});
    if let Some(first) = pod.ips.first() {
        status["podIP"] = json!(first.to_string());
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

/// A NetworkPolicy's text.
pub fn policy((namespace, name): &Name, spec: &NetworkPolicySpec) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

/// A ClusterNetworkPolicy's text.
pub fn cluster_policy(name: &str, spec: &ClusterNetworkPolicySpec) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// The texts of a Service and of its EndpointSlices.
pub fn service(name: &str, s: &Service) -> Vec<Value> {
    let metadata =
        |name: String| json!({"namespace": "services", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(name.to_owned()),
        "spec": {
            "type": "NodePort", "clusterIPs": texts(&s.cluster_ips),
            "ports": [{"name": "p", "protocol": s.protocol.text(), "port": s.port, "nodePort": s.node_port}],
        },
        "status": {"loadBalancer": {}},
    })];
    for v6 in [false, true] {
        let endpoints: Vec<Value> =
            s.backend.iter().filter(|a| a.is_ipv6() == v6).map(|a| json!({"addresses": [a.to_string()]})).collect();
        let mut metadata = metadata(format!("{name}-{}", if v6 { "v6" } else { "v4" }));
        metadata["labels"] = json!({"kubernetes.io/service-name": name});
        all.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "ports": [{"name": "p", "protocol": s.protocol.text(), "port": s.target}],
            "endpoints": endpoints,
        }));
    }
    all
}
