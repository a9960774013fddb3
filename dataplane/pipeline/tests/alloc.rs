//! The packet path allocates nothing: neither on hits nor on misses, nor while flows end.
//!
//! Counted is what the test's own thread does: the harness allocates when it likes.
#![allow(unsafe_code)]

mod bare;
#[path = "../../tables/tests/counting/mod.rs"]
mod counting;

use counting::allocations;

#[test]
fn bursts_do_not_allocate() {
    for tunnel in [false, true] {
        let mut bare = bare::Bare::new(8192, tunnel);
        // Warm: every buffer has been through once.
        bare.burst(0);
        let before = allocations();
        for flow in 0..100 {
            bare.burst(flow % 4); // hits
        }
        let hits = allocations();
        assert_eq!(hits - before, 0, "hits");
        for flow in 0..100 {
            bare.burst(1000 + flow * 32); // misses
        }
        assert_eq!(bare.flows(), 2 * (32 + 3 + 3200));
        bare.env.now += 40_000;
        for _ in 0..200 {
            bare.housekeep();
        }
        assert_eq!(bare.flows(), 0);
        assert_eq!(allocations() - hits, 0, "misses and their end");
    }
    // The same through Services: choosing, translating, and judging again under another snapshot.
    let mut bare = bare::Bare::with_services(8192, 100);
    bare.burst_to_services(|i| i);
    let before = allocations();
    for first in 0..100 {
        bare.burst_to_services(|i| first * 32 + i);
        bare.burst_to_services(|i| first * 32 + i);
    }
    assert_eq!(allocations() - before, 0, "flows through Services");
    assert_eq!(bare.flows(), 6400);
    bare.change_one(1);
    let before = allocations();
    bare.burst_to_services(|i| i);
    assert_eq!(allocations() - before, 0, "flows judged again");
}

#[test]
fn judging_does_not_allocate() {
    let mut bare = bare::Bare::new(8192, false);
    bare.burst(0);
    bare.obey(500);
    let before = allocations();
    // Those of the first burst are judged again, the others for the first time.
    for flow in 0..40 {
        bare.burst(flow * 32);
    }
    assert_eq!(allocations() - before, 0, "accepted");
    bare.isolate();
    let (mut inside, mut last) = (0, None);
    // Flows that end by it, then new ones, each twice.
    for flow in 0..160 {
        bare.write(|i| flow / 2 * 32 + i);
        bare.run_denied(&mut || match last.take() {
            None => last = Some(allocations()),
            Some(start) => inside += allocations() - start,
        });
    }
    assert_eq!(inside, 0, "denied");
    // The denials of new flows end first, what bars the servers of ended ones when an answered flow would.
    for (later, left) in [(10_000, 40 * 32), (200_000, 0)] {
        bare.env.now += later;
        let before = allocations();
        for _ in 0..200 {
            bare.housekeep();
        }
        assert_eq!(allocations() - before, 0, "the end of denials");
        assert_eq!(bare.flows(), left);
    }
}
