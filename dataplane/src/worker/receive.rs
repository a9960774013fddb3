//! Which ports a worker visits: a ready list fed by epoll, and the few that must be visited by time.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::PortId;

use super::bell::EventBell;
use super::poller::Poller;
use super::world::World;
use crate::ports::{Burst, LinkState, Pkt};

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
    /// Ports that are not read for a while.
    held: Vec<PortId>,
    turns: u32,
}

impl Receiver {
    pub(super) fn new(bell: &EventBell) -> io::Result<Receiver> {
        Ok(Receiver {
            poller: Poller::new(bell)?,
            ready: VecDeque::with_capacity(PortId::MAX),
            polled: Vec::with_capacity(PortId::MAX),
            held: Vec::with_capacity(PortId::MAX),
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
        self.held.retain(|p| *p != port);
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
        if !self.held.is_empty() {
            self.release(world);
        }
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
        if world.backlog.holds_up(&mut world.slots, port, world.nanos) {
            self.hold(port, world);
            return false;
        }
        let Some(slot) = world.slots[port.index()].as_deref_mut() else { return false };
        let before = burst.len();
        let outcome = slot.io.rx(&mut world.bufs, burst, &world.counters);
        if port == PortId::UPLINK {
            burst[before..].iter_mut().for_each(untag);
        }
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

    /// Stops to read a port for a while.
    #[cold]
    fn hold(&mut self, port: PortId, world: &mut World) {
        let Some(slot) = world.slots[port.index()].as_deref_mut() else { return };
        (slot.ready, slot.held) = (false, true);
        if let Some(fd) = slot.io.wait_fd().filter(|_| !slot.polled) {
            self.poller.listen(port, fd, false);
        }
        self.held.push(port);
    }

    /// Reads on where nothing stands against it any more.
    fn release(&mut self, world: &mut World) {
        let Receiver { poller, ready, held, .. } = self;
        held.retain(|port| {
            if world.backlog.holds_up(&mut world.slots, *port, world.nanos) {
                return true;
            }
            if let Some(slot) = world.slots[port.index()].as_deref_mut() {
                slot.held = false;
                if let Some(fd) = slot.io.wait_fd().filter(|_| !slot.polled) {
                    poller.listen(*port, fd, true);
                }
            }
            mark(ready, world, *port);
            false
        });
    }

    /// Whether some port is not read for a while.
    pub(super) fn holds_any(&self) -> bool {
        !self.held.is_empty()
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

/// A tag of VLAN 0 gives a frame a priority and no VLAN (802.1Q, clause 6.9): it counts as untagged. Drivers leave the
/// tag in the metadata, or where the device does not strip it in front of the EtherType.
#[inline]
fn untag(pkt: &mut Pkt) {
    const VID: u16 = 0x0fff;
    if pkt.meta().vlan.is_some_and(|tci| tci & VID == 0) {
        pkt.meta_mut().vlan = None;
    }
    let head = pkt.head_mut();
    if head.len() >= 18 && head[12..14] == [0x81, 0] && u16::from_be_bytes([head[14], head[15]]) & VID == 0 {
        head.copy_within(..12, 4);
        pkt.adj(4);
        pkt.meta_mut().shift(-4);
    }
}

fn mark(ready: &mut VecDeque<PortId>, world: &mut World, port: PortId) {
    if let Some(Some(slot)) = world.slots.get_mut(port.index())
        && !slot.ready
        && !slot.held
        && !slot.gone
    {
        slot.ready = true;
        ready.push_back(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::tests::lab::pools;

    fn frame(bytes: &[u8], vlan: Option<u16>) -> Pkt {
        let mut pkt = Pkt::new(pools().small.alloc().unwrap());
        assert!(pkt.append(bytes));
        pkt.meta_mut().vlan = vlan;
        untag(&mut pkt);
        pkt
    }

    #[test]
    fn a_tag_of_vlan_0_is_only_a_priority() {
        let tagged = |tci: [u8; 2]| [&[1; 12][..], &[0x81, 0], &tci, &[8, 0, 0x45, 7]].concat();
        let plain = [&[1; 12][..], &[8, 0, 0x45, 7]].concat();
        assert_eq!(frame(&tagged([0xe0, 0]), None).head(), plain);
        assert_eq!(frame(&tagged([0xe0, 5]), None).head(), tagged([0xe0, 5]), "VLAN 5 stays");
        assert_eq!(frame(&plain, None).head(), plain);
        assert_eq!(frame(&plain, Some(0x6000)).meta().vlan, None);
        assert_eq!(frame(&plain, Some(0x6005)).meta().vlan, Some(0x6005));
        assert_eq!(frame(&[1; 14], None).head().len(), 14);
    }
}
