//! What waits for devices on one worker, and what happens when it becomes too much.
//!
//! Every port has a queue of its own with a limit of its own, so a port that takes nothing costs its senders packets.
//! Three things would still let it cost others something, and each has its rule here:
//!
//! - **Buffers.** Some dozens of full queues hold every buffer of the node, and then nobody receives. So the queues of a
//!   worker together may hold [half](PART) of its share of the pools. Beyond that a packet that comes takes the place of
//!   the last one in the longest queue, among queues that do not move if there are any: who holds most pays, and a port
//!   with little in its queue always finds room. (A fixed share for each port would be one packet with 250 pods; a share
//!   of what is left leaves next to nothing once some dozens of queues have taken theirs.)
//! - **Time.** A full device costs a system call each time it is tried. One that takes nothing is tried ever more
//!   rarely, up to [`RETRY_MOST`]: a hundred of them cost some percent of a core.
//! - **Senders that could wait.** What finds a full queue is dropped, although its sender (a process on this node)
//!   could have been held up: not reading its port lets the socket's own buffer fill first. See [`Run`].

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::PortId;
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::slot::PortSlot;
use crate::ports::{Buffers, Pkt, TxOutcome, TxQueue};

/// After which a device that was full is tried again, in nanoseconds.
const RETRY: u64 = 50_000;
/// The same at most, however often it was full: what a device that works again may be late by.
const RETRY_MOST: u64 = 10_000_000;
/// Packets that a try should find room for, at least.
const FEW: u32 = 8;
/// A queue whose device has taken nothing for this long does not move, in nanoseconds.
const STUCK: u64 = 20_000_000;
/// The part of a worker's share of the pools that queues may hold is one over this. The other half is for what is
/// received, held by reassembly, handed over, or in devices.
const PART: usize = 2;
/// Packets that leave the longest queue at once, so that looking for it costs little for each.
const EVICTED: usize = 32;
/// Packets in a row to one port after which its source counts as one that sends nowhere else: two full bursts.
const RUN: u16 = 2 * podplane_pipeline::BURST as u16;
/// For how long a source waits at most, in nanoseconds: what it sends to others by then may be late by this much, once.
const WAIT_MOST: u64 = 20_000_000;

/// Where a source's last packets went, counted while something waits for a device.
///
/// A source is not read on while **all** of these hold:
/// - its last [`RUN`] packets went to one port: nobody else's packets are behind them, as far as that can be known;
/// - that port is the node's own, the uplink or the host port. A pod cannot hold up anybody: it would only have to
///   read slowly;
/// - that port's queue is half full. (Where the device takes nothing for long, its driver drops what waits for it);
/// - it has waited for less than [`WAIT_MOST`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    to: PortId,
    packets: u16,
    /// The [`Backlog::spell`] in which the packets were counted.
    spell: u32,
    /// Since when the source is not read, in nanoseconds.
    waits_since: Option<u64>,
}

impl Run {
    fn went(&mut self, to: PortId, spell: u32) {
        match self.to == to && self.spell == spell {
            true => self.packets = self.packets.saturating_add(1),
            false => (self.to, self.packets, self.spell) = (to, 1, spell),
        }
    }
}

/// What waits for the devices of one worker.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Ports with something to be sent, in the order in which they got it.
    dirty: Vec<PortId>,
    packets: usize,
    /// Buffers behind the packets' first ones.
    chained: usize,
    most_packets: usize,
    most_chained: usize,
    /// Whether devices left something when they were tried last: only then sources are watched.
    pressed: bool,
    /// Counts the times at which that began: what was counted of a source before says nothing any more.
    spell: u32,
}

/// The slots of a worker, by port.
pub(super) type Slots = [Option<Box<PortSlot>>];

impl Backlog {
    /// Nothing waits; one of `workers` workers that share the pools of `bufs`.
    pub(super) fn new(bufs: &Buffers, workers: usize) -> Backlog {
        let [(_, small), (_, large), _] = bufs.pools.usage();
        let share = |capacity: u32| (capacity as usize / PART / workers.max(1)).max(EVICTED);
        Backlog {
            dirty: Vec::with_capacity(PortId::MAX),
            packets: 0,
            chained: 0,
            most_packets: share(small),
            most_chained: share(large),
            pressed: false,
            spell: 0,
        }
    }

    /// Whether nothing waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Queues a packet for a port, or drops by name what cannot be kept.
    #[inline]
    pub(super) fn push(&mut self, slots: &mut Slots, port: PortId, pkt: Pkt, now: u64, counters: &WorkerCounters) {
        if self.pressed {
            self.watch(slots, pkt.meta().port, Some(port));
        }
        let chained = pkt.segment_count() - 1;
        let fits = self.packets < self.most_packets && self.chained + chained <= self.most_chained;
        if !fits && !self.make_room(slots, port, chained, now, counters) {
            return counters.count_drop(pkt.meta().port, DropReason::TxQueueFull);
        }
        let Some(Some(slot)) = slots.get_mut(port.index()) else {
            return counters.count_drop(pkt.meta().port, DropReason::PortDown);
        };
        if let Err(pkt) = slot.queue.push(pkt) {
            return counters.count_drop(pkt.meta().port, DropReason::TxQueueFull);
        }
        self.packets += 1;
        self.chained += chained;
        if !slot.dirty {
            slot.dirty = true;
            slot.pace = Pace { moved_at: now, ..Pace::default() };
            self.dirty.push(port);
        }
    }

    /// Takes packets out of the queue that holds most. `false`: that is the queue of `port` itself, or no queue has
    /// more than what its driver may be in the middle of.
    #[cold]
    fn make_room(
        &mut self,
        slots: &mut Slots,
        port: PortId,
        chained: usize,
        now: u64,
        counters: &WorkerCounters,
    ) -> bool {
        let by_chained = self.chained + chained > self.most_chained;
        let held = |queue: &TxQueue| if by_chained { queue.chained() } else { queue.len() };
        let rank = |&port: &PortId| {
            let slot = slots[port.index()].as_deref()?;
            (slot.queue.len() > 1).then(|| (slot.pace.is_stuck(now), held(&slot.queue), port))
        };
        let Some((_, _, longest)) = self.dirty.iter().filter_map(rank).max() else { return false };
        if longest == port {
            return false;
        }
        let Some(slot) = slots[longest.index()].as_deref_mut() else { return false };
        for _ in 0..EVICTED {
            let Some(pkt) = slot.queue.pop_last() else { break };
            self.packets -= 1;
            self.chained -= pkt.segment_count() - 1;
            counters.count_drop(pkt.meta().port, DropReason::TxQueueFull);
        }
        self.packets < self.most_packets && self.chained + chained <= self.most_chained
    }

    /// Sends what waits and is due. Returns how many packets devices took.
    #[inline]
    pub(super) fn flush(&mut self, slots: &mut Slots, bufs: &mut Buffers, now: u64, counters: &WorkerCounters) -> u64 {
        let mut sent = 0;
        let Backlog { dirty, packets, chained, .. } = self;
        dirty.retain(|port| {
            let Some(slot) = slots[port.index()].as_deref_mut() else { return false };
            if slot.pace.retry_at > now {
                return true;
            }
            let before = (slot.queue.len(), slot.queue.chained());
            let outcome = slot.io.tx(bufs, &mut slot.queue, counters);
            *packets -= before.0 - slot.queue.len();
            *chained -= before.1 - slot.queue.chained();
            sent += u64::from(outcome.packets);
            slot.pace.tried(outcome, now);
            // A device that is full may hold packets that are out of the queue already.
            slot.dirty = outcome.blocked || !slot.queue.is_empty();
            slot.dirty
        });
        if self.pressed == self.dirty.is_empty() {
            self.pressed = !self.pressed;
            self.spell = self.spell.wrapping_add(u32::from(self.pressed));
        }
        sent
    }

    /// Nanoseconds until a device is to be tried again; `None`: nothing waits.
    pub(super) fn next_try(&self, slots: &Slots, now: u64) -> Option<u64> {
        let due = |port: &PortId| Some(slots[port.index()].as_deref()?.pace.retry_at.saturating_sub(now));
        self.dirty.iter().filter_map(due).min()
    }

    /// Drops by name what waits for a port that is taken out.
    pub(super) fn forget(&mut self, port: PortId, slot: &mut PortSlot, counters: &WorkerCounters) {
        self.dirty.retain(|p| *p != port);
        slot.dirty = false;
        while let Some(pkt) = slot.queue.pop() {
            self.packets -= 1;
            self.chained -= pkt.segment_count() - 1;
            counters.count_drop(pkt.meta().port, DropReason::PortDown);
        }
    }

    /// Notes where a packet from `source` went; `None`: where this worker does not see how full it is.
    #[inline]
    pub(super) fn watch(&self, slots: &mut Slots, source: PortId, to: Option<PortId>) {
        if self.pressed
            && let Some(Some(slot)) = slots.get_mut(source.index())
        {
            match to {
                Some(to) => slot.run.went(to, self.spell),
                None => slot.run.packets = 0,
            }
        }
    }

    /// Whether the source `port` should not be read now.
    #[inline]
    pub(super) fn holds_up(&self, slots: &mut Slots, port: PortId, now: u64) -> bool {
        if !self.pressed || port == PortId::UPLINK {
            return self.let_go(slots, port);
        }
        let Some(run) = slots[port.index()].as_deref().map(|slot| slot.run) else { return false };
        let patient = run.waits_since.is_none_or(|since| now.saturating_sub(since) < WAIT_MOST);
        let helps = run.packets >= RUN
            && run.spell == self.spell
            && run.to < PortId::FIRST_POD
            && patient
            && slots.get(run.to.index()).and_then(Option::as_deref).is_some_and(|to| {
                let margin = if run.waits_since.is_some() { podplane_pipeline::BURST } else { 0 };
                is_half_full(&to.queue, margin)
            });
        if !helps {
            return self.let_go(slots, port);
        }
        if let Some(slot) = slots[port.index()].as_deref_mut() {
            slot.run.waits_since.get_or_insert(now);
        }
        true
    }

    /// Lets a source go on: at least one burst of it is received before it can be held up again.
    fn let_go(&self, slots: &mut Slots, port: PortId) -> bool {
        if let Some(Some(slot)) = slots.get_mut(port.index())
            && slot.run.waits_since.take().is_some()
        {
            slot.run.packets = slot.run.packets.min(RUN - podplane_pipeline::BURST as u16);
        }
        false
    }
}

/// Whether half of a queue's room is taken, or as much less as `margin` packets.
fn is_half_full(queue: &TxQueue, margin: usize) -> bool {
    queue.len() + margin >= TxQueue::DEFAULT_PACKETS / 2 || queue.bytes() >= TxQueue::DEFAULT_BYTES / 2
}

/// How a device takes what waits for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When it last took something, or the queue was empty.
    moved_at: u64,
    /// When it is to be tried again; 0: at once.
    retry_at: u64,
    /// After how long it is tried again when it is full.
    pause: u64,
}

impl Pace {
    fn tried(&mut self, outcome: TxOutcome, now: u64) {
        // Where some bytes trickle, each try should find room for a few packets, or most tries are for nothing.
        self.pause = match outcome.packets {
            0 => 2 * self.pause,
            1..FEW => self.pause,
            _ => self.pause / 2,
        }
        .clamp(RETRY, RETRY_MOST);
        if outcome.packets > 0 || !outcome.blocked {
            self.moved_at = now;
        }
        self.retry_at = if outcome.blocked { now + self.pause } else { 0 };
    }

    fn is_stuck(&self, now: u64) -> bool {
        now.saturating_sub(self.moved_at) > STUCK
    }
}

#[cfg(test)]
mod tests;
