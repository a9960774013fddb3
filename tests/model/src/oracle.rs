//! What a Service's client gets, as the API's documentation and kube-proxy's (nftables mode) have it.
//!
//! Everything is looked for from the beginning at each question. What Podplane does otherwise (docs/services.md: the
//! older of two claimants keeps what both claim, `externalIPs` only where enabled) is here too, and nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::objects::{Cluster, Endpoint, Port, Protocol, Service};

/// From where a packet reached the node that looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A pod of any node, or a process of this node.
    Inside,
    /// Anything else: the uplink, other nodes included.
    Outside,
}

/// One port of a Service in one family: what shares a client's affinity.
pub type PortId = (String, String, Protocol, bool);

/// What the first packet of a connection gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gets {
    /// One of these.
    Backend(BTreeSet<SocketAddr>),
    /// TCP reset, ICMP port unreachable.
    Refusal,
    /// Nothing.
    Silence,
    /// The address is no Service's: its packets go as if there were none.
    NoService,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it gets.
    pub gets: Gets,
    /// Whose affinity counts, and its timeout in seconds.
    pub affinity: Option<(PortId, u32)>,
}

impl Answer {
    fn just(gets: Gets) -> Answer {
        Answer { gets, affinity: None }
    }
}

/// The kind of a Service's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Cluster,
    Balancer,
    Other,
}

/// What `client` gets that sends to `to`, as `node` sees it.
pub fn ask(c: &Cluster, node: usize, from: From, client: IpAddr, to: SocketAddr, protocol: Protocol) -> Answer {
    let own = c.nodes[node].addresses.contains(&to.ip()) || to.ip().is_loopback();
    let host = c.host_ports.iter().find(|h| h.node == node && h.protocol == protocol && h.port == to.port());
    if let Some(host) = host.filter(|_| own) {
        let pod = host.backends.iter().find(|b| b.is_ipv4() == to.is_ipv4());
        return Answer::just(pod.map_or(Gets::NoService, |pod| Gets::Backend(BTreeSet::from([*pod]))));
    }
    let Some((name, service, port, sort)) = find(c, node, to, protocol) else {
        let in_range = c.service_cidrs.iter().any(|net| net.contains(&to.ip()));
        return Answer::just(match (in_range, in_range && cluster_ip_of(c, to.ip()).is_some()) {
            (_, true) => Gets::Refusal,
            (true, false) => Gets::Silence,
            (false, _) => Gets::NoService,
        });
    };
    if sort == Sort::Balancer && !may_use(service, client) {
        return Answer::just(Gets::Silence);
    }
    // internalTrafficPolicy is the ClusterIP's. externalTrafficPolicy is for what comes from outside: others who use an
    // external address get what the Cluster policy has.
    let local = match sort {
        Sort::Cluster => service.internal_local,
        _ => service.external_local && from == From::Outside,
    };
    let id = (name.to_owned(), port.name.clone(), protocol, to.is_ipv6());
    Answer {
        gets: choose(c, node, name, port, to.is_ipv6(), local),
        affinity: service.affinity.map(|seconds| (id, seconds)),
    }
}

/// All Services that are served at all, the oldest first.
fn served(c: &Cluster) -> Vec<(&str, &Service)> {
    let mut all: Vec<_> = c.services.iter().map(|(name, service)| (name.as_str(), service)).collect();
    all.retain(|(_, s)| s.is_served());
    all.sort_by_key(|(name, s)| (s.created, *name));
    all
}

/// The Service that has a ClusterIP, if the address can be one.
fn cluster_ip_of(c: &Cluster, address: IpAddr) -> Option<&str> {
    let owner = served(c).into_iter().find(|(_, s)| s.cluster_ips.contains(&address))?.0;
    c.service_cidrs.iter().any(|net| net.contains(&address)).then_some(owner)
}

/// Whose port an address and port is.
fn find(c: &Cluster, node: usize, to: SocketAddr, protocol: Protocol) -> Option<(&str, &Service, &Port, Sort)> {
    let at = |p: &&Port| p.protocol == protocol && p.port == u32::from(to.port());
    let all = served(c);
    // A ClusterIP, with all its ports, is one Service's.
    if all.iter().any(|(_, s)| s.cluster_ips.contains(&to.ip())) {
        let owner = cluster_ip_of(c, to.ip())?;
        let (name, service) = *all.iter().find(|(name, _)| *name == owner)?;
        return service.ports.iter().find(at).map(|port| (name, service, port, Sort::Cluster));
    }
    let has_family = |s: &Service| s.cluster_ips.iter().any(|ip| ip.is_ipv4() == to.is_ipv4());
    // Load balancers' and external addresses may be shared; a port of one is one Service's.
    for (name, service) in &all {
        let Some(port) = service.ports.iter().find(at) else { continue };
        let sort = match () {
            () if service.ingress.contains(&(to.ip(), true)) => Sort::Balancer,
            () if c.external_ips && service.external_ips.contains(&to.ip()) => Sort::Other,
            () => continue,
        };
        return has_family(service).then_some((*name, *service, port, sort));
    }
    // Node ports, at the node's own addresses.
    if !c.nodes[node].addresses.contains(&to.ip()) {
        return None;
    }
    for (name, service) in &all {
        let is_it = |p: &&Port| p.protocol == protocol && p.node_port == Some(to.port());
        if let Some(port) = service.ports.iter().find(is_it) {
            return has_family(service).then_some((*name, *service, port, Sort::Other));
        }
    }
    None
}

/// `loadBalancerSourceRanges`: those of the address's own family, if there are any; everything if one is everything.
fn may_use(service: &Service, client: IpAddr) -> bool {
    let mut ranges = service.ranges.iter().filter(|net| net.addr().is_ipv4() == client.is_ipv4()).peekable();
    ranges.peek().is_none() || ranges.any(|net| net.prefix_len() == 0 || net.contains(&client))
}

fn is_ready(e: &Endpoint) -> bool {
    e.ready.unwrap_or(true)
}

/// Serves although it terminates.
fn drains(e: &Endpoint) -> bool {
    e.serving.unwrap_or(true) && e.terminating.unwrap_or(false)
}

/// The endpoints that a policy chooses on a node.
fn choose(c: &Cluster, node: usize, service: &str, port: &Port, v6: bool, local: bool) -> Gets {
    let mut all: Vec<(SocketAddr, &Endpoint)> = Vec::new();
    for slice in c.slices.values().filter(|s| s.service == service && s.v6 == v6) {
        for (_, _, number) in slice.ports.iter().filter(|(n, p, _)| *n == port.name && *p == port.protocol) {
            all.extend(slice.endpoints.iter().map(|e| (SocketAddr::new(e.address, *number), e)));
        }
    }
    let here = |e: &Endpoint| !local || e.node == Some(node);
    let places = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
        all.iter().filter(|(_, e)| wanted(e)).map(|(place, _)| *place).collect()
    };
    let ready: Vec<&Endpoint> = all.iter().map(|(_, e)| *e).filter(|e| is_ready(e)).collect();
    // Hints narrow the Cluster policy: if all that are ready have some, and one of them is for us.
    let name = &c.nodes[node].name;
    let zone = c.nodes[node].zone.clone().unwrap_or_default();
    let by_node = ready.iter().all(|e| !e.for_nodes.is_empty()) && ready.iter().any(|e| e.for_nodes.contains(name));
    let by_zone = ready.iter().all(|e| !e.for_zones.is_empty()) && ready.iter().any(|e| e.for_zones.contains(&zone));
    let hinted = |e: &Endpoint| match () {
        () if local => true,
        () if by_node => e.for_nodes.contains(name),
        () if by_zone => e.for_zones.contains(&zone),
        () => true,
    };
    let first = places(&|e| is_ready(e) && here(e) && hinted(e));
    // Better one that goes than none (KEP-1669).
    let chosen = if first.is_empty() { places(&|e| drains(e) && here(e)) } else { first };
    match chosen.is_empty() {
        false => Gets::Backend(chosen),
        // There are some, but not for this traffic: silence, so that the client tries elsewhere.
        true if local && !places(&|e| is_ready(e) || drains(e)).is_empty() => Gets::Silence,
        true => Gets::Refusal,
    }
}
