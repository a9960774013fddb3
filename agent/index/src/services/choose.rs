//! Which endpoints of a Service's port are used: kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go).

use super::slices::EndpointFacts;

/// Where we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub(super) node: &'a str,
    /// The node's zone; empty where it has none.
    pub(super) zone: &'a str,
}

impl Here<'_> {
    pub(super) fn is_local(&self, endpoint: &EndpointFacts) -> bool {
        !self.node.is_empty() && endpoint.node == self.node
    }
}

/// Which policies a Service uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policies {
    /// Some of its traffic may go to any endpoint.
    pub(super) cluster: bool,
    /// Some of its traffic stays on the node.
    pub(super) local: bool,
}

/// How hints narrow the endpoints of the Cluster policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    /// Not at all.
    All,
    /// To those hinted for this node.
    Node,
    /// To those hinted for this zone.
    Zone,
}

/// Indices into the endpoints that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usable {
    /// For the Cluster policy.
    pub(super) cluster: Vec<usize>,
    /// For the Local policy.
    pub(super) local: Vec<usize>,
    /// Whether any node has one that its policies may use.
    pub(super) any: bool,
    pub(super) topology: Topology,
}

/// Chooses. Ready endpoints, else those that serve while they terminate, for each policy by itself.
pub(super) fn choose(endpoints: &[&EndpointFacts], policies: Policies, here: Here<'_>) -> Usable {
    let topology = if policies.cluster { topology(endpoints, here) } else { Topology::All };
    let pick = |wanted: &dyn Fn(&EndpointFacts) -> bool| -> Vec<usize> {
        (0..endpoints.len()).filter(|i| wanted(endpoints[*i])).collect()
    };
    let draining = |endpoint: &EndpointFacts| endpoint.serving && endpoint.terminating;
    let either = |wanted: &dyn Fn(&EndpointFacts) -> bool, fallback: &dyn Fn(&EndpointFacts) -> bool| {
        let ready = pick(&|endpoint| endpoint.ready && wanted(endpoint));
        if ready.is_empty() { pick(&|endpoint| draining(endpoint) && fallback(endpoint)) } else { ready }
    };
    let mut usable = Usable { cluster: Vec::new(), local: Vec::new(), any: false, topology };
    if policies.cluster {
        // Where hints count at least one endpoint has ours, so the fallback is taken only if none is ready anywhere.
        usable.cluster = either(&|endpoint| fits(endpoint, topology, here), &|_| true);
        usable.any = !usable.cluster.is_empty();
    }
    if policies.local {
        let local = |endpoint: &EndpointFacts| here.is_local(endpoint);
        usable.local = either(&local, &local);
        usable.any |= endpoints.iter().any(|endpoint| endpoint.ready || draining(endpoint));
    }
    usable
}

/// Node hints count if every ready endpoint has some and one names this node; else zone hints likewise.
fn topology(endpoints: &[&EndpointFacts], here: Here<'_>) -> Topology {
    let counts = |hints: fn(&EndpointFacts) -> &[String], own: &str| {
        let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
        ready().all(|endpoint| !hints(endpoint).is_empty())
            && ready().any(|endpoint| hints(endpoint).iter().any(|hint| hint == own))
    };
    if counts(|endpoint| &endpoint.for_nodes, here.node) {
        Topology::Node
    } else if counts(|endpoint| &endpoint.for_zones, here.zone) {
        Topology::Zone
    } else {
        Topology::All
    }
}

fn fits(endpoint: &EndpointFacts, topology: Topology, here: Here<'_>) -> bool {
    match topology {
        Topology::All => true,
        Topology::Node => endpoint.for_nodes.iter().any(|node| node == here.node),
        Topology::Zone => endpoint.for_zones.iter().any(|zone| zone == here.zone),
    }
}

/// Why an endpoint is not used by any policy; `None`: it is used.
pub(super) fn why_not(
    index: usize,
    endpoint: &EndpointFacts,
    usable: &Usable,
    policies: Policies,
    here: Here<'_>,
) -> Option<String> {
    if usable.cluster.binary_search(&index).is_ok() || usable.local.binary_search(&index).is_ok() {
        return None;
    }
    let usable_at_all = endpoint.ready || endpoint.serving && endpoint.terminating;
    Some(if !usable_at_all {
        match endpoint.terminating {
            true => "terminating, and not serving any more".into(),
            false => "not ready".into(),
        }
    } else if !policies.cluster && !here.is_local(endpoint) {
        "on another node, and the policy is Local".into()
    } else if !endpoint.ready {
        "terminating, and others are ready".into()
    } else if usable.topology == Topology::Node {
        format!("hinted for other nodes: {}", endpoint.for_nodes.join(", "))
    } else if usable.topology == Topology::Zone {
        format!("hinted for other zones: {}", endpoint.for_zones.join(", "))
    } else {
        "no policy of the Service uses it".into()
    })
}
