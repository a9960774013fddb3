//! The index itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1;
use podplane_config::valid::MIN_MTU;

use crate::k8s::{Kind, Object, ObjectKey, Pod, PodIp};
use crate::node::{Family, NodeFacts, is_unicast};
use crate::nodes::{Claim, Resolved};
use crate::policy::{PodIdentity, PodPolicyReport, Policy, PolicyReport, Verdict};
use crate::services::{Context, HealthCheck, ServiceReport, Services};
use crate::surroundings::{CidrFacts, HostPorts, NodePortAddresses, Surroundings, service_cidrs};
use crate::told::{Changes, Told};

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
    fn cluster_seed(&self) -> [u64; 2] {
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
        }
    }

    /// Takes an object's new state. The error says what is wrong with it; what it said before stays in force.
    pub fn apply(&mut self, object: Object) -> Result<(), String> {
        let key = object.key();
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
            Object::EndpointSlice(slice) => self.services.slice(key.path(), &slice),
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

    /// Forgets an object; one that is not there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.invalid.remove(key);
        match key.kind {
            Kind::Node => {
                self.policy.remove_node(&key.name);
                self.nodes_changed |= self.nodes.remove(&key.name).is_some();
            }
            Kind::Namespace => self.policy.remove_namespace(&key.name),
            Kind::Pod => self.policy.remove_pod(key),
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => self.policy.remove_policy(key),
            Kind::Service => self.services.remove_service(&key.path(), &self.settings),
            Kind::EndpointSlice => self.services.remove_slice(&key.path()),
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

    /// All that should be in force, as of the last [`Index::settle`].
    pub fn objects(&self) -> &BTreeMap<v1::Key, v1::Object> {
        self.told.objects()
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

    /// Objects that are not, or not wholly, in force, with the reason, as of the last [`Index::settle`].
    pub fn refused(&self) -> impl Iterator<Item = (ObjectKey, &str)> {
        let cluster = |kind: Kind, name: &String| ObjectKey { kind, namespace: String::new(), name: name.clone() };
        let invalid = self.invalid.iter().map(|(key, reason)| (key.clone(), reason.as_str()));
        let nodes = self.resolved.refused.iter();
        let nodes = nodes.map(move |(name, reason)| (cluster(Kind::Node, name), reason.as_str()));
        let cidrs = self.cidrs_refused.iter();
        let cidrs = cidrs.map(move |(name, reason)| (cluster(Kind::ServiceCidr, name), reason.as_str()));
        let services = self.services.problems().map(|(kind, path, reason)| {
            let (namespace, name) = path.split_once('/').unwrap_or(("", path));
            (ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }, reason)
        });
        let policies = self.policy.problems().map(|(key, problem)| (key.clone(), problem));
        invalid.chain(nodes).chain(cidrs).chain(services).chain(policies)
    }

    /// Host ports of endpoints that are not in force, with the reason, as of the last [`Index::settle`].
    pub fn refused_host_ports(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.host_ports_refused.iter().map(|(id, reason)| Withheld { id: id.clone(), reason: reason.clone() })
    }

    /// All Services with what became of each endpoint, as of the last [`Index::settle`].
    pub fn services(&self) -> Vec<ServiceReport> {
        let context = Context { settings: &self.settings, nodes: &self.resolved, here: &self.surroundings };
        self.services.report(context, |path| match self.told.get(&v1::Key::Service(path.to_owned())) {
            Some(v1::Object::Service(service)) => Some(service),
            _ => None,
        })
    }

    /// What load balancers may ask this node about its endpoints, as of the last [`Index::settle`].
    pub fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.services.health_checks()
    }

    /// What of this node's own traffic concerns the dataplane, as of the last [`Index::settle`]. `None` before this
    /// node is known.
    pub fn node_traffic(&self) -> Option<NodeTraffic> {
        let here = &self.surroundings;
        self.local()?;
        let endpoints = self.told.objects().values().filter_map(|object| match object {
            v1::Object::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        let host_ports = endpoints.flat_map(|endpoint| &endpoint.host_ports);
        let is_elsewhere =
            |address: &IpAddr| self.resolved.owner(*address).is_some_and(|name| name != self.settings.node);
        Some(NodeTraffic {
            service_cidrs: here.service_cidrs.clone(),
            addresses: here.addresses.clone(),
            node_port_addresses: here.node_port_addresses.clone(),
            node_ports: self.settings.node_ports,
            masquerade_ports: self.settings.masquerade_ports,
            outer: self.services.outer().iter().filter(|place| !is_elsewhere(&place.0)).copied().collect(),
            host_ports: host_ports.map(|port| (port.address, port.protocol, port.port)).collect(),
        })
    }

    /// Endpoints that are not told to the dataplane, as of the last [`Index::settle`].
    pub fn withheld(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.withheld.iter().map(|(id, reason)| Withheld { id: id.clone(), reason: reason.clone() })
    }

    /// Whether an endpoint is withheld because of what is not known of its pod yet: that may come any moment.
    pub fn awaits_pod(&self, id: &str) -> Option<&str> {
        match self.policy.verdict(id) {
            Some(Verdict::Withheld(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Endpoints that deny everything because their pods' policy is not known, with the reason, as of the last
    /// [`Index::settle`].
    pub fn denied(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.endpoints.keys().filter_map(|id| match self.policy.verdict(id)? {
            Verdict::Rules(_, Some(reason)) => Some(Withheld { id: id.clone(), reason: reason.clone() }),
            _ => None,
        })
    }

    /// What policies do not know for lack of room, and what follows from it, as of the last [`Index::settle`].
    pub fn shortages(&self) -> Vec<String> {
        self.policy.shortages()
    }

    #[cfg(test)]
    pub(crate) fn limits(&mut self) -> &mut crate::policy::Limits {
        self.policy.limits()
    }

    /// All policies, as of the last [`Index::settle`].
    pub fn policies(&self) -> Vec<PolicyReport> {
        self.policy.policies()
    }

    /// What applies to each endpoint of this node, as of the last [`Index::settle`].
    pub fn pod_policies(&self) -> Vec<PodPolicyReport> {
        self.policy.pod_policies()
    }

    /// Selectors, rules and lists of rules that are kept.
    pub fn policy_sizes(&self) -> [usize; 3] {
        self.policy.sizes()
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
