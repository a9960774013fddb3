//! Answers to the operator's questions. They only read: what workers count, and what control last showed.

mod metrics;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use podplane_config::introspect::{
    self, BufferPool, FlowsSummary, Port, PortKind, Question, ServiceHits, Status, Uplink, Worker,
};
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_pipeline::snapshot::services::{FrontendKind, FrontendView};
use podplane_pipeline::{DropReason, Snapshot};
use serde_json::Value;

use super::view::{PortView, View, link};
use super::{explain, listing};
use crate::args::CpuList;
use crate::ports::Pools;
use crate::worker::shared::Shared;

/// How far back the workers' load is averaged, at least.
const LOAD_WINDOW: Duration = Duration::from_secs(2);

/// What does not change while the process lives.
#[derive(Clone, Debug)]
pub struct Constants {
    /// As given to `--uplink`.
    pub uplink: String,
    /// The node's Ethernet address.
    pub mac: Mac,
    /// The node's side of the host port.
    pub host_ifname: String,
    /// CPUs that workers are bound to.
    pub cpus: Option<CpuList>,
    /// Half-entries that one worker's flow tables hold.
    pub flow_capacity: usize,
    /// Bytes that the tables of Services' backends may take.
    pub service_table_limit: usize,
    /// Whether buffers lie in hugepages.
    pub hugepages: bool,
    /// Whether they should.
    pub hugepages_wanted: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Answers to the operator's questions.
#[derive(Debug)]
pub struct Answers {
    constants: Constants,
    shared: Arc<Shared>,
    pools: Pools,
    view: Arc<ArcSwap<View>>,
    started: Instant,
    load: Mutex<Load>,
}

/// The workers' busy nanoseconds at two earlier times.
#[derive(Debug)]
struct Load {
    older: (Instant, Vec<u64>),
    newer: (Instant, Vec<u64>),
}

impl Answers {
    /// Reads `shared`, `pools` and whatever `view` holds.
    pub fn new(constants: Constants, shared: Arc<Shared>, pools: Pools, view: Arc<ArcSwap<View>>) -> Answers {
        let started = Instant::now();
        let sample = (started, vec![0; shared.seats.len()]);
        let load = Mutex::new(Load { older: sample.clone(), newer: sample });
        Answers { constants, shared, pools, view, started, load }
    }

    /// Answers a question, in JSON.
    ///
    /// # Errors
    /// Not a question; says which there are.
    pub fn answer(&self, question: Value) -> Result<Value, String> {
        let question: Question = serde_json::from_value(question).map_err(|error| {
            format!(
                "no such question ({error}): get status, ports, drops, workers, flows-summary, \
                 metrics, services, policies, explain or flows"
            )
        })?;
        let json = match question {
            Question::Status => serde_json::to_value(self.status()),
            Question::Ports => serde_json::to_value(self.ports()),
            Question::Drops => serde_json::to_value(self.drops()),
            Question::Workers => serde_json::to_value(self.workers()),
            Question::FlowsSummary => serde_json::to_value(self.flows()),
            Question::Metrics => serde_json::to_value(self.metrics()),
            Question::Services => serde_json::to_value(self.services()),
            Question::Policies => serde_json::to_value(explain::policies(&self.snapshot(), &self.view.load_full())),
            Question::Explain { packet } => {
                serde_json::to_value(explain::explain(&self.snapshot(), &self.view.load_full(), &packet)?)
            }
            Question::Flows { filter } => {
                serde_json::to_value(listing::list(&self.shared, &self.view.load_full(), &filter)?)
            }
        };
        json.map_err(|error| error.to_string())
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshots.load_full()
    }

    /// Remembers the workers' load. To be called every few seconds.
    pub fn sample_load(&self) {
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        if load.newer.0.elapsed() >= LOAD_WINDOW {
            let now = (Instant::now(), self.busy_nanos());
            load.older = std::mem::replace(&mut load.newer, now);
        }
    }

    fn busy_nanos(&self) -> Vec<u64> {
        self.shared.seats.iter().map(|seat| seat.stats.busy_nanos.load(Relaxed)).collect()
    }

    fn status(&self) -> Status {
        let (view, constants) = (self.view.load_full(), &self.constants);
        let uplink = view.ports.iter().find(|port| port.id == PortId::UPLINK);
        Status {
            version: podplane_version::line().to_owned(),
            dpdk: dpdk_glue::dpdk_version(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            uplink: Uplink {
                spec: constants.uplink.clone(),
                name: uplink.map_or_else(String::new, |port| port.facts.name.clone()),
                mac: constants.mac.to_string(),
                mtu: uplink.map_or(0, |port| port.mtu),
                link: uplink.map_or(introspect::Link::Gone, |port| link(port.monitor.state())),
            },
            host_ifname: constants.host_ifname.clone(),
            generation: self.shared.snapshots.load().generation(),
            agent: view.agent.clone(),
            node: view.node.clone(),
            peers: view.peers.clone(),
            endpoints: view.ports.iter().filter(|port| port.id >= PortId::FIRST_POD).count(),
            failed: view.failed.clone(),
            workers: self.workers(),
            buffers: self.buffers(),
            hugepages: constants.hugepages,
            warnings: constants.warnings.clone(),
            flows: self.flows(),
            dropped: DropReason::ALL.iter().map(|r| self.total_drops(*r)).sum(),
        }
    }

    fn total_drops(&self, reason: DropReason) -> u64 {
        self.shared.seats.iter().map(|seat| seat.counters.total_drops(reason)).sum()
    }

    fn buffers(&self) -> Vec<BufferPool> {
        let pool =
            |(name, (in_use, capacity)): (&str, (u32, u32))| BufferPool { name: name.to_owned(), in_use, capacity };
        ["small", "large", "slices"].into_iter().zip(self.pools.usage()).map(pool).collect()
    }

    fn workers(&self) -> Vec<Worker> {
        let view = self.view.load_full();
        let busy = self.load();
        let worker = |(i, seat): (usize, &crate::worker::shared::Seat)| {
            let id = WorkerId(i as u8);
            let (stats, all) = (&seat.stats, (0..PortId::MAX).map(|port| seat.counters.port(PortId(port as u16))));
            Worker {
                id: id.0,
                cpu: self.constants.cpus.as_ref().map(|cpus| cpus.of(id)),
                busy: busy[i],
                loops: stats.loops.load(Relaxed),
                sleeps: stats.sleeps.load(Relaxed),
                generation: seat.lane.passed(),
                ports: view.ports.iter().filter(|port| port.home == Some(id)).count(),
                rx_packets: all.map(|port| port.rx().0).sum(),
                tx_packets: stats.sent.load(Relaxed),
                flows: stats.flows.load(Relaxed),
                flow_capacity: self.constants.flow_capacity as u64,
            }
        };
        self.shared.seats.iter().enumerate().map(worker).collect()
    }

    /// The part of the last seconds that each worker was busy.
    fn load(&self) -> Vec<f64> {
        let now = self.busy_nanos();
        let load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = load.older.0.elapsed().as_nanos().max(1) as f64;
        now.iter().zip(&load.older.1).map(|(now, then)| (now.wrapping_sub(*then) as f64 / nanos).min(1.0)).collect()
    }

    fn flows(&self) -> FlowsSummary {
        let flows: Vec<u64> = self.shared.seats.iter().map(|seat| seat.stats.flows.load(Relaxed)).collect();
        let each = self.constants.flow_capacity as u64;
        let fullest = flows.iter().copied().max().unwrap_or_default();
        FlowsSummary {
            halves: flows.iter().sum(),
            capacity: each * flows.len() as u64,
            pressure: fullest as f64 / each.max(1) as f64,
        }
    }

    fn ports(&self) -> Vec<Port> {
        self.view.load_full().ports.iter().map(|port| self.port(port)).collect()
    }

    fn port(&self, view: &PortView) -> Port {
        let (mut rx, mut tx, mut drops) = ((0, 0), (0, 0), 0);
        for count in view.baseline.since(&self.shared, view.id) {
            rx = (rx.0 + count.rx.0, rx.1 + count.rx.1);
            tx = (tx.0 + count.tx.0, tx.1 + count.tx.1);
            drops += count.drops.iter().sum::<u64>();
        }
        Port {
            id: view.id.0,
            kind: match view.id {
                PortId::UPLINK => PortKind::Uplink,
                PortId::HOST => PortKind::Host,
                _ => PortKind::Pod,
            },
            name: view.facts.name.clone(),
            endpoint: view.endpoint.clone(),
            pod: view.pod.clone(),
            home: view.home.map(|home| home.0),
            mac: view.mac.to_string(),
            addresses: view.addresses.clone(),
            mtu: view.mtu,
            link: link(view.monitor.state()),
            rx_packets: rx.0,
            rx_bytes: rx.1,
            tx_packets: tx.0,
            tx_bytes: tx.1,
            drops,
            rx_overruns: view.monitor.receive_overruns(),
        }
    }

    fn services(&self) -> Vec<ServiceHits> {
        let (view, snapshot) = (self.view.load_full(), self.shared.snapshots.load_full());
        let hits = |frontend: FrontendView| {
            // One that is of another configuration than the names is seen the next time.
            let identity = view.catalog.identity(frontend.service)?;
            Some(ServiceHits {
                service: identity.service.to_string(),
                port: identity.port.to_string(),
                protocol: format!("{:?}", frontend.protocol).to_uppercase(),
                kind: kind(frontend.kind),
                address: frontend.address,
                frontend_port: frontend.port,
                hits: frontend.hits,
                inside: frontend.inside,
                outside: frontend.outside,
            })
        };
        let mut all: Vec<ServiceHits> = snapshot.frontends().filter_map(hits).collect();
        all.sort_by(|a, b| {
            (&a.service, &a.port, &a.protocol, a.address).cmp(&(&b.service, &b.port, &b.protocol, b.address))
        });
        all
    }

    fn drops(&self) -> Vec<introspect::Drop> {
        let view = self.view.load_full();
        let mut all = Vec::new();
        for id in (0..PortId::MAX).map(|i| PortId(i as u16)) {
            let port = view.ports.iter().find(|port| port.id == id);
            let nothing = super::view::Baseline::default();
            let baseline = port.map_or(&nothing, |port| &*port.baseline);
            for (worker, count) in baseline.since(&self.shared, id).enumerate() {
                for &reason in DropReason::ALL.iter().filter(|r| count.drops[r.index()] > 0) {
                    all.push(introspect::Drop {
                        reason: reason.name().to_owned(),
                        explanation: reason.explain().to_owned(),
                        port: id.0,
                        name: port.map_or_else(String::new, |port| port.facts.name.clone()),
                        pod: port.map_or_else(String::new, |port| port.pod.clone()),
                        worker: worker as u8,
                        packets: count.drops[reason.index()],
                    });
                }
            }
        }
        all
    }
}

/// The contract's word for what made a frontend.
fn kind(kind: FrontendKind) -> introspect::FrontendKind {
    match kind {
        FrontendKind::ClusterIp => introspect::FrontendKind::ClusterIp,
        FrontendKind::NodePort => introspect::FrontendKind::NodePort,
        FrontendKind::LoadBalancer => introspect::FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp => introspect::FrontendKind::ExternalIp,
        FrontendKind::HostPort => introspect::FrontendKind::HostPort,
    }
}
