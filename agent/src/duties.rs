//! What the agent keeps right on its node: routes and rules that bring the node's own traffic to the host port, and the
//! uplink after the dataplane has gone.

mod place;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podplane_hostnet::events::{Event, Events, Interest};
use podplane_hostnet::node_routes::NodeRoutes;
use podplane_hostnet::routes::PROTO_PODPLANE;
use podplane_hostnet::takeover::{self, Restored};
use podplane_index::Index;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::desired::Desired;
use crate::publish::Observer;
use crate::status::Trouble;

pub use place::remove_all;

/// How often the node is looked at although nothing was heard.
const PERIOD: Duration = Duration::from_secs(5);
/// The least time between two looks: somebody who undoes each of our changes must not keep a core busy.
const BREATH: Duration = Duration::from_millis(100);
/// For how long the dataplane must be gone before the uplink is given back: an earlier kernel would reset flows that a
/// restarted dataplane resumes.
pub const GONE: Duration = Duration::from_secs(3);
/// How often the watching thread looks whether anybody still needs it.
const TICK_MS: u16 = 500;

/// Which routes to pods are in place, as the duties saw them last.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    unattended: bool,
    routes: Arc<Mutex<Option<NodeRoutes>>>,
}

impl Placed {
    /// For an agent that does not look after routes: nobody waits for them.
    pub fn unattended() -> Placed {
        Placed { unattended: true, ..Placed::default() }
    }

    /// Why the node does not reach all pods yet. Those of the first objects that were read are not enough, so what is
    /// in place is compared with what is wanted.
    pub fn obstacle(&self, index: &Index) -> Option<String> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let placed = routes.is_some() && *routes == place::wanted(index).map(|wanted| wanted.routes);
        (!self.unattended && !placed).then(|| "the node's routes to pods are not in place yet".to_owned())
    }

    fn set(&self, routes: Option<NodeRoutes>) {
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = routes;
    }
}

/// The agent's duties on its node.
pub struct Duties {
    /// Where the take-over record is.
    pub state_dir: PathBuf,
    /// Where the dataplane listens.
    pub run_dir: PathBuf,
    /// The configuration that should be in force.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
    /// Where to say what does not work.
    pub trouble: Trouble,
    /// Where to say whether the routes are in place.
    pub placed: Placed,
}

impl Duties {
    /// Does them until the runtime ends.
    pub async fn run(mut self) {
        let mut heard = listen();
        let mut ticks = self.desired.subscribe();
        let mut restored = false;
        loop {
            let gone = self.gone_since();
            restored &= gone.is_some();
            let now = Instant::now();
            let due = match gone {
                Some(since) if !restored && now >= since + GONE => {
                    restored = self.restore().await;
                    now + PERIOD
                }
                Some(since) if !restored => since + GONE,
                _ => {
                    self.routes().await;
                    now + PERIOD
                }
            };
            sleep(BREATH).await;
            let _ = timeout_at(due, async {
                tokio::select! {
                    Some(()) = heard.recv() => {}
                    Ok(()) = ticks.changed() => {}
                    () = self.observer.changed() => {}
                }
            })
            .await;
        }
    }

    /// Since when the dataplane has been gone: nobody accepts at its socket.
    fn gone_since(&self) -> Option<Instant> {
        let (connected, since) = self.observer.look(|progress| (progress.connected, progress.since));
        (!connected && !is_listening(&self.run_dir)).then_some(since)
    }

    async fn routes(&self) {
        let Some(wanted) = self.desired.read(place::wanted) else { return };
        let (state_dir, routes) = (self.state_dir.clone(), wanted.routes.clone());
        match tokio::task::spawn_blocking(move || place::place(&state_dir, &wanted)).await {
            Ok(Ok(trouble)) => {
                match trouble {
                    Some(trouble) => self.report(trouble),
                    None => drop(self.trouble.set(None)),
                }
                return self.placed.set(Some(routes));
            }
            // No host port yet, or not any more.
            Ok(Err(e)) if e.is_not_found() => drop(self.trouble.set(None)),
            Ok(Err(e)) => self.report(format!("the node's routes and rules: {e}")),
            Err(e) => self.report(e.to_string()),
        }
        self.placed.set(None);
    }

    /// Gives the uplink back; whether that is done.
    async fn restore(&self) -> bool {
        let state_dir = self.state_dir.clone();
        let run_dir = self.run_dir.clone();
        let done = tokio::task::spawn_blocking(move || {
            // A dataplane that is starting takes over first and listens then.
            if is_listening(&run_dir) || is_fresh(&takeover::record_path(&state_dir)) {
                return None;
            }
            Some(takeover::restore(&state_dir))
        });
        match done.await {
            Ok(Some(Ok(restored))) => {
                if restored != Restored::Nothing {
                    tracing::warn!(?restored, "the dataplane has been gone for {GONE:?}: the uplink was given back");
                }
                self.trouble.set(None);
                true
            }
            Ok(Some(Err(e))) => {
                self.report(format!("the dataplane is gone and its uplink could not be given back: {e}"));
                false
            }
            Ok(None) => false,
            Err(e) => {
                self.report(e.to_string());
                false
            }
        }
    }

    fn report(&self, trouble: String) {
        if self.trouble.set(Some(trouble.clone())) {
            tracing::error!("{trouble}");
        }
    }
}

/// Whether an agent listens in `run_dir`: it would make again what is removed.
pub fn is_agent_listening(run_dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(run_dir.join(podplane_api::path::SOCKET)).is_ok()
}

/// Whether a dataplane listens in `run_dir`.
pub fn is_listening(run_dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(run_dir.join(crate::publish::SOCKET)).is_ok()
}

fn is_fresh(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < GONE))
}

/// Ticks when somebody changed links, addresses, routes or rules.
fn listen() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    let mut events = match Events::subscribe(Interest::LINKS | Interest::ADDRESSES | Interest::ROUTES | Interest::RULES)
    {
        Ok(events) => events,
        Err(e) => {
            tracing::warn!(reason = %e, "changes of the node's network are found every {PERIOD:?} only");
            return receiver;
        }
    };
    let spawned = std::thread::Builder::new().name("netlink".into()).spawn(move || {
        while !sender.is_closed() {
            let ready = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::from(TICK_MS));
            if !matches!(ready, Ok(n) if n > 0) {
                continue;
            }
            let news = events.pending().unwrap_or_else(|_| vec![Event::Overrun]);
            let ours = |event: &Event| matches!(event, Event::RoutesChanged { protocol: PROTO_PODPLANE, gone: false });
            if news.iter().any(|event| !ours(event)) {
                let _ = sender.try_send(());
            }
        }
    });
    if let Err(e) = spawned {
        tracing::warn!(reason = %e, "changes of the node's network are found every {PERIOD:?} only");
    }
    receiver
}

#[cfg(test)]
mod tests;
