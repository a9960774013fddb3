//! Policy: what is in force, and what would become of a packet.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The policy in force, as far as this node's pods have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// The pods' ports, by name.
    pub endpoints: Vec<EndpointPolicy>,
    /// The rule sets that they have, by number.
    pub sets: Vec<RuleSet>,
    /// The rules of these, by number.
    pub rules: Vec<RuleHits>,
    /// Addresses with a known owner, in the whole cluster.
    pub addresses: usize,
    /// Classes of addresses: those that the same selectors match are one.
    pub classes: usize,
    /// Bytes of the compiled tables, about.
    pub table_bytes: usize,
    /// What it took to compile the last change of policy, in microseconds.
    pub compiled_us: u64,
}

/// The rules of a pod's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPolicy {
    /// Its identity.
    pub endpoint: String,
    /// "namespace/name" of the pod; may be empty.
    pub pod: String,
    /// The rule set of what comes to it; `None`: no policy applies.
    pub ingress: Option<u32>,
    /// The rule set of what it opens; `None`: no policy applies.
    pub egress: Option<u32>,
}

/// Rules in the order of judging: the first that matches decides, and what none matches is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Its number.
    pub id: u32,
    /// The rules' numbers.
    pub rules: Vec<u32>,
}

/// A rule, and how often it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHits {
    /// Its number.
    pub id: u32,
    /// What made it: "NetworkPolicy default/web ingress\[0\]".
    pub name: String,
    /// `Admin`, `NetworkPolicy` or `Baseline`.
    pub tier: String,
    /// `Accept`, `Deny` or `Pass`.
    pub action: String,
    /// New flows that it decided about, by all workers, since it is there.
    pub hits: u64,
}

/// An imaginary packet that opens a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imaginary {
    /// Who sends it: "namespace/name" of a pod, "node/" and a node's name, or an address.
    pub from: String,
    /// Whom it is sent to: the same, or an address at which a Service is served.
    pub to: String,
    /// `TCP`, `UDP`, `SCTP` or `ICMP` (an echo request).
    pub protocol: String,
    /// The port that it is sent to; of no meaning for ICMP.
    #[serde(default)]
    pub port: u16,
    /// IPv6 where both sides have both families; otherwise IPv4 is preferred.
    #[serde(default)]
    pub ipv6: bool,
}

/// What would become of an imaginary packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The generation that it was judged by.
    pub generation: u32,
    /// Who sends it.
    pub from: Party,
    /// Whom it is sent to.
    pub to: Party,
    /// As asked for.
    pub protocol: String,
    /// The port that it is sent to; 0 for ICMP.
    pub port: u16,
    /// The port of this node by which it comes in.
    pub enters: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The stable name of the reason for which it is dropped; empty if it is not.
    pub reason: String,
    /// What becomes of it, in one sentence.
    pub explanation: String,
    /// The Service that it goes through.
    pub service: Option<ServiceChoice>,
    /// The policies that this node judged it by, in the order of judging.
    pub judged: Vec<Judgement>,
    /// Where it leaves this node.
    pub leaves: Option<Leaves>,
    /// The address that the other side sees, where it is not the sender's.
    pub seen_as: Option<IpAddr>,
    /// The nodes that it passed through, in short: the nodes of the graph.
    pub path: Vec<String>,
}

/// One side of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// The pod, "namespace/name", or "node/" and a node's name; empty if nobody is known to own the address.
    pub name: String,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is dropped silently.
    Drop,
    /// It is answered by a refusal or an ICMP error.
    Refuse,
    /// The gateway or this node answers it itself.
    Answer,
    /// It waits for a neighbour's answer.
    Wait,
}

/// What a Service made of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChoice {
    /// "namespace/name" of the Service; of a host port, of its pod.
    pub service: String,
    /// The port's name; may be empty.
    pub port: String,
    /// The backend that this packet would get. Another source port may get another.
    pub backend: Option<IpAddr>,
    /// The backend's port; 0 without a backend.
    pub backend_port: u16,
    /// The pod behind that address, "namespace/name"; may be empty.
    pub pod: String,
    /// Among how many backends it was chosen.
    pub backends: usize,
}

/// What the policy of one pod says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Whether it is about what comes to the pod or what it opens.
    pub direction: Direction,
    /// "namespace/name" of the pod; may be empty.
    pub pod: String,
    /// Its rule set; `None`: no policy applies.
    pub set: Option<u32>,
    /// Whether it is let through.
    pub accept: bool,
    /// The rule that decided; `None`: none matched, or no policy applies.
    pub rule: Option<RuleHits>,
}

/// A direction, as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What comes to the pod.
    Ingress,
    /// What the pod opens.
    Egress,
}

/// Where a packet leaves a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaves {
    /// The port's name.
    pub port: String,
    /// What is behind it.
    pub to: Behind,
    /// The pod, "namespace/name", or the other node's name; may be empty.
    pub name: String,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behind {
    /// A pod of this node.
    Pod,
    /// This node itself.
    Host,
    /// Another node, through the tunnel; it judges its own pods' ingress.
    Node,
    /// The world outside.
    Outside,
}
