//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, from its `spec`.
//!
//! What is wrong refuses the policy whole. What is only not known here (`domainNames`, a field of a later version) is
//! closed rule by rule, as the API asks: an Accept rule matches nothing then, a Deny or Pass rule denies everything.

use podplane_config::v1::{Net, PortRange, Protocol, RuleAction, Tier};
use serde_json::Value;

use super::facts::{
    Namespaces, PeerFacts, PolicyFacts, PortFacts, RuleFacts, Selector, all_ports, cidr, port_name, port_number,
};
use super::labels::Labels;
use super::read::{Field, Fields};

const FIELDS: [&str; 5] = ["tier", "priority", "subject", "ingress", "egress"];
/// The highest priority's number; 0 is the first.
const MAX_PRIORITY: i64 = 1000;
/// The API's limit of every list.
const MAX_ITEMS: usize = 25;
/// The longest name of a rule, in characters.
const MAX_RULE_NAME: usize = 100;

/// Checks a ClusterNetworkPolicy by itself; the error says what is wrong with it.
pub(super) fn read(spec: &Value) -> Result<PolicyFacts, String> {
    let fields = Field::new("spec", spec).fields()?;
    fields.only(&FIELDS)?;
    let (tier, priority, subject) = (tier(&fields)?, priority(&fields)?, subject(&fields)?);
    let mut problems = Vec::new();
    let mut rules = |ingress: bool| -> Result<Option<Vec<RuleFacts>>, String> {
        let mut rules = Vec::new();
        for (index, field) in items(&fields.get(direction(ingress)), 0)?.iter().enumerate() {
            let read = rule(index, field, ingress)?;
            if let Some(problem) = read.unknown {
                problems.push(problem);
            }
            rules.extend(read.rule);
        }
        Ok(Some(rules).filter(|rules| !rules.is_empty()))
    };
    let (ingress, egress) = (rules(true)?, rules(false)?);
    Ok(PolicyFacts { tier, priority, subject, ingress, egress, problems })
}

/// What stands in for one that was refused: nothing of it accepts or passes, its Deny rules stand as far as they can be
/// read, and one that cannot be read denies everything. The text says so.
pub(super) fn closed(spec: &Value) -> (PolicyFacts, String) {
    let fields = Field::new("spec", spec).fields();
    let is_spec = fields.is_ok();
    let fields = fields.unwrap_or_else(|_| Fields::none());
    let subject = subject(&fields).ok().filter(|_| is_spec);
    let rules = |ingress: bool| match fields.get(direction(ingress)).list() {
        Ok(listed) if is_spec => {
            let listed = listed.unwrap_or_default();
            let rules: Vec<RuleFacts> =
                listed.iter().enumerate().filter_map(|(index, field)| closed_rule(index, field, ingress)).collect();
            Some(rules).filter(|rules| !rules.is_empty())
        }
        _ => Some(vec![deny_all(0, String::new())]),
    };
    let everyone = Selector::Pods { namespaces: Namespaces::Labelled(Labels::default()), pods: Labels::default() };
    let mut text = "only what it denies is in force; it accepts and passes nothing".to_owned();
    if subject.is_none() {
        text += ", and it applies to every pod";
    }
    let facts = PolicyFacts {
        tier: tier(&fields).unwrap_or(Tier::Admin),
        priority: priority(&fields).unwrap_or(0),
        subject: subject.unwrap_or(everyone),
        ingress: rules(true),
        egress: rules(false),
        problems: Vec::new(),
    };
    (facts, text)
}

fn closed_rule(index: usize, field: &Field<'_>, ingress: bool) -> Option<RuleFacts> {
    let action = field.fields().and_then(|fields| action(&fields.get("action")));
    match (rule(index, field, ingress), action) {
        (Ok(read), Ok(RuleAction::Deny)) => read.rule,
        (_, Ok(RuleAction::Accept | RuleAction::Pass)) => None,
        _ => Some(deny_all(index, String::new())),
    }
}

fn direction(ingress: bool) -> &'static str {
    if ingress { "ingress" } else { "egress" }
}

fn tier(fields: &Fields<'_>) -> Result<Tier, String> {
    let field = fields.get("tier");
    match field.text()? {
        Some("Admin") => Ok(Tier::Admin),
        Some("Baseline") => Ok(Tier::Baseline),
        other => field.wrong(format!("\"{}\" is none of Admin, Baseline", other.unwrap_or_default())),
    }
}

fn priority(fields: &Fields<'_>) -> Result<u16, String> {
    let field = fields.get("priority");
    match field.integer()? {
        Some(number @ 0..=MAX_PRIORITY) => Ok(u16::try_from(number).unwrap_or(0)),
        Some(number) => field.wrong(format!("{number} is out of 0 to {MAX_PRIORITY}")),
        None => field.wrong(format!("a number from 0 to {MAX_PRIORITY} is missing")),
    }
}

fn subject(fields: &Fields<'_>) -> Result<Selector, String> {
    let field = fields.get("subject");
    let fields = field.fields()?;
    fields.only(&["namespaces", "pods"])?;
    match fields.names().collect::<Vec<_>>()[..] {
        [name] => pods(&fields.get(name)),
        _ => field.wrong("exactly one of namespaces and pods is needed"),
    }
}

/// `namespaces`, a selector of namespaces with all of their pods, or `pods`, which narrows that down.
fn pods(field: &Field<'_>) -> Result<Selector, String> {
    if !field.path.ends_with(".pods") {
        let namespaces = Namespaces::of(Labels::read(field)?);
        return Ok(Selector::Pods { namespaces, pods: Labels::default() });
    }
    let fields = field.fields()?;
    fields.only(&["namespaceSelector", "podSelector"])?;
    let (namespaces, pods) = (fields.get("namespaceSelector"), fields.get("podSelector"));
    if !pods.is_set() {
        return pods.wrong("is missing; {} selects all pods");
    }
    Ok(Selector::Pods { namespaces: Namespaces::of(Labels::read(&namespaces)?), pods: Labels::read(&pods)? })
}

/// A rule, if it matches anything, and what of it is not known here.
struct ReadRule {
    rule: Option<RuleFacts>,
    unknown: Option<String>,
}

fn rule(index: usize, field: &Field<'_>, ingress: bool) -> Result<ReadRule, String> {
    let fields = field.fields()?;
    let action = action(&fields.get("action"))?;
    let name = fields.get("name").text()?.unwrap_or_default().to_owned();
    if name.chars().count() > MAX_RULE_NAME || name.chars().any(char::is_control) {
        return fields.get("name").wrong(format!("longer than {MAX_RULE_NAME} characters, or not printable"));
    }
    let of_peers = if ingress { "from" } else { "to" };
    let mut unknown = fields.unknown(&["name", "action", "protocols", of_peers]).map(|field| field.path);
    let (mut selectors, mut nets) = (Vec::new(), Vec::new());
    for field in items(&fields.get(of_peers), 1)? {
        match peer(&field, ingress)? {
            Peer::Selector(selector) => selectors.push(selector),
            Peer::Nets(more) => nets.extend(more),
            Peer::Unknown(path) => unknown = Some(path),
        }
    }
    let mut ports = Vec::new();
    let protocols = fields.get("protocols");
    for field in if protocols.is_set() { items(&protocols, 1)? } else { Vec::new() } {
        match port(&field)? {
            Some(port) => ports.push(port),
            None => unknown = Some(field.path),
        }
    }
    let is_named = ports.iter().any(|port| matches!(port, PortFacts::Named { .. }));
    let has_no_names = !nets.is_empty() || selectors.iter().any(|selector| matches!(selector, Selector::Nodes(_)));
    if !ingress && is_named && has_no_names {
        return protocols.wrong("destinationNamedPort goes with pods only: networks and nodes have no named ports");
    }
    if let Some(path) = unknown {
        let (rule, done) = match action {
            RuleAction::Accept => (None, "the rule is ignored"),
            RuleAction::Deny | RuleAction::Pass => (Some(deny_all(index, name)), "the rule denies everything instead"),
        };
        return Ok(ReadRule { rule, unknown: Some(format!("{path}: not supported; {done}")) });
    }
    let ports = protocols.is_set().then_some(ports);
    let rule = RuleFacts { index, name, action, peers: PeerFacts::Of { selectors, nets }, ports };
    Ok(ReadRule { rule: Some(rule), unknown: None })
}

fn deny_all(index: usize, name: String) -> RuleFacts {
    RuleFacts { index, name, action: RuleAction::Deny, peers: PeerFacts::Any, ports: None }
}

fn action(field: &Field<'_>) -> Result<RuleAction, String> {
    match field.text()? {
        Some("Accept") => Ok(RuleAction::Accept),
        Some("Deny") => Ok(RuleAction::Deny),
        Some("Pass") => Ok(RuleAction::Pass),
        other => field.wrong(format!("\"{}\" is none of Accept, Deny, Pass", other.unwrap_or_default())),
    }
}

enum Peer {
    Selector(Selector),
    Nets(Vec<Net>),
    /// Of a field that is not known here.
    Unknown(String),
}

fn peer(field: &Field<'_>, ingress: bool) -> Result<Peer, String> {
    let fields = field.fields()?;
    let names: Vec<&str> = fields.names().collect();
    let [name] = names[..] else {
        if names.is_empty() {
            // A CRD that knows more than we do would have pruned nothing: an empty peer was one of a later version.
            return Ok(Peer::Unknown(field.path.clone()));
        }
        return field.wrong("exactly one field of a peer can be set");
    };
    let at = fields.get(name);
    match name {
        "namespaces" | "pods" => pods(&at).map(Peer::Selector),
        "nodes" if !ingress => Labels::read(&at).map(|labels| Peer::Selector(Selector::Nodes(labels))),
        "networks" if !ingress => {
            let nets = items(&at, 1)?;
            let nets = nets.iter().map(|field| Ok(Net { net: cidr(field)?, except: Vec::new() }));
            nets.collect::<Result<_, String>>().map(Peer::Nets)
        }
        _ => Ok(Peer::Unknown(at.path)),
    }
}

/// A port; `None`: of a field that is not known here.
fn port(field: &Field<'_>) -> Result<Option<PortFacts>, String> {
    let fields = field.fields()?;
    let names: Vec<&str> = fields.names().collect();
    let [name] = names[..] else {
        return if names.is_empty() { Ok(None) } else { field.wrong("exactly one field of a protocol can be set") };
    };
    let at = fields.get(name);
    let protocol = match name {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "destinationNamedPort" => return Ok(Some(PortFacts::Named { name: port_name(&at)?, protocol: None })),
        _ => return Ok(None),
    };
    let fields = at.fields()?;
    if fields.unknown(&["destinationPort"]).is_some() {
        return Ok(None);
    }
    let at = fields.get("destinationPort");
    if !at.is_set() {
        return Ok(Some(PortFacts::Range(all_ports(protocol))));
    }
    destination(&at, protocol)
}

fn destination(field: &Field<'_>, protocol: Protocol) -> Result<Option<PortFacts>, String> {
    let fields = field.fields()?;
    if fields.unknown(&["number", "range"]).is_some() {
        return Ok(None);
    }
    let (number, range) = (fields.get("number"), fields.get("range"));
    match (port_number(&number)?, range.is_set()) {
        (Some(port), false) => Ok(Some(PortFacts::Range(PortRange { protocol, first: port, last: port }))),
        (None, true) => {
            let fields = range.fields()?;
            fields.only(&["start", "end"])?;
            let (start, end) = (port_number(&fields.get("start"))?, port_number(&fields.get("end"))?);
            match (start, end) {
                (Some(first), Some(last)) if first < last => {
                    Ok(Some(PortFacts::Range(PortRange { protocol, first, last })))
                }
                (Some(first), Some(last)) => range.wrong(format!("start {first} is not below end {last}")),
                _ => range.wrong("start and end are needed"),
            }
        }
        _ => field.wrong("exactly one of number and range is needed"),
    }
}

/// A list within the API's limits.
fn items<'v>(field: &Field<'v>, least: usize) -> Result<Vec<Field<'v>>, String> {
    let items = field.list()?.unwrap_or_default();
    match items.len() {
        n if n < least => field.wrong("at least one item is needed"),
        n if n > MAX_ITEMS => field.wrong(format!("{n} items: {MAX_ITEMS} is the limit")),
        _ => Ok(items),
    }
}
