//! Policy: what control wants as plain data, and its compilation into [`Policies`], which workers judge by.
//!
//! A step costs what differs from the snapshot before: the maps share what is alike, and so do the tables.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use podplane_packet::id::PortId;
use podplane_tables::changed::ChangedCells;
use podplane_tables::policy::{Change, Policies, RuleId, RuleSetId, RuleSpec, SelectorId};

use super::{PortEntry, SnapshotConfig, SnapshotError};

/// The rule sets of a pod. `None`: no policy applies in that direction, and everything is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortPolicy {
    /// Of what others open to the pod.
    pub ingress: Option<RuleSetId>,
    /// Of what the pod opens.
    pub egress: Option<RuleSetId>,
}

impl PortPolicy {
    /// Both.
    pub(crate) fn sets(self) -> impl Iterator<Item = RuleSetId> {
        self.ingress.into_iter().chain(self.egress)
    }
}

/// All that policy is about. Cheap to clone and to compare with its former state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyMap {
    /// Addresses with a known owner, and the selectors (sorted) that match it.
    pub addresses: OrdMap<IpAddr, Arc<[SelectorId]>>,
    /// Rules, each shared by all sets that have it.
    pub rules: OrdMap<RuleId, Arc<RuleSpec>>,
    /// Sets of rules in the order of judging.
    pub sets: OrdMap<RuleSetId, Arc<[RuleId]>>,
}

/// Policy, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    wanted: PolicyMap,
    /// The ranges of pods, ours and the peers', sorted.
    ranges: Arc<[(IpAddr, u8)]>,
    pub(crate) tables: Policies,
}

/// What a step changed for flows.
#[derive(Debug, Default)]
pub(super) struct Changed {
    addresses: Vec<IpAddr>,
    sets: HashSet<RuleSetId>,
}

impl Policy {
    /// Compiles what differs from `previous`; `placed`: this node and its peers do not; `alike`: nor do ports.
    pub(super) fn compile(
        config: &SnapshotConfig,
        previous: Option<&Policy>,
        placed: bool,
        alike: bool,
    ) -> Result<(Policy, Changed), SnapshotError> {
        let empty = Policy::default();
        let before = previous.unwrap_or(&empty);
        let (was, now) = (&before.wanted, &config.policy);
        let addresses = differences(&was.addresses, &now.addresses);
        let rules = differences(&was.rules, &now.rules);
        let sets = differences(&was.sets, &now.sets);
        let ranges = if placed { Arc::clone(&before.ranges) } else { ranges(config) };
        let other_ranges = *ranges != *before.ranges;
        if !(alike && sets.is_empty()) {
            check_sets(config)?;
        }
        if addresses.is_empty() && rules.is_empty() && sets.is_empty() && !other_ranges {
            return Ok((before.clone(), Changed::default()));
        }
        let addresses: Vec<_> = addresses.iter().map(|(a, to)| (**a, to.map(|t| &**t))).collect();
        let rules: Vec<_> = rules.into_iter().map(|(id, to)| (*id, to.cloned())).collect();
        let sets: Vec<_> = sets.into_iter().map(|(id, to)| (*id, to.cloned())).collect();
        let change =
            Change { addresses: &addresses, rules: &rules, sets: &sets, pod_ranges: other_ranges.then_some(&*ranges) };
        let (tables, effects) = before.tables.with(&change).map_err(|e| SnapshotError::Policy(e.to_string()))?;
        let changed =
            Changed { addresses: effects.addresses.into_iter().collect(), sets: effects.sets.into_iter().collect() };
        Ok((Policy { wanted: now.clone(), ranges, tables }, changed))
    }
}

/// What differs between two maps: keys, and what they have now.
fn differences<'a, K: Ord + Clone, V: PartialEq + Clone>(
    was: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> Vec<(&'a K, Option<&'a V>)> {
    let item = |item| match item {
        DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => (key, Some(value)),
        DiffItem::Remove(key, _) => (key, None),
    };
    was.diff(now).map(item).collect()
}

/// A pod whose rules are not known must not be open, so there is no such pod.
fn check_sets(config: &SnapshotConfig) -> Result<(), SnapshotError> {
    for (id, port) in &config.ports {
        if let Some(unknown) = port.policy.sets().find(|set| !config.policy.sets.contains_key(set)) {
            return Err(SnapshotError::RuleSet(*id, unknown.0));
        }
    }
    Ok(())
}

/// All pod ranges of the cluster. Those that are malformed are refused elsewhere.
fn ranges(config: &SnapshotConfig) -> Arc<[(IpAddr, u8)]> {
    let local = config.local.iter().flat_map(|l| &l.pod_cidrs);
    let all = local.chain(config.peers.iter().flat_map(|p| &p.pod_cidrs));
    let mut all: Vec<_> = all.filter_map(|p| Some((p.network()?, p.len))).collect();
    all.sort_unstable();
    all.into()
}

impl Changed {
    /// Stamps the addresses of another class, and the pods whose rules decide otherwise.
    pub(super) fn stamp(&self, ports: &[Option<PortEntry>], cells: &ChangedCells, generation: u32) {
        self.addresses.iter().for_each(|a| cells.stamp_address(*a, generation));
        if self.sets.is_empty() {
            return;
        }
        for (i, entry) in ports.iter().enumerate() {
            let Some(entry) = entry else { continue };
            if entry.policy.sets().any(|set| self.sets.contains(&set)) {
                cells.stamp_port(PortId(i as u16), generation);
                entry.addresses().for_each(|a| cells.stamp_address(a, generation));
            }
        }
    }
}
