//! Namespaces, veths and a forwarding loop for tests and the example: what surrounds the ports under test.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use dpdk_glue::{Eal, EalConfig, Hugepages, Lcore};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::{CloneFlags, setns};
use podplane_packet::buf::{Csum, Gso, PacketBuf};
use podplane_pipeline::counters::WorkerCounters;

use super::ports::{Buffers, Burst, LinkState, Pkt, PoolSizes, Pools, PortIo, TxQueue};

/// EAL starts once in a process, and tests run in one.
fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    let config = || EalConfig { memory_mib: 128, hugepages: Hugepages::Off, ..EalConfig::default() };
    EAL.get_or_init(|| Eal::init(&config()).expect("EAL starts without hugepages")).clone()
}

/// The pools that all ports of the process share.
pub(crate) fn pools() -> Pools {
    static POOLS: OnceLock<Pools> = OnceLock::new();
    let sizes = PoolSizes { small: 8191, large: 2047, slices: 8191 };
    POOLS.get_or_init(|| Pools::create(&eal(), &sizes).expect("128 MiB hold the pools")).clone()
}

/// Runs a command and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let out = Command::new(words.next().expect("a command")).args(words).output().expect("the command starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{command}: {}{text}", String::from_utf8_lossy(&out.stderr));
    text
}

/// A network namespace, removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    pub(crate) fn new(what: &str) -> Netns {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("pp-ports-{}-{}-{what}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        run(&format!("ip netns add {name}"));
        let ns = Netns { name };
        ns.exec("ip link set lo up");
        ns
    }

    /// Runs a command in the namespace.
    pub(crate) fn exec(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs `f` on a thread inside the namespace.
    pub(crate) fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let ns = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        std::thread::spawn(move || {
            setns(&ns, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            f()
        })
    }

    /// As [`Netns::spawn`], and waits for the result.
    pub(crate) fn within<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(f).join().expect("no panic inside the namespace")
    }

    /// Joins `name` here and `peer` in another namespace by a veth pair, both up.
    pub(crate) fn veth(&self, name: &str, to: &Netns, peer: &str) {
        run(&format!("ip link add {name} netns {} type veth peer name {peer} netns {}", self.name, to.name));
        for (ns, dev) in [(self, name), (to, peer)] {
            ns.exec(&format!("ip link set {dev} up"));
        }
    }

    /// Keeps the kernel's own IPv6 chatter off the interfaces of the namespace.
    pub(crate) fn silence(&self) {
        self.exec("sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// What a path does to packets on their way.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Nothing.
    Plain,
    /// Puts these headers in front: Ethernet, IP, UDP, VXLAN.
    Encap(Vec<u8>),
    /// Takes that many bytes of headers off.
    Decap(usize),
}

/// What the loop saw, for assertions.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) packets: AtomicU64,
    pub(crate) longest: AtomicU64,
    /// Tunnelled packets that arrived merged.
    pub(crate) merged: AtomicU64,
    pub(crate) tagged: AtomicU64,
    pub(crate) gone: AtomicBool,
    /// What the loop's thread was given of a CPU, in milliseconds; known when it ended.
    pub(crate) cpu_ms: AtomicU64,
}

/// A thread that forwards between ports until it is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Arc<AtomicBool>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) counters: Arc<WorkerCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Forwards along `paths`: from a port, to a port, doing something.
    pub(crate) fn start(ports: Vec<PortIo>, paths: Vec<(usize, usize, Op)>, spin: bool) -> Forwarder {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let counters = Arc::new(WorkerCounters::default());
        let mut work = Work {
            bufs: Buffers::new(&pools()),
            queues: ports.iter().map(|_| TxQueue::default()).collect(),
            ports,
            paths,
            seen: Arc::clone(&seen),
            counters: Arc::clone(&counters),
        };
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // As workers do: without an lcore's cache every buffer would be the coldest of its pool.
            let _lcore = Lcore::register(&eal()).expect("an lcore is free");
            let mut idle = 0;
            while !until.load(Relaxed) {
                idle = if work.round() { 0 } else { idle + 1 };
                if idle > 50 && !spin {
                    work.wait();
                }
            }
            let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
            let ns: u64 = stat.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
            work.seen.cpu_ms.store(ns / 1_000_000, Relaxed);
        });
        Forwarder { stop, seen, counters, thread: Some(thread) }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || std::thread::panicking(), "the forwarder panicked");
        }
    }
}

struct Work {
    bufs: Buffers,
    ports: Vec<PortIo>,
    queues: Vec<TxQueue>,
    paths: Vec<(usize, usize, Op)>,
    seen: Arc<Seen>,
    counters: Arc<WorkerCounters>,
}

impl Work {
    /// Visits every path once; whether there was anything to do.
    fn round(&mut self) -> bool {
        let mut burst = Burst::new();
        let mut busy = false;
        for i in 0..self.paths.len() {
            let (from, to, op) = self.paths[i].clone();
            let outcome = self.ports[from].rx(&mut self.bufs, &mut burst, &self.counters);
            if outcome.state == LinkState::Gone {
                self.seen.gone.store(true, Relaxed);
            }
            busy |= outcome.more || !burst.is_empty();
            for mut pkt in burst.drain(..) {
                self.see(&pkt);
                apply(&op, &mut pkt);
                let _ = self.queues[to].push(pkt);
            }
            let sent = self.ports[to].tx(&mut self.bufs, &mut self.queues[to], &self.counters);
            busy |= sent.blocked;
        }
        busy
    }

    fn see(&self, pkt: &Pkt) {
        self.seen.packets.fetch_add(1, Relaxed);
        self.seen.longest.fetch_max(pkt.len() as u64, Relaxed);
        let meta = pkt.meta();
        self.seen.merged.fetch_add(u64::from(meta.tunnel > 0 && meta.gso != Gso::None), Relaxed);
        self.seen.tagged.fetch_add(u64::from(meta.vlan.is_some()), Relaxed);
    }

    fn wait(&self) {
        let mut fds: Vec<PollFd> =
            self.ports.iter().filter_map(|p| p.wait_fd()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timers = self.ports.iter().any(|p| p.polls_rx() && p.wait_fd().is_none());
        let _ = nix::poll::poll(&mut fds, PollTimeout::from(if timers { 0u8 } else { 5u8 }));
    }
}

/// What the pipeline does to a packet, in its simplest form.
fn apply(op: &Op, pkt: &mut Pkt) {
    match op {
        Op::Plain => {}
        Op::Encap(outer) => {
            let l4 = outer.len() - 16;
            let v4 = outer[12] == 8;
            let bytes = pkt.len() + 16;
            let head = pkt.prepend(outer.len()).expect("headroom");
            head[..outer.len()].copy_from_slice(outer);
            if v4 {
                set_v4(&mut head[14..34], 20 + bytes);
            } else {
                head[18..20].copy_from_slice(&(bytes as u16).to_be_bytes());
            }
            head[l4 + 4..l4 + 6].copy_from_slice(&(bytes as u16).to_be_bytes());
            let meta = pkt.meta_mut();
            meta.tunnel = outer.len() as u8;
            meta.shift(outer.len() as i32);
        }
        Op::Decap(n) => {
            let merged = pkt.meta().tunnel > 0;
            assert!(!merged || usize::from(pkt.meta().tunnel) == *n);
            assert!(pkt.adj(*n), "the outer headers are in the first segment");
            let meta = pkt.meta_mut();
            meta.shift(-(*n as i32));
            meta.tunnel = 0;
            if !merged {
                meta.csum = Csum::Unknown;
            }
        }
    }
}

/// Sets total length and checksum of an IPv4 header (RFC 791 section 3.1).
fn set_v4(header: &mut [u8], total: usize) {
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    header[10..12].fill(0);
    let sum: u32 = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
