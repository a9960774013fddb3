//! NetworkPolicy and ClusterNetworkPolicy: objects in; owners of addresses, rules and lists of rules out.
//!
//! All semantics of both APIs end here. What the dataplane is told knows only numbers: selectors (with the numbers that
//! ports' names are bound to), the rules that name them, the list of rules of each pod of this node in each direction,
//! and of every pod's address, anywhere, which of the selectors in force it matches.
//!
//! A change touches what depends on it: a pod its own selectors, addresses and lists; a policy the pods that it selects
//! here; a rule that comes into force or goes the addresses that its selectors match. What is not known is closed: a
//! pod whose object or namespace is not known is not connected, an address without a known owner is accepted by no
//! selector, a policy that cannot be read isolates.

mod cluster;
mod compile;
mod endpoints;
mod facts;
mod labels;
mod limits;
mod network;
mod nodes;
mod numbers;
mod objects;
mod owners;
mod pods;
mod policies;
mod read;
mod report;
mod rules;
mod selectors;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use podplane_config::v1;

pub use endpoints::PodIdentity;
pub(crate) use endpoints::Verdict;
pub(crate) use limits::Limits;
pub use report::{PodPolicyReport, PolicyReport, RuleReport, RulesReport};

use crate::k8s::ObjectKey;
use crate::told::Told;
use compile::PolicyState;
use endpoints::EndpointState;
use facts::Selector;
use limits::{Crowded, Tally};
use nodes::Nodes;
use numbers::ByNumber;
use owners::{Owner, Owners};
use pods::{Namespaces, PodId, PodName, Pods};
use rules::Rules;
use selectors::{Bindings, SelectorId, Selectors};

/// New selectors of many namespaces beyond this number are found by asking every pod once, not one after the other.
const MANY: usize = 64;

/// Everything that policy needs to know.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    pods: Pods,
    namespaces: Namespaces,
    nodes: Nodes,
    policies: ByNumber<PolicyState>,
    by_key: BTreeMap<ObjectKey, u32>,
    last_policy: u32,
    selectors: Selectors,
    rules: Rules,
    owners: Owners,
    endpoints: BTreeMap<String, EndpointState>,
    /// The endpoints that belong to a pod of this name.
    endpoints_of: HashMap<PodName, BTreeSet<String>>,
    /// Names of ports that egress rules speak of.
    port_names: HashMap<String, PortName>,
    /// Whether rules in force select nodes, so that nodes' addresses are told.
    tells_nodes: bool,
    /// Counts calls of [`Policy::settle`].
    moment: u64,
    limits: Limits,
    tally: Tally,
    crowded: Crowded,
    changed: Changed,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Changed {
    /// Pods that may match other selectors.
    pods: BTreeSet<PodId>,
    nodes: bool,
    /// Policies whose pods have other rules now.
    policies: BTreeSet<u32>,
    endpoints: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    /// Selectors whose members are not known.
    selectors: Vec<SelectorId>,
    /// Selectors that some pod matches no longer.
    loose: BTreeSet<SelectorId>,
    /// Selectors that a holder gave up; they go when nothing names them any more.
    released: Vec<SelectorId>,
}

/// A name of ports that egress rules speak of.
#[derive(Debug, Default)]
struct PortName {
    /// The policies.
    users: BTreeSet<u32>,
    /// What pods call so.
    bindings: Bindings,
    /// The namespace whose pod had a binding first, and how many are each namespace's.
    first: ByNumber<String>,
    spaces: HashMap<String, usize>,
    /// Those whose numbers were one too many.
    unbound: Option<SelectorId>,
}

impl Policy {
    /// Brings everything up to date, and what the dataplane should be told. Answers the endpoints of which
    /// something else is to be said than before.
    pub(crate) fn settle(&mut self, told: &mut Told) -> BTreeSet<String> {
        self.match_all();
        self.retry();
        let mut changed = self.compile_all();
        self.tell(told);
        // Once: who was let in by mistake and yields again waits for the next change.
        let mut admits = true;
        while self.crowd() || std::mem::take(&mut admits) && self.readmit() {
            changed.extend(self.compile_all());
            self.tell(told);
        }
        for id in std::mem::take(&mut self.changed.released) {
            self.selectors.release(id, &mut self.pods, &mut self.namespaces);
        }
        self.moment += 1;
        changed
    }

    #[cfg(test)]
    pub(crate) fn limits(&mut self) -> &mut Limits {
        &mut self.limits
    }

    fn tell(&mut self, told: &mut Told) {
        let (tally, limits) = (&mut self.tally, &self.limits);
        let flipped = self.rules.tell(&mut self.selectors, &mut |key, object| tally.tell(limits, told, key, object));
        self.touch_members(&flipped);
        let changed = std::mem::take(&mut self.changed.addresses);
        // What becomes free comes first.
        let (gone, owned): (Vec<_>, Vec<_>) =
            changed.into_iter().map(|address| (address, self.address(address))).partition(|(_, owner)| owner.is_none());
        for (address, owner) in gone.into_iter().chain(owned) {
            let key = v1::Key::Address(address);
            self.tally.tell(&self.limits, told, key, owner.map(v1::Object::Address));
        }
        for address in self.tally.heard(&self.limits) {
            let owner = self.address(address).map(v1::Object::Address);
            self.tally.tell(&self.limits, told, v1::Key::Address(address), owner);
        }
    }

    /// Brings up to date who matches which selector.
    fn match_all(&mut self) {
        let new = std::mem::take(&mut self.changed.selectors);
        let is_wide = |id: &SelectorId| {
            let selector = self.selectors.get(*id).map(|entry| &*entry.selector);
            matches!(selector, Some(Selector::Pods { namespaces: facts::Namespaces::Labelled(_), .. }))
        };
        let (wide, narrow): (Vec<SelectorId>, Vec<SelectorId>) = new.into_iter().partition(is_wide);
        if wide.len() > MANY {
            self.changed.pods.extend(self.pods.iter().map(|(id, _)| id));
        } else {
            wide.into_iter().for_each(|id| self.selectors.enlist(id, &mut self.pods, &self.namespaces));
        }
        for id in narrow {
            let entry = self.selectors.get(id);
            self.changed.nodes |= entry.is_some_and(|entry| matches!(*entry.selector, Selector::Nodes(_)));
            self.selectors.enlist(id, &mut self.pods, &self.namespaces);
        }
        self.match_pods();
        // What is not bound any more makes room for what was not.
        while self.loosen() {
            self.match_pods();
        }
        if std::mem::take(&mut self.changed.nodes) {
            self.nodes.rematch(&mut self.selectors);
            self.changed.addresses.extend(self.nodes.addresses());
        }
        for id in std::mem::take(&mut self.changed.policies) {
            if let Some(subject) = self.policies.get(&id).map(PolicyState::subject) {
                self.touch_subject(subject);
            }
        }
    }

    fn match_pods(&mut self) {
        while let Some(id) = self.changed.pods.pop_first() {
            if let Some(gone) = self.selectors.rematch(id, &mut self.pods, &self.namespaces) {
                self.changed.loose.extend(gone);
                self.touch_addresses(id);
                let endpoints = self.pods.get(id).into_iter().flat_map(|pod| pod.endpoints.iter().cloned());
                self.changed.endpoints.extend(endpoints);
            }
        }
    }

    /// Has the addresses told again that match selectors which came into force or went.
    fn touch_members(&mut self, selectors: &[SelectorId]) {
        for id in selectors {
            let Some(entry) = self.selectors.get(*id) else { continue };
            if matches!(*entry.selector, Selector::Nodes(_)) {
                self.changed.addresses.extend(self.nodes.addresses());
                continue;
            }
            for pod in entry.members.clone() {
                self.touch_addresses(pod);
            }
        }
        let in_force = |(id, _): (SelectorId, _)| self.selectors.get(id).is_some_and(|entry| entry.rules > 0);
        self.tells_nodes = self.selectors.of_nodes().any(in_force);
    }

    /// What the dataplane should know of an address.
    fn address(&self, address: IpAddr) -> Option<v1::Address> {
        let active = |matched: &[SelectorId]| -> Vec<SelectorId> {
            let in_force = |id: &&SelectorId| self.selectors.get(**id).is_some_and(|entry| entry.rules > 0);
            matched.iter().filter(in_force).copied().collect()
        };
        let of_pod = |id: PodId| {
            let pod = self.pods.get(id).filter(|pod| pod.owns())?;
            self.namespaces.get(&pod.facts.name.0)?.labels.as_ref()?;
            let (owner, name, selectors) = (pod.facts.owner(), pod.facts.path(), active(&pod.matched));
            // More than the dataplane takes: nobody's, so that nothing accepts it by selector.
            Some(v1::Address { address, owner, name, selectors })
                .filter(|it| it.selectors.len() <= self.limits.selectors)
        };
        match self.owners.owner(address, &self.pods)? {
            Owner::Pod(id) => of_pod(id),
            Owner::Endpoint(id) => match self.endpoints.get(id)? {
                EndpointState { pod: None, .. } => {
                    let owner = format!("endpoint/{id}");
                    Some(v1::Address { address, name: owner.clone(), owner, selectors: Vec::new() })
                }
                endpoint => of_pod(endpoint.bound?),
            },
            Owner::Node(names) => {
                let name = self.nodes.oldest(names).filter(|_| self.tells_nodes)?;
                let owner = format!("node/{name}");
                let selectors = active(&self.nodes.get(name)?.matched);
                Some(v1::Address { address, name: owner.clone(), owner, selectors })
            }
        }
    }
}

#[cfg(test)]
mod tests;
