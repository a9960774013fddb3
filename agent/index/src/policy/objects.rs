//! Pods, namespaces and nodes come, change and go.

use std::net::IpAddr;

use super::Policy;
use super::labels::NAMESPACE_NAME;
use super::pods::{PodFacts, PodId};
use crate::k8s::{self, Kind, ObjectKey};

impl Policy {
    /// Takes a pod's new state; the error says what is wrong with it.
    pub(crate) fn pod(&mut self, key: &ObjectKey, pod: &k8s::Pod, addresses: Vec<IpAddr>) -> Result<(), String> {
        let mut facts = PodFacts::of(pod, (key.namespace.clone(), key.name.clone()), addresses)?;
        facts.labels = self.pods.share(facts.labels);
        let known = self.pods.find(&facts.name);
        match known.and_then(|id| Some((id, &self.pods.get(id)?.facts))) {
            Some((_, before)) if *before == facts => {}
            Some((id, before)) if before.uid == facts.uid => self.replace_pod(id, facts),
            Some((id, _)) => {
                self.bury_pod(id);
                self.add_pod(facts);
            }
            None => self.add_pod(facts),
        }
        Ok(())
    }

    fn add_pod(&mut self, facts: PodFacts) {
        let id = self.pods.insert(facts.clone());
        self.namespaces.entry(facts.name.0.clone()).or_default().pods.insert(id);
        self.claim(id, facts.owns(), &[], &facts.addresses);
        self.changed.pods.insert(id);
        self.bind_ports(&facts);
        self.bind_endpoints(id, &facts);
    }

    fn replace_pod(&mut self, id: PodId, facts: PodFacts) {
        self.bind_ports(&facts);
        let (owns, now) = (facts.owns(), facts.addresses.clone());
        let Some(pod) = self.pods.get_mut(id) else { return };
        let before = std::mem::replace(&mut pod.facts, facts);
        self.changed.endpoints.extend(pod.endpoints.iter().cloned());
        let had = if before.owns() { before.addresses.as_slice() } else { &[] };
        self.claim(id, owns, had, &now);
        self.changed.pods.insert(id);
        // Also where no address changed: whether it is about to end decides between two that claim one.
        self.touch_addresses(id);
    }

    /// A pod's object is gone, or another has its name.
    fn bury_pod(&mut self, id: PodId) {
        let Some(pod) = self.pods.get(id) else { return };
        let (had, keeps) = (pod.facts.addresses.clone(), !pod.endpoints.is_empty());
        let owned = if pod.owns() { had.as_slice() } else { &[] };
        self.claim(id, false, owned, &[]);
        self.changed.addresses.extend(had);
        self.pods.bury(id);
        if keeps {
            // It owns nothing any more, nor do others know its ports by name.
            self.changed.pods.insert(id);
            self.touch_addresses(id);
        } else {
            self.forget_pod(id);
        }
    }

    pub(super) fn forget_pod(&mut self, id: PodId) {
        let Some(pod) = self.pods.get(id) else { return };
        let (matched, namespace) = (pod.matched.clone(), pod.facts.name.0.clone());
        let gone = self.selectors.follow(id, &matched, &[]);
        self.changed.loose.extend(gone);
        if let Some(state) = self.namespaces.get_mut(&namespace) {
            state.pods.remove(&id);
            if state.pods.is_empty() && (state.gone || state.labels.is_none()) {
                self.namespaces.remove(&namespace);
            }
        }
        self.changed.pods.remove(&id);
        self.pods.remove(id);
    }

    /// Forgets a pod by name.
    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) {
        if let Some(id) = self.pods.find(&(key.namespace.clone(), key.name.clone())) {
            self.bury_pod(id);
        }
    }

    /// The UID of the pod of that name.
    pub(crate) fn pod_uid(&self, key: &ObjectKey) -> Option<&str> {
        let id = self.pods.find(&(key.namespace.clone(), key.name.clone()))?;
        Some(self.pods.get(id)?.facts.uid.as_str())
    }

    /// The pods, namespaces or policies whose objects are there.
    pub(crate) fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let of = |namespace: &str, name: &str| ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        match kind {
            Kind::Pod => self.pods.names().map(|(namespace, name)| of(namespace, name)).collect(),
            Kind::Namespace => {
                let there = self.namespaces.iter().filter(|(_, state)| !state.gone && state.labels.is_some());
                there.map(|(name, _)| of("", name)).collect()
            }
            _ => self.by_key.keys().filter(|key| key.kind == kind).cloned().collect(),
        }
    }

    fn claim(&mut self, id: PodId, owns: bool, before: &[IpAddr], now: &[IpAddr]) {
        let now = if owns { now } else { &[] };
        self.owners.pod(id, self.moment, before, now);
        self.changed.addresses.extend(before.iter().chain(now));
    }

    /// Has a pod's addresses told again, those of its endpoints included.
    pub(super) fn touch_addresses(&mut self, id: PodId) {
        let Some(pod) = self.pods.get(id) else { return };
        self.changed.addresses.extend(&pod.facts.addresses);
        for endpoint in pod.endpoints.iter().filter_map(|endpoint| self.endpoints.get(endpoint)) {
            self.changed.addresses.extend(&endpoint.addresses);
        }
    }

    /// Takes a namespace's new state.
    pub(crate) fn namespace(&mut self, namespace: &k8s::Namespace) {
        let name = &namespace.metadata.name;
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        // The API server sees to this label; nobody can give it another value.
        labels.insert(NAMESPACE_NAME.into(), name.clone());
        let parts = self.selectors.parts_of(Some(&labels));
        let state = self.namespaces.entry(name.clone()).or_default();
        state.gone = false;
        if state.labels.as_ref() == Some(&labels) {
            return;
        }
        let was_unknown = state.labels.replace(labels).is_none();
        let changed = std::mem::replace(&mut state.parts, parts) != state.parts;
        if changed || was_unknown {
            let pods: Vec<PodId> = state.pods.iter().copied().collect();
            for id in pods {
                self.changed.pods.insert(id);
                self.touch_addresses(id);
                let endpoints = self.pods.get(id).into_iter().flat_map(|pod| pod.endpoints.iter().cloned());
                self.changed.endpoints.extend(endpoints);
            }
        }
    }

    /// Forgets a namespace; while it has pods, what it said counts.
    pub(crate) fn remove_namespace(&mut self, name: &str) {
        let Some(state) = self.namespaces.get_mut(name) else { return };
        state.gone = true;
        if state.pods.is_empty() {
            self.namespaces.remove(name);
        }
    }

    /// Takes a node's new state.
    pub(crate) fn node(&mut self, node: &k8s::Node) {
        let name = &node.metadata.name;
        let (before, changed) = self.nodes.put(node);
        if !changed {
            return;
        }
        let now = self.nodes.get(name).map(|node| node.addresses.clone()).unwrap_or_default();
        before.iter().for_each(|address| self.owners.node(*address, name, false));
        now.iter().for_each(|address| self.owners.node(*address, name, true));
        self.changed.addresses.extend(before.iter().chain(&now));
        self.changed.nodes = true;
    }

    /// Forgets a node.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(node) = self.nodes.remove(name, &mut self.selectors) else { return };
        for address in &node.addresses {
            self.owners.node(*address, name, false);
        }
        self.changed.addresses.extend(node.addresses);
    }
}
