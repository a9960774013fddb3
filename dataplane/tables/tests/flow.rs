//! The flow table against a `HashMap`, and its limits.

use std::collections::HashMap;

use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::VtepIndex;
use podplane_tables::flow::{
    Action, Addr, EntryState, Flags, FlowConfig, FlowTable, Half, HalfRef, InsertError, Key, Rewrite, Slot,
    TimeoutClass, V4, V6, Verdict,
};
use podplane_tables::mem::Want;
use podplane_tables::quota::Quota;
use proptest::collection::vec;
use proptest::prelude::*;

fn table<A: Addr>(capacity: usize) -> FlowTable<A> {
    FlowTable::new(FlowConfig { capacity, seed: [1, 2], memory: Want::Base }).unwrap()
}

fn half<A: Addr>(key: Key<A>, port: u16) -> Half<A> {
    Half {
        key,
        verdict: Verdict { action: Action::Forward(PortId(port)), rewrite: None },
        generation: 1,
        last_seen: 0,
        peer: None,
        flags: Flags::NONE,
        class: TimeoutClass::Udp,
        local_port: PortId(port),
        vtep: None,
    }
}

fn key4(n: u32) -> Key<V4> {
    Key::new(n.to_be_bytes(), [10, 0, 0, 1], 1000, 80, 6, 0)
}

fn key6(n: u32) -> Key<V6> {
    let mut src = [0xfd; 16];
    src[12..].copy_from_slice(&n.to_be_bytes());
    Key::new(src, [0xfe; 16], 1000, 80, 6, 0)
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert { key: u32, port: u16, action: u8 },
    Replace { key: u32, port: u16 },
    Retire { key: u32 },
    Free { key: u32 },
    FreeRetired { nth: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u32..40;
    prop_oneof![
        6 => (key.clone(), 2u16..5, 0u8..3).prop_map(|(key, port, action)| Op::Insert { key, port, action }),
        1 => (key.clone(), 2u16..5).prop_map(|(key, port)| Op::Replace { key, port }),
        1 => key.clone().prop_map(|key| Op::Retire { key }),
        3 => key.prop_map(|key| Op::Free { key }),
        1 => (0usize..8).prop_map(|nth| Op::FreeRetired { nth }),
    ]
}

/// The slow oracle: what is live by key, what waits to be freed, who pays.
struct Oracle<A: Addr> {
    live: HashMap<Key<A>, (Slot, Half<A>)>,
    retired: Vec<(Slot, Half<A>)>,
    capacity: usize,
    limit: usize,
}

impl<A: Addr> Oracle<A> {
    fn charged(&self, port: PortId) -> usize {
        let live = self.live.values().map(|l| l.1);
        live.chain(self.retired.iter().map(|r| r.1)).filter(|h| h.local_port == port).count()
    }

    fn insert(&self, half: &Half<A>) -> Result<(), InsertError> {
        if let Some((slot, _)) = self.live.get(&half.key) {
            return Err(InsertError::Exists(*slot));
        }
        if self.live.len() + self.retired.len() == self.capacity {
            return Err(InsertError::Full);
        }
        if self.charged(half.local_port) == self.limit {
            return Err(InsertError::Quota);
        }
        Ok(())
    }
}

fn run<A: Addr>(capacity: usize, limit: u32, ops: &[Op], key: fn(u32) -> Key<A>) {
    let mut table = table::<A>(capacity);
    let mut quota = Quota::new(limit);
    let mut oracle = Oracle::<A> { live: HashMap::new(), retired: Vec::new(), capacity, limit: limit as usize };
    for &op in ops {
        match op {
            Op::Insert { key: n, port, action } => {
                let mut half = half(key(n), port);
                half.verdict.action = match action {
                    0 => Action::Forward(PortId(n as u16)),
                    1 => Action::Encap(VtepIndex(n as u16)),
                    _ => Action::Drop(n as u8),
                };
                let got = table.insert(table.hash(&half.key), &half, &mut quota);
                assert_eq!(got.map(|_| ()), oracle.insert(&half));
                if let Ok(slot) = got {
                    oracle.live.insert(half.key, (slot, half));
                }
            }
            Op::Replace { key: n, port } => {
                let Some(&(slot, old)) = oracle.live.get(&key(n)) else { continue };
                let new = Half { generation: old.generation + 1, ..half(key(n), port) };
                let room = old.local_port == new.local_port || oracle.charged(new.local_port) < limit as usize;
                assert_eq!(table.replace(slot, &new, &mut quota).is_ok(), room);
                if room {
                    oracle.live.insert(new.key, (slot, new));
                }
            }
            Op::Retire { key: n } => {
                let Some((slot, half)) = oracle.live.remove(&key(n)) else { continue };
                assert!(table.retire(slot) && !table.retire(slot));
                oracle.retired.push((slot, half));
            }
            Op::Free { key: n } => {
                let Some((slot, _)) = oracle.live.remove(&key(n)) else { continue };
                let name = table.half_ref(WorkerId(0), slot).unwrap();
                assert_eq!(table.resolve(name), Some(slot));
                assert!(table.free(slot, &mut quota) && !table.free(slot, &mut quota));
                assert_eq!(table.resolve(name), None);
            }
            Op::FreeRetired { nth } => {
                if nth < oracle.retired.len() {
                    let (slot, half) = oracle.retired.swap_remove(nth);
                    assert_eq!(table.get(slot).unwrap().half(), half, "a retired entry can still be read");
                    assert!(table.free(slot, &mut quota));
                }
            }
        }
        compare(&table, &quota, &oracle, key);
    }
    let all = oracle.live.values().map(|l| l.0).chain(oracle.retired.iter().map(|r| r.0));
    for slot in all.collect::<Vec<_>>() {
        assert!(table.free(slot, &mut quota));
    }
    assert!(table.is_empty());
    assert_eq!(table.stats().passed_by, 0, "counts of passing entries were not taken back");
}

fn compare<A: Addr>(table: &FlowTable<A>, quota: &Quota, oracle: &Oracle<A>, key: fn(u32) -> Key<A>) {
    assert_eq!(table.len(), oracle.live.len() + oracle.retired.len());
    let keys: Vec<_> = (0..48).map(key).collect();
    let hashes: Vec<_> = keys.iter().map(|k| table.hash(k)).collect();
    let mut found = vec![None; keys.len()];
    for ((k, h), f) in keys.chunks(32).zip(hashes.chunks(32)).zip(found.chunks_mut(32)) {
        table.find_bulk(k, h, f);
    }
    for ((key, hash), found) in keys.iter().zip(&hashes).zip(&found) {
        let expected = oracle.live.get(key);
        assert_eq!(table.find(key, *hash), expected.map(|e| e.0));
        assert_eq!(*found, expected.map(|e| e.0));
        if let Some((slot, half)) = expected {
            assert_eq!(table.get(*slot).unwrap().half(), *half);
        }
    }
    let mut live: Vec<_> = (0..=table.capacity() as u32).step_by(7).flat_map(|from| table.live(from, 7)).collect();
    let mut expected: Vec<_> = oracle.live.values().map(|l| l.0).collect();
    live.sort();
    expected.sort();
    assert_eq!(live, expected);
    for port in (2..5).map(PortId) {
        assert_eq!(quota.used(port) as usize, oracle.charged(port));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn equals_a_hash_map(capacity in 1usize..40, limit in 3u32..30, ops in vec(op(), 0..120), v6: bool) {
        if v6 { run(capacity, limit, &ops, key6) } else { run(capacity, limit, &ops, key4) }
    }

    #[test]
    fn entries_keep_every_field(
        action in prop_oneof![
            any::<u16>().prop_map(|p| Action::Forward(PortId(p))),
            any::<u16>().prop_map(|v| Action::Encap(VtepIndex(v))),
            any::<u8>().prop_map(Action::Drop),
        ],
        rewrite in proptest::option::of(any::<([u8; 16], [u8; 16], u16, u16)>()),
        peer in proptest::option::of((any::<u8>(), 1u32.., any::<u32>())),
        numbers: (u32, u32, u16), port in 0u16..1026, vtep in proptest::option::of(0u16..16384),
    ) {
        let mut table = table::<V6>(4);
        let half = Half {
            key: key6(9),
            verdict: Verdict { action, rewrite: rewrite.map(|(src, dst, sport, dport)| Rewrite { src, dst, sport, dport }) },
            generation: numbers.0,
            last_seen: numbers.1,
            peer: peer.map(|(w, i, sequence)| HalfRef { worker: WorkerId(w), slot: Slot::from_index(i).unwrap(), sequence }),
            flags: Flags(numbers.2),
            class: TimeoutClass::TcpClosed,
            local_port: PortId(port),
            vtep: vtep.map(VtepIndex),
        };
        let slot = table.insert(table.hash(&half.key), &half, &mut Quota::new(1)).unwrap();
        prop_assert_eq!(table.get(slot).unwrap().half(), half);
        prop_assert_eq!(table.get(slot).unwrap().state(), EntryState::Live);
    }
}

#[test]
fn a_table_takes_all_it_was_made_for_and_evicts_nothing() {
    const N: u32 = 20_000;
    let mut table = table::<V4>(N as usize);
    // Whoever may have this many may have the last places too.
    let mut quota = Quota::new(u32::MAX);
    let insert = |table: &mut FlowTable<V4>, quota: &mut Quota, n| {
        let half = half(key4(n), 2);
        table.insert(table.hash(&half.key), &half, quota)
    };
    let slots: Vec<_> = (0..N).map(|n| insert(&mut table, &mut quota, n).unwrap()).collect();
    assert_eq!(insert(&mut table, &mut quota, N), Err(InsertError::Full));
    assert_eq!(quota.used(PortId(2)), N, "a refused flow is not charged");
    for (n, slot) in slots.iter().enumerate() {
        let key = key4(n as u32);
        assert_eq!(table.find(&key, table.hash(&key)), Some(*slot));
    }
    let stats = table.stats();
    assert!(stats.displaced * 20 < N as usize, "{stats:?}: most entries lie at home even in a full table");
    assert!(stats.passed_by * 8 < stats.lines, "{stats:?}");
    for slot in slots.iter().step_by(2) {
        table.free(*slot, &mut quota);
    }
    for n in (1..N).step_by(2) {
        assert!(table.find(&key4(n), table.hash(&key4(n))).is_some());
    }
    for n in N..N + N / 2 {
        insert(&mut table, &mut quota, n).unwrap();
    }
    assert_eq!(insert(&mut table, &mut quota, 2 * N), Err(InsertError::Full));
}

#[test]
fn a_connection_costs_what_it_may() {
    const N: usize = 1 << 16;
    // Entries, lines and the timer wheel of both halves.
    let wheel = 8 * (N + 1);
    let v4 = (table::<V4>(N).memory() + wheel) as f64 * 2.0 / N as f64;
    let v6 = (table::<V6>(N).memory() + wheel) as f64 * 2.0 / N as f64;
    assert!(v4 <= 160.0, "{v4} bytes per IPv4 connection");
    assert!(v6 <= 300.0, "{v6} bytes per IPv6 connection");
}

/// Whoever does not know the seed gains nothing by choosing tuples: they lie like random ones.
#[test]
fn chosen_tuples_do_not_crowd_lines() {
    const N: u32 = 16_384;
    let displaced = |key: &dyn Fn(u32) -> Key<V4>| {
        let mut table = table::<V4>(N as usize);
        let mut quota = Quota::new(u32::MAX);
        for n in 0..N {
            let half = half(key(n), 2);
            table.insert(table.hash(&half.key), &half, &mut quota).unwrap();
        }
        table.stats()
    };
    let stranger = |n: u32| n.wrapping_mul(0x9e37_79b1).rotate_left(n % 31);
    let random = displaced(&|n| Key::new(stranger(n).to_be_bytes(), [1, 2, 3, 4], (n >> 3) as u16, 80, 6, 0));
    let chosen: [&dyn Fn(u32) -> Key<V4>; 4] = [
        &|n| Key::new([10, 0, 0, 1], [10, 0, 0, 2], n as u16, 80, 6, 0),
        &|n| Key::new([10, 0, 0, 1], [10, 0, 0, 2], 80, (n as u16).swap_bytes(), 17, 0),
        &|n| Key::new([10, 0, (n >> 8) as u8, 1], [10, n as u8, 0, 2], 80, 80, 6, 0),
        &|n| Key::new((n << 18).to_be_bytes(), (n << 18).to_be_bytes(), 0, 0, 50, 0),
    ];
    for (at, key) in chosen.into_iter().enumerate() {
        let stats = displaced(key);
        assert!(stats.displaced <= 2 * random.displaced + 64, "family {at}: {stats:?}, random ones {random:?}");
    }
}

#[test]
fn impossible_capacities_are_refused() {
    for capacity in [0, FlowTable::<V4>::MAX_CAPACITY + 1] {
        let error = FlowTable::<V4>::new(FlowConfig { capacity, seed: [0; 2], memory: Want::Base }).unwrap_err();
        assert!(error.to_string().contains("possible"), "{error}");
    }
}
