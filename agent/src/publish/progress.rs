//! How far the dataplane has followed.

use std::collections::BTreeMap;
use std::time::Duration;

use podplane_config::link::Facts;
use podplane_config::trouble::StartTrouble;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::desired::Version;

/// What is known of the dataplane.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Since when it has been connected, or not.
    pub since: Instant,
    /// Whether it is connected.
    pub connected: bool,
    /// Why not, or why the last connection ended.
    pub trouble: Option<String>,
    /// Why it does not start, as it left word of.
    pub start_trouble: Option<StartTrouble>,
    /// What it said of its node, also of the last one that was connected.
    pub facts: Option<Facts>,
    /// The last generation that was sent.
    pub sent: u64,
    /// The last generation that this dataplane applied.
    pub applied: u64,
    /// The version that is in force; `None`: none of this agent's is known to be.
    pub version: Option<Version>,
    /// Since when nothing of this agent's is known to be in force, if something was before.
    pub lost: Option<Instant>,
    /// Endpoints that could not be connected, with the reason.
    pub failed: BTreeMap<String, String>,
    /// The last refusal, until something is applied: up to which version, and why.
    pub refused: Option<(Version, String)>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            since: Instant::now(),
            connected: false,
            trouble: None,
            start_trouble: None,
            facts: None,
            sent: 0,
            applied: 0,
            version: None,
            lost: None,
            failed: BTreeMap::new(),
            refused: None,
        }
    }
}

/// Why a change is not known to be in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// The endpoint's device could not be opened.
    #[error("the dataplane could not connect the pod: {0}")]
    Failed(String),
    /// The dataplane refused the change.
    #[error("the dataplane refused the configuration: {0}")]
    Refused(String),
    /// It is not connected.
    #[error("the dataplane is not connected{}: is podplane-dataplane running with the same --run-dir?",
        .0.as_deref().map(|why| format!(" ({why})")).unwrap_or_default())]
    NotConnected(Option<String>),
    /// It did not answer in time.
    #[error("the dataplane is connected but did not apply the change within {0:?}")]
    Slow(Duration),
}

/// A view of [`Progress`] that can be waited on.
#[derive(Clone, Debug)]
pub struct Observer(pub(super) watch::Receiver<Progress>);

impl Observer {
    /// The present state.
    pub fn now(&self) -> Progress {
        self.0.borrow().clone()
    }

    /// Looks at the present state without a copy of it.
    pub fn look<T>(&self, look: impl FnOnce(&Progress) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Waits until the next change of state.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody publishes any more: the agent is about to end.
            std::future::pending().await
        }
    }

    /// Waits until `version` is in force, and `endpoint` (if one is named) connected by it. A dataplane that restarts
    /// meanwhile is waited for.
    pub async fn applied(&self, version: Version, endpoint: Option<&str>, within: Duration) -> Result<(), NotApplied> {
        let deadline = Instant::now() + within;
        let mut watch = self.0.clone();
        loop {
            let verdict = verdict(&watch.borrow_and_update(), version, endpoint);
            if let Some(verdict) = verdict {
                return verdict;
            }
            if !matches!(timeout_at(deadline, watch.changed()).await, Ok(Ok(()))) {
                let progress = watch.borrow();
                return Err(match progress.connected {
                    true => NotApplied::Slow(within),
                    false => NotApplied::NotConnected(progress.trouble.clone()),
                });
            }
        }
    }
}

fn verdict(progress: &Progress, version: Version, endpoint: Option<&str>) -> Option<Result<(), NotApplied>> {
    if progress.version.is_some_and(|applied| applied >= version) {
        let failure = endpoint.and_then(|id| progress.failed.get(id));
        return Some(failure.map_or(Ok(()), |reason| Err(NotApplied::Failed(reason.clone()))));
    }
    let (refused, reason) = progress.refused.as_ref()?;
    (*refused >= version).then(|| Err(NotApplied::Refused(reason.clone())))
}
