//! One Service and its endpoints become what its addresses get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1::{self, Backend, Choice, Frontend, FrontendKind, Protocol};
use podplane_config::valid::MAX_BACKENDS_PER_PORT;

use super::HealthCheck;
use super::choose::{Here, Policies, Usable, choose};
use super::claims::{Claims, Place};
use super::facts::{PortFacts, ServiceFacts};
use super::slices::{EndpointFacts, SliceFacts};
use crate::node::Family;
use crate::nodes::Resolved;
use crate::settings::Settings;
use crate::surroundings::Surroundings;

/// A Service's slices by name.
pub(super) type Slices = BTreeMap<String, SliceFacts>;

/// What a Service's judgement depends on beside itself and its slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) nodes: &'a Resolved,
    pub(crate) here: &'a Surroundings,
}

impl Context<'_> {
    pub(super) fn here(&self) -> Here<'_> {
        Here { node: &self.settings.node, zone: &self.here.zone }
    }
}

/// What becomes of a Service.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    /// What the dataplane is told; `None`: nothing.
    pub(super) service: Option<v1::Service>,
    /// What of it is not served, and why.
    pub(super) problems: Vec<String>,
    pub(super) health: Option<HealthCheck>,
}

/// What a Service claims for itself.
pub(super) fn places(facts: &ServiceFacts, settings: &Settings) -> BTreeSet<Place> {
    let mut places: BTreeSet<Place> = facts.cluster_ips.iter().map(|address| Place::ClusterIp(*address)).collect();
    for port in &facts.ports {
        places.extend(port.node_port.map(|number| Place::NodePort(port.protocol, number)));
        let outer = facts.vips.iter().chain(external_ips(facts, settings));
        places.extend(outer.map(|address| Place::Outer(*address, port.protocol, port.port)));
    }
    // An API server gives both sorts of numbers from one range.
    places.extend(facts.health_check_node_port.map(|number| Place::NodePort(Protocol::Tcp, number)));
    places
}

fn external_ips<'a>(facts: &'a ServiceFacts, settings: &Settings) -> &'a [IpAddr] {
    if settings.external_ips { &facts.external_ips } else { &[] }
}

/// Which policies a port of a Service uses in a family.
pub(super) fn policies(facts: &ServiceFacts, port: &PortFacts, family: Family, settings: &Settings) -> Policies {
    let mut outer = facts.vips.iter().chain(external_ips(facts, settings));
    let is_exposed = port.node_port.is_some() || outer.any(|address| family.has(*address));
    Policies {
        // Also where what comes from outside stays local: pods and the node use all endpoints.
        cluster: !facts.internal_local || is_exposed,
        local: facts.internal_local || facts.external_local && is_exposed,
    }
}

/// The endpoints of a port, by address and port; each once, a local one first.
pub(super) fn gather<'a>(
    slices: &'a Slices,
    family: Family,
    port: &PortFacts,
    here: Here<'_>,
) -> BTreeMap<(IpAddr, u16), &'a EndpointFacts> {
    let mut gathered = BTreeMap::new();
    for slice in slices.values().filter(|slice| slice.family == family) {
        let same = |p: &&super::slices::SlicePortFacts| p.name == port.name && p.protocol == port.protocol;
        for number in slice.ports.iter().filter(same).map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let place = (endpoint.address, number);
                if here.is_local(endpoint) || !gathered.contains_key(&place) {
                    gathered.insert(place, endpoint);
                }
            }
        }
    }
    gathered
}

/// Judges one Service.
pub(super) fn compile(
    name: &str,
    facts: &ServiceFacts,
    slices: &Slices,
    claims: &Claims,
    context: Context<'_>,
) -> Compiled {
    let mut compiling = Compiling { name, facts, claims, context, problems: BTreeSet::new(), seen: BTreeSet::new() };
    let mut ports = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        // As kube-proxy: what has no ClusterIP of a family is not served in it at all.
        let Some(cluster_ip) = facts.cluster_ip(family) else { continue };
        for port in &facts.ports {
            ports.extend(compiling.port(port, family, cluster_ip, slices));
        }
    }
    if !facts.external_ips.is_empty() && !context.settings.external_ips {
        compiling
            .problems
            .insert("spec.externalIPs are not served: not enabled (--external-ips, CVE-2020-8554)".into());
    }
    let health = compiling.health(slices);
    Compiled {
        service: (!ports.is_empty()).then(|| v1::Service { name: name.to_owned(), ports }),
        problems: compiling.problems.into_iter().collect(),
        health,
    }
}

struct Compiling<'a> {
    name: &'a str,
    facts: &'a ServiceFacts,
    claims: &'a Claims,
    context: Context<'a>,
    problems: BTreeSet<String>,
    /// What this Service has already: a load balancer's address may also be an external one.
    seen: BTreeSet<(IpAddr, Protocol, u16)>,
}

/// What the frontends of a port may choose.
struct Choices {
    cluster_ip: Choice,
    inside: Choice,
    outside: Choice,
}

impl Compiling<'_> {
    fn port(
        &mut self,
        port: &PortFacts,
        family: Family,
        cluster_ip: IpAddr,
        slices: &Slices,
    ) -> Option<v1::ServicePort> {
        let here = self.context.here();
        let gathered = gather(slices, family, port, here);
        let endpoints: Vec<&EndpointFacts> = gathered.values().copied().collect();
        let usable = choose(&endpoints, policies(self.facts, port, family, self.context.settings), here);
        let backends: Vec<Backend> =
            gathered.keys().map(|(address, port)| Backend { address: *address, port: *port }).collect();
        let mut sets = Vec::new();
        let choices = self.choices(&backends, &usable, &mut sets, port);
        let frontends = self.frontends(port, family, cluster_ip, &choices);
        if frontends.is_empty() {
            return None;
        }
        Some(v1::ServicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            affinity_seconds: self.facts.affinity_seconds,
            sets,
            frontends,
        })
    }

    /// Where its load balancer may ask, unless the port is another's.
    fn health(&mut self, slices: &Slices) -> Option<HealthCheck> {
        let port = self.facts.health_check_node_port?;
        let own = |p: &PortFacts| p.protocol == Protocol::Tcp && p.node_port == Some(port);
        let problem = match self.claims.holder(Place::NodePort(Protocol::Tcp, port)) {
            Some(other) if other != self.name => {
                Some(format!("health check node port {port} is also a port of Service {other}, which is older"))
            }
            _ if self.facts.ports.iter().any(own) => {
                Some(format!("health check node port {port} is its node port, too"))
            }
            _ => None,
        };
        if self.check(problem) { health(self.name, self.facts, slices, self.context.here()) } else { None }
    }

    fn choices(
        &mut self,
        backends: &[Backend],
        usable: &Usable,
        sets: &mut Vec<Vec<Backend>>,
        port: &PortFacts,
    ) -> Choices {
        let mut take = usize::MAX;
        if usable.cluster.len() + usable.local.len() > MAX_BACKENDS_PER_PORT {
            take = MAX_BACKENDS_PER_PORT / 2;
            let count = usable.cluster.len();
            self.problem(format!(
                "port {:?} has {count} endpoints: only the first {take} of a policy are used",
                port.name
            ));
        }
        let mut set = |indices: &[usize], otherwise: Choice| {
            let set: Vec<Backend> = indices.iter().take(take).map(|i| backends[*i]).collect();
            if set.is_empty() {
                return otherwise;
            }
            let index = sets.iter().position(|other| *other == set).unwrap_or_else(|| {
                sets.push(set);
                sets.len() - 1
            });
            Choice::Set(index as u16)
        };
        // Nothing usable anywhere is refused; something usable, but not for this traffic, is silence.
        let otherwise = if usable.any { Choice::Drop } else { Choice::Reject };
        let mut of = |local: bool| set(if local { &usable.local } else { &usable.cluster }, otherwise);
        Choices { cluster_ip: of(self.facts.internal_local), inside: of(false), outside: of(self.facts.external_local) }
    }

    fn frontends(&mut self, port: &PortFacts, family: Family, cluster_ip: IpAddr, choices: &Choices) -> Vec<Frontend> {
        let context = self.context;
        let mut frontends = Vec::new();
        let outer = (choices.inside, choices.outside);
        if self.check(self.cluster_ip_problem(cluster_ip)) {
            let choice = (choices.cluster_ip, choices.cluster_ip);
            self.add(&mut frontends, FrontendKind::ClusterIp, cluster_ip, (port.protocol, port.port), choice, None);
        }
        // First the load balancer's: where an address is both, its source ranges hold.
        let sources = self.sources(family);
        for &address in self.facts.vips.iter().filter(|address| family.has(**address)) {
            if self.check(self.outer_problem("load balancer's address", address, port)) {
                let place = (port.protocol, port.port);
                self.add(&mut frontends, FrontendKind::LoadBalancer, address, place, outer, sources.clone());
            }
        }
        for &address in external_ips(self.facts, context.settings).iter().filter(|address| family.has(**address)) {
            if self.check(self.outer_problem("external address", address, port)) {
                self.add(&mut frontends, FrontendKind::ExternalIp, address, (port.protocol, port.port), outer, None);
            }
        }
        if let Some(number) = port.node_port
            && self.check(self.node_port_problem(port.protocol, number))
        {
            for &address in context.here.node_port_addresses.iter().filter(|address| family.has(**address)) {
                self.add(&mut frontends, FrontendKind::NodePort, address, (port.protocol, number), outer, None);
            }
        }
        frontends
    }

    fn add(
        &mut self,
        frontends: &mut Vec<Frontend>,
        kind: FrontendKind,
        address: IpAddr,
        (protocol, port): (Protocol, u16),
        (inside, outside): (Choice, Choice),
        sources: Option<Vec<IpNet>>,
    ) {
        let here = self.context.here;
        if self.seen.contains(&(address, protocol, port)) {
            return;
        }
        if let Some(endpoint) = here.host_ports.holder(address, &here.addresses, protocol, port) {
            self.problem(format!("{address} port {port} {protocol} is a host port of {endpoint}"));
        } else if here.masquerades(address, port) {
            self.problem(format!(
                "{address} port {port} lies within the ports for what leaves the cluster (--masquerade-ports)"
            ));
        } else {
            self.seen.insert((address, protocol, port));
            frontends.push(Frontend { kind, address, port, inside, outside, sources });
        }
    }

    /// Who may use the load balancer's addresses of a family; `None`: everybody.
    fn sources(&self, family: Family) -> Option<Vec<IpNet>> {
        let mut nets: Vec<IpNet> =
            self.facts.source_ranges.iter().copied().filter(|net| family.has(net.addr())).collect();
        if nets.is_empty() || nets.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        // A node that holds such an address calls it from that very address.
        if self.context.here.primary.iter().any(|own| nets.iter().any(|net| net.contains(own))) {
            nets.extend(
                self.facts.vips.iter().filter(|address| family.has(**address)).map(|address| IpNet::from(*address)),
            );
        }
        nets.sort_unstable();
        nets.dedup();
        Some(nets)
    }

    /// Notes a problem; whether there is none.
    fn check(&mut self, problem: Option<String>) -> bool {
        let good = problem.is_none();
        self.problems.extend(problem);
        good
    }

    fn problem(&mut self, problem: String) {
        self.problems.insert(problem);
    }

    fn cluster_ip_problem(&self, address: IpAddr) -> Option<String> {
        let what = format!("ClusterIP {address}");
        if let Some(other) = self.claims.holder(Place::ClusterIp(address)).filter(|other| *other != self.name) {
            return Some(format!("{what} is also that of Service {other}, which is older"));
        }
        if let Some(owner) = self.context.nodes.owner(address) {
            return Some(format!("{what} is an address of node {owner}"));
        }
        self.pod_range_problem(&what, address).or_else(|| {
            let of_family = |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4();
            let mut nets = self.context.here.service_cidrs.iter().filter(of_family).peekable();
            (nets.peek().is_some() && !nets.any(|net| net.contains(&address)))
                .then(|| format!("{what} lies outside of all ServiceCIDRs"))
        })
    }

    fn outer_problem(&self, what: &str, address: IpAddr, port: &PortFacts) -> Option<String> {
        let what = format!("{what} {address}");
        if let Some(other) = self.claims.holder(Place::ClusterIp(address)).filter(|other| *other != self.name) {
            return Some(format!("{what} is the ClusterIP of Service {other}"));
        }
        let place = Place::Outer(address, port.protocol, port.port);
        if let Some(other) = self.claims.holder(place).filter(|other| *other != self.name) {
            return Some(format!(
                "{what} port {} {} is also that of Service {other}, which is older",
                port.port, port.protocol
            ));
        }
        let (first, last) = self.context.settings.node_ports;
        if self.context.here.addresses.contains(&address) && (first..=last).contains(&port.port) {
            return Some(format!("{what} is this node's own: its ports {first} to {last} are node ports"));
        }
        self.pod_range_problem(&what, address)
    }

    fn pod_range_problem(&self, what: &str, address: IpAddr) -> Option<String> {
        let (net, owner) = self.context.nodes.range_at(address)?;
        Some(format!("{what} lies in {net}, the pods' range of node {owner}"))
    }

    fn node_port_problem(&self, protocol: Protocol, port: u16) -> Option<String> {
        let (first, last) = self.context.settings.node_ports;
        if !(first..=last).contains(&port) {
            return Some(format!("node port {port} lies outside of {first} to {last} (--node-port-range)"));
        }
        let other = self.claims.holder(Place::NodePort(protocol, port)).filter(|other| *other != self.name)?;
        Some(format!("node port {port} {protocol} is also that of Service {other}, which is older"))
    }
}

/// What its load balancer may ask this node: the ready local endpoints, each address once (KEP-1669).
fn health(name: &str, facts: &ServiceFacts, slices: &Slices, here: Here<'_>) -> Option<HealthCheck> {
    let port = facts.health_check_node_port?;
    let count = |family: Family| {
        facts.cluster_ip(family)?;
        let slices = slices.values().filter(|slice| slice.family == family && !slice.ports.is_empty());
        let ready = slices.flat_map(|slice| &slice.endpoints).filter(|e| e.ready && here.is_local(e));
        Some(ready.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len())
    };
    Some(HealthCheck { service: name.to_owned(), port, v4: count(Family::Ipv4), v6: count(Family::Ipv6) })
}
