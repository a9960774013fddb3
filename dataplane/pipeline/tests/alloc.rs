//! The packet path allocates nothing: neither on hits nor on misses, nor while flows end.
//!
//! Counted is what the test's own thread does: the harness allocates when it likes.
#![allow(unsafe_code)]

mod bare;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no such number any more, and is none of ours.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    bare.env.now += 10_000;
    let before = allocations();
    for _ in 0..200 {
        bare.housekeep();
    }
    assert_eq!(allocations() - before, 0, "the end of denials");
    assert_eq!(bare.flows(), 0);
}
