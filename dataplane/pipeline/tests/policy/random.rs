//! Random policies, changes and packets with one, two and four workers.
//!
//! Once packet by packet against the book: what passes, what does not, and where that is counted. And once with packets,
//! messages and changes of different times in the queues, which may be too short: nothing is delivered that the rules in
//! force at that moment forbid.

use std::collections::HashSet;

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
}

fn packet() -> impl Strategy<Value = Packet> {
    let ends = prop_oneof![3 => (0..PODS, 0..PODS), 1 => (0..5usize, 0..5usize)];
    (ends, 0..3u8, 1000..1002u16, 79..82u16, any::<bool>(), any::<bool>())
        .prop_filter("two ends of which one is a pod", |((from, to), ..)| from != to && (*from < PODS || *to < PODS))
        .prop_map(|((from, to), proto, sport, dport, answer, syn)| {
            // An echo's identifier stands in both places.
            let sport = if proto == 2 { dport } else { sport };
            let p = Packet { from, to, proto, sport, dport, syn };
            if answer { p.reversed() } else { p }
        })
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
        Op::Send(_) | Op::Wait | Op::Step(..) => return,
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
                Op::Wait | Op::Step(..) => {}
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
                    w.sim.step(node, worker % usize::from(workers));
                    check(&mut w, &sent)?;
                }
                Op::Wait => w.sim.now = w.sim.now.wrapping_add(500),
                other => change(&mut w, other),
            }
            prop_assert_eq!(w.sim.conserved(), Ok(()));
        }
        w.sim.settle();
        check(&mut w, &sent)?;
        // A day and an hour.
        for _ in 0..1500 {
            w.sim.now = w.sim.now.wrapping_add(60_000);
            w.sim.settle();
        }
        let left: Vec<_> = (0..2).flat_map(|n| w.sim.dump(n)).collect();
        prop_assert!(left.is_empty(), "left: {:?}", left);
    }
}

/// Compares what was delivered since with the rules that are in force.
fn check(w: &mut World, sent: &HashSet<Packet>) -> Result<(), TestCaseError> {
    for node in 0..2 {
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
            prop_assert_eq!(port, w.ends[to].port());
            prop_assert!(w.may_pass(node, &p, sent), "{:?} was delivered at {:?}", p, port);
        }
    }
    Ok(())
}
