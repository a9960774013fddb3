//! Nanoseconds per packet: hits by table size, misses, local and into the tunnel. Bursts of 32 UDP packets of 60 bytes;
//! writing the packet anew (44 bytes) is part of it.
#![allow(missing_docs)]

#[path = "../tests/bare/mod.rs"]
mod bare;

use bare::Bare;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A worker with that many flows in its table.
fn fill(flows: u32, tunnel: bool) -> Bare {
    let mut bare = Bare::new(2 * flows as usize + 64, tunnel);
    for first in (0..flows).step_by(32) {
        bare.burst(first);
    }
    bare
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit");
    group.throughput(Throughput::Elements(32));
    for (name, tunnel) in [("local", false), ("vxlan", true)] {
        for flows in [1 << 10, 1 << 16, 1 << 20] {
            let mut filled = None;
            let mut round = 0u32;
            group.bench_function(BenchmarkId::new(name, flows), |b| {
                let bare = filled.get_or_insert_with(|| fill(flows, tunnel));
                b.iter(|| {
                    round = round.wrapping_add(1);
                    let at = round.wrapping_mul(32);
                    // Flows in no order that a prefetcher could learn.
                    bare.burst_of(|i| (at + i).wrapping_mul(2_654_435_761) % flows);
                });
            });
        }
    }
    group.finish();
}

fn misses(c: &mut Criterion) {
    let mut group = c.benchmark_group("miss");
    group.throughput(Throughput::Elements(32));
    for (name, tunnel) in [("local", false), ("vxlan", true)] {
        for flows in [1 << 10, 1 << 16, 1 << 20] {
            let mut empty = None;
            let mut next = 0u32;
            group.bench_function(BenchmarkId::new(name, flows), |b| {
                let bare = empty.get_or_insert_with(|| Bare::new(2 * flows as usize + 64, tunnel));
                b.iter_custom(|rounds| {
                    let mut spent = std::time::Duration::ZERO;
                    for _ in 0..rounds {
                        if bare.flows() + 64 > 2 * flows as usize {
                            bare.env.now = bare.env.now.wrapping_add(60_000);
                            while bare.flows() > 0 {
                                bare.housekeep();
                                bare.env.now = bare.env.now.wrapping_add(100);
                            }
                        }
                        let start = std::time::Instant::now();
                        bare.burst(next);
                        spent += start.elapsed();
                        next = next.wrapping_add(32);
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, hits, misses);
criterion_main!(benches);
