//! Random policies, changes and packets with one, two and four workers.
//!
//! Once packet by packet against the book: what passes, what does not, and where that is counted. And once with packets,
//! messages and changes of different times in the queues, which may be too short: nothing is delivered that the rules in
//! force at that moment forbid.

use std::collections::HashSet;
use std::sync::Arc;

use podplane_packet::parse::{L4, parse};
use podplane_pipeline::sim::SimConfig;
use podplane_tables::policy::RuleSpec;
use proptest::prelude::*;

use crate::model::{Packet, World};
use crate::oracle::{Book, PODS, RULES, rule};

#[derive(Clone, Debug)]
enum Op {
    Send(Packet),
    /// Other selectors of an address, or none that are known.
    Owner(usize, Option<u8>),
    /// Other rules of a pod.
    Give(usize, bool, Option<Vec<usize>>),
    /// Another content of a rule that pods may have.
    Rule(usize, RuleSpec),
    Wait,
    Step(usize, usize),
    /// A worker keeps its snapshot while there are newer ones, or takes the newest.
    Lag(usize, usize),
}

fn packet() -> impl Strategy<Value = Packet> {
    // Two pods, or a pod and a node.
    let pods = (0..PODS, 1..PODS).prop_map(|(from, further)| (from, (from + further) % PODS));
    let node = (0..PODS, PODS..5, any::<bool>()).prop_map(|(a, b, back)| if back { (b, a) } else { (a, b) });
    let ends = prop_oneof![3 => pods, 1 => node];
    (ends, 0..3u8, 1000..1002u16, 79..82u16, any::<bool>(), any::<bool>()).prop_map(
        |((from, to), proto, sport, dport, answer, syn)| {
            // An echo's identifier stands in both places.
            let sport = if proto == 2 { dport } else { sport };
            let p = Packet { from, to, proto, sport, dport, syn };
            if answer { p.reversed() } else { p }
        },
    )
}

fn rules() -> impl Strategy<Value = Option<Vec<usize>>> {
    prop::option::weighted(0.8, prop::collection::hash_set(0..RULES, 0..5).prop_map(|set| set.into_iter().collect()))
}

fn op(v6: bool) -> impl Strategy<Value = Op> {
    let changed = (0..RULES).prop_flat_map(move |i| rule(v6, i).prop_map(move |spec| Op::Rule(i, spec)));
    prop_oneof![
        24 => packet().prop_map(Op::Send),
        2 => (0..5usize, prop::option::weighted(0.8, any::<u8>())).prop_map(|(end, bits)| Op::Owner(end, bits)),
        3 => (0..PODS, any::<bool>(), rules()).prop_map(|(pod, egress, rules)| Op::Give(pod, egress, rules)),
        1 => changed,
        1 => Just(Op::Wait),
        12 => (0..2usize, 0..4usize).prop_map(|(n, w)| Op::Step(n, w)),
        2 => (0..2usize, 0..4usize).prop_map(|(n, w)| Op::Lag(n, w)),
    ]
}

type Case = (bool, u8, Vec<RuleSpec>, Vec<Op>);

fn case(ops: usize) -> impl Strategy<Value = Case> {
    (any::<bool>(), prop_oneof![Just(1u8), Just(2), Just(4)]).prop_flat_map(move |(v6, workers)| {
        let rules: Vec<_> = (0..RULES).map(|i| rule(v6, i).boxed()).collect();
        (Just(v6), Just(workers), rules, prop::collection::vec(op(v6), 1..ops))
    })
}

fn world(config: SimConfig, v6: bool, rules: Vec<RuleSpec>) -> World {
    World::new(config, v6, Book { owners: Vec::new(), rules, pods: Default::default(), ranges: Vec::new() })
}

/// Changes the book and puts it in force.
fn change(w: &mut World, op: Op) {
    match op {
        Op::Owner(end, bits) => w.book.owners[end].1 = bits,
        Op::Give(pod, egress, rules) => w.book.give(pod, egress, rules),
        Op::Rule(i, spec) => w.book.rules[i] = spec,
        Op::Send(_) | Op::Wait | Op::Step(..) | Op::Lag(..) => return,
    }
    w.enforce();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn packet_by_packet((v6, workers, rules, ops) in case(160)) {
        let mut w = world(SimConfig { workers, ..SimConfig::default() }, v6, rules);
        let mut waits = 0;
        for op in ops {
            match op {
                Op::Send(p) => prop_assert_eq!(w.send(&p), Ok(())),
                // Longer than denials last, shorter than flows do.
                Op::Wait if waits < 5 => {
                    waits += 1;
                    w.sim.advance(4000);
                }
                Op::Wait | Op::Step(..) | Op::Lag(..) => {}
                other => change(&mut w, other),
            }
        }
    }

    #[test]
    fn nothing_forbidden_at_any_moment(
        (v6, workers, rules, ops) in case(250),
        (half_queue, hand_over_queue) in prop_oneof![2 => Just((1024, 1024)), 1 => (0..6usize, 0..6usize)],
    ) {
        let config = SimConfig { workers, half_queue, hand_over_queue, ..SimConfig::default() };
        let mut w = world(config, v6, rules);
        let mut sent = HashSet::new();
        for op in ops {
            match op {
                Op::Send(p) => {
                    w.inject(&p);
                    sent.insert(p);
                }
                Op::Step(node, worker) => {
                    let worker = worker % usize::from(workers);
                    let generation = w.generation(node, worker);
                    w.sim.step(node, worker);
                    check(&mut w, node, generation, &sent)?;
                }
                Op::Lag(node, worker) => {
                    let node = &mut w.sim.nodes[node];
                    let place = &mut node.behind[worker % usize::from(workers)];
                    *place = if place.is_some() { None } else { Some(Arc::clone(&node.snapshot)) };
                }
                Op::Wait => w.sim.now = w.sim.now.wrapping_add(500),
                other => change(&mut w, other),
            }
            prop_assert_eq!(w.sim.conserved(), Ok(()));
        }
        w.sim.nodes.iter_mut().for_each(|n| n.behind.fill(None));
        w.sim.settle();
        // What was in the queues, and then every packet once more: whatever happened before, the last rules count.
        let mut all: Vec<_> = sent.iter().copied().map(Some).collect();
        all.insert(0, None);
        for p in all {
            if let Some(p) = p {
                w.inject(&p);
                w.sim.settle();
            }
            for node in 0..2 {
                let generation = w.generation(node, 0);
                check(&mut w, node, generation, &sent)?;
            }
        }
        // A day and an hour.
        for _ in 0..1500 {
            w.sim.now = w.sim.now.wrapping_add(60_000);
            w.sim.settle();
        }
        let left: Vec<_> = (0..2).flat_map(|n| w.sim.dump(n)).collect();
        prop_assert!(left.is_empty(), "left: {:?}", left);
    }
}

/// Compares what a node delivered since with the rules that the worker had that did so.
fn check(w: &mut World, node: usize, generation: u32, sent: &HashSet<Packet>) -> Result<(), TestCaseError> {
    for (port, buf) in std::mem::take(&mut w.sim.nodes[node].delivered) {
        let bytes = buf.bytes();
        let parsed = parse(&bytes, bytes.len()).expect("what is delivered can be read");
        let end = |ip| (0..w.ends.len()).find(|e| Some(w.ip(*e)) == ip).expect("an end");
        let (proto, sport, dport) = match parsed.l4 {
            L4::Ports { src, dst } => (u8::from(parsed.proto == 17), src, dst),
            L4::Echo { id, .. } => (2, id, id),
            other => return Err(TestCaseError::fail(format!("{other:?} came out"))),
        };
        let (from, to) = (end(parsed.addrs.src()), end(parsed.addrs.dst()));
        let p = Packet { from, to, proto, sport, dport, syn: false };
        prop_assert_eq!(port, w.ends[to].port(), "{:?} came out at node {}", p, node);
        prop_assert!(w.may_pass(node, generation, &p, sent), "{:?} was delivered at {:?}", p, port);
    }
    Ok(())
}
