//! What control and one worker say to each other.
//!
//! Workers never open, close or allocate: control sends a port whole, and gets it back whole.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use podplane_packet::id::PortId;

use super::slot::PortSlot;

/// Control to worker. Handled in order, some in each turn of the worker's loop.
#[derive(Debug)]
pub enum Order {
    /// Here is your end of a port.
    Attach(PortId, Box<PortSlot>),
    /// Give your end of a port back; no snapshot that a worker uses names it any more.
    Detach(PortId),
}

/// The two queues between control and one worker, and how far the worker is.
#[derive(Debug)]
pub struct Lane {
    orders: ArrayQueue<Order>,
    returned: ArrayQueue<(PortId, Box<PortSlot>)>,
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
        self.orders.is_empty()
    }

    /// Worker: gives a port back. There is room for every port, so none is ever lost or freed here.
    pub(super) fn give_back(&self, port: PortId, slot: Box<PortSlot>) {
        if let Err((_, slot)) = self.returned.push((port, slot)) {
            std::mem::forget(slot);
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
