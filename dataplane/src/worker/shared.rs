//! What workers, control and introspection share.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::counters::WorkerCounters;
use podplane_pipeline::{HalfMsg, Snapshot};

use super::bell::EventBell;
use super::mesh::{Capacity, Mesh};
use super::message::Lane;
use super::world::Handed;
use crate::clock::Clock;
use podplane_sleeper::Sleeper;

/// Questions for neighbours that wait for control.
const WANTED: usize = 256;

/// What one worker says of itself. Written by that worker alone.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Turns of its loop.
    pub loops: AtomicU64,
    /// How often it went to sleep.
    pub sleeps: AtomicU64,
    /// Nanoseconds of turns that found work.
    pub busy_nanos: AtomicU64,
    /// Packets that devices took from it.
    pub sent: AtomicU64,
    /// Half-entries in its flow tables.
    pub flows: AtomicU64,
    /// Fragments that it holds.
    pub fragments: Fill,
    /// Clients whose backend it remembers.
    pub affinities: Fill,
}

/// How full a table is: entries, and how many fit. Written by its worker alone.
#[derive(Debug, Default)]
pub struct Fill {
    used: AtomicU64,
    capacity: AtomicU64,
}

impl Fill {
    /// Says what is used, and how much there is.
    #[inline]
    pub fn store(&self, (used, capacity): (u64, u64)) {
        self.used.store(used, Relaxed);
        self.capacity.store(capacity, Relaxed);
    }

    /// What is used, and how much there is; both 0 before the worker's first turns.
    pub fn load(&self) -> (u64, u64) {
        (self.used.load(Relaxed), self.capacity.load(Relaxed))
    }
}

/// What one worker and the others share.
#[derive(Debug)]
pub struct Seat {
    /// Control's orders.
    pub lane: Lane,
    /// What the worker says of itself.
    pub stats: WorkerStats,
    /// What the worker's pipeline counts.
    pub counters: Arc<WorkerCounters>,
}

/// What workers, control and introspection share.
#[derive(Debug)]
pub struct Shared {
    /// The snapshot in force. Stored by control alone.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// The queues between workers.
    pub mesh: Arc<Mesh<Handed, HalfMsg>>,
    /// By worker.
    pub seats: Box<[Seat]>,
    /// Neighbours that workers have packets for, and the ports by which those came. Popped by control alone; when it is full the question is lost and
    /// asked again.
    pub wanted: ArrayQueue<(IpAddr, PortId)>,
    /// Control's sleep.
    pub control: Sleeper<EventBell>,
    /// Time.
    pub clock: Clock,
    /// Set once: the workers are to end. Set after control has ended.
    stop: AtomicBool,
    /// A worker ended although it was not told to.
    broken: AtomicBool,
}

impl Shared {
    /// For `workers` workers that begin with `snapshot`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(workers: u8, snapshot: Snapshot, clock: Clock) -> io::Result<Arc<Shared>> {
        let capacity = Capacity::for_workers(workers, size_of::<Handed>(), size_of::<HalfMsg>());
        let seat = |_| Seat {
            lane: Lane::default(),
            stats: WorkerStats::default(),
            counters: Arc::new(WorkerCounters::default()),
        };
        Ok(Arc::new(Shared {
            snapshots: Arc::new(ArcSwap::from_pointee(snapshot)),
            mesh: Mesh::new(workers, capacity)?,
            seats: (0..workers).map(seat).collect(),
            wanted: ArrayQueue::new(WANTED),
            control: Sleeper::new(EventBell::new()?),
            clock,
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }))
    }

    /// What a worker shares.
    pub fn seat(&self, worker: WorkerId) -> &Seat {
        &self.seats[worker.index()]
    }

    /// Tells all workers to end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.mesh.wake_all();
    }

    /// Whether workers are to end.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Notes that a worker ended by itself: nobody must wait for it.
    pub fn set_broken(&self) {
        self.broken.store(true, Relaxed);
        self.control.wake();
    }

    /// Whether a worker ended by itself.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }
}
