//! What became of each policy, and what applies to each pod of this node, for people.

use std::net::IpAddr;
use std::time::Duration;

use podplane_config::v1::{self, Peers, PortRange, RuleAction, Tier};

use super::Policy;
use super::endpoints::{EndpointState, Verdict};
use super::rules::SetId;
use crate::k8s::ObjectKey;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReport {
    /// What identifies it.
    pub key: ObjectKey,
    /// Its tier.
    pub tier: Tier,
    /// Within its tier; a NetworkPolicy has none.
    pub priority: Option<u16>,
    /// What of it is refused, with the field and the reason.
    pub refused: Vec<String>,
    /// What is in force instead of a policy that was refused whole.
    pub instead: Option<String>,
    /// How many pods of this node it selects.
    pub selects: usize,
}

/// What applies to a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPolicyReport {
    /// "namespace/name"; empty for an endpoint without a pod.
    pub pod: String,
    /// The endpoint's identity.
    pub endpoint: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Why it is not judged by its pod's policy, and what is done instead.
    pub trouble: Option<String>,
    /// What comes to it; `None`: no policy applies.
    pub ingress: Option<RulesReport>,
    /// What it opens; `None`: no policy applies.
    pub egress: Option<RulesReport>,
    /// What it took to compile its rules the last time.
    pub compiled: Duration,
}

/// The rules of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesReport {
    /// The number of the list.
    pub set: u32,
    /// Whether a NetworkPolicy isolates the pod.
    pub isolated: bool,
    /// In the order of judging.
    pub rules: Vec<RuleReport>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    /// Its number.
    pub id: u32,
    /// Where it stands.
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// What it does.
    pub action: RuleAction,
    /// Whom it matches.
    pub peers: Vec<String>,
    /// Which ports; empty: everything.
    pub ports: Vec<String>,
}

impl Policy {
    /// All policies, as of the last [`Policy::settle`].
    pub(crate) fn policies(&self) -> Vec<PolicyReport> {
        let states = self.by_key.values().filter_map(|id| self.policies.get(id));
        let report = |policy: &super::PolicyState| {
            let selects = |endpoint: &&EndpointState| {
                let pod = endpoint.bound.and_then(|id| self.pods.get(id));
                pod.is_some_and(|pod| pod.matched.binary_search(&policy.subject()).is_ok())
            };
            let mut refused = policy.facts.problems.clone();
            refused.extend(policy.refused.iter().map(|(reason, _)| reason.clone()));
            PolicyReport {
                key: policy.key.clone(),
                tier: policy.facts.tier,
                priority: Some(policy.facts.priority).filter(|_| policy.facts.tier != Tier::NetworkPolicy),
                refused,
                instead: policy.refused.as_ref().map(|(_, instead)| instead.clone()),
                selects: self.endpoints.values().filter(selects).count(),
            }
        };
        states.map(report).collect()
    }

    /// What of policies that are in force is not supported: key, reason.
    pub(crate) fn problems(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        let states = self.policies.values();
        states.flat_map(|policy| policy.facts.problems.iter().map(|problem| (&policy.key, problem.as_str())))
    }

    /// What applies to each endpoint, as of the last [`Policy::settle`].
    pub(crate) fn pod_policies(&self) -> Vec<PodPolicyReport> {
        let report = |(id, endpoint): (&String, &EndpointState)| {
            let pod = endpoint.pod.as_ref();
            let (policy, trouble) = match &endpoint.verdict {
                Verdict::Withheld(reason) => (v1::EndpointPolicy::default(), Some(format!("not connected: {reason}"))),
                Verdict::Rules(policy, trouble) => (*policy, trouble.clone()),
            };
            PodPolicyReport {
                pod: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default(),
                endpoint: id.clone(),
                addresses: endpoint.addresses.clone(),
                trouble,
                ingress: policy.ingress.and_then(|set| self.rules_report(set)),
                egress: policy.egress.and_then(|set| self.rules_report(set)),
                compiled: endpoint.compiled,
            }
        };
        let mut reports: Vec<PodPolicyReport> = self.endpoints.iter().map(report).collect();
        reports.sort_by(|a, b| (&a.pod, &a.endpoint).cmp(&(&b.pod, &b.endpoint)));
        reports
    }

    fn rules_report(&self, set: SetId) -> Option<RulesReport> {
        let rules = self.rules.set(set)?.iter().filter_map(|id| self.rules.rule(*id));
        let isolates = |rule: &v1::Rule| rule.tier == Tier::NetworkPolicy && rule.action == RuleAction::Deny;
        let isolated = rules.clone().any(isolates);
        Some(RulesReport { set, isolated, rules: rules.map(|rule| self.rule_report(rule)).collect() })
    }

    fn rule_report(&self, rule: &v1::Rule) -> RuleReport {
        let selector = |id: &u32| match self.selectors.get(*id) {
            Some(entry) => entry.selector.to_string(),
            None => format!("selector {id}"),
        };
        let mut peers = match &rule.peers {
            Peers::Any => vec!["anyone".to_owned()],
            Peers::Of { selectors, nets } => selectors.iter().map(selector).chain(nets.iter().map(net)).collect(),
        };
        // Both must hold.
        if let Some(named) = &rule.named {
            peers.iter_mut().for_each(|peer| *peer = format!("{peer}, of these {}", selector(named)));
        }
        RuleReport {
            id: rule.id,
            name: rule.name.clone(),
            tier: rule.tier,
            action: rule.action,
            peers,
            ports: rule.ports.iter().flatten().map(ports).collect(),
        }
    }

    /// Selectors, rules and lists that are kept, for tests and figures.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        let (rules, sets) = self.rules.len();
        [self.selectors.len(), rules, sets]
    }
}

fn net(net: &v1::Net) -> String {
    let except: Vec<String> = net.except.iter().map(ToString::to_string).collect();
    if except.is_empty() { net.net.to_string() } else { format!("{} except {}", net.net, except.join(", ")) }
}

fn ports(range: &PortRange) -> String {
    let PortRange { protocol, first, last } = range;
    match (first, last) {
        (1, &u16::MAX) => format!("{protocol}"),
        _ if first == last => format!("{protocol} {first}"),
        _ => format!("{protocol} {first}-{last}"),
    }
}
