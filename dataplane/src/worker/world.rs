//! What the packet path asks of the world, over real ports and queues.

use std::sync::Arc;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::counters::WorkerCounters;
use podplane_pipeline::{DropReason, Env, HalfMsg, Millis, Pass};

use super::mesh::MeshEnd;
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
    pub(super) slots: Box<[Option<Box<PortSlot>>]>,
    /// Ports with something to be sent, in the order in which they got it.
    pub(super) dirty: Vec<PortId>,
    pub(super) mesh: MeshEnd<Handed, HalfMsg>,
    pub(super) bufs: Buffers,
    pub(super) counters: Arc<WorkerCounters>,
    /// Packets that devices took.
    pub(super) sent: u64,
}

impl World {
    /// A world without ports.
    pub(super) fn new(mesh: MeshEnd<Handed, HalfMsg>, bufs: Buffers, counters: Arc<WorkerCounters>) -> World {
        World {
            now: 0,
            slots: (0..PortId::MAX).map(|_| None).collect(),
            dirty: Vec::with_capacity(PortId::MAX),
            mesh,
            bufs,
            counters,
            sent: 0,
        }
    }

    /// Queues a finished packet on this worker's own end.
    #[inline]
    pub(super) fn enqueue(&mut self, port: PortId, pkt: Pkt) {
        let Some(Some(slot)) = self.slots.get_mut(port.index()) else {
            return self.counters.count_drop(pkt.meta().port, DropReason::PortDown);
        };
        if slot.gone {
            return self.counters.count_drop(pkt.meta().port, DropReason::PortDown);
        }
        if let Err(pkt) = slot.queue.push(pkt) {
            return self.counters.count_drop(pkt.meta().port, DropReason::TxQueueFull);
        }
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(port);
        }
    }

    /// Sends what is queued. `true`: a device is full and must be tried again soon.
    #[inline]
    pub(super) fn flush(&mut self) -> bool {
        let World { slots, dirty, bufs, counters, sent, .. } = self;
        let mut blocked = false;
        dirty.retain(|port| {
            let Some(slot) = slots[port.index()].as_deref_mut() else { return false };
            let outcome = slot.io.tx(bufs, &mut slot.queue, counters);
            *sent += u64::from(outcome.packets);
            blocked |= outcome.blocked;
            // A device that is full may hold packets that are out of the queue already.
            slot.dirty = outcome.blocked || !slot.queue.is_empty();
            slot.dirty
        });
        blocked
    }

    /// Whether something waits for a device.
    pub(super) fn has_backlog(&self) -> bool {
        !self.dirty.is_empty()
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
        self.mesh.send_packet(to, Handed::Received(buf)).map_err(|handed| match handed {
            Handed::Received(buf) | Handed::Finished(_, buf) => buf,
        })
    }

    #[inline]
    fn push_half(&mut self, to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg> {
        self.mesh.send_half(to, msg)
    }
}
