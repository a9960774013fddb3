//! An API server in memory: lists, streaming lists, watches with bookmarks and versions, and everything that can go
//! wrong with them. It keeps objects by the path of their collection and checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterOptions};

/// The collections that this agent watches, with their kinds.
const COLLECTIONS: [(&str, &str, &str); 8] = [
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/pods", "v1", "Pod"),
    ("/api/v1/services", "v1", "Service"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"),
    ("/apis/networking.k8s.io/v1/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
    (
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
    ),
];

/// What the server knows and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    log: Vec<Entry>,
    /// Collections that are not served.
    pub(crate) absent: BTreeSet<&'static str>,
    /// Versions up to this one are not remembered.
    forgotten: u64,
    /// Streams that began before this one are cut.
    epoch: u64,
    /// Whether lists can be streamed.
    pub(crate) no_streaming: bool,
    /// Whether what watches are served from lags behind the store.
    pub(crate) lags: bool,
    /// Objects in a page at most, whatever is asked for.
    pub(crate) page: usize,
    /// What to answer instead, by collection, so many times.
    pub(crate) refuse: BTreeMap<&'static str, (usize, u16, Value)>,
    /// How long to wait before each event.
    pub(crate) slow: Duration,
    /// All that was asked.
    pub(crate) asked: Vec<(Instant, String)>,
}

struct Entry {
    version: u64,
    collection: String,
    line: String,
    labels: Value,
}

struct Inner {
    state: Mutex<State>,
    ticks: watch::Sender<u64>,
}

/// A server; dropping it ends it.
pub(crate) struct Api {
    inner: Arc<Inner>,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Api {
    /// Begins without objects.
    pub(crate) fn start() -> Api {
        let state = State { page: 3, version: 1, ..State::default() };
        let inner = Arc::new(Inner { state: Mutex::new(state), ticks: watch::Sender::new(0) });
        let mut api = Api { inner, address: "127.0.0.1:0".parse().unwrap(), runtime: None };
        api.come_back();
        api
    }

    /// Closes everything at once.
    pub(crate) fn go_away(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }

    /// Listens, again at the same address.
    pub(crate) fn come_back(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let listener = loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.inner.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    pub(crate) fn options(&self) -> ClusterOptions {
        ClusterOptions { api_server: Some(format!("http://{}", self.address)), ..ClusterOptions::default() }
    }

    pub(crate) async fn cluster(&self) -> Cluster {
        Cluster::prepare(&self.options(), "n1").await.unwrap()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap()
    }

    /// Creates or changes all objects of a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
        for object in documents {
            self.put(object);
        }
    }

    /// Creates or changes an object, whatever it says.
    pub(crate) fn put(&self, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let collection = collection(&object);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let key = (collection.to_owned(), path(&object));
        let kind = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.note(collection, kind, &object);
        state.objects.insert(key, object);
        drop(state);
        self.tick();
    }

    /// Removes the object "namespace/name" or "name".
    pub(crate) fn delete(&self, collection: &str, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let mut object = state.objects.remove(&(collection.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.note(collection, "DELETED", &object);
        drop(state);
        self.tick();
    }

    /// Changes without saying so: only who lists again will know.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.forgotten = state.version;
        state.log.clear();
    }

    /// Removes an object without an event.
    pub(crate) fn lose(&self, collection: &str, name: &str) {
        self.lock().objects.remove(&(collection.to_owned(), name.to_owned())).unwrap();
    }

    /// Sends a line to all who watch the collection.
    pub(crate) fn say(&self, collection: &str, line: &str) {
        let mut state = self.lock();
        state.version += 1;
        let (version, collection, line) = (state.version, collection.to_owned(), format!("{line}\n"));
        state.log.push(Entry { version, collection, line, labels: Value::Null });
        drop(state);
        self.tick();
    }

    /// Sends a bookmark to all who watch the collection.
    pub(crate) fn bookmark(&self, collection: &str) {
        let version = self.lock().version + 1;
        let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}});
        self.say(collection, &json!({"type": "BOOKMARK", "object": object}).to_string());
    }

    /// The last version that was given out.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Cuts all streams in the middle of what they say.
    pub(crate) fn cut(&self) {
        self.lock().epoch += 1;
        self.tick();
    }

    /// How often a collection was asked for in this way.
    pub(crate) fn count(&self, collection: &str, with: &str) -> usize {
        let starts = format!("{collection}?");
        self.lock().asked.iter().filter(|(_, uri)| uri.starts_with(&starts) && uri.contains(with)).count()
    }

    fn tick(&self) {
        self.inner.ticks.send_modify(|tick| *tick += 1);
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl State {
    fn note(&mut self, collection: &str, kind: &str, object: &Value) {
        // As servers write it: the type comes first.
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        let (version, labels) = (self.version, object["metadata"]["labels"].clone());
        self.log.push(Entry { version, collection: collection.to_owned(), line, labels });
    }
}

fn collection(object: &Value) -> &'static str {
    let is = |(_, api_version, kind): &&(&str, &str, &str)| {
        object["apiVersion"] == **api_version && object["kind"] == **kind
    };
    COLLECTIONS.iter().find(is).unwrap().0
}

fn path(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap();
    metadata["namespace"].as_str().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// One of a query's parameters.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn failure(code: u16, details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Test",
        "message": format!("as the test says, {code}"), "details": details})
}

fn status(code: u16, details: Value) -> Response {
    (StatusCode::from_u16(code).unwrap(), failure(code, details).to_string()).into_response()
}

async fn answer(Extract(inner): Extract<Arc<Inner>>, uri: Uri) -> Response {
    let (asked, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
    let mut state = inner.state.lock().unwrap();
    state.asked.push((Instant::now(), uri.to_string()));
    if asked == "/version" {
        let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        return version.to_string().into_response();
    }
    let known = COLLECTIONS.iter().find(|(collection, ..)| *collection == asked);
    let Some((collection, ..)) = known.filter(|(collection, ..)| !state.absent.contains(collection)) else {
        return one(&state, &asked);
    };
    if let Some((times, code, details)) = state.refuse.get_mut(collection).filter(|(times, ..)| *times > 0) {
        *times -= 1;
        return status(*code, details.clone());
    }
    if parameter(&query, "watch").is_none() {
        return list(&state, collection, &query);
    }
    let initial = parameter(&query, "sendInitialEvents").is_some();
    if state.lags {
        return status(504, Value::Null);
    }
    if initial && state.no_streaming {
        return status(422, Value::Null);
    }
    let from: u64 = parameter(&query, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut lines = Vec::new();
    if initial {
        for ((_, _), object) in state.objects.iter().filter(|((of, _), _)| of == collection) {
            if selected(&object["metadata"]["labels"], &query) {
                lines.push(format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"));
            }
        }
        let metadata = json!({"resourceVersion": state.version.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"}});
        lines.push(format!(
            "{}\n",
            json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1",
            "metadata": metadata}})
        ));
    } else if from < state.forgotten {
        lines.push(format!("{}\n", json!({"type": "ERROR", "object": failure(410, Value::Null)})));
    }
    let after = if initial { state.version } else { from };
    let watcher = Watcher { inner: inner.clone(), collection, query, lines, after, epoch: state.epoch };
    drop(state);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream::unfold(watcher, Watcher::next)))
        .into_response()
}

/// A single object, by its whole path.
fn one(state: &State, asked: &str) -> Response {
    let place = |((collection, name), object): (&(String, String), &Value)| {
        let (root, plural) = collection.rsplit_once('/').unwrap();
        let full = match name.split_once('/') {
            Some((namespace, name)) => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
            None => format!("{collection}/{name}"),
        };
        (full == asked).then(|| object.to_string())
    };
    state.objects.iter().find_map(place).map_or_else(|| status(404, Value::Null), IntoResponse::into_response)
}

fn list(state: &State, collection: &str, query: &str) -> Response {
    let all: Vec<&Value> = state
        .objects
        .iter()
        .filter(|((of, _), object)| of == collection && selected(&object["metadata"]["labels"], query))
        .map(|(_, object)| object)
        .collect();
    let skip: usize = parameter(query, "continue").and_then(|text| text.parse().ok()).unwrap_or(0);
    let page: Vec<Value> = all.iter().skip(skip).take(state.page).map(|object| (*object).clone()).collect();
    let rest = (skip + page.len() < all.len()).then(|| (skip + page.len()).to_string());
    // Items of typed lists do not say what they are.
    let bare = |mut object: Value| {
        let map = object.as_object_mut().unwrap();
        map.remove("kind");
        map.remove("apiVersion");
        object
    };
    let items: Vec<Value> = page.into_iter().map(bare).collect();
    let metadata = json!({"resourceVersion": state.version.to_string(), "continue": rest});
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string().into_response()
}

/// Knows only `!label,!label`.
fn selected(labels: &Value, query: &str) -> bool {
    let selector = parameter(query, "labelSelector").unwrap_or_default().replace("%21", "!").replace("%2F", "/");
    let selector = selector.replace("%2C", ",");
    selector.split(',').filter_map(|part| part.strip_prefix('!')).all(|label| labels.get(label).is_none())
}

struct Watcher {
    inner: Arc<Inner>,
    collection: &'static str,
    query: String,
    lines: Vec<String>,
    after: u64,
    epoch: u64,
}

impl Watcher {
    async fn next(mut self) -> Option<(io::Result<String>, Watcher)> {
        let mut ticks = self.inner.ticks.subscribe();
        loop {
            let inner = self.inner.clone();
            let slow = {
                let state = inner.state.lock().unwrap();
                if self.epoch < state.epoch {
                    self.epoch = u64::MAX;
                    drop(state);
                    return Some((Err(io::ErrorKind::ConnectionReset.into()), self));
                }
                let (collection, after) = (self.collection, self.after);
                let news = state.log.iter().filter(|entry| entry.collection == collection && entry.version > after);
                let news = news.filter(|entry| selected(&entry.labels, &self.query));
                self.lines.extend(news.map(|entry| entry.line.clone()));
                self.after = state.version.max(self.after);
                state.slow
            };
            if !self.lines.is_empty() {
                tokio::time::sleep(slow).await;
                let line = self.lines.remove(0);
                return Some((Ok(line), self));
            }
            ticks.changed().await.ok()?;
        }
    }
}
