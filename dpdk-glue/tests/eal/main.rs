//! The safe layer against the real DPDK: without hugepages, in a network namespace of its own.
//!
//! EAL starts once in a process, so this has no harness: the cases run in order on the main thread.
#![allow(unsafe_code)]

mod devices;
mod model;
mod packets;
mod pools;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dpdk_glue::{Eal, EalConfig, EalError, Hugepages, Mempool, PoolConfig};

type Case = (&'static str, fn(&Eal));

const CASES: &[Case] = &[
    ("eal: starts once, says what it runs with", starts_once),
    ("pool: gives out what it has, and no more", pools::exhaustion),
    ("pool: refuses what cannot work, by name", pools::refusals),
    ("pool: large buffers", pools::large_buffers),
    ("pool: a buffer that outlives its pool's handles", pools::buffer_outlives_handles),
    ("lcore: caches are emptied when a thread ends", pools::lcore_caches),
    ("mbuf: against a vector of bytes", model::agrees_with_bytes),
    ("mbuf: private data", packets::private_data),
    ("mbuf: flags and offload fields", packets::flags_and_fields),
    ("mbuf: received in place", packets::room),
    ("mbuf: shared payload", packets::shared_payload),
    ("ethdev: net_null bursts", devices::null_bursts),
    ("ethdev: queues and states", devices::queues_and_states),
    ("ethdev: refusals", devices::refusals),
    ("ethdev: net_ring keeps order, takes what fits", devices::ring_order),
    ("ethdev: capture callbacks", devices::callbacks),
    ("ethdev: net_tap with receive interrupts", devices::tap_interrupts),
    ("ethdev: net_af_packet", devices::af_packet),
];

fn main() {
    // SAFETY: the process has one thread. Devices live in a namespace that ends with the process.
    let isolated = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    assert!(isolated, "these tests make network devices: run them as root ({})", std::io::Error::last_os_error());
    devices::bring_up("lo");
    let config = EalConfig { hugepages: Hugepages::Off, memory_mib: 256, ..EalConfig::default() };
    let eal = Eal::init(&config).expect("EAL starts");

    let failed: Vec<&str> = CASES.iter().filter(|case| !passes(case, &eal)).map(|case| case.0).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");

    // Nothing of the cases is left, so that EAL can end; and only then.
    let second = eal.clone();
    assert!(!eal.shutdown(), "EAL ended while it was in use");
    assert!(second.shutdown(), "a case left something behind that keeps EAL alive");
    println!("{} cases passed", CASES.len());
}

fn passes((name, case): &Case, eal: &Eal) -> bool {
    let passed = catch_unwind(AssertUnwindSafe(|| case(eal))).is_ok();
    println!("{} {name}", if passed { "ok  " } else { "FAIL" });
    passed
}

fn starts_once(eal: &Eal) {
    assert!(dpdk_glue::dpdk_version().starts_with("DPDK "));
    assert!(!eal.has_hugepages());
    assert!(eal.warnings()[0].contains("nr_hugepages"), "the cure is missing: {:?}", eal.warnings());
    let runtime = format!("/var/run/dpdk/podplane-{}", std::process::id());
    assert!(!std::path::Path::new(&runtime).exists(), "EAL left {runtime}");
    assert!(matches!(Eal::init(&EalConfig::default()), Err(EalError::AlreadyStarted)));
}

/// A pool with `u64`s beside the bytes.
fn pool(eal: &Eal, name: &str, count: u32, data_room: u16) -> Mempool {
    let config = PoolConfig { name: name.to_owned(), count, cache: 0, data_room, socket: None };
    Mempool::create::<u64>(eal, &config).expect("the pool is made")
}
