//! Owners of addresses, rules and rule sets: each checked by itself, and all of them together.

use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;

use super::objects::{name, unicast};
use super::{
    Endpoint, MAX_ADDRESSES, MAX_MATCHES, MAX_NETS_PER_RULE, MAX_PORTS_PER_RULE, MAX_RULE_SETS, MAX_RULE_USES,
    MAX_RULES, MAX_RULES_PER_SET, MAX_SELECTORS, MAX_SELECTORS_PER_RULE, Refusal, refuse,
};
use crate::v1::{Address, Key, Net, Object, Peers, PortRange, Rule, RuleSet, Tier};

/// Who may talk to whom. Copies share what is alike; what a transaction does not change stays the same allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Owners by address.
    pub addresses: OrdMap<std::net::IpAddr, Arc<Address>>,
    /// Rules by number: selectors, nets and ports are sorted, each once, and nets begin with their first address.
    pub rules: OrdMap<u32, Arc<Rule>>,
    /// Rule sets by number. Their rules are there, in the order of their tiers.
    pub sets: OrdMap<u32, Arc<RuleSet>>,
    /// How many sets have a rule.
    uses: HashMap<u32, u32>,
    /// The selectors of all addresses together.
    matches: usize,
    /// The rules of all sets together.
    used: usize,
}

/// What a transaction has changed here that others depend on.
#[derive(Default)]
pub(super) struct Touched {
    /// Rules that were removed or are of another tier now.
    rules: Vec<u32>,
    /// Sets that were made or changed.
    sets: Vec<u32>,
    /// Sets were removed.
    removed_sets: bool,
}

impl Policy {
    /// Whether nothing was changed between the two; others may be equal all the same.
    pub fn is_same(&self, other: &Policy) -> bool {
        self.addresses.ptr_eq(&other.addresses) && self.rules.ptr_eq(&other.rules) && self.sets.ptr_eq(&other.sets)
    }

    /// Takes one change; `before` is what is in force. A change of something else changes nothing.
    pub(super) fn change(
        &mut self,
        key: &Key,
        object: Option<&Object>,
        before: &Policy,
        touched: &mut Touched,
    ) -> Result<(), Refusal> {
        match (key, object) {
            (Key::Address(_), Some(Object::Address(raw))) => {
                check_address(raw)?;
                let new = same(before.addresses.get(&raw.address), raw.clone());
                self.matches += new.selectors.len();
                let old = self.addresses.insert(raw.address, new);
                self.matches -= old.map_or(0, |old| old.selectors.len());
            }
            (Key::Address(address), _) => {
                self.matches -= self.addresses.remove(address).map_or(0, |old| old.selectors.len());
            }
            (Key::Rule(id), Some(Object::Rule(raw))) => {
                let new = same(before.rules.get(id), rule(raw)?);
                let tier = new.tier;
                if self.rules.insert(*id, new).is_some_and(|old| old.tier != tier) {
                    touched.rules.push(*id);
                }
            }
            (Key::Rule(id), _) => {
                self.rules.remove(id);
                touched.rules.push(*id);
            }
            (Key::RuleSet(id), Some(Object::RuleSet(raw))) => {
                check_set(raw)?;
                self.set_rules(*id, Some(same(before.sets.get(id), raw.clone())));
                touched.sets.push(*id);
            }
            (Key::RuleSet(id), _) => {
                self.set_rules(*id, None);
                touched.removed_sets = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Replaces a set and counts who uses which rule. Only the part between what both have first and last is counted.
    fn set_rules(&mut self, id: u32, new: Option<Arc<RuleSet>>) {
        let old = self.sets.get(&id).cloned();
        let rules = |set: &Option<Arc<RuleSet>>| set.as_ref().map_or_else(Vec::new, |set| set.rules.clone());
        let (before, after) = (rules(&old), rules(&new));
        let (gone, come) = different(&before, &after);
        for rule in come {
            *self.uses.entry(*rule).or_default() += 1;
        }
        for rule in gone {
            match self.uses.get_mut(rule) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    self.uses.remove(rule);
                }
            }
        }
        self.used = self.used + after.len() - before.len();
        match new {
            Some(set) => drop(self.sets.insert(id, set)),
            None => drop(self.sets.remove(&id)),
        }
    }

    /// What no object can know of itself; `before` is what this was made from.
    pub(super) fn check(&self, touched: &Touched, before: &Policy) -> Result<(), Refusal> {
        for (what, count, limit) in [
            ("addresses with an owner", self.addresses.len(), MAX_ADDRESSES),
            ("selectors of addresses", self.matches, MAX_MATCHES),
            ("rules", self.rules.len(), MAX_RULES),
            ("rule sets", self.sets.len(), MAX_RULE_SETS),
            ("rules in rule sets", self.used, MAX_RULE_USES),
        ] {
            if count > limit {
                return refuse(what, format!("{count}; this dataplane takes {limit}"));
            }
        }
        if touched.rules.iter().any(|id| self.uses.contains_key(id)) {
            // Rare: who has it is not noted.
            return self.sets.values().try_for_each(|set| self.check_rules(set, &[]));
        }
        for set in touched.sets.iter().filter_map(|id| self.sets.get(id)) {
            let known = before.sets.get(&set.id).map_or(&[][..], |set| &set.rules);
            self.check_rules(set, known)?;
        }
        Ok(())
    }

    /// The rules of a set are there and in order. `known`: such rules as were found good and are what they were.
    fn check_rules(&self, set: &RuleSet, known: &[u32]) -> Result<(), Refusal> {
        let object = || format!("rule set {}", set.id);
        let first = set.rules.iter().zip(known).take_while(|(a, b)| a == b).count();
        let (_, new) = different(known, &set.rules);
        // One more at either side: what is new must be in order with them.
        let around = first.saturating_sub(1)..(first + new.len() + 1).min(set.rules.len());
        let mut last = Tier::Admin;
        for id in &set.rules[around] {
            let Some(rule) = self.rules.get(id) else {
                return refuse(object(), format!("its rule {id} is not there"));
            };
            if rule.tier < last {
                return refuse(object(), format!("its rule {id} of tier {} stands after one of {last}", rule.tier));
            }
            last = rule.tier;
        }
        Ok(())
    }

    /// The rule sets of an endpoint are there.
    pub(super) fn check_endpoint(&self, id: &str, endpoint: &Endpoint) -> Result<(), Refusal> {
        let named = [("ingress", endpoint.policy.ingress), ("egress", endpoint.policy.egress)];
        for (direction, set) in named.into_iter().filter_map(|(direction, set)| Some((direction, set?))) {
            if !self.sets.contains_key(&set) {
                return refuse(format!("endpoint {id}"), format!("its rule set {set} of {direction} is not there"));
            }
        }
        Ok(())
    }
}

impl Touched {
    /// Whether endpoints may have lost a rule set.
    pub(super) fn concerns_endpoints(&self) -> bool {
        self.removed_sets
    }
}

/// The one in force, if it says the same.
fn same<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => Arc::clone(old),
        _ => Arc::new(new),
    }
}

/// What is left of both without what they have in common first and last.
fn different<'a>(a: &'a [u32], b: &'a [u32]) -> (&'a [u32], &'a [u32]) {
    let first = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[first..], &b[first..]);
    let last = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    (&a[..a.len() - last], &b[..b.len() - last])
}

fn check_address(raw: &Address) -> Result<(), Refusal> {
    let object = format!("address {}", raw.address);
    unicast(&object, raw.address)?;
    name(&object, &raw.owner)?;
    name(&object, &raw.name)?;
    if raw.selectors.len() > MAX_SELECTORS {
        return refuse(object, format!("{} selectors match it: {MAX_SELECTORS} is the limit", raw.selectors.len()));
    }
    match raw.selectors.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => refuse(object, format!("selector {} is not in order, or stands there twice", pair[1])),
        None => Ok(()),
    }
}

fn rule(raw: &Rule) -> Result<Rule, Refusal> {
    let object = format!("rule {} ({})", raw.id, raw.name);
    name(&object, &raw.name)?;
    let peers = match &raw.peers {
        Peers::Any => Peers::Any,
        Peers::Of { selectors, nets } => {
            if selectors.len() > MAX_SELECTORS_PER_RULE {
                let count = selectors.len();
                return refuse(object, format!("{count} selectors: {MAX_SELECTORS_PER_RULE} is the limit"));
            }
            let count = nets.iter().map(|net| 1 + net.except.len()).sum::<usize>();
            if count > MAX_NETS_PER_RULE {
                return refuse(object, format!("{count} nets: {MAX_NETS_PER_RULE} is the limit"));
            }
            let nets = nets.iter().map(|net| self::net(&object, net)).collect::<Result<Vec<_>, _>>()?;
            Peers::Of { selectors: sorted(selectors.clone()), nets: sorted(nets) }
        }
    };
    let ports = raw.ports.as_ref().map(|ports| self::ports(&object, ports)).transpose()?;
    Ok(Rule { peers, ports, name: raw.name.clone(), ..*raw })
}

fn net(object: &str, raw: &Net) -> Result<Net, Refusal> {
    let net = raw.net.trunc();
    if let Some(other) = raw.except.iter().find(|except| !net.contains(*except)) {
        return refuse(object, format!("{other} cannot be left out of {net}: it is not within"));
    }
    Ok(Net { net, except: sorted(raw.except.iter().map(IpNet::trunc).collect()) })
}

fn ports(object: &str, raw: &[PortRange]) -> Result<Vec<PortRange>, Refusal> {
    if raw.is_empty() {
        return refuse(object, "it is for no port: without ports it would be for all packets");
    }
    if raw.len() > MAX_PORTS_PER_RULE {
        return refuse(object, format!("{} ranges of ports: {MAX_PORTS_PER_RULE} is the limit", raw.len()));
    }
    match raw.iter().find(|range| range.first == 0 || range.last < range.first) {
        Some(PortRange { first, last, .. }) => refuse(object, format!("ports {first} to {last} are none")),
        None => Ok(sorted(raw.to_vec())),
    }
}

fn check_set(raw: &RuleSet) -> Result<(), Refusal> {
    let object = format!("rule set {}", raw.id);
    if raw.rules.len() > MAX_RULES_PER_SET {
        return refuse(object, format!("{} rules: {MAX_RULES_PER_SET} is the limit", raw.rules.len()));
    }
    let mut rules = raw.rules.clone();
    rules.sort_unstable();
    match rules.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => refuse(object, format!("rule {} stands there twice", pair[0])),
        None => Ok(()),
    }
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all.dedup();
    all
}
