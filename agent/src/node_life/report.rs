//! What is told, and by whom.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use podplane_api::{NodeCondition, NodeEvent};
use podplane_index::k8s::Taint;

use crate::status::Trouble;

/// The key of the one taint that is ours.
pub const TAINT: &str = "podplane.io/not-ready";
/// The events that `podplane status` remembers.
const REMEMBERED: usize = 20;

/// A condition of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// One word, stable.
    pub reason: &'static str,
    /// What is so and what to do; without the generation.
    pub message: String,
    /// The generation in force. Node conditions have no field for it: it is said behind the message.
    pub generation: u64,
}

impl Condition {
    /// Ours.
    pub const READY: &str = "podplane.io/Ready";
    /// Kubernetes' own, for whoever makes a node's network; where it holds, the node controller taints the node.
    pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

    /// The text for people.
    pub fn text(&self) -> String {
        format!("{} (generation {} applied)", self.message, self.generation)
    }

    /// Whether it is news at once.
    pub(super) fn turned(&self, then: &Condition) -> bool {
        (self.status, self.reason) != (then.status, then.reason)
    }

    /// Whether it says something else, the generation aside: that changes all the time.
    pub(super) fn says_other(&self, then: &Condition) -> bool {
        self.message != then.message
    }
}

/// Whether an event is about something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Severity {
    /// The API's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// This node.
    Node,
    /// A pod of this node.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID; may be empty.
        uid: String,
    },
    /// An object that every node reads: its event has the same name on all, so that the cluster keeps one.
    Object {
        /// `apiVersion`.
        api_version: &'static str,
        /// `kind`.
        kind: &'static str,
        /// Its namespace; empty where it has none.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Something that a person can act on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// How bad it is.
    pub severity: Severity,
    /// One word, stable.
    pub reason: &'static str,
    /// What happened and what to do.
    pub note: String,
    /// Whom it is about.
    pub about: About,
}

/// Why something could not be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The API server refused or was not reached.
    #[error("{0}")]
    Api(String),
    /// Others changed the object each time.
    #[error("the Node was changed by others in between, {0} times")]
    Conflict(usize),
}

/// By which the agent tells. What is told again and again is not its concern.
pub trait Report: Send + Sync + 'static {
    /// Writes the node's conditions.
    fn conditions<'a>(&'a self, conditions: &'a [Condition]) -> BoxFuture<'a, Result<(), ReportError>>;

    /// Sets [`TAINT`] right: see [`want_taints`].
    fn taint(&self, ready: bool) -> BoxFuture<'_, Result<(), ReportError>>;

    /// Writes an event of this name, which happened `count` times.
    fn event<'a>(&'a self, name: &'a str, event: &'a Event, count: u32) -> BoxFuture<'a, Result<(), ReportError>>;
}

/// The taints that a node should have; `None`: those that it has.
///
/// The kubelet registers with `podplane.io/not-ready:NoExecute` (or with none). Once policy is enforced ours goes, with
/// any effect. A node that is not ready later gets NoSchedule: it takes no new pods, and loses none.
pub fn want_taints(taints: &[Taint], ready: bool) -> Option<Vec<Taint>> {
    let has = taints.iter().any(|taint| taint.key == TAINT);
    match (ready, has) {
        (true, true) => Some(taints.iter().filter(|taint| taint.key != TAINT).cloned().collect()),
        (false, false) => {
            let ours = Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned() };
            Some(taints.iter().cloned().chain([ours]).collect())
        }
        _ => None,
    }
}

/// What was told, for `podplane status`; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    inner: Arc<Mutex<Inner>>,
    /// What could not be told.
    pub trouble: Trouble,
}

#[derive(Debug, Default)]
struct Inner {
    conditions: Vec<NodeCondition>,
    events: VecDeque<NodeEvent>,
}

impl Told {
    /// The conditions as they should stand on the Node.
    pub fn conditions(&self) -> Vec<NodeCondition> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).conditions.clone()
    }

    /// The last events, oldest first.
    pub fn events(&self) -> Vec<NodeEvent> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).events.iter().cloned().collect()
    }

    /// Takes the present conditions; answers with the event of a change.
    pub(super) fn take(&self, conditions: &[Condition], node: &str) -> Option<Event> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inner.conditions.first().map(|known| (known.status, known.reason.clone()));
        let now = |condition: &Condition| {
            let same = |known: &&NodeCondition| known.kind == condition.kind && known.status == condition.status;
            let since = inner.conditions.iter().find(same).map(|known| known.since.clone());
            NodeCondition {
                kind: condition.kind.to_owned(),
                status: condition.status,
                reason: condition.reason.to_owned(),
                message: condition.text(),
                since: since.unwrap_or_else(|| Timestamp::now().to_string()),
            }
        };
        let now: Vec<NodeCondition> = conditions.iter().map(now).collect();
        inner.conditions = now;
        let ready = conditions.first()?;
        if before == Some((ready.status, ready.reason.to_owned())) {
            return None;
        }
        let good = ready.status && ready.reason == "PodplaneIsUp";
        let severity = if good { Severity::Normal } else { Severity::Warning };
        // The message without the generation, so that what happens again is the same event.
        let note = format!("node {node}: {}", ready.message);
        Some(Event { severity, reason: ready.reason, note, about: About::Node })
    }

    pub(super) fn event(&self, event: &Event) {
        let about = match &event.about {
            About::Node => "Node".to_owned(),
            About::Pod { namespace, name, .. } => format!("Pod {namespace}/{name}"),
            About::Object { kind, namespace, name, .. } if namespace.is_empty() => format!("{kind} {name}"),
            About::Object { kind, namespace, name, .. } => format!("{kind} {namespace}/{name}"),
        };
        let event = NodeEvent {
            at: Timestamp::now().to_string(),
            severity: event.severity.name().to_owned(),
            reason: event.reason.to_owned(),
            about,
            note: event.note.clone(),
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.push_back(event);
        if inner.events.len() > REMEMBERED {
            inner.events.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, effect: &str) -> Taint {
        Taint { key: key.into(), effect: effect.into() }
    }

    #[test]
    fn noexecute_goes_and_never_comes_back() {
        let other = taint("dedicated", "NoSchedule");
        let registered = [other.clone(), taint(TAINT, "NoExecute")];
        assert_eq!(want_taints(&registered, true), Some(vec![other.clone()]));
        assert_eq!(want_taints(&registered, false), None, "not yet ready: the kubelet's stays");
        assert_eq!(want_taints(std::slice::from_ref(&other), true), None);
        let lost = want_taints(std::slice::from_ref(&other), false).unwrap();
        assert_eq!(lost, [other.clone(), taint(TAINT, "NoSchedule")]);
        assert_eq!(want_taints(&lost, false), None);
        assert_eq!(want_taints(&lost, true), Some(vec![other]));
    }
}
