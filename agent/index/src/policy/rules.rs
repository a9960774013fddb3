//! Rules and lists of rules, each kept once under a number that stays.
//!
//! A rule keeps its number while it stands in the same place of the same policy, so that a changed policy is a changed
//! rule to the dataplane and not a new one; a list keeps its number while all pods that have it change alike.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use podplane_config::v1;

use super::numbers::ByNumber;
use super::selectors::{SelectorId, Selectors};

/// Numbers a rule; never used again for another one.
pub(super) type RuleId = u32;
/// Numbers a list of rules; never used again while somebody has it.
pub(super) type SetId = u32;

/// What makes a rule the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Identity {
    /// The end of isolated pods' NetworkPolicy tier.
    Isolation,
    /// All that a pod has whose object is not known.
    Unknown,
    /// All that a pod has whose rules do not fit.
    Crowded,
    /// A rule of a policy.
    Of { policy: u32, ingress: bool, index: usize, variant: Variant },
}

/// Rules that one rule of a policy becomes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Variant {
    /// Alike for all pods.
    Plain,
    /// Names of ports resolved: protocol's number, first, last.
    Ports(Vec<(u8, u16, u16)>),
    /// An egress rule for one binding of a port's name.
    Binding(SelectorId),
}

#[derive(Debug)]
struct RuleEntry {
    identity: Identity,
    rule: v1::Rule,
    /// How many lists have it.
    sets: usize,
    /// What the dataplane was told.
    told: Option<v1::Rule>,
}

/// All rules and lists.
#[derive(Debug, Default)]
pub(super) struct Rules {
    ids: HashMap<Identity, RuleId>,
    rules: ByNumber<RuleEntry>,
    last: RuleId,
    sets: ByNumber<SetEntry>,
    by_content: HashMap<Arc<[RuleId]>, SetId>,
    last_set: SetId,
    /// What may have to be told.
    touched: BTreeSet<RuleId>,
    touched_sets: BTreeSet<SetId>,
}

#[derive(Debug)]
struct SetEntry {
    rules: Arc<[RuleId]>,
    users: usize,
}

impl Rules {
    pub(super) fn rule(&self, id: RuleId) -> Option<&v1::Rule> {
        self.rules.get(&id).map(|entry| &entry.rule)
    }

    pub(super) fn set(&self, id: SetId) -> Option<&Arc<[RuleId]>> {
        self.sets.get(&id).map(|entry| &entry.rules)
    }

    /// Whether a rule that was put before is still there.
    pub(super) fn contains(&self, id: RuleId) -> bool {
        self.rules.contains_key(&id)
    }

    /// Says what a rule is; its `id` is filled in.
    pub(super) fn put(&mut self, identity: Identity, mut rule: v1::Rule) -> RuleId {
        if let Some(&id) = self.ids.get(&identity) {
            rule.id = id;
            if let Some(entry) = self.rules.get_mut(&id)
                && entry.rule != rule
            {
                entry.rule = rule;
                self.touched.insert(id);
            }
            return id;
        }
        self.last += 1;
        let id = self.last;
        rule.id = id;
        self.ids.insert(identity.clone(), id);
        self.rules.insert(id, RuleEntry { identity, rule, sets: 0, told: None });
        // One that no list takes is swept out with the rest.
        self.touched.insert(id);
        id
    }

    /// The number under which a list is known.
    pub(super) fn find_set(&self, rules: &[RuleId]) -> Option<SetId> {
        self.by_content.get(rules).copied()
    }

    /// How many have a list.
    pub(super) fn users(&self, id: SetId) -> usize {
        self.sets.get(&id).map_or(0, |entry| entry.users)
    }

    /// Gives a list to one more pod.
    pub(super) fn take_set(&mut self, rules: &Arc<[RuleId]>) -> SetId {
        if let Some(id) = self.find_set(rules) {
            self.sets.entry(id).and_modify(|entry| entry.users += 1);
            return id;
        }
        self.last_set += 1;
        let id = self.last_set;
        self.count(rules, true);
        self.by_content.insert(rules.clone(), id);
        self.sets.insert(id, SetEntry { rules: rules.clone(), users: 1 });
        self.touched_sets.insert(id);
        id
    }

    /// Takes a list from a pod.
    pub(super) fn leave_set(&mut self, id: SetId) {
        let Some(entry) = self.sets.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users == 0
            && let Some(entry) = self.sets.remove(&id)
        {
            self.by_content.remove(&entry.rules);
            self.count(&entry.rules, false);
            self.touched_sets.insert(id);
        }
    }

    /// Changes a list for all who have it.
    pub(super) fn change_set(&mut self, id: SetId, rules: &Arc<[RuleId]>) {
        let Some(entry) = self.sets.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.rules, rules.clone());
        self.by_content.remove(&before);
        self.by_content.insert(rules.clone(), id);
        self.count(rules, true);
        self.count(&before, false);
        self.touched_sets.insert(id);
    }

    fn count(&mut self, rules: &[RuleId], up: bool) {
        for id in rules {
            let Some(entry) = self.rules.get_mut(id) else { continue };
            entry.sets = if up { entry.sets + 1 } else { entry.sets - 1 };
            if entry.sets <= 1 {
                self.touched.insert(*id);
            }
        }
    }

    /// Tells what has changed; answers the selectors that rules in force name now and did not before, or no longer.
    pub(super) fn tell(
        &mut self,
        selectors: &mut Selectors,
        tell: &mut dyn FnMut(v1::Key, Option<v1::Object>),
    ) -> Vec<SelectorId> {
        let mut before: ByNumber<bool> = ByNumber::default();
        for id in std::mem::take(&mut self.touched) {
            let Some(entry) = self.rules.get_mut(&id) else { continue };
            let now = (entry.sets > 0).then(|| entry.rule.clone());
            if now != entry.told {
                let old = std::mem::replace(&mut entry.told, now.clone());
                for (rule, up) in [(&now, true), (&old, false)] {
                    for selector in rule.iter().flat_map(selectors_of) {
                        let Some(entry) = selectors.get_mut(selector) else { continue };
                        before.entry(selector).or_insert(entry.rules > 0);
                        entry.rules = if up { entry.rules + 1 } else { entry.rules - 1 };
                    }
                }
                tell(v1::Key::Rule(id), now.map(v1::Object::Rule));
            }
            if entry.sets == 0
                && let Some(entry) = self.rules.remove(&id)
            {
                self.ids.remove(&entry.identity);
            }
        }
        for id in std::mem::take(&mut self.touched_sets) {
            let set = self.sets.get(&id);
            let set = set.map(|entry| v1::Object::RuleSet(v1::RuleSet { id, rules: entry.rules.to_vec() }));
            tell(v1::Key::RuleSet(id), set);
        }
        let is_active = |id: &SelectorId| selectors.get(*id).is_some_and(|entry| entry.rules > 0);
        before.into_iter().filter(|(id, was)| is_active(id) != *was).map(|(id, _)| id).collect()
    }

    /// How many lists have a rule.
    pub(super) fn lists_with(&self, id: RuleId) -> usize {
        self.rules.get(&id).map_or(0, |entry| entry.sets)
    }

    /// How many rules and lists are in force.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.rules.len(), self.sets.len())
    }
}

/// The selectors that a rule names, each once for each time that it is named.
pub(super) fn selectors_of(rule: &v1::Rule) -> impl Iterator<Item = SelectorId> + '_ {
    let peers = match &rule.peers {
        v1::Peers::Any => &[],
        v1::Peers::Of { selectors, .. } => selectors.as_slice(),
    };
    peers.iter().copied().chain(rule.named)
}
