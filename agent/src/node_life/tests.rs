//! A fake API server that merges as the real one does, and the task that tells it of a node.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant as Clock;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as Segments, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use podplane_config::trouble::{StartTrouble, TroubleKind};
use podplane_index::{Family, Settings, manifest};
use serde_json::{Value, json};

use super::*;
use crate::ipam::Store;
use crate::publish;
use crate::source::folder::Folder;
use crate::testing::{Dataplane, NoLinks};

/// One Node, and events.
#[derive(Default)]
struct Server {
    node: Value,
    version: u64,
    events: Vec<Value>,
    /// How many writes of the Node are answered with a conflict.
    conflicts: usize,
    /// How many calls fail.
    failures: usize,
    writes: usize,
}

type Shared = Arc<Mutex<Server>>;

fn lock(server: &Shared) -> MutexGuard<'_, Server> {
    server.lock().unwrap()
}

fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn status(code: u16, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": reason});
    (StatusCode::from_u16(code).unwrap(), json_answer(&body)).into_response()
}

impl Server {
    fn fails(&mut self) -> bool {
        let fails = self.failures > 0;
        self.failures -= usize::from(fails);
        fails
    }

    fn stamp(&mut self) {
        self.version += 1;
        self.writes += 1;
        self.node["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    fn condition(&self, kind: &str) -> Option<&Value> {
        self.node["status"]["conditions"].as_array()?.iter().find(|it| it["type"] == kind)
    }

    fn taints(&self) -> Vec<String> {
        let taints = self.node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.iter().map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap())).collect()
    }
}

async fn get_node(State(server): State<Shared>, Segments(_): Segments<String>) -> Response {
    let mut server = lock(&server);
    if server.fails() { status(500, "as the test says") } else { json_answer(&server.node) }
}

/// Server-side apply of conditions: merged by type.
async fn apply_status(State(server): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut server = lock(&server);
    if server.fails() {
        return status(500, "as the test says");
    }
    assert_eq!(headers[header::CONTENT_TYPE], "application/apply-patch+yaml");
    let wanted: Value = serde_json::from_slice(&body).unwrap();
    for condition in wanted["status"]["conditions"].as_array().unwrap() {
        let conditions = server.node["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|it| it["type"] != condition["type"]);
        conditions.push(condition.clone());
    }
    server.stamp();
    json_answer(&server.node)
}

/// A merge patch of the taints, by whoever knows the version.
async fn merge_node(State(server): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut server = lock(&server);
    assert_eq!(headers[header::CONTENT_TYPE], "application/merge-patch+json");
    let wanted: Value = serde_json::from_slice(&body).unwrap();
    if server.conflicts > 0 {
        server.conflicts -= 1;
        server.stamp();
        return status(409, "Conflict");
    }
    assert_eq!(wanted["metadata"]["resourceVersion"], server.node["metadata"]["resourceVersion"]);
    server.node["spec"]["taints"] = wanted["spec"]["taints"].clone();
    server.stamp();
    json_answer(&server.node)
}

async fn create_event(State(server): State<Shared>, Segments(namespace): Segments<String>, body: Bytes) -> Response {
    let event: Value = serde_json::from_slice(&body).unwrap();
    let mut server = lock(&server);
    for required in ["eventTime", "action", "reason", "reportingController", "reportingInstance", "regarding"] {
        assert!(!event[required].is_null(), "{required}: {event}");
    }
    let own = event["regarding"]["namespace"].as_str().unwrap_or("default");
    assert_eq!((own, event["metadata"]["namespace"].as_str().unwrap()), (namespace.as_str(), namespace.as_str()));
    if server.events.iter().any(|it| it["metadata"]["name"] == event["metadata"]["name"]) {
        return status(409, "AlreadyExists");
    }
    server.events.push(event.clone());
    json_answer(&event)
}

async fn merge_event(
    State(server): State<Shared>,
    Segments((_, name)): Segments<(String, String)>,
    body: Bytes,
) -> Response {
    let wanted: Value = serde_json::from_slice(&body).unwrap();
    let mut server = lock(&server);
    let Some(event) = server.events.iter_mut().find(|it| it["metadata"]["name"] == name.as_str()) else {
        return status(404, "NotFound");
    };
    event["series"] = wanted["series"].clone();
    json_answer(event)
}

/// A client of a server that has this Node.
async fn serve(node: Value) -> (Shared, kube::Client) {
    let server: Shared = Arc::new(Mutex::new(Server { node, ..Server::default() }));
    lock(&server).stamp();
    lock(&server).writes = 0;
    let router = Router::new()
        .route("/api/v1/nodes/{name}", get(get_node).patch(merge_node))
        .route("/api/v1/nodes/{name}/status", patch(apply_status))
        .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events", post(create_event))
        .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}", patch(merge_event))
        .with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let config = kube::Config::new(url.parse().unwrap());
    (server, kube::Client::try_from(config).unwrap())
}

fn node_object(taints: Value) -> Value {
    let kubelet = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u"}, "spec": {"taints": taints},
        "status": {"conditions": [kubelet]},
    })
}

const NODE: &str = "{apiVersion: v1, kind: Node, metadata: {name: n1, uid: u}, spec: {podCIDRs: [10.0.1.0/24], TAINTS}, \
                    status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}";

fn apply(desired: &Desired, text: &str) {
    desired.edit(|index| {
        for placed in manifest::parse(text).unwrap().objects {
            // What is refused is what some tests are about.
            let _ = index.apply(placed.object);
        }
    });
}

/// Everything but the routes of a node, in `dir`.
fn sources(dir: &Path) -> Sources {
    let desired = Arc::new(Desired::new(Index::new(Settings::new("n1", Family::Ipv4, 1))));
    desired.complete();
    let observer = publish::start(dir, desired.clone());
    let store = Arc::new(Store::open(&dir.join("ipam.redb"), Duration::from_secs(60)).unwrap());
    let attachments = Arc::new(Attachments::new(store, desired.clone(), observer.clone(), Arc::new(NoLinks)));
    let (placed, socket) = (Placed::unattended(), dir.join(publish::SOCKET));
    Sources { node: "n1".into(), desired, observer, attachments, placed, socket }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Clock::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Clock::now() < deadline, "not within a minute: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_node_becomes_ready_loses_its_dataplane_and_gets_it_back() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let registered =
            json!([{"key": "a", "effect": "NoSchedule", "value": "v"}, {"key": TAINT, "effect": "NoExecute"}]);
        let (server, client) = serve(node_object(registered)).await;
        lock(&server).conflicts = 2;
        let sources = sources(dir.path());
        let (desired, told) = (sources.desired.clone(), Told::default());
        let own = |taints: &str| NODE.replace("TAINTS", &format!("taints: [{taints}]"));
        apply(&desired, &own(&format!("{{key: {TAINT}, effect: NoExecute}}")));
        let report = Arc::new(ApiReport::new(client, "n1"));
        tokio::spawn(NodeLife::new(sources, report, told.clone(), Writes::default()).run());

        // Without a dataplane, which says why.
        let trouble = StartTrouble { kind: TroubleKind::Memory, message: "--memory 9 is more than the 3 MiB".into() };
        trouble.write(dir.path()).unwrap();
        until("the cause is on the Node", || {
            let server = lock(&server);
            let message = server.condition(Condition::READY).map(|it| it["message"].to_string()).unwrap_or_default();
            message.contains("more than the 3 MiB")
        })
        .await;
        {
            let server = lock(&server);
            let unavailable = server.condition(Condition::NETWORK_UNAVAILABLE).unwrap();
            assert_eq!((&unavailable["status"], &unavailable["reason"]), (&json!("True"), &json!("MemoryShort")));
            assert_eq!(server.taints(), ["a:NoSchedule", "podplane.io/not-ready:NoExecute"], "the kubelet's stays");
            assert!(server.condition("Ready").is_some(), "the kubelet's own condition stays");
        }
        StartTrouble::clear(dir.path());

        let dataplane = Dataplane::start(dir.path(), 1500);
        until("ready", || lock(&server).condition(Condition::READY).is_some_and(|it| it["status"] == "True")).await;
        until("the taint goes, conflicts or not", || lock(&server).taints() == ["a:NoSchedule"]).await;
        assert_eq!(lock(&server).node["spec"]["taints"][0]["value"], "v", "others' taints stay whole");
        let message = lock(&server).condition(Condition::READY).unwrap()["message"].to_string();
        assert!(message.contains("(generation 1 applied)"), "{message}");
        apply(&desired, &own(""));
        until("an event of it", || lock(&server).events.iter().any(|it| it["reason"] == "PodplaneIsUp")).await;

        drop(dataplane);
        until("not ready", || lock(&server).condition(Condition::READY).is_some_and(|it| it["status"] == "False"))
            .await;
        until("it takes no new pods", || {
            lock(&server).taints() == ["a:NoSchedule", "podplane.io/not-ready:NoSchedule"]
        })
        .await;
        apply(&desired, &own(&format!("{{key: {TAINT}, effect: NoSchedule}}")));
        let _dataplane = Dataplane::start(dir.path(), 1500);
        until("ready again", || lock(&server).taints() == ["a:NoSchedule"]).await;
        assert_eq!(told.trouble.get(), None);
        let reasons: Vec<String> = told.events().into_iter().map(|event| event.reason).collect();
        assert_eq!(
            reasons,
            ["MemoryShort", "PodplaneIsUp", "DataplaneNotConnected"],
            "the second time is the same event"
        );
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

#[test]
fn what_was_so_before_keeps_its_time_and_writes_are_few() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let mut object = node_object(json!([]));
        let before = json!({"type": Condition::READY, "status": "True", "lastTransitionTime": "2020-01-02T03:04:05Z"});
        object["status"]["conditions"].as_array_mut().unwrap().push(before);
        let (server, client) = serve(object).await;
        lock(&server).failures = 2;
        let sources = sources(dir.path());
        let (desired, told) = (sources.desired.clone(), Told::default());
        apply(&desired, &NODE.replace("TAINTS", ""));
        let _dataplane = Dataplane::start(dir.path(), 1500);
        let report = Arc::new(ApiReport::new(client, "n1"));
        let mut life = NodeLife::new(sources, report, told.clone(), Writes::default());
        let deadline = Clock::now() + Duration::from_secs(60);
        let mut failed = false;
        while lock(&server).writes == 0 {
            assert!(Clock::now() < deadline);
            life.look().await;
            failed |= told.trouble.get().is_some_and(|trouble| trouble.contains("as the test says"));
            sleep(Duration::from_millis(20)).await;
        }
        assert!(failed, "a server that fails is a trouble, and tried again");
        assert_eq!(lock(&server).condition(Condition::READY).unwrap()["lastTransitionTime"], "2020-01-02T03:04:05Z");
        // Generations that come and go are not worth a write.
        for i in 2..20 {
            let other = format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: m{i}}}, spec: {{podCIDRs: [10.0.{i}.0/24]}}, status: \
                 {{addresses: [{{type: InternalIP, address: 192.0.2.{i}}}]}}}}"
            );
            apply(&desired, &other);
            life.look().await;
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(lock(&server).writes, 1);
        // Another object of the name: the node registered anew.
        apply(&desired, &NODE.replace("TAINTS", "").replace("uid: u", "uid: w"));
        life.look().await;
        assert_eq!(lock(&server).writes, 2);
        assert_eq!(told.trouble.get(), None, "it works by now");
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

#[test]
fn refused_objects_are_events_of_theirs_that_the_cluster_has_once() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (server, client) = serve(node_object(json!([]))).await;
        let sources = sources(dir.path());
        apply(&sources.desired, &NODE.replace("TAINTS", ""));
        // The same range as this node's, and younger.
        let twin = "{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDRs: [10.0.1.0/24]}, \
                    status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}";
        apply(&sources.desired, twin);
        let _dataplane = Dataplane::start(dir.path(), 1500);
        let (told, reports) = (Told::default(), [ApiReport::new(client.clone(), "n1"), ApiReport::new(client, "n3")]);
        let mut events = [Events::new(), Events::new()];
        for (events, report) in events.iter_mut().zip(&reports) {
            events.news(&sources);
            events.tell(report, &told, &Writes::default()).await;
            events.news(&sources);
            events.tell(report, &told, &Writes::default()).await;
        }
        let told = lock(&server).events.clone();
        assert_eq!(told.len(), 1, "two nodes, one event: {told:?}");
        assert_eq!((&told[0]["regarding"]["kind"], &told[0]["regarding"]["name"]), (&json!("Node"), &json!("n2")));
        assert!(told[0]["note"].as_str().unwrap().contains("10.0.1.0/24 overlaps 10.0.1.0/24 of node n1"), "{told:?}");
        // What happens again and again is one event with a number.
        let again = Event {
            severity: Severity::Warning,
            reason: "R",
            note: "n".repeat(2000),
            about: About::Pod { namespace: "a".into(), name: "b".into(), uid: String::new() },
        };
        reports[0].event("podplane-1", &again, 1).await.unwrap();
        reports[0].event("podplane-1", &again, 7).await.unwrap();
        let event = lock(&server).events[1].clone();
        assert_eq!((&event["series"]["count"], &event["regarding"]["namespace"]), (&json!(7), &json!("a")));
        assert_eq!(event["note"].as_str().unwrap().len(), 1024);
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

/// From the file of a Node to the dataplane's peers: added, moved, removed.
#[test]
fn nodes_that_come_move_and_go_are_followed() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let _entered = runtime.enter();
    let objects = dir.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join("draft"), text).unwrap();
        std::fs::rename(dir.path().join("draft"), objects.join(format!("{name}.yaml"))).unwrap();
    };
    let other = |address: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n2}}, spec: {{podCIDRs: [10.0.2.0/24]}}, status: \
             {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"
        )
    };
    write("n1", &NODE.replace("TAINTS", ""));
    let desired = Arc::new(Desired::new(Index::new(Settings::new("n1", Family::Ipv4, 1))));
    let _observer = publish::start(dir.path(), desired.clone());
    let whole = desired.clone();
    let _folder = Folder::start(&objects, desired, move || whole.complete()).unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    runtime.block_on(async {
        let has = |vtep: Option<&'static str>| {
            move |inner: &crate::testing::Inner| {
                let there: Vec<String> = inner.state.peers.values().map(|peer| peer.vtep.to_string()).collect();
                inner.state.local.is_some() && there == vtep.into_iter().collect::<Vec<_>>()
            }
        };
        dataplane.until("alone", has(None)).await;
        write("n2", &other("192.0.2.2"));
        dataplane.until("a peer", has(Some("192.0.2.2"))).await;
        write("n2", &other("192.0.2.9"));
        dataplane.until("its other address", has(Some("192.0.2.9"))).await;
        std::fs::remove_file(objects.join("n2.yaml")).unwrap();
        dataplane.until("none", has(None)).await;
    });
    drop(dataplane);
    runtime.shutdown_timeout(Duration::from_millis(100));
}
