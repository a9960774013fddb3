//! With real ports and buffers; the device is only opened, never sent to.

use podplane_pipeline::BURST;

use super::*;
use crate::ports::tests::lab::{Netns, pools};
use crate::ports::{PortOpener, Role};

const NODE: [PortId; 2] = [PortId::UPLINK, PortId::HOST];
const FIRST: PortId = PortId::FIRST_POD;

/// Ends of `count` ports, from index 0.
fn slots(count: u16) -> (Netns, Box<[Option<Box<PortSlot>>]>) {
    let netns = Netns::new("backlog");
    netns.exec("ip link add pa type veth peer name pb");
    netns.exec("ip link set pa up");
    let open = move || {
        let opener = PortOpener::new(1, 1 << 20);
        let role = Role::Single { home: Default::default() };
        let end = |i| opener.open_interface(PortId(i), "pa", role).unwrap().ends.remove(0);
        (0..count).map(|i| Some(PortSlot::new(end(i), None))).collect()
    };
    let slots = netns.within(open);
    (netns, slots)
}

struct Queues {
    backlog: Backlog,
    slots: Box<[Option<Box<PortSlot>>]>,
    bufs: Buffers,
    counters: WorkerCounters,
    _netns: Netns,
}

impl Queues {
    fn new(count: u16) -> Queues {
        let bufs = Buffers::new(&pools());
        let (netns, slots) = slots(count);
        let mut backlog = Backlog::new(&bufs, 1);
        // Other tests use the same pools.
        (backlog.most_packets, backlog.most_chained) = (1000, 400);
        Queues { backlog, slots, bufs, counters: WorkerCounters::default(), _netns: netns }
    }

    /// A packet of `1 + chained` buffers from `source` to `port`.
    fn push(&mut self, source: PortId, port: PortId, chained: usize) {
        let mut mbuf = self.bufs.pools.small.alloc().unwrap();
        for _ in 0..chained {
            mbuf.chain(self.bufs.pools.small.alloc().unwrap()).unwrap();
        }
        let mut pkt = Pkt::new(mbuf);
        pkt.meta_mut().port = source;
        self.backlog.push(&mut self.slots, port, pkt, 1, &self.counters);
    }

    fn len(&self, port: PortId) -> usize {
        self.slots[port.index()].as_ref().unwrap().queue.len()
    }

    fn dropped(&self, source: PortId) -> u64 {
        self.counters.port(source).drops(DropReason::TxQueueFull)
    }

    fn holds_up(&mut self, port: PortId, now: u64) -> bool {
        self.backlog.holds_up(&mut self.slots, port, now)
    }

    /// The sums that are kept against the queues themselves.
    fn check(&self) {
        let queues = || self.slots.iter().flatten().map(|slot| &slot.queue);
        assert_eq!(self.backlog.packets, queues().map(TxQueue::len).sum::<usize>());
        assert_eq!(self.backlog.chained, queues().map(TxQueue::chained).sum::<usize>());
        assert!(self.backlog.packets <= self.backlog.most_packets);
        assert!(self.backlog.chained <= self.backlog.most_chained);
    }
}

#[test]
fn a_hundred_full_queues_leave_room_for_everybody() {
    let mut q = Queues::new(104);
    let (greedy, modest) = (PortId(2), PortId(3));
    // One after the other, so that the first ones have taken all that a queue may hold.
    for to in 4..103 {
        (0..300).for_each(|_| q.push(greedy, PortId(to), 0));
        q.check();
    }
    assert!(q.dropped(greedy) > 20_000);
    let longest = (4..103).map(|to| q.len(PortId(to))).max().unwrap();
    assert!((10..=10 + 2 * EVICTED).contains(&longest), "who held most paid for those who came later: {longest}");
    (0..BURST).for_each(|_| q.push(modest, PortId(103), 0));
    assert_eq!((q.len(PortId(103)), q.dropped(modest)), (BURST, 0), "who holds little finds room");
    q.check();
}

#[test]
fn large_buffers_are_bounded_by_themselves() {
    let mut q = Queues::new(8);
    for to in 4..8 {
        (0..60).for_each(|_| q.push(PortId(2), PortId(to), 4));
        q.check();
    }
    q.push(PortId(3), PortId::HOST, 0);
    assert_eq!(q.len(PortId::HOST), 1, "a small packet needs none of them");
}

#[test]
fn queues_that_do_not_move_pay_first() {
    let mut q = Queues::new(8);
    q.backlog.most_packets = 200;
    (0..80).for_each(|_| q.push(PortId(2), PortId(4), 0));
    (0..120).for_each(|_| q.push(PortId(2), PortId(5), 0));
    q.slots[5].as_mut().unwrap().pace.moved_at = 10 * STUCK;
    let mbuf = q.bufs.pools.small.alloc().unwrap();
    q.backlog.push(&mut q.slots, PortId(6), Pkt::new(mbuf), 10 * STUCK, &q.counters);
    assert_eq!((q.len(PortId(4)), q.len(PortId(5)), q.len(PortId(6))), (80 - EVICTED, 120, 1));
    q.check();
}

#[test]
fn only_the_nodes_own_ports_hold_up_those_who_send_nowhere_else() {
    let half = TxQueue::DEFAULT_PACKETS / 2;
    for (to, waits) in NODE.map(|port| (port, true)).into_iter().chain([(PortId(5), false)]) {
        let mut q = Queues::new(8);
        (0..half).for_each(|_| q.push(FIRST, to, 0));
        assert!(!q.holds_up(FIRST, 1), "nothing is known yet of {to:?}: it was not tried");
        (q.backlog.pressed, q.backlog.spell) = (true, 1);
        (0..RUN - 1).for_each(|_| q.push(FIRST, to, 0));
        assert!(!q.holds_up(FIRST, 1), "one packet too few");
        q.push(FIRST, to, 0);
        assert_eq!(q.holds_up(FIRST, 1), waits, "{to:?}");
        if !waits {
            continue;
        }
        assert!(q.holds_up(FIRST, WAIT_MOST));
        assert!(!q.holds_up(FIRST, 1 + WAIT_MOST), "not for ever");
        assert!(!q.holds_up(FIRST, 1 + WAIT_MOST), "a burst may pass");
        (0..BURST).for_each(|_| q.push(FIRST, to, 0));
        assert!(q.holds_up(FIRST, 1 + WAIT_MOST));
        q.push(FIRST, PortId(6), 0);
        assert!(!q.holds_up(FIRST, 2 + WAIT_MOST), "it sends to others too");
        (0..RUN).for_each(|_| q.push(FIRST, to, 0));
        assert!(q.holds_up(FIRST, 2 + WAIT_MOST));
        let queue = &mut q.slots[to.index()].as_mut().unwrap().queue;
        while queue.len() > half - BURST - 1 {
            queue.pop();
        }
        assert!(!q.holds_up(FIRST, 3 + WAIT_MOST), "there is room again");
        (0..2 * half).for_each(|_| q.push(PortId::UPLINK, PortId::HOST, 0));
        assert!(!q.holds_up(PortId::UPLINK, 4), "the uplink is everybody's");
    }
}

#[test]
fn a_device_that_takes_nothing_is_tried_ever_more_rarely() {
    let mut pace = Pace::default();
    let (mut now, mut tries) = (1, 0);
    let full = |packets| TxOutcome { packets, bytes: 0, blocked: true };
    while now < 1_000_000_000 {
        pace.tried(full(0), now);
        (now, tries) = (pace.retry_at, tries + 1);
    }
    assert!(tries < 120, "{tries} tries in a second");
    (0..20).for_each(|_| pace.tried(full(BURST as u32), now));
    assert_eq!(pace.retry_at - now, RETRY);
    pace.tried(TxOutcome::default(), now);
    assert_eq!(pace.retry_at, 0);
}
