//! Pods and nodes, and what each node must remember of their flows, by the book.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podplane_packet::id::WorkerId;
use podplane_packet::testing::{FrameSpec, Transport, VecBuf};
use podplane_pipeline::sim::{Sim, SimConfig};
use podplane_pipeline::{Direction, DropReason};

use crate::common::{ACK, End, SYN, echo, frame, tcp};
use crate::oracle::{Book, PODS};

/// A packet: who sends to whom (pods 0 and 1 of node 0, pod 2 of node 1, then the nodes), and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    pub from: usize,
    pub to: usize,
    /// 0: TCP, 1: UDP, 2: ICMP echo.
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub syn: bool,
}

/// What flows are known by.
type Key = (usize, usize, u8, u16, u16);

impl Packet {
    fn key(&self) -> Key {
        (self.from, self.to, self.proto, self.sport, self.dport)
    }

    pub fn reversed(&self) -> Packet {
        Packet { from: self.to, to: self.from, sport: self.dport, dport: self.sport, ..*self }
    }
}

fn reversed((from, to, proto, sport, dport): Key) -> Key {
    (to, from, proto, dport, sport)
}

/// What one node remembers.
#[derive(Debug, Default)]
struct Memory {
    flows: HashSet<Key>,
    /// Replies of flows that were ended. These tests take less time than any bar.
    barred: HashSet<Key>,
}

/// Whose rules forbid a packet.
pub type Denial = (usize, Direction);

pub struct World {
    pub sim: Sim,
    pub ends: Vec<End>,
    pub v6: bool,
    pub book: Book,
    /// What was in force, by each node's generation.
    books: [HashMap<u32, Book>; 2],
    memory: [Memory; 2],
}

impl World {
    pub fn new(config: SimConfig, v6: bool, book: Book) -> World {
        let mut sim = Sim::new(config);
        let mut ends: Vec<End> = [0, 0, 1].into_iter().map(|n| End::Pod(sim.add_pod(n))).collect();
        ends.extend([End::Node(0), End::Node(1)]);
        let mut world = World { sim, ends, v6, book, books: Default::default(), memory: Default::default() };
        world.book.ranges = (1..=2u8)
            .map(|n| match v6 {
                false => (Ipv4Addr::new(10, 244, n, 0).into(), 24),
                true => (Ipv6Addr::new(0xfd00, 0x244, n.into(), 0, 0, 0, 0, 0).into(), 64),
            })
            .collect();
        world.book.owners = world.ends.iter().map(|e| (e.ip(v6), Some(0))).collect();
        world.enforce();
        world
    }

    /// Puts the book in force on both nodes at once.
    pub fn enforce(&mut self) {
        let (map, policies) = self.book.map();
        for (n, node) in self.sim.nodes.iter_mut().enumerate() {
            node.config.policy = map.clone();
            for (end, policy) in self.ends.iter().zip(policies).filter(|(end, _)| end.node() == n) {
                let entry = node.config.ports.iter_mut().find(|(id, _)| *id == end.port());
                entry.expect("the pod's port").1.policy = policy;
            }
            node.publish();
            self.books[n].insert(node.snapshot.generation(), self.book.clone());
        }
    }

    pub fn ip(&self, end: usize) -> IpAddr {
        self.ends[end].ip(self.v6)
    }

    fn frame(&self, p: &Packet) -> FrameSpec {
        let l4 = match p.proto {
            0 => tcp(p.sport, p.dport, if p.syn { SYN } else { ACK }),
            1 => Transport::Udp { sport: p.sport, dport: p.dport },
            _ => echo(self.v6, p.syn, p.dport),
        };
        frame(&self.sim, self.ends[p.from], self.ip(p.to), l4, b"payload")
    }

    pub fn inject(&mut self, p: &Packet) {
        let (from, bytes) = (self.ends[p.from], self.frame(p).build());
        self.sim.inject(from.node(), from.port(), WorkerId(0), VecBuf::new(&bytes));
    }

    /// Whether a node lets the sender open such a flow to the receiver.
    pub fn judge(&self, node: usize, key: Key) -> Result<(), Denial> {
        self.judge_by(&self.book, node, key)
    }

    fn judge_by(&self, book: &Book, node: usize, (client, server, proto, _, dport): Key) -> Result<(), Denial> {
        let here = |end: usize| self.ends[end].node() == node;
        let (number, port) = match proto {
            0 => (6, Some(dport)),
            1 => (17, Some(dport)),
            _ => (if self.v6 { 58 } else { 1 }, None),
        };
        for (pod, peer, direction) in [(client, server, Direction::Egress), (server, client, Direction::Ingress)] {
            let own_node = peer >= PODS && here(peer);
            if pod < PODS
                && here(pod)
                && !own_node
                && let Some(rules) = book.of(pod, direction)
                && !book.accepts(rules, self.ip(peer), number, port)
            {
                return Err((pod, direction));
            }
        }
        Ok(())
    }

    /// Whether a node may deliver a packet, whichever end opened its flow, by the rules of a generation or one after it:
    /// a flow that another worker accepted under its newer snapshot is one.
    pub fn may_pass(&self, node: usize, generation: u32, p: &Packet, sent: &HashSet<Packet>) -> bool {
        let opened = sent.iter().any(|s| s.key() == p.reversed().key());
        self.books[node].iter().filter(|(g, _)| **g >= generation).any(|(_, book)| {
            let accepts = |key| self.judge_by(book, node, key).is_ok();
            accepts(p.key()) || opened && accepts(reversed(p.key()))
        })
    }

    /// The generation that a worker acts by.
    pub fn generation(&self, node: usize, worker: usize) -> u32 {
        let node = &self.sim.nodes[node];
        node.behind[worker].as_ref().unwrap_or(&node.snapshot).generation()
    }

    /// What a node must do with a packet, and what it remembers of it.
    fn expect_at(&mut self, node: usize, p: &Packet) -> Result<(), Denial> {
        let (key, back) = (p.key(), reversed(p.key()));
        for (flow, replies) in [(key, back), (back, key)] {
            if self.memory[node].flows.contains(&flow) {
                return self.judge(node, flow).inspect_err(|_| {
                    let memory = &mut self.memory[node];
                    memory.flows.remove(&flow);
                    memory.barred.insert(replies);
                });
            }
        }
        if self.memory[node].barred.contains(&key) {
            if p.proto != 0 || !p.syn {
                // An answer still, whoever is heard first.
                return self.judge(node, back);
            }
            self.memory[node].barred.remove(&key);
        }
        self.judge(node, key)?;
        let memory = &mut self.memory[node];
        memory.barred.remove(&back);
        memory.flows.insert(key);
        Ok(())
    }

    /// Sends a packet and compares what comes of it with the book. Returns what differs.
    pub fn send(&mut self, p: &Packet) -> Result<(), String> {
        let mut path = vec![self.ends[p.from].node(), self.ends[p.to].node()];
        path.dedup();
        let want = path.into_iter().try_for_each(|node| self.expect_at(node, p));
        let before = self.sim.all_drops();
        let denied = want.err().map(|(pod, direction)| (pod, direction, self.denials(pod, direction)));
        self.inject(p);
        self.sim.settle();
        let delivered: usize = self.sim.nodes.iter().map(|n| n.delivered.len()).sum();
        let to = self.ends[p.to];
        let got = self.sim.take(to.node(), to.port()).len();
        let facts = || {
            format!("{p:?}: wanted {want:?}, {got} of {delivered} came; drops {before:?} -> {:?}", self.sim.all_drops())
        };
        if got != usize::from(want.is_ok()) || delivered != got {
            return Err(facts());
        }
        if let Some((pod, direction, before)) = denied
            && self.denials(pod, direction) != before + 1
        {
            return Err(format!("counted elsewhere: {}", facts()));
        }
        self.sim.conserved()
    }

    /// How many packets were counted as forbidden by a pod's rules.
    fn denials(&self, pod: usize, direction: Direction) -> u64 {
        let reason = match direction {
            Direction::Ingress => DropReason::PolicyIngress,
            Direction::Egress => DropReason::PolicyEgress,
        };
        let (node, port) = (self.ends[pod].node(), self.ends[pod].port());
        self.sim.nodes[node].counters.iter().map(|c| c.port(port).drops(reason)).sum()
    }
}
