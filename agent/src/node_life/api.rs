//! Tells the API server.
//!
//! Conditions by server-side apply, which merges them by type with the kubelet's; the taint by a merge patch with the
//! resource version, for taints are one list that others write too; events as `events.k8s.io/v1`.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use podplane_index::k8s::Taint;
use serde_json::{Value, json};

use super::report::{About, Condition, Event, Report, ReportError, TAINT, want_taints};

/// How often a write that somebody else's overtook is tried again at once.
const ATTEMPTS: usize = 5;
/// The longest text of a field manager and of an event's fields, in bytes, and of its note.
const MAX_NAME: usize = 128;
const MAX_NOTE: usize = 1024;
/// Where events of objects without a namespace live.
const DEFAULT_NAMESPACE: &str = "default";

/// Tells the API server.
pub struct ApiReport {
    client: Client,
    node: String,
    manager: String,
}

impl ApiReport {
    /// For the agent of `node`.
    pub fn new(client: Client, node: &str) -> ApiReport {
        ApiReport { client, node: node.to_owned(), manager: cut(&format!("podplane-agent/{node}"), MAX_NAME) }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn write_conditions(&self, conditions: &[Condition]) -> Result<(), ReportError> {
        let node = self.nodes().get(&self.node).await.map_err(api)?;
        let there = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let now = Timestamp::now();
        let write = |condition: &Condition| {
            let status = if condition.status { "True" } else { "False" };
            // What an earlier agent wrote, and has not changed since.
            let same = there.iter().find(|it| it.type_ == condition.kind && it.status == status);
            let since = same.and_then(|it| it.last_transition_time.as_ref()).map_or(now, |time| time.0);
            json!({
                "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.text(),
                "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(since),
            })
        };
        let conditions: Vec<Value> = conditions.iter().map(write).collect();
        let patch = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}, "status": {"conditions": conditions},
        });
        let by = PatchParams::apply(&self.manager).force();
        self.nodes().patch_status(&self.node, &by, &Patch::Apply(&patch)).await.map(drop).map_err(api)
    }

    async fn write_taint(&self, ready: bool) -> Result<(), ReportError> {
        for _ in 0..ATTEMPTS {
            let node = self.nodes().get(&self.node).await.map_err(api)?;
            let there = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            let slim = |taint: &k8s_openapi::api::core::v1::Taint| Taint {
                key: taint.key.clone(),
                effect: taint.effect.clone(),
            };
            let now: Vec<Taint> = there.iter().map(slim).collect();
            if want_taints(&now, ready).is_none() {
                return Ok(());
            }
            // Others' taints go back as they came, with values and times.
            let mut taints: Vec<Value> = there
                .iter()
                .filter(|taint| taint.key != TAINT)
                .filter_map(|it| serde_json::to_value(it).ok())
                .collect();
            if !ready {
                taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
            }
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
            });
            let by = PatchParams { field_manager: Some(self.manager.clone()), ..PatchParams::default() };
            match self.nodes().patch(&self.node, &by, &Patch::Merge(&patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(e) => return Err(api(e)),
            }
        }
        Err(ReportError::Conflict(ATTEMPTS))
    }

    async fn write_event(&self, name: &str, event: &Event, count: u32) -> Result<(), ReportError> {
        let regarding = self.regarding(&event.about);
        let namespace = regarding.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let events: Api<ApiEvent> = Api::namespaced(self.client.clone(), &namespace);
        let now = Timestamp::now();
        if count > 1 {
            let patch = json!({"series": {"count": count, "lastObservedTime": MicroTime(now)}});
            match events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                // It has expired: it is told anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                done => return done.map(drop).map_err(api),
            }
        }
        let event = ApiEvent {
            metadata: ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace), ..ObjectMeta::default() },
            event_time: Some(MicroTime(now)),
            action: Some("Networking".to_owned()),
            reason: Some(event.reason.to_owned()),
            note: Some(cut(&event.note, MAX_NOTE)),
            type_: Some(event.severity.name().to_owned()),
            regarding: Some(regarding),
            reporting_controller: Some("podplane.io/agent".to_owned()),
            reporting_instance: Some(cut(&self.node, MAX_NAME)),
            ..ApiEvent::default()
        };
        match events.create(&PostParams::default(), &event).await {
            // Another node was first, or the namespace goes: nobody would read it there.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("being terminated") => {
                Ok(())
            }
            done => done.map(drop).map_err(api),
        }
    }

    fn regarding(&self, about: &About) -> ObjectReference {
        let reference = |api_version: &str, kind: &str, namespace: &str, name: &str, uid: &str| ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: Some(name.to_owned()),
            uid: (!uid.is_empty()).then(|| uid.to_owned()),
            ..ObjectReference::default()
        };
        match about {
            // As the kubelet's own: by the name in place of the UID, which `kubectl describe node` looks for.
            About::Node => reference("v1", "Node", "", &self.node, &self.node),
            About::Pod { namespace, name, uid } => reference("v1", "Pod", namespace, name, uid),
            About::Object { api_version, kind, namespace, name } => reference(api_version, kind, namespace, name, ""),
        }
    }
}

impl Report for ApiReport {
    fn conditions<'a>(&'a self, conditions: &'a [Condition]) -> BoxFuture<'a, Result<(), ReportError>> {
        self.write_conditions(conditions).boxed()
    }

    fn taint(&self, ready: bool) -> BoxFuture<'_, Result<(), ReportError>> {
        self.write_taint(ready).boxed()
    }

    fn event<'a>(&'a self, name: &'a str, event: &'a Event, count: u32) -> BoxFuture<'a, Result<(), ReportError>> {
        self.write_event(name, event, count).boxed()
    }
}

/// As `metav1.Time` is written: whole seconds.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or_default().to_string()
}

fn api(error: kube::Error) -> ReportError {
    let text = match &error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}: give the agent's account the rules of deploy/", status.message)
        }
        _ => {
            // The causes say more than the first line.
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(next) = cause {
                let more = next.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = next.source();
            }
            text
        }
    };
    ReportError::Api(text)
}

/// The first `max` bytes, or a few less: no letter is cut.
fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text[..end].to_owned()
}
