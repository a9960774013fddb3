//! What a policy says, in the same words for both kinds.

use std::fmt;

use podplane_config::v1::{Net, PortRange, Protocol, RuleAction, Tier};

use super::labels::Labels;
use super::read::Field;

/// Who is selected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Selector {
    /// Pods by their namespace and their labels.
    Pods { namespaces: Namespaces, pods: Labels },
    /// Nodes by their labels.
    Nodes(Labels),
    /// Pods that have a container port of this name, with this protocol and number: what a name is bound to.
    Port { name: String, protocol: Protocol, number: u16 },
    /// Pods that have a container port of this name that was not bound: their namespaces have too many.
    Unbound { name: String },
}

/// Which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Namespaces {
    /// The one of this name.
    One(String),
    /// Those with these labels.
    Labelled(Labels),
}

impl Namespaces {
    /// By labels; by name where that is all they ask for.
    pub(super) fn of(labels: Labels) -> Namespaces {
        match labels.namespace_name() {
            Some(name) => Namespaces::One(name.to_owned()),
            None => Namespaces::Labelled(labels),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |labels: &Labels| if labels.is_empty() { String::new() } else { format!(" {labels}") };
        match self {
            Selector::Pods { namespaces: Namespaces::One(name), pods } => {
                write!(f, "pods{} in namespace {name}", some(pods))
            }
            Selector::Pods { namespaces: Namespaces::Labelled(labels), pods } if labels.is_empty() => {
                write!(f, "pods{} in all namespaces", some(pods))
            }
            Selector::Pods { namespaces: Namespaces::Labelled(labels), pods } => {
                write!(f, "pods{} in namespaces {labels}", some(pods))
            }
            Selector::Nodes(labels) => write!(f, "nodes{}", some(labels)),
            Selector::Port { name, protocol, number } => write!(f, "pods whose port \"{name}\" is {protocol} {number}"),
            Selector::Unbound { name } => write!(f, "pods whose port \"{name}\" has one number too many"),
        }
    }
}

/// A policy, checked by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyFacts {
    pub(super) tier: Tier,
    /// Within its tier, lower first; of a NetworkPolicy 0.
    pub(super) priority: u16,
    /// The pods that it applies to.
    pub(super) subject: Selector,
    /// Traffic to them; `None`: not its business.
    pub(super) ingress: Option<Vec<RuleFacts>>,
    /// Traffic from them; `None`: not its business.
    pub(super) egress: Option<Vec<RuleFacts>>,
    /// What of it is not in force, with the field and the reason.
    pub(super) problems: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleFacts {
    /// Where it stands in its list.
    pub(super) index: usize,
    /// Its own name; may be empty.
    pub(super) name: String,
    pub(super) action: RuleAction,
    pub(super) peers: PeerFacts,
    /// `None`: everything, ICMP included.
    pub(super) ports: Option<Vec<PortFacts>>,
}

/// The other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerFacts {
    Any,
    Of { selectors: Vec<Selector>, nets: Vec<Net> },
}

/// Ports of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortFacts {
    Range(PortRange),
    /// What the server's pod calls so; `None`: whatever protocol it has there.
    Named {
        name: String,
        protocol: Option<Protocol>,
    },
}

impl RuleFacts {
    fn selectors(&self) -> &[Selector] {
        match &self.peers {
            PeerFacts::Any => &[],
            PeerFacts::Of { selectors, .. } => selectors,
        }
    }
}

impl PolicyFacts {
    /// Its rules of one direction.
    pub(super) fn rules(&self, ingress: bool) -> Option<&[RuleFacts]> {
        if ingress { self.ingress.as_deref() } else { self.egress.as_deref() }
    }

    pub(super) fn all_rules(&self) -> impl Iterator<Item = &RuleFacts> {
        self.ingress.iter().chain(&self.egress).flatten()
    }

    /// All selectors that it names, its subject included.
    pub(super) fn selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.subject).chain(self.all_rules().flat_map(RuleFacts::selectors))
    }

    /// The names of ports of other pods that its egress rules speak of.
    pub(super) fn port_names(&self) -> impl Iterator<Item = &str> {
        let ports = self.egress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        ports.filter_map(|port| match port {
            PortFacts::Named { name, .. } => Some(name.as_str()),
            PortFacts::Range(_) => None,
        })
    }
}

/// All ports of a protocol.
pub(super) fn all_ports(protocol: Protocol) -> PortRange {
    PortRange { protocol, first: 1, last: u16::MAX }
}

/// A protocol as Kubernetes writes it.
pub(super) fn protocol(field: &Field<'_>) -> Result<Option<Protocol>, String> {
    match field.text()? {
        None => Ok(None),
        Some("TCP") => Ok(Some(Protocol::Tcp)),
        Some("UDP") => Ok(Some(Protocol::Udp)),
        Some("SCTP") => Ok(Some(Protocol::Sctp)),
        Some(other) => field.wrong(format!("\"{other}\" is none of TCP, UDP, SCTP")),
    }
}

/// A port's number; `None`: missing.
pub(super) fn port_number(field: &Field<'_>) -> Result<Option<u16>, String> {
    let Some(number) = field.integer()? else { return Ok(None) };
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => field.wrong(format!("{number} is no port: 1 to 65535 are")),
    }
}

/// A port's name (an IANA service name, RFC 6335 section 5.1).
pub(super) fn port_name(field: &Field<'_>) -> Result<String, String> {
    let name = field.text()?.unwrap_or_default();
    let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ends = !name.starts_with('-') && !name.ends_with('-') && !name.contains("--");
    let has_letter = name.bytes().any(|b| b.is_ascii_lowercase());
    if (1..=15).contains(&name.len()) && inner && ends && has_letter {
        return Ok(name.to_owned());
    }
    field.wrong(format!("\"{name}\" is no name of a port: up to 15 of a-z, 0-9 and -, at least one letter"))
}

/// A range of addresses; bits behind the prefix do not count, as everywhere in Kubernetes.
pub(super) fn cidr(field: &Field<'_>) -> Result<ipnet::IpNet, String> {
    let text = field.text()?.unwrap_or_default();
    let net: ipnet::IpNet = match text.parse() {
        Ok(net) => net,
        Err(_) => return field.wrong(format!("\"{text}\" is no range such as 10.0.0.0/8 or fd00::/8")),
    };
    if let ipnet::IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
        && v6.prefix_len() >= 96
    {
        return field.wrong(format!("\"{text}\" holds IPv4 addresses written as IPv6: write them as IPv4"));
    }
    Ok(net.trunc())
}
