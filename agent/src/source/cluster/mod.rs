//! The cluster's API server as the source of objects: one watch of each kind.
//!
//! Runs on a thread of its own: parsing a cluster's objects must not hold up the CNI server. Whatever goes wrong, what
//! was known stays in force until the server has said otherwise: a list removes only once it is whole, an object that
//! cannot be read keeps its last state, and a server that is away changes nothing.

mod backoff;
mod sink;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::join_all;
use podplane_api::RefusedObject;
use podplane_index::{Kind, ObjectKey};
use tokio::sync::watch as channel;

use crate::cluster::Cluster;
use crate::desired::Desired;
use sink::Sink;
use watch::Watch;

/// The watches of all kinds; dropping the last clone ends them.
#[derive(Clone, Debug)]
pub struct Watches {
    shared: Arc<Shared>,
    _needed: Arc<channel::Sender<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    url: String,
    state: Mutex<State>,
    /// Ticks when something below may have changed.
    listed: channel::Sender<()>,
}

type Reports = Arc<Shared>;

#[derive(Debug, Default)]
struct State {
    /// Kinds that were listed whole, once at least.
    listed: BTreeSet<Kind>,
    /// Kinds that do not come, since when and why.
    troubles: BTreeMap<Kind, (Instant, String)>,
    /// Objects that cannot be read, and why.
    unreadable: BTreeMap<ObjectKey, String>,
    /// Refusals that were said.
    said: BTreeSet<(ObjectKey, String)>,
}

impl Watches {
    /// Watches all kinds; `listed` is called once, after every kind has been listed whole and applied to `desired`.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        cluster: Cluster,
        desired: Arc<Desired>,
        listed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Watches> {
        let (needed, mut unneeded) = channel::channel(());
        let shared =
            Arc::new(Shared { url: cluster.url.clone(), state: Mutex::default(), listed: channel::Sender::new(()) });
        let watches: Vec<Watch> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let sink = Sink::new(kind, shared.clone(), desired.clone());
                Watch::new(kind, cluster.clone(), sink, shared.clone())
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let first = shared.clone();
        std::thread::Builder::new().name("cluster".into()).spawn(move || {
            runtime.block_on(async move {
                let all = join_all(watches.into_iter().map(Watch::run));
                let first = async {
                    first.wait_for_all().await;
                    listed();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    _ = all => {}
                    () = first => {}
                    // Only an error can come: nobody needs us any more.
                    _ = unneeded.changed() => {}
                }
            });
        })?;
        Ok(Watches { shared, _needed: Arc::new(needed) })
    }

    /// Why objects do not come, or not all.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.shared.lock();
        let mut reasons: BTreeMap<&str, (Instant, Vec<&str>)> = BTreeMap::new();
        for (kind, (since, reason)) in &state.troubles {
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
        reasons.into_iter().map(text).collect()
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for_all(&self) {
        let mut ticks = self.listed.subscribe();
        while !Kind::ALL.into_iter().all(|kind| self.is_listed(kind)) {
            // The sender is our own.
            let _ = ticks.changed().await;
        }
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
        let since = state.troubles.get(&kind).map_or_else(Instant::now, |(since, _)| *since);
        let known = state.troubles.insert(kind, (since, reason.clone()));
        // One server that is away is one trouble, not one of each kind.
        let others = state.troubles.iter().any(|(other, (_, text))| *other != kind && *text == reason);
        if known.is_none_or(|(_, text)| text != reason) && !others {
            tracing::warn!(kind = kind.names().1, "{reason}; what was known stays in force");
        }
    }

    fn fine(&self, kind: Kind) {
        let mut state = self.lock();
        if let Some((since, _)) = state.troubles.remove(&kind) {
            tracing::info!(kind = kind.names().1, after = ?since.elapsed(), "heard of again");
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

    /// Logs what the index refused just now, and what it finds wrong since then.
    fn say(&self, desired: &Desired, refused: &[(ObjectKey, String)]) {
        for (key, reason) in refused {
            tracing::error!(object = %key, reason, "refused; the last good state stays");
        }
        let now: BTreeSet<(ObjectKey, String)> =
            desired.read(|index| index.refused().map(|(key, reason)| (key, reason.to_owned())).collect());
        let mut state = self.lock();
        for (key, reason) in now.difference(&state.said).filter(|new| !refused.contains(new)) {
            tracing::error!(object = %key, reason, "not, or not wholly, in force");
        }
        state.said = now;
    }
}

#[cfg(test)]
mod tests;
