//! The packet path allocates nothing: neither on hits nor on misses, nor while flows end.
//!
//! One test per file: the allocator counts what the whole process does.
#![allow(unsafe_code)]

mod bare;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
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
        let before = ALLOCATIONS.load(Relaxed);
        for flow in 0..100 {
            bare.burst(flow % 4); // hits
        }
        let hits = ALLOCATIONS.load(Relaxed);
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
        assert_eq!(ALLOCATIONS.load(Relaxed) - hits, 0, "misses and their end");
    }
}
