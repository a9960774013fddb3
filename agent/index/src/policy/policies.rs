//! Policies come, change and go, and with them the names of ports that they speak of.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use serde_json::Value;

use super::compile::PolicyState;
use super::endpoints::EndpointState;
use super::facts::{PolicyFacts, Selector};
use super::pods::{PodFacts, PodId};
use super::selectors::SelectorId;
use super::{Policy, cluster, network};
use crate::k8s::{Kind, ObjectKey};

impl Policy {
    /// Takes a policy's new state. The error says what is wrong with it, and what is in force instead.
    pub(crate) fn policy(&mut self, key: &ObjectKey, spec: &Value) -> Result<(), String> {
        let read = match key.kind {
            Kind::NetworkPolicy => network::read(&key.namespace, spec),
            _ => cluster::read(spec),
        };
        let reason = match read {
            Ok(facts) => {
                self.put_policy(key, facts, false);
                return Ok(());
            }
            Err(reason) => reason,
        };
        let known = self.by_key.get(key).and_then(|id| self.policies.get_mut(id));
        let instead = match known {
            Some(policy) if !policy.is_closed => "what it said before stays in force".to_owned(),
            _ => {
                let (facts, instead) = match key.kind {
                    Kind::NetworkPolicy => network::closed(&key.namespace, spec),
                    _ => cluster::closed(spec),
                };
                self.put_policy(key, facts, true);
                instead
            }
        };
        if let Some(policy) = self.by_key.get(key).and_then(|id| self.policies.get_mut(id)) {
            policy.refused = Some((reason.clone(), instead.clone()));
        }
        Err(format!("{reason}; {instead}"))
    }

    /// `closed`: these facts stand in for a policy that was refused.
    fn put_policy(&mut self, key: &ObjectKey, facts: PolicyFacts, closed: bool) {
        let known = self.by_key.get(key).copied();
        if let Some(policy) = known.and_then(|id| self.policies.get_mut(&id))
            && policy.facts == facts
        {
            (policy.refused, policy.is_closed) = (None, closed);
            return;
        }
        let id = known.unwrap_or_else(|| {
            self.last_policy += 1;
            self.by_key.insert(key.clone(), self.last_policy);
            self.last_policy
        });
        let mut held = Vec::new();
        for selector in facts.selectors() {
            let (selector, is_new) = self.selectors.hold(selector, &mut self.namespaces);
            if is_new {
                self.changed.selectors.push(selector);
            }
            held.push(selector);
        }
        let policy = PolicyState::new(key, facts, held, closed, &self.selectors);
        let before = self.policies.insert(id, policy);
        if let Some(before) = before {
            self.let_go(id, &before);
        }
        let Some(policy) = self.policies.get(&id) else { return };
        let names: BTreeSet<String> = policy.facts.port_names().map(str::to_owned).collect();
        if let Some(entry) = self.selectors.get_mut(policy.subject()) {
            entry.subjects.insert(id);
        }
        for name in names {
            self.use_port_name(name, id);
        }
        self.changed.policies.insert(id);
    }

    /// Forgets a policy.
    pub(crate) fn remove_policy(&mut self, key: &ObjectKey) {
        let Some(id) = self.by_key.remove(key) else { return };
        if let Some(policy) = self.policies.remove(&id) {
            self.let_go(id, &policy);
        }
        self.changed.policies.remove(&id);
    }

    /// Undoes what an earlier state of a policy did.
    fn let_go(&mut self, id: u32, before: &PolicyState) {
        self.touch_subject(before.subject());
        if let Some(entry) = self.selectors.get_mut(before.subject()) {
            entry.subjects.remove(&id);
        }
        self.changed.released.extend(&before.held);
        for name in before.facts.port_names() {
            if let Some(state) = self.port_names.get_mut(name) {
                state.users.remove(&id);
                if state.users.is_empty()
                    && let Some(state) = self.port_names.remove(name)
                {
                    self.changed.released.extend(state.bindings.values().copied().chain(state.unbound));
                }
            }
        }
    }

    /// Has the endpoints compiled again whose pods a selector matches.
    pub(super) fn touch_subject(&mut self, subject: SelectorId) {
        let is_selected = |endpoint: &EndpointState| {
            let pod = endpoint.bound.and_then(|id| self.pods.get(id));
            pod.is_some_and(|pod| pod.matched.binary_search(&subject).is_ok())
        };
        let touched = self.endpoints.iter().filter(|(_, endpoint)| is_selected(endpoint)).map(|(id, _)| id.clone());
        self.changed.endpoints.extend(touched);
    }

    /// A policy speaks of a port's name.
    fn use_port_name(&mut self, name: String, policy: u32) {
        let state = self.port_names.entry(name.clone()).or_default();
        let is_new = state.users.is_empty();
        state.users.insert(policy);
        if is_new {
            let has = |facts: &PodFacts| facts.ports.iter().any(|(own, ..)| *own == name);
            let pods: Vec<(PodId, PodFacts)> =
                self.pods.iter().filter(|(_, pod)| has(&pod.facts)).map(|(id, pod)| (id, pod.facts.clone())).collect();
            for (id, facts) in pods {
                self.bind_ports(&facts);
                self.changed.pods.insert(id);
            }
        }
    }

    /// Sees to it that the numbers that a pod's ports have are known by name, as many as a namespace may have: each is a
    /// rule more for all whose policies speak of the name.
    pub(super) fn bind_ports(&mut self, facts: &PodFacts) {
        for (name, protocol, number) in facts.ports.iter().filter(|_| facts.owns()) {
            let Some(state) = self.port_names.get_mut(name) else { continue };
            let Entry::Vacant(binding) = state.bindings.entry((*protocol, *number)) else { continue };
            let space = &facts.name.0;
            let is_full = state.spaces.get(space).is_some_and(|count| *count >= self.limits.bindings);
            if is_full && state.unbound.is_some() {
                continue;
            }
            let selector = match is_full {
                true => Selector::Unbound { name: name.clone() },
                false => Selector::Port { name: name.clone(), protocol: *protocol, number: *number },
            };
            let (id, _) = self.selectors.hold(&selector, &mut self.namespaces);
            if is_full {
                state.unbound = Some(id);
            } else {
                binding.insert(id);
                *state.spaces.entry(space.clone()).or_default() += 1;
                state.first.insert(id, space.clone());
                let unbound = state.unbound.and_then(|id| self.selectors.get(id));
                self.changed.pods.extend(unbound.into_iter().flat_map(|entry| entry.members.iter()));
            }
            // In case that the pod goes before anybody has asked it.
            self.changed.loose.insert(id);
            self.changed.policies.extend(&state.users);
        }
    }

    /// Drops what no pod calls by a name any more; answers whether pods are to be asked again.
    pub(super) fn loosen(&mut self) -> bool {
        let mut room = BTreeSet::new();
        for id in std::mem::take(&mut self.changed.loose) {
            let Some(entry) = self.selectors.get(id).filter(|entry| entry.members.is_empty()) else { continue };
            let (Selector::Port { name, .. } | Selector::Unbound { name }) = &*entry.selector else { continue };
            let Some(state) = self.port_names.get_mut(name) else { continue };
            match &*entry.selector {
                Selector::Port { protocol, number, .. } if state.bindings.get(&(*protocol, *number)) == Some(&id) => {
                    state.bindings.remove(&(*protocol, *number));
                    if let Some(space) = state.first.remove(&id) {
                        let left = state.spaces.remove(&space).unwrap_or_default().saturating_sub(1);
                        state.spaces.extend((left > 0).then(|| (space.clone(), left)));
                        room.extend(state.unbound.map(|unbound| (unbound, space)));
                    }
                }
                Selector::Unbound { .. } if state.unbound == Some(id) => state.unbound = None,
                _ => continue,
            }
            self.changed.policies.extend(&state.users);
            self.changed.released.push(id);
        }
        // There is room for ports of these namespaces.
        let mut waiting = Vec::new();
        for (unbound, space) in &room {
            let members = self.selectors.get(*unbound).into_iter().flat_map(|entry| entry.members.iter());
            let facts = members.filter_map(|id| Some((*id, &self.pods.get(*id)?.facts)));
            waiting.extend(facts.filter(|(_, facts)| facts.name.0 == *space).map(|(id, facts)| (id, facts.clone())));
        }
        for (id, facts) in &waiting {
            self.bind_ports(facts);
            self.changed.pods.insert(*id);
        }
        !waiting.is_empty()
    }
}
