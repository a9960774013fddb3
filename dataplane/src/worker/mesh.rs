//! The queues between workers: for each ordered pair one of packets and one of messages about half-entries.
//!
//! Each queue has one producer and one consumer and keeps order, so what one worker hands to another arrives in the
//! order in which it was handed over. A full queue refuses; nobody waits for another worker.

use std::io;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use podplane_packet::id::WorkerId;

use super::bell::EventBell;
use podplane_sleeper::Sleeper;

/// Memory in bytes that all queues of messages may take together; it bounds their length when workers are many.
const HALVES_MEMORY: usize = 32 << 20;
/// Memory in bytes that all queues of packets may take together.
const PACKETS_MEMORY: usize = 16 << 20;

/// How many items each queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Packets of each ordered pair.
    pub packets: usize,
    /// Messages of each ordered pair.
    pub halves: usize,
}

impl Capacity {
    /// What suits `workers` workers whose packets and messages take `packet` and `half` bytes: long enough for a
    /// worker that was preempted for some milliseconds, and bounded in all.
    pub fn for_workers(workers: u8, packet: usize, half: usize) -> Capacity {
        let pairs = usize::from(workers) * usize::from(workers.saturating_sub(1)).max(1);
        // Beside each item a queue keeps a word.
        let of = |memory: usize, size: usize, most: usize| (memory / pairs / (size + 8)).clamp(64, most);
        Capacity { packets: of(PACKETS_MEMORY, packet, 2048), halves: of(HALVES_MEMORY, half, 4096) }
    }
}

#[derive(Debug)]
struct Lane<P, H> {
    packets: ArrayQueue<P>,
    halves: ArrayQueue<H>,
}

/// All queues, and the sleep of each worker.
#[derive(Debug)]
pub struct Mesh<P, H> {
    workers: usize,
    /// From worker `f` to worker `t` at `f * workers + t`; none from a worker to itself.
    lanes: Box<[Option<Lane<P, H>>]>,
    sleepers: Box<[Sleeper<EventBell>]>,
}

impl<P, H> Mesh<P, H> {
    /// Queues for `workers` workers.
    ///
    /// # Errors
    /// No descriptor is left for the workers' bells.
    pub fn new(workers: u8, capacity: Capacity) -> io::Result<Arc<Self>> {
        let workers = usize::from(workers);
        let lane = |i: usize| {
            (i / workers != i % workers).then(|| Lane {
                packets: ArrayQueue::new(capacity.packets.max(1)),
                halves: ArrayQueue::new(capacity.halves.max(1)),
            })
        };
        let bells: io::Result<Vec<_>> = (0..workers).map(|_| Ok(Sleeper::new(EventBell::new()?))).collect();
        Ok(Arc::new(Mesh {
            workers,
            lanes: (0..workers * workers).map(lane).collect(),
            sleepers: bells?.into_boxed_slice(),
        }))
    }

    /// The sleep of a worker.
    pub fn sleeper(&self, worker: WorkerId) -> &Sleeper<EventBell> {
        &self.sleepers[worker.index()]
    }

    /// Wakes all workers that sleep.
    pub fn wake_all(&self) {
        self.sleepers.iter().for_each(Sleeper::wake);
    }

    fn lane(&self, from: usize, to: usize) -> Option<&Lane<P, H>> {
        if from >= self.workers || to >= self.workers { None } else { self.lanes[from * self.workers + to].as_ref() }
    }
}

/// One worker's end of all queues.
#[derive(Debug)]
pub struct MeshEnd<P, H> {
    mesh: Arc<Mesh<P, H>>,
    me: usize,
    /// Bit `t`: something was pushed to worker `t` since the last [`ring`](Self::ring).
    touched: u64,
    /// The worker whose packets are taken first next time, so that all get their turn.
    first: usize,
}

const _: () = assert!(WorkerId::MAX <= u64::BITS as usize);

impl<P, H> MeshEnd<P, H> {
    /// The end of worker `me`. There must be one at most for each worker.
    pub fn new(mesh: &Arc<Mesh<P, H>>, me: WorkerId) -> Self {
        MeshEnd { mesh: Arc::clone(mesh), me: me.index(), touched: 0, first: 0 }
    }

    /// Queues a packet for another worker.
    ///
    /// # Errors
    /// The queue is full, or there is no such other worker; the packet comes back.
    #[inline]
    pub fn send_packet(&mut self, to: WorkerId, packet: P) -> Result<(), P> {
        let Some(lane) = self.mesh.lane(self.me, to.index()) else { return Err(packet) };
        lane.packets.push(packet)?;
        self.touched |= 1 << to.0;
        Ok(())
    }

    /// Queues a message for another worker.
    ///
    /// # Errors
    /// The queue is full, or there is no such other worker; the message comes back.
    #[inline]
    pub fn send_half(&mut self, to: WorkerId, half: H) -> Result<(), H> {
        let Some(lane) = self.mesh.lane(self.me, to.index()) else { return Err(half) };
        lane.halves.push(half)?;
        self.touched |= 1 << to.0;
        Ok(())
    }

    /// Wakes those that something was pushed to and that sleep. Once a burst: a fence costs more than a push.
    #[inline]
    pub fn ring(&mut self) {
        while self.touched != 0 {
            let to = self.touched.trailing_zeros() as usize;
            self.touched &= self.touched - 1;
            self.mesh.sleepers[to].wake();
        }
    }

    /// Takes up to `room` packets, from each worker in turn, in the order in which that worker queued them.
    #[inline]
    pub fn take_packets(&mut self, room: usize, mut take: impl FnMut(P)) {
        let mut left = room;
        for i in 0..self.mesh.workers {
            let from = (self.first + i) % self.mesh.workers;
            let Some(lane) = self.mesh.lane(from, self.me) else { continue };
            while left > 0 {
                let Some(packet) = lane.packets.pop() else { break };
                take(packet);
                left -= 1;
            }
        }
        self.first = (self.first + 1) % self.mesh.workers.max(1);
    }

    /// How many messages worker `from` has queued for this one: the tail to drain to.
    #[inline]
    pub fn halves_from(&self, from: WorkerId) -> usize {
        self.mesh.lane(from.index(), self.me).map_or(0, |lane| lane.halves.len())
    }

    /// The oldest message of worker `from`.
    #[inline]
    pub fn pop_half(&mut self, from: WorkerId) -> Option<H> {
        self.mesh.lane(from.index(), self.me)?.halves.pop()
    }

    /// Whether nothing is queued for this worker.
    pub fn is_idle(&self) -> bool {
        let mut lanes = (0..self.mesh.workers).filter_map(|from| self.mesh.lane(from, self.me));
        lanes.all(|lane| lane.packets.is_empty() && lane.halves.is_empty())
    }

    /// This worker's sleep.
    pub fn sleeper(&self) -> &Sleeper<EventBell> {
        &self.mesh.sleepers[self.me]
    }
}

#[cfg(test)]
mod tests;
