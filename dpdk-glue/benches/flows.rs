//! Podplane's flow table beside DPDK's `rte_hash` in its lock-free mode: lookups in bulk of 32 and a read of each
//! entry, the same random keys in the same order, rounds in turn. Both are built for the number of keys; `rte_hash`
//! rounds up to twice as many places, so that it is half full.
//!
//! 8M entries want 1 GiB of hugepages beside EAL's: `echo 1200 > /proc/sys/vm/nr_hugepages`. Without them both lie in base
//! pages.
#![allow(unsafe_code)]

mod common;

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::NonNull;

use common::{cpu_time, scramble};
use dpdk_glue::{Eal, EalConfig};
use podplane_packet::id::PortId;
use podplane_tables::flow::{Action, Flags, FlowConfig, FlowTable, Half, Key, TimeoutClass, V4, Verdict};
use podplane_tables::mem::{Array, Want};
use podplane_tables::quota::Quota;

const BURST: usize = 32;
const ROUNDS: usize = 15;
/// Lookups of a round.
const LOOKUPS: usize = 1 << 20;
/// Words of an entry of 64 bytes.
const WORDS: usize = 8;

fn main() {
    // `cargo test --benches` runs this too: then a short round only shows that it works.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let sizes: &[u32] = if bench { &[1 << 16, 1 << 23] } else { &[1 << 10] };
    let memory_mib = if bench { 800 } else { 64 };
    let eal = Eal::init(&EalConfig { memory_mib, ..EalConfig::default() }).expect("EAL starts");
    for warning in eal.warnings() {
        eprintln!("{warning}");
    }
    println!(
        "{}, ns of CPU time per lookup{:>16}{:>12}{:>8}",
        dpdk_glue::dpdk_version(),
        "Podplane",
        "rte_hash",
        "ratio"
    );
    for &entries in sizes {
        compare(entries, if bench { LOOKUPS } else { 1 << 12 });
    }
}

/// Half of the keys differ in the ports alone, as a client's connections do.
fn key(n: u32) -> Key<V4> {
    let [a, b, c, _] = (n >> 1).to_be_bytes();
    Key::new([10, a, b, c], [10, 1, 2, 3], n as u16, 80, 6, 0)
}

fn compare(entries: u32, lookups: usize) {
    let keys: Vec<[Key<V4>; BURST]> = (0..lookups / BURST)
        .map(|b| std::array::from_fn(|i| key(scramble((b * BURST + i) as u64) as u32 % entries)))
        .collect();
    let (ours, theirs) = (Ours::filled(entries), Theirs::filled(entries));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(time(&keys, |burst| ours.burst(burst)));
        times[1].push(time(&keys, |burst| theirs.burst(burst)));
    }
    let [ours, theirs] = times.map(|mut rounds| {
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    });
    println!("{:<42}{ours:>14.1}{theirs:>12.1}{:>7.2}x", format!("{entries} entries, all found"), theirs / ours);
}

/// Nanoseconds per lookup of one round.
fn time(keys: &[[Key<V4>; BURST]], mut burst: impl FnMut(&[Key<V4>; BURST]) -> usize) -> f64 {
    let start = cpu_time();
    let found: usize = keys.iter().map(|k| burst(black_box(k))).sum();
    let time = cpu_time() - start;
    assert_eq!(found, keys.len() * BURST, "every key is there, and leads to an entry that forwards");
    time.as_nanos() as f64 / found as f64
}

struct Ours(FlowTable<V4>);

impl Ours {
    fn filled(entries: u32) -> Ours {
        let config = FlowConfig { capacity: entries as usize, seed: [1, 2], memory: Want::Huge };
        let mut table = FlowTable::new(config).expect("memory");
        let mut quota = Quota::new(u32::MAX);
        for n in 0..entries {
            let half = Half {
                key: key(n),
                verdict: Verdict { action: Action::Forward(PortId(2)), rewrite: None },
                generation: 1,
                last_seen: 0,
                peer: None,
                flags: Flags::NONE,
                class: TimeoutClass::Udp,
                local_port: PortId(2),
                vtep: None,
            };
            table.insert(table.hash(&half.key), &half, &mut quota).expect("room");
        }
        println!("Podplane's entries lie in {:?}", table.backing());
        Ours(table)
    }

    /// As the pipeline does it.
    fn burst(&self, keys: &[Key<V4>; BURST]) -> usize {
        let hashes = keys.map(|key| {
            let hash = self.0.hash(&key);
            self.0.prefetch(hash);
            hash
        });
        let mut found = [None; BURST];
        self.0.find_bulk(keys, &hashes, &mut found);
        found
            .iter()
            .flatten()
            .filter_map(|s| self.0.get(*s))
            .filter(|e| e.action() == Action::Forward(PortId(2)))
            .count()
    }
}

/// The hash, and the entries that its positions number.
struct Theirs(NonNull<dpdk_sys::rte_hash>, Array<u64>);

impl Theirs {
    fn filled(entries: u32) -> Theirs {
        let parameters = dpdk_sys::rte_hash_parameters {
            name: c"flows".as_ptr(),
            // One more than the power of two, so that the buckets are rounded up to the next.
            entries: entries + 1024,
            reserved: 0,
            key_len: size_of::<Key<V4>>() as u32,
            // DPDK's choice: CRC32 by instruction.
            hash_func: None,
            hash_func_init_val: 0,
            socket_id: -1,
            extra_flag: dpdk_sys::RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF as u8,
        };
        // SAFETY: the parameters and the name live during the call, which copies them.
        let hash = NonNull::new(unsafe { dpdk_sys::rte_hash_create(&raw const parameters) }).expect("memory");
        let mut data = Array::<u64>::new((entries as usize + 2048) * WORDS, Want::Huge).expect("memory");
        println!("rte_hash's entries lie in {:?}", data.backing());
        for n in 0..entries {
            let key = key(n);
            // SAFETY: the hash is ours alone, the key has the length it was made for and is copied.
            let position = unsafe { dpdk_sys::rte_hash_add_key(hash.as_ptr(), (&raw const key).cast()) };
            data[usize::try_from(position).expect("room") * WORDS] = 2;
        }
        Theirs(hash, data)
    }

    fn burst(&self, keys: &[Key<V4>; BURST]) -> usize {
        let mut pointers: [*const c_void; BURST] = keys.each_ref().map(|key| (&raw const *key).cast());
        let mut positions = [0i32; BURST];
        // SAFETY: the arrays have BURST elements each, and every pointer leads to a key of the right length.
        unsafe {
            dpdk_sys::rte_hash_lookup_bulk(
                self.0.as_ptr(),
                pointers.as_mut_ptr(),
                BURST as u32,
                positions.as_mut_ptr(),
            );
        }
        // All reads are independent of one another: the CPU overlaps them; asking before reading is fair nevertheless.
        let places = positions.map(|p| usize::try_from(p).unwrap_or(0) * WORDS);
        for place in places {
            podplane_tables::mem::prefetch(&self.1[place]);
        }
        places.iter().filter(|&&place| self.1[place] == 2).count()
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // SAFETY: created in `filled`, freed once, used by nobody else.
        unsafe { dpdk_sys::rte_hash_free(self.0.as_ptr()) };
    }
}
