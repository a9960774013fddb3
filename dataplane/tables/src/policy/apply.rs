//! From one snapshot to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::intervals::{Intervals, Span};
use super::layout::{Layout, MAX_RULES};
use super::ranges::{self, Ranges};
use super::set::{self, Moved, Set};
use super::sharded::Sharded;
use super::spec::{Change, ClassId, Effects, NetSpec, PeersSpec, PolicyError, RuleId, RuleSetId, RuleSpec, SelectorId};
use super::{Class, Point, Policies, Rule};

/// What a change touches, collected before rows are made.
#[derive(Default)]
struct Touched {
    /// Rules that are other ones now, and what they were.
    rules: HashMap<RuleId, Option<Arc<RuleSpec>>>,
    /// Sets whose list is another one.
    lists: BTreeSet<RuleSetId>,
    /// Classes that came.
    came: BTreeSet<u32>,
    /// Classes that addresses left.
    left: BTreeSet<u32>,
}

/// What becomes of a set.
#[derive(Default)]
struct Work {
    /// The set with its new list and layout, and the rules that move.
    moved: Option<(Set, Vec<Moved>)>,
    /// Positions that rows of classes get.
    bits: Vec<(u32, u32)>,
    /// Classes that are no more.
    gone: BTreeSet<u32>,
}

impl Policies {
    /// The policies after a change, and what it may have decided otherwise. A change is whole: where it is refused
    /// nothing happened. Shares with `self` what it leaves alone.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn with(&self, change: &Change<'_>) -> Result<(Policies, Effects), PolicyError> {
        check(change)?;
        let mut next = self.clone();
        let mut touched = Touched::default();
        next.change_rules(change, &mut touched);
        next.change_lists(change, &mut touched)?;
        next.change_addresses(change, &mut touched);
        if let Some(ranges) = change.pod_ranges {
            let (v4, v6) = ranges::prefixes(ranges);
            next.pod_ranges = Arc::new((marked(v4), marked(v6)));
        }
        let effects = next.change_sets(self, change, &touched);
        next.free_classes(&touched);
        Ok((next, effects))
    }

    fn change_rules(&mut self, change: &Change<'_>, touched: &mut Touched) {
        for (id, spec) in change.rules {
            let old = self.rules.get(&id.0).cloned();
            if old.as_ref().map(|rule| &rule.spec) == spec.as_ref() {
                continue;
            }
            if let Some(old) = &old {
                for selector in named_by(&old.spec) {
                    unlink(&mut self.by_selector, selector.0, *id);
                }
            }
            match spec {
                Some(spec) => {
                    for selector in named_by(spec) {
                        link(&mut self.by_selector, selector.0, *id);
                    }
                    let hits = old.as_ref().map(|rule| Arc::clone(&rule.hits)).unwrap_or_default();
                    self.rules.insert(id.0, Rule { spec: Arc::clone(spec), hits });
                }
                None => {
                    self.rules.remove(&id.0);
                }
            }
            touched.rules.entry(*id).or_insert(old.map(|rule| rule.spec));
        }
    }

    /// Puts the new lists in place, for the time being with the old rows.
    fn change_lists(&mut self, change: &Change<'_>, touched: &mut Touched) -> Result<(), PolicyError> {
        for (id, list) in change.sets {
            let old = self.sets.get(&id.0).cloned();
            if old.as_ref().map(|set| &set.list) == list.as_ref() {
                continue;
            }
            touched.lists.insert(*id);
            let (before, after) = (old.as_ref().map_or(&[][..], |set| &set.list), list.as_deref().unwrap_or_default());
            for rule in missing(before, after) {
                unlink(&mut self.by_rule, rule.0, *id);
            }
            for rule in missing(after, before) {
                link(&mut self.by_rule, rule.0, *id);
            }
            match list {
                Some(list) => {
                    let mut set = old.as_deref().cloned().unwrap_or_default();
                    set.list = Arc::clone(list);
                    self.sets.insert(id.0, Arc::new(set));
                }
                None => {
                    self.sets.remove(&id.0);
                }
            }
        }
        // Every rule that a list got, and every one that went, may be one that is named but does not exist.
        let lists = touched.lists.iter().filter_map(|id| Some((*id, &self.sets.get(&id.0)?.list)));
        for (set, list) in lists {
            if list.len() > MAX_RULES {
                return Err(PolicyError::TooManyRules { set, rules: list.len() });
            }
            if let Some(rule) = list.iter().find(|rule| self.rules.get(&rule.0).is_none()) {
                return Err(PolicyError::NoRule { set, rule: *rule });
            }
        }
        for rule in touched.rules.keys().filter(|rule| self.rules.get(&rule.0).is_none()) {
            if let Some(set) = self.sets_of(*rule).first() {
                return Err(PolicyError::NoRule { set: *set, rule: *rule });
            }
        }
        Ok(())
    }

    fn change_addresses(&mut self, change: &Change<'_>, touched: &mut Touched) {
        for (address, selectors) in change.addresses {
            let class = selectors.map(|selectors| self.intern(selectors, touched));
            let old = match Point::from(*address) {
                Point::V4(address) => replace(&mut self.addresses4, address, class),
                Point::V6(address) => replace(&mut self.addresses6, address, class),
            };
            if let Some(found) = old.and_then(|old| self.classes.get_mut(&old.0)) {
                found.addresses -= 1;
            }
            touched.left.extend(old.map(|class| class.0));
        }
    }

    /// The class of a set of selectors, with one address more.
    fn intern(&mut self, selectors: &[SelectorId], touched: &mut Touched) -> ClassId {
        let mut sorted = selectors.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let selectors: Arc<[SelectorId]> = sorted.into();
        if let Some(class) = self.interned.get(&selectors).copied() {
            if let Some(found) = self.classes.get_mut(&class.0) {
                found.addresses += 1;
            }
            return class;
        }
        let class = Arc::make_mut(&mut self.free_classes.0).pop().unwrap_or_else(|| {
            self.free_classes.1 += 1;
            self.free_classes.1 - 1 + ClassId::FIRST
        });
        self.classes.insert(class, Class { selectors: Arc::clone(&selectors), addresses: 1 });
        self.interned.insert(selectors, ClassId(class));
        touched.came.insert(class);
        ClassId(class)
    }

    /// Gives up the classes that have no address any longer. Their ids are of use from the next change on, so that an
    /// address whose class number stays is of the same class as before.
    fn free_classes(&mut self, touched: &Touched) {
        for class in &touched.left {
            if let Some(found) = self.classes.get(class).filter(|found| found.addresses == 0).cloned() {
                self.interned.remove(&found.selectors);
                self.classes.remove(class);
                Arc::make_mut(&mut self.free_classes.0).push(*class);
            }
        }
    }

    /// Makes the rows anew that the change touches.
    fn change_sets(&mut self, old: &Policies, change: &Change<'_>, touched: &Touched) -> Effects {
        let dirty: BTreeSet<RuleSetId> =
            touched.rules.keys().flat_map(|rule| self.sets_of(*rule)).chain(&touched.lists).copied().collect();
        let mut work = BTreeMap::<RuleSetId, Work>::new();
        for id in &dirty {
            if let Some(set) = self.sets.get(&id.0) {
                work.entry(*id).or_default().moved = Some(self.lay_out(*id, set, touched));
            }
        }
        self.rows_of_moved_rules(&mut work);
        self.rows_of_new_classes(&mut work, touched);
        self.rows_of_gone_classes(old, &mut work, touched);
        for (id, work) in work {
            if let Some(set) = self.sets.get(&id.0) {
                let set = work.apply(set);
                self.sets.insert(id.0, Arc::new(set));
            }
        }
        self.effects(old, change, dirty)
    }

    /// A set of the new list, its layout, and which rules move in it.
    fn lay_out(&self, id: RuleSetId, set: &Set, touched: &Touched) -> (Set, Vec<Moved>) {
        let mut new = set.clone();
        let rules = || touched.rules.iter().filter_map(|(rule, old)| Some((*rule, old, set.layout.position(*rule)?)));
        let tier = |spec: Option<&Arc<RuleSpec>>| spec.map(|spec| spec.tier);
        if !touched.lists.contains(&id) && rules().all(|(rule, old, _)| tier(old.as_ref()) == tier(self.rule(rule))) {
            let moved: Vec<Moved> = rules()
                .map(|(rule, old, at)| Moved {
                    before: old.clone().map(|old| (at, old)),
                    after: self.rule(rule).map(|new| (at, Arc::clone(new))),
                })
                .collect();
            if moved.iter().any(Moved::alters_slot) {
                new.layout = set.layout.patched(rules().map(|(rule, _, at)| (rule, at)), self);
            }
            return (new, moved);
        }
        let order = Layout::order(&set.list, self);
        let (layout, fresh) = set.layout.placed(&order, self);
        if fresh {
            new = Set::new(Arc::clone(&set.list));
        }
        let moved = self.moves(&new.layout, &layout, touched);
        new.layout = layout;
        (new, moved)
    }

    fn moves(&self, old: &Layout, new: &Layout, touched: &Touched) -> Vec<Moved> {
        let before = |rule: RuleId| {
            let at = old.position(rule)?;
            let spec = touched.rules.get(&rule).cloned().unwrap_or_else(|| self.rule(rule).cloned());
            Some((at, spec?))
        };
        let after = |rule: RuleId| Some((new.position(rule)?, Arc::clone(self.rule(rule)?)));
        let stays = |rule: RuleId, at: u32| old.position(rule) == Some(at) && !touched.rules.contains_key(&rule);
        let came = new.rules().filter(|(rule, at)| !stays(*rule, *at)).map(|(rule, _)| rule);
        let went = old.rules().map(|(rule, _)| rule).filter(|rule| new.position(*rule).is_none());
        came.chain(went).map(|rule| Moved { before: before(rule), after: after(rule) }).collect()
    }

    /// Which classes the rules match that move.
    fn rows_of_moved_rules(&self, work: &mut BTreeMap<RuleSetId, Work>) {
        let mut wanted = HashMap::<SelectorId, Vec<(RuleSetId, u32, Arc<RuleSpec>)>>::new();
        for (id, work) in work.iter() {
            let moved = work.moved.iter().flat_map(|(_, moved)| moved).filter(|moved| moved.alters_classes());
            for (at, rule) in moved.filter_map(|moved| moved.after.as_ref()) {
                for selector in set::triggers(rule) {
                    wanted.entry(*selector).or_default().push((*id, *at, Arc::clone(rule)));
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
        let mut found = |class: u32, selectors: &[SelectorId], rules: &[(RuleSetId, u32, Arc<RuleSpec>)]| {
            for (id, at, rule) in rules {
                if set::matches_class(rule, selectors)
                    && let Some(work) = work.get_mut(id)
                {
                    work.bits.push((class, *at));
                }
            }
        };
        for (id, class) in self.classes.iter().filter(|(_, class)| class.addresses != 0) {
            if wanted.len() < class.selectors.len() {
                for (_, rules) in wanted.iter().filter(|(selector, _)| class.selectors.binary_search(selector).is_ok())
                {
                    found(*id, &class.selectors, rules);
                }
            } else {
                for rules in class.selectors.iter().filter_map(|selector| wanted.get(selector)) {
                    found(*id, &class.selectors, rules);
                }
            }
        }
    }

    /// Which rules match the classes that came.
    fn rows_of_new_classes(&self, work: &mut BTreeMap<RuleSetId, Work>, touched: &Touched) {
        for id in &touched.came {
            let Some(class) = self.classes.get(id).filter(|class| class.addresses != 0) else { continue };
            for rule in self.rules_about(&class.selectors) {
                let Some(spec) = self.rule(rule).filter(|spec| !set::triggers(spec).is_empty()) else { continue };
                // Without a binding the one selector by which the rule was found suffices.
                if spec.named.is_some() && !set::matches_class(spec, &class.selectors) {
                    continue;
                }
                for set in self.sets_of(rule) {
                    let work = work.entry(*set).or_default();
                    let layout = work.moved.as_ref().map(|(set, _)| &set.layout);
                    let layout = layout.or_else(|| self.sets.get(&set.0).map(|set| &set.layout));
                    work.bits.extend(layout.and_then(|layout| layout.position(rule)).map(|at| (*id, at)));
                }
            }
        }
    }

    /// Which sets may have rows of the classes that no address has any longer.
    fn rows_of_gone_classes(&self, old: &Policies, work: &mut BTreeMap<RuleSetId, Work>, touched: &Touched) {
        for id in &touched.left {
            let Some(class) = self.classes.get(id).filter(|class| class.addresses == 0) else { continue };
            for rule in old.rules_about(&class.selectors) {
                for set in old.sets_of(rule) {
                    work.entry(*set).or_default().gone.insert(*id);
                }
            }
        }
    }

    /// The rules that name one of the selectors; some perhaps more than once.
    fn rules_about(&self, selectors: &[SelectorId]) -> impl Iterator<Item = RuleId> {
        selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(&selector.0))
            .flat_map(|rules| rules.iter().copied())
    }

    fn effects(&self, old: &Policies, change: &Change<'_>, mut sets: BTreeSet<RuleSetId>) -> Effects {
        let addresses: BTreeSet<IpAddr> = change
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .filter(|address| old.class_of(*address) != self.class_of(*address))
            .collect();
        if change.pod_ranges.is_some() {
            sets.extend(self.sets.iter().filter(|(_, set)| set.knows_pod_ranges).map(|(id, _)| RuleSetId(*id)));
        }
        Effects { addresses: addresses.into_iter().collect(), sets: sets.into_iter().collect() }
    }
}

impl Work {
    fn apply(mut self, set: &Set) -> Set {
        let (mut set, moved) = self.moved.unwrap_or_else(|| (set.clone(), Vec::new()));
        if !moved.is_empty() {
            set.move_rules(&moved);
        }
        for class in &self.gone {
            set.forget_class(*class);
        }
        self.bits.sort_unstable();
        set.set_classes(&self.bits);
        set
    }
}

/// Refuses prefixes and ports that are none.
fn check(change: &Change<'_>) -> Result<(), PolicyError> {
    change.pod_ranges.unwrap_or_default().iter().try_for_each(|net| ranges::check(*net))?;
    for (id, spec) in change.rules.iter().filter_map(|(id, spec)| Some((id, spec.as_ref()?))) {
        if let PeersSpec::Of { nets, .. } = &spec.peers {
            for NetSpec { net, except } in nets {
                ranges::check(*net)?;
                except.iter().try_for_each(|net| ranges::check(*net))?;
            }
        }
        if let Some(ports) = spec.ports.iter().flatten().find(|ports| ports.first > ports.last) {
            return Err(PolicyError::Ports(*id, *ports));
        }
    }
    Ok(())
}

/// The intervals that lie in one of the ranges have a row that is not empty.
fn marked<K: super::intervals::Key>(ranges: Ranges<K>) -> Intervals<K> {
    let spans: Vec<Span<K>> = ranges.into_iter().map(|(first, last)| (first, last, 0)).collect();
    Intervals::default().edit(&[], &spans)
}

/// Selectors and binding of a rule.
fn named_by(rule: &RuleSpec) -> impl Iterator<Item = &SelectorId> {
    let selectors = match &rule.peers {
        PeersSpec::Any => &[][..],
        PeersSpec::Of { selectors, .. } => selectors,
    };
    selectors.iter().chain(&rule.named)
}

/// What is in `list` and not in `other`. Their common ends are not looked at twice.
fn missing(list: &[RuleId], other: &[RuleId]) -> Vec<RuleId> {
    let head = list.iter().zip(other).take_while(|(a, b)| a == b).count();
    let tail = list[head..].iter().rev().zip(other[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let middle = &list[head..list.len() - tail];
    if middle.len() < 8 {
        return middle.iter().copied().filter(|rule| !other.contains(rule)).collect();
    }
    let other: HashSet<RuleId> = other.iter().copied().collect();
    middle.iter().copied().filter(|rule| !other.contains(rule)).collect()
}

fn link<T: Copy + Ord>(lists: &mut Sharded<u32, Arc<Vec<T>>>, key: u32, member: T) {
    match lists.get_mut(&key) {
        Some(list) => {
            if let Err(at) = list.binary_search(&member) {
                Arc::make_mut(list).insert(at, member);
            }
        }
        None => {
            lists.insert(key, Arc::new(vec![member]));
        }
    }
}

fn unlink<T: Copy + Ord>(lists: &mut Sharded<u32, Arc<Vec<T>>>, key: u32, member: T) {
    let Some(list) = lists.get_mut(&key) else { return };
    if let Ok(at) = list.binary_search(&member) {
        Arc::make_mut(list).remove(at);
    }
    if list.is_empty() {
        lists.remove(&key);
    }
}

fn replace<K: super::sharded::Key>(
    table: &mut Sharded<K, ClassId>,
    address: K,
    class: Option<ClassId>,
) -> Option<ClassId> {
    match class {
        Some(class) => table.insert(address, class),
        None => table.remove(&address),
    }
}
