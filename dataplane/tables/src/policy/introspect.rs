//! What people ask the tables.

use std::net::IpAddr;
use std::sync::Arc;

use super::hits::Hits;
use super::spec::{ClassId, RuleId, RuleSetId, RuleSpec, SelectorId};
use super::{Point, Policies};

impl Policies {
    /// How often a rule decided since it came, in all snapshots that have it; 0 if it does not exist.
    pub fn hits(&self, rule: RuleId) -> u64 {
        self.rules.get(&rule.0).map_or(0, |rule| rule.hits.total())
    }

    /// A rule as control gave it.
    pub fn rule(&self, rule: RuleId) -> Option<&Arc<RuleSpec>> {
        self.rules.get(&rule.0).map(|rule| &rule.spec)
    }

    /// All rules, in no order.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Arc<RuleSpec>)> {
        self.rules.iter().map(|(id, rule)| (RuleId(*id), &rule.spec))
    }

    /// A set as control gave it.
    pub fn set(&self, set: RuleSetId) -> Option<&Arc<[RuleId]>> {
        self.sets.get(&set.0).map(|set| &set.list)
    }

    /// All sets, in no order.
    pub fn sets(&self) -> impl Iterator<Item = (RuleSetId, &Arc<[RuleId]>)> {
        self.sets.iter().map(|(id, set)| (RuleSetId(*id), &set.list))
    }

    /// The sets that have a rule, ascending.
    pub fn sets_of(&self, rule: RuleId) -> &[RuleSetId] {
        self.by_rule.get(&rule.0).map_or(&[], |sets| sets)
    }

    /// The selectors and bindings that match the owner of an address, ascending; `None`: it has no owner.
    pub fn selectors_of(&self, address: IpAddr) -> Option<&[SelectorId]> {
        let class = match Point::from(address) {
            Point::V4(address) => self.addresses4.get(&address),
            Point::V6(address) => self.addresses6.get(&address),
        };
        self.selectors(*class?)
    }

    /// The selectors and bindings of a class, ascending; `None` for the two of addresses without owner.
    pub fn selectors(&self, class: ClassId) -> Option<&[SelectorId]> {
        self.classes.get(&class.0).map(|class| &*class.selectors)
    }

    /// How many addresses have an owner.
    pub fn addresses(&self) -> usize {
        self.addresses4.len() + self.addresses6.len()
    }

    /// How many classes addresses with an owner have.
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Bytes of all tables, about; counted anew at each call, in a time that grows with them. What is shared with
    /// another snapshot counts in both.
    pub fn memory(&self) -> usize {
        let sets: usize = self.sets.iter().map(|(_, set)| set.memory()).sum();
        let rules: usize = self.rules.iter().map(|(_, rule)| rule.spec.memory() + size_of::<Hits>()).sum();
        let classes: usize = self.classes.iter().map(|(_, class)| size_of_val(&*class.selectors)).sum();
        let lists = self.by_selector.iter().map(|(_, list)| list.capacity() * 4 + 40).sum::<usize>()
            + self.by_rule.iter().map(|(_, list)| list.capacity() * 4 + 40).sum::<usize>();
        let tables = self.addresses4.memory()
            + self.addresses6.memory()
            + self.sets.memory()
            + self.rules.memory()
            + self.classes.memory()
            + self.interned.memory()
            + self.by_selector.memory()
            + self.by_rule.memory();
        let ranges = self.pod_ranges.0.memory() + self.pod_ranges.1.memory();
        sets + rules + classes + lists + tables + ranges
    }
}
