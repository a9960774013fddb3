//! One worker without queues, whose buffers come back: what benchmarks and the allocation test run.
#![allow(dead_code, reason = "shared by several test programs, none of which uses all of it")]

use std::sync::Arc;

use arrayvec::ArrayVec;
use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{Mac, PortId, Vni, WorkerId};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::counters::WorkerCounters;
use podplane_pipeline::snapshot::{LocalConfig, PeerConfig, PortClass, PortEntry, Prefix, Snapshot, SnapshotConfig};
use podplane_pipeline::{BURST, Engine, EngineConfig, Env, HalfMsg, Millis, Pass};
use podplane_tables::mem::Want;
use podplane_tables::reasm::Limits;

/// Keeps transmitted buffers for the next burst.
pub struct Loop {
    pub now: Millis,
    pub out: ArrayVec<VecBuf, BURST>,
}

impl Env for Loop {
    type Buf = VecBuf;

    fn now(&self) -> Millis {
        self.now
    }

    fn alloc(&mut self) -> Option<VecBuf> {
        None
    }

    fn transmit(&mut self, _port: PortId, buf: VecBuf, _pass: Pass) {
        self.out.push(buf);
    }

    fn hand_over(&mut self, _to: WorkerId, buf: VecBuf) -> Result<(), VecBuf> {
        Err(buf)
    }

    fn push_half(&mut self, _to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg> {
        Err(msg)
    }
}

/// A worker between two pods, or a pod and a peer.
pub struct Bare {
    pub engine: Engine<VecBuf>,
    pub snapshot: Snapshot,
    pub env: Loop,
    /// The packet as it is received, to be written over what a buffer carries.
    template: Vec<u8>,
    burst: ArrayVec<VecBuf, BURST>,
}

impl Bare {
    pub fn new(flows: usize, tunnel: bool) -> Bare {
        let port = |kind, last: u8| PortEntry {
            kind,
            home: WorkerId(0),
            mac: Mac([2, 0, 0, 0, 0, last]),
            v4: (kind == PortClass::Pod).then_some([10, 0, 0, last].into()),
            v6: None,
            mtu: 1500,
            incarnation: 0,
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
            burst: (0..BURST).map(|_| VecBuf::new(&template)).collect(),
            template,
        }
    }

    /// A burst of 32 packets of the flows from `first` on.
    pub fn burst(&mut self, first: u32) {
        self.burst_of(|i| first + i);
    }

    /// A burst of 32 packets; `flow` numbers the flow of each.
    pub fn burst_of(&mut self, flow: impl Fn(u32) -> u32) {
        for (i, buf) in self.burst.iter_mut().enumerate() {
            let extra = buf.len() - self.template.len();
            if extra > 0 {
                assert!(buf.adj(extra));
            }
            let head = buf.head_mut();
            head.copy_from_slice(&self.template);
            let ports = flow(i as u32).to_be_bytes();
            head[34..38].copy_from_slice(&ports);
            *buf.meta_mut() = podplane_packet::buf::Meta { port: PortId(2), ..Default::default() };
        }
        self.engine.burst(&self.snapshot, &mut self.env, &mut self.burst);
        assert_eq!(self.env.out.len(), BURST, "all are forwarded");
        std::mem::swap(&mut self.burst, &mut self.env.out);
    }

    pub fn housekeep(&mut self) {
        self.engine.housekeep(&self.snapshot, &mut self.env);
    }

    pub fn flows(&self) -> usize {
        self.engine.gauges().flows
    }
}
