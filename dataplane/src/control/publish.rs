//! Control's side of the workers: orders, snapshots, and waiting until all have followed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::Snapshot;
use podplane_pipeline::resume::FlowStore;
use std::os::fd::AsFd;

use crate::ports::PortIo;
use crate::worker::message::Order;
use crate::worker::shared::{Seat, Shared};
use crate::worker::slot::PortSlot;

/// After which workers that do not follow are reported.
const SLOW: Duration = Duration::from_secs(5);

/// A worker's thread has ended by itself; the dataplane cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has ended unexpectedly; see the messages before, and restart the dataplane")]
pub struct WorkerLost;

/// Control's side of the workers.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// Orders sent to each worker since the start.
    sent: Vec<u64>,
    /// Snapshots that were replaced. Each is kept until no worker holds it, so that no worker ever frees one.
    retired: Vec<Arc<Snapshot>>,
}

impl Publisher {
    /// For workers that have got no orders yet.
    pub fn new(shared: &Arc<Shared>) -> Publisher {
        Publisher { shared: Arc::clone(shared), sent: vec![0; shared.seats.len()], retired: Vec::new() }
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.snapshots.load_full()
    }

    /// Puts a snapshot in force and waits until every worker forwards by it and holds nothing of an older one.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn publish(&mut self, snapshot: Snapshot) -> Result<(), WorkerLost> {
        let generation = snapshot.generation();
        self.retired.push(self.shared.snapshots.swap(Arc::new(snapshot)));
        self.shared.mesh.wake_all();
        self.wait("the new configuration", |_, seat| seat.lane.passed() >= generation)?;
        self.collect();
        Ok(())
    }

    /// Frees the snapshots that nobody holds any more.
    fn collect(&mut self) {
        // One: ours. Nobody can get hold of it again, for it is not in force.
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Gives each worker its end of a port, and waits until all have it.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn attach(&mut self, ports: Vec<(PortId, Vec<PortIo>)>) -> Result<(), WorkerLost> {
        for (port, ends) in ports {
            let senders: Vec<WorkerId> = workers().zip(&ends).filter(|(_, e)| e.sends()).map(|(w, _)| w).collect();
            for (worker, end) in workers().zip(ends) {
                let via = (!end.sends()).then(|| senders.get(worker.index() % senders.len().max(1)).copied()).flatten();
                self.send(worker, Order::Attach(port, PortSlot::new(end, via)))?;
            }
        }
        self.settle("new ports")
    }

    /// Takes ports back that no snapshot names any more, and closes them.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn detach(&mut self, ports: &[PortId]) -> Result<(), WorkerLost> {
        for &port in ports {
            for worker in workers().take(self.sent.len()) {
                self.send(worker, Order::Detach(port))?;
            }
        }
        self.settle("removed ports")?;
        for seat in &self.shared.seats {
            while let Some((_, slot)) = seat.lane.take_returned() {
                drop(slot);
            }
        }
        Ok(())
    }

    /// Gives each worker its flows in place of those it has.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn lend(&mut self, stores: Vec<FlowStore>) -> Result<(), WorkerLost> {
        for (worker, store) in workers().zip(stores) {
            self.send(worker, Order::Flows(Box::new(store)))?;
        }
        self.settle("their flows")?;
        self.shared.seats.iter().for_each(|seat| drop(seat.lane.take_flows()));
        Ok(())
    }

    fn send(&mut self, worker: WorkerId, order: Order) -> Result<(), WorkerLost> {
        let mut order = Some(order);
        let shared = Arc::clone(&self.shared);
        while let Some(next) = order.take() {
            if let Err(back) = shared.seat(worker).lane.order(next) {
                order = Some(back);
                // It takes some in each of its turns.
                let before = shared.seat(worker).lane.handled();
                shared.mesh.sleeper(worker).wake();
                self.wait("room for orders", |w, seat| w != worker || seat.lane.handled() > before)?;
            }
        }
        self.sent[worker.index()] += 1;
        Ok(())
    }

    /// Waits until all orders were handled.
    fn settle(&mut self, what: &'static str) -> Result<(), WorkerLost> {
        self.shared.mesh.wake_all();
        let sent = &self.sent;
        self.wait(what, |worker, seat| seat.lane.handled() >= sent[worker.index()])
    }

    /// Waits until `done` holds for every worker; workers wake control when they have done something for it.
    fn wait(&self, what: &'static str, done: impl Fn(WorkerId, &Seat) -> bool) -> Result<(), WorkerLost> {
        let (sleeper, began) = (&self.shared.control, Instant::now());
        let mut reported = false;
        let all = || workers().zip(&self.shared.seats).all(|(w, seat)| done(w, seat));
        loop {
            let doze = sleeper.doze();
            if all() {
                return Ok(());
            }
            if self.shared.is_broken() {
                return Err(WorkerLost);
            }
            let mut fds = [PollFd::new(sleeper.bell().as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(100u8));
            drop(doze);
            sleeper.bell().hush();
            if !reported && began.elapsed() > SLOW {
                reported = true;
                tracing::warn!(what, seconds = SLOW.as_secs(), "workers do not follow: is the machine overloaded?");
            }
        }
    }
}

fn workers() -> impl Iterator<Item = WorkerId> {
    (0..WorkerId::MAX).map(|w| WorkerId(w as u8))
}
