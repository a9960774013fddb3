//! One worker without queues, whose buffers come back: what benchmarks and the allocation test run.
#![allow(dead_code, reason = "shared by several test programs, none of which uses all of it")]

use std::sync::Arc;

use arrayvec::ArrayVec;
use podplane_packet::buf::{Meta, PacketBuf};
use podplane_packet::id::{Mac, PortId, Vni, WorkerId};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::counters::WorkerCounters;
use podplane_pipeline::snapshot::services::{
    Backend, Choice, FrontendConfig, FrontendKind, Protocol, ServiceConfig, ServiceId, ServiceMap,
};
use podplane_pipeline::snapshot::{
    LocalConfig, PeerConfig, PortClass, PortEntry, PortPolicy, Prefix, Snapshot, SnapshotConfig,
};
use podplane_pipeline::{BURST, Engine, EngineConfig, Env, HalfMsg, Millis, Pass};
use podplane_tables::mem::Want;
use podplane_tables::policy::{Action, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, SelectorId, Tier};
use podplane_tables::reasm::Limits;

/// A pointer to its packet, as a real buffer is.
pub struct Handle(Box<VecBuf>);

impl PacketBuf for Handle {
    fn head(&self) -> &[u8] {
        self.0.head()
    }

    fn head_mut(&mut self) -> &mut [u8] {
        self.0.head_mut()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.0.prepend(n)
    }

    fn adj(&mut self, n: usize) -> bool {
        self.0.adj(n)
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        self.0.append(bytes)
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) -> bool {
        self.0.copy_to(offset, dst)
    }

    fn for_each_slice(&self, offset: usize, len: usize, f: &mut dyn FnMut(&[u8])) -> bool {
        self.0.for_each_slice(offset, len, f)
    }

    fn meta(&self) -> &Meta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut Meta {
        self.0.meta_mut()
    }
}

/// Keeps transmitted buffers for the next burst.
pub struct Loop {
    pub now: Millis,
    pub out: ArrayVec<Handle, BURST>,
}

impl Env for Loop {
    type Buf = Handle;

    fn now(&self) -> Millis {
        self.now
    }

    fn alloc(&mut self) -> Option<Handle> {
        None
    }

    fn transmit(&mut self, _port: PortId, buf: Handle, _pass: Pass) {
        self.out.push(buf);
    }

    fn hand_over(&mut self, _to: WorkerId, buf: Handle) -> Result<(), Handle> {
        Err(buf)
    }

    fn push_half(&mut self, _to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg> {
        Err(msg)
    }
}

/// A worker between two pods, or a pod and a peer.
pub struct Bare {
    pub engine: Engine<Handle>,
    pub snapshot: Snapshot,
    pub env: Loop,
    config: SnapshotConfig,
    services: u32,
    /// The packet as it is received, to be written over what a buffer carries.
    template: Vec<u8>,
    burst: ArrayVec<Handle, BURST>,
}

/// The address of a Service: in 10.96.0.0/12.
fn service_address(n: u32) -> [u8; 4] {
    (u32::from_be_bytes([10, 96, 0, 0]) + n).to_be_bytes()
}

/// Services with ten endpoints each, all at one pod, and all sets different.
fn services(count: u32) -> ServiceMap {
    let service = |n: u32| {
        let mut set: Vec<Backend> = (0..10)
            .map(|i| Backend { address: [10, 0, 0, 3].into(), port: 1 + ((n * 10 + i) * 7919 % 65_521) as u16 })
            .collect();
        set.sort();
        set.dedup();
        let frontend = FrontendConfig {
            kind: FrontendKind::ClusterIp,
            address: service_address(n).into(),
            port: 80,
            inside: Choice::Set(0),
            outside: Choice::Set(0),
            sources: None,
        };
        let (protocol, frontends) = (Protocol::Udp, vec![frontend]);
        Arc::new(ServiceConfig { protocol, affinity_seconds: None, sets: vec![set], frontends })
    };
    (0..count).map(|n| (ServiceId(n), service(n))).collect()
}

impl Bare {
    /// A worker between two pods, one of which uses the other by way of so many Services with ten endpoints each.
    pub fn with_services(flows: usize, count: u32) -> Bare {
        let mut bare = Bare::new(flows, false);
        bare.config.services = services(count);
        bare.services = count;
        bare.snapshot = Snapshot::compile(&bare.config, Some(&bare.snapshot)).expect("a valid configuration");
        bare
    }

    /// Gives both pods so many rules, in the direction of the traffic: all overlap it, by the peer or by the ports, and the
    /// last one alone by both, which accepts.
    pub fn obey(&mut self, rules: u32) {
        let policy = &mut self.config.policy;
        let last = rules.saturating_sub(1);
        for i in 0..rules {
            let all = |protocol| Ports { protocol, first: 0, last: u16::MAX };
            let (peers, ports) = match i {
                i if i == last => (PeersSpec::Any, None),
                i => {
                    let selectors = [SelectorId(i)].into();
                    (
                        PeersSpec::Of { selectors, nets: Box::default() },
                        Some([all(if i % 2 == 0 { 6 } else { 17 })].into()),
                    )
                }
            };
            let spec = RuleSpec { tier: Tier::NetworkPolicy, action: Action::Accept, peers, named: None, ports };
            policy.rules.insert(RuleId(i), Arc::new(spec));
        }
        policy.sets.insert(RuleSetId(1), (0..rules).map(RuleId).collect());
        let even: Vec<SelectorId> = (0..rules).step_by(2).map(SelectorId).collect();
        for address in [[10, 0, 0, 2], [10, 0, 0, 3], [10, 0, 1, 3]] {
            policy.addresses.insert(address.into(), even.as_slice().into());
        }
        let set = Some(RuleSetId(1));
        self.judge_by(PortPolicy { ingress: set, egress: set });
    }

    /// Denies everything to the second pod.
    pub fn isolate(&mut self) {
        let (tier, action) = (Tier::NetworkPolicy, Action::Deny);
        let spec = RuleSpec { tier, action, peers: PeersSpec::Any, named: None, ports: None };
        self.config.policy.rules.insert(RuleId(1), Arc::new(spec));
        self.config.policy.sets.insert(RuleSetId(1), [RuleId(1)].into());
        self.judge_by(PortPolicy { ingress: Some(RuleSetId(1)), egress: None });
    }

    fn judge_by(&mut self, policy: PortPolicy) {
        for (_, entry) in self.config.ports.iter_mut().filter(|(_, entry)| entry.kind == PortClass::Pod) {
            entry.policy = policy;
        }
        self.snapshot = Snapshot::compile(&self.config, Some(&self.snapshot)).expect("a valid configuration");
    }

    /// Changes one Service's endpoints and compiles.
    pub fn change_one(&mut self, n: u32) {
        let id = ServiceId(n % self.services);
        let mut service = ServiceConfig::clone(self.config.services.get(id).expect("there"));
        let set = &mut service.sets[0];
        let other = Backend { address: [10, 0, 0, 2].into(), port: 9 };
        match set.iter().position(|b| *b == other) {
            Some(at) => drop(set.remove(at)),
            None => set.insert(0, other),
        }
        self.config.services.insert(id, Arc::new(service));
        self.snapshot = Snapshot::compile(&self.config, Some(&self.snapshot)).expect("a valid configuration");
    }

    /// A burst of 32 packets to Services; `flow` numbers the flow of each.
    pub fn burst_to_services(&mut self, flow: impl Fn(u32) -> u32) {
        self.write_to_services(flow);
        self.run();
    }

    /// Writes the packets of [`Bare::burst_to_services`].
    pub fn write_to_services(&mut self, flow: impl Fn(u32) -> u32) {
        for (i, buf) in self.burst.iter_mut().enumerate() {
            let extra = buf.len() - self.template.len();
            if extra > 0 {
                assert!(buf.adj(extra));
            }
            let n = flow(i as u32);
            let head = buf.head_mut();
            head.copy_from_slice(&self.template);
            head[30..34].copy_from_slice(&service_address(n % self.services));
            head[34..36].copy_from_slice(&((n / self.services + 1024) as u16).to_be_bytes());
            head[36..38].copy_from_slice(&80u16.to_be_bytes());
            // The template's sum holds with the destination that it has.
            let sum = u16::from_be_bytes([self.template[24], self.template[25]]);
            let word = |b: &[u8], at: usize| u32::from(u16::from_be_bytes([b[at], b[at + 1]]));
            let (old, new) = (word(&self.template, 30) + word(&self.template, 32), word(head, 30) + word(head, 32));
            let sum = podplane_packet::checksum::update(sum, old, new);
            head[24..26].copy_from_slice(&sum.to_be_bytes());
            *buf.meta_mut() = Meta { port: PortId(2), ..Default::default() };
        }
    }

    pub fn new(flows: usize, tunnel: bool) -> Bare {
        let port = |kind, last: u8| PortEntry {
            kind,
            home: WorkerId(0),
            mac: Mac([2, 0, 0, 0, 0, last]),
            v4: (kind == PortClass::Pod).then_some([10, 0, 0, last].into()),
            v6: None,
            mtu: 1500,
            incarnation: 0,
            policy: PortPolicy::default(),
        };
        let config = SnapshotConfig {
            workers: 1,
            seed: [1, 2],
            ports: vec![
                (PortId::UPLINK, port(PortClass::Uplink, 1)),
                (PortId::HOST, port(PortClass::Host, 1)),
                (PortId(2), port(PortClass::Pod, 2)),
                (PortId(3), port(PortClass::Pod, 3)),
            ],
            local: Some(LocalConfig {
                vtep: [192, 0, 2, 1].into(),
                addresses: vec![[192, 0, 2, 1].into()],
                unannounced: Vec::new(),
                pod_cidrs: vec![Prefix { addr: [10, 0, 0, 0].into(), len: 24 }],
                vni: Vni::try_from(1).expect("a VNI"),
                pod_mtu: 1450,
                service_cidrs: Vec::new(),
                no_masquerade: Vec::new(),
                masquerade: None,
                cluster_seed: [5, 6],
            }),
            peers: vec![PeerConfig {
                vtep: [192, 0, 2, 2].into(),
                addresses: vec![],
                pod_cidrs: vec![Prefix { addr: [10, 0, 1, 0].into(), len: 24 }],
                next_hop: Some(Mac([2, 0, 0, 0, 0, 9])),
            }],
            ..SnapshotConfig::default()
        };
        let engine = Engine::new(EngineConfig {
            worker: WorkerId(0),
            workers: 1,
            flow_capacity: flows,
            port_quota: u32::MAX,
            memory: Want::Base,
            fragments: Limits::default(),
            seed: [3, 4],
            now: 0,
            counters: Arc::new(WorkerCounters::new(8)),
        });
        let spec = FrameSpec {
            dst_mac: Mac::GATEWAY,
            src_mac: Mac([2, 0, 0, 0, 0, 2]),
            vlan: None,
            tos: 0,
            ttl: 64,
            ip: Ip::V4 {
                src: [10, 0, 0, 2].into(),
                dst: if tunnel { [10, 0, 1, 3] } else { [10, 0, 0, 3] }.into(),
                id: 1,
                df: true,
                options: Vec::new(),
            },
            l4: Transport::Udp { sport: 0, dport: 0 },
            payload: vec![0; 18],
        };
        let template = spec.build();
        Bare {
            engine: engine.expect("memory for the flow table"),
            snapshot: Snapshot::compile(&config, None).expect("a valid configuration"),
            env: Loop { now: 0, out: ArrayVec::new() },
            config,
            services: 1,
            burst: (0..BURST).map(|_| Handle(Box::new(VecBuf::new(&template)))).collect(),
            template,
        }
    }

    /// A burst of 32 packets of the flows from `first` on.
    pub fn burst(&mut self, first: u32) {
        self.burst_of(|i| first + i);
    }

    /// A burst of 32 packets; `flow` numbers the flow of each.
    pub fn burst_of(&mut self, flow: impl Fn(u32) -> u32) {
        self.write(flow);
        self.run();
    }

    /// Writes the packets of [`Bare::burst_of`].
    pub fn write(&mut self, flow: impl Fn(u32) -> u32) {
        for (i, buf) in self.burst.iter_mut().enumerate() {
            let extra = buf.len() - self.template.len();
            if extra > 0 {
                assert!(buf.adj(extra));
            }
            let head = buf.head_mut();
            head.copy_from_slice(&self.template);
            let ports = flow(i as u32).to_be_bytes();
            head[34..38].copy_from_slice(&ports);
            *buf.meta_mut() = Meta { port: PortId(2), ..Default::default() };
        }
    }

    /// Takes the packets that were written through the engine; their buffers are then there for the next.
    pub fn run(&mut self) {
        self.engine.burst(&self.snapshot, &mut self.env, &mut self.burst);
        assert_eq!(self.env.out.len(), BURST, "all are forwarded");
        std::mem::swap(&mut self.burst, &mut self.env.out);
    }

    /// The same for packets that are all dropped. `around` is called around the engine's part.
    pub fn run_denied(&mut self, around: &mut dyn FnMut()) {
        around();
        self.engine.burst(&self.snapshot, &mut self.env, &mut self.burst);
        around();
        assert!(self.env.out.is_empty(), "none is forwarded");
        self.burst.extend((0..BURST).map(|_| Handle(Box::new(VecBuf::new(&self.template)))));
    }

    pub fn housekeep(&mut self) {
        self.engine.housekeep(&self.snapshot, &mut self.env);
    }

    pub fn flows(&self) -> usize {
        self.engine.gauges().flows
    }
}
