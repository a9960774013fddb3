//! What the AF_PACKET driver alone reaches: one iperf3 TCP stream between two namespaces, through a loop that only
//! forwards, beside a kernel bridge over the same kind of veths; then through a VXLAN tunnel between two uplinks,
//! beside the kernel's VXLAN. Run as root: `cargo run --release --example veth_forward [seconds] [rounds] [--spin] [--verbose]`.

#[allow(dead_code, reason = "shared with the tests, which look at more of it")]
#[path = "../src/ports/tests/lab.rs"]
mod lab;

use lab::{Forwarder, Netns, Op, run};
use podplane_dataplane::ports;
use podplane_packet::id::{PortId, WorkerId};
use ports::{PortIo, PortOpener, Role};

/// Two pods with addresses, whose veths end in `dp`.
fn pods(mtu: u32) -> (Netns, Netns, Netns) {
    let (a, b, dp) = (Netns::new("a"), Netns::new("b"), Netns::new("dp"));
    dp.silence();
    for (pod, n, dev) in [(&a, 1, "da"), (&b, 2, "db")] {
        pod.veth("eth0", &dp, dev);
        pod.exec(&format!("ip addr add 10.77.0.{n}/24 dev eth0"));
        for (ns, dev) in [(pod, "eth0"), (&dp, dev)] {
            ns.exec(&format!("ip link set {dev} mtu {mtu}"));
        }
    }
    (a, b, dp)
}

/// Gbit/s of one cubic stream from a to b.
fn iperf3(a: &Netns, b: &Netns, seconds: u32) -> f64 {
    let name = b.name.clone();
    let server = std::thread::spawn(move || run(&format!("ip netns exec {name} iperf3 -s -1")));
    while !b.exec("ss -ltnH").contains(":5201") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let out = a.exec(&format!("iperf3 -c 10.77.0.2 -t {seconds} -C cubic -f m"));
    let _ = server.join();
    if std::env::args().any(|a| a == "--verbose") {
        println!("{out}");
    }
    let line = out.lines().find(|l| l.contains("receiver")).unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "Mbits/sec").unwrap_or(1);
    words.get(at - 1).and_then(|w| w.parse::<f64>().ok()).unwrap_or(0.0) / 1000.0
}

/// Makes `br0` of the interfaces.
fn bridge_of(ns: &Netns, devices: [&str; 2]) {
    ns.exec("ip link add br0 type bridge");
    for dev in devices {
        ns.exec(&format!("ip link set {dev} master br0"));
        ns.exec(&format!("ip link set {dev} up"));
    }
    ns.exec("ip link set br0 up");
}

fn kernel_bridge(seconds: u32) -> f64 {
    let (a, b, dp) = pods(1450);
    bridge_of(&dp, ["da", "db"]);
    iperf3(&a, &b, seconds)
}

/// Two nodes joined by a veth pair, with addresses for the kernel.
fn kernel_vxlan(seconds: u32) -> f64 {
    let (a, b, dp) = pods(1450);
    let other = Netns::new("dp2");
    dp.exec(&format!("ip link set db netns {}", other.name));
    dp.veth("u1", &other, "u2");
    for (ns, dev, pod, n) in [(&dp, "u1", "da", 1), (&other, "u2", "db", 2)] {
        ns.exec(&format!("ip addr add 192.168.0.{n}/24 dev {dev}"));
        ns.exec(&format!("ip link add vx0 type vxlan id 1 remote 192.168.0.{} dstport 4789 dev {dev}", 3 - n));
        bridge_of(ns, ["vx0", pod]);
    }
    iperf3(&a, &b, seconds)
}

const POD: Role = Role::Single { home: WorkerId(0) };

fn open(dp: &Netns, name: &'static str, role: Role) -> PortIo {
    let opened = dp.within(move || PortOpener::new(1, 256 << 20).open_interface(PortId(2), name, role));
    opened.expect("the interface opens").ends.remove(0)
}

fn our_loop(seconds: u32, spin: bool) -> f64 {
    let (a, b, dp) = pods(1450);
    let ports = vec![open(&dp, "da", POD), open(&dp, "db", POD)];
    let fwd = Forwarder::start(ports, vec![(0, 1, Op::Plain), (1, 0, Op::Plain)], spin);
    measure(&a, &b, seconds, [fwd])
}

/// Two loops, one for each node, as two dataplanes would run.
fn our_vxlan(seconds: u32, spin: bool) -> f64 {
    let (a, b, dp) = pods(1450);
    dp.veth("u1", &dp, "u2");
    let mut outer = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    outer.extend([192, 168, 0, 1, 192, 168, 0, 2, 0xc0, 0x01, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0]);
    let n = outer.len();
    let nodes = [("da", "u1"), ("db", "u2")].map(|(pod, uplink)| {
        let ports = vec![open(&dp, pod, POD), open(&dp, uplink, Role::Uplink)];
        Forwarder::start(ports, vec![(0, 1, Op::Encap(outer.clone())), (1, 0, Op::Decap(n))], spin)
    });
    measure(&a, &b, seconds, nodes)
}

/// The rate through these loops; with `--verbose` also what it cost them.
fn measure<const N: usize>(a: &Netns, b: &Netns, seconds: u32, loops: [Forwarder; N]) -> f64 {
    let rate = iperf3(a, b, seconds);
    for fwd in loops {
        let seen = std::sync::Arc::clone(&fwd.seen);
        drop(fwd);
        if std::env::args().any(|a| a == "--verbose") {
            println!("{seen:?}");
        }
    }
    rate
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let spin = std::env::args().any(|a| a == "--spin");
    let (seconds, rounds) = (numbers.first().copied().unwrap_or(5), numbers.get(1).copied().unwrap_or(3));
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds.max(1) {
        rates[0].push(kernel_bridge(seconds));
        rates[1].push(our_loop(seconds, spin));
        rates[2].push(kernel_vxlan(seconds));
        rates[3].push(our_vxlan(seconds, spin));
    }
    let [bridge, ours, vxlan, our_vxlan] = rates.map(median);
    println!("one node:  kernel bridge {bridge:6.2} Gbit/s, loop {ours:6.2} Gbit/s, {:.2}x", ours / bridge);
    println!("two nodes: kernel VXLAN  {vxlan:6.2} Gbit/s, loop {our_vxlan:6.2} Gbit/s, {:.2}x", our_vxlan / vxlan);
}
