//! The rules of a pod, from the policies that select it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use podplane_config::v1::{Peers, PortRange, Protocol, Rule, RuleAction, Tier};

use super::PortName;
use super::facts::{PeerFacts, PolicyFacts, PortFacts, RuleFacts, all_ports};
use super::numbers::ByNumber;
use super::pods::PodState;
use super::rules::{Identity, RuleId, Rules, Variant};
use super::selectors::{SelectorId, Selectors};
use crate::k8s::ObjectKey;

/// The longest name of a rule in bytes; the contract takes a little more.
const MAX_NAME: usize = 480;

/// A policy that is in force.
#[derive(Debug)]
pub(super) struct PolicyState {
    pub(super) key: ObjectKey,
    pub(super) facts: PolicyFacts,
    /// The selectors that it holds: its subject, then those of its rules, each as often as it is named.
    pub(super) held: Vec<SelectorId>,
    /// Whether `facts` stand in for a policy that was refused.
    pub(super) is_closed: bool,
    /// Why its last word was refused, and what is in force instead.
    pub(super) refused: Option<(String, String)>,
    /// Ingress and egress: of each rule what is alike for all pods.
    prepared: [Vec<Prepared>; 2],
}

/// A rule with its selectors as numbers.
#[derive(Debug)]
struct Prepared {
    peers: Peers,
    /// The rule for ports by number, if it was made.
    plain: Option<RuleId>,
}

impl PolicyState {
    pub(super) fn new(
        key: &ObjectKey,
        facts: PolicyFacts,
        held: Vec<SelectorId>,
        is_closed: bool,
        selectors: &Selectors,
    ) -> PolicyState {
        let peers = |rule: &RuleFacts| match &rule.peers {
            PeerFacts::Any => Peers::Any,
            PeerFacts::Of { selectors: named, nets } => {
                let ids: BTreeSet<SelectorId> = named.iter().filter_map(|selector| selectors.find(selector)).collect();
                Peers::Of { selectors: ids.into_iter().collect(), nets: nets.clone() }
            }
        };
        let prepare = |rules: Option<&[RuleFacts]>| {
            rules.unwrap_or_default().iter().map(|rule| Prepared { peers: peers(rule), plain: None }).collect()
        };
        let prepared = [true, false].map(|ingress| prepare(facts.rules(ingress)));
        PolicyState { key: key.clone(), facts, held, is_closed, refused: None, prepared }
    }

    /// The selector of the pods that it applies to.
    pub(super) fn subject(&self) -> SelectorId {
        self.held.first().copied().unwrap_or_default()
    }

    fn rule_name(&self, rule: &RuleFacts, ingress: bool) -> String {
        let direction = if ingress { "ingress" } else { "egress" };
        let mut name = format!("{:?} {} {direction}[{}]", self.key.kind, self.key.path(), rule.index);
        if !rule.name.is_empty() {
            name = format!("{name} {}", rule.name);
        }
        // The dataplane would refuse it; whoever wrote it into a folder gets to see where.
        name = name.replace(char::is_control, "?");
        let end = (0..=name.len().min(MAX_NAME)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.truncate(end);
        name
    }
}

/// All that it takes to compile a pod's rules.
pub(super) struct Compiler<'c> {
    pub(super) selectors: &'c Selectors,
    pub(super) policies: &'c mut ByNumber<PolicyState>,
    pub(super) names: &'c HashMap<String, PortName>,
    pub(super) rules: &'c mut Rules,
}

impl Compiler<'_> {
    /// A pod's rules of one direction, in the order of judging; `None`: no policy applies.
    pub(super) fn list(&mut self, pod: &PodState, ingress: bool) -> Option<Arc<[RuleId]>> {
        let mut by_tier: [Vec<u32>; 3] = Default::default();
        for id in self.selectors.subjects_of(&pod.matched) {
            let Some(policy) = self.policies.get(&id) else { continue };
            if policy.facts.rules(ingress).is_some() {
                by_tier[policy.facts.tier as usize].push(id);
            }
        }
        let is_isolated = !by_tier[Tier::NetworkPolicy as usize].is_empty();
        let mut list = Vec::new();
        for (tier, mut ids) in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline].into_iter().zip(by_tier) {
            match tier {
                // Their rules accept only: any order is right, this one stays.
                Tier::NetworkPolicy => ids.sort_unstable(),
                _ => ids.sort_by_key(|id| self.policies.get(id).map(|p| (p.facts.priority, p.key.clone()))),
            }
            for id in ids {
                self.expand(id, ingress, pod, &mut list);
            }
            if tier == Tier::NetworkPolicy && is_isolated {
                list.push(self.rules.put(Identity::Isolation, deny("NetworkPolicy isolation", tier)));
            }
        }
        Some(list).filter(|list| !list.is_empty()).map(Arc::from)
    }

    /// What the rules of one policy are for a pod.
    fn expand(&mut self, id: u32, ingress: bool, pod: &PodState, list: &mut Vec<RuleId>) {
        let Some(policy) = self.policies.get_mut(&id) else { return };
        let count = policy.facts.rules(ingress).map_or(0, <[RuleFacts]>::len);
        for at in 0..count {
            let known = policy.prepared[usize::from(!ingress)].get(at).and_then(|prepared| prepared.plain);
            let Some(rule) = policy.facts.rules(ingress).and_then(|rules| rules.get(at)) else { continue };
            let is_plain = !rule.ports.iter().flatten().any(|port| matches!(port, PortFacts::Named { .. }));
            if let Some(known) = known.filter(|known| is_plain && self.rules.contains(*known)) {
                list.push(known);
                continue;
            }
            let (variants, unbound) = variants(rule, ingress, pod, self.names);
            let Some(prepared) = policy.prepared[usize::from(!ingress)].get(at) else { continue };
            let make = |variant: &Variant, ports: Option<Vec<PortRange>>| Rule {
                id: 0,
                name: policy.rule_name(rule, ingress),
                tier: policy.facts.tier,
                // What is not known is closed, as everywhere: what it would skip might accept.
                action: match variant {
                    Variant::Binding(id) if unbound.contains(id) => RuleAction::Deny,
                    _ => rule.action,
                },
                peers: prepared.peers.clone(),
                named: if let Variant::Binding(id) = variant { Some(*id) } else { None },
                ports,
            };
            let mut last = None;
            for (variant, ports) in variants {
                let made = make(&variant, ports);
                let identity = Identity::Of { policy: id, ingress, index: rule.index, variant };
                last = Some(self.rules.put(identity, made));
                list.extend(last);
            }
            policy.prepared[usize::from(!ingress)][at].plain = last.filter(|_| is_plain);
        }
    }
}

/// Rules with their ports.
type Variants = Vec<(Variant, Option<Vec<PortRange>>)>;

/// The rules that a rule becomes; and the selectors of pods whose ports are not known by their names.
fn variants(
    rule: &RuleFacts,
    ingress: bool,
    pod: &PodState,
    names: &HashMap<String, PortName>,
) -> (Variants, BTreeSet<SelectorId>) {
    let mut unbound = BTreeSet::new();
    let Some(ports) = &rule.ports else { return (vec![(Variant::Plain, None)], unbound) };
    let mut ranges = BTreeSet::new();
    let mut named: BTreeSet<(&str, Option<Protocol>)> = BTreeSet::new();
    for port in ports {
        match port {
            PortFacts::Range(range) => drop(ranges.insert(*range)),
            PortFacts::Named { name, protocol } => drop(named.insert((name, *protocol))),
        }
    }
    let single = |protocol: Protocol, number: u16| PortRange { protocol, first: number, last: number };
    let fits = |wanted: Option<Protocol>, protocol: Protocol| wanted.is_none_or(|wanted| wanted == protocol);
    let mut all = Vec::new();
    let mut variant = Variant::Plain;
    if ingress && !named.is_empty() {
        // The server is this pod: what it calls so.
        for (own, protocol, number) in &pod.facts.ports {
            if named.iter().any(|(name, wanted)| name == own && fits(*wanted, *protocol)) {
                ranges.insert(single(*protocol, *number));
            }
        }
        let plain = |range: &PortRange| (range.protocol.number(), range.first, range.last);
        variant = Variant::Ports(ranges.iter().map(plain).collect());
    }
    if !ranges.is_empty() {
        all.push((variant, Some(ranges.into_iter().collect())));
    }
    if !ingress {
        let mut bound = BTreeSet::new();
        for (name, wanted) in named {
            let closes = rule.action != RuleAction::Accept;
            unbound.extend(names.get(name).and_then(|state| state.unbound).filter(|_| closes));
            let bindings = names.get(name).into_iter().flat_map(|state| &state.bindings);
            bound.extend(bindings.filter(|((protocol, _), _)| fits(wanted, *protocol)));
        }
        all.extend(
            bound
                .into_iter()
                .map(|((protocol, number), id)| (Variant::Binding(*id), Some(vec![single(*protocol, *number)]))),
        );
        // Theirs may be any.
        let any = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(all_ports);
        all.extend(unbound.iter().map(|id| (Variant::Binding(*id), Some(any.to_vec()))));
    }
    (all, unbound)
}

fn deny(name: &str, tier: Tier) -> Rule {
    Rule { id: 0, name: name.into(), tier, action: RuleAction::Deny, peers: Peers::Any, named: None, ports: None }
}

/// The rule of a pod whose policy is not known: nothing overrules it.
pub(super) fn deny_unknown(rules: &mut Rules) -> RuleId {
    rules.put(Identity::Unknown, deny("the pod's policy is not known", Tier::Admin))
}

/// The rule of a pod whose rules do not fit: nothing overrules it.
pub(super) fn deny_crowded(rules: &mut Rules) -> RuleId {
    rules.put(Identity::Crowded, deny("the pod's rules do not fit", Tier::Admin))
}
