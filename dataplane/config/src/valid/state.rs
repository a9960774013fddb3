//! The configuration in force, and what a transaction makes of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;

use super::{Endpoint, LocalNode, Peer, Policy, Refusal, Service, Transaction, objects, policy, refuse, service};
use super::{MAX_BACKENDS, MAX_ENDPOINTS, MAX_FRONTENDS, MAX_PEERS, MAX_SERVICES};
use crate::v1::{self, Protocol};

/// What belongs to one frontend or host port only: address, protocol, port.
pub type Claim = (IpAddr, Protocol, u16);

/// The configuration in force. Copies share what is alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// This node; without it nothing is forwarded for pods.
    pub local: Option<LocalNode>,
    /// The other nodes by name.
    pub peers: OrdMap<String, Peer>,
    /// The endpoints by identity.
    pub endpoints: OrdMap<String, Endpoint>,
    /// The Services by name. One that a transaction does not change stays the same allocation.
    pub services: OrdMap<Arc<str>, Arc<Service>>,
    /// Owners of addresses, rules and rule sets.
    pub policy: Policy,
    /// Which Service has which frontend.
    claims: HashMap<Claim, Arc<str>>,
    /// Which endpoint has which host port.
    host_claims: Arc<BTreeMap<Claim, String>>,
    frontends: usize,
    backends: usize,
}

/// What a transaction has changed beside Services.
#[derive(Default)]
struct Touched {
    nodes: bool,
    endpoints: bool,
    policy: policy::Touched,
}

impl State {
    /// The state after `transaction`, or why it is refused; `self` is what it was in both cases.
    pub fn apply(&self, transaction: &Transaction) -> Result<State, Refusal> {
        let mut next = if transaction.full { State::default() } else { self.clone() };
        let mut touched =
            Touched { nodes: transaction.full, endpoints: transaction.full, policy: policy::Touched::default() };
        let (mut services, unknown) = (Vec::new(), Policy::default());
        for (key, object) in &transaction.changes {
            match (key, object) {
                (v1::Key::Service(name), None) => next.remove_service(name),
                (v1::Key::Service(name), Some(v1::Object::Service(raw))) => {
                    next.remove_service(name);
                    services.push(self.checked(raw)?);
                }
                (v1::Key::Address(_) | v1::Key::Rule(_) | v1::Key::RuleSet(_), object) => {
                    next.policy.change(key, object.as_ref(), &self.policy, &mut touched.policy)?;
                }
                _ => next.change(key, object.as_ref(), &mut touched)?,
            }
        }
        // Only now: what one Service gives up, another may have.
        for service in &services {
            next.add_service(service)?;
        }
        next.check(&touched, &services)?;
        next.check_policy(&touched, if transaction.full { &unknown } else { &self.policy })?;
        Ok(next)
    }

    /// The Service that has an address, protocol and port as its frontend.
    pub fn claimed_by(&self, claim: &Claim) -> Option<&Arc<str>> {
        self.claims.get(claim)
    }

    /// The host ports as they are served: of each the place, and the endpoint's identity. One without an address of
    /// its own stands there for each of the node's.
    pub fn host_ports(&self) -> &BTreeMap<Claim, String> {
        &self.host_claims
    }

    /// The valid form of `raw`: the one in force, if it says the same.
    fn checked(&self, raw: &v1::Service) -> Result<Arc<Service>, Refusal> {
        let new = service::service(raw)?;
        Ok(match self.services.get(&new.name) {
            Some(old) if **old == new => Arc::clone(old),
            _ => Arc::new(new),
        })
    }

    fn remove_service(&mut self, name: &str) {
        let Some(service) = self.services.remove(name) else { return };
        for port in &service.ports {
            for frontend in &port.frontends {
                self.claims.remove(&(frontend.address, port.protocol, frontend.port));
            }
            self.frontends -= port.frontends.len();
            self.backends -= port.backends();
        }
    }

    fn add_service(&mut self, service: &Arc<Service>) -> Result<(), Refusal> {
        for port in &service.ports {
            for frontend in &port.frontends {
                let claim = (frontend.address, port.protocol, frontend.port);
                if let Some(other) = self.claims.insert(claim, Arc::clone(&service.name)) {
                    return refuse_claim(&service.name, &claim, &format!("Service {other}"));
                }
            }
            self.frontends += port.frontends.len();
            self.backends += port.backends();
        }
        self.services.insert(Arc::clone(&service.name), Arc::clone(service));
        Ok(())
    }

    fn change(&mut self, key: &v1::Key, object: Option<&v1::Object>, touched: &mut Touched) -> Result<(), Refusal> {
        match (key, object) {
            (_, Some(v1::Object::Local(raw))) => self.local = Some(objects::local(raw)?),
            (_, Some(v1::Object::Peer(raw))) => drop(self.peers.insert(raw.name.clone(), objects::peer(raw)?)),
            (_, Some(v1::Object::Endpoint(raw))) => {
                self.endpoints.insert(raw.id.clone(), objects::endpoint(raw)?);
            }
            (v1::Key::Local, None) => self.local = None,
            (v1::Key::Peer(name), None) => drop(self.peers.remove(name)),
            (v1::Key::Endpoint(id), None) => drop(self.endpoints.remove(id)),
            // Services and policy are not changed here.
            _ => {}
        }
        match key {
            v1::Key::Local | v1::Key::Peer(_) => touched.nodes = true,
            v1::Key::Endpoint(_) => touched.endpoints = true,
            _ => {}
        }
        Ok(())
    }

    /// What no object can know of itself.
    fn check(&mut self, touched: &Touched, services: &[Arc<Service>]) -> Result<(), Refusal> {
        for (what, count, limit) in [
            ("nodes", self.peers.len(), MAX_PEERS),
            ("endpoints of this node", self.endpoints.len(), MAX_ENDPOINTS),
            ("Services", self.services.len(), MAX_SERVICES),
            ("frontends of Services", self.frontends, MAX_FRONTENDS),
            ("backends in sets of Services", self.backends, MAX_BACKENDS),
        ] {
            if count > limit {
                return refuse(what, format!("{count}; this dataplane takes {limit}"));
            }
        }
        if touched.nodes {
            self.check_nodes()?;
        }
        if touched.nodes || touched.endpoints {
            self.check_endpoints()?;
            self.host_claims = Arc::new(self.claim_host_ports()?);
            for (claim, id) in &*self.host_claims {
                if let Some(service) = self.claims.get(claim) {
                    return refuse_claim(service, claim, &format!("endpoint {id}"));
                }
            }
        }
        if touched.nodes {
            self.check_masquerade(self.claims.iter().map(|(claim, service)| (claim, &**service)))?;
        }
        for service in services {
            self.check_service(service)?;
        }
        Ok(())
    }

    /// `before`: the policy that this one was made from.
    fn check_policy(&self, touched: &Touched, before: &Policy) -> Result<(), Refusal> {
        self.policy.check(&touched.policy, before)?;
        if touched.endpoints || touched.policy.concerns_endpoints() {
            self.endpoints.iter().try_for_each(|(id, endpoint)| self.policy.check_endpoint(id, endpoint))?;
        }
        Ok(())
    }

    fn check_service(&self, service: &Service) -> Result<(), Refusal> {
        for port in &service.ports {
            for frontend in &port.frontends {
                let claim = (frontend.address, port.protocol, frontend.port);
                if let Some(id) = self.host_claims.get(&claim) {
                    return refuse_claim(&service.name, &claim, &format!("endpoint {id}"));
                }
                self.check_masquerade([(&claim, &*service.name)].into_iter())?;
            }
        }
        Ok(())
    }

    /// Ports for what leaves the cluster serve nothing else.
    fn check_masquerade<'a>(&self, claims: impl Iterator<Item = (&'a Claim, &'a str)>) -> Result<(), Refusal> {
        let Some(masquerade) = self.local.as_ref().and_then(|local| local.masquerade) else { return Ok(()) };
        for (claim, owner) in claims {
            if masquerade.has(claim.0, claim.2) {
                let what = format!("the ports {} to {} for what leaves the cluster", masquerade.first, masquerade.last);
                return refuse_claim(owner, claim, &what);
            }
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), Refusal> {
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut ranges: Vec<(IpNet, String)> = Vec::new();
        let local = self.local.iter().map(|n| (format!("this node ({})", n.name), n.vtep, &n.addresses, n.pod_cidrs));
        let peers = self.peers.iter().map(|(name, p)| (format!("node {name}"), p.vtep, &p.addresses, p.pod_cidrs));
        for (name, vtep, addresses, cidrs) in local.chain(peers) {
            if let Some(local) = self.local.as_ref().filter(|local| local.vtep.is_ipv4() != vtep.is_ipv4()) {
                return refuse(name, format!("its VTEP {vtep} is not of the family of ours, {}", local.vtep));
            }
            for &address in addresses {
                if let Some(owner) = owners.insert(address, name.clone()) {
                    return refuse(name, format!("its address {address} is also that of {owner}"));
                }
            }
            ranges.extend(cidrs.iter().map(|net| (net, name.clone())));
        }
        check_ranges(&mut ranges, &owners)?;
        for net in self.local.iter().flat_map(|local| &local.service_cidrs) {
            check_service_cidr(net, &ranges, &owners)?;
        }
        Ok(())
    }

    fn check_endpoints(&self) -> Result<(), Refusal> {
        let mut owners = BTreeMap::new();
        let mut devices = BTreeMap::new();
        let nodes = self.local.iter().flat_map(|n| n.addresses.iter().copied().chain(n.pod_cidrs.gateways().iter()));
        for address in nodes.chain(self.peers.values().flat_map(|p| p.addresses.iter().copied())) {
            owners.insert(address, "a node");
        }
        for (id, endpoint) in &self.endpoints {
            for address in endpoint.addresses.iter() {
                if let Some(owner) = owners.insert(address, id) {
                    return refuse(format!("endpoint {id}"), format!("its address {address} is also that of {owner}"));
                }
            }
            let v1::PortKind::Veth { host_ifname } = &endpoint.port;
            if let Some(other) = devices.insert(host_ifname, id) {
                return refuse(format!("endpoint {id}"), format!("its device {host_ifname} is also that of {other}"));
            }
        }
        Ok(())
    }

    fn claim_host_ports(&self) -> Result<BTreeMap<Claim, String>, Refusal> {
        let own: Vec<IpAddr> = self.local.iter().flat_map(|local| local.addresses.iter().copied()).collect();
        let mut claims: BTreeMap<Claim, String> = BTreeMap::new();
        for (id, endpoint) in &self.endpoints {
            for port in &endpoint.host_ports {
                let everywhere = || own.iter().copied().chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
                let places: Vec<IpAddr> = port.address.map_or_else(|| everywhere().collect(), |address| vec![address]);
                for address in places.into_iter().filter(|address| endpoint.addresses.has_family_of(*address)) {
                    let claim = (address, port.protocol, port.port);
                    if let Some(other) = claims.insert(claim, id.clone()) {
                        return refuse_claim(id, &claim, &format!("endpoint {other}"));
                    }
                    self.check_masquerade([(&claim, id.as_str())].into_iter())?;
                }
            }
        }
        Ok(claims)
    }
}

fn refuse_claim<T>(object: &str, (address, protocol, port): &Claim, other: &str) -> Result<T, Refusal> {
    refuse(object, format!("{address} port {port} {protocol} also belongs to {other}"))
}

/// Ranges of pods overlap neither each other nor any node's address. Leaves them sorted.
fn check_ranges(ranges: &mut [(IpNet, String)], nodes: &BTreeMap<IpAddr, String>) -> Result<(), Refusal> {
    // Sorted by network, an overlap is always with the widest range that began before.
    ranges.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    for pair in ranges.windows(2) {
        let ((before, owner), (net, name)) = (&pair[0], &pair[1]);
        if before.contains(&net.network()) {
            return refuse(name, format!("its pods' range {net} overlaps {before} of {owner}"));
        }
    }
    for (net, name) in ranges {
        if let Some((address, owner)) = nodes.range(net.network()..=net.broadcast()).next() {
            return refuse(&*name, format!("its pods' range {net} contains {address}, an address of {owner}"));
        }
    }
    Ok(())
}

/// What is dropped where no Service has it must be no pod's and no node's. `ranges` are sorted and disjoint.
fn check_service_cidr(
    net: &IpNet,
    ranges: &[(IpNet, String)],
    nodes: &BTreeMap<IpAddr, String>,
) -> Result<(), Refusal> {
    let object = format!("range of ClusterIPs {net}");
    let before = ranges.partition_point(|(range, _)| range.network() <= net.broadcast());
    if let Some((range, owner)) = before.checked_sub(1).map(|last| &ranges[last])
        && range.broadcast() >= net.network()
    {
        return refuse(object, format!("it overlaps {range}, the pods' range of {owner}"));
    }
    if let Some((address, owner)) = nodes.range(net.network()..=net.broadcast()).next() {
        return refuse(object, format!("it contains {address}, an address of {owner}"));
    }
    Ok(())
}
