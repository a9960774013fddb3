//! One worker's whole packet path.

use std::sync::Arc;

use arrayvec::ArrayVec;
use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::affinity::Affinity;
use podplane_tables::flow::{FlowError, Timeouts, V4, V6};
use podplane_tables::mem::Want;
use podplane_tables::reached;
use podplane_tables::reasm::{Limits, Outcome, Reassembly};
use thiserror::Error;

use crate::counters::WorkerCounters;
use crate::env::{BURST, Env, Millis};
use crate::flows::{Bulk, Flows};
use crate::graph::{NodeId, Stage, process};
use crate::halves::{self, Body, HalfMsg};
use crate::limiter::Limiters;
use crate::nodes::{Next, Pkt, World, reassemble};
use crate::pending::{self, Pending};
use crate::pmtu::Pmtu;
use crate::snapshot::Snapshot;
use crate::world::{AnyKey, Ctx, Held};

/// Clients whose backends a worker remembers: 3 MiB.
const AFFINITY: usize = 64 * 1024;
/// Of these, how many one call of housekeeping looks at.
const AFFINITY_SWEEP: usize = 16;

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which worker runs it.
    pub worker: WorkerId,
    /// How many workers there are.
    pub workers: u8,
    /// How many half-entries of each family its flow table holds.
    pub flow_capacity: usize,
    /// How many of them may be charged to one pod.
    pub port_quota: u32,
    /// What memory the flow tables want.
    pub memory: Want,
    /// What virtual reassembly may hold.
    pub fragments: Limits,
    /// Random key of the hashes.
    pub seed: [u64; 2],
    /// The time at which it starts, on [`Env::now`]'s clock.
    pub now: Millis,
    /// Where it counts.
    pub counters: Arc<WorkerCounters>,
}

/// Why an engine cannot be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The worker's number is not below the number of workers.
    #[error("worker {0:?} of {1}: workers are numbered from 0")]
    Worker(WorkerId, u8),
    /// The flow tables cannot be made.
    #[error(transparent)]
    Flows(#[from] FlowError),
}

/// What a worker keeps from burst to burst. Written by that worker alone.
#[derive(Debug)]
pub(crate) struct State<B> {
    pub(crate) worker: WorkerId,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) flows: Flows,
    pub(crate) pmtu: Pmtu,
    pub(crate) limiters: Limiters,
    pub(crate) affinity: Affinity,
    pub(crate) pending: Pending<B>,
    pub(crate) reassembly: Reassembly<Held<B>>,
    /// Room for the fragments that one arrival sets free; empty between packets.
    pub(crate) freed: Vec<Outcome<Held<B>>>,
    /// See [`Gauges`].
    pub(crate) replaced: u64,
    pub(crate) abandoned: u64,
}

/// How full a worker's tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Half-entries in use, of both families.
    pub flows: usize,
    /// Half-entries that there is room for, of both families.
    pub flow_capacity: usize,
    /// Fragments held.
    pub held_fragments: usize,
    /// Fragments that may be held.
    pub fragment_capacity: usize,
    /// Datagrams followed by virtual reassembly.
    pub datagrams: usize,
    /// Packets that wait for a neighbour on the uplink's network.
    pub waiting: usize,
    /// Clients whose backend is remembered (`sessionAffinity: ClientIP`).
    pub affinities: usize,
    /// Clients that can be remembered.
    pub affinity_capacity: usize,
    /// Packets that were freed because their fragments, or an answer, left in their place. Counts up.
    pub replaced: u64,
    /// Buffers that were taken and given back unused. Counts up.
    pub abandoned: u64,
}

/// One worker's whole packet path: it owns the worker's flows and held fragments and nothing else.
#[derive(Debug)]
pub struct Engine<B: PacketBuf> {
    state: State<B>,
    /// Of the packets of a burst, by their number in it; of no use between bursts.
    contexts: Box<[Ctx; BURST]>,
}

impl<B: PacketBuf> Engine<B> {
    /// Makes an engine with empty tables. All memory that it will ever use is taken here.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn new(cfg: EngineConfig) -> Result<Self, EngineError> {
        if cfg.worker.0 >= cfg.workers {
            return Err(EngineError::Worker(cfg.worker, cfg.workers));
        }
        let flows = Flows::new(cfg.worker, cfg.flow_capacity, cfg.port_quota, cfg.seed, cfg.memory, cfg.now)?;
        let freed = Vec::with_capacity(cfg.fragments.fragments + 1);
        Ok(Engine {
            state: State {
                worker: cfg.worker,
                counters: cfg.counters,
                flows,
                pmtu: Pmtu::new(),
                limiters: Limiters::new(cfg.now),
                affinity: Affinity::new(AFFINITY, cfg.seed),
                pending: Pending::new(),
                reassembly: Reassembly::new(cfg.fragments, cfg.seed),
                freed,
                replaced: 0,
                abandoned: 0,
            },
            contexts: Box::new(std::array::from_fn(|_| Ctx::new(PortId::UPLINK))),
        })
    }

    /// Takes a burst of packets through the graph; all are consumed. `meta().port` says where each came from; packets
    /// that other workers handed over are given here like those that were received.
    ///
    /// The stages: examine all (headers, owner, flow key; flow lines are prefetched), look all flows up at once, then
    /// act on each packet in order of arrival.
    pub fn burst<E: Env<Buf = B>>(&mut self, snap: &Snapshot, env: &mut E, burst: &mut ArrayVec<B, BURST>) {
        let mut packets: ArrayVec<B, BURST> = ArrayVec::new();
        let now = env.now();
        let mut w = World { snap, env, st: &mut self.state, now };
        for buf in burst.drain(..) {
            let (port, len, gathered) = (buf.meta().port, buf.len() as u64, buf.meta().gathered);
            let Some(ctx) = self.contexts.get_mut(packets.len()) else { break };
            *ctx = Ctx::new(port);
            let mut p = Pkt { buf, ctx };
            let next = run(&mut w, &mut p, NodeId::Classify, Stage::Examine);
            // What another worker gathered was counted there.
            if !matches!(next, Next::HandOver(_)) && !gathered {
                w.st.counters.count_rx(port, 1, len);
            }
            match next {
                Next::To(node) => {
                    p.ctx.next = node;
                    packets.push(p.buf);
                }
                end => w.finish(p, end),
            }
        }
        lookup(&mut w.st.flows, &mut self.contexts[..packets.len()]);
        for (buf, ctx) in packets.drain(..).zip(self.contexts.iter_mut()) {
            let first = ctx.next;
            let mut p = Pkt { buf, ctx };
            let next = run(&mut w, &mut p, first, Stage::Act);
            w.finish(p, next);
        }
    }

    /// Takes one message about half-entries from another worker. Drain the queues to their observed tails after
    /// receiving packets and before [`Engine::burst`].
    pub fn inbox<E: Env<Buf = B>>(&mut self, snap: &Snapshot, env: &mut E, msg: HalfMsg) {
        let _ = snap;
        match msg.body {
            Body::V4(m) => halves::receive::<V4, E>(&mut self.state.flows, env, msg.from, m),
            Body::V6(m) => halves::receive::<V6, E>(&mut self.state.flows, env, msg.from, m),
            Body::Pmtu { vtep, since, mtu } => self.state.pmtu.learn(vtep, since, mtu, env.now()),
        }
    }

    /// Bounded upkeep: expires flows and held fragments. Call it every few loops, and when
    /// [`Engine::next_deadline`] is reached.
    pub fn housekeep<E: Env<Buf = B>>(&mut self, snap: &Snapshot, env: &mut E) {
        halves::expire::<V4, E>(&mut self.state.flows, env, snap);
        halves::expire::<V6, E>(&mut self.state.flows, env, snap);
        let now = env.now();
        let mut w = World { snap, env, st: &mut self.state, now };
        reassemble::expire(&mut w);
        pending::run(&mut w);
        w.st.affinity.sweep(now, AFFINITY_SWEEP);
    }

    /// When [`Engine::housekeep`] has something to do next; `None`: not before a packet or message comes.
    pub fn next_deadline(&self) -> Option<Millis> {
        let st = &self.state;
        let all = [
            st.flows.v4.wheel.next_deadline(),
            st.flows.v6.wheel.next_deadline(),
            st.reassembly.next_deadline(),
            st.pending.next_deadline(),
        ];
        all.into_iter().flatten().reduce(|a, b| if reached(b, a) { a } else { b })
    }

    /// What it keeps from burst to burst.
    pub(crate) fn state_mut(&mut self) -> &mut State<B> {
        &mut self.state
    }

    pub(crate) fn flows_mut(&mut self) -> &mut Flows {
        &mut self.state.flows
    }

    /// How long flows of each class may be silent from now on, instead of [`TIMEOUTS`](crate::TIMEOUTS).
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.state.flows.set_timeouts(timeouts);
    }

    /// The flows.
    pub(crate) fn flows(&self) -> &Flows {
        &self.state.flows
    }

    /// How full the tables are.
    pub fn gauges(&self) -> Gauges {
        let st = &self.state;
        Gauges {
            flows: st.flows.len(),
            flow_capacity: st.flows.v4.table.capacity() + st.flows.v6.table.capacity(),
            held_fragments: st.reassembly.held(),
            fragment_capacity: st.reassembly.capacity(),
            datagrams: st.reassembly.datagrams(),
            waiting: st.pending.len(),
            affinities: st.affinity.len(),
            affinity_capacity: st.affinity.capacity(),
            replaced: st.replaced,
            abandoned: st.abandoned,
        }
    }
}

/// Runs nodes from `node` on while they belong to `stage`.
#[inline]
fn run<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>, node: NodeId, stage: Stage) -> Next {
    let mut node = node;
    loop {
        match process(node, w, p) {
            Next::To(next) if next.stage() == stage => node = next,
            end => return end,
        }
    }
}

/// Takes one packet from an acting node to its end.
pub(crate) fn walk<E: Env>(w: &mut World<'_, E>, mut p: Pkt<'_, E::Buf>, from: NodeId) {
    let next = run(w, &mut p, from, Stage::Act);
    w.finish(p, next);
}

/// Looks the flows of a burst up at once.
fn lookup(flows: &mut Flows, contexts: &mut [Ctx]) {
    flows.ended = false;
    let (mut v4, mut v6) = (Bulk::<V4>::new(), Bulk::<V6>::new());
    for (i, ctx) in contexts.iter().enumerate().filter(|(_, ctx)| ctx.next == NodeId::Flow) {
        match &ctx.key {
            AnyKey::V4(key) => v4.push(key, ctx.hash, i),
            AnyKey::V6(key) => v6.push(key, ctx.hash, i),
        }
    }
    v4.find(&flows.v4, |i, slot| contexts[i].slot = slot);
    v6.find(&flows.v6, |i, slot| contexts[i].slot = slot);
}
