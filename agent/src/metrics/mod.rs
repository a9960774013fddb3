//! Prometheus text for both processes: what the agent counts, and what the dataplane answers on its socket.
//!
//! Names begin with `podplane_`, units are base units, labels have few values. docs/metrics.md lists all of them; a test
//! holds that table against what is written here.

mod agent;
mod dataplane;
mod page;
mod programming;
mod recorded;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use podplane_config::introspect::{self, Question};
use podplane_config::link;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::attachments::Attachments;
use crate::desired::Desired;
use crate::ipam::Store;
use crate::publish::Observer;

pub use programming::Programming;
pub use recorded::{CniCalls, Outcome, Writes};

/// The text's type, of the `Content-Type` header.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the source of objects can be followed, and what it is called.
pub type SourceState = Arc<dyn Fn() -> (&'static str, bool) + Send + Sync>;

/// Where the agent's gauges come from.
#[derive(Clone)]
pub struct Parts {
    /// The configuration that should be in force.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
    /// The node's attachments.
    pub attachments: Arc<Attachments>,
    /// The leases.
    pub store: Arc<Store>,
    /// The source of objects.
    pub source: SourceState,
    /// The dataplane's socket.
    pub socket: PathBuf,
}

/// Writes the page.
pub struct Scraper {
    parts: Parts,
    registry: Registry,
    sampled: Arc<Sampled>,
    /// One at a time: a scraper that asks faster than it is answered must not fill the dataplane's door.
    turn: tokio::sync::Mutex<()>,
}

/// What was found out for the scrape that is being answered.
#[derive(Debug, Default)]
struct Sampled(std::sync::Mutex<(agent::Sample, Option<introspect::Metrics>)>);

impl Collector for Sampled {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let sampled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = page::Page(encoder);
        agent::write(&mut page, &sampled.0)?;
        dataplane::write(&mut page, sampled.1.as_ref())
    }
}

impl Scraper {
    /// Writes what these parts know, and what `calls` and `writes` count.
    pub fn new(parts: Parts, calls: &CniCalls, writes: &Writes) -> Scraper {
        let sampled = Arc::<Sampled>::default();
        let registry = registry(parts.desired.programming(), calls, writes, &sampled);
        Scraper { parts, registry, sampled, turn: tokio::sync::Mutex::default() }
    }

    /// The page as it is now. A dataplane that is away or slow is left out of it.
    pub async fn text(&self) -> String {
        let _turn = self.turn.lock().await;
        let socket = self.parts.socket.clone();
        let dataplane = tokio::task::spawn_blocking(move || link::ask(&socket, &Question::Metrics).ok());
        let sampled = (self.sample().await, dataplane.await.ok().flatten());
        *self.sampled.0.lock().unwrap_or_else(PoisonError::into_inner) = sampled;
        let mut text = String::new();
        if let Err(e) = encode(&mut text, &self.registry) {
            tracing::error!(reason = %e, "the metrics cannot be written");
        }
        text
    }

    async fn sample(&self) -> agent::Sample {
        let Parts { desired, observer, attachments, store, source, .. } = &self.parts;
        let (ranges, refused) = desired.read(|index| {
            (index.local().map(|l| l.pod_cidrs.clone()).unwrap_or_default(), index.refused().count() as u64)
        });
        let (connected, sent, applied) = observer.look(|p| (p.connected, p.sent, p.applied));
        let store = store.clone();
        let pools = tokio::task::spawn_blocking(move || store.usage(&ranges)).await;
        let live = attachments.list().await.unwrap_or_default();
        let in_force = live.iter().filter(|attachment| attachment.ready).count() as u64;
        agent::Sample {
            ready: attachments.obstacle().is_none(),
            source: source(),
            refused,
            connected,
            sent,
            applied,
            lag: desired.programming().oldest().unwrap_or_default().as_secs_f64(),
            attachments: (in_force, live.len() as u64 - in_force),
            pools: pools.ok().and_then(Result::ok).unwrap_or_default(),
            process: agent::process(),
        }
    }
}

fn registry(programming: &Programming, calls: &CniCalls, writes: &Writes, sampled: &Arc<Sampled>) -> Registry {
    let mut registry = Registry::default();
    registry.register(
        "podplane_programming_duration_seconds",
        "From the moment when the agent saw a change until every worker forwards by it",
        programming.seen.clone(),
    );
    registry.register(
        "podplane_network_programming_duration_seconds",
        "From the time of change that an EndpointSlice states until every worker forwards by it",
        programming.stated.clone(),
    );
    registry.register(
        "podplane_cni_request_duration_seconds",
        "Calls of the CNI plugin, by how they ended: ok, retry (code 11), error",
        calls.family(),
    );
    registry.register(
        "podplane_node_writes",
        "Conditions, taints and events that were written, failed, or were held back",
        writes.family(),
    );
    registry.register_collector(Box::new(sampled.clone()));
    registry
}

#[cfg(test)]
pub(crate) mod tests;
