//! Who may talk to whom: owners of addresses, rules, and the rules of each pod.
//!
//! Kubernetes' selectors end in numbers: the agent says of each address which selectors match it, and rules name
//! selectors by number. Numbers mean something only among the objects of one configuration.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Protocol;

/// Whose an address is: a pod's, anywhere in the cluster, or a node's. One without has no known owner; in a range of
/// pods, a rule that denies by selector then matches it, and one that accepts by selector does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The pod's UID, or "node/" and the node's name.
    pub owner: String,
    /// "namespace/name" of the pod, or the owner again: for people.
    pub name: String,
    /// The selectors and bindings of named ports that match it: sorted, each once, at most
    /// [`MAX_SELECTORS`](crate::valid::MAX_SELECTORS).
    pub selectors: Vec<u32>,
}

/// One rule. Pods that have the same one share it.
///
/// A rule of ingress is about the client's address and this pod's port; a rule of egress about the server's address
/// and port, after Services were translated. One with too many nets for a message may stand as several in a row: the
/// first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its number.
    pub id: u32,
    /// What made it, for people: "NetworkPolicy default/web ingress\[0\]".
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// What happens to what it matches.
    pub action: RuleAction,
    /// Whom it matches.
    pub peers: Peers,
    /// Of egress with a named port: the binding that must match the server's address as well.
    pub named: Option<u32>,
    /// The server's ports. `None`: every packet, also of protocols without ports, as ICMP. Never empty.
    pub ports: Option<Vec<PortRange>>,
}

/// The tiers, in the order in which they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// ClusterNetworkPolicy's `Admin`.
    Admin,
    /// NetworkPolicy, the isolation of the pods that it selects included: a rule of its own that denies all.
    NetworkPolicy,
    /// ClusterNetworkPolicy's `Baseline`.
    Baseline,
}

impl std::fmt::Display for Tier {
    /// As Kubernetes writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Tier::Admin => "Admin",
            Tier::NetworkPolicy => "NetworkPolicy",
            Tier::Baseline => "Baseline",
        })
    }
}

/// What happens to what a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RuleAction {
    /// It is let through.
    Accept,
    /// It is dropped silently.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
}

impl std::fmt::Display for RuleAction {
    /// As Kubernetes writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RuleAction::Accept => "Accept",
            RuleAction::Deny => "Deny",
            RuleAction::Pass => "Pass",
        })
    }
}

/// Whom a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peers {
    /// Everybody.
    Any,
    /// Whoever one of these matches; nobody, if there is none.
    Of {
        /// At most [`MAX_SELECTORS_PER_RULE`](crate::valid::MAX_SELECTORS_PER_RULE).
        selectors: Vec<u32>,
        /// With what they leave out, at most [`MAX_NETS_PER_RULE`](crate::valid::MAX_NETS_PER_RULE).
        nets: Vec<Net>,
    },
}

/// A range of addresses, whoever owns them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Net {
    /// The range.
    pub net: IpNet,
    /// What is left out: ranges within `net`.
    pub except: Vec<IpNet>,
}

/// Ports of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port, not 0.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

/// The rules of pods in one direction. Pods with equal lists share one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Its number.
    pub id: u32,
    /// Rules in the order of judging, and so in that of their tiers, each once: the first that matches decides. What
    /// none matches is accepted.
    pub rules: Vec<u32>,
}

/// The rules that a pod has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointPolicy {
    /// The rule set of what comes to it; `None`: no policy applies.
    pub ingress: Option<u32>,
    /// The rule set of what it opens; `None`: no policy applies.
    pub egress: Option<u32>,
}
