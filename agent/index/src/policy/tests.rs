//! What the dataplane is told, judged slowly by the words of the contract, against what the API's text says.

mod admin;
mod anything;
mod limits;
mod ownership;
mod random;
mod refusals;
mod scale;
mod semantics;

use std::collections::BTreeMap;
use std::net::IpAddr;

use podplane_config::v1::{self, EndpointPolicy, Peers, PortKind, Protocol, RuleAction, Tier};

use crate::index::Index;
use crate::k8s::{Object, ObjectKey};
use crate::node::Family;
use crate::settings::Settings;
use crate::{Kind, PodIdentity, manifest};

/// Namespaces a (team=x), b (team=y) and c; their pods here are a/web, a/db, b/web, c/bare; b/far lives on another node.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: n0, labels: {zone: one}}, spec: {podCIDRs: [10.0.0.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {zone: two}}, spec: {podCIDRs: [10.0.1.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: ExternalIP, address: 203.0.113.2}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {team: x}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {team: y, kubernetes.io/metadata.name: liar}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: c}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: a, uid: a-web, labels: {app: web, tier: front}},
 spec: {containers: [{ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.0.10}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: a, uid: a-db, labels: {app: db}},
 spec: {containers: [{}, {ports: [{name: http, containerPort: 9090}]}],
        initContainers: [{restartPolicy: Always, ports: [{name: metrics, containerPort: 9100}]},
                         {ports: [{name: once, containerPort: 9200}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.0.11}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: b, uid: b-web, labels: {app: web}},
 status: {phase: Running, podIPs: [{ip: 10.0.0.20}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: c, uid: c-bare},
 status: {phase: Running, podIPs: [{ip: 10.0.0.30}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: b, uid: b-far, labels: {app: far}},
 spec: {containers: [{ports: [{name: http, containerPort: 7070}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.1.40}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: a, uid: a-host, labels: {app: web}},
 spec: {hostNetwork: true, containers: [{ports: [{name: http, containerPort: 6060}]}]},
 status: {phase: Running, podIPs: [{ip: 192.0.2.2}]}}
"#;

const HERE: [(&str, &str); 4] =
    [("a/web", "10.0.0.10"), ("a/db", "10.0.0.11"), ("b/web", "10.0.0.20"), ("c/bare", "10.0.0.30")];

pub(super) fn empty() -> Index {
    let mut index = Index::new(Settings::new("n0", Family::Ipv4, 100));
    index.set_uplink_mtu(1500);
    index
}

pub(super) fn endpoint(id: &str, addresses: &[&str]) -> v1::Endpoint {
    v1::Endpoint {
        id: id.into(),
        pod: id.into(),
        port: PortKind::Veth { host_ifname: format!("pp{}", id.replace('/', "-")) },
        mac: [2, 0, 0, 0, 0, 9],
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        host_ports: Vec::new(),
        policy: EndpointPolicy::default(),
    }
}

pub(super) fn identity(path: &str, uid: &str) -> PodIdentity {
    let (namespace, name) = path.split_once('/').unwrap();
    PodIdentity { namespace: namespace.into(), name: name.into(), uid: uid.into() }
}

/// Connects a pod, as the runtime would: UID "ns-name".
pub(super) fn connect(index: &mut Index, path: &str, address: &str) {
    let pod = identity(path, &path.replace('/', "-"));
    index.attach_to(endpoint(path, &[address]), Some(pod), false).unwrap();
}

/// Applies a manifest; answers what was refused.
pub(super) fn apply(index: &mut Index, text: &str) -> Vec<String> {
    let objects = manifest::parse(text).unwrap().objects;
    objects.into_iter().filter_map(|placed| index.apply(placed.object).err()).collect()
}

pub(super) fn remove(index: &mut Index, kind: Kind, path: &str) {
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    index.delete(&ObjectKey { kind, namespace: namespace.into(), name: name.into() });
}

/// The cluster with its endpoints.
pub(super) fn cluster() -> Index {
    let mut index = empty();
    assert_eq!(apply(&mut index, CLUSTER), [""; 0]);
    for (path, address) in HERE {
        connect(&mut index, path, address);
    }
    index.settle();
    assert_eq!(index.withheld().collect::<Vec<_>>(), []);
    index
}

/// A NetworkPolicy of namespace a.
pub(super) fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: a}}, spec: {spec}}}\n"
    )
}

/// A ClusterNetworkPolicy.
pub(super) fn admin(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

/// What the dataplane knows.
pub(super) struct Told<'i>(&'i Index);

/// Protocol and port; `None`: ICMP.
pub(super) type L4 = Option<(Protocol, u16)>;

impl Told<'_> {
    fn address(&self, address: IpAddr) -> Option<&v1::Address> {
        match self.0.objects().get(&v1::Key::Address(address)) {
            Some(v1::Object::Address(known)) => Some(known),
            _ => None,
        }
    }

    fn policy(&self, address: IpAddr) -> Option<EndpointPolicy> {
        let mut endpoints = self.0.objects().values().filter_map(|object| match object {
            v1::Object::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        endpoints.find(|endpoint| endpoint.addresses.contains(&address)).map(|endpoint| endpoint.policy)
    }

    fn matches(&self, rule: &v1::Rule, peer: IpAddr, l4: L4) -> bool {
        let owner = self.address(peer);
        let has = |id: &u32| owner.is_some_and(|owner| owner.selectors.binary_search(id).is_ok());
        let is_pods = self.0.pod_ranges().any(|net| net.contains(&peer));
        let peers = match &rule.peers {
            Peers::Any => true,
            Peers::Of { selectors, nets } => {
                let unknown = owner.is_none() && is_pods && rule.action == RuleAction::Deny && !selectors.is_empty();
                let within = |net: &v1::Net| net.net.contains(&peer) && !net.except.iter().any(|e| e.contains(&peer));
                unknown || selectors.iter().any(has) || nets.iter().any(within)
            }
        };
        let ports = rule.ports.as_ref().is_none_or(|ports| {
            let fits = |range: &v1::PortRange| {
                l4.is_some_and(|(protocol, port)| {
                    range.protocol == protocol && (range.first..=range.last).contains(&port)
                })
            };
            ports.iter().any(fits)
        });
        peers && ports && rule.named.as_ref().is_none_or(has)
    }

    fn walk(&self, set: Option<u32>, peer: IpAddr, l4: L4) -> bool {
        let Some(set) = set else { return true };
        let Some(v1::Object::RuleSet(set)) = self.0.objects().get(&v1::Key::RuleSet(set)) else {
            panic!("no set {set}")
        };
        let mut passed: Option<Tier> = None;
        for id in &set.rules {
            let Some(v1::Object::Rule(rule)) = self.0.objects().get(&v1::Key::Rule(*id)) else {
                panic!("no rule {id}")
            };
            if passed == Some(rule.tier) || !self.matches(rule, peer, l4) {
                continue;
            }
            match rule.action {
                RuleAction::Accept => return true,
                RuleAction::Deny => return false,
                RuleAction::Pass => passed = Some(rule.tier),
            }
        }
        true
    }

    /// Whether a flow passes both pods' rules, as far as they live here.
    pub(super) fn judge(&self, client: IpAddr, server: IpAddr, l4: L4) -> bool {
        let egress = self.policy(client).is_none_or(|policy| self.walk(policy.egress, server, l4));
        egress && self.policy(server).is_none_or(|policy| self.walk(policy.ingress, client, l4))
    }
}

/// A flow such as "a/web > b/far TCP 80", "b/web > 192.0.2.2 ICMP".
fn flow(text: &str) -> (IpAddr, IpAddr, L4) {
    let known: BTreeMap<&str, &str> = HERE.into_iter().chain([("b/far", "10.0.1.40")]).collect();
    let address = |word: &str| known.get(word).copied().unwrap_or(word).parse().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let protocol = match words[3] {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        "ICMP" => None,
        other => panic!("{other}"),
    };
    (address(words[0]), address(words[2]), protocol.map(|protocol| (protocol, words[4].parse().unwrap())))
}

#[track_caller]
pub(super) fn expect(index: &Index, allowed: &[&str], denied: &[&str]) {
    for (texts, verdict) in [(allowed, true), (denied, false)] {
        for text in texts {
            let (client, server, l4) = flow(text);
            assert_eq!(Told(index).judge(client, server, l4), verdict, "{text}");
        }
    }
}

/// Applies policies to the cluster and judges flows by them.
#[track_caller]
pub(super) fn check(policies: &str, allowed: &[&str], denied: &[&str]) {
    let mut index = cluster();
    assert_eq!(apply(&mut index, policies), [""; 0], "{policies}");
    index.settle();
    expect(&index, allowed, denied);
}

pub(super) fn objects(text: &str) -> Vec<Object> {
    manifest::parse(text).unwrap().objects.into_iter().map(|placed| placed.object).collect()
}
