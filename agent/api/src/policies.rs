//! `GET /v1/policies`: which policies this node knows, and what applies to each of its pods.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// All policies, and all pods of the node. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoliciesStatus {
    /// Policies, sorted by kind, namespace and name.
    pub policies: Vec<PolicyStatus>,
    /// Pods of this node, sorted by name.
    pub pods: Vec<PodPolicyStatus>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Namespace; empty where the kind has none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `Admin`, `NetworkPolicy`, `Baseline`.
    pub tier: String,
    /// Of a ClusterNetworkPolicy: 0 to 1000, lower first.
    pub priority: Option<u16>,
    /// What of it is refused, with the field and the reason; empty: all of it is in force.
    pub refused: Vec<String>,
    /// What is in force instead of a policy that was refused whole; empty where it was not.
    pub instead: String,
    /// How many pods of this node it selects.
    pub selects: usize,
}

/// What applies to a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPolicyStatus {
    /// "namespace/name"; empty for an attachment without a pod (`cnitool`).
    pub pod: String,
    /// The attachment, "containerID/ifname": the endpoint's identity in the dataplane.
    pub endpoint: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Why nothing can be said of its policy yet, and what is done meanwhile.
    pub trouble: Option<String>,
    /// Traffic to it; `None`: no policy applies, everything is accepted.
    pub ingress: Option<RulesStatus>,
    /// Traffic from it; `None`: no policy applies, everything is accepted.
    pub egress: Option<RulesStatus>,
    /// What it took to compile its rules the last time, in microseconds.
    pub compiled_us: u64,
}

/// The rules of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesStatus {
    /// The dataplane's number of this list; pods with equal lists share one.
    pub set: u32,
    /// Whether a NetworkPolicy isolates the pod in this direction.
    pub isolated: bool,
    /// In the order of judging: the first that matches decides. What none matches is accepted.
    pub rules: Vec<RuleStatus>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The dataplane's number of it, by which it counts hits.
    pub id: u32,
    /// Where it stands: "NetworkPolicy default/web ingress\[0\]".
    pub name: String,
    /// `Admin`, `NetworkPolicy`, `Baseline`.
    pub tier: String,
    /// `Accept`, `Deny`, `Pass`.
    pub action: String,
    /// Who the other side is, for people: "anyone", "10.0.0.0/8 except 10.1.0.0/16", "pods app=web in namespaces a=b".
    pub peers: Vec<String>,
    /// Which ports of the server, for people: "TCP 80", "UDP 1000-2000"; empty: everything, ICMP included.
    pub ports: Vec<String>,
}
