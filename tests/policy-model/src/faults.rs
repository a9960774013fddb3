//! Policies that the APIs refuse, and what is in force in their place.
//!
//! An API server with validation never stores one; what Podplane makes of one is its own choice: closed. Of a
//! NetworkPolicy its isolation stays, as far as it can be read; of a ClusterNetworkPolicy what it denies. Where it said
//! something right before, that stays; the one who keeps the history sees to that.

use ipnet::IpNet;

use crate::api::*;

/// Whether all of a selector makes sense.
pub fn is_selector(selector: &LabelSelector) -> bool {
    selector.match_expressions.iter().all(|r| match r.operator.as_str() {
        "In" | "NotIn" => !r.values.is_empty(),
        "Exists" | "DoesNotExist" => r.values.is_empty(),
        _ => false,
    })
}

fn is_block(block: &IpBlock) -> bool {
    let Ok(net) = block.cidr.parse::<IpNet>() else { return false };
    // "except ... within the cidr": a part of it, not all of it.
    let is_part = |text: &String| {
        text.parse::<IpNet>().is_ok_and(|inner| net.contains(&inner) && inner.prefix_len() > net.prefix_len())
    };
    block.except.iter().all(is_part)
}

fn is_peer(peer: &Peer) -> bool {
    let selectors = [&peer.pod_selector, &peer.namespace_selector];
    match &peer.ip_block {
        Some(block) => is_block(block) && selectors.iter().all(|s| s.is_none()),
        None => selectors.iter().any(|s| s.is_some()) && selectors.into_iter().flatten().all(is_selector),
    }
}

fn is_port(port: &Port) -> bool {
    let protocol = port.protocol.as_deref().is_none_or(|p| ["TCP", "UDP", "SCTP"].contains(&p));
    let number = |n: i64| (1..=65_535).contains(&n);
    protocol
        && match (&port.port, port.end_port) {
            (None, end) => end.is_none(),
            (Some(IntOrString::Int(first)), end) => {
                number(*first) && end.is_none_or(|end| number(end) && end >= *first)
            }
            (Some(IntOrString::String(name)), end) => end.is_none() && !name.is_empty(),
        }
}

/// What is in force of a NetworkPolicy that nobody has seen before. `Err`: it is refused, and this stands for it.
pub fn policy(spec: &NetworkPolicySpec) -> Result<(), NetworkPolicySpec> {
    let types = spec.policy_types.clone().unwrap_or_default();
    let are_types = types.iter().all(|t| t == "Ingress" || t == "Egress");
    let is_subject = is_selector(&spec.pod_selector);
    let peers = spec.ingress.iter().flat_map(|r| &r.from).chain(spec.egress.iter().flat_map(|r| &r.to));
    let ports = spec.ingress.iter().flat_map(|r| &r.ports).chain(spec.egress.iter().flat_map(|r| &r.ports));
    if are_types && is_subject && peers.into_iter().all(is_peer) && ports.into_iter().all(is_port) {
        return Ok(());
    }
    let mut isolates = vec!["Ingress".to_owned(), "Egress".to_owned()];
    if are_types && is_subject {
        match types.is_empty() {
            true if spec.egress.is_empty() => isolates.truncate(1),
            true => {}
            false => isolates = types,
        }
    }
    let pod_selector = if is_subject { spec.pod_selector.clone() } else { LabelSelector::default() };
    Err(NetworkPolicySpec { pod_selector, policy_types: Some(isolates), ingress: Vec::new(), egress: Vec::new() })
}

/// What a rule of a ClusterNetworkPolicy is.
enum Rule {
    Right,
    /// It names something that is not supported: as the API has it, that fails closed rule by rule.
    Unsupported,
    Wrong,
}

fn cluster_peer(peer: &ClusterPeer) -> Rule {
    let fields = [
        peer.namespaces.is_some(),
        peer.pods.is_some(),
        peer.nodes.is_some(),
        !peer.networks.is_empty(),
        !peer.domain_names.is_empty(),
    ];
    let pods = peer.pods.iter().flat_map(|p| [&p.namespace_selector, &p.pod_selector]);
    let selectors = pods.chain(&peer.namespaces).chain(&peer.nodes);
    match fields.iter().filter(|set| **set).count() {
        0 => Rule::Unsupported,
        1 if !peer.domain_names.is_empty() => Rule::Unsupported,
        1 if selectors.into_iter().all(is_selector) && peer.networks.iter().all(|n| n.parse::<IpNet>().is_ok()) => {
            Rule::Right
        }
        _ => Rule::Wrong,
    }
}

fn is_protocol(p: &ClusterProtocol) -> bool {
    let matches = [&p.tcp, &p.udp, &p.sctp];
    let ports = matches.into_iter().flatten().filter_map(|m| m.destination_port.as_ref());
    let is_port = |p: &ClusterPort| match (p.number, p.range) {
        (Some(number), None) => number > 0,
        (None, Some(range)) => range.start > 0 && range.start < range.end,
        _ => false,
    };
    let set = matches.iter().filter(|m| m.is_some()).count() + usize::from(p.destination_named_port.is_some());
    set == 1 && ports.into_iter().all(is_port)
}

fn rule(action: &str, peers: &[ClusterPeer], protocols: &[ClusterProtocol], egress: bool) -> Rule {
    let names = protocols.iter().any(|p| p.destination_named_port.is_some());
    let nameless = peers.iter().any(|p| p.nodes.is_some() || !p.networks.is_empty());
    let wrong = peers.is_empty()
        || !["Accept", "Deny", "Pass"].contains(&action)
        || !protocols.iter().all(is_protocol)
        || egress && names && nameless;
    if wrong || peers.iter().any(|p| matches!(cluster_peer(p), Rule::Wrong)) {
        return Rule::Wrong;
    }
    match peers.iter().any(|p| matches!(cluster_peer(p), Rule::Unsupported)) {
        true => Rule::Unsupported,
        false => Rule::Right,
    }
}

/// Everybody, whoever it is.
fn everybody() -> Vec<ClusterPeer> {
    vec![ClusterPeer { networks: vec!["0.0.0.0/0".into(), "::/0".into()], ..ClusterPeer::default() }]
}

/// What is in force of a ClusterNetworkPolicy that nobody has seen before, and whether it is refused.
pub fn cluster_policy(spec: &ClusterNetworkPolicySpec) -> (ClusterNetworkPolicySpec, bool) {
    let selectors = spec.subject.pods.iter().flat_map(|p| [&p.namespace_selector, &p.pod_selector]);
    let one = spec.subject.pods.is_some() != spec.subject.namespaces.is_some();
    let is_subject = one && selectors.chain(&spec.subject.namespaces).all(is_selector);
    let is_tier = spec.tier == "Admin" || spec.tier == "Baseline";
    let is_priority = (0..=1000).contains(&spec.priority);
    let ingress: Vec<Rule> = spec.ingress.iter().map(|r| rule(&r.action, &r.from, &r.protocols, false)).collect();
    let egress: Vec<Rule> = spec.egress.iter().map(|r| rule(&r.action, &r.to, &r.protocols, true)).collect();
    let any_wrong = ingress.iter().chain(&egress).any(|r| matches!(r, Rule::Wrong));
    let refused = any_wrong || !is_subject || !is_tier || !is_priority;
    // What a rule becomes: stays, denies everybody, or matches nobody.
    let becomes = |kind: &Rule, action: &str| match (kind, action) {
        (Rule::Right, "Deny") => Some(true),
        (Rule::Right, _) if !refused => Some(true),
        (Rule::Unsupported, "Accept") => None,
        (Rule::Unsupported, "Pass") if refused => None,
        (Rule::Unsupported, _) => Some(false),
        (_, "Accept" | "Pass") => None,
        _ => Some(false),
    };
    let mut closed = spec.clone();
    let of_ingress = spec.ingress.iter().zip(&ingress).filter_map(|(r, kind)| match becomes(kind, &r.action)? {
        true => Some(r.clone()),
        false => Some(ClusterIngressRule { action: "Deny".into(), from: everybody(), ..ClusterIngressRule::default() }),
    });
    let of_egress = spec.egress.iter().zip(&egress).filter_map(|(r, kind)| match becomes(kind, &r.action)? {
        true => Some(r.clone()),
        false => Some(ClusterEgressRule { action: "Deny".into(), to: everybody(), ..ClusterEgressRule::default() }),
    });
    (closed.ingress, closed.egress) = (of_ingress.collect(), of_egress.collect());
    if !is_subject {
        closed.subject = Subject { namespaces: Some(LabelSelector::default()), pods: None };
    }
    if !is_tier {
        closed.tier = "Admin".into();
    }
    if !is_priority {
        closed.priority = 0;
    }
    (closed, refused)
}
