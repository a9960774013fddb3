//! Policy as the pipeline compiles it, made from the validated configuration step by step: only what differs from the
//! step before is touched, and copies share what is alike.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use podplane_config::v1;
use podplane_config::valid::{MAX_RULES_PER_SET, Policy};
use podplane_pipeline::snapshot::{PolicyMap, PortPolicy};
use podplane_tables::policy::{
    Action, MAX_RULES, NetSpec, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, SelectorId, Tier,
};

const _: () = assert!(MAX_RULES_PER_SET <= MAX_RULES, "a list of rules that is valid has room in the tables");

/// Policy for the pipeline, and what it was made from.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    map: PolicyMap,
    /// What was followed so far.
    policy: Policy,
}

impl Rules {
    /// The rules of `policy`, made from these.
    #[must_use]
    pub fn follow(&self, policy: &Policy) -> Rules {
        let mut next = self.clone();
        let PolicyMap { addresses, rules, sets } = &mut next.map;
        follow(
            &self.policy.addresses,
            &policy.addresses,
            addresses,
            |address| *address,
            |owner| owner.selectors.iter().copied().map(SelectorId).collect(),
        );
        follow(&self.policy.rules, &policy.rules, rules, |id| RuleId(*id), |rule| Arc::new(spec(rule)));
        follow(
            &self.policy.sets,
            &policy.sets,
            sets,
            |id| RuleSetId(*id),
            |set| set.rules.iter().copied().map(RuleId).collect(),
        );
        next.policy = policy.clone();
        next
    }

    /// What the pipeline compiles.
    pub fn map(&self) -> &PolicyMap {
        &self.map
    }

    /// What it was made from.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// Makes in `map` the changes that lead from one map to another.
fn follow<K: Ord + Clone, V: PartialEq + Clone, L: Ord + Clone, W: Clone>(
    from: &OrdMap<K, V>,
    to: &OrdMap<K, V>,
    map: &mut OrdMap<L, W>,
    key: impl Fn(&K) -> L,
    value: impl Fn(&V) -> W,
) {
    for change in from.diff(to) {
        match change {
            DiffItem::Add(k, v) | DiffItem::Update { new: (k, v), .. } => drop(map.insert(key(k), value(v))),
            DiffItem::Remove(k, _) => drop(map.remove(&key(k))),
        }
    }
}

/// The rules of a pod.
pub fn of_endpoint(policy: v1::EndpointPolicy) -> PortPolicy {
    PortPolicy { ingress: policy.ingress.map(RuleSetId), egress: policy.egress.map(RuleSetId) }
}

fn spec(rule: &v1::Rule) -> RuleSpec {
    RuleSpec {
        tier: match rule.tier {
            v1::Tier::Admin => Tier::Admin,
            v1::Tier::NetworkPolicy => Tier::NetworkPolicy,
            v1::Tier::Baseline => Tier::Baseline,
        },
        action: match rule.action {
            v1::RuleAction::Accept => Action::Accept,
            v1::RuleAction::Deny => Action::Deny,
            v1::RuleAction::Pass => Action::Pass,
        },
        peers: match &rule.peers {
            v1::Peers::Any => PeersSpec::Any,
            v1::Peers::Of { selectors, nets } => PeersSpec::Of {
                selectors: selectors.iter().copied().map(SelectorId).collect(),
                nets: nets.iter().map(net).collect(),
            },
        },
        named: rule.named.map(SelectorId),
        ports: rule.ports.as_ref().map(|ports| ports.iter().map(range).collect()),
    }
}

fn net(net: &v1::Net) -> NetSpec {
    let prefix = |net: &IpNet| (net.addr(), net.prefix_len());
    NetSpec { net: prefix(&net.net), except: net.except.iter().map(prefix).collect() }
}

fn range(range: &v1::PortRange) -> Ports {
    Ports { protocol: range.protocol.number(), first: range.first, last: range.last }
}

#[cfg(all(test, not(loom)))]
mod tests;
