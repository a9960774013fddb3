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
                            end_all(bare);
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

/// Hits and first packets through 10,000 Services with ten endpoints each, every set with a table of its own.
fn services(c: &mut Criterion) {
    const SERVICES: u32 = 10_000;
    // 8 million live flows take 2 GiB: SERVICE_FLOWS=8388608 cargo bench ... service
    let wanted = std::env::var("SERVICE_FLOWS").ok().and_then(|s| s.parse().ok());
    let flows: u32 = wanted.unwrap_or(1 << 16);
    let mut group = c.benchmark_group("service");
    group.throughput(Throughput::Elements(32));
    let mut filled = None;
    let mut round = 0u32;
    group.bench_function(BenchmarkId::new("hit", flows), |b| {
        let bare = filled.get_or_insert_with(|| {
            let mut bare = Bare::with_services(2 * flows as usize + 64, SERVICES);
            (0..flows).step_by(32).for_each(|first| bare.burst_to_services(|i| first + i));
            bare
        });
        b.iter(|| {
            round = round.wrapping_add(1);
            let at = round.wrapping_mul(32);
            bare.burst_to_services(|i| (at + i).wrapping_mul(2_654_435_761) % flows);
        });
    });
    drop(filled);
    let mut empty = None;
    let mut next = 0u32;
    group.bench_function(BenchmarkId::new("first", flows), |b| {
        let bare = empty.get_or_insert_with(|| Bare::with_services(2 * flows as usize + 64, SERVICES));
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                if bare.flows() + 64 > 2 * flows as usize {
                    end_all(bare);
                }
                let start = std::time::Instant::now();
                bare.burst_to_services(|i| next.wrapping_add(i).wrapping_mul(2_654_435_761) % (1 << 28));
                spent += start.elapsed();
                next = next.wrapping_add(32);
            }
            spent
        });
    });
    // The whole life of a flow, its end included.
    let mut empty = None;
    group.bench_function("open-to-close", |b| {
        let bare = empty.get_or_insert_with(|| Bare::with_services(1 << 17, SERVICES));
        b.iter_custom(|rounds| {
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                if bare.flows() + 64 > 1 << 17 {
                    end_all(bare);
                }
                bare.burst_to_services(|i| next.wrapping_add(i).wrapping_mul(2_654_435_761) % (1 << 28));
                next = next.wrapping_add(32);
            }
            end_all(bare);
            start.elapsed()
        });
    });
    group.finish();
    let mut bare = Bare::with_services(1 << 10, SERVICES);
    let mut n = 0;
    c.bench_function("snapshot/one-service-of-10000", |b| {
        b.iter(|| {
            n += 1;
            bare.change_one(n);
        });
    });
    c.bench_function("snapshot/10000-services", |b| {
        b.iter_with_large_drop(|| Bare::with_services(1 << 10, SERVICES));
    });
}

/// First packets between pods with rules: none, a thousand and ten thousand of them at each end.
fn policy(c: &mut Criterion) {
    const FLOWS: usize = 1 << 16;
    let mut group = c.benchmark_group("policy");
    group.throughput(Throughput::Elements(32));
    for rules in [0, 1000, 10_000] {
        let mut empty = None;
        let mut next = 0u32;
        group.bench_function(BenchmarkId::new("first", rules), |b| {
            let bare = empty.get_or_insert_with(|| {
                let mut bare = Bare::new(2 * FLOWS + 64, false);
                if rules > 0 {
                    bare.obey(rules);
                }
                bare
            });
            b.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    if bare.flows() + 64 > 2 * FLOWS {
                        end_all(bare);
                    }
                    bare.write(|i| next + i);
                    let start = std::time::Instant::now();
                    bare.run();
                    spent += start.elapsed();
                    next = next.wrapping_add(32);
                }
                spent
            });
        });
    }
    group.finish();
}

/// Lets all flows end.
fn end_all(bare: &mut Bare) {
    bare.env.now = bare.env.now.wrapping_add(60_000);
    while bare.flows() > 0 {
        bare.housekeep();
        bare.env.now = bare.env.now.wrapping_add(100);
    }
}

criterion_group!(benches, hits, misses, services, policy);
criterion_main!(benches);
