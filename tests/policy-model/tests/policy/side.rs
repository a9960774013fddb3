//! A node's way from objects to its snapshot: index, messages, validation, catalog. Nothing of it is imitated. Beside it
//! stands what the node has heard, from which the oracle answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podplane_config::v1::{self, ToDataplane};
use podplane_config::valid::{Assembler, State};
use podplane_dataplane::control::catalog::Catalog;
use podplane_dataplane::control::compile;
use podplane_dataplane::control::rules::{self, Rules};
use podplane_index::{Changes, Family, Index, PodIdentity, Settings, manifest};
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_pipeline::sim::SimNode;
use podplane_pipeline::snapshot::{PortClass, PortEntry};
use podplane_policy_model::faults;
use podplane_policy_model::objects::{Cluster, Key, Name, Pod};
use podplane_policy_model::oracle::{L4, Other, Owner};
use serde_json::Value;

use crate::wire;
use crate::world::Chance;

/// A pod that the node's runtime has connected.
#[derive(Clone, Debug)]
pub struct Attached {
    pub uid: String,
    pub port: PortId,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    incarnation: u32,
    home: WorkerId,
    /// What the agent heard last of this very pod: without its object it is subject to what it was.
    pub pod: Option<Pod>,
    /// It was connected before the agent started: it is not disconnected for an object that is missing, but isolated.
    kept: bool,
}

/// Agent and control of one node, and what they have heard of the cluster.
pub struct Side {
    me: usize,
    /// What the agent has heard.
    heard: Cluster,
    /// What is in force of it: of policies that were refused what stands for them, and of namespaces that are gone what
    /// they said while they have pods.
    view: Cluster,
    gone: BTreeSet<String>,
    /// Policies of which nothing right was ever heard.
    closed: BTreeSet<Key>,
    /// Since when pods claim their addresses: the last to come has what several claim.
    claims: BTreeMap<Name, (String, u64)>,
    pub attached: BTreeMap<Name, Attached>,
    /// Whether something is to be told to the dataplane.
    pub dirty: bool,
    index: Index,
    state: State,
    catalog: Catalog,
    rules: Rules,
    generation: u64,
    attachments: u32,
}

impl Side {
    /// A node that has heard of nothing.
    pub fn new(me: usize) -> Side {
        Side {
            me,
            heard: Cluster::default(),
            view: Cluster::default(),
            gone: BTreeSet::new(),
            closed: BTreeSet::new(),
            claims: BTreeMap::new(),
            attached: BTreeMap::new(),
            dirty: false,
            index: Index::new(Settings::new("", Family::Ipv4, 1)),
            state: State::default(),
            catalog: Catalog::default(),
            rules: Rules::default(),
            generation: 0,
            attachments: 0,
        }
    }

    /// The agent begins anew, with all objects and the endpoints that it remembers.
    pub fn start(&mut self, truth: &Cluster, node: &mut SimNode, macs: &[Mac]) {
        self.index = Index::new(Settings::new(format!("n{}", self.me), Family::Ipv4, 4242));
        self.index.set_uplink_mtu(1500);
        (self.heard, self.view) = (Cluster::default(), Cluster::default());
        self.gone.clear();
        self.closed.clear();
        self.claims.clear();
        for (name, attached) in &mut self.attached {
            (attached.kept, attached.pod) = (true, None);
            self.index.attach_to(endpoint(name, attached), Some(identity(name, attached)), true).expect("an endpoint");
        }
        self.index.apply(service_cidr()).expect("ranges");
        self.hear(truth, &truth.keys(), Chance(1));
        drop(self.index.settle());
        let all = self.index.objects().iter().map(|(k, o)| (k.clone(), Some(o.clone()))).collect();
        self.send(all, true, node, macs);
    }

    /// The runtime connects a pod.
    pub fn attach(&mut self, name: &Name, pod: &Pod, workers: u8) {
        let used: BTreeSet<PortId> = self.attached.values().map(|a| a.port).collect();
        let port = (PortId::FIRST_POD.0..).map(PortId).find(|p| !used.contains(p)).expect("a port");
        self.attachments += 1;
        let attached = Attached {
            uid: pod.uid.clone(),
            port,
            mac: Mac([2, 0, 0, 1, self.me as u8, port.0 as u8]),
            addresses: pod.ips.clone(),
            incarnation: self.attachments,
            home: WorkerId((port.0 % u16::from(workers)) as u8),
            pod: self.view.pods.get(name).filter(|known| known.uid == pod.uid).cloned(),
            kept: false,
        };
        self.index.attach_to(endpoint(name, &attached), Some(identity(name, &attached)), false).expect("an endpoint");
        self.attached.insert(name.clone(), attached);
        self.dirty = true;
    }

    /// The runtime takes a pod's network away.
    pub fn detach(&mut self, name: &Name) {
        if let Some(attached) = self.attached.remove(name) {
            self.index.detach(&id(&attached));
            self.forget_namespaces();
            self.dirty = true;
        }
    }

    /// What is different in the world from what the agent has heard.
    pub fn differences(&self, truth: &Cluster) -> Vec<Key> {
        self.heard.differences(truth)
    }

    /// The agent hears of these objects, one after the other.
    pub fn hear(&mut self, truth: &Cluster, keys: &[Key], mut chance: Chance) {
        for key in keys {
            let before = if self.heard.keys().contains(key) { self.heard.texts(key) } else { Vec::new() };
            let replaced = matches!(key, Key::Pod(name) if self.heard.pods.get(name).map(|p| &p.uid) != truth.pods.get(name).map(|p| &p.uid));
            let mut now = Cluster { nodes: truth.nodes.clone(), ..Cluster::default() };
            now.take(truth, key);
            let is_there = now.keys().contains(key);
            let texts = if is_there { now.texts(key) } else { Vec::new() };
            // A watch says that a pod of this name is gone and another came, or only the latter if it broke off between.
            if !is_there || replaced && chance.below(2) == 0 {
                before.iter().for_each(|text| self.index.delete(&read(text).key()));
            }
            let mut refusals = texts.iter().filter_map(|text| self.index.apply(read(text)).err()).collect::<Vec<_>>();
            self.heard.take(truth, key);
            let refused = self.note(truth, key);
            assert_eq!(refused, !refusals.is_empty(), "{texts:?}: {:?}", refusals.pop());
        }
        self.dirty = true;
    }

    /// Keeps the oracle's view. Answers whether the object should have been refused.
    fn note(&mut self, truth: &Cluster, key: &Key) -> bool {
        let mut refused = false;
        match key {
            Key::Policy(name) => match truth.policies.get(name).map(|spec| (spec, faults::policy(spec))) {
                Some((_, Err(closed))) => {
                    refused = true;
                    if !self.view.policies.contains_key(name) || self.closed.contains(key) {
                        self.view.policies.insert(name.clone(), closed);
                        self.closed.insert(key.clone());
                    }
                }
                _ => {
                    self.closed.remove(key);
                    self.view.take(truth, key);
                }
            },
            Key::ClusterPolicy(name) => match truth.cluster_policies.get(name).map(faults::cluster_policy) {
                Some((spec, bad)) => {
                    refused = bad;
                    if !bad {
                        self.closed.remove(key);
                    }
                    if !bad || !self.view.cluster_policies.contains_key(name) || self.closed.contains(key) {
                        self.view.cluster_policies.insert(name.clone(), spec);
                        if bad {
                            self.closed.insert(key.clone());
                        }
                    }
                }
                None => {
                    self.closed.remove(key);
                    self.view.take(truth, key);
                }
            },
            Key::Namespace(name) if !truth.namespaces.contains_key(name) => drop(self.gone.insert(name.clone())),
            Key::Namespace(name) => {
                self.gone.remove(name);
                self.view.take(truth, key);
            }
            Key::Pod(name) => {
                self.view.take(truth, key);
                let pod = self.view.pods.get(name);
                let owns = pod.filter(|pod| !pod.is_over() && !pod.host_network);
                match (owns, self.claims.get(name)) {
                    (Some(pod), Some((uid, _))) if *uid == pod.uid => {}
                    (Some(pod), _) => drop(self.claims.insert(name.clone(), (pod.uid.clone(), self.generation))),
                    (None, _) => drop(self.claims.remove(name)),
                }
                if let (Some(pod), Some(attached)) = (pod, self.attached.get_mut(name))
                    && pod.uid == attached.uid
                {
                    attached.pod = Some(pod.clone());
                }
            }
            _ => self.view.take(truth, key),
        }
        self.forget_namespaces();
        refused
    }

    /// What a namespace that is gone said counts while it has pods.
    fn forget_namespaces(&mut self) {
        let has_pods = |space: &String| {
            let kept = self.attached.iter().any(|((of, _), a)| of == space && a.pod.is_some());
            kept || self.view.pods.keys().any(|(of, _)| of == space)
        };
        let over: Vec<String> = self.gone.iter().filter(|space| !has_pods(space)).cloned().collect();
        for space in over {
            self.gone.remove(&space);
            self.view.namespaces.remove(&space);
        }
    }

    /// Tells the dataplane what is different.
    pub fn commit(&mut self, node: &mut SimNode, macs: &[Mac]) {
        let changes = self.index.settle();
        self.send(changes, false, node, macs);
    }

    fn send(&mut self, changes: Changes, full: bool, node: &mut SimNode, macs: &[Mac]) {
        self.dirty = false;
        self.generation += 1;
        let generation = self.generation;
        let mut messages = vec![ToDataplane::Begin { generation, full }];
        for (key, object) in changes {
            match object {
                Some(object) => messages.extend(v1::upsert(object).expect("small enough")),
                None => messages.push(ToDataplane::Delete(key)),
            }
        }
        messages.push(ToDataplane::Commit { generation });
        let mut assembler = Assembler::default();
        let mut whole = None;
        for message in messages {
            let bytes = postcard::to_stdvec(&message).expect("encodable");
            whole = assembler.message(postcard::from_bytes(&bytes).expect("decodable")).expect("in order");
        }
        self.state = self.state.apply(&whole.expect("a transaction")).expect("the agent settles contradictions");
        self.catalog = self.catalog.follow(&self.state);
        let local = self.state.local.as_ref().expect("this node");
        node.config.local = Some(compile::local(local));
        let peers = self.state.peers.values();
        node.config.peers = peers.map(|p| compile::peer(p, node_of(p.vtep).map(|n| macs[n]))).collect();
        node.config.services = self.catalog.map().clone();
        self.rules = self.rules.follow(&self.state.policy);
        node.config.policy = self.rules.map().clone();
        node.config.ports.retain(|(id, _)| id.0 < PortId::FIRST_POD.0);
        for attached in self.attached.values() {
            let Some(endpoint) = self.state.endpoints.get(&id(attached)) else { continue };
            let entry = PortEntry {
                kind: PortClass::Pod,
                home: attached.home,
                mac: endpoint.mac,
                v4: endpoint.addresses.v4,
                v6: endpoint.addresses.v6,
                mtu: local.pod_mtu,
                incarnation: attached.incarnation,
                policy: rules::of_endpoint(endpoint.policy),
            };
            node.config.ports.push((attached.port, entry));
        }
        node.publish();
        self.check_connected();
    }

    /// The dataplane knows exactly the pods that it should.
    fn check_connected(&self) {
        for (name, attached) in &self.attached {
            let told = self.state.endpoints.contains_key(&id(attached));
            assert_eq!(told, self.is_connected(name), "{name:?} on node {}: {attached:?}", self.me);
        }
    }

    /// Whether a pod is connected: its object and its namespace must be known; what was before the agent stays.
    pub fn is_connected(&self, name: &Name) -> bool {
        self.attached.get(name).is_some_and(|a| a.kept || self.subject(name, a).is_some())
    }

    fn subject<'a>(&'a self, name: &Name, attached: &'a Attached) -> Option<&'a Pod> {
        attached.pod.as_ref().filter(|_| self.view.namespaces.contains_key(&name.0))
    }

    /// All pods that are connected.
    pub fn connected(&self) -> Vec<Name> {
        self.attached.keys().filter(|name| self.is_connected(name)).cloned().collect()
    }

    /// The connected pod that has an address, with what is known of it: nothing, then it is denied everything.
    pub fn subject_at(&self, address: IpAddr) -> Option<(&Name, Option<&Pod>)> {
        let (name, attached) = self.attached.iter().find(|(_, a)| a.addresses.contains(&address))?;
        self.is_connected(name).then(|| (name, self.subject(name, attached)))
    }

    fn at(&self, address: IpAddr) -> Option<&Attached> {
        self.attached.values().find(|a| a.addresses.contains(&address))
    }

    /// The port of the pod that has an address.
    pub fn port_at(&self, address: IpAddr) -> Option<PortId> {
        self.at(address).map(|a| a.port)
    }

    /// The MAC of the pod that has an address.
    pub fn mac_at(&self, address: IpAddr) -> Option<Mac> {
        self.at(address).map(|a| a.mac)
    }

    /// The UID of the connected pod that has an address.
    pub fn uid_at(&self, address: IpAddr) -> Option<String> {
        self.at(address).map(|a| a.uid.clone())
    }

    /// Whether this pod is connected.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.attached.iter().any(|(name, a)| a.uid == uid && self.is_connected(name))
    }

    /// All addresses that anybody has had here.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.attached.values().flat_map(|a| &a.addresses).chain(self.view.pods.values().flat_map(|p| &p.ips)).copied()
    }

    /// What is known.
    pub fn known(&self) -> &Cluster {
        &self.view
    }

    /// Whose an address is, as far as this node knows. What a pod of this node has is that pod's alone; of several pods
    /// elsewhere that claim one, it is that which is not about to end, and came to it last.
    pub fn other(&self, address: IpAddr) -> Other<'_> {
        let lives =
            |name: &Name, pod: &Pod| !pod.host_network && !pod.is_over() && self.view.namespaces.contains_key(&name.0);
        let owner = if let Some((name, attached)) = self.attached.iter().find(|(_, a)| a.addresses.contains(&address)) {
            let pod = self.view.pods.get_key_value(name).filter(|(_, pod)| pod.uid == attached.uid);
            pod.filter(|(name, pod)| lives(name, pod)).map(|(name, pod)| Owner::Pod(name, pod))
        } else if let Some(node) = self.view.nodes.values().find(|n| n.addresses.contains(&address)) {
            Some(Owner::Node(node))
        } else {
            let claimants =
                self.claims.iter().filter_map(|(name, (_, since))| Some((self.view.pods.get_key_value(name)?, *since)));
            let all = claimants.filter(|((_, pod), _)| pod.ips.contains(&address));
            let last = all.max_by_key(|((name, pod), since)| (!pod.terminating, *since, name.to_owned()));
            last.map(|(pod, _)| pod).filter(|(name, pod)| lives(name, pod)).map(|(name, pod)| Owner::Pod(name, pod))
        };
        let mut ranges = self.view.nodes.values().flat_map(|n| &n.pod_cidrs);
        let nobody = if ranges.any(|net| net.contains(&address)) { Owner::NoPod } else { Owner::Outside };
        Other { address, owner: owner.unwrap_or(nobody) }
    }

    /// Where a connection leads to, after Services.
    pub fn translate(&self, dst: IpAddr, l4: L4) -> (IpAddr, L4) {
        let L4::Port(protocol, port) = l4 else { return (dst, l4) };
        let own = self.view.nodes[&self.me].addresses.contains(&dst);
        for service in self.view.services.values().filter(|s| s.protocol == protocol) {
            let is_it = service.cluster_ips.contains(&dst) && service.port == port || own && service.node_port == port;
            if let Some(backend) = service.backend.iter().find(|b| is_it && b.is_ipv6() == dst.is_ipv6()) {
                return (*backend, L4::Port(protocol, service.target));
            }
        }
        (dst, l4)
    }
}

fn id(attached: &Attached) -> String {
    format!("{}-{}/eth0", attached.uid, attached.incarnation)
}

fn identity((namespace, name): &Name, attached: &Attached) -> PodIdentity {
    PodIdentity { namespace: namespace.clone(), name: name.clone(), uid: attached.uid.clone() }
}

/// What the plugin told the agent of a pod.
fn endpoint((namespace, name): &Name, attached: &Attached) -> v1::Endpoint {
    v1::Endpoint {
        id: id(attached),
        pod: format!("{namespace}/{name}"),
        port: v1::PortKind::Veth { host_ifname: format!("pp{}", attached.incarnation) },
        mac: attached.mac.0,
        addresses: attached.addresses.clone(),
        host_ports: Vec::new(),
        policy: v1::EndpointPolicy::default(),
    }
}

fn node_of(address: IpAddr) -> Option<usize> {
    (0..2).find(|n| wire::node(address.is_ipv6(), *n) == address)
}

fn read(text: &Value) -> podplane_index::Object {
    let mut objects = manifest::parse(&text.to_string()).expect("a manifest").objects;
    objects.remove(0).object
}

fn service_cidr() -> podplane_index::Object {
    read(&serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/112"]},
    }))
}
