//! Whether a pod may open a connection, as the two APIs have it.
//!
//! Everything is looked for from the beginning at each question. Where the APIs leave something to implementations,
//! Podplane's choices are here too, each where it counts, and nothing else.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::{
    ClusterNetworkPolicySpec, ClusterPeer, ClusterProtocol, IntOrString, IpBlock, LabelSelector, Labels, NamespacedPod,
    Peer, Port, Subject,
};
use crate::objects::{Cluster, Container, Name, Node, Pod, Protocol};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum L4 {
    /// A port of the server.
    Port(Protocol, u16),
    /// ICMP, or another protocol that has no ports.
    Portless,
}

/// From whose side one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The server's: the peer is the client.
    Ingress,
    /// The client's: the peer is the server, after Services were translated.
    Egress,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A pod's, with a network of its own.
    Pod(&'a Name, &'a Pod),
    /// A node's; also that of pods on its network, which no selector of pods matches.
    Node(&'a Node),
    /// Nobody's whom we know, in a range of pods.
    NoPod,
    /// The world outside.
    Outside,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other<'a> {
    /// Its address.
    pub address: IpAddr,
    /// Whose that is.
    pub owner: Owner<'a>,
}

/// Whose an address is. What is over owns nothing; what terminates still does.
pub fn other(c: &Cluster, address: IpAddr) -> Other<'_> {
    let lives = |pod: &Pod| !pod.host_network && !pod.is_over() && pod.ips.contains(&address);
    let in_range = || c.nodes.values().flat_map(|n| &n.pod_cidrs).any(|net| net.contains(&address));
    let owner = if let Some((name, pod)) = c.pods.iter().find(|(_, pod)| lives(pod)) {
        Owner::Pod(name, pod)
    } else if let Some(node) = c.nodes.values().find(|n| n.addresses.contains(&address)) {
        Owner::Node(node)
    } else if in_range() {
        Owner::NoPod
    } else {
        Owner::Outside
    };
    Other { address, owner }
}

/// A pod, and the policies that are about it in one direction.
#[derive(Clone, Debug)]
pub struct Selected<'a> {
    c: &'a Cluster,
    name: &'a Name,
    pod: &'a Pod,
    direction: Direction,
    /// Of the tier Admin, in the order of judging.
    admin: Vec<&'a ClusterNetworkPolicySpec>,
    /// NetworkPolicies with their namespace.
    policies: Vec<(&'a str, &'a crate::api::NetworkPolicySpec)>,
    /// Of the tier Baseline, in the order of judging.
    baseline: Vec<&'a ClusterNetworkPolicySpec>,
}

/// The policies that are about a pod.
pub fn selected<'a>(c: &'a Cluster, name: &'a Name, pod: &'a Pod, direction: Direction) -> Selected<'a> {
    let namespace = labels_of(c, &name.0);
    let is_subject = |subject: &Subject| match (&subject.namespaces, &subject.pods) {
        (Some(selector), None) => matches(selector, &namespace),
        (None, Some(pods)) => is_pod(pods, &namespace, &pod.labels),
        _ => false,
    };
    // The lower priority first. Between equals the API leaves the order open; here it is that of the names.
    let tier = |tier: &str| {
        let mut all: Vec<_> = c.cluster_policies.iter().filter(|(_, p)| p.tier == tier).collect();
        all.sort_by_key(|(name, p)| (p.priority, name.as_str()));
        all.into_iter().map(|(_, p)| p).filter(|p| is_subject(&p.subject)).collect::<Vec<_>>()
    };
    let is_about = |p: &crate::api::NetworkPolicySpec| {
        let types = p.policy_types.as_deref().unwrap_or_default();
        let stated = |text: &str| types.iter().any(|t| t == text);
        match direction {
            Direction::Ingress => types.is_empty() || stated("Ingress"),
            Direction::Egress if types.is_empty() => !p.egress.is_empty(),
            Direction::Egress => stated("Egress"),
        }
    };
    let mine = c.policies.iter().filter(|((space, _), p)| *space == name.0 && matches(&p.pod_selector, &pod.labels));
    let policies = mine.filter(|(_, p)| is_about(p)).map(|((space, _), p)| (space.as_str(), p)).collect();
    let (admin, baseline) = (tier("Admin"), tier("Baseline"));
    Selected { c, name, pod, direction, admin, policies, baseline }
}

/// What a tier of ClusterNetworkPolicies says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Accept,
    Deny,
    /// Nothing, or `Pass`.
    Next,
}

impl Selected<'_> {
    /// Whether any policy is about the pod.
    pub fn is_any(&self) -> bool {
        !(self.admin.is_empty() && self.policies.is_empty() && self.baseline.is_empty())
    }

    /// Whether it may open a connection to `other`, or `other` one to it.
    pub fn may(&self, other: &Other<'_>, l4: L4) -> bool {
        match self.tier(&self.admin, other, l4) {
            Says::Accept => return true,
            Says::Deny => return false,
            Says::Next => {}
        }
        // NetworkPolicy decides about every pod that one selects. A pod always reaches itself.
        if !self.policies.is_empty() {
            return self.pod.ips.contains(&other.address)
                || self.policies.iter().any(|(space, policy)| self.allows(space, policy, other, l4));
        }
        self.tier(&self.baseline, other, l4) != Says::Deny
    }

    /// Who may have the port of a connection, of pods. In a range of pods, what nobody is known to own may be whoever a
    /// Deny is about, and call its ports as anybody does.
    fn servers<'b>(&'b self, other: &Other<'b>, denies: bool) -> Vec<&'b Pod> {
        let owns = |pod: &&Pod| !pod.host_network && !pod.is_over();
        match (self.direction, other.owner) {
            (Direction::Ingress, _) => vec![self.pod],
            (Direction::Egress, Owner::Pod(_, pod)) => vec![pod],
            (Direction::Egress, Owner::NoPod) if denies => self.c.pods.values().filter(owns).collect(),
            (Direction::Egress, _) => Vec::new(),
        }
    }

    /// Whether one of a NetworkPolicy's rules lets it through.
    fn allows(&self, space: &str, policy: &crate::api::NetworkPolicySpec, other: &Other<'_>, l4: L4) -> bool {
        let rules: Vec<(&[Peer], &[Port])> = match self.direction {
            Direction::Ingress => policy.ingress.iter().map(|r| (r.from.as_slice(), r.ports.as_slice())).collect(),
            Direction::Egress => policy.egress.iter().map(|r| (r.to.as_slice(), r.ports.as_slice())).collect(),
        };
        rules.into_iter().any(|(peers, ports)| {
            let peer = peers.is_empty() || peers.iter().any(|p| self.is_peer(space, p, other));
            peer && (ports.is_empty() || ports.iter().any(|p| is_port(p, &self.servers(other, false), l4)))
        })
    }

    fn is_peer(&self, space: &str, peer: &Peer, other: &Other<'_>) -> bool {
        if let Some(block) = &peer.ip_block {
            return is_in(block, other.address);
        }
        let Owner::Pod(name, pod) = other.owner else { return false };
        let namespace = match &peer.namespace_selector {
            Some(selector) => matches(selector, &labels_of(self.c, &name.0)),
            None => name.0 == space,
        };
        namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
    }

    /// What the first rule says that matches.
    fn tier(&self, policies: &[&ClusterNetworkPolicySpec], other: &Other<'_>, l4: L4) -> Says {
        for policy in policies {
            let rules: Vec<(&str, &[ClusterPeer], &[ClusterProtocol])> = match self.direction {
                Direction::Ingress => policy.ingress.iter().map(|r| (&*r.action, &*r.from, &*r.protocols)).collect(),
                Direction::Egress => policy.egress.iter().map(|r| (&*r.action, &*r.to, &*r.protocols)).collect(),
            };
            for (action, peers, protocols) in rules {
                let servers = self.servers(other, action == "Deny");
                let ports = protocols.is_empty() || protocols.iter().any(|p| is_protocol(p, &servers, l4));
                if !ports || !peers.iter().any(|p| self.is_cluster_peer(p, other, action)) {
                    continue;
                }
                match action {
                    "Accept" => return Says::Accept,
                    "Deny" => return Says::Deny,
                    _ => return Says::Next,
                }
            }
        }
        Says::Next
    }

    fn is_cluster_peer(&self, peer: &ClusterPeer, other: &Other<'_>, action: &str) -> bool {
        let by_selector = peer.namespaces.is_some() || peer.pods.is_some() || peer.nodes.is_some();
        // In a range of pods, what nobody is known to own may be whoever a Deny is about.
        if by_selector && other.owner == Owner::NoPod {
            return action == "Deny";
        }
        if let (Some(selector), Owner::Pod(name, _)) = (&peer.namespaces, other.owner) {
            return matches(selector, &labels_of(self.c, &name.0));
        }
        if let (Some(pods), Owner::Pod(name, pod)) = (&peer.pods, other.owner) {
            return is_pod(pods, &labels_of(self.c, &name.0), &pod.labels);
        }
        if let (Some(selector), Owner::Node(node)) = (&peer.nodes, other.owner) {
            return matches(selector, &node.labels);
        }
        peer.networks.iter().any(|net| contains(net, other.address))
    }

    /// The pod.
    pub fn name(&self) -> &Name {
        self.name
    }
}

/// The labels of a namespace, as the API server has them; of one that is not there, none.
fn labels_of(c: &Cluster, namespace: &str) -> Labels {
    let Some(labels) = c.namespaces.get(namespace) else { return Labels::new() };
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/metadata.name".into(), namespace.into());
    labels
}

/// Whether a selector matches labels: all that it requires holds.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|r| {
            let value = labels.get(&r.key);
            match r.operator.as_str() {
                "In" => value.is_some_and(|v| r.values.contains(v)),
                // Also of what does not have the label.
                "NotIn" => value.is_none_or(|v| !r.values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("the oracle is not asked about invalid policies: operator {other}"),
            }
        })
}

fn is_pod(pods: &NamespacedPod, namespace: &Labels, pod: &Labels) -> bool {
    matches(&pods.namespace_selector, namespace) && matches(&pods.pod_selector, pod)
}

fn contains(net: &str, address: IpAddr) -> bool {
    net.parse::<IpNet>().expect("the oracle is not asked about invalid policies").contains(&address)
}

fn is_in(block: &IpBlock, address: IpAddr) -> bool {
    contains(&block.cidr, address) && !block.except.iter().any(|net| contains(net, address))
}

/// The ports of a name that pods have. Containers that are over before the others begin have none.
fn named<'a>(pods: &'a [&Pod], name: &'a str) -> impl Iterator<Item = (Protocol, u16)> + 'a {
    let ports = pods.iter().flat_map(|pod| &pod.ports);
    ports
        .filter(move |p| p.of != Container::Init && p.name == name)
        .map(|p| (p.protocol.unwrap_or(Protocol::Tcp), p.number))
}

fn is_port(port: &Port, servers: &[&Pod], l4: L4) -> bool {
    let L4::Port(protocol, number) = l4 else { return false };
    if port.protocol.as_deref().unwrap_or("TCP") != protocol.text() {
        return false;
    }
    match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&number.into()),
        Some(IntOrString::String(name)) => named(servers, name).any(|p| p == (protocol, number)),
    }
}

fn is_protocol(p: &ClusterProtocol, servers: &[&Pod], l4: L4) -> bool {
    let L4::Port(protocol, number) = l4 else { return false };
    if let Some(name) = &p.destination_named_port {
        return named(servers, name).any(|p| p == (protocol, number));
    }
    let stated = match protocol {
        Protocol::Tcp => &p.tcp,
        Protocol::Udp => &p.udp,
        Protocol::Sctp => &p.sctp,
    };
    stated.as_ref().is_some_and(|m| match &m.destination_port {
        None => true,
        Some(port) => port.number == Some(number) || port.range.is_some_and(|r| (r.start..=r.end).contains(&number)),
    })
}
