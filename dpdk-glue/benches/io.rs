//! What the layer costs on net_null: packets received and sent again, and buffers taken and freed, in millions per
//! second of CPU time, beside DPDK's own inline functions called through C.
#![allow(unsafe_code)]

use std::time::Duration;

use arrayvec::ArrayVec;
use dpdk_glue::ethdev::{Port, PortConfig, RxQueue, TxQueue};
use dpdk_glue::{Eal, EalConfig, Mbuf, Mempool, PoolConfig};

/// Each figure is the best of so many rounds: other processes only ever make one slower.
const ROUNDS: usize = 5;
/// Packets of a round.
const PACKETS: usize = 20_000_000;

fn main() {
    // `cargo test --benches` runs this too: then a short round only shows that it works.
    let packets = if std::env::args().any(|arg| arg == "--bench") { PACKETS } else { 32_000 };
    let eal = Eal::init(&EalConfig::default()).expect("EAL starts");
    for warning in eal.warnings() {
        eprintln!("{warning}");
    }
    let config = PoolConfig { name: "io".to_owned(), count: 8191, cache: 256, data_room: 2048, socket: None };
    let pool = Mempool::create::<[u64; 3]>(&eal, &config).expect("the pool is made");
    let mut port = Port::attach(&eal, "net_null0").expect("net_null is installed");
    port.configure(&PortConfig { rx_pools: vec![pool.clone()], ..PortConfig::default() }).expect("it is configured");
    port.start().expect("it starts");
    let (mut rx, mut tx) = (port.rx_queue(0).expect("a queue"), port.tx_queue(0).expect("a queue"));

    println!("{}, Mpps per CPU-second{:>24}{:>12}", dpdk_glue::dpdk_version(), "Rust", "C shim");
    let (r, c) = (io::<32>(&mut rx, &mut tx, packets), io_c::<32>(port.id(), packets));
    row("net_null io, burst 32", r, c);
    let (r, c) = (io::<4>(&mut rx, &mut tx, packets), io_c::<4>(port.id(), packets));
    row("net_null io, burst 4", r, c);
    let (r, c) = (io::<1>(&mut rx, &mut tx, packets), io_c::<1>(port.id(), packets));
    row("net_null io, burst 1", r, c);
    row("alloc and drop, one by one", alloc_one(&pool, packets), alloc_one_c(&pool, packets));
    println!("{:<40}{:>12.1}", "alloc_fill and free_all, 32", alloc_bulk(&pool, packets));
}

fn row(name: &str, rust: f64, c: f64) {
    println!("{name:<40}{rust:>12.1}{c:>12.1}");
}

/// The best rate of `step`, which handles `each` packets.
fn rate(packets: usize, each: usize, mut step: impl FnMut()) -> f64 {
    let round = |_| {
        let start = cpu_time();
        (0..packets / each).for_each(|_| step());
        packets as f64 / (cpu_time() - start).as_secs_f64() / 1e6
    };
    (0..ROUNDS).map(round).fold(0.0, f64::max)
}

fn io<const N: usize>(rx: &mut RxQueue, tx: &mut TxQueue, packets: usize) -> f64 {
    let mut burst: ArrayVec<Mbuf, N> = ArrayVec::new();
    rate(packets, N, || {
        rx.rx_burst(&mut burst);
        tx.tx_burst(&mut burst);
        assert!(burst.is_empty());
    })
}

fn io_c<const N: usize>(port: u16, packets: usize) -> f64 {
    let mut burst = [std::ptr::null_mut(); N];
    rate(packets, N, || {
        // SAFETY: the queue exists, this thread alone uses it, and the array has room for N.
        let sent = unsafe {
            let n = dpdk_sys::shim_rx_burst(port, 0, burst.as_mut_ptr(), N as u16);
            dpdk_sys::shim_tx_burst(port, 0, burst.as_mut_ptr(), n)
        };
        assert_eq!(usize::from(sent), N);
    })
}

fn alloc_one(pool: &Mempool, packets: usize) -> f64 {
    rate(packets, 1, || drop(std::hint::black_box(pool.alloc())))
}

fn alloc_one_c(pool: &Mempool, packets: usize) -> f64 {
    let raw = pool.alloc().expect("a buffer").into_raw();
    // SAFETY: a buffer of ours, which is given back right away; it tells which pool it came from.
    let mempool = unsafe {
        let mempool = (*raw.cast::<dpdk_sys::rte_mbuf>()).pool;
        dpdk_sys::shim_pktmbuf_free(raw.cast());
        mempool
    };
    // SAFETY: the pool lives, and each buffer is freed once.
    rate(packets, 1, || unsafe { dpdk_sys::shim_pktmbuf_free(dpdk_sys::shim_pktmbuf_alloc(mempool)) })
}

fn alloc_bulk(pool: &Mempool, packets: usize) -> f64 {
    let mut burst: ArrayVec<Mbuf, 32> = ArrayVec::new();
    rate(packets, 32, || {
        assert!(pool.alloc_fill(&mut burst));
        Mbuf::free_all(&mut burst);
    })
}

/// The calling thread's CPU time.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and the structure is ours.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
