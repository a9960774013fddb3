//! The index's word on policies, as the agent's API says it.

use podplane_api::{PodPolicyStatus, PoliciesStatus, PolicyStatus, RuleStatus, RulesStatus};
use podplane_index::{Index, PodPolicyReport, PolicyReport, RuleReport, RulesReport};

/// All policies that the agent knows, and what applies to each pod of the node.
pub fn list(index: &Index) -> PoliciesStatus {
    PoliciesStatus {
        policies: index.policies().into_iter().map(policy).collect(),
        pods: index.pod_policies().into_iter().map(pod).collect(),
    }
}

fn policy(report: PolicyReport) -> PolicyStatus {
    PolicyStatus {
        kind: format!("{:?}", report.key.kind),
        namespace: report.key.namespace,
        name: report.key.name,
        tier: report.tier.to_string(),
        priority: report.priority,
        refused: report.refused,
        instead: report.instead.unwrap_or_default(),
        selects: report.selects,
    }
}

fn pod(report: PodPolicyReport) -> PodPolicyStatus {
    PodPolicyStatus {
        pod: report.pod,
        endpoint: report.endpoint,
        addresses: report.addresses,
        trouble: report.trouble,
        ingress: report.ingress.map(rules),
        egress: report.egress.map(rules),
        compiled_us: u64::try_from(report.compiled.as_micros()).unwrap_or(u64::MAX),
    }
}

fn rules(report: RulesReport) -> RulesStatus {
    let RulesReport { set, isolated, rules } = report;
    RulesStatus { set, isolated, rules: rules.into_iter().map(rule).collect() }
}

fn rule(report: RuleReport) -> RuleStatus {
    let RuleReport { id, name, tier, action, peers, ports } = report;
    RuleStatus { id, name, tier: tier.to_string(), action: action.to_string(), peers, ports }
}
