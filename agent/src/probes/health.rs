//! What `/healthz` and `/livez` answer, as kube-proxy's (pkg/proxy/healthcheck/proxy_health.go, 1.36).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::desired::Desired;
use crate::publish::Observer;

/// How long a change may wait before a node counts as unhealthy: kube-proxy's two periods of synchronisation.
const LATE: Duration = Duration::from_secs(60);
/// How long a dataplane may be away: it resumes flows within a second, and load balancers need not hear of it.
const GRACE: Duration = Duration::from_secs(5);

/// Where the answers come from.
#[derive(Clone, Debug)]
pub struct HealthSource {
    /// The configuration that should be in force, and this node's object.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

impl HealthSource {
    /// Whether it is well, and the body that says so. For load balancers (`/healthz`) the node must forward by the
    /// agent's word and not be about to go. Others ask about the agent alone (`/livez`): to start it anew does not help
    /// where the dataplane is away.
    pub(super) fn now(&self, balancers: bool) -> (bool, String) {
        let (connected, in_force) = self.observer.look(|progress| {
            let lost = progress.lost.is_some_and(|lost| lost.elapsed() < GRACE);
            (progress.connected, progress.version.is_some() || lost)
        });
        let late = self.desired.programming().oldest().is_some_and(|waits| waits > LATE);
        let healthy = if balancers { in_force && !late } else { !(connected && late) };
        let eligible = self.desired.own_node().is_some_and(|node| !node.is_going());
        let good = healthy && (eligible || !balancers);
        // While all is well, kube-proxy says "now".
        let now = SystemTime::now();
        let updated = if good { Some(now) } else { self.desired.programming().last_applied() };
        let updated = text(updated.unwrap_or(SystemTime::UNIX_EPOCH));
        let families = self.desired.read(|index| {
            let ranges = index.local().map(|local| local.pod_cidrs.clone()).unwrap_or_default();
            [(true, "IPv4"), (false, "IPv6")]
                .into_iter()
                .filter(|(v4, _)| ranges.iter().any(|range| range.addr().is_ipv4() == *v4))
                .map(|(_, name)| name)
                .collect::<Vec<_>>()
        });
        let family = |name| (name, FamilyBody { last_updated: updated.clone(), healthy });
        let body = Body {
            last_updated: updated.clone(),
            current_time: text(now),
            node_eligible: balancers.then_some(eligible),
            healthy,
            status: families.into_iter().map(family).collect(),
        };
        (good, serde_json::to_string(&body).unwrap_or_default())
    }
}

fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}
