//! What control and one worker say to each other.
//!
//! Workers never open, close or allocate: control sends a port whole, and gets it back whole.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_queue::ArrayQueue;
use podplane_packet::id::PortId;
use podplane_pipeline::dump::{Cursor, FlowView};
use podplane_pipeline::resume::FlowStore;

use super::slot::PortSlot;

/// Control to worker. Handled in order, some in each turn of the worker's loop.
#[derive(Debug)]
pub enum Order {
    /// Here is your end of a port.
    Attach(PortId, Box<PortSlot>),
    /// Give your end of a port back; no snapshot that a worker uses names it any more.
    Detach(PortId),
    /// These are your flows; give back those you have.
    Flows(Box<FlowStore>),
}

/// Some of a worker's flows, and the place where the next begin.
#[derive(Debug)]
pub struct Chunk {
    /// The place.
    pub cursor: Cursor,
    /// The flows. There is room for all that one question can bring, so the worker allocates nothing.
    pub flows: Vec<FlowView>,
    /// Whether there are more.
    pub more: bool,
}

impl Chunk {
    /// Places of the tables that one question walks over: some tens of microseconds of a worker.
    pub const PLACES: u32 = 512;

    /// The beginning of a walk.
    pub fn new() -> Chunk {
        Chunk { cursor: Cursor::default(), flows: Vec::with_capacity(Self::PLACES as usize), more: true }
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self::new()
    }
}

/// The two queues between control and one worker, and how far the worker is.
#[derive(Debug)]
pub struct Lane {
    orders: ArrayQueue<Order>,
    returned: ArrayQueue<(PortId, Box<PortSlot>)>,
    /// Flows that were given back.
    flows: ArrayQueue<Box<FlowStore>>,
    /// A question for flows, and its answer: of introspection, one at a time.
    question: ArrayQueue<Box<Chunk>>,
    answer: ArrayQueue<Box<Chunk>>,
    asking: Mutex<()>,
    /// Orders handled. Written by the worker alone.
    handled: AtomicU64,
    /// The generation that the worker forwards by: it has passed a point at which it held nothing of an older one.
    /// Written by the worker alone.
    passed: AtomicU32,
}

impl Default for Lane {
    fn default() -> Self {
        Lane {
            orders: ArrayQueue::new(Self::ORDERS),
            returned: ArrayQueue::new(PortId::MAX),
            flows: ArrayQueue::new(1),
            question: ArrayQueue::new(1),
            answer: ArrayQueue::new(1),
            asking: Mutex::new(()),
            handled: AtomicU64::new(0),
            passed: AtomicU32::new(0),
        }
    }
}

impl Lane {
    /// Orders that wait at most.
    const ORDERS: usize = 256;

    /// Control: queues an order.
    ///
    /// # Errors
    /// The queue is full; the order comes back.
    pub fn order(&self, order: Order) -> Result<(), Order> {
        self.orders.push(order)
    }

    /// Control: the ports that came back.
    pub fn take_returned(&self) -> Option<(PortId, Box<PortSlot>)> {
        self.returned.pop()
    }

    /// Control: the flows that came back.
    pub fn take_flows(&self) -> Option<Box<FlowStore>> {
        self.flows.pop()
    }

    /// Introspection: keeps others from asking. Workers never take it.
    pub fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Introspection: asks for the next flows.
    ///
    /// # Errors
    /// The worker has a question already; this one comes back.
    pub fn ask(&self, chunk: Box<Chunk>) -> Result<(), Box<Chunk>> {
        self.question.push(chunk)
    }

    /// Introspection: the answer, once it is there.
    pub fn take_chunk(&self) -> Option<Box<Chunk>> {
        self.answer.pop()
    }

    /// Control: how many orders were handled since the start.
    pub fn handled(&self) -> u64 {
        // Acquire: what the worker did for the orders happened before.
        self.handled.load(Ordering::Acquire)
    }

    /// Control: the generation that the worker forwards by.
    pub fn passed(&self) -> u32 {
        // Acquire: the worker's last use of anything older happened before.
        self.passed.load(Ordering::Acquire)
    }

    /// Worker: the next order.
    #[inline]
    pub(super) fn next(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// Worker: whether there is none.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.orders.is_empty() && self.question.is_empty()
    }

    /// Worker: a question for flows.
    #[inline]
    pub(super) fn question(&self) -> Option<Box<Chunk>> {
        self.question.pop()
    }

    /// Worker: answers. Whoever asks takes an answer that came too late before it asks again, so there is room and none
    /// is freed here.
    pub(super) fn tell(&self, chunk: Box<Chunk>) {
        if let Err(chunk) = self.answer.push(chunk) {
            std::mem::forget(chunk);
        }
    }

    /// Worker: gives a port back. There is room for every port, so none is ever lost or freed here.
    pub(super) fn give_back(&self, port: PortId, slot: Box<PortSlot>) {
        if let Err((_, slot)) = self.returned.push((port, slot)) {
            std::mem::forget(slot);
        }
    }

    /// Worker: gives flows back. Control takes them before it sends others, so none are ever freed here.
    pub(super) fn give_flows_back(&self, flows: Box<FlowStore>) {
        if let Err(flows) = self.flows.push(flows) {
            std::mem::forget(flows);
        }
    }

    /// Worker: one more order was handled.
    pub(super) fn has_handled(&self) {
        self.handled.store(self.handled.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Worker: forwards by `generation` from now on.
    pub(super) fn pass(&self, generation: u32) {
        self.passed.store(generation, Ordering::Release);
    }
}
