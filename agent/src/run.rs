//! Puts the parts together.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use podplane_index::{Index, Settings};
use tokio::sync::oneshot;

use crate::attachments::Attachments;
use crate::cluster::Cluster;
use crate::desired::Desired;
use crate::duties::{Duties, Placed};
use crate::health::Health;
use crate::host::HostLinks;
use crate::ipam::Store;
use crate::metrics::SourceState;
use crate::node_life::{ApiReport, LogReport, Report};
use crate::outward::Outward;
use crate::probes::ProbeOptions;
use crate::server::{self, Service};
use crate::source::cluster::Watches;
use crate::source::folder::Folder;
use crate::source::{Source, SourceOptions};
use crate::status::{Status, Trouble};
use crate::{pending, publish};

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name, underlay and VNI.
    pub settings: Settings,
    /// Where objects come from.
    pub source: SourceOptions,
    /// Sockets.
    pub run_dir: PathBuf,
    /// What outlives the process.
    pub state_dir: PathBuf,
    /// How long an address rests after use.
    pub cool_down: Duration,
    /// Whether routes and uplink of this namespace are looked after.
    pub duties: bool,
    /// Where probes and metrics are answered.
    pub probes: ProbeOptions,
}

/// Runs an agent until `stop` is ready; `started` is called once it answers calls.
pub async fn agent(
    options: Options,
    host: Arc<dyn HostLinks>,
    started: impl FnOnce(),
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    for dir in [&options.run_dir, &options.state_dir] {
        std::fs::create_dir_all(dir).with_context(|| {
            format!("cannot make the folder {} (name another with --run-dir or --state-dir)", dir.display())
        })?;
    }
    let cluster = match &options.source {
        SourceOptions::Folder(folder) => {
            look_into(folder)?;
            None
        }
        SourceOptions::Cluster(cluster) => Some(Cluster::prepare(cluster, &options.settings.node).await?),
    };
    let store = Arc::new(Store::open(&options.state_dir.join("ipam.redb"), options.cool_down)?);
    let listener = server::listen(&options.run_dir).context("cannot listen for the CNI plugin")?;
    let desired = Arc::new(Desired::new(Index::new(options.settings.clone())));
    let observer = publish::start(&options.run_dir, desired.clone());
    let (scanned, first_scan) = oneshot::channel();
    let scanned = move || {
        // The receiver is gone when the agent ends meanwhile.
        let _ = scanned.send(());
    };
    let source = match (&options.source, &cluster) {
        (_, Some(cluster)) => {
            let watches = Watches::start(cluster.clone(), &options.state_dir, desired.clone(), scanned);
            Source::Cluster(watches.context("cannot watch the API server")?)
        }
        (SourceOptions::Folder(folder), None) => Folder::start(folder, desired.clone(), scanned)
            .map(Source::Folder)
            .with_context(|| format!("cannot watch {}", folder.display()))?,
        (SourceOptions::Cluster(_), None) => bail!("no connection to the API server was prepared"),
    };
    let attachments = Attachments::new(store.clone(), desired.clone(), observer.clone(), host);
    let attachments = Arc::new(match &source {
        Source::Cluster(watches) => attachments.with_ask(Arc::new(watches.clone())),
        Source::Folder(_) => attachments,
    });
    let duties = Trouble::default();
    let placed = if options.duties { Placed::default() } else { Placed::unattended() };
    if options.duties {
        let Options { state_dir, run_dir, .. } = options.clone();
        let (desired, observer, trouble, placed) = (desired.clone(), observer.clone(), duties.clone(), placed.clone());
        tokio::spawn(Duties { state_dir, run_dir, desired, observer, trouble, placed }.run());
    }
    let health = Trouble::default();
    let (for_health, trouble) = (desired.clone(), health.clone());
    tokio::spawn(Health { desired: for_health, observer: observer.clone(), trouble }.run());
    // Before the dataplane is told anything: running pods are named, dead ones are not.
    attachments.reconcile().await?;
    pending::start(&options.state_dir, attachments.clone()).await.context("cannot watch for removals")?;
    let whole = desired.clone();
    tokio::spawn(async move {
        if first_scan.await.is_ok() {
            whole.complete();
        }
    });

    let report: Arc<dyn Report> = match &cluster {
        Some(cluster) => Arc::new(ApiReport::new(cluster.client.clone(), &cluster.node)),
        None => Arc::new(LogReport::default()),
    };
    let followed = source.clone();
    let state: SourceState = Arc::new(move || (followed.name(), followed.troubles().is_empty()));
    if let Some(cluster) = cluster {
        tokio::spawn(async move {
            match cluster.check().await {
                Ok(version) => tracing::info!(url = cluster.url, version, "connected to the API server"),
                Err(reason) => tracing::error!("{reason}"),
            }
        });
    }
    let node = options.settings.node.clone();
    let shown = Outward {
        node: node.clone(),
        run_dir: options.run_dir.clone(),
        probes: options.probes,
        desired: desired.clone(),
        observer: observer.clone(),
        attachments: attachments.clone(),
        store: store.clone(),
        placed: placed.clone(),
        source: state,
        report,
    };
    let shown = shown.start();
    let ending = source.clone();
    let status = Arc::new(Status { node, desired, observer, source, store, duties, health, placed, shown });
    started();
    let service = Service { attachments, status, run_dir: options.run_dir };
    let done = server::run(listener, service, stop).await.context("the server failed");
    ending.close();
    done
}

/// Later a folder may go and come back: what it said stays in force. One that never was is a mistake.
fn look_into(folder: &Path) -> anyhow::Result<()> {
    std::fs::read_dir(folder).map(drop).with_context(|| {
        format!("cannot read the folder of objects {} (make it, or name another with --source)", folder.display())
    })
}
