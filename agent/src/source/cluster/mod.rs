//! The cluster's API server as the source of objects: one watch of each kind.
//!
//! Runs on a thread of its own: parsing a cluster's objects must not hold up the CNI server. Whatever goes wrong, what
//! was known stays in force until the server has said otherwise: a list removes only once it is whole, an object that
//! cannot be read keeps its last state, and a server that is away changes nothing.

mod ask;
mod backoff;
mod checkpoint;
mod journal;
mod pods;
mod sink;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use podplane_api::RefusedObject;
use podplane_index::{Kind, ObjectKey, manifest};
use siphasher::sip::SipHasher13;
use tokio::sync::watch as channel;
use tokio::time::{sleep, timeout_at};

use crate::cluster::Cluster;
use crate::desired::Desired;
use crate::status::Trouble;
use checkpoint::{Checkpoint, Found};
use journal::Record;
use pods::AllPods;
pub use pods::PodSource;
pub use sink::Sink;
use watch::Watch;

/// The checkpoint's name in the folder of what outlives the agent.
const CHECKPOINT: &str = "checkpoint";
/// How often a trouble that goes on is logged, where it changes.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// How long something must be wrong before it is logged.
const SETTLED: Duration = Duration::from_secs(5);
/// How long an API server that answers may take to tell everything, where a checkpoint could stand in for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The watches of all kinds; dropping the last clone ends them.
#[derive(Clone, Debug)]
pub struct Watches {
    shared: Arc<Shared>,
    cluster: Cluster,
    desired: Arc<Desired>,
    _needed: Arc<channel::Sender<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    url: String,
    state: Mutex<State>,
    /// Ticks when what is listed or in trouble may have changed.
    listed: channel::Sender<()>,
    /// Ticks when a kind is heard of again that was not.
    heard_again: channel::Sender<()>,
    checkpoint: Mutex<Option<Checkpoint>>,
    /// Why the API server's address is not one to rely on.
    address: Trouble,
    /// What the checkpoint's writer could not do.
    unwritten: Trouble,
}

#[derive(Debug, Default)]
struct State {
    /// Kinds that were listed whole, once at least.
    listed: BTreeSet<Kind>,
    /// Kinds that do not come.
    troubles: BTreeMap<Kind, Silence>,
    /// Objects that cannot be read, and why.
    unreadable: BTreeMap<ObjectKey, String>,
}

/// A kind that does not come.
#[derive(Debug)]
struct Silence {
    since: Instant,
    reason: String,
    logged: Instant,
}

impl Watches {
    /// Watches all kinds, with a checkpoint in the folder `state_dir`; `listed` is called once, after every kind has been
    /// listed whole and applied to `desired`. Where that cannot be, it is called with what the checkpoint knows.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        cluster: Cluster,
        state_dir: &Path,
        desired: Arc<Desired>,
        listed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Watches> {
        let (needed, mut unneeded) = channel::channel(());
        let shared = Arc::new(Shared {
            url: cluster.url.clone(),
            state: Mutex::default(),
            listed: channel::Sender::new(()),
            heard_again: channel::Sender::new(()),
            address: Trouble::default(),
            checkpoint: Mutex::default(),
            unwritten: Trouble::default(),
        });
        let pods = Box::new(AllPods(cluster.clone()));
        let watches = Watches { shared: shared.clone(), cluster, desired, _needed: Arc::new(needed) };
        let start = Start { shared, cluster: watches.cluster.clone(), desired: watches.desired.clone(), pods };
        let file = state_dir.join(CHECKPOINT);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("cluster".into()).spawn(move || {
            let found = start.read(&file);
            runtime.block_on(async move {
                tokio::select! {
                    () = start.run(found, listed) => {}
                    // Only an error can come: nobody needs us any more.
                    _ = unneeded.changed() => {}
                }
            });
        })?;
        Ok(watches)
    }

    /// Ends the checkpoint: what is not written yet is, before this returns.
    pub fn close(&self) {
        drop(self.shared.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Why objects do not come, or not all.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.shared.lock();
        let mut reasons: BTreeMap<&str, (Instant, Vec<&str>)> = BTreeMap::new();
        for (kind, Silence { since, reason, .. }) in &state.troubles {
            let entry = reasons.entry(reason).or_insert((*since, Vec::new()));
            entry.0 = entry.0.min(*since);
            entry.1.push(wire::plural(*kind));
        }
        let text = |(reason, (since, kinds)): (&str, (Instant, Vec<&str>))| {
            let (kinds, since) = (kinds.join(", "), since.elapsed().as_secs());
            format!(
                "for {since} s nothing has been heard of {kinds}, and what was known of them stays in force: {reason}"
            )
        };
        let mut troubles: Vec<String> = reasons.into_iter().map(text).collect();
        troubles.extend([&self.shared.address, &self.shared.unwritten].into_iter().filter_map(Trouble::get));
        troubles
    }

    /// Objects that are not used as they are now.
    pub fn refused(&self, desired: &Desired) -> Vec<RefusedObject> {
        let unreadable = self.shared.lock().unreadable.clone();
        let place = |key: &ObjectKey| format!("{}: {key}", self.shared.url);
        let mut refused: Vec<_> = unreadable
            .iter()
            .map(|(key, reason)| RefusedObject { place: place(key), reason: format!("{reason}; its last state stays") })
            .collect();
        desired.read(|index| {
            let of_index = index.refused();
            refused
                .extend(of_index.map(|(key, reason)| RefusedObject { place: place(&key), reason: reason.to_owned() }));
        });
        refused
    }
}

/// What the thread begins with.
struct Start {
    shared: Arc<Shared>,
    cluster: Cluster,
    desired: Arc<Desired>,
    pods: Box<dyn PodSource>,
}

impl Start {
    /// Applies what the checkpoint knows.
    fn read(&self, file: &Path) -> Found {
        let owner = format!("{} {}", self.cluster.node, self.cluster.url);
        let ((checkpoint, found), _) = self.desired.edit(|index| {
            Checkpoint::open(file, &owner, &self.shared.unwritten, |kind, text| {
                let applied = manifest::object(kind, text).and_then(|object| index.apply(object));
                if let Err(reason) = applied {
                    tracing::debug!(kind = kind.names().1, reason, "of the checkpoint, and refused as it was before");
                }
            })
        });
        *self.shared.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint;
        found
    }

    /// Watches for ever.
    async fn run(self, found: Found, listed: impl FnOnce()) {
        let Start { shared, cluster, desired, pods } = self;
        let sink = |kind| Sink::new(kind, shared.clone(), desired.clone());
        let others = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod);
        let others = join_all(others.map(|kind| Watch::new(kind, cluster.clone(), sink(kind)).run()));
        let first = async {
            tokio::select! {
                () = shared.wait_for_all() => {}
                age = shared.wait_in_vain(&found) => {
                    tracing::warn!(?age, "the API server has not told everything: the checkpoint stands in for it");
                }
            }
            listed();
            shared.wait_for_all().await;
            if let Some(reason) = cluster.doubt().await {
                tracing::error!("{reason}");
                shared.address.set(Some(reason));
            }
            if let Some(checkpoint) = &*shared.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) {
                checkpoint.complete();
            }
        };
        tokio::join!(others, pods.follow(sink(Kind::Pod)), first, log_problems(&shared, &desired));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for_all(&self) {
        let mut ticks = self.listed.subscribe();
        while !self.are_all_listed() {
            // The sender is our own.
            let _ = ticks.changed().await;
        }
    }

    /// Ready when there is a whole checkpoint and the API server does not come, or is slow; with the checkpoint's age.
    async fn wait_in_vain(&self, found: &Found) -> Duration {
        let Found::Whole(age) = found else { return std::future::pending().await };
        let mut ticks = self.listed.subscribe();
        let patience = tokio::time::Instant::now() + PATIENCE;
        let is_hopeless = || {
            let state = self.lock();
            Kind::ALL.into_iter().all(|kind| state.listed.contains(&kind) || state.troubles.contains_key(&kind))
        };
        while !is_hopeless() && timeout_at(patience, ticks.changed()).await.is_ok() {}
        *age
    }

    /// Has this written to the checkpoint.
    fn keep(&self, records: BTreeMap<ObjectKey, Record>) {
        if let Some(checkpoint) = &*self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) {
            checkpoint.write(records);
        }
    }

    fn are_all_listed(&self) -> bool {
        let state = self.lock();
        Kind::ALL.into_iter().all(|kind| state.listed.contains(&kind))
    }

    fn is_listed(&self, kind: Kind) -> bool {
        self.lock().listed.contains(&kind)
    }

    /// A kind was listed whole: what of it could not be read and was not named is gone.
    fn listed(&self, kind: Kind, named: &BTreeSet<ObjectKey>) {
        let mut state = self.lock();
        state.unreadable.retain(|key, _| key.kind != kind || named.contains(key));
        if state.listed.insert(kind) {
            tracing::info!(kind = kind.names().1, objects = named.len(), "listed");
        }
        drop(state);
        self.listed.send_replace(());
    }

    fn trouble(&self, kind: Kind, reason: String) {
        let mut state = self.lock();
        // One server that is away is one trouble, not one of each kind.
        let others = state.troubles.iter().any(|(other, silence)| *other != kind && silence.reason == reason);
        let now = Instant::now();
        let is_new = !state.troubles.contains_key(&kind);
        let silence = state.troubles.entry(kind).or_insert(Silence { since: now, reason: String::new(), logged: now });
        let is_due = is_new || silence.logged.elapsed() > LOG_AGAIN;
        if is_due && !others && silence.reason != reason {
            tracing::warn!(kind = kind.names().1, "{reason}; what was known stays in force");
            silence.logged = now;
        }
        silence.reason = reason;
        drop(state);
        self.listed.send_replace(());
    }

    fn fine(&self, kind: Kind) {
        let mut state = self.lock();
        if let Some(Silence { since, .. }) = state.troubles.remove(&kind) {
            tracing::info!(kind = kind.names().1, after = ?since.elapsed(), "heard of again");
            self.heard_again.send_replace(());
        }
    }

    fn unreadable(&self, key: ObjectKey, reason: String) {
        if self.lock().unreadable.insert(key.clone(), reason.clone()).as_ref() != Some(&reason) {
            tracing::error!(object = %key, reason, "cannot be read; its last state stays");
        }
    }

    fn readable(&self, key: &ObjectKey) {
        self.lock().unreadable.remove(key);
    }
}

/// What the index finds wrong with objects that it did not refuse: logged once it has been so for a while, for a slice
/// may come before its Service, and a pod before its namespace.
async fn log_problems(shared: &Shared, desired: &Desired) {
    let (mut before, mut said) = (HashSet::new(), HashSet::new());
    loop {
        sleep(SETTLED).await;
        if !shared.are_all_listed() {
            continue;
        }
        let now: Vec<(ObjectKey, String)> =
            desired.read(|index| index.refused().map(|(key, reason)| (key, reason.to_owned())).collect());
        let mut present = HashSet::new();
        for (key, reason) in now {
            let mut hasher = SipHasher13::new();
            (&key, &reason).hash(&mut hasher);
            let problem = hasher.finish();
            present.insert(problem);
            if before.contains(&problem) && said.insert(problem) {
                tracing::error!(object = %key, reason, "not, or not wholly, in force");
            }
        }
        said.retain(|problem| present.contains(problem));
        before = present;
    }
}

#[cfg(test)]
mod tests;
