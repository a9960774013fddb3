//! What a file of scenarios says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::rules::{Owners, PodPolicy, Policies};

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What it is about, for people.
    #[serde(rename = "about")]
    pub _about: String,
    /// Names for addresses, one of each family.
    #[serde(default)]
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Services of all scenarios.
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
    /// Names for ranges, one of each family.
    #[serde(default)]
    pub nets: BTreeMap<String, Vec<String>>,
    /// Selectors of addresses, for all scenarios; pods and nodes that are not named have an owner that none matches.
    #[serde(default)]
    pub owners: Owners,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
}

/// One port of a Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// `tcp` (the default), `udp` or `sctp`.
    #[serde(default)]
    pub protocol: Protocol,
    /// `sessionAffinity: ClientIP`, and its timeout in seconds.
    pub affinity: Option<u32>,
    /// Sets of backends by name, each backend `name:port`.
    #[serde(default)]
    pub sets: BTreeMap<String, Vec<String>>,
    /// What clients use.
    pub frontends: Vec<Frontend>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// What sort of address it is.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub enum Kind {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    HostPort,
}

/// An address and port that clients use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontend {
    /// `name:port`.
    pub at: String,
    /// What sort.
    #[serde(default)]
    pub kind: Kind,
    /// The only nodes that have it; all if not stated.
    #[serde(default)]
    pub on: Vec<String>,
    /// What pods and the node get: a set's name, `reject` or `drop`.
    pub inside: String,
    /// What comes plain by the uplink gets.
    pub outside: String,
    /// The only clients that are served, `ADDRESS/LENGTH` of either family.
    pub sources: Option<Vec<String>>,
}

/// Steps that happen one after another to one cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One sentence.
    pub name: String,
    /// In which it runs.
    #[serde(default = "both")]
    pub families: Vec<u8>,
    /// Why it does not come out yet: then it must not, so that nobody forgets to take the word away.
    pub unmet: Option<String>,
    /// Services of this scenario, besides those of the file or in their place.
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
    /// Owners of this scenario, besides those of the file or in their place (nothing behind the name: none).
    pub owners: Option<BTreeMap<String, Option<Vec<String>>>>,
    /// The pods' rules.
    #[serde(default)]
    pub policies: Policies,
    /// What happens.
    pub steps: Vec<Step>,
}

fn both() -> Vec<u8> {
    vec![4, 6]
}

/// One step, and all that must come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Services that are changed (or, with nothing behind the name, removed) first.
    pub services: Option<BTreeMap<String, Option<Service>>>,
    /// Owners that are changed (or, with nothing behind the name, forgotten) first.
    pub owners: Option<BTreeMap<String, Option<Vec<String>>>>,
    /// Policies that are changed (or, with nothing behind the name, removed) first.
    pub policies: Option<BTreeMap<String, Option<PodPolicy>>>,
    /// A host on the uplinks' network that answers from now on when it is asked for its Ethernet address.
    pub resolves: Option<String>,
    /// Milliseconds that pass before the packet.
    pub wait: Option<u32>,
    /// Where a packet comes in, and the packet.
    #[serde(rename = "in", default)]
    pub packet: BTreeMap<String, String>,
    /// Where packets come out, and what they are like; nothing else may.
    #[serde(default)]
    pub out: BTreeMap<String, OneOrMany>,
    /// The reasons for which packets are dropped, by name in the order of the list of reasons; none if not stated. Those
    /// of policy with the place that they are counted at: `policy-ingress@b`.
    #[serde(default)]
    pub drop: OneOrMany,
}

/// A text or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

impl OneOrMany {
    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}
