//! The one task that talks to the dataplane: connects, tells it everything, then what changes.
//!
//! One transaction is under way at a time; what changes meanwhile goes into the next one together. A new connection
//! begins with a full synchronisation, so a restarted dataplane gets all of it and a restarted agent changes nothing
//! that was right.

mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use podplane_config::link::{self, AgentLink, Facts, Keeper, LinkError};
use podplane_config::trouble::StartTrouble;
use podplane_config::v1::{self, EndpointFailure, FromDataplane, Key, ToDataplane};
use podplane_index::Changes;
use podplane_shm_ring::ring::PushError;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::desired::{Desired, Version};

pub use progress::{NotApplied, Observer, Progress};

/// Name of the dataplane's socket in the run directory.
pub const SOCKET: &str = "dataplane.sock";
/// Between two attempts to connect: short, because a restarted dataplane forwards nothing for pods before.
const RECONNECT: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
const RECONNECT_MAX: Duration = Duration::from_millis(100);
/// How long a transaction may take before the connection is given up.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the dataplane may leave the ring full.
const FULL: Duration = Duration::from_secs(10);
/// After which time endpoints that failed, and changes that were refused, are told again.
const AGAIN: Duration = Duration::from_secs(5);

/// Starts the task; it ends with the runtime.
pub fn start(run_dir: &Path, desired: Arc<Desired>) -> Observer {
    let (sender, receiver) = watch::channel(Progress::default());
    let publisher =
        Publisher { socket: run_dir.join(SOCKET), desired, progress: sender, generation: 0, keeper: Keeper::new() };
    tokio::spawn(publisher.run());
    Observer(receiver)
}

struct Publisher {
    socket: PathBuf,
    desired: Arc<Desired>,
    progress: watch::Sender<Progress>,
    generation: u64,
    /// The flow memory of a dataplane that dies.
    keeper: Keeper,
}

/// What was sent and not answered yet.
struct Underway {
    generation: u64,
    version: Version,
    full: bool,
    keys: BTreeSet<Key>,
    since: Instant,
}

/// What the dataplane refused and has to be told again: with the next change, or after a while.
#[derive(Default)]
struct Debt {
    /// Everything, now.
    whole: bool,
    /// Everything, later.
    whole_later: bool,
    keys: BTreeSet<Key>,
}

/// The link, and its bell as tokio can wait for it (a second descriptor of the same socket).
struct Line {
    link: AgentLink,
    bell: UnixStream,
}

impl Line {
    fn new(link: AgentLink) -> std::io::Result<Line> {
        let bell = std::os::unix::net::UnixStream::from(link.as_fd().try_clone_to_owned()?);
        Ok(Line { link, bell: UnixStream::from_std(bell)? })
    }

    /// Waits until the bell rings, or the peer has gone.
    async fn rung(&self) -> Result<(), LinkError> {
        let waiting = |cause| LinkError::Io { what: "waiting for the dataplane", cause };
        self.bell.readable().await.map_err(waiting)?;
        // The link reads the bell itself: forget that it is readable, before anything is read.
        match self.bell.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into())) {
            Err(e) if e.kind() != ErrorKind::WouldBlock => Err(waiting(e)),
            _ => Ok(()),
        }
    }

    /// All that has been said, and whether the peer is still there: what it said before it went still counts.
    fn hear(&mut self) -> Result<(Vec<FromDataplane>, Result<(), LinkError>), LinkError> {
        let open = self.link.hush();
        let mut heard = Vec::new();
        while let Some(message) = self.link.receive()? {
            heard.push(message);
        }
        Ok((heard, open))
    }

    /// Sends one message; waits for room where the ring is full.
    async fn push(&mut self, message: &ToDataplane) -> Result<(), LinkError> {
        let deadline = Instant::now() + FULL;
        loop {
            match self.link.send(message) {
                Err(LinkError::Push(PushError::Full)) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(1)).await;
                }
                other => return other,
            }
        }
    }
}

impl Publisher {
    async fn run(mut self) {
        let mut pause = RECONNECT;
        loop {
            let (socket, mut keeper) = (self.socket.clone(), std::mem::take(&mut self.keeper));
            // The handshake waits for the peer: not on a thread that others need.
            let connected = tokio::task::spawn_blocking(move || {
                let connected = link::connect_keeping(&socket, &mut keeper);
                (connected, keeper)
            });
            let connected = connected.await.map(|(connected, keeper)| {
                self.keeper = keeper;
                connected
            });
            let mut start = None;
            let trouble = match connected {
                Ok(Ok((link, facts))) => {
                    pause = RECONNECT;
                    tracing::info!(dataplane = facts.version, uplink = facts.uplink, "connected to the dataplane");
                    let trouble = self.serve(link, facts).await.to_string();
                    tracing::warn!(reason = trouble, "lost the dataplane");
                    trouble
                }
                Ok(Err(e)) => {
                    // Nobody is there to be asked.
                    start = self.socket.parent().and_then(StartTrouble::read);
                    start.as_ref().map_or_else(|| e.to_string(), |it| format!("it does not start: {}", it.message))
                }
                Err(e) => e.to_string(),
            };
            self.disconnected(trouble, start);
            sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    fn disconnected(&self, trouble: String, start: Option<StartTrouble>) {
        self.progress.send_if_modified(|progress| {
            let news = progress.connected || progress.trouble.as_ref() != Some(&trouble);
            if progress.connected {
                progress.since = Instant::now();
            }
            progress.connected = false;
            if progress.version.take().is_some() {
                progress.lost = Some(Instant::now());
            }
            progress.trouble = Some(trouble);
            progress.start_trouble = start;
            news
        });
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, link: AgentLink, facts: Facts) -> LinkError {
        let uplink_mtu = facts.uplink_mtu;
        self.progress.send_modify(|progress| {
            *progress = Progress {
                since: Instant::now(),
                connected: true,
                facts: Some(facts),
                sent: progress.sent,
                lost: progress.lost,
                ..Progress::default()
            };
        });
        match Line::new(link) {
            Ok(line) => self.converse(line, uplink_mtu).await.err().unwrap_or(LinkError::Closed),
            Err(cause) => LinkError::Io { what: "waiting for the dataplane", cause },
        }
    }

    async fn converse(&mut self, mut line: Line, uplink_mtu: u16) -> Result<(), LinkError> {
        let mut underway: Option<Underway> = None;
        let mut debt = Debt { whole: true, ..Debt::default() };
        let mut again = Instant::now() + AGAIN;
        let mut changes = self.desired.subscribe();
        loop {
            if underway.is_none() && debt.whole {
                underway = self.send_whole(&mut line, uplink_mtu).await?;
                debt.whole = underway.is_none();
            } else if underway.is_none() && !debt.whole_later {
                underway = self.send_changes(&mut line, &mut debt).await?;
            }
            let deadline = underway.as_ref().map_or(again, |u| u.since + ANSWER);
            tokio::select! {
                rung = line.rung() => {
                    rung?;
                    let (heard, open) = line.hear()?;
                    for answer in heard {
                        self.answered(answer, &mut underway, &mut debt)?;
                    }
                    open?;
                }
                Ok(()) = changes.changed(), if underway.is_none() => debt.whole |= std::mem::take(&mut debt.whole_later),
                () = sleep_until(deadline) => {
                    if let Some(Underway { generation, .. }) = underway {
                        return Err(LinkError::Protocol(format!("no answer to generation {generation} within {ANSWER:?}")));
                    }
                    again = Instant::now() + AGAIN;
                    debt.whole |= std::mem::take(&mut debt.whole_later);
                    debt.keys.extend(self.progress.borrow().failed.keys().cloned().map(Key::Endpoint));
                    self.desired.tell_again(std::mem::take(&mut debt.keys));
                }
            }
        }
    }

    async fn send_whole(&mut self, line: &mut Line, uplink_mtu: u16) -> Result<Option<Underway>, LinkError> {
        let Some(whole) = self.desired.whole(uplink_mtu) else { return Ok(None) };
        let changes = whole.objects.into_iter().map(|object| (object.key(), Some(object))).collect();
        self.send(line, changes, whole.version, true).await.map(Some)
    }

    async fn send_changes(&mut self, line: &mut Line, debt: &mut Debt) -> Result<Option<Underway>, LinkError> {
        let Some((changes, version)) = self.desired.untold(&mut debt.keys) else { return Ok(None) };
        self.send(line, changes, version, false).await.map(Some)
    }

    async fn send(
        &mut self,
        line: &mut Line,
        changes: Changes,
        version: Version,
        full: bool,
    ) -> Result<Underway, LinkError> {
        self.generation += 1;
        let generation = self.generation;
        let keys = changes.keys().cloned().collect();
        tracing::debug!(generation, full, changes = changes.len(), "sending");
        line.push(&ToDataplane::Begin { generation, full }).await?;
        for (key, object) in changes {
            let Some(object) = object else {
                line.push(&ToDataplane::Delete(key)).await?;
                continue;
            };
            match v1::upsert(object) {
                Ok(messages) => {
                    for message in &messages {
                        line.push(message).await?;
                    }
                }
                // The index refuses such Services by name; without one the dataplane must not go on by an old word.
                Err(e) => {
                    tracing::error!(?key, reason = %e, "cannot be told to the dataplane");
                    line.push(&ToDataplane::Delete(key)).await?;
                }
            }
        }
        line.push(&ToDataplane::Commit { generation }).await?;
        self.progress.send_modify(|progress| progress.sent = generation);
        Ok(Underway { generation, version, full, keys, since: Instant::now() })
    }

    fn answered(
        &mut self,
        answer: FromDataplane,
        underway: &mut Option<Underway>,
        debt: &mut Debt,
    ) -> Result<(), LinkError> {
        let (FromDataplane::Applied { generation, .. } | FromDataplane::Refused { generation, .. }) = &answer;
        let Some(sent) = underway.take_if(|underway| underway.generation == *generation) else {
            if let FromDataplane::Applied { generation, failed } = &answer
                && *generation == self.progress.borrow().applied
            {
                self.devices_changed(failed);
                return Ok(());
            }
            return Err(LinkError::Protocol(format!("an answer to generation {generation}, which is not under way")));
        };
        match answer {
            FromDataplane::Applied { generation, failed } => {
                for failure in &failed {
                    tracing::warn!(endpoint = failure.id, reason = failure.reason, "the dataplane cannot connect it");
                }
                tracing::debug!(generation, "applied");
                self.keeper.applied();
                self.desired.programming().applied(sent.version);
                self.progress.send_modify(|progress| {
                    progress.applied = generation;
                    progress.version = Some(sent.version);
                    progress.lost = None;
                    progress.refused = None;
                    progress.failed.retain(|id, _| !sent.full && !sent.keys.contains(&Key::Endpoint(id.clone())));
                    progress.failed.extend(failed.into_iter().map(|failure| (failure.id, failure.reason)));
                });
            }
            FromDataplane::Refused { generation, reason } => {
                tracing::error!(generation, reason, "the dataplane refused the configuration and keeps what it had");
                match sent.full {
                    true => debt.whole_later = true,
                    false => debt.keys.extend(sent.keys),
                }
                self.progress.send_modify(|progress| progress.refused = Some((sent.version, reason)));
            }
        }
        Ok(())
    }

    /// What is in force was said again: devices came or went under it, and all that are missing now are named.
    fn devices_changed(&self, failed: &[EndpointFailure]) {
        let named = |failure: &EndpointFailure| (failure.id.clone(), failure.reason.clone());
        let failed: BTreeMap<_, _> = failed.iter().map(named).collect();
        tracing::info!(missing = failed.len(), "devices of endpoints came or went");
        self.progress.send_modify(|progress| progress.failed = failed);
    }
}

#[cfg(test)]
mod tests;
