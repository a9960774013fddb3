//! Which ports a worker visits: a ready list fed by epoll, and the few that must be visited by time.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::PortId;

use super::bell::EventBell;
use super::poller::Poller;
use super::world::World;
use crate::ports::{Burst, LinkState};

/// While ports are ready, epoll is asked only every so many turns: a turn's work costs much more than a system call
/// that says what is known.
const TURNS_BETWEEN_POLLS: u32 = 8;

/// One worker's receive side.
#[derive(Debug)]
pub(super) struct Receiver {
    poller: Poller,
    ready: VecDeque<PortId>,
    /// Ports without a descriptor.
    polled: Vec<PortId>,
    turns: u32,
}

impl Receiver {
    pub(super) fn new(bell: &EventBell) -> io::Result<Receiver> {
        Ok(Receiver {
            poller: Poller::new(bell)?,
            ready: VecDeque::with_capacity(PortId::MAX),
            polled: Vec::with_capacity(PortId::MAX),
            turns: 0,
        })
    }

    /// Starts to receive from a port, if this worker's end does.
    pub(super) fn attach(&mut self, port: PortId, world: &mut World) {
        let Some(slot) = world.slots[port.index()].as_deref_mut() else { return };
        if !slot.io.polls_rx() {
            return;
        }
        let waits = match slot.io.wait_fd() {
            Some(fd) => self.poller.add(port, fd).is_ok(),
            None => false,
        };
        // Without a watch (the user's limit) the port still works, by time.
        slot.polled = !waits;
        if !waits {
            self.polled.push(port);
        }
        // What came in before this worker listened makes no event of its own on every driver.
        if !slot.ready {
            slot.ready = true;
            self.ready.push_back(port);
        }
    }

    /// Stops to receive from a port.
    pub(super) fn detach(&mut self, port: PortId, world: &mut World) {
        self.polled.retain(|p| *p != port);
        self.ready.retain(|p| *p != port);
        if let Some(slot) = world.slots[port.index()].as_deref_mut() {
            slot.ready = false;
            if let Some(fd) = slot.io.wait_fd().filter(|_| slot.io.polls_rx()) {
                self.poller.remove(fd);
            }
        }
    }

    /// Whether some port must be visited by time.
    pub(super) fn has_polled(&self) -> bool {
        !self.polled.is_empty()
    }

    /// Fills `burst` from the ports that have something, each in its turn. The order within a port is kept.
    pub(super) fn receive(&mut self, world: &mut World, bell: &EventBell, burst: &mut Burst) {
        for port in &self.polled {
            mark(&mut self.ready, world, *port);
        }
        self.turns += 1;
        if self.ready.is_empty() || self.turns >= TURNS_BETWEEN_POLLS {
            self.wait(Some(Duration::ZERO), world, bell);
        }
        for _ in 0..self.ready.len() {
            if burst.is_full() {
                break;
            }
            let Some(port) = self.ready.pop_front() else { break };
            if self.visit(port, world, burst) {
                self.ready.push_back(port);
            }
        }
    }

    /// Receives from one port; `true`: more may be waiting.
    fn visit(&mut self, port: PortId, world: &mut World, burst: &mut Burst) -> bool {
        let Some(slot) = world.slots[port.index()].as_deref_mut() else { return false };
        if !self.ready.is_empty() && slot.owes() {
            return true;
        }
        let before = burst.len();
        let outcome = slot.io.rx(&mut world.bufs, burst, &world.counters);
        slot.charge(burst[before..].iter().map(PacketBuf::len).sum());
        if outcome.state == LinkState::Gone {
            // Its descriptor would be ready for ever.
            slot.gone = true;
            slot.ready = false;
            if let Some(fd) = slot.io.wait_fd() {
                self.poller.remove(fd);
            }
            self.polled.retain(|p| *p != port);
            return false;
        }
        slot.ready = outcome.more;
        outcome.more
    }

    /// Waits for the bell or a port for at most `timeout`.
    pub(super) fn wait(&mut self, timeout: Option<Duration>, world: &mut World, bell: &EventBell) {
        self.turns = 0;
        let ready = &mut self.ready;
        self.poller.wait(timeout, bell, |port| mark(ready, world, port));
    }

    /// Whether no port is known to have something.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }
}

fn mark(ready: &mut VecDeque<PortId>, world: &mut World, port: PortId) {
    if let Some(Some(slot)) = world.slots.get_mut(port.index())
        && !slot.ready
        && !slot.gone
    {
        slot.ready = true;
        ready.push_back(port);
    }
}
