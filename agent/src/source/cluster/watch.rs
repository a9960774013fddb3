//! One kind's watch: a streaming list where the server has it, pages of a list elsewhere, then every change, from the
//! version that was heard last, through all that may happen to a connection.

use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use podplane_index::Kind;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::backoff::{Backoff, jitter};
use super::sink::Sink;
use super::wire::Wire;
use crate::cluster::{Cluster, explain};

/// Objects in a page, where lists come in pages.
const PAGE: u32 = 500;
/// How long the server is asked to keep a watch, at least; up to a quarter more, so that not all agents come at once.
const WATCH_FOR: Duration = Duration::from_secs(230);
/// How much later than that a watch counts as dead.
const MARGIN: Duration = Duration::from_secs(10);
/// A watch that ends earlier than this without a word has failed.
const TOO_SHORT: Duration = Duration::from_secs(1);
/// How many events are taken together at most, of those that are there.
const AT_ONCE: usize = 500;
/// How often it is looked whether a kind that was not there is there now.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How often a server may be behind before a list is taken in pages.
const LATE_FOR_STREAMS: u32 = 2;
/// How often a server may be behind the version that was heard last: then it will never come there, and all is listed.
const LATE_AT_MOST: u32 = 12;
/// When one kind is heard of again, the others follow after this time.
const SOON: Duration = Duration::from_millis(200);
/// So many times a kind whose objects are in force must be missing before they are taken for gone.
const MISSING: u32 = 3;

/// Why a turn of a watch ended.
enum End {
    /// All is well, and the watch goes on from where it was.
    Regular,
    /// The watch goes on from where it was, in a while.
    Resume(String, Duration),
    /// What was missed is not known: everything is listed again, in a while.
    Relist(String, Duration),
    /// "Too large resource version" (504): the server's memory lags behind its store, or the store was restored from a
    /// backup. Or it is too slow for a stream.
    Late(String),
    /// The server does not list by streaming.
    NotStreamed,
    /// The server does not know the kind.
    Absent(String),
}

/// One kind's watch.
pub(super) struct Watch {
    kind: Kind,
    cluster: Cluster,
    api: Api<Wire>,
    sink: Sink,
    /// Where to go on; `None`: everything must be listed.
    version: Option<String>,
    /// The server does not list by streaming.
    paged: bool,
    /// How often in a row the kind was not there.
    missing: u32,
    /// How often in a row the server did not know yet what its store knows.
    late: u32,
}

impl Watch {
    pub(super) fn new(kind: Kind, cluster: Cluster, sink: Sink) -> Watch {
        let api = Api::all_with(cluster.client.clone(), &kind);
        Watch { kind, cluster, api, sink, version: None, paged: false, missing: 0, late: 0 }
    }

    /// Watches for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let end = self.turn().await;
            // What came before the end counts all the same.
            self.sink.settle();
            if began.elapsed() > Duration::from_secs(30) {
                backoff.reset();
            }
            let wait = match end {
                End::Regular => {
                    backoff.reset();
                    continue;
                }
                End::NotStreamed => {
                    self.paged = true;
                    continue;
                }
                End::Late(reason) => {
                    self.late += 1;
                    self.version.take_if(|_| self.late > LATE_AT_MOST);
                    self.sink.trouble(reason);
                    (Duration::ZERO, backoff.next())
                }
                End::Absent(reason) => {
                    let wait = self.absent(reason, &mut backoff);
                    (wait, wait)
                }
                End::Resume(reason, at_least) => {
                    self.sink.trouble(reason);
                    (at_least, backoff.next().max(at_least))
                }
                End::Relist(reason, at_least) => {
                    self.version = None;
                    self.sink.trouble(reason);
                    (at_least, backoff.next().max(at_least))
                }
            };
            self.wait(wait.0, wait.1).await;
        }
    }

    /// Waits for `at_least`, and up to `at_most` or until another kind is heard of again: then the server is back.
    async fn wait(&self, at_least: Duration, at_most: Duration) {
        let until = Instant::now() + at_most;
        let back = self.sink.heard_again();
        sleep(at_least.min(at_most)).await;
        if timeout_at(until, back).await.is_ok() {
            sleep(jitter(SOON).min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// A kind that the server does not know: nothing, if it is one that may be missing. A server that has just started
    /// may not know it yet, so nothing in force is removed at the first word.
    fn absent(&mut self, reason: String, backoff: &mut Backoff) -> Duration {
        self.version = None;
        self.missing += 1;
        let may_be_missing = matches!(self.kind, Kind::ServiceCidr | Kind::ClusterNetworkPolicy);
        if !may_be_missing || (self.missing < MISSING && self.sink.has_objects()) {
            self.sink.trouble(reason);
            return backoff.next();
        }
        if !self.sink.is_listed() || self.sink.has_objects() {
            tracing::info!(kind = self.kind.names().1, "not installed in this cluster; looked for again and again");
            self.sink.begin();
            self.sink.end();
        }
        self.sink.fine();
        jitter(LOOK_AGAIN)
    }

    /// Lists, or goes on, until something ends it.
    async fn turn(&mut self) -> End {
        match &self.version {
            // Pages come from the store, where the memory that lists are streamed from is behind.
            None if self.paged || self.late > LATE_FOR_STREAMS => self.list().await,
            None => {
                let asked = self.api.watch(&self.parameters(true), "").await;
                match asked {
                    Ok(stream) => {
                        self.sink.begin();
                        self.follow(stream, true).await
                    }
                    Err(e) => self.refused(e, true),
                }
            }
            Some(version) => {
                let asked = self.api.watch(&self.parameters(false), version).await;
                match asked {
                    Ok(stream) => self.follow(stream, false).await,
                    Err(e) => self.refused(e, false),
                }
            }
        }
    }

    fn parameters(&self, initial: bool) -> WatchParams {
        WatchParams {
            label_selector: selector(self.kind).map(str::to_owned),
            field_selector: None,
            // A list takes as long as it takes; what follows it then lasts for as long as the server likes.
            timeout: u32::try_from(jitter(WATCH_FOR).as_secs()).ok().filter(|_| !initial),
            bookmarks: true,
            send_initial_events: initial,
        }
    }

    /// Lists page by page.
    async fn list(&mut self) -> End {
        let mut parameters = ListParams {
            label_selector: selector(self.kind).map(str::to_owned),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        self.sink.begin();
        loop {
            let page = match self.api.list(&parameters).await {
                Ok(page) => page,
                Err(e) => return self.refused(e, true),
            };
            page.items.iter().for_each(|wire| self.put(wire));
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_some() {
                continue;
            }
            let Some(version) = page.metadata.resource_version.filter(|version| !version.is_empty()) else {
                return End::Relist("a list without metadata.resourceVersion".into(), Duration::ZERO);
            };
            self.sink.end();
            self.version = Some(version);
            self.works();
            return End::Regular;
        }
    }

    /// Takes a stream's events as they come.
    async fn follow(
        &mut self,
        stream: impl Stream<Item = Result<WatchEvent<Wire>, kube::Error>> + Send,
        mut initial: bool,
    ) -> End {
        if !initial {
            self.works();
        }
        let (mut stream, began, mut heard) = (pin!(stream), Instant::now(), false);
        let patience = WATCH_FOR + WATCH_FOR / 4 + MARGIN;
        loop {
            let Ok(mut next) = timeout(patience, stream.next()).await else {
                return End::Resume(format!("nothing heard of the API server for {patience:?}"), Duration::ZERO);
            };
            for _ in 0..AT_ONCE {
                match next {
                    Some(Ok(event)) => {
                        heard = true;
                        if let Some(end) = self.take(event, &mut initial) {
                            return end;
                        }
                    }
                    Some(Err(e)) => return self.broken(e),
                    None if initial => {
                        return End::Late("the API server ended a list before its end".into());
                    }
                    None if !heard && began.elapsed() < TOO_SHORT => {
                        return End::Resume("the API server ended a watch at once".into(), Duration::ZERO);
                    }
                    None => return End::Regular,
                }
                // What else is there; the next turn waits.
                match stream.next().now_or_never() {
                    Some(more) => next = more,
                    None => break,
                }
            }
            self.sink.settle();
        }
    }

    fn take(&mut self, event: WatchEvent<Wire>, initial: &mut bool) -> Option<End> {
        match event {
            WatchEvent::Added(wire) | WatchEvent::Modified(wire) => {
                self.put(&wire);
                self.heard(wire.version(), *initial)
            }
            WatchEvent::Deleted(wire) => {
                self.sink.delete(wire.key(self.kind), wire.uid());
                self.heard(wire.version(), *initial)
            }
            WatchEvent::Bookmark(bookmark) => {
                if *initial && bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end") {
                    *initial = false;
                    self.sink.end();
                    self.works();
                }
                self.heard(&bookmark.metadata.resource_version, *initial)
            }
            WatchEvent::Error(status) => Some(self.told(&status)),
        }
    }

    fn put(&mut self, wire: &Wire) {
        self.sink.put(wire.key(self.kind), wire.object(self.kind));
    }

    /// Notes where to go on; before a list is whole there is nowhere.
    fn heard(&mut self, version: &str, initial: bool) -> Option<End> {
        if initial {
            return None;
        }
        if version.is_empty() {
            return Some(End::Relist("an event without metadata.resourceVersion".into(), Duration::ZERO));
        }
        match &mut self.version {
            Some(known) => version.clone_into(known),
            None => self.version = Some(version.to_owned()),
        }
        None
    }

    fn works(&mut self) {
        (self.missing, self.late) = (0, 0);
        self.sink.fine();
    }

    /// A call that was not even begun.
    fn refused(&self, error: kube::Error, initial: bool) -> End {
        let kube::Error::Api(status) = &error else { return self.broken(error) };
        match status.code {
            404 => End::Absent(explain(&self.cluster.url, &error)),
            // Servers before 1.32, and those that have it switched off.
            400 | 422 if initial && !self.paged => End::NotStreamed,
            _ => self.told(status),
        }
    }

    /// What the server says of itself, in an answer or in the midst of a stream.
    fn told(&self, status: &Status) -> End {
        let reason = explain(&self.cluster.url, &kube::Error::Api(Box::new(status.clone())));
        let after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        // Whatever the server asks for, not for longer than it would be tried again anyway.
        let after = Duration::from_secs(u64::from(after).max(u64::from(status.code == 429))).min(Backoff::MOST);
        match status.code {
            // Its memory of changes does not reach back to where we were.
            410 => End::Relist("the API server does not remember what changed since (410)".into(), Duration::ZERO),
            // No status at all: the client takes any line that it cannot read for one. An event was lost.
            0 => End::Relist("the API server said something that cannot be read".into(), Duration::ZERO),
            504 => End::Late(reason),
            _ if self.version.is_none() => End::Relist(reason, after),
            _ => End::Resume(reason, after),
        }
    }

    /// A connection that broke, or words that make no sense.
    fn broken(&self, error: kube::Error) -> End {
        let reason = explain(&self.cluster.url, &error);
        match error {
            // An event was lost, nobody knows of which object.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => End::Relist(reason, Duration::ZERO),
            kube::Error::Api(status) => self.told(&status),
            _ if self.version.is_none() => End::Relist(reason, Duration::ZERO),
            _ => End::Resume(reason, Duration::ZERO),
        }
    }
}

/// Which objects of a kind are of use: what another proxy serves, and what nobody serves, is not even sent.
fn selector(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Service | Kind::EndpointSlice => {
            Some("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless")
        }
        _ => None,
    }
}
