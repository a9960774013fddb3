//! A worker: one thread that takes packets from its ports through the pipeline, and never waits for another worker.
//!
//! | file | what |
//! |---|---|
//! | `backlog` | what waits for devices, and whom it may cost something |
//! | [`mesh`] | the queues between workers |
//! | [`message`] | control's orders |
//! | [`shared`] | what workers, control and introspection share |
//! | `receive` | the ready list and epoll |
//! | [`slot`] | one end of a port |
//! | [`world`] | the pipeline's [`Env`](podplane_pipeline::Env) |

mod backlog;
pub mod bell;
mod contention;
pub mod mesh;
pub mod message;
mod poller;
mod receive;
pub mod shared;
pub mod slot;
pub mod world;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::counters::WorkerCounters;
use podplane_pipeline::{Engine, Millis, Snapshot};

use self::contention::Contention;
use self::mesh::MeshEnd;
use self::message::{Chunk, Order};
use self::receive::Receiver;
use self::shared::Shared;
use self::slot::PortSlot;
use self::world::{Handed, World};
use crate::clock::millis;
use crate::ports::{Buffers, Burst, Pkt};

/// Orders of control handled in one turn.
const ORDERS_PER_TURN: usize = 16;
/// Turns between two rounds of upkeep while there is work.
const TURNS_BETWEEN_UPKEEP: u64 = 64;
/// How long a worker looks for work before it sleeps, in nanoseconds: what a wake-up costs.
const SPIN: u64 = 50_000;
/// How often ports without a descriptor are visited.
const POLL_PERIOD: Duration = Duration::from_micros(500);
/// How often the worker looks whether a port may be read again.
const LOOK: Duration = Duration::from_micros(500);
/// How exactly the kernel keeps these times, in nanoseconds.
const TIMER_SLACK: u64 = 10_000;

/// One worker.
#[derive(Debug)]
pub struct Worker {
    me: WorkerId,
    shared: Arc<Shared>,
    snapshots: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    /// The generation that was last said to be passed.
    generation: u32,
    engine: Engine<Pkt>,
    world: World,
    receiver: Receiver,
    /// What other workers handed over for this turn.
    handed: Burst,
    /// What was received in this turn.
    received: Burst,
    busy_poll: bool,
    contention: Contention,
    /// When this turn began, and whether it found work.
    turn_began: u64,
    /// When work was last found.
    worked_at: u64,
    turns: u64,
}

impl Worker {
    /// A worker without ports, to be run by a thread of its own.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        me: WorkerId,
        shared: &Arc<Shared>,
        engine: Engine<Pkt>,
        bufs: Buffers,
        busy_poll: bool,
    ) -> io::Result<Worker> {
        let mesh = MeshEnd::new(&shared.mesh, me);
        let counters: Arc<WorkerCounters> = Arc::clone(&shared.seat(me).counters);
        Ok(Worker {
            me,
            shared: Arc::clone(shared),
            snapshots: Cache::new(Arc::clone(&shared.snapshots)),
            generation: 0,
            engine,
            receiver: Receiver::new(shared.mesh.sleeper(me).bell())?,
            world: World::new(mesh, bufs, counters, shared),
            handed: Burst::new(),
            received: Burst::new(),
            busy_poll,
            contention: Contention::new(),
            turn_began: 0,
            worked_at: 0,
            turns: 0,
        })
    }

    /// Forwards packets until it is told to stop. Control must have got its ports back or not want them any more.
    pub fn run(mut self) {
        // Refused: the kernel keeps times by 50 us, which only makes retries rarer.
        let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK);
        self.turn_began = self.shared.clock.nanos();
        while !self.shared.is_stopped() {
            let worked = self.turn();
            self.account(worked);
            if !worked && !self.busy_poll {
                self.rest();
            }
        }
    }

    /// One turn of the loop. The order matters: packets first, then the half-entries that were pushed before those
    /// packets could be seen, then the packets' way through the pipeline. Whether there was work.
    fn turn(&mut self) -> bool {
        let now = self.turn_began;
        let mut worked = self.follow_control();
        let Worker { snapshots, engine, world, receiver, handed, received, shared, me, .. } = self;
        let snapshot = &**snapshots.load();
        (world.now, world.nanos) = (millis(now), now);

        receiver.receive(world, shared.mesh.sleeper(*me).bell(), received);
        let mut queued = false;
        take_handed(world, handed, &mut queued);
        worked |= queued || !received.is_empty() || !handed.is_empty();
        worked |= drain_halves(engine, world, snapshot, shared.seats.len());

        // What was handed over has waited longer.
        engine.burst(snapshot, world, handed);
        engine.burst(snapshot, world, received);
        if self.turns.is_multiple_of(TURNS_BETWEEN_UPKEEP) {
            engine.housekeep(snapshot, world);
        }
        // Others can work while the devices take our packets.
        world.mesh.ring();
        if !world.backlog.is_empty() {
            let sent = world.sent;
            world.flush();
            worked |= world.sent != sent;
        }
        worked
    }

    /// Takes the snapshot in force and control's orders. The snapshot first: its ports were sent before it.
    fn follow_control(&mut self) -> bool {
        let generation = self.snapshots.load().generation();
        let lane = &self.shared.seats[self.me.index()].lane;
        let mut work = false;
        if !lane.is_quiet() {
            for _ in 0..ORDERS_PER_TURN {
                let Some(order) = lane.next() else { break };
                match order {
                    Order::Attach(port, slot) => attach(&mut self.world, &mut self.receiver, port, slot),
                    Order::Detach(port) => {
                        if let Some(slot) = detach(&mut self.world, &mut self.receiver, port) {
                            lane.give_back(port, slot);
                        }
                    }
                    Order::Flows(mut flows) => {
                        self.engine.exchange_flows(&mut flows);
                        lane.give_flows_back(flows);
                    }
                }
                lane.has_handled();
                work = true;
            }
            if let Some(mut chunk) = lane.question() {
                let Chunk { cursor, flows, more } = &mut *chunk;
                flows.clear();
                *more = self.engine.dump(self.world.now, cursor, Chunk::PLACES, &mut |flow| flows.push(flow));
                lane.tell(chunk);
                work = true;
            }
        }
        if generation != self.generation {
            self.generation = generation;
            lane.pass(generation);
            work = true;
        }
        if work {
            self.shared.control.wake();
        }
        work
    }

    /// Counts a turn's time.
    fn account(&mut self, worked: bool) {
        let now = self.shared.clock.nanos();
        let stats = &self.shared.seats[self.me.index()].stats;
        if worked {
            self.worked_at = now;
            add(&stats.busy_nanos, now.saturating_sub(self.turn_began));
        }
        self.turn_began = now;
        self.turns += 1;
        if self.turns.is_multiple_of(TURNS_BETWEEN_UPKEEP) {
            self.publish();
        }
    }

    fn publish(&self) {
        let stats = &self.shared.seats[self.me.index()].stats;
        stats.loops.store(self.turns, Relaxed);
        stats.sent.store(self.world.sent, Relaxed);
        let gauges = self.engine.gauges();
        stats.flows.store(gauges.flows as u64, Relaxed);
        stats.fragments.store((gauges.held_fragments as u64, gauges.fragment_capacity as u64));
        stats.affinities.store((gauges.affinities as u64, gauges.affinity_capacity as u64));
    }

    /// Nothing was found: looks on for a while, then sleeps.
    fn rest(&mut self) {
        let now = self.turn_began;
        if now.saturating_sub(self.worked_at) < SPIN && !self.contention.is_contended(now) {
            std::hint::spin_loop();
            return;
        }
        let mut timeout = None;
        if let Some(due) = self.engine.next_deadline() {
            match until(due, millis(now)) {
                0 => {
                    let snapshot = &**self.snapshots.load();
                    self.engine.housekeep(snapshot, &mut self.world);
                    self.world.mesh.ring();
                    if self.engine.next_deadline().is_some_and(|due| until(due, millis(now)) == 0) {
                        return;
                    }
                }
                left => timeout = Some(Duration::from_millis(u64::from(left))),
            }
        }
        let polled = self.receiver.has_polled().then_some(POLL_PERIOD);
        let held = self.receiver.holds_any().then_some(LOOK);
        let full = self.world.backlog.next_try(&self.world.slots, now).map(Duration::from_nanos);
        self.sleep([timeout, polled, held, full].into_iter().flatten().min());
    }

    fn sleep(&mut self, timeout: Option<Duration>) {
        self.publish();
        let Worker { snapshots, world, receiver, shared, generation, me, .. } = self;
        let sleeper = shared.mesh.sleeper(*me);
        let doze = sleeper.doze();
        let idle = receiver.is_idle()
            && world.mesh.is_idle()
            && shared.seats[me.index()].lane.is_quiet()
            && snapshots.load().generation() == *generation
            && !shared.is_stopped();
        if idle {
            receiver.wait(timeout, world, sleeper.bell());
            add(&shared.seats[me.index()].stats.sleeps, 1);
        }
        drop(doze);
        // The sleep is nobody's work.
        self.turn_began = self.shared.clock.nanos();
    }
}

/// Adds to a number that has one writer.
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Milliseconds until `due`; 0 if it has passed. Both wrap.
fn until(due: Millis, now: Millis) -> u32 {
    let left = due.wrapping_sub(now);
    if left > Millis::MAX / 2 { 0 } else { left }
}

/// Takes what other workers handed over: packets for the pipeline, and finished ones straight for their device.
#[inline]
fn take_handed(world: &mut World, handed: &mut Burst, queued: &mut bool) {
    let room = handed.remaining_capacity();
    let mut finished = arrayvec::ArrayVec::<(PortId, Pkt), { podplane_pipeline::BURST }>::new();
    world.mesh.take_packets(room, |item| match item {
        Handed::Received(pkt) => handed.push(pkt),
        Handed::Finished(port, pkt) => finished.push((port, pkt)),
    });
    for (port, pkt) in finished {
        *queued = true;
        world.enqueue(port, pkt);
    }
}

/// Drains each queue of half-entries to the tail that is seen now: what was pushed before any packet of this turn
/// could be received is among it. Not bounded by a number, or a reply might overtake its half.
#[inline]
fn drain_halves(engine: &mut Engine<Pkt>, world: &mut World, snapshot: &Snapshot, workers: usize) -> bool {
    let mut any = false;
    for from in (0..workers).map(|w| WorkerId(w as u8)) {
        for _ in 0..world.mesh.halves_from(from) {
            let Some(half) = world.mesh.pop_half(from) else { break };
            engine.inbox(snapshot, world, half);
            any = true;
        }
    }
    any
}

fn attach(world: &mut World, receiver: &mut Receiver, port: PortId, slot: Box<PortSlot>) {
    debug_assert!(world.slots[port.index()].is_none(), "control attached {port:?} twice");
    world.slots[port.index()] = Some(slot);
    receiver.attach(port, world);
}

/// Takes a port out; what waited for its device is dropped by name.
fn detach(world: &mut World, receiver: &mut Receiver, port: PortId) -> Option<Box<PortSlot>> {
    receiver.detach(port, world);
    let mut slot = world.slots.get_mut(port.index())?.take()?;
    world.backlog.forget(port, &mut slot, &world.counters);
    Some(slot)
}
