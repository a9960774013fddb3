//! The index itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1;
use podplane_config::valid::MIN_MTU;

use crate::k8s::{Kind, Namespace, Object, ObjectKey, Pod};
use crate::node::{Family, NodeFacts, is_unicast};
use crate::nodes::{Claim, Resolved};

/// What does not change while an agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this node's Node object.
    pub node: String,
    /// The family of the addresses between nodes, the same in the whole cluster.
    pub underlay: Family,
    /// The VXLAN network of the cluster.
    pub vni: u32,
}

/// What must be told to the dataplane, as a transaction: `Some` creates or replaces, `None` removes.
pub type Changes = BTreeMap<v1::Key, Option<v1::Object>>;

/// An endpoint that must not be told to the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Its identity.
    pub id: String,
    /// Why, and what to do.
    pub reason: String,
}

/// Objects and endpoints in, configuration out.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    uplink_mtu: Option<u16>,
    nodes: BTreeMap<String, Claim>,
    namespaces: BTreeMap<String, Namespace>,
    pods: BTreeMap<(String, String), Pod>,
    endpoints: BTreeMap<String, v1::Endpoint>,
    endpoint_addresses: BTreeMap<IpAddr, String>,
    /// Objects whose last word makes no sense by itself; the word before stays in force.
    invalid: BTreeMap<ObjectKey, String>,
    nodes_changed: bool,
    endpoints_changed: BTreeSet<String>,
    resolved: Resolved,
    withheld: BTreeMap<String, String>,
    objects: BTreeMap<v1::Key, v1::Object>,
}

impl Index {
    /// An empty index.
    pub fn new(settings: Settings) -> Self {
        Index {
            settings,
            uplink_mtu: None,
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            endpoint_addresses: BTreeMap::new(),
            invalid: BTreeMap::new(),
            nodes_changed: true,
            endpoints_changed: BTreeSet::new(),
            resolved: Resolved::default(),
            withheld: BTreeMap::new(),
            objects: BTreeMap::new(),
        }
    }

    /// Takes an object's new state. The error says what is wrong with it; what it said before stays in force.
    pub fn apply(&mut self, object: Object) -> Result<(), String> {
        let key = object.key();
        let outcome = match object {
            Object::Node(node) => NodeFacts::of(&node, self.settings.underlay).map(|facts| self.node(&key, facts)),
            Object::Namespace(namespace) => {
                self.namespaces.insert(key.name.clone(), namespace);
                Ok(())
            }
            Object::Pod(pod) => check_pod(&pod).map(|()| {
                self.pods.insert((key.namespace.clone(), key.name.clone()), pod);
            }),
        };
        match &outcome {
            Ok(()) => self.invalid.remove(&key),
            Err(reason) => self.invalid.insert(key, reason.clone()),
        };
        outcome
    }

    fn node(&mut self, key: &ObjectKey, facts: NodeFacts) {
        match self.nodes.get_mut(&key.name) {
            Some(claim) => self.nodes_changed |= claim.update(facts),
            None => {
                self.nodes.insert(key.name.clone(), Claim::new(facts));
                self.nodes_changed = true;
            }
        }
    }

    /// Forgets an object; one that is not there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.invalid.remove(key);
        match key.kind {
            Kind::Node => self.nodes_changed |= self.nodes.remove(&key.name).is_some(),
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
            }
            Kind::Pod => {
                self.pods.remove(&(key.namespace.clone(), key.name.clone()));
            }
        }
    }

    /// Says which MTU the uplink has, in bytes of IP packet; the local node is not told before.
    pub fn set_uplink_mtu(&mut self, mtu: u16) {
        self.nodes_changed |= self.uplink_mtu.replace(mtu) != Some(mtu);
    }

    /// Takes an endpoint of this node. The error says why it cannot be.
    pub fn attach(&mut self, endpoint: v1::Endpoint) -> Result<(), String> {
        for address in &endpoint.addresses {
            if let Some(other) = self.endpoint_addresses.get(address).filter(|other| **other != endpoint.id) {
                return Err(format!("{address} belongs to {other}"));
            }
        }
        self.detach(&endpoint.id);
        self.endpoint_addresses.extend(endpoint.addresses.iter().map(|a| (*a, endpoint.id.clone())));
        self.endpoints_changed.insert(endpoint.id.clone());
        self.endpoints.insert(endpoint.id.clone(), endpoint);
        Ok(())
    }

    /// Removes an endpoint; one that is not there is no error.
    pub fn detach(&mut self, id: &str) {
        if let Some(endpoint) = self.endpoints.remove(id) {
            for address in &endpoint.addresses {
                self.endpoint_addresses.remove(address);
            }
            self.endpoints_changed.insert(endpoint.id);
        }
    }

    /// Brings [`Index::objects`] up to date and answers what changed since the last call.
    pub fn settle(&mut self) -> Changes {
        let mut changes = Changes::new();
        if std::mem::take(&mut self.nodes_changed) {
            self.resolved = Resolved::of(&self.nodes);
            self.settle_nodes(&mut changes);
            // What nodes claim decides what endpoints may have.
            self.endpoints_changed.extend(self.endpoints.keys().cloned());
        }
        for id in std::mem::take(&mut self.endpoints_changed) {
            let endpoint = self.endpoints.get(&id).cloned();
            let reason = endpoint.as_ref().and_then(|endpoint| self.collision(endpoint));
            let wanted = endpoint.filter(|_| reason.is_none()).map(v1::Object::Endpoint);
            match reason {
                Some(reason) => self.withheld.insert(id.clone(), reason),
                None => self.withheld.remove(&id),
            };
            set(&mut self.objects, &mut changes, v1::Key::Endpoint(id), wanted);
        }
        changes
    }

    fn settle_nodes(&mut self, changes: &mut Changes) {
        let own = &self.settings.node;
        let local = self.resolved.nodes.get(own).and_then(|facts| self.local_node(facts));
        set(&mut self.objects, changes, v1::Key::Local, local.map(v1::Object::Local));
        let gone = self.objects.keys().filter(|key| match key {
            v1::Key::Peer(name) => !self.resolved.nodes.contains_key(name),
            v1::Key::Local | v1::Key::Endpoint(_) | v1::Key::Service(_) => false,
        });
        for key in gone.cloned().collect::<Vec<_>>() {
            set(&mut self.objects, changes, key, None);
        }
        for (name, facts) in self.resolved.nodes.iter().filter(|(name, _)| *name != own) {
            let peer = v1::Peer {
                name: name.clone(),
                vtep: facts.vtep,
                addresses: facts.addresses.clone(),
                pod_cidrs: facts.pod_cidrs.clone(),
            };
            set(&mut self.objects, changes, v1::Key::Peer(name.clone()), Some(v1::Object::Peer(peer)));
        }
    }

    fn local_node(&self, facts: &NodeFacts) -> Option<v1::LocalNode> {
        let pod_mtu = self.pod_mtu().filter(|mtu| *mtu >= MIN_MTU)?;
        Some(v1::LocalNode {
            name: self.settings.node.clone(),
            vtep: facts.vtep,
            addresses: facts.addresses.clone(),
            pod_cidrs: facts.pod_cidrs.clone(),
            vni: self.settings.vni,
            pod_mtu,
            service_cidrs: Vec::new(),
            no_masquerade: Vec::new(),
            masquerade: None,
            cluster_seed: [0; 2],
        })
    }

    /// Why an endpoint's addresses cannot be used: the dataplane would refuse a whole transaction for it.
    fn collision(&self, endpoint: &v1::Endpoint) -> Option<String> {
        let advice = "delete the pod, so that it is made again with another address";
        endpoint.addresses.iter().find_map(|&address| match self.resolved.range_at(address) {
            Some((net, owner)) if owner != self.settings.node => {
                Some(format!("{address} lies in {net}, which is now the range of node {owner}: {advice}"))
            }
            Some((net, _)) => {
                let own = number(net.network()) + 1;
                (number(address) == own).then(|| format!("{address} is the node's own in {net}: {advice}"))
            }
            None => {
                let owner = self.resolved.owner(address)?;
                Some(format!("{address} is now an address of node {owner}: {advice}"))
            }
        })
    }

    /// All that should be in force, as of the last [`Index::settle`].
    pub fn objects(&self) -> &BTreeMap<v1::Key, v1::Object> {
        &self.objects
    }

    /// This node, if its Node object is there and in force, as of the last [`Index::settle`].
    pub fn local(&self) -> Option<&NodeFacts> {
        self.resolved.nodes.get(&self.settings.node)
    }

    /// The pods' MTU in bytes, once the uplink's is known.
    pub fn pod_mtu(&self) -> Option<u16> {
        self.uplink_mtu.map(|mtu| mtu.saturating_sub(self.settings.underlay.overhead()))
    }

    /// Why no pod can be connected on this node, as of the last [`Index::settle`].
    pub fn obstacle(&self) -> Option<String> {
        let node = &self.settings.node;
        let Some(local) = self.local() else {
            let key = ObjectKey { kind: Kind::Node, namespace: String::new(), name: node.clone() };
            return Some(match self.invalid.get(&key).or_else(|| self.resolved.refused.get(node)) {
                Some(reason) => format!("this node's Node object \"{node}\" cannot be used: {reason}"),
                None => format!("there is no Node object \"{node}\" yet (is --node right?)"),
            });
        };
        if local.pod_cidrs.is_empty() {
            return Some(format!("Node \"{node}\" has no spec.podCIDRs yet: a controller must give it a range"));
        }
        match (self.uplink_mtu, self.pod_mtu()) {
            (Some(uplink), Some(mtu)) if mtu < MIN_MTU => Some(format!(
                "the uplink's MTU of {uplink} leaves {mtu} bytes for pods, {MIN_MTU} is the least: \
                 raise the uplink's MTU to {} or more",
                MIN_MTU + self.settings.underlay.overhead()
            )),
            _ => None,
        }
    }

    /// The ranges of all nodes' pods, as of the last [`Index::settle`].
    pub fn pod_ranges(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.resolved.nodes.values().flat_map(|facts| facts.pod_cidrs.iter().copied())
    }

    /// Objects whose last state is not in force, with the reason, as of the last [`Index::settle`].
    pub fn refused(&self) -> impl Iterator<Item = (ObjectKey, &str)> {
        let of_node = |name: &String| ObjectKey { kind: Kind::Node, namespace: String::new(), name: name.clone() };
        let invalid = self.invalid.iter().map(|(key, reason)| (key.clone(), reason.as_str()));
        invalid.chain(self.resolved.refused.iter().map(move |(name, reason)| (of_node(name), reason.as_str())))
    }

    /// Endpoints that are not told to the dataplane, as of the last [`Index::settle`].
    pub fn withheld(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.withheld.iter().map(|(id, reason)| Withheld { id: id.clone(), reason: reason.clone() })
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }
}

fn set(objects: &mut BTreeMap<v1::Key, v1::Object>, changes: &mut Changes, key: v1::Key, object: Option<v1::Object>) {
    if objects.get(&key) == object.as_ref() {
        return;
    }
    match &object {
        Some(object) => objects.insert(key.clone(), object.clone()),
        None => objects.remove(&key),
    };
    changes.insert(key, object);
}

fn check_pod(pod: &Pod) -> Result<(), String> {
    for ip in pod.status.pod_ips.iter().flatten() {
        match ip.ip.parse() {
            Ok(address) if is_unicast(address) => {}
            _ => return Err(format!("status.podIPs: \"{}\" is no address of a pod", ip.ip)),
        }
    }
    Ok(())
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests;
