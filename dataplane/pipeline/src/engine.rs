//! One worker's whole packet path.

use std::marker::PhantomData;
use std::sync::Arc;

use arrayvec::ArrayVec;
use podplane_packet::buf::PacketBuf;
use podplane_packet::id::WorkerId;
use thiserror::Error;

use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::env::{BURST, Env, Millis};
use crate::halves::HalfMsg;
use crate::snapshot::Snapshot;

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which worker runs it.
    pub worker: WorkerId,
    /// How many workers there are.
    pub workers: u8,
    /// How many half-entries its flow table holds.
    pub flow_capacity: usize,
    /// How many of them may be charged to one port.
    pub port_quota: usize,
    /// Random key of the flow hash, equal for all workers of a process.
    pub seed: [u64; 2],
    /// Where it counts.
    pub counters: Arc<WorkerCounters>,
}

/// Why an engine cannot be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The worker's number is not below the number of workers.
    #[error("worker {0:?} of {1}: workers are numbered from 0")]
    Worker(WorkerId, u8),
}

/// One worker's whole packet path: it owns the worker's flows and held fragments and nothing else.
#[derive(Debug)]
pub struct Engine<B: PacketBuf> {
    cfg: EngineConfig,
    _held: PhantomData<B>,
}

impl<B: PacketBuf> Engine<B> {
    /// Makes an engine with empty tables.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn new(cfg: EngineConfig) -> Result<Self, EngineError> {
        if cfg.worker.0 >= cfg.workers {
            return Err(EngineError::Worker(cfg.worker, cfg.workers));
        }
        Ok(Engine { cfg, _held: PhantomData })
    }

    /// Takes a burst of packets through the graph; all are consumed. `meta().port` says where each came from; packets
    /// that other workers handed over are given here like those that were received.
    pub fn burst<E: Env<Buf = B>>(&mut self, snap: &Snapshot, env: &mut E, burst: &mut ArrayVec<B, BURST>) {
        let _ = (snap, env);
        for buf in burst.drain(..) {
            self.cfg.counters.count_drop(buf.meta().port, DropReason::NotConfigured);
        }
    }

    /// Takes one message about half-entries from another worker. Drain the queues to their observed tails after
    /// receiving packets and before [`Engine::burst`].
    pub fn inbox<E: Env<Buf = B>>(&mut self, snap: &Snapshot, env: &mut E, msg: HalfMsg) {
        let _ = (snap, env, msg);
    }

    /// Bounded upkeep: expires flows and held fragments. Call it every few loops, and when
    /// [`Engine::next_deadline`] is reached.
    pub fn housekeep<E: Env<Buf = B>>(&mut self, snap: &Snapshot, env: &mut E) {
        let _ = (snap, env);
    }

    /// When [`Engine::housekeep`] has something to do next; `None`: not before a packet or message comes.
    pub fn next_deadline(&self) -> Option<Millis> {
        None
    }
}
