//! Network policy as tables: which rule of a set decides about a flow between a pod and a peer.
//!
//! - An address has a **class**: the interned set of selectors (and named-port bindings) that match it. What has no
//!   owner is of one of two classes of its own: inside the pod ranges, or outside of them.
//! - A **set** gives each of its rules a position, in the order of judging. For each class, for each interval of
//!   addresses that blocks cut, and for each interval of ports it keeps a **row**: the positions of the rules that match
//!   there. The first position that the port's row and one of the two peer's rows have in common decides; a rule that
//!   passes continues at the next tier.
//! - A **change** makes new tables that share with the old ones what it leaves alone: an address of a known class costs
//!   one entry, a new class one row in each set that knows one of its selectors, a rule's change its own bits. Positions
//!   have gaps, so that a new rule seldom moves others.
//!
//! [`Policies::judge`] neither allocates nor locks; hit counters are relaxed atomics that all snapshots share.

mod apply;
mod hits;
mod intervals;
mod introspect;
mod judge;
mod layout;
mod ranges;
mod row;
mod set;
mod sharded;
mod spec;

use std::net::IpAddr;
use std::sync::Arc;

use hits::Hits;
use intervals::Intervals;
use set::Set;
use sharded::Sharded;

pub use judge::{Decision, L4, Query};
pub use layout::MAX_RULES;
pub use spec::{
    Action, Change, ClassId, Effects, NetSpec, PeersSpec, PolicyError, Ports, RuleId, RuleSetId, RuleSpec, SelectorId,
    Tier,
};

/// All policies, compiled. Immutable and cheap to clone: [`Policies::with`] shares what does not change.
///
/// The default knows no address, rule or set.
#[derive(Clone, Default)]
pub struct Policies {
    /// What is known of each address. Read by workers.
    addresses4: Sharded<u32, ClassId>,
    /// The same for IPv6.
    addresses6: Sharded<u128, ClassId>,
    /// Where pods' addresses lie: there, an address without an owner is suspect. Read by workers.
    pod_ranges: Arc<(Intervals<u32>, Intervals<u128>)>,
    /// Read by workers.
    sets: Sharded<u32, Arc<Set>>,
    /// The rules by their id.
    rules: Sharded<u32, Rule>,
    /// The classes by their id; read by workers for rules with both blocks and a named port alone.
    classes: Sharded<u32, Class>,
    /// The class of a set of selectors.
    interned: Sharded<Arc<[SelectorId]>, ClassId>,
    /// Ids that no class has any longer, and the first that none ever had.
    free_classes: (Arc<Vec<u32>>, u32),
    /// The rules that name a selector or binding.
    by_selector: Sharded<u32, Arc<Vec<RuleId>>>,
    /// The sets that have a rule.
    by_rule: Sharded<u32, Arc<Vec<RuleSetId>>>,
}

/// A rule and how often it decided.
#[derive(Clone)]
struct Rule {
    spec: Arc<RuleSpec>,
    hits: Arc<Hits>,
}

/// A set of selectors that addresses have.
#[derive(Clone)]
struct Class {
    /// Sorted, each once.
    selectors: Arc<[SelectorId]>,
    /// How many addresses are of this class.
    addresses: u32,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policies")
            .field("addresses", &self.addresses())
            .field("classes", &self.classes())
            .field("rules", &self.rules.len())
            .field("sets", &self.sets.len())
            .finish()
    }
}

/// An address as a point of its family's line.
#[derive(Clone, Copy)]
enum Point {
    V4(u32),
    V6(u128),
}

impl From<IpAddr> for Point {
    #[inline(always)]
    fn from(address: IpAddr) -> Point {
        match address {
            IpAddr::V4(a) => Point::V4(a.into()),
            IpAddr::V6(a) => Point::V6(a.into()),
        }
    }
}
