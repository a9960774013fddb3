//! A cluster in vectors: nodes, workers, pods and a wire between the nodes, moved step by step and always the same way.
//!
//! Time stands still unless [`Sim::advance`] moves it. A frame that leaves by an uplink arrives at the node that its
//! destination MAC names, completed as a device would; frames for ports are kept in [`SimNode::delivered`].

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use podplane_packet::buf::{Csum, Meta, PacketBuf};
use podplane_packet::checksum;
use podplane_packet::id::{Mac, PortId, Vni, WorkerId};
use podplane_packet::testing::VecBuf;
use podplane_tables::mem::Want;
use podplane_tables::reasm::Limits;

use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::dump::{Cursor, FlowView};
use crate::engine::{Engine, EngineConfig};
use crate::env::{BURST, Env, Millis};
use crate::halves::HalfMsg;
use crate::pass::Pass;
use crate::resume::FlowStore;
use crate::snapshot::{LocalConfig, PeerConfig, PortClass, PortEntry, PortPolicy, Prefix, Snapshot, SnapshotConfig};

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// How many nodes.
    pub nodes: u8,
    /// Workers of each node.
    pub workers: u8,
    /// The underlay speaks IPv6.
    pub underlay_v6: bool,
    /// Half-entries of each family and worker.
    pub flow_capacity: usize,
    /// Half-entries that one pod may have.
    pub port_quota: u32,
    /// The uplinks' MTU.
    pub uplink_mtu: u16,
    /// The pods' MTU.
    pub pod_mtu: u16,
    /// Messages that a queue between two workers holds.
    pub half_queue: usize,
    /// Packets that a queue between two workers holds.
    pub hand_over_queue: usize,
    /// Ports that have counters of their own; adding them all up is most of what [`Sim::conserved`] costs.
    pub counted_ports: usize,
}

impl Default for SimConfig {
    fn default() -> Self {
        SimConfig {
            nodes: 2,
            workers: 2,
            underlay_v6: false,
            flow_capacity: 1024,
            port_quota: 1024,
            uplink_mtu: 1500,
            pod_mtu: 1430,
            half_queue: 1024,
            hand_over_queue: 1024,
            counted_ports: 64,
        }
    }
}

/// A pod of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimPod {
    /// On which node, from 0.
    pub node: usize,
    /// Its port.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// What one worker's loop works on, beside its engine.
#[derive(Debug, Default)]
struct Queues {
    /// Received or handed over.
    packets: VecDeque<VecBuf>,
    handed: usize,
    halves: VecDeque<HalfMsg>,
}

/// One node.
#[derive(Debug)]
pub struct SimNode {
    /// What its snapshots are compiled from.
    pub config: SnapshotConfig,
    /// The snapshot in force.
    pub snapshot: Arc<Snapshot>,
    /// Each worker's counters.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// What left by the ports, in order; what left by the uplink for no node of the cluster included.
    pub delivered: Vec<(PortId, VecBuf)>,
    /// The neighbours that workers asked for.
    pub asked: Vec<IpAddr>,
    /// The snapshots of workers that have not noticed yet that there is another one.
    pub behind: Vec<Option<Arc<Snapshot>>>,
    engines: Vec<Engine<VecBuf>>,
    queues: Vec<Queues>,
    /// Frames on their way out by the uplink.
    wire: Vec<VecBuf>,
    allocated: u64,
    injected: u64,
    transmitted: u64,
}

/// The cluster.
#[derive(Debug)]
pub struct Sim {
    /// How it was made.
    pub config: SimConfig,
    /// Its nodes.
    pub nodes: Vec<SimNode>,
    /// Its pods.
    pub pods: Vec<SimPod>,
    /// The time.
    pub now: Millis,
    /// Whether allocation fails, as if the pool were exhausted.
    pub exhausted: bool,
}

/// The world as one worker sees it during one call.
struct SimEnv<'a> {
    now: Millis,
    me: WorkerId,
    exhausted: bool,
    limits: (usize, usize),
    queues: &'a mut [Queues],
    delivered: &'a mut Vec<(PortId, VecBuf)>,
    asked: &'a mut Vec<IpAddr>,
    wire: &'a mut Vec<VecBuf>,
    allocated: &'a mut u64,
    transmitted: &'a mut u64,
}

impl Env for SimEnv<'_> {
    type Buf = VecBuf;

    fn now(&self) -> Millis {
        self.now
    }

    fn alloc(&mut self) -> Option<VecBuf> {
        if self.exhausted {
            return None;
        }
        *self.allocated += 1;
        Some(VecBuf::empty())
    }

    fn transmit(&mut self, port: PortId, buf: VecBuf, _pass: Pass) {
        *self.transmitted += 1;
        match port {
            PortId::UPLINK => self.wire.push(buf),
            _ => self.delivered.push((port, buf)),
        }
    }

    fn hand_over(&mut self, to: WorkerId, buf: VecBuf) -> Result<(), VecBuf> {
        let queue = &mut self.queues[to.index()];
        if to == self.me || queue.handed >= self.limits.0 {
            return Err(buf);
        }
        queue.handed += 1;
        queue.packets.push_back(buf);
        Ok(())
    }

    fn resolve(&mut self, address: IpAddr, _by: PortId) {
        self.asked.push(address);
    }

    fn push_half(&mut self, to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg> {
        let queue = &mut self.queues[to.index()].halves;
        if to == self.me || queue.len() >= self.limits.1 {
            return Err(msg);
        }
        queue.push_back(msg);
        Ok(())
    }
}

impl Sim {
    /// A cluster without pods.
    ///
    /// # Panics
    /// If the configuration cannot be compiled, which a test should see at once.
    pub fn new(config: SimConfig) -> Sim {
        let nodes = (0..config.nodes).map(|n| SimNode::new(n, &config)).collect();
        Sim { config, nodes, pods: Vec::new(), now: 1_000_000, exhausted: false }
    }

    /// Adds a pod to a node and puts it in force there.
    pub fn add_pod(&mut self, node: usize) -> SimPod {
        let n = &mut self.nodes[node];
        let port = (PortId::FIRST_POD.0..).map(PortId).find(|p| n.config.ports.iter().all(|(id, _)| id != p));
        let port = port.unwrap_or(PortId::FIRST_POD);
        let incarnation = n.snapshot.generation();
        let (a, b) = (node as u8 + 1, port.0 as u8 + 8);
        let pod = SimPod {
            node,
            port,
            mac: Mac([2, 0, 0, 1, a, b]),
            v4: Ipv4Addr::new(10, 244, a, b),
            v6: Ipv6Addr::new(0xfd00, 0x244, a.into(), 0, 0, 0, 0, b.into()),
        };
        let home = WorkerId((port.0 % u16::from(self.config.workers)) as u8);
        let (v4, v6) = (Some(pod.v4), Some(pod.v6));
        let entry = PortEntry {
            kind: PortClass::Pod,
            home,
            mac: pod.mac,
            v4,
            v6,
            mtu: self.config.pod_mtu,
            incarnation,
            policy: PortPolicy::default(),
        };
        n.config.ports.push((port, entry));
        n.publish();
        self.pods.push(pod);
        pod
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, pod: SimPod) {
        let n = &mut self.nodes[pod.node];
        n.config.ports.retain(|(id, _)| *id != pod.port);
        n.publish();
        self.pods.retain(|p| *p != pod);
    }

    /// A frame comes in by a port. From the uplink, `worker` receives it; from others, the port's home.
    pub fn inject(&mut self, node: usize, port: PortId, worker: WorkerId, mut buf: VecBuf) {
        let n = &mut self.nodes[node];
        buf.meta_mut().port = port;
        let to = match port {
            PortId::UPLINK => worker,
            _ => n.snapshot.port(port).map_or(WorkerId(0), |p| p.home),
        };
        n.injected += 1;
        n.queues[to.index()].packets.push_back(buf);
    }

    /// One round of one worker's loop. Returns whether it had anything to do.
    pub fn step(&mut self, node: usize, worker: usize) -> bool {
        let tail = self.nodes[node].queues[worker].halves.len();
        self.round(node, worker, tail)
    }

    /// A round of a worker whose queue of half-entries was still empty when it looked: what the others push meanwhile
    /// comes too late for it.
    pub fn step_blind(&mut self, node: usize, worker: usize) -> bool {
        self.round(node, worker, 0)
    }

    /// A round that takes the first `tail` messages.
    fn round(&mut self, node: usize, worker: usize, tail: usize) -> bool {
        let n = &mut self.nodes[node];
        let mut burst: ArrayVec<VecBuf, BURST> = ArrayVec::new();
        let queue = &mut n.queues[worker];
        while let Some(buf) = queue.packets.pop_front() {
            queue.handed = queue.handed.saturating_sub(1);
            burst.push(buf);
            if burst.is_full() {
                break;
            }
        }
        let busy = tail > 0 || !burst.is_empty();
        let snapshot = Arc::clone(n.behind[worker].as_ref().unwrap_or(&n.snapshot));
        for _ in 0..tail {
            let Some(msg) = n.queues[worker].halves.pop_front() else { break };
            n.call(worker, self.now, self.exhausted, &self.config, |engine, env| engine.inbox(&snapshot, env, msg));
        }
        n.call(worker, self.now, self.exhausted, &self.config, |engine, env| {
            engine.burst(&snapshot, env, &mut burst);
            engine.housekeep(&snapshot, env);
        });
        self.carry(node);
        busy
    }

    /// Takes frames from a node's uplink to the node that they are addressed to.
    fn carry(&mut self, from: usize) {
        let frames = std::mem::take(&mut self.nodes[from].wire);
        for mut buf in frames {
            let to = self.nodes.iter().position(|n| buf.head().starts_with(&n.uplink_mac().0));
            match to {
                Some(to) if to != from => {
                    // What a device without offloads does on the way out and finds on the way in.
                    let _ = checksum::complete(&mut buf);
                    *buf.meta_mut() = Meta { csum: Csum::Unknown, ..Meta::default() };
                    // By the outer flow, as a NIC's receive-side scaling or a fanout does.
                    let flow = if buf.head()[12..14] == [0x86, 0xdd] { 22..58 } else { 26..38 };
                    let flow = buf.head().get(flow).unwrap_or_default();
                    let spread = flow.iter().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
                    let worker = WorkerId((spread % usize::from(self.config.workers)) as u8);
                    self.inject(to, PortId::UPLINK, worker, buf);
                }
                _ => self.nodes[from].delivered.push((PortId::UPLINK, buf)),
            }
        }
    }

    /// Lets all workers run until none has anything to do.
    pub fn settle(&mut self) {
        loop {
            let mut busy = false;
            for node in 0..self.nodes.len() {
                for worker in 0..usize::from(self.config.workers) {
                    busy |= self.step(node, worker);
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Moves the time on in steps of a quarter of a second, and lets everything run.
    pub fn advance(&mut self, millis: Millis) {
        let end = self.now.wrapping_add(millis);
        while self.now != end {
            self.now = self.now.wrapping_add(end.wrapping_sub(self.now).min(250));
            self.settle();
        }
    }

    /// Takes what was delivered to a port of a node.
    pub fn take(&mut self, node: usize, port: PortId) -> Vec<VecBuf> {
        let all = std::mem::take(&mut self.nodes[node].delivered);
        let (mine, rest) = all.into_iter().partition(|(p, _)| *p == port);
        self.nodes[node].delivered = rest;
        let mine: Vec<(PortId, VecBuf)> = mine;
        mine.into_iter().map(|(_, b)| b).collect()
    }

    /// All drops of a reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.nodes.iter().flat_map(|n| &n.counters).map(|c| c.total_drops(reason)).sum()
    }

    /// Every reason that dropped something, and how often.
    pub fn all_drops(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL.iter().map(|r| (r.name(), self.drops(*r))).filter(|(_, n)| *n > 0).collect()
    }

    /// Half-entries in use in the whole cluster.
    pub fn flows(&self) -> usize {
        self.nodes.iter().flat_map(|n| &n.engines).map(|e| e.gauges().flows).sum()
    }

    /// Fragments held in the whole cluster.
    pub fn held(&self) -> usize {
        self.nodes.iter().flat_map(|n| &n.engines).map(|e| e.gauges().held_fragments).sum()
    }

    /// All directions of all flows of a node.
    pub fn dump(&self, node: usize) -> Vec<FlowView> {
        let mut all = Vec::new();
        for engine in &self.nodes[node].engines {
            let mut cursor = Cursor::default();
            while engine.dump(self.now, &mut cursor, 100, &mut |flow| all.push(flow)) {}
        }
        all
    }

    /// Whether every packet is accounted for: what came in or was made left, was dropped by name, was replaced by its
    /// fragments, or is held.
    ///
    /// # Errors
    /// The two sides of the account.
    pub fn conserved(&self) -> Result<(), String> {
        for (i, n) in self.nodes.iter().enumerate() {
            let dropped: u64 =
                DropReason::ALL.iter().map(|r| n.counters.iter().map(|c| c.total_drops(*r)).sum::<u64>()).sum();
            let gauges = n.engines.iter().map(Engine::gauges);
            let (held, replaced) = gauges
                .fold((0, 0), |(h, r), g| (h + (g.held_fragments + g.waiting) as u64 + g.abandoned, r + g.replaced));
            let queued: u64 = n.queues.iter().map(|q| q.packets.len() as u64).sum();
            let came = n.injected + n.allocated;
            let went = n.transmitted + dropped + held + replaced + queued;
            if came != went {
                return Err(format!(
                    "node {i}: {came} in ({} made), {went} accounted for: {} out, {dropped} dropped, {held} held, \
                     {replaced} replaced, {queued} queued",
                    n.allocated, n.transmitted
                ));
            }
        }
        Ok(())
    }
}

impl SimNode {
    fn new(n: u8, sim: &SimConfig) -> SimNode {
        let config = node_config(n, sim);
        let snapshot = Arc::new(Snapshot::compile(&config, None).expect("the simulator's configuration"));
        let counters: Vec<_> = (0..sim.workers).map(|_| Arc::new(WorkerCounters::new(sim.counted_ports))).collect();
        let engine = |w: u8| {
            Engine::new(EngineConfig {
                worker: WorkerId(w),
                workers: sim.workers,
                flow_capacity: sim.flow_capacity,
                port_quota: sim.port_quota,
                memory: Want::Base,
                fragments: Limits { datagrams: 64, held: 64, ..Limits::default() },
                seed: [7, u64::from(n)],
                now: 1_000_000,
                counters: Arc::clone(&counters[usize::from(w)]),
            })
            .expect("memory for a small flow table")
        };
        SimNode {
            config,
            snapshot,
            engines: (0..sim.workers).map(engine).collect(),
            queues: (0..sim.workers).map(|_| Queues::default()).collect(),
            counters,
            delivered: Vec::new(),
            asked: Vec::new(),
            behind: vec![None; sim.workers.into()],
            wire: Vec::new(),
            allocated: 0,
            injected: 0,
            transmitted: 0,
        }
    }

    /// Compiles [`SimNode::config`] and puts it in force.
    ///
    /// # Panics
    /// If it cannot be compiled.
    pub fn publish(&mut self) {
        let next = Snapshot::compile(&self.config, Some(&self.snapshot)).expect("the simulator's configuration");
        self.snapshot = Arc::new(next);
    }

    /// Gives the engines these flows, one store for each by number, and gets theirs: what a process does that goes on with
    /// the flows of a former one.
    pub fn exchange_flows(&mut self, stores: &mut [FlowStore]) {
        self.engines.iter_mut().zip(stores).for_each(|(engine, store)| engine.exchange_flows(store));
    }

    /// The uplink's MAC.
    pub fn uplink_mac(&self) -> Mac {
        self.snapshot.port(PortId::UPLINK).map_or(Mac::BROADCAST, |p| p.mac)
    }

    fn call<R>(
        &mut self,
        worker: usize,
        now: Millis,
        exhausted: bool,
        sim: &SimConfig,
        f: impl FnOnce(&mut Engine<VecBuf>, &mut SimEnv<'_>) -> R,
    ) -> R {
        let mut env = SimEnv {
            now,
            me: WorkerId(worker as u8),
            exhausted,
            limits: (sim.hand_over_queue, sim.half_queue),
            queues: &mut self.queues,
            delivered: &mut self.delivered,
            asked: &mut self.asked,
            wire: &mut self.wire,
            allocated: &mut self.allocated,
            transmitted: &mut self.transmitted,
        };
        f(&mut self.engines[worker], &mut env)
    }
}

/// The address of a node on the underlay.
pub fn node_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node as u8 + 1)
}

/// The same in IPv6.
pub fn node_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node as u16 + 1)
}

/// The node's own address in its IPv4 pod range.
pub fn gateway_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node as u8 + 1, 1)
}

/// The same in IPv6.
pub fn gateway_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, node as u16 + 1, 0, 0, 0, 0, 1)
}

fn node_mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0xaa, n + 1])
}

fn vtep(n: u8, sim: &SimConfig) -> IpAddr {
    if sim.underlay_v6 { node_v6(n.into()).into() } else { node_v4(n.into()).into() }
}

fn addresses(n: u8) -> Vec<IpAddr> {
    vec![node_v4(n.into()).into(), node_v6(n.into()).into()]
}

fn pod_cidrs(n: u8) -> Vec<Prefix> {
    vec![
        Prefix { addr: Ipv4Addr::new(10, 244, n + 1, 0).into(), len: 24 },
        Prefix { addr: Ipv6Addr::new(0xfd00, 0x244, u16::from(n) + 1, 0, 0, 0, 0, 0).into(), len: 64 },
    ]
}

fn node_config(n: u8, sim: &SimConfig) -> SnapshotConfig {
    let port = |kind| PortEntry {
        kind,
        home: WorkerId(0),
        mac: node_mac(n),
        v4: None,
        v6: None,
        mtu: sim.uplink_mtu,
        incarnation: 0,
        policy: PortPolicy::default(),
    };
    let peer = |p: u8| PeerConfig {
        vtep: vtep(p, sim),
        addresses: addresses(p),
        pod_cidrs: pod_cidrs(p),
        next_hop: Some(node_mac(p)),
    };
    SnapshotConfig {
        workers: sim.workers,
        seed: [3, 4],
        ports: vec![(PortId::UPLINK, port(PortClass::Uplink)), (PortId::HOST, port(PortClass::Host))],
        local: Some(LocalConfig {
            vtep: vtep(n, sim),
            addresses: addresses(n),
            unannounced: Vec::new(),
            pod_cidrs: pod_cidrs(n),
            vni: Vni::try_from(4242).unwrap_or_else(|e| unreachable!("{e}")),
            pod_mtu: sim.pod_mtu,
            service_cidrs: Vec::new(),
            no_masquerade: Vec::new(),
            masquerade: None,
            cluster_seed: [5, 6],
        }),
        peers: (0..sim.nodes).filter(|p| *p != n).map(peer).collect(),
        ..SnapshotConfig::default()
    }
}
