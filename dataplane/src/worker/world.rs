//! What the packet path asks of the world, over real ports and queues.

use std::net::IpAddr;
use std::sync::Arc;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::counters::WorkerCounters;
use podplane_pipeline::{DropReason, Env, HalfMsg, Millis, Pass};

use super::backlog::Backlog;
use super::mesh::MeshEnd;
use super::shared::Shared;
use super::slot::PortSlot;
use crate::ports::{Buffers, Pkt};

/// What one worker hands to another.
#[derive(Debug)]
pub enum Handed {
    /// A packet as it was received, for its owner.
    Received(Pkt),
    /// A packet that is finished and was let go, for a worker that may send on its port.
    Finished(PortId, Pkt),
}

/// One worker's ports, buffers and queues.
#[derive(Debug)]
pub struct World {
    pub(super) now: Millis,
    /// The same in nanoseconds.
    pub(super) nanos: u64,
    pub(super) slots: Box<[Option<Box<PortSlot>>]>,
    /// What waits for devices.
    pub(super) backlog: Backlog,
    pub(super) mesh: MeshEnd<Handed, HalfMsg>,
    pub(super) bufs: Buffers,
    shared: Arc<Shared>,
    pub(super) counters: Arc<WorkerCounters>,
    /// Packets that devices took.
    pub(super) sent: u64,
}

impl World {
    /// A world without ports, for one of the workers of `shared`.
    pub(super) fn new(
        mesh: MeshEnd<Handed, HalfMsg>,
        bufs: Buffers,
        counters: Arc<WorkerCounters>,
        shared: &Arc<Shared>,
    ) -> World {
        World {
            now: 0,
            nanos: 0,
            slots: (0..PortId::MAX).map(|_| None).collect(),
            backlog: Backlog::new(&bufs, shared.seats.len()),
            mesh,
            bufs,
            shared: Arc::clone(shared),
            counters,
            sent: 0,
        }
    }

    /// Queues a finished packet on this worker's own end.
    #[inline]
    pub(super) fn enqueue(&mut self, port: PortId, pkt: Pkt) {
        let World { slots, backlog, counters, nanos, .. } = self;
        match slots.get(port.index()) {
            Some(Some(slot)) if !slot.gone => backlog.push(slots, port, pkt, *nanos, counters),
            _ => counters.count_drop(pkt.meta().port, DropReason::PortDown),
        }
    }

    /// Sends what waits and is due.
    #[inline]
    pub(super) fn flush(&mut self) {
        let World { slots, backlog, bufs, counters, sent, nanos, .. } = self;
        *sent += backlog.flush(slots, bufs, *nanos, counters);
    }
}

impl Env for World {
    type Buf = Pkt;

    #[inline]
    fn now(&self) -> Millis {
        self.now
    }

    #[inline]
    fn alloc(&mut self) -> Option<Pkt> {
        self.bufs.alloc()
    }

    #[inline]
    fn transmit(&mut self, port: PortId, buf: Pkt, _pass: Pass) {
        match self.slots.get(port.index()) {
            Some(Some(slot)) if slot.via.is_some_and(|_| !slot.gone) => {
                let via = slot.via.unwrap_or_default();
                self.backlog.watch(&mut self.slots, buf.meta().port, None);
                if let Err(Handed::Finished(_, buf) | Handed::Received(buf)) =
                    self.mesh.send_packet(via, Handed::Finished(port, buf))
                {
                    self.counters.count_drop(buf.meta().port, DropReason::HandOverQueueFull);
                }
            }
            _ => self.enqueue(port, buf),
        }
    }

    #[inline]
    fn hand_over(&mut self, to: WorkerId, buf: Pkt) -> Result<(), Pkt> {
        self.backlog.watch(&mut self.slots, buf.meta().port, None);
        self.mesh.send_packet(to, Handed::Received(buf)).map_err(|handed| match handed {
            Handed::Received(buf) | Handed::Finished(_, buf) => buf,
        })
    }

    #[cold]
    fn resolve(&mut self, address: IpAddr, by: PortId) {
        // Lost if control is far behind: whoever waits asks again.
        if self.shared.wanted.push((address, by)).is_ok() {
            self.shared.control.wake();
        }
    }

    #[inline]
    fn push_half(&mut self, to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg> {
        self.mesh.send_half(to, msg)
    }
}
