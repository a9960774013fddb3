//! What control says: rules, sets, whose address is whose; and what comes of it.

use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

use super::MAX_RULES;

/// A rule, as the agent numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// A list of rules, as the agent numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleSetId(pub u32);

/// A selector of pods, namespaces or nodes, or a named port's binding, as the agent numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(pub u32);

/// The addresses that the same selectors match. Of this table's own making; another table may number them otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub(super) u32);

impl ClassId {
    /// Nobody is known to own the address, and it is in no pod range.
    pub const OUTSIDE: ClassId = ClassId(0);
    /// Nobody is known to own the address, though it is in a pod range.
    pub const UNKNOWN: ClassId = ClassId(1);
    /// The first that an address with an owner can have.
    pub(super) const FIRST: u32 = 2;
}

/// The three tiers, in the order in which they judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// ClusterNetworkPolicy's tier Admin.
    Admin,
    /// NetworkPolicy; the isolation rule belongs here.
    NetworkPolicy,
    /// ClusterNetworkPolicy's tier Baseline.
    Baseline,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The flow is allowed.
    Accept,
    /// The flow is forbidden.
    Deny,
    /// The rest of the rule's tier has no say.
    Pass,
}

/// A rule: whom it is about, and what it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Where in the order it judges.
    pub tier: Tier,
    /// What it decides.
    pub action: Action,
    /// The peers that it is about.
    pub peers: PeersSpec,
    /// Egress with a named port: the peer's address must match this binding, too.
    pub named: Option<SelectorId>,
    /// The server's ports that it is about. `None`: all, and what has no ports as well; an empty list: nothing.
    pub ports: Option<Box<[Ports]>>,
}

/// The peers that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeersSpec {
    /// Everybody.
    Any,
    /// Those that one of the selectors or one of the blocks matches; with neither, nobody.
    Of {
        /// Selectors of owners. If the rule denies, they also match an address of the pod ranges that nobody is known to
        /// own, and so does [`RuleSpec::named`].
        selectors: Box<[SelectorId]>,
        /// Blocks of addresses, whoever owns them.
        nets: Box<[NetSpec]>,
    },
}

/// A block of addresses without some blocks inside. Host bits are ignored; an exception of the other family, or outside
/// of the block, excepts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// Address and length of the prefix.
    pub net: (IpAddr, u8),
    /// What is not in it.
    pub except: Box<[(IpAddr, u8)]>,
}

/// Ports of a protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The protocol's number (IANA): 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// The lowest port, in host byte order.
    pub first: u16,
    /// The highest port, in host byte order.
    pub last: u16,
}

/// What [`super::Policies::with`] changes; the rest stays. Of two entries for one key the later counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Addresses and the selectors that match their owners, in any order; `None`: nobody is known to own it any longer.
    pub addresses: &'a [(IpAddr, Option<&'a [SelectorId]>)],
    /// Rules; `None` removes one, which no set may have then.
    pub rules: &'a [(RuleId, Option<Arc<RuleSpec>>)],
    /// Sets. Their rules judge tier by tier, and within a tier in the order of the list; a rule that is listed twice
    /// counts where it is listed first. `None` removes a set.
    pub sets: &'a [(RuleSetId, Option<Arc<[RuleId]>>)],
    /// All ranges of pods' addresses, ours and the other nodes', in place of those before.
    pub pod_ranges: Option<&'a [(IpAddr, u8)]>,
}

/// What a change may have decided otherwise: a decision that is another one has its address in `addresses`, or its set
/// in `sets`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Addresses that are of another class now. Sorted, each once.
    pub addresses: Vec<IpAddr>,
    /// Sets that came, went, or have other rules, or rules of other content; with other pod ranges also those that treat
    /// addresses without owner in their own way. Sorted, each once.
    pub sets: Vec<RuleSetId>,
}

/// Why a change is refused, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A prefix longer than an address.
    #[error("prefix {0}/{1} is longer than the address: at most 32 bits in IPv4, 128 in IPv6")]
    Prefix(IpAddr, u8),
    /// Ports from a higher to a lower one.
    #[error("rule {}: ports from {} down to {}: the first must not be above the last", .0.0, .1.first, .1.last)]
    Ports(RuleId, Ports),
    /// A set has a rule that does not exist.
    #[error("rule set {} has rule {}, which does not exist: send the rule with the set or before it", .set.0, .rule.0)]
    NoRule {
        /// The set.
        set: RuleSetId,
        /// The rule that it names.
        rule: RuleId,
    },
    /// A set has more rules than a row has places.
    #[error("rule set {} has {rules} rules, {MAX_RULES} at most: let fewer policies select one pod", .set.0)]
    TooManyRules {
        /// The set.
        set: RuleSetId,
        /// How many it has.
        rules: usize,
    },
}

impl RuleSpec {
    /// Bytes, with what it owns.
    pub(super) fn memory(&self) -> usize {
        let peers = match &self.peers {
            PeersSpec::Any => 0,
            PeersSpec::Of { selectors, nets } => {
                let excepts: usize = nets.iter().map(|net| size_of_val(&*net.except)).sum();
                size_of_val(&**selectors) + size_of_val(&**nets) + excepts
            }
        };
        size_of::<RuleSpec>() + peers + self.ports.as_ref().map_or(0, |ports| size_of_val(&**ports))
    }
}
