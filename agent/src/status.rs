//! What the agent says of itself.

use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use podplane_api::{AgentStatus, Generations};

use crate::attachments::{Attachments, Refusal, refuse};
use crate::desired::Desired;
use crate::duties::Placed;
use crate::ipam::Store;
use crate::outward::Shown;
use crate::publish::Observer;
use crate::source::Source;

/// Collects the agent's state from its parts.
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The configuration that should be in force.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
    /// The source of objects.
    pub source: Source,
    /// The leases.
    pub store: Arc<Store>,
    /// What the duties on the node's network could not do.
    pub duties: Trouble,
    /// What the health check servers could not do.
    pub health: Trouble,
    /// Whether the node reaches pods.
    pub placed: Placed,
    /// What is shown to others.
    pub shown: Shown,
}

/// A trouble that one part reports and another shows.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// Sets or clears it; whether that is news.
    pub fn set(&self, trouble: Option<String>) -> bool {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *now != trouble;
        *now = trouble;
        news
    }

    /// What it is now.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Status {
    /// The present state.
    pub async fn now(&self, attachments: &Attachments) -> Result<AgentStatus, Refusal> {
        let ranges = self.desired.read(|index| index.local().map(|l| l.pod_cidrs.clone()).unwrap_or_default());
        let live = attachments.list().await?;
        let obstacle = attachments.obstacle().or_else(|| self.desired.read(|index| self.placed.obstacle(index)));
        let (connected, sent, applied) = self.observer.look(|p| (p.connected, p.sent, p.applied));
        let mut conditions: Vec<String> = obstacle.iter().cloned().collect();
        conditions.extend(self.source.troubles());
        conditions.extend(self.duties.get());
        conditions.extend(self.health.get());
        conditions.extend(self.shown.told.trouble.get());
        conditions.extend(self.shown.probes.list());
        conditions.extend(self.troubles());
        conditions.extend(outside(&live, &ranges));
        let (store, pools) = (self.store.clone(), ranges.clone());
        let usage = tokio::task::spawn_blocking(move || store.usage(&pools)).await;
        Ok(AgentStatus {
            version: podplane_version::line().to_owned(),
            node: self.node.clone(),
            ready: obstacle.is_none(),
            conditions,
            dataplane_connected: connected,
            generation: Generations { sent, applied },
            refused: self.source.refused(&self.desired),
            addresses: usage.map_err(|e| refuse(500, e.to_string()))??,
            attachments: live,
            node_conditions: self.shown.told.conditions(),
            events: self.shown.told.events(),
        })
    }

    /// What the dataplane did not take, and what was not told to it.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.observer.look(|progress| {
            let refused = progress.refused.iter().map(|(_, why)| format!("the dataplane refused a change: {why}"));
            let failed = progress.failed.iter().map(|(id, why)| format!("{id} is not connected: {why}"));
            refused.chain(failed).collect::<Vec<_>>()
        });
        self.desired.read(|index| {
            troubles.extend(index.withheld().map(|w| format!("{} is not connected: {}", w.id, w.reason)));
            troubles.extend(index.denied().map(|w| format!("{}: {}", w.id, w.reason)));
            troubles.extend(index.shortages());
            troubles.extend(index.refused_host_ports().map(|w| format!("{}: {}", w.id, w.reason)));
        });
        troubles
    }
}

/// Attachments from before the node's ranges were changed.
fn outside(live: &[podplane_api::Attachment], ranges: &[IpNet]) -> Option<String> {
    let is_outside = |a: &podplane_api::Attachment| !a.addresses.iter().all(|a| ranges.iter().any(|r| r.contains(a)));
    let count = live.iter().filter(|attachment| is_outside(attachment)).count();
    (count > 0).then(|| {
        format!(
            "{count} attachments have addresses outside of this node's podCIDRs, which were changed: other nodes do not \
             reach them; delete these pods, so that they are made again"
        )
    })
}
