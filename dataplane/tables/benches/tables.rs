//! Nanoseconds per element of the tables' hot operations, in bursts of 32 as workers call them.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use podplane_packet::id::PortId;
use podplane_tables::VtepIndex;
use podplane_tables::affinity::Affinity;
use podplane_tables::fib::{Fib, NextHop};
use podplane_tables::flow::{Action, Addr, Flags, FlowConfig, FlowTable, Half, Key, TimeoutClass, V4, V6, Verdict};
use podplane_tables::maglev::Maglev;
use podplane_tables::mem::Want;
use podplane_tables::quota::Quota;

const BURST: usize = 32;

/// A cheap generator, so that the order of the lookups defeats the prefetchers.
fn scramble(n: u64) -> u64 {
    let x = (n ^ (n >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d)
}

fn key4(n: u32) -> Key<V4> {
    Key::new(n.to_be_bytes(), [10, 1, 2, 3], n as u16, 80, 6, 0)
}

fn key6(n: u32) -> Key<V6> {
    let mut src = [0xfd; 16];
    src[12..].copy_from_slice(&n.to_be_bytes());
    Key::new(src, [0xfe; 16], n as u16, 80, 6, 0)
}

fn half<A: Addr>(key: Key<A>) -> Half<A> {
    Half {
        key,
        verdict: Verdict { action: Action::Forward(PortId(2)), rewrite: None },
        generation: 1,
        last_seen: 0,
        peer: None,
        flags: Flags::NONE,
        class: TimeoutClass::Udp,
        local_port: PortId(2),
        vtep: None,
    }
}

fn filled<A: Addr>(entries: u32, key: fn(u32) -> Key<A>) -> FlowTable<A> {
    let config = FlowConfig { capacity: entries as usize, seed: [1, 2], memory: Want::Huge };
    let mut table = FlowTable::new(config).expect("memory");
    let mut quota = Quota::new(u32::MAX);
    for n in 0..entries {
        let half = half(key(n));
        table.insert(table.hash(&half.key), &half, &mut quota).expect("room");
    }
    table
}

/// One burst as the worker does it: hash and prefetch all, look all up, read each entry's action.
fn burst<A: Addr>(table: &FlowTable<A>, keys: &[Key<A>; BURST]) -> usize {
    let hashes = keys.map(|key| {
        let hash = table.hash(&key);
        table.prefetch(hash);
        hash
    });
    let mut found = [None; BURST];
    table.find_bulk(keys, &hashes, &mut found);
    found.iter().flatten().filter_map(|s| table.get(*s)).filter(|e| matches!(e.action(), Action::Forward(_))).count()
}

fn lookups<A: Addr>(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    family: &str,
    key: fn(u32) -> Key<A>,
) {
    for entries in [1u32 << 10, 1 << 16, 1 << 20] {
        let table = filled(entries, key);
        group.throughput(Throughput::Elements(BURST as u64));
        for (kind, base, hits) in [("hit", 0, BURST), ("miss", entries, 0)] {
            let mut at = 0u64;
            group.bench_function(BenchmarkId::new(format!("{family}/{kind}"), entries), |b| {
                b.iter(|| {
                    let keys = std::array::from_fn(|i| key(base + scramble(at + i as u64) as u32 % entries));
                    at += BURST as u64;
                    assert_eq!(burst(&table, black_box(&keys)), hits);
                });
            });
        }
    }
}

fn flow(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow");
    lookups(&mut group, "v4", key4);
    lookups(&mut group, "v6", key6);
    group.throughput(Throughput::Elements(1));
    group.bench_function("v4/insert+free", |b| {
        let mut table = filled::<V4>(1 << 16, key4);
        let mut quota = Quota::new(u32::MAX);
        let first = table.find(&key4(0), table.hash(&key4(0))).expect("inserted");
        let (mut slot, mut n) = (first, 1 << 16);
        b.iter(|| {
            table.free(slot, &mut quota);
            let half = half(key4(n));
            slot = table.insert(table.hash(&half.key), &half, &mut quota).expect("room");
            n += 1;
        });
    });
    group.bench_function("v4/hash", |b| {
        let table = filled::<V4>(1, key4);
        let keys: [Key<V4>; BURST] = std::array::from_fn(|i| key4(i as u32));
        b.iter(|| black_box(&keys).map(|k| table.hash(&k)));
    });
    group.finish();
}

fn cluster(nodes: u32) -> Vec<(IpAddr, u8, NextHop)> {
    let node = |n: u32| {
        let hop = NextHop::Vtep(VtepIndex(n as u16));
        let v6 = |a: u128| IpAddr::from(Ipv6Addr::from(a));
        [
            (IpAddr::from(Ipv4Addr::from(0x0af4_0000 + (n << 8))), 24, hop),
            (IpAddr::from(Ipv4Addr::from(0xc0a8_0000 + n)), 32, hop),
            (v6((0xfd00_0010_0244u128 << 80) + (u128::from(n) << 64)), 64, hop),
            (v6((0xfd00_0000_0001u128 << 80) + u128::from(n)), 128, hop),
        ]
    };
    (0..nodes).flat_map(node).collect()
}

fn fib(c: &mut Criterion) {
    let mut group = c.benchmark_group("fib");
    let pods: Vec<_> = (0..250u32)
        .map(|n| (IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)), NextHop::Local(PortId(n as u16))))
        .collect();
    for nodes in [2u32, 5000] {
        let fib = Fib::build(cluster(nodes), pods.clone()).expect("no contradictions");
        let v4: [Ipv4Addr; BURST] =
            std::array::from_fn(|i| Ipv4Addr::from(0x0af4_0000 + ((scramble(i as u64) as u32 % nodes) << 8) + 7));
        let v6: [Ipv6Addr; BURST] = std::array::from_fn(|i| {
            Ipv6Addr::from((0xfd00_0010_0244u128 << 80) + (u128::from(scramble(i as u64) as u32 % nodes) << 64) + 7)
        });
        let mut hops = [None; BURST];
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(BenchmarkId::new("v4/lookup", nodes), |b| {
            b.iter(|| fib.lookup4_bulk(black_box(&v4), black_box(&mut hops)));
        });
        fib.lookup4_bulk(&v4, &mut hops);
        assert!(hops.iter().all(Option::is_some));
        group.bench_function(BenchmarkId::new("v6/lookup", nodes), |b| {
            b.iter(|| fib.lookup6_bulk(black_box(&v6), black_box(&mut hops)));
        });
        fib.lookup6_bulk(&v6, &mut hops);
        assert!(hops.iter().all(Option::is_some));
    }
    group.throughput(Throughput::Elements(1));
    let routes = cluster(2500);
    group.bench_function("build 10k prefixes", |b| b.iter(|| Fib::build(routes.iter().copied(), []).expect("valid")));
    let fib = Fib::build(routes, []).expect("valid");
    group.bench_function("one pod more, of 250", |b| b.iter(|| fib.with_hosts(pods.iter().copied()).expect("valid")));
    group.finish();
}

fn maglev(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev");
    let names: Vec<u64> = (0..100_000).map(scramble).collect();
    for backends in [10, 100, 1000] {
        let sets = names.len() / backends;
        group.bench_function(BenchmarkId::new("build all sets of 100,000 backends", backends), |b| {
            b.iter(|| {
                let tables = names.chunks_exact(backends).map(|set| Maglev::build(set, [1, 2]));
                assert_eq!(tables.filter(|t| black_box(t).size() > 1).count(), sets);
            });
        });
    }
    let table = Maglev::build(&names[..100], [1, 2]);
    group.throughput(Throughput::Elements(BURST as u64));
    let hashes: [u64; BURST] = std::array::from_fn(|i| scramble(i as u64));
    group.bench_function("pick", |b| b.iter(|| black_box(&hashes).map(|h| table.pick(h))));
    group.finish();
}

fn affinity(c: &mut Criterion) {
    let mut group = c.benchmark_group("affinity");
    let mut table = Affinity::new(1 << 16, [1, 2]);
    let client = |n: u64| IpAddr::from(Ipv4Addr::from(scramble(n) as u32));
    (0..1 << 15).for_each(|n| table.set(0, client(n), 1, (client(n), 80)));
    let mut n = 0u64;
    group.bench_function("get", |b| {
        b.iter(|| {
            n = (n + 1) % (1 << 15);
            table.get(1, client(n), 1, 1000)
        });
    });
    group.bench_function("set", |b| {
        b.iter(|| {
            n += 1;
            table.set(n as u32, client(n), 1, (client(n), 80));
        });
    });
    group.finish();
}

criterion_group!(benches, flow, fib, maglev, affinity);
criterion_main!(benches);
