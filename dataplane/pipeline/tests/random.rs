//! Random traffic under changing configuration, against a slow oracle of who reaches whom, and against the account of
//! packets: none is lost without a name, none overtakes another of its flow, and nothing is left when all is over.

mod common;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{End, SYN, arrived, echo, frame, hops, tcp};
use podplane_packet::id::{PortId, WorkerId};
use podplane_packet::parse::parse;
use podplane_packet::testing::{FrameSpec, Transport, VecBuf};
use podplane_pipeline::sim::{Sim, SimConfig, SimPod};
use proptest::prelude::*;

/// Pods of a node that may exist: enough for several homes.
const SLOTS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A packet from one end to another (pods by node and slot; slot 4 is the node).
    Send { from: (usize, usize), to: (usize, usize), v6: bool, proto: u8, ports: (u16, u16), ttl: u8 },
    /// A pod comes.
    Add(usize),
    /// A pod goes.
    Remove(usize, usize),
    /// Time passes, in milliseconds.
    Wait(u32),
    /// One worker runs one round.
    Step(usize, usize),
}

fn end() -> impl Strategy<Value = (usize, usize)> {
    (0..2usize, 0..=SLOTS)
}

fn op() -> impl Strategy<Value = Op> {
    let send = (end(), end(), any::<bool>(), 0..4u8, (1..3u16, 1..3u16), prop_oneof![8 => Just(64), 1 => 1..4u8])
        .prop_map(|(from, to, v6, proto, ports, ttl)| Op::Send { from, to, v6, proto, ports, ttl });
    prop_oneof![
        20 => send,
        1 => (0..2usize).prop_map(Op::Add),
        1 => (0..2usize, 0..SLOTS).prop_map(|(n, s)| Op::Remove(n, s)),
        1 => (0..40_000u32).prop_map(Op::Wait),
        12 => (0..2usize, 0..4usize).prop_map(|(n, w)| Op::Step(n, w)),
    ]
}

fn transport(v6: bool, proto: u8, (sport, dport): (u16, u16)) -> Transport {
    match proto {
        0 => Transport::Udp { sport, dport },
        1 => tcp(sport, dport, SYN),
        2 => Transport::Sctp { sport, dport },
        _ => echo(v6, sport == 1, dport),
    }
}

struct World {
    sim: Sim,
    sent: u32,
}

impl World {
    fn new(config: SimConfig) -> World {
        let mut sim = Sim::new(config);
        for node in [0, 1, 0, 1, 0] {
            sim.add_pod(node);
        }
        World { sim, sent: 0 }
    }

    fn port(slot: usize) -> PortId {
        PortId(PortId::FIRST_POD.0 + slot as u16)
    }

    fn pod(&self, node: usize, slot: usize) -> Option<SimPod> {
        self.sim.pods.iter().copied().find(|p| p.node == node && p.port == Self::port(slot))
    }

    fn end(&self, (node, slot): (usize, usize)) -> Option<End> {
        if slot == SLOTS { Some(End::Node(node)) } else { self.pod(node, slot).map(End::Pod) }
    }

    /// The address that a slot has or would have.
    fn address(&self, (node, slot): (usize, usize), v6: bool) -> IpAddr {
        if slot == SLOTS {
            return End::Node(node).ip(v6);
        }
        let last = Self::port(slot).0 + 8;
        match v6 {
            false => Ipv4Addr::new(10, 244, node as u8 + 1, last as u8).into(),
            true => Ipv6Addr::new(0xfd00, 0x244, node as u16 + 1, 0, 0, 0, 0, last).into(),
        }
    }

    /// The frame of a send; `None` if the sender does not exist.
    fn frame(&mut self, op: Op) -> Option<(End, FrameSpec)> {
        let Op::Send { from, to, v6, proto, ports, ttl } = op else { return None };
        let end = self.end(from)?;
        self.sent += 1;
        let dst = self.address(to, v6);
        let mut spec = frame(&self.sim, end, dst, transport(v6, proto, ports), &self.sent.to_be_bytes());
        spec.ttl = ttl;
        Some((end, spec))
    }

    fn inject(&mut self, from: End, spec: &FrameSpec) {
        self.sim.inject(from.node(), from.port(), WorkerId(0), VecBuf::new(&spec.build()));
    }

    /// Everything but sends.
    fn other(&mut self, op: Op) {
        match op {
            Op::Add(node) if self.sim.pods.iter().filter(|p| p.node == node).count() < SLOTS => {
                self.sim.add_pod(node);
            }
            Op::Remove(node, slot) => {
                if let Some(pod) = self.pod(node, slot) {
                    self.sim.remove_pod(pod);
                }
            }
            Op::Step(node, worker) => {
                self.sim.step(node, worker % usize::from(self.sim.config.workers));
            }
            _ => {}
        }
    }
}

/// Who reaches whom, by the book: the destination must exist, be another, and the TTL must last. Nodes talk among
/// themselves without us; that they could is nobody's harm. What a node says to itself is given back to it.
fn oracle(w: &World, from: End, to: (usize, usize), ttl: u8) -> Option<End> {
    let to = w.end(to)?;
    if to == from && to.port() == PortId::HOST {
        return Some(to);
    }
    (to != from && !(from.port() == to.port() && from.node() == to.node()) && ttl > hops(from, to)).then_some(to)
}

fn config() -> impl Strategy<Value = SimConfig> {
    (prop_oneof![Just(1u8), Just(2), Just(4)], any::<bool>()).prop_map(|(workers, underlay_v6)| SimConfig {
        workers,
        underlay_v6,
        ..SimConfig::default()
    })
}

/// Takes everything that was delivered, by node and port.
fn delivered(sim: &mut Sim) -> Vec<(usize, PortId, VecBuf)> {
    let take = |(i, n): (usize, &mut podplane_pipeline::sim::SimNode)| {
        std::mem::take(&mut n.delivered).into_iter().map(move |(p, b)| (i, p, b))
    };
    sim.nodes.iter_mut().enumerate().flat_map(take).collect()
}

fn is_icmp_error(b: &VecBuf) -> bool {
    let bytes = b.bytes();
    parse(&bytes, bytes.len()).is_ok_and(|p| matches!(p.l4, podplane_packet::parse::L4::IcmpError { .. }))
}

/// Waits until every flow of the kinds that are sent here must have ended.
fn end_of_all(sim: &mut Sim) {
    sim.settle();
    for _ in 0..700 {
        sim.now = sim.now.wrapping_add(1000);
        sim.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_oracle_agrees(config in config(), ops in prop::collection::vec(op(), 1..150)) {
        let mut w = World::new(config);
        for op in ops {
            if let (Op::Send { to, ttl, .. }, Some((from, spec))) = (op, w.frame(op)) {
                let want = oracle(&w, from, to, ttl);
                w.inject(from, &spec);
                w.sim.settle();
                let all = delivered(&mut w.sim);
                let got: Vec<_> = all.iter().filter(|(_, _, b)| !is_icmp_error(b)).collect();
                match want {
                    None => prop_assert!(got.is_empty(), "{:?} from {:?}: {:?}", op, from, got),
                    Some(to) => {
                        prop_assert_eq!(got.len(), 1, "{:?} from {:?}: {:?}", op, from, w.sim.all_drops());
                        prop_assert_eq!((got[0].0, got[0].1), (to.node(), to.port()));
                        prop_assert_eq!(got[0].2.bytes(), arrived(&w.sim, &spec, to, if to == from { 0 } else { hops(from, to) }));
                    }
                }
            } else if let Op::Wait(ms) = op {
                w.sim.now = w.sim.now.wrapping_add(ms);
                w.sim.settle();
            } else {
                w.other(op);
            }
            prop_assert_eq!(w.sim.conserved(), Ok(()));
        }
        end_of_all(&mut w.sim);
        prop_assert_eq!(w.sim.flows(), 0, "flows are left");
    }

    #[test]
    fn nothing_is_lost_overtaken_or_left(
        config in config(),
        queues in (0..6usize, 0..6usize),
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let config = SimConfig { half_queue: queues.0, hand_over_queue: queues.1, ..config };
        let mut w = World::new(config);
        for op in ops {
            match op {
                Op::Send { .. } => {
                    if let Some((from, spec)) = w.frame(op) {
                        w.inject(from, &spec);
                    }
                }
                // No settling: packets and messages of different times meet.
                Op::Wait(ms) => w.sim.now = w.sim.now.wrapping_add(ms / 4),
                other => w.other(other),
            }
            prop_assert_eq!(w.sim.conserved(), Ok(()));
        }
        w.sim.settle();
        prop_assert_eq!(w.sim.conserved(), Ok(()));
        let mut last: HashMap<Vec<u8>, u32> = HashMap::new();
        for (node, port, buf) in delivered(&mut w.sim).into_iter().filter(|(_, _, b)| !is_icmp_error(b)) {
            let bytes = buf.bytes();
            let p = parse(&bytes, bytes.len()).expect("what is delivered can be read");
            let end = p.frame_len();
            let number = u32::from_be_bytes([bytes[end - 4], bytes[end - 3], bytes[end - 2], bytes[end - 1]]);
            let flow = format!("{node} {port:?} {:?} {:?} {}", p.addrs, p.l4, p.proto).into_bytes();
            let before = last.insert(flow, number).unwrap_or(0);
            prop_assert!(number > before, "{number} after {before}");
        }
        end_of_all(&mut w.sim);
        prop_assert_eq!(w.sim.flows(), 0, "flows are left; drops: {:?}", w.sim.all_drops());
    }
}
