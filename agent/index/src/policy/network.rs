//! `networking.k8s.io/v1` NetworkPolicy, from its `spec`.

use ipnet::IpNet;
use podplane_config::v1::{Net, PortRange, Protocol, RuleAction, Tier};
use podplane_config::valid::{MAX_NETS_PER_RULE, MAX_PORTS_PER_RULE, MAX_SELECTORS_PER_RULE};
use serde_json::Value;

use super::facts::{
    Namespaces, PeerFacts, PolicyFacts, PortFacts, RuleFacts, Selector, all_ports, cidr, port_name, port_number,
    protocol,
};
use super::labels::Labels;
use super::read::{Field, Fields};

const FIELDS: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

/// Checks a NetworkPolicy by itself; the error says what is wrong with it.
pub(super) fn read(namespace: &str, spec: &Value) -> Result<PolicyFacts, String> {
    let fields = Field::new("spec", spec).fields()?;
    fields.only(&FIELDS)?;
    let subject = subject(namespace, &fields)?;
    let types = types(&fields)?;
    let rules = |name: &str, peers: &str| -> Result<Vec<RuleFacts>, String> {
        let listed = fields.get(name).list()?.unwrap_or_default();
        listed.iter().enumerate().map(|(index, field)| rule(namespace, index, field, peers)).collect()
    };
    // Read in any case: a mistake in rules that do not count is a mistake.
    let (ingress, egress) = (rules("ingress", "from")?, rules("egress", "to")?);
    Ok(PolicyFacts {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject,
        ingress: types.ingress.then_some(ingress),
        egress: types.egress.then_some(egress),
        problems: Vec::new(),
    })
}

/// What stands in for one that was refused: it isolates what it would have isolated, as far as that can be read, and
/// accepts nothing. The text says so.
pub(super) fn closed(namespace: &str, spec: &Value) -> (PolicyFacts, String) {
    let fields = Field::new("spec", spec).fields();
    let subject = fields.as_ref().ok().and_then(|fields| subject(namespace, fields).ok());
    let types = fields.as_ref().ok().and_then(|fields| types(fields).ok());
    let types = types.filter(|_| subject.is_some()).unwrap_or(Types { ingress: true, egress: true });
    let text = match (&subject, types) {
        (None, _) => format!("every pod of namespace {namespace} is isolated in both directions"),
        (_, Types { ingress: true, egress: true }) => "the pods that it selects are isolated in both directions".into(),
        (_, Types { egress: true, .. }) => "the pods that it selects are isolated for egress".into(),
        _ => "the pods that it selects are isolated for ingress".into(),
    };
    let everyone = Selector::Pods { namespaces: Namespaces::One(namespace.to_owned()), pods: Labels::default() };
    let facts = PolicyFacts {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: subject.unwrap_or(everyone),
        ingress: types.ingress.then(Vec::new),
        egress: types.egress.then(Vec::new),
        problems: Vec::new(),
    };
    (facts, text)
}

fn subject(namespace: &str, fields: &Fields<'_>) -> Result<Selector, String> {
    let pods = Labels::read(&fields.get("podSelector"))?;
    Ok(Selector::Pods { namespaces: Namespaces::One(namespace.to_owned()), pods })
}

#[derive(Clone, Copy)]
struct Types {
    ingress: bool,
    egress: bool,
}

fn types(fields: &Fields<'_>) -> Result<Types, String> {
    let listed = fields.get("policyTypes").list()?.unwrap_or_default();
    let mut types = Types { ingress: false, egress: false };
    for field in &listed {
        match field.text()? {
            Some("Ingress") => types.ingress = true,
            Some("Egress") => types.egress = true,
            other => return field.wrong(format!("{:?} is none of Ingress, Egress", other.unwrap_or_default())),
        }
    }
    if listed.is_empty() {
        // The API server's default: ingress always, egress where there are egress rules.
        let egress = fields.get("egress").list()?.is_some_and(|rules| !rules.is_empty());
        types = Types { ingress: true, egress };
    }
    Ok(types)
}

fn rule(namespace: &str, index: usize, field: &Field<'_>, peers: &str) -> Result<RuleFacts, String> {
    let fields = field.fields()?;
    fields.only(&[peers, "ports"])?;
    let listed = fields.get(peers).list()?.unwrap_or_default();
    let (mut selectors, mut nets) = (Vec::new(), Vec::new());
    for peer in &listed {
        match read_peer(namespace, peer)? {
            Peer::Selector(selector) => selectors.push(selector),
            Peer::Net(net) => nets.push(net),
        }
    }
    let in_nets = nets.iter().map(|net: &Net| 1 + net.except.len()).sum::<usize>();
    let ports = fields.get("ports").list()?.unwrap_or_default();
    for (what, count, limit) in [
        ("selectors", selectors.len(), MAX_SELECTORS_PER_RULE),
        ("ranges of addresses", in_nets, MAX_NETS_PER_RULE),
        ("ports", ports.len(), MAX_PORTS_PER_RULE),
    ] {
        if count > limit {
            return field.wrong(format!("{count} {what}: {limit} is the limit, make several rules of it"));
        }
    }
    let peers = if listed.is_empty() { PeerFacts::Any } else { PeerFacts::Of { selectors, nets } };
    let ports: Vec<PortFacts> = ports.iter().map(port).collect::<Result<_, _>>()?;
    let ports = Some(ports).filter(|ports| !ports.is_empty());
    Ok(RuleFacts { index, name: String::new(), action: RuleAction::Accept, peers, ports })
}

enum Peer {
    Selector(Selector),
    Net(Net),
}

fn read_peer(namespace: &str, field: &Field<'_>) -> Result<Peer, String> {
    let fields = field.fields()?;
    fields.only(&["podSelector", "namespaceSelector", "ipBlock"])?;
    let (pods, namespaces, block) = (fields.get("podSelector"), fields.get("namespaceSelector"), fields.get("ipBlock"));
    match (pods.is_set(), namespaces.is_set(), block.is_set()) {
        (false, false, false) => field.wrong("a peer needs a podSelector, a namespaceSelector or an ipBlock"),
        (false, false, true) => ip_block(&block).map(Peer::Net),
        (_, _, true) => field.wrong("an ipBlock cannot stand beside selectors: make it a peer of its own"),
        (_, has_namespaces, false) => {
            let own = || Namespaces::One(namespace.to_owned());
            let namespaces = if has_namespaces { Namespaces::of(Labels::read(&namespaces)?) } else { own() };
            Ok(Peer::Selector(Selector::Pods { namespaces, pods: Labels::read(&pods)? }))
        }
    }
}

fn ip_block(field: &Field<'_>) -> Result<Net, String> {
    let fields = field.fields()?;
    fields.only(&["cidr", "except"])?;
    let net = cidr(&fields.get("cidr"))?;
    let mut except = Vec::new();
    for at in fields.get("except").list()?.unwrap_or_default() {
        let inner = cidr(&at)?;
        let is_within = |outer: &IpNet| outer.contains(&inner) && inner.prefix_len() > outer.prefix_len();
        if !is_within(&net) {
            return at.wrong(format!("{inner} is no part of {net}"));
        }
        except.push(inner);
    }
    Ok(Net { net, except })
}

fn port(field: &Field<'_>) -> Result<PortFacts, String> {
    let fields = field.fields()?;
    fields.only(&["protocol", "port", "endPort"])?;
    let protocol = protocol(&fields.get("protocol"))?.unwrap_or(Protocol::Tcp);
    let (at, end) = (fields.get("port"), fields.get("endPort"));
    if at.is_text() {
        if end.is_set() {
            return end.wrong("a port with a name has no endPort: write the port as a number");
        }
        return Ok(PortFacts::Named { name: port_name(&at)?, protocol: Some(protocol) });
    }
    let (first, last) = (port_number(&at)?, port_number(&end)?);
    match (first, last) {
        (None, None) => Ok(PortFacts::Range(all_ports(protocol))),
        (None, Some(_)) => end.wrong("an endPort needs a port to begin with"),
        (Some(first), Some(last)) if last < first => end.wrong(format!("{last} is below port {first}")),
        (Some(first), last) => Ok(PortFacts::Range(PortRange { protocol, first, last: last.unwrap_or(first) })),
    }
}
