//! Pods, as far as policy is concerned.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use podplane_config::v1::Protocol;

use super::labels::LabelMap;
use crate::k8s;

/// Numbers a pod as long as it is known; used again afterwards.
pub(super) type PodId = u32;

/// Namespace and name.
pub(super) type PodName = (String, String);

/// The longest name, in bytes (a DNS subdomain, RFC 1123).
const MAX_NAME: usize = 253;
/// The longest UID, in bytes; the API server makes 36.
const MAX_UID: usize = 128;

/// Fewer labels are never swept.
const SWEEP_AT_LEAST: usize = 1024;

/// What a pod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) name: PodName,
    /// Empty where its object states none.
    pub(super) uid: String,
    /// Of a static pod: the UID by which its node's kubelet knows it, which is not that of its object.
    pub(super) mirror: Option<String>,
    /// RFC 3339, UTC; empty where it is not stated.
    pub(super) created: String,
    /// Shared with the pods that have the same: those of a Deployment do, and a cluster has far more pods than those.
    pub(super) labels: Arc<LabelMap>,
    /// Container ports that have a name, of containers and sidecars.
    pub(super) ports: BTreeSet<(String, Protocol, u16)>,
    /// The addresses of its status.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host_network: bool,
    /// It succeeded or failed: whatever its status shows belongs to others by now.
    pub(super) finished: bool,
    pub(super) terminating: bool,
}

impl PodFacts {
    /// Checks a pod by itself; the error says what is wrong with it.
    pub(super) fn of(pod: &k8s::Pod, name: PodName, addresses: Vec<IpAddr>) -> Result<PodFacts, String> {
        let k8s::Pod { metadata, spec, status } = pod;
        for (field, text, longest) in [
            ("metadata.namespace", name.0.as_str(), MAX_NAME),
            ("metadata.name", &name.1, MAX_NAME),
            ("metadata.uid", metadata.uid.as_deref().filter(|uid| !uid.is_empty()).unwrap_or("-"), MAX_UID),
        ] {
            if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
                return Err(format!("{field}: {text:?} is longer than {longest} bytes, empty, or not printable"));
            }
        }
        Ok(PodFacts {
            name,
            uid: metadata.uid.clone().unwrap_or_default(),
            mirror: metadata.annotations.clone().unwrap_or_default().mirror,
            created: metadata.creation_timestamp.clone().unwrap_or_default(),
            labels: Arc::new(metadata.labels.clone().unwrap_or_default()),
            ports: ports(spec)?,
            addresses,
            host_network: spec.host_network.unwrap_or(false),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: metadata.deletion_timestamp.is_some(),
        })
    }

    /// Whether the addresses that it shows are its own.
    pub(super) fn owns(&self) -> bool {
        !self.host_network && !self.finished
    }

    /// Whether a runtime that names this UID means this pod; a UID that one side does not state fits.
    pub(super) fn is(&self, uid: &str) -> bool {
        self.uid.is_empty() || uid.is_empty() || self.uid == uid || self.mirror.as_deref() == Some(uid)
    }

    /// "namespace/name".
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.name.0, self.name.1)
    }

    /// What its addresses' owner is called: its UID.
    pub(super) fn owner(&self) -> String {
        if self.uid.is_empty() { self.path() } else { self.uid.clone() }
    }
}

fn ports(spec: &k8s::PodSpec) -> Result<BTreeSet<(String, Protocol, u16)>, String> {
    // An init container that is restarted always is a sidecar: it runs beside the others.
    let is_sidecar = |container: &&k8s::Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut ports = BTreeSet::new();
    for port in spec.containers.iter().flatten().chain(sidecars).flat_map(|container| container.ports.iter().flatten())
    {
        let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) else { continue };
        let wrong = |what: &str| Err(format!("spec.containers: {what} of port \"{name}\""));
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => return wrong(&format!("\"{other}\" is no protocol")),
        };
        match u16::try_from(port.container_port) {
            Ok(number) if number > 0 => ports.insert((name.clone(), protocol, number)),
            _ => return wrong(&format!("{} is no number", port.container_port)),
        };
    }
    Ok(ports)
}

/// A pod that is known.
#[derive(Clone, Debug)]
pub(super) struct PodState {
    pub(super) facts: PodFacts,
    /// Selectors and bindings of ports that it matches, sorted.
    pub(super) matched: Vec<u32>,
    /// Whether its object is still there. One that is not stays while endpoints of this node belong to it: it owns
    /// nothing any more, and is subject to what it was subject to.
    pub(super) live: bool,
    /// The endpoints of this node that are its own.
    pub(super) endpoints: BTreeSet<String>,
}

impl PodState {
    pub(super) fn owns(&self) -> bool {
        self.live && self.facts.owns()
    }
}

/// All pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    slots: Vec<Option<PodState>>,
    free: Vec<PodId>,
    /// Those whose object is there.
    live: HashMap<PodName, PodId>,
    /// All labels that pods have, some that they had, and at how many it is looked which are which.
    labels: HashSet<Arc<LabelMap>>,
    sweep_at: usize,
}

impl Pods {
    pub(super) fn get(&self, id: PodId) -> Option<&PodState> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PodId) -> Option<&mut PodState> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// The same labels as some other pod has them, where one has.
    pub(super) fn share(&mut self, labels: Arc<LabelMap>) -> Arc<LabelMap> {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        if self.labels.len() >= self.sweep_at {
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
            self.sweep_at = 2 * self.labels.len() + SWEEP_AT_LEAST;
        }
        self.labels.insert(labels.clone());
        labels
    }

    pub(super) fn find(&self, name: &PodName) -> Option<PodId> {
        self.live.get(name).copied()
    }

    /// The names of those whose object is there.
    pub(super) fn names(&self) -> impl Iterator<Item = &PodName> {
        self.live.keys()
    }

    pub(super) fn insert(&mut self, facts: PodFacts) -> PodId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // The dataplane takes far fewer addresses than this.
            PodId::try_from(self.slots.len() - 1).unwrap_or(PodId::MAX)
        });
        self.live.insert(facts.name.clone(), id);
        self.slots[id as usize] = Some(PodState { facts, matched: Vec::new(), live: true, endpoints: BTreeSet::new() });
        id
    }

    /// Takes a pod's object away; the pod itself stays until [`Pods::remove`].
    pub(super) fn bury(&mut self, id: PodId) {
        if let Some(pod) = self.slots.get_mut(id as usize).and_then(Option::as_mut) {
            pod.live = false;
            if self.live.get(&pod.facts.name) == Some(&id) {
                self.live.remove(&pod.facts.name);
            }
        }
    }

    /// Forgets a pod.
    pub(super) fn remove(&mut self, id: PodId) {
        self.bury(id);
        if self.slots.get_mut(id as usize).and_then(Option::take).is_some() {
            self.free.push(id);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PodId, &PodState)> {
        let ids = (0..).zip(&self.slots);
        ids.filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }
}

/// A namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct NamespaceState {
    /// Its labels, its name among them; `None`: its object was never seen.
    pub(super) labels: Option<LabelMap>,
    /// Whether its object is gone: what it said counts while it has pods.
    pub(super) gone: bool,
    /// The selectors of namespaces by labels that it matches.
    pub(super) parts: BTreeSet<u32>,
    pub(super) pods: BTreeSet<PodId>,
}

/// All namespaces by name.
pub(super) type Namespaces = BTreeMap<String, NamespaceState>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_labels_are_kept_once_and_not_for_ever() {
        let mut pods = Pods::default();
        let labels = |n: usize| Arc::new(LabelMap::from([("app".into(), format!("a{n}"))]));
        let first = pods.share(labels(0));
        assert!(Arc::ptr_eq(&first, &pods.share(labels(0))));
        (1..10 * SWEEP_AT_LEAST).for_each(|n| drop(pods.share(labels(n))));
        assert!(pods.labels.len() <= 2 * SWEEP_AT_LEAST, "{}", pods.labels.len());
        assert!(Arc::ptr_eq(&first, &pods.share(labels(0))), "what a pod has is still known");
    }
}
