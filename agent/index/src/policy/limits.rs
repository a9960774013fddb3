//! What the dataplane takes of policies. It refuses a whole transaction that goes beyond it, and the rules before would
//! stay in force, so what does not fit is not told: the pods concerned are denied everything, and nobody else pays.
//!
//! Who has to yield is decided by namespace. The one whose pods' rules weigh most loses its heaviest lists first, and
//! what namespaces share weighs on each for its part only. So no namespace yields that takes less than an equal part.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use podplane_config::v1::{Key, Object};
use podplane_config::valid;

use super::endpoints::{EndpointState, Verdict};
use super::rules::{RuleId, SetId, selectors_of};
use super::selectors::SelectorId;
use super::{Policy, Told};

/// What fits.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Selectors that match one address.
    pub(crate) selectors: usize,
    /// Rules of one list.
    pub(crate) rules_per_set: usize,
    /// Addresses with an owner.
    pub(crate) addresses: usize,
    /// Numbers that one namespace's pods may bind a port's name to.
    pub(crate) bindings: usize,
    /// All together.
    pub(crate) load: Load,
}

impl Default for Limits {
    /// What every dataplane takes.
    fn default() -> Limits {
        let load = Load {
            rules: valid::MAX_RULES,
            uses: valid::MAX_RULE_USES,
            matches: valid::MAX_MATCHES,
            bytes: valid::MAX_POLICY_BYTES,
        };
        Limits {
            selectors: valid::MAX_SELECTORS,
            rules_per_set: valid::MAX_RULES_PER_SET,
            addresses: valid::MAX_ADDRESSES,
            bindings: 256,
            load,
        }
    }
}

/// What policies weigh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) rules: usize,
    /// Rules of all lists together.
    pub(crate) uses: usize,
    /// Selectors of all addresses together.
    pub(crate) matches: usize,
    /// As the dataplane counts the bytes of a transaction.
    pub(crate) bytes: usize,
}

impl Load {
    fn of(object: &Object) -> Load {
        let bytes = valid::object_bytes(object);
        match object {
            Object::Rule(_) => Load { rules: 1, bytes, ..Load::default() },
            Object::RuleSet(set) => Load { uses: set.rules.len(), bytes, ..Load::default() },
            Object::Address(address) => Load { matches: address.selectors.len(), bytes, ..Load::default() },
            _ => Load::default(),
        }
    }

    fn with(self, other: Load, each: fn(usize, usize) -> usize) -> Load {
        Load {
            rules: each(self.rules, other.rules),
            uses: each(self.uses, other.uses),
            matches: each(self.matches, other.matches),
            bytes: each(self.bytes, other.bytes),
        }
    }

    fn plus(self, other: Load) -> Load {
        self.with(other, usize::saturating_add)
    }

    fn minus(self, other: Load) -> Load {
        self.with(other, usize::saturating_sub)
    }

    fn measures(self) -> [(&'static str, usize); 4] {
        [
            ("rules", self.rules),
            ("rules in pods' lists", self.uses),
            ("matches of addresses and selectors", self.matches),
            ("bytes of rules and addresses", self.bytes),
        ]
    }

    /// By which of the measures it is more than fits.
    fn beyond(self, limits: Load) -> Option<usize> {
        self.measures().iter().zip(limits.measures()).position(|((_, is), (_, most))| *is > most)
    }
}

/// What the dataplane has been told, counted as it counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    load: Load,
    addresses: usize,
    /// Addresses that have an owner, and of which the dataplane is not told for lack of room.
    unheard: BTreeSet<IpAddr>,
}

impl Tally {
    /// Tells something, if there is room for it.
    pub(super) fn tell(&mut self, limits: &Limits, told: &mut Told, key: Key, mut object: Option<Object>) {
        let before = told.get(&key);
        if let Key::Address(address) = &key {
            self.unheard.remove(address);
            match (before.is_some(), object.is_some()) {
                (false, true) if self.addresses >= limits.addresses => {
                    self.unheard.insert(*address);
                    object = None;
                }
                (false, true) => self.addresses += 1,
                (true, false) => self.addresses -= 1,
                _ => {}
            }
        }
        let load = |object: Option<&Object>| object.map_or(Load::default(), Load::of);
        self.load = self.load.plus(load(object.as_ref())).minus(load(before));
        told.set(key, object);
    }

    /// Addresses that there may be room for by now.
    pub(super) fn heard(&mut self, limits: &Limits) -> BTreeSet<IpAddr> {
        if self.addresses < limits.addresses { std::mem::take(&mut self.unheard) } else { BTreeSet::new() }
    }
}

/// Endpoints whose rules do not fit.
#[derive(Debug, Default)]
pub(super) struct Crowded {
    endpoints: BTreeMap<String, Yielded>,
}

/// Why an endpoint has to do without its rules.
#[derive(Clone, Debug)]
struct Yielded {
    /// The lists that it had: who yields with it may come back with it.
    lists: Lists,
    /// What they weigh if nobody shares them.
    load: Load,
    reason: String,
}

type Lists = [Option<SetId>; 2];

impl Crowded {
    pub(super) fn reason(&self, endpoint: &str) -> Option<String> {
        self.endpoints.get(endpoint).map(|yielded| yielded.reason.clone())
    }

    pub(super) fn forget(&mut self, endpoint: &str) {
        self.endpoints.remove(endpoint);
    }
}

/// Endpoints of one namespace with the same lists.
type Group = (String, Lists);

/// Who has which lists, and what would be left without them.
struct Plan<'p> {
    policy: &'p Policy,
    load: Load,
    groups: BTreeMap<Group, Vec<String>>,
    lists: HashMap<SetId, Shared>,
    /// How many lists have a rule, and how many rules a selector, where that is less than now.
    rules: HashMap<RuleId, usize>,
    selectors: HashMap<SelectorId, usize>,
}

/// The lists of a namespace, and its heaviest group.
type Space<'g> = (BTreeSet<SetId>, Option<(u128, &'g Group)>);

/// A list.
struct Shared {
    weight: Load,
    /// The groups that have it, and of how many namespaces they are.
    users: BTreeSet<Group>,
    spaces: usize,
}

impl Shared {
    fn count(&mut self) {
        self.spaces = self.users.iter().map(|(space, _)| space).collect::<BTreeSet<_>>().len().max(1);
    }

    /// What it weighs on each of its namespaces, in thousandths.
    fn part(&self, measure: usize) -> u128 {
        self.weight.measures()[measure].1 as u128 * 1000 / self.spaces as u128
    }
}

impl<'p> Plan<'p> {
    fn new(policy: &'p Policy) -> Plan<'p> {
        let mut plan = Plan {
            policy,
            load: policy.tally.load,
            groups: BTreeMap::new(),
            lists: HashMap::new(),
            rules: HashMap::new(),
            selectors: HashMap::new(),
        };
        for (id, endpoint) in &policy.endpoints {
            let Verdict::Rules(_, None) = &endpoint.verdict else { continue };
            let group = (space(endpoint).to_owned(), endpoint.sets());
            for set in endpoint.sets().into_iter().flatten() {
                let new = || Shared { weight: policy.weight(set), users: BTreeSet::new(), spaces: 1 };
                plan.lists.entry(set).or_insert_with(new).users.insert(group.clone());
            }
            plan.groups.entry(group).or_default().push(id.clone());
        }
        plan.lists.values_mut().for_each(Shared::count);
        plan
    }

    /// The group that yields next, by one of the measures.
    fn heaviest(&self, measure: usize) -> Option<Group> {
        let part = |set: &SetId| self.lists.get(set).map_or(0, |list| list.part(measure));
        let mut spaces: BTreeMap<&str, Space<'_>> = BTreeMap::new();
        for group in self.groups.keys().filter(|(_, lists)| *lists != [None, None]) {
            let (sets, heaviest) = spaces.entry(&group.0).or_default();
            sets.extend(group.1.into_iter().flatten());
            *heaviest = (*heaviest).max(Some((group.1.iter().flatten().map(part).sum(), group)));
        }
        let all = spaces.into_iter();
        let all = all.map(|(space, (sets, heaviest))| (sets.iter().map(part).sum::<u128>(), space, heaviest));
        all.max().and_then(|(.., heaviest)| heaviest).map(|(_, group)| group.clone())
    }

    /// Takes the lists of a group; answers its endpoints.
    fn take(&mut self, group: &Group) -> Vec<String> {
        for set in group.1.into_iter().flatten() {
            let Some(list) = self.lists.get_mut(&set) else { continue };
            list.users.remove(group);
            list.count();
            if list.users.is_empty() {
                self.free(set);
            }
        }
        self.groups.remove(group).unwrap_or_default()
    }

    fn free(&mut self, set: SetId) {
        let policy = self.policy;
        for id in policy.rules.set(set).into_iter().flat_map(|rules| rules.iter()) {
            self.load.uses = self.load.uses.saturating_sub(1);
            self.load.bytes = self.load.bytes.saturating_sub(size_of::<RuleId>());
            let left = self.rules.entry(*id).or_insert_with(|| policy.rules.lists_with(*id));
            *left = left.saturating_sub(1);
            let Some(rule) = policy.rules.rule(*id).filter(|_| *left == 0) else { continue };
            self.load = self.load.minus(Load::of(&Object::Rule(rule.clone())));
            for selector in selectors_of(rule) {
                let Some(entry) = policy.selectors.get(selector) else { continue };
                let left = self.selectors.entry(selector).or_insert(entry.rules);
                *left = left.saturating_sub(1);
                if *left == 0 {
                    let matches = policy.addresses_of(selector);
                    let bytes = matches * size_of::<SelectorId>();
                    self.load = self.load.minus(Load { matches, bytes, ..Load::default() });
                }
            }
        }
    }
}

/// The namespace that an endpoint's rules weigh on.
fn space(endpoint: &EndpointState) -> &str {
    endpoint.pod.as_ref().map_or("", |pod| &pod.namespace)
}

impl Policy {
    /// Has those yield whose rules are more than the dataplane takes; whether there are any.
    pub(super) fn crowd(&mut self) -> bool {
        if self.tally.load.beyond(self.limits.load).is_none() {
            return false;
        }
        let mut plan = Plan::new(self);
        let mut yielded = Vec::new();
        while let Some(measure) = plan.load.beyond(self.limits.load) {
            let Some(group) = plan.heaviest(measure) else { break };
            let load = group.1.into_iter().flatten().map(|set| self.weight(set)).fold(Load::default(), Load::plus);
            let ((what, is), (_, most)) = (self.tally.load.measures()[measure], self.limits.load.measures()[measure]);
            let reason = format!(
                "policies make {is} {what} on this node, which takes {most}, and those of namespace {} weigh most: \
                 everything is denied to and from this pod; let fewer or smaller policies select the namespace's pods",
                if group.0.is_empty() { "\"\"" } else { group.0.as_str() }
            );
            let entry = Yielded { lists: group.1, load, reason };
            yielded.extend(plan.take(&group).into_iter().map(|id| (id, entry.clone())));
        }
        let some = !yielded.is_empty();
        self.changed.endpoints.extend(yielded.iter().map(|(id, _)| id.clone()));
        self.crowded.endpoints.extend(yielded);
        some
    }

    /// Has those tried again whose rules may have changed.
    pub(super) fn retry(&mut self) {
        self.crowded.endpoints.retain(|id, _| !self.changed.endpoints.contains(id));
    }

    /// Has those come back for whose rules there is room, as far as is known of them; whether there are any.
    pub(super) fn readmit(&mut self) -> bool {
        let mut groups: BTreeMap<Group, (Load, Vec<String>)> = BTreeMap::new();
        for (id, yielded) in &self.crowded.endpoints {
            let Some(endpoint) = self.endpoints.get(id) else { continue };
            let group = groups.entry((space(endpoint).to_owned(), yielded.lists)).or_default();
            group.0 = yielded.load;
            group.1.push(id.clone());
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|(load, _)| (load.bytes, load.uses));
        let mut load = self.tally.load;
        for (more, endpoints) in groups {
            if load.plus(more).beyond(self.limits.load).is_none() {
                load = load.plus(more);
                endpoints.iter().for_each(|id| self.crowded.forget(id));
                self.changed.endpoints.extend(endpoints);
            }
        }
        !self.changed.endpoints.is_empty()
    }

    /// What a list weighs if nobody shares its rules and their selectors.
    fn weight(&self, set: SetId) -> Load {
        let mut load = Load::default();
        let mut selectors = HashSet::new();
        for id in self.rules.set(set).into_iter().flat_map(|rules| rules.iter()) {
            load = load.plus(Load { uses: 1, bytes: size_of::<RuleId>(), ..Load::default() });
            let Some(rule) = self.rules.rule(*id) else { continue };
            load = load.plus(Load::of(&Object::Rule(rule.clone())));
            for selector in selectors_of(rule).filter(|selector| selectors.insert(*selector)) {
                let matches = self.addresses_of(selector);
                load = load.plus(Load { matches, bytes: matches * size_of::<SelectorId>(), ..Load::default() });
            }
        }
        load
    }

    /// How many addresses a selector matches.
    fn addresses_of(&self, selector: SelectorId) -> usize {
        let Some(entry) = self.selectors.get(selector) else { return 0 };
        // Those of nodes are few; a pod that shows none may have an endpoint here.
        let owners = entry.members.iter().filter_map(|id| self.pods.get(*id)).filter(|pod| pod.owns());
        owners.map(|pod| pod.facts.addresses.len().max(1)).sum()
    }

    /// What policies do not know for lack of room, what follows from it, and what to do.
    pub(crate) fn shortages(&self) -> Vec<String> {
        let mut shortages = Vec::new();
        let count = self.tally.unheard.len();
        if count > 0 {
            shortages.push(format!(
                "{count} addresses of pods are nobody's on this node, so policies accept nothing from or to them by \
                 selector: it takes {} addresses with an owner",
                self.limits.addresses
            ));
        }
        for (name, state) in &self.port_names {
            let unbound = state.unbound.and_then(|id| self.selectors.get(id));
            let pods = unbound.into_iter().flat_map(|entry| entry.members.iter()).filter_map(|id| self.pods.get(*id));
            let spaces: BTreeSet<&str> = pods.map(|pod| pod.facts.name.0.as_str()).collect();
            shortages.extend(spaces.into_iter().map(|space| {
                format!(
                    "pods of namespace {space} give more than {} numbers to the name \"{name}\" of a port: of some, \
                     egress rules that accept this name do not accept the port, and those that deny it or pass deny \
                     all ports; let the pods agree on numbers",
                    self.limits.bindings
                )
            }));
        }
        shortages
    }
}
