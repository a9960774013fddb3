//! The index itself.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podplane_config::v1;
use podplane_config::valid::MIN_MTU;

use crate::k8s::{Kind, Object, ObjectKey, Pod, PodIp};
use crate::node::{NodeFacts, OwnNode, is_unicast};
use crate::nodes::{Claim, Resolved};
use crate::policy::{PodIdentity, Policy, Verdict};
use crate::services::{Context, Services};
use crate::settings::Settings;
use crate::stated::StatedTimes;
use crate::surroundings::{CidrFacts, HostPorts, Surroundings, service_cidrs};
use crate::told::{Changes, Told};

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
    policy: Policy,
    services: Services,
    cidrs: BTreeMap<String, CidrFacts>,
    cidrs_refused: BTreeMap<String, String>,
    cidrs_changed: bool,
    surroundings: Surroundings,
    endpoints: BTreeMap<String, v1::Endpoint>,
    endpoint_addresses: BTreeMap<IpAddr, String>,
    /// Objects whose last word makes no sense by itself; the word before stays in force.
    invalid: BTreeMap<ObjectKey, String>,
    nodes_changed: bool,
    endpoints_changed: BTreeSet<String>,
    resolved: Resolved,
    withheld: BTreeMap<String, String>,
    /// Host ports that are not told to the dataplane, by endpoint.
    host_ports_refused: BTreeMap<String, String>,
    told: Told,
    stated: StatedTimes,
    own: Option<OwnNode>,
}

impl Index {
    /// An empty index.
    pub fn new(settings: Settings) -> Self {
        Index {
            settings,
            uplink_mtu: None,
            nodes: BTreeMap::new(),
            policy: Policy::default(),
            services: Services::default(),
            cidrs: BTreeMap::new(),
            cidrs_refused: BTreeMap::new(),
            cidrs_changed: false,
            surroundings: Surroundings::default(),
            endpoints: BTreeMap::new(),
            endpoint_addresses: BTreeMap::new(),
            invalid: BTreeMap::new(),
            nodes_changed: true,
            endpoints_changed: BTreeSet::new(),
            resolved: Resolved::default(),
            withheld: BTreeMap::new(),
            host_ports_refused: BTreeMap::new(),
            told: Told::default(),
            stated: StatedTimes::default(),
            own: None,
        }
    }

    /// Takes an object's new state. The error says what is wrong with it; what it said before stays in force.
    pub fn apply(&mut self, object: Object) -> Result<(), String> {
        let key = object.key();
        if let Object::Node(node) = &object
            && node.metadata.name == self.settings.node
        {
            self.own = Some(OwnNode::of(node));
        }
        let outcome = match object {
            Object::Node(node) => NodeFacts::of(&node, self.settings.underlay).map(|facts| {
                self.policy.node(&node);
                self.node(&key, facts);
            }),
            Object::Namespace(namespace) => {
                self.policy.namespace(&namespace);
                Ok(())
            }
            Object::Pod(pod) => pod_addresses(&pod).and_then(|addresses| self.policy.pod(&key, &pod, addresses)),
            Object::NetworkPolicy(policy) | Object::ClusterNetworkPolicy(policy) => {
                self.policy.policy(&key, &policy.spec)
            }
            Object::Service(service) => self.services.service(key.path(), &service, &self.settings),
            Object::EndpointSlice(slice) => {
                self.stated.apply(key.path(), &slice);
                self.services.slice(key.path(), &slice)
            }
            Object::ServiceCidr(cidr) => CidrFacts::of(&cidr).map(|facts| {
                self.cidrs_changed |= self.cidrs.insert(key.name.clone(), facts.clone()) != Some(facts);
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

    /// What this node's object says of the node's life, also where the object is refused otherwise.
    pub fn own_node(&self) -> Option<&OwnNode> {
        self.own.as_ref()
    }

    /// Forgets an object; one that is not there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.invalid.remove(key);
        match key.kind {
            Kind::Node => {
                self.policy.remove_node(&key.name);
                self.own.take_if(|_| key.name == self.settings.node);
                self.nodes_changed |= self.nodes.remove(&key.name).is_some();
            }
            Kind::Namespace => self.policy.remove_namespace(&key.name),
            Kind::Pod => self.policy.remove_pod(key),
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => self.policy.remove_policy(key),
            Kind::Service => self.services.remove_service(&key.path(), &self.settings),
            Kind::EndpointSlice => {
                self.stated.delete(&key.path());
                self.services.remove_slice(&key.path());
            }
            Kind::ServiceCidr => self.cidrs_changed |= self.cidrs.remove(&key.name).is_some(),
        }
    }

    /// Forgets a pod, if it is the one with this UID: a delete that comes late must not take away the pod that has the
    /// name by now. One whose object never made sense has no UID and is forgotten. Answers whether it was.
    pub fn delete_pod(&mut self, key: &ObjectKey, uid: &str) -> bool {
        let is_it = self.policy.pod_uid(key).is_none_or(|known| known == uid);
        if is_it {
            self.delete(key);
        }
        is_it
    }

    /// Whether an object was applied and not deleted.
    pub fn knows(&self, key: &ObjectKey) -> bool {
        match key.kind {
            Kind::Pod => self.policy.pod_uid(key).is_some(),
            kind => self.keys(kind).contains(key),
        }
    }

    /// The objects of a kind that were applied and not deleted, those that were refused among them: for a source that
    /// has listed all there are and has to forget the others.
    pub fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        let of = |path: &str| {
            let (namespace, name) = path.split_once('/').unwrap_or(("", path));
            ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
        };
        let mut keys: BTreeSet<ObjectKey> = self.invalid.keys().filter(|key| key.kind == kind).cloned().collect();
        match kind {
            Kind::Node => keys.extend(self.nodes.keys().map(|name| of(name))),
            Kind::Service => keys.extend(self.services.paths().map(of)),
            Kind::EndpointSlice => keys.extend(self.services.slice_paths().map(of)),
            Kind::ServiceCidr => keys.extend(self.cidrs.keys().map(|name| of(name))),
            Kind::Namespace | Kind::Pod | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => {
                keys.extend(self.policy.keys(kind));
            }
        }
        keys
    }

    /// Says which MTU the uplink has, in bytes of IP packet; the local node is not told before.
    pub fn set_uplink_mtu(&mut self, mtu: u16) {
        self.nodes_changed |= self.uplink_mtu.replace(mtu) != Some(mtu);
    }

    /// Takes an endpoint of this node that belongs to no pod: no policy selects it. The error says why it cannot be.
    pub fn attach(&mut self, endpoint: v1::Endpoint) -> Result<(), String> {
        self.attach_to(endpoint, None, false)
    }

    /// Takes an endpoint of this node; what it says of its policy is filled in here. The dataplane is not told of it
    /// before its pod's object and namespace are known; where the endpoint was connected before this agent started
    /// (`kept`) it is told, and denied everything. The error says why it cannot be.
    pub fn attach_to(&mut self, endpoint: v1::Endpoint, pod: Option<PodIdentity>, kept: bool) -> Result<(), String> {
        for address in &endpoint.addresses {
            if let Some(other) = self.endpoint_addresses.get(address).filter(|other| **other != endpoint.id) {
                return Err(format!("{address} belongs to {other}"));
            }
        }
        for address in self.endpoints.get(&endpoint.id).iter().flat_map(|known| &known.addresses) {
            self.endpoint_addresses.remove(address);
        }
        self.endpoint_addresses.extend(endpoint.addresses.iter().map(|a| (*a, endpoint.id.clone())));
        self.endpoints_changed.insert(endpoint.id.clone());
        self.policy.attach(&endpoint.id, &endpoint.addresses, pod, kept);
        self.endpoints.insert(endpoint.id.clone(), endpoint);
        Ok(())
    }

    /// Removes an endpoint; one that is not there is no error.
    pub fn detach(&mut self, id: &str) {
        if let Some(endpoint) = self.endpoints.remove(id) {
            for address in &endpoint.addresses {
                self.endpoint_addresses.remove(address);
            }
            self.policy.detach(&endpoint.id);
            self.endpoints_changed.insert(endpoint.id);
        }
    }

    /// Why a new endpoint `id` cannot have a host port, and who has it. Of what is attached nobody is asked again: a
    /// running pod keeps its host ports, and a Service that comes later does without.
    pub fn host_port_conflict(&self, id: &str, wanted: &v1::HostPort) -> Option<String> {
        let mut held = HostPorts::default();
        for (_, endpoint) in self.endpoints.iter().filter(|(other, _)| *other != id) {
            endpoint.host_ports.iter().for_each(|port| held.add(endpoint, port));
        }
        let own = &self.surroundings.addresses;
        let what = format!("host port {} {}", wanted.port, wanted.protocol);
        if let Some(holder) = held.conflict(wanted, own) {
            return Some(format!("{what} is taken: {holder} has it"));
        }
        if let Some(holder) = self.services.holder(own, wanted.address, wanted.protocol, wanted.port) {
            return Some(format!("{what} is taken: Service {holder} is served there"));
        }
        self.surroundings.host_port_problem(wanted)
    }

    /// The times (RFC 3339) at which the endpoints of slices changed that were applied since the last call, as their
    /// controller states them: for measuring how long it took until they are in force.
    pub fn take_stated_times(&mut self) -> Vec<String> {
        self.stated.take()
    }

    /// Brings [`Index::objects`] up to date and answers what changed since the last call.
    pub fn settle(&mut self) -> Changes {
        let (nodes_changed, cidrs_changed) =
            (std::mem::take(&mut self.nodes_changed), std::mem::take(&mut self.cidrs_changed));
        if nodes_changed || cidrs_changed {
            if nodes_changed {
                self.resolved = Resolved::of(&self.nodes);
                // What nodes claim decides what endpoints may have.
                self.endpoints_changed.extend(self.endpoints.keys().cloned());
            }
            let cidrs = service_cidrs(&self.cidrs, &self.settings.service_cidrs, &self.resolved);
            self.cidrs_refused = cidrs.1;
            let surroundings = Surroundings {
                host_ports: self.surroundings.host_ports.clone(),
                ..Surroundings::of(&self.settings, self.local(), cidrs.0)
            };
            if nodes_changed || surroundings != self.surroundings {
                self.surroundings = surroundings;
                self.services.touch_all();
            }
            self.settle_nodes();
        }
        self.endpoints_changed.extend(self.policy.settle(&mut self.told));
        if !self.endpoints_changed.is_empty() {
            self.settle_endpoints();
        }
        let context = Context { settings: &self.settings, nodes: &self.resolved, here: &self.surroundings };
        self.services.settle(context, |key, object| self.told.set(key, object));
        self.told.take_changes()
    }

    fn settle_endpoints(&mut self) {
        let mut changed = std::mem::take(&mut self.endpoints_changed);
        let before = self.host_ports_refused.clone();
        let mut granted = self.grant_host_ports();
        // A host port that one gives up may be another's now.
        let affected = |id: &&String| self.host_ports_refused.get(*id) != before.get(*id);
        changed.extend(self.endpoints.keys().filter(affected).cloned());
        for id in changed {
            let mut endpoint = self.endpoints.get(&id).cloned();
            let mut reason = endpoint.as_ref().and_then(|endpoint| self.collision(endpoint));
            if let Some(endpoint) = &mut endpoint {
                endpoint.host_ports = granted.remove(&id).unwrap_or_default();
                match self.policy.verdict(&id) {
                    Some(Verdict::Rules(policy, _)) => endpoint.policy = *policy,
                    Some(Verdict::Withheld(why)) => reason = reason.or_else(|| Some(why.clone())),
                    None => {}
                }
            }
            let wanted = endpoint.filter(|_| reason.is_none()).map(v1::Object::Endpoint);
            match reason {
                Some(reason) => self.withheld.insert(id.clone(), reason),
                None => self.withheld.remove(&id),
            };
            self.told.set(v1::Key::Endpoint(id), wanted);
        }
    }

    /// Which host ports each endpoint has; where the node's addresses changed so that two collide, the first by
    /// identity keeps its own.
    fn grant_host_ports(&mut self) -> BTreeMap<String, Vec<v1::HostPort>> {
        let (mut held, mut granted) = (HostPorts::default(), BTreeMap::new());
        self.host_ports_refused.clear();
        for (id, endpoint) in &self.endpoints {
            let mut ports: Vec<v1::HostPort> = Vec::new();
            for port in &endpoint.host_ports {
                let taken = held.conflict(port, &self.surroundings.addresses);
                let taken = taken.map(|holder| format!("host port {} {}: {holder} has it", port.port, port.protocol));
                match taken.or_else(|| self.surroundings.host_port_problem(port)) {
                    Some(reason) => drop(self.host_ports_refused.insert(id.clone(), reason)),
                    None => {
                        held.add(endpoint, port);
                        ports.push(port.clone());
                    }
                }
            }
            granted.insert(id.clone(), ports);
        }
        for (protocol, port) in held.differ(&self.surroundings.host_ports) {
            // Also at addresses that are not the node's: a host port may name any.
            let named =
                self.endpoints.values().flat_map(|endpoint| &endpoint.host_ports).filter_map(|port| port.address);
            let addresses: Vec<IpAddr> = self.surroundings.addresses.iter().copied().chain(named).collect();
            self.services.touch_port(addresses.into_iter(), protocol, port);
        }
        self.surroundings.host_ports = held;
        granted
    }

    fn settle_nodes(&mut self) {
        let own = &self.settings.node;
        let local = self.resolved.nodes.get(own).and_then(|facts| self.local_node(facts));
        self.told.set(v1::Key::Local, local.map(v1::Object::Local));
        let gone = self.told.objects().keys().filter(|key| match key {
            v1::Key::Peer(name) => !self.resolved.nodes.contains_key(name),
            _ => false,
        });
        for key in gone.cloned().collect::<Vec<_>>() {
            self.told.set(key, None);
        }
        for (name, facts) in self.resolved.nodes.iter().filter(|(name, _)| *name != own) {
            let peer = v1::Peer {
                name: name.clone(),
                vtep: facts.vtep,
                addresses: facts.addresses.clone(),
                pod_cidrs: facts.pod_cidrs.clone(),
            };
            self.told.set(v1::Key::Peer(name.clone()), Some(v1::Object::Peer(peer)));
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
            service_cidrs: self.surroundings.service_cidrs.clone(),
            no_masquerade: self.settings.no_masquerade.clone(),
            masquerade: Some(v1::Masquerade {
                addresses: facts.primary.clone(),
                ports: self.settings.masquerade_ports,
            }),
            cluster_seed: self.settings.cluster_seed(),
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
}

/// The addresses that a pod's status shows.
fn pod_addresses(pod: &Pod) -> Result<Vec<IpAddr>, String> {
    let read = |ip: &PodIp| match ip.ip.parse() {
        Ok(address) if is_unicast(address) => Ok(address),
        // One of the host network shows what its node has.
        Ok(address) if pod.spec.host_network == Some(true) => Ok(address),
        _ => Err(format!("status.podIPs: \"{}\" is no address of a pod", ip.ip)),
    };
    pod.status.pod_ips.iter().flatten().map(read).collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
