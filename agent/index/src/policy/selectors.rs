//! Selectors, each kept once, and who matches them.
//!
//! A change of one pod asks only the selectors that its labels can lead to: each is filed under one label that it
//! requires. A new selector asks only the pods of the namespaces that it can select.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::facts::{Namespaces as Which, Selector};
use super::labels::{LabelMap, Labels, Test};
use super::numbers::ByNumber;
use super::pods::{Namespaces, PodState, Pods};

/// Numbers a selector; never used again for another one.
pub(super) type SelectorId = u32;

/// A selector that somebody uses.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) selector: Arc<Selector>,
    /// How many policies name it (or, for a binding, that pods have it).
    holders: usize,
    /// The policies whose subject it is.
    pub(super) subjects: BTreeSet<u32>,
    /// How many rules in force name it: addresses tell whether they match it.
    pub(super) rules: usize,
    /// Pods (or, for a selector of nodes, nodes) that match, sorted.
    pub(super) members: Vec<u32>,
    /// The selector of namespaces by labels.
    part: Option<u32>,
}

/// Which selectors a label may lead to.
#[derive(Debug, Default)]
struct Filed {
    pairs: HashMap<String, HashMap<String, Vec<SelectorId>>>,
    keys: HashMap<String, Vec<SelectorId>>,
    rest: Vec<SelectorId>,
}

/// All selectors.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    ids: HashMap<Arc<Selector>, SelectorId>,
    entries: ByNumber<Entry>,
    last: SelectorId,
    /// Selectors of pods of one namespace, by its name.
    local: HashMap<String, Filed>,
    /// Selectors of pods of namespaces by labels.
    global: Filed,
    nodes: BTreeSet<SelectorId>,
    parts: HashMap<Labels, (u32, usize)>,
    last_part: u32,
}

/// The one label under which a selector is filed.
enum Place<'l> {
    /// It must have one of these values.
    Pair(&'l str, &'l [String]),
    /// It must exist.
    Key(&'l str),
    /// There is none: always asked.
    Rest,
}

impl<'l> Place<'l> {
    fn of(labels: &'l Labels) -> Place<'l> {
        let requirements = labels.requirements();
        let pair = requirements.iter().find_map(|r| match &r.test {
            Test::In(values) => Some(Place::Pair(&r.key, values)),
            _ => None,
        });
        let key = || requirements.iter().find(|r| r.test == Test::Exists).map(|r| Place::Key(&r.key));
        pair.or_else(key).unwrap_or(Place::Rest)
    }
}

impl Filed {
    fn add(&mut self, id: SelectorId, labels: &Labels) {
        match Place::of(labels) {
            Place::Pair(key, values) => {
                let by_value = self.pairs.entry(key.to_owned()).or_default();
                values.iter().for_each(|value| by_value.entry(value.clone()).or_default().push(id));
            }
            Place::Key(key) => self.keys.entry(key.to_owned()).or_default().push(id),
            Place::Rest => self.rest.push(id),
        }
    }

    fn remove(&mut self, id: SelectorId, labels: &Labels) {
        match Place::of(labels) {
            Place::Pair(key, values) => {
                let Some(by_value) = self.pairs.get_mut(key) else { return };
                for value in values {
                    strike(by_value, value, id);
                }
                if by_value.is_empty() {
                    self.pairs.remove(key);
                }
            }
            Place::Key(key) => strike(&mut self.keys, key, id),
            Place::Rest => self.rest.retain(|other| *other != id),
        }
    }

    fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.keys.is_empty() && self.rest.is_empty()
    }

    fn candidates<'f>(&'f self, labels: &'f LabelMap) -> impl Iterator<Item = SelectorId> + 'f {
        let filed = labels.iter().flat_map(|(key, value)| {
            let pairs = self.pairs.get(key).and_then(|by_value| by_value.get(value));
            pairs.into_iter().chain(self.keys.get(key)).flatten()
        });
        filed.chain(&self.rest).copied()
    }
}

/// Takes an entry out of a list, and a list that is empty then out of its map.
fn strike(lists: &mut HashMap<String, Vec<SelectorId>>, name: &str, id: SelectorId) {
    if let Some(list) = lists.get_mut(name) {
        list.retain(|other| *other != id);
        if list.is_empty() {
            lists.remove(name);
        }
    }
}

impl Selectors {
    pub(super) fn get(&self, id: SelectorId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SelectorId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    pub(super) fn find(&self, selector: &Selector) -> Option<SelectorId> {
        self.ids.get(selector).copied()
    }

    /// Holds a selector; whether it is new, so that its members are not known yet.
    pub(super) fn hold(&mut self, selector: &Selector, namespaces: &mut Namespaces) -> (SelectorId, bool) {
        if let Some(&id) = self.ids.get(selector) {
            self.entries.entry(id).and_modify(|entry| entry.holders += 1);
            return (id, false);
        }
        self.last += 1;
        let (id, selector) = (self.last, Arc::new(selector.clone()));
        let part = self.file(id, &selector, namespaces);
        let (subjects, members) = (BTreeSet::new(), Vec::new());
        let entry = Entry { selector: selector.clone(), holders: 1, subjects, rules: 0, members, part };
        self.entries.insert(id, entry);
        self.ids.insert(selector, id);
        (id, true)
    }

    /// Gives a selector up; with its last holder it goes.
    pub(super) fn release(&mut self, id: SelectorId, pods: &mut Pods, namespaces: &mut Namespaces) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        let Some(Entry { selector, members, part, .. }) = self.entries.remove(&id) else { return };
        self.ids.remove(&selector);
        match &*selector {
            Selector::Pods { namespaces: Which::One(name), pods: labels } => {
                if let Some(filed) = self.local.get_mut(name) {
                    filed.remove(id, labels);
                    if filed.is_empty() {
                        self.local.remove(name);
                    }
                }
            }
            Selector::Pods { namespaces: Which::Labelled(labels), pods } => {
                self.global.remove(id, pods);
                self.release_part(labels, part, namespaces);
            }
            Selector::Nodes(_) => drop(self.nodes.remove(&id)),
            Selector::Port { .. } | Selector::Unbound { .. } => {}
        }
        if !matches!(*selector, Selector::Nodes(_)) {
            for pod in members {
                if let Some(pod) = pods.get_mut(pod)
                    && let Ok(at) = pod.matched.binary_search(&id)
                {
                    pod.matched.remove(at);
                }
            }
        }
    }

    fn file(&mut self, id: SelectorId, selector: &Selector, namespaces: &mut Namespaces) -> Option<u32> {
        match selector {
            Selector::Pods { namespaces: Which::One(name), pods } => {
                self.local.entry(name.clone()).or_default().add(id, pods);
                None
            }
            Selector::Pods { namespaces: Which::Labelled(labels), pods } => {
                self.global.add(id, pods);
                Some(self.hold_part(labels, namespaces))
            }
            Selector::Nodes(_) => {
                self.nodes.insert(id);
                None
            }
            Selector::Port { .. } | Selector::Unbound { .. } => None,
        }
    }

    fn hold_part(&mut self, labels: &Labels, namespaces: &mut Namespaces) -> u32 {
        if let Some((part, holders)) = self.parts.get_mut(labels) {
            *holders += 1;
            return *part;
        }
        self.last_part += 1;
        let part = self.last_part;
        self.parts.insert(labels.clone(), (part, 1));
        for namespace in namespaces.values_mut() {
            if namespace.labels.as_ref().is_some_and(|own| labels.matches(own)) {
                namespace.parts.insert(part);
            }
        }
        part
    }

    fn release_part(&mut self, labels: &Labels, part: Option<u32>, namespaces: &mut Namespaces) {
        let (Some(part), Some((_, holders))) = (part, self.parts.get_mut(labels)) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.parts.remove(labels);
            for namespace in namespaces.values_mut() {
                namespace.parts.remove(&part);
            }
        }
    }

    /// The selectors of namespaces that these labels match.
    pub(super) fn parts_of(&self, labels: Option<&LabelMap>) -> BTreeSet<u32> {
        let matching = self.parts.iter().filter(|(part, _)| labels.is_some_and(|own| part.matches(own)));
        matching.map(|(_, (part, _))| *part).collect()
    }

    /// All selectors by labels that a pod matches.
    fn matching(&self, pod: &PodState, parts: Option<&BTreeSet<u32>>) -> Vec<SelectorId> {
        let facts = &pod.facts;
        let local = self.local.get(&facts.name.0).into_iter().flat_map(|filed| filed.candidates(&facts.labels));
        let global = parts.into_iter().flat_map(|_| self.global.candidates(&facts.labels));
        let is_in = |id: &SelectorId| {
            let Some(Entry { selector, part, .. }) = self.entries.get(id) else { return false };
            let Selector::Pods { pods: labels, .. } = &**selector else { return false };
            part.is_none_or(|part| parts.is_some_and(|parts| parts.contains(&part))) && labels.matches(&facts.labels)
        };
        let ports = facts.ports.iter().filter(|_| pod.owns()).filter_map(|(name, protocol, number)| {
            let bound = self.find(&Selector::Port { name: name.clone(), protocol: *protocol, number: *number });
            bound.or_else(|| self.find(&Selector::Unbound { name: name.clone() }))
        });
        let mut matching: Vec<SelectorId> = local.chain(global).filter(is_in).chain(ports).collect();
        matching.sort_unstable();
        matching.dedup();
        matching
    }

    /// Brings up to date what a pod matches; `None`: it is what it was, else what it matches no longer.
    pub(super) fn rematch(&mut self, id: u32, pods: &mut Pods, namespaces: &Namespaces) -> Option<Vec<SelectorId>> {
        let pod = pods.get(id)?;
        let parts = namespaces.get(&pod.facts.name.0).map(|namespace| &namespace.parts);
        let now = self.matching(pod, parts);
        let pod = pods.get_mut(id).filter(|pod| pod.matched != now)?;
        let before = std::mem::replace(&mut pod.matched, now);
        Some(self.follow(id, &before, &pod.matched))
    }

    /// Brings members up to date after `id` went from matching `before` to matching `now`; answers what it matches no
    /// longer.
    pub(super) fn follow(&mut self, id: u32, before: &[SelectorId], now: &[SelectorId]) -> Vec<SelectorId> {
        let difference = |a: &[SelectorId], b: &[SelectorId]| -> Vec<SelectorId> {
            a.iter().filter(|id| b.binary_search(id).is_err()).copied().collect()
        };
        let gone = difference(before, now);
        for selector in &gone {
            if let Some(entry) = self.entries.get_mut(selector)
                && let Ok(at) = entry.members.binary_search(&id)
            {
                entry.members.remove(at);
            }
        }
        for selector in difference(now, before) {
            if let Some(entry) = self.entries.get_mut(&selector)
                && let Err(at) = entry.members.binary_search(&id)
            {
                entry.members.insert(at, id);
            }
        }
        gone
    }

    /// Finds the members of a new selector of pods.
    pub(super) fn enlist(&mut self, id: SelectorId, pods: &mut Pods, namespaces: &Namespaces) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let selector = entry.selector.clone();
        let mut members = Vec::new();
        let mut ask = |namespace: &super::pods::NamespaceState, labels: &Labels| {
            let all = namespace.pods.iter().copied();
            members.extend(all.filter(|pod| pods.get(*pod).is_some_and(|pod| labels.matches(&pod.facts.labels))));
        };
        match &*selector {
            Selector::Pods { namespaces: Which::One(name), pods: labels } => {
                namespaces.get(name).into_iter().for_each(|namespace| ask(namespace, labels));
            }
            Selector::Pods { namespaces: Which::Labelled(_), pods: labels } => {
                let part = entry.part.unwrap_or_default();
                let matching = namespaces.values().filter(|namespace| namespace.parts.contains(&part));
                matching.for_each(|namespace| ask(namespace, labels));
            }
            Selector::Nodes(_) | Selector::Port { .. } | Selector::Unbound { .. } => return,
        }
        members.sort_unstable();
        for pod in &members {
            if let Some(pod) = pods.get_mut(*pod)
                && let Err(at) = pod.matched.binary_search(&id)
            {
                pod.matched.insert(at, id);
            }
        }
        entry.members = members;
    }

    /// All selectors of nodes.
    pub(super) fn of_nodes(&self) -> impl Iterator<Item = (SelectorId, &Labels)> {
        self.nodes.iter().filter_map(|id| match &*self.entries.get(id)?.selector {
            Selector::Nodes(labels) => Some((*id, labels)),
            _ => None,
        })
    }

    /// The policies whose subject matches.
    pub(super) fn subjects_of<'s>(&'s self, matched: &'s [SelectorId]) -> impl Iterator<Item = u32> + 's {
        let entries = matched.iter().filter_map(|id| self.entries.get(id));
        entries.flat_map(|entry| entry.subjects.iter().copied())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The numbers of bindings that a port's name has: protocol and number to selector.
pub(super) type Bindings = BTreeMap<(podplane_config::v1::Protocol, u16), SelectorId>;
