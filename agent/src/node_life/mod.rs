//! What the agent tells of its node: conditions, one taint, and events that a person can act on.
//!
//! | part | what |
//! |---|---|
//! | [`judge`] | whether the node is ready and why not: a pure function of what is known |
//! | [`report`] | the trait by which it is told: [`api`] to the API server, [`log`] where objects come from a folder |
//! | [`events`] | says each thing once, and not too much |
//!
//! Writes are few: a condition is written when its status or reason changes, at most once in [`TEXT`] when only its text
//! does, and every [`HEARTBEAT`] otherwise, for every write to a Node is an event for everybody who watches Nodes.

mod api;
mod events;
mod judge;
mod log;
mod report;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use podplane_index::{Index, OwnNode};
use tokio::time::{Instant, sleep, timeout};

use crate::attachments::Attachments;
use crate::desired::Desired;
use crate::duties::Placed;
use crate::metrics::Writes;
use crate::publish::Observer;

pub use api::ApiReport;
pub use judge::{Facts, Verdict, judge};
pub use log::LogReport;
pub use report::{About, Condition, Event, Report, ReportError, Severity, TAINT, Told, want_taints};

use events::Events;
use watched::Watched;

/// For how long something must be wrong before it is told, so that restarts are no news: a dataplane resumes within a
/// second, and an agent's own start takes as long.
pub const GRACE: Duration = Duration::from_secs(5);
/// How often conditions are written although nothing changed: the kubelet's own period.
pub const HEARTBEAT: Duration = Duration::from_secs(300);
/// The least time between two writes of which only the text differs.
pub const TEXT: Duration = Duration::from_secs(60);
/// How often the node is looked at although nothing was heard.
const PERIOD: Duration = Duration::from_secs(1);
/// The least time between two looks.
const BREATH: Duration = Duration::from_millis(100);
/// The longest pause after writes that failed.
const BACK_OFF: Duration = Duration::from_secs(60);

/// Where the knowledge comes from.
pub struct Sources {
    /// This node's name.
    pub node: String,
    /// The configuration that should be in force, and this node's object.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
    /// The node's attachments.
    pub attachments: Arc<Attachments>,
    /// Whether the node reaches pods.
    pub placed: Placed,
    /// The dataplane's socket.
    pub socket: PathBuf,
}

/// Tells what becomes of the node.
pub struct NodeLife {
    sources: Sources,
    report: Arc<dyn Report>,
    told: Told,
    writes: Writes,
    watched: Watched,
    events: Events,
    /// Since when the node has not been ready; from the start on.
    bad_since: Option<Instant>,
    written: Option<Written>,
    /// The taints for which nothing is left to do, and whether the node was ready.
    tainted: Option<(bool, OwnNode)>,
    retry: Retry,
}

/// The conditions that were written last.
struct Written {
    conditions: Vec<Condition>,
    /// Of which Node object.
    uid: String,
    at: Instant,
    heartbeat: Duration,
}

/// When to write again after a failure.
#[derive(Default)]
struct Retry {
    pause: Duration,
    at: Option<Instant>,
}

impl NodeLife {
    /// Tells it by `report`; what was told is kept in `told` as well.
    pub fn new(sources: Sources, report: Arc<dyn Report>, told: Told, writes: Writes) -> NodeLife {
        let watched = Watched::new(sources.socket.clone());
        NodeLife {
            sources,
            report,
            told,
            writes,
            watched,
            events: Events::new(),
            bad_since: Some(Instant::now()),
            written: None,
            tainted: None,
            retry: Retry::default(),
        }
    }

    /// Does it until the runtime ends.
    pub async fn run(mut self) {
        let mut observer = self.sources.observer.clone();
        let mut own = self.sources.desired.follow_own_node();
        loop {
            self.look().await;
            sleep(BREATH).await;
            let _ = timeout(PERIOD, async {
                tokio::select! {
                    () = observer.changed() => {}
                    _ = own.changed() => {}
                }
            })
            .await;
        }
    }

    /// Looks once, and tells what is new.
    pub async fn look(&mut self) {
        self.watched.look().await;
        let verdict = judge(&self.facts());
        if verdict.ready {
            self.bad_since = None;
        } else if self.bad_since.get_or_insert_with(Instant::now).elapsed() < GRACE {
            return;
        }
        let conditions = verdict.conditions();
        if let Some(event) = self.told.take(&conditions, &self.sources.node) {
            self.events.push(event);
        }
        self.events.news(&self.sources);
        if self.events.has_failures() {
            let pods = events::pods(&self.sources).await;
            self.events.failures(&pods);
        }
        let own = self.sources.desired.own_node();
        let may = self.retry.at.is_none_or(|at| Instant::now() >= at);
        if let Some(own) = own.filter(|_| may) {
            let written = self.write_conditions(conditions, &own).await;
            let tainted = self.write_taints(verdict.ready, own).await;
            self.retry.after(written && tainted);
        }
        self.events.tell(&*self.report, &self.told, &self.writes).await;
    }

    fn facts(&self) -> Facts {
        let Sources { desired, observer, placed, .. } = &self.sources;
        let obstacle = desired.read(|index| Index::obstacle(index).or_else(|| placed.obstacle(index)));
        let mut facts = Facts { obstacle, degraded: self.watched.degraded(), ..Facts::default() };
        observer.look(|progress| {
            facts.in_force = progress.version.is_some();
            facts.connected = progress.connected;
            facts.generation = progress.applied;
            facts.refused = progress.refused.as_ref().map(|(_, why)| why.clone());
            facts.start_trouble = progress.start_trouble.clone();
            facts.trouble = progress.trouble.clone();
        });
        facts
    }

    /// Writes them if it is time; whether nothing is left to do.
    async fn write_conditions(&mut self, conditions: Vec<Condition>, own: &OwnNode) -> bool {
        let due = self.written.as_ref().is_none_or(|written| {
            let age = written.at.elapsed();
            let turned = conditions.iter().zip(&written.conditions).any(|(now, then)| now.turned(then));
            let said = conditions.iter().zip(&written.conditions).any(|(now, then)| now.says_other(then));
            written.uid != own.uid || turned || said && age >= TEXT || age >= written.heartbeat
        });
        if !due {
            return true;
        }
        match self.report.conditions(&conditions).await {
            Ok(()) => {
                self.writes.count("condition", "ok");
                // Not all nodes of a cluster at the same time.
                let heartbeat = HEARTBEAT.mul_f64(0.9 + events::part(&self.sources.node) / 5.0);
                self.told.trouble.set(None);
                self.written = Some(Written { conditions, uid: own.uid.clone(), at: Instant::now(), heartbeat });
                true
            }
            Err(e) => {
                self.failed("condition", &e);
                false
            }
        }
    }

    /// Sets or removes the taint if need be; whether nothing is left to do.
    async fn write_taints(&mut self, ready: bool, own: OwnNode) -> bool {
        let now = (ready, own);
        if self.tainted.as_ref() == Some(&now) {
            return true;
        }
        if want_taints(&now.1.taints, ready).is_none() {
            self.tainted = Some(now);
            return true;
        }
        match self.report.taint(ready).await {
            Ok(()) => {
                self.writes.count("taint", "ok");
                tracing::info!(ready, taint = TAINT, "the node's taint was set right");
                self.tainted = Some(now);
                true
            }
            Err(e) => {
                self.failed("taint", &e);
                false
            }
        }
    }

    fn failed(&self, what: &'static str, error: &ReportError) {
        self.writes.count(what, "error");
        if self.told.trouble.set(Some(format!("the node's {what} could not be written: {error}"))) {
            tracing::warn!(what, reason = %error, "could not be written; tried again");
        }
    }
}

impl Retry {
    fn after(&mut self, good: bool) {
        if good {
            *self = Retry::default();
        } else {
            self.pause = (self.pause * 2).clamp(PERIOD, BACK_OFF);
            self.at = Some(Instant::now() + self.pause);
        }
    }
}

#[cfg(test)]
mod tests;
