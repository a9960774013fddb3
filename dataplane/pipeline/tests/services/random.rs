//! Random traffic through Services that change, with queues that may be too short: every packet is accounted for, no
//! answer reaches a client untranslated, and nothing is left when all is over.

use std::net::IpAddr;

use podplane_packet::parse::L4;
use podplane_packet::testing::Transport;
use podplane_pipeline::sim::SimConfig;
use podplane_pipeline::snapshot::services::Protocol;
use proptest::prelude::*;

use crate::world::{
    ACK, FIN, PORTS, Place, ROUTER, RST, SYN, Seen, World, client, ip, node, pod, router, service, tcp, udp, vip,
};

#[derive(Clone, Copy, Debug)]
enum Op {
    /// From one of eight places to one of twelve destinations.
    Send {
        from: usize,
        to: usize,
        tcp: bool,
        flags: u8,
        sport: u16,
    },
    /// Whoever got a packet answers it.
    Answer {
        which: usize,
        flags: u8,
    },
    /// Other backends, by the bits of a mask; none: a refusal.
    Change {
        tcp: bool,
        backends: u8,
    },
    Wait(u32),
    Step(usize, usize),
    /// The router's MAC is forgotten or found.
    Router(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let flags =
        || prop_oneof![3 => Just(SYN), 3 => Just(ACK), 1 => Just(SYN | ACK), 1 => Just(FIN | ACK), 1 => Just(RST)];
    prop_oneof![
        20 => (0..8usize, 0..12usize, any::<bool>(), flags(), 1..4u16)
            .prop_map(|(from, to, tcp, flags, sport)| Op::Send { from, to, tcp, flags, sport }),
        12 => (0..4usize, flags()).prop_map(|(which, flags)| Op::Answer { which, flags }),
        3 => (any::<bool>(), 0..128u8).prop_map(|(tcp, backends)| Op::Change { tcp, backends }),
        1 => (0..40_000u32).prop_map(Op::Wait),
        12 => (0..2usize, 0..4usize).prop_map(|(n, w)| Op::Step(n, w)),
        1 => (0..2usize, any::<bool>()).prop_map(|(n, up)| Op::Router(n, up)),
    ]
}

struct Run {
    w: World,
    v6: bool,
    /// What arrived lately, and where.
    got: Vec<(Place, Seen)>,
}

impl Run {
    fn far(&self) -> IpAddr {
        ip(self.v6, "203.0.113.80", "2001:db8:113::80")
    }

    fn place(&self, i: usize) -> (Place, IpAddr) {
        let v6 = self.v6;
        match i {
            0..4 => (Place::Pod(self.w.pods[i]), pod(v6, self.w.pods[i])),
            4 | 5 => (Place::Host(i - 4), node(v6, i - 4)),
            _ => (Place::Wire(i - 6), client(v6, 1)),
        }
    }

    fn destination(&self, i: usize) -> (IpAddr, u16) {
        let v6 = self.v6;
        match i {
            0 | 1 => (vip(v6), 80),
            2 => (vip(v6), 81),
            3 | 4 => (node(v6, i - 3), 30_080),
            5..9 => (pod(v6, self.w.pods[i - 5]), 8080),
            9 => (self.far(), 8080),
            10 => (ip(v6, "10.96.9.9", "fd00:96::99"), 80),
            _ => (node(v6, 1), 8080),
        }
    }

    fn backends(&self, mask: u8) -> Vec<(IpAddr, u16)> {
        let all = (0..4).map(|i| pod(self.v6, self.w.pods[i])).chain([node(self.v6, 0), node(self.v6, 1), self.far()]);
        all.enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, a)| (a, 8080)).collect()
    }

    fn change(&mut self, tcp: bool, mask: u8) {
        let backends = self.backends(mask);
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let id = u32::from(tcp);
        self.w.serve(id, &service(protocol, &[(vip(self.v6), 80)], &backends));
        for n in 0..2 {
            self.w.serve_at(n, 10 + id, &service(protocol, &[(node(self.v6, n), 30_080)], &backends));
        }
    }

    fn collect(&mut self) -> Result<(), TestCaseError> {
        for i in 0..8 {
            let (place, _) = self.place(i);
            for seen in self.w.take(place) {
                if !matches!(seen.parsed.l4, L4::IcmpError { .. }) {
                    self.check(place, &seen)?;
                    self.got.insert(0, (place, seen));
                }
            }
        }
        self.got.truncate(4);
        Ok(())
    }

    /// A client outside talks to frontends alone, so nothing else may speak to it.
    fn check(&self, place: Place, seen: &Seen) -> Result<(), TestCaseError> {
        if matches!(place, Place::Wire(_)) && seen.dst == client(self.v6, 1) {
            // A ClusterIP's unused port speaks in resets.
            let frontends =
                [(vip(self.v6), 80), (vip(self.v6), 81), (node(self.v6, 0), 30_080), (node(self.v6, 1), 30_080)];
            // What belongs to no flow any more is another one: a pod's is masqueraded, the node's own passes.
            let known = |port| port == 8080 || (PORTS.0..=PORTS.1).contains(&port);
            let direct = (0..2).any(|n| seen.src == node(self.v6, n)) && known(seen.sport);
            prop_assert!(
                direct || frontends.contains(&(seen.src, seen.sport)),
                "{seen:?} reached a client untranslated"
            );
        }
        Ok(())
    }

    fn inject(&mut self, from: Place, src: IpAddr, dst: (IpAddr, u16), l4: Transport) {
        let mut frame = self.w.frame(from, src, dst.0, l4, b"");
        if matches!(from, Place::Host(_)) && (dst.0 == client(self.v6, 1) || dst.0 == self.far()) {
            frame.dst_mac = ROUTER;
        }
        self.w.inject(from, &frame.build());
    }

    fn act(&mut self, op: Op) {
        match op {
            // Outside, nobody sends to pods, and the node reaches what is no Service by itself.
            Op::Send { from, to, .. } if from >= 6 && !(0..5).contains(&to) => {}
            Op::Send { from: 4 | 5, to, .. } if to >= 9 && to != 10 => {}
            Op::Send { from, to, tcp: is_tcp, flags, sport } => {
                let ((place, src), dst) = (self.place(from), self.destination(to));
                let l4 = if is_tcp { tcp(sport, dst.1, flags) } else { udp(sport, dst.1) };
                self.inject(place, src, dst, l4);
            }
            Op::Answer { which, flags } => {
                // A client outside got an answer already; the world behind the router does not hold what others say.
                let Some((place, seen)) = self.got.get(which).cloned() else { return };
                if matches!(place, Place::Host(_)) && seen.dst == client(self.v6, 1)
                    || seen.src == client(self.v6, 1) && seen.dport != 8080
                {
                    return;
                }
                let (sport, dport) = (seen.dport, seen.sport);
                let l4 = if seen.parsed.proto == 6 { tcp(sport, dport, flags) } else { udp(sport, dport) };
                self.inject(place, seen.dst, (seen.src, dport), l4);
            }
            Op::Change { tcp, backends } => self.change(tcp, backends),
            Op::Wait(ms) => self.w.sim.now = self.w.sim.now.wrapping_add(ms),
            Op::Step(n, worker) => {
                self.w.sim.step(n, worker % usize::from(self.w.sim.config.workers));
            }
            Op::Router(n, up) => self.router(n, up),
        }
    }

    fn router(&mut self, n: usize, up: bool) {
        let address = router(self.v6);
        let node = &mut self.w.sim.nodes[n];
        for neighbour in node.config.outside.neighbours.iter_mut().filter(|x| x.0 == address) {
            neighbour.1 = up.then_some(ROUTER);
        }
        node.publish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn nothing_is_lost_leaked_or_left(
        (workers, v6) in (prop_oneof![Just(1u8), Just(2), Just(4)], any::<bool>()),
        (half_queue, hand_over_queue) in prop_oneof![2 => Just((1024, 1024)), 1 => (0..6usize, 0..6usize)],
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let config = SimConfig { workers, half_queue, hand_over_queue, ..SimConfig::default() };
        let mut run = Run { w: World::with(config), v6, got: Vec::new() };
        run.change(false, 0x15);
        run.change(true, 0x2b);
        for op in ops {
            run.act(op);
            run.collect()?;
            prop_assert_eq!(run.w.sim.conserved(), Ok(()), "after {:?}", op);
        }
        (0..2).for_each(|n| run.router(n, true));
        run.w.sim.settle();
        run.collect()?;
        // A day and an hour.
        for _ in 0..1500 {
            run.w.sim.now = run.w.sim.now.wrapping_add(60_000);
            run.w.sim.settle();
        }
        prop_assert_eq!(run.w.sim.conserved(), Ok(()));
        let left: Vec<_> = (0..2).flat_map(|n| run.w.sim.dump(n)).collect();
        prop_assert_eq!(run.w.sim.flows(), 0, "left: {:?}; drops: {:?}", left, run.w.drops());
    }
}
