//! What the agent shows to others than the CNI plugin: probes, metrics, and the life of its node.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use podplane_api::{AttachmentId, enforced};

use crate::attachments::Attachments;
use crate::desired::Desired;
use crate::duties::Placed;
use crate::ipam::Store;
use crate::metrics::{self, CniCalls, Scraper, SourceState, Writes};
use crate::node_life::{NodeLife, Report, Sources, Told};
use crate::probes::{self, HealthSource, ProbeOptions, ProbeTroubles};
use crate::publish::{self, Observer};

/// How often attachments are compared with the sandboxes that live: runtimes need not call GC, and containerd does not.
const SWEEP: Duration = Duration::from_secs(30);

/// What it is made from.
pub struct Outward {
    /// This node's name.
    pub node: String,
    /// Where the sockets are.
    pub run_dir: PathBuf,
    /// Where to answer.
    pub probes: ProbeOptions,
    /// The configuration that should be in force.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
    /// The node's attachments.
    pub attachments: Arc<Attachments>,
    /// The leases.
    pub store: Arc<Store>,
    /// Whether the node reaches pods.
    pub placed: Placed,
    /// Whether objects come.
    pub source: SourceState,
    /// By which the node's life is told.
    pub report: Arc<dyn Report>,
}

/// What others of the agent's parts need of it.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Counts the CNI plugin's calls.
    pub calls: CniCalls,
    /// What was told of the node.
    pub told: Told,
    /// Which ports could not be opened.
    pub probes: ProbeTroubles,
}

impl Outward {
    /// Starts it all; it ends with the runtime.
    pub fn start(self) -> Shown {
        let Outward { node, run_dir, desired, observer, attachments, store, placed, source, report, .. } = self;
        let (calls, writes, told) = (CniCalls::default(), Writes::default(), Told::default());
        let socket = run_dir.join(publish::SOCKET);
        let parts = metrics::Parts {
            desired: desired.clone(),
            observer: observer.clone(),
            attachments: attachments.clone(),
            store,
            source,
            socket: socket.clone(),
        };
        let scraper = Arc::new(Scraper::new(parts, &calls, &writes));
        let health = HealthSource { desired: desired.clone(), observer: observer.clone() };
        let probes = probes::start(&self.probes, health, scraper);
        tokio::spawn(mark(run_dir, attachments.clone(), desired.clone(), observer.clone(), placed.clone()));
        tokio::spawn(sweep(attachments.clone()));
        let sources = Sources { node, desired, observer, attachments, placed, socket };
        tokio::spawn(NodeLife::new(sources, report, told.clone(), writes).run());
        Shown { calls, told, probes }
    }
}

/// Marks the node once its first configuration is enforced: from then on CNI STATUS is good, whatever happens, for a
/// runtime that hears otherwise declares the node, and all its pods, not ready.
async fn mark(
    run_dir: PathBuf,
    attachments: Arc<Attachments>,
    desired: Arc<Desired>,
    mut observer: Observer,
    placed: Placed,
) {
    loop {
        let obstacle = attachments.obstacle().or_else(|| desired.read(|index| placed.obstacle(index)));
        if obstacle.is_none() {
            match enforced::mark(&run_dir) {
                Ok(()) => return,
                Err(e) => {
                    tracing::error!(reason = %e, folder = %run_dir.display(), "cannot note that policy is enforced")
                }
            }
        }
        // The routes' being there is nothing that the observer tells.
        let _ = tokio::time::timeout(Duration::from_millis(500), observer.changed()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Gives back what belongs to sandboxes that are gone.
async fn sweep(attachments: Arc<Attachments>) {
    let mut suspects = BTreeSet::<AttachmentId>::new();
    loop {
        tokio::time::sleep(SWEEP).await;
        match attachments.sweep(&suspects).await {
            Ok(found) => suspects = found,
            Err(e) => tracing::error!(reason = %e, "attachments cannot be compared with the sandboxes that live"),
        }
    }
}

#[cfg(test)]
mod tests {
    use podplane_api::AddRequest;
    use podplane_index::{Family, Index, Settings, manifest};

    use super::*;
    use crate::testing::NoLinks;

    #[tokio::test]
    async fn what_belongs_to_no_sandbox_is_given_back_the_second_time_that_it_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let desired = Arc::new(Desired::new(Index::new(Settings::new("n1", Family::Ipv4, 1))));
        let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.0.1.0/24]}, status: \
                    {addresses: [{type: InternalIP, address: 192.0.2.1}]}}";
        desired.edit(|index| {
            index.apply(manifest::parse(node).unwrap().objects.remove(0).object).unwrap();
            index.set_uplink_mtu(1500);
        });
        let observer = publish::start(dir.path(), desired.clone());
        let store = Arc::new(Store::open(&dir.path().join("ipam.redb"), Duration::from_secs(60)).unwrap());
        let attachments = Attachments::new(store, desired, observer, Arc::new(NoLinks));
        let netns = dir.path().join("netns-a");
        std::fs::write(&netns, "").unwrap();
        let attachment = AttachmentId { container_id: "a".into(), ifname: "eth0".into() };
        let request = AddRequest {
            attachment: attachment.clone(),
            netns: netns.display().to_string(),
            pod: None,
            host_ports: Vec::new(),
        };
        attachments.add(&request).await.unwrap();
        let (none, gone) = (BTreeSet::new(), BTreeSet::from([attachment]));
        assert_eq!(attachments.sweep(&none).await.unwrap(), none, "it lives");
        std::fs::remove_file(&netns).unwrap();
        assert_eq!(attachments.sweep(&none).await.unwrap(), gone, "a runtime may be about to end it");
        assert_eq!(attachments.list().await.unwrap().len(), 1);
        assert_eq!(attachments.sweep(&gone).await.unwrap(), none);
        assert_eq!(attachments.list().await.unwrap().len(), 0);
    }
}
