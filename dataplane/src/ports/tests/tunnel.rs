//! Two nodes over a kernel interface: VXLAN as UDP GSO, merged again on arrival; and several workers on an uplink.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use podplane_packet::id::PortId;
use podplane_pipeline::DropReason;

use super::lab::{Forwarder, Op, pools};
use super::traffic::{Pods, end, tcp_transfer, udp_echo};
use super::{alone, eventually};
use crate::ports::{PortIo, PortOpener, Role};

/// Ethernet, IP, UDP and VXLAN headers of an underlay.
fn outer(v4: bool) -> Vec<u8> {
    let mut o = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2];
    if v4 {
        o.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 168, 0, 1, 192, 168, 0, 2]);
    } else {
        o.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 64]);
        o.extend([0xfc; 16]);
        o.extend([0xfd; 16]);
    }
    o.extend([0xc0, 0x01, 0x12, 0xb5, 0, 0, 0, 0]);
    o.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    o
}

/// Pods a and b on two "nodes" whose uplinks u1 and u2 are a veth pair.
fn nodes(pods: &Pods, workers: u8) -> (Vec<PortIo>, Vec<Vec<PortIo>>) {
    pods.dp.veth("u1", &pods.dp, "u2");
    for dev in ["u1", "u2"] {
        pods.dp.exec(&format!("ip link set {dev} mtu 1600"));
    }
    let uplinks = pods.dp.within(move || {
        let opener = PortOpener::new(workers, 64 << 20);
        ["u1", "u2"].map(|n| opener.open_interface(PortId(0), n, Role::Uplink).expect("it opens").ends)
    });
    (vec![end(pods.open(2, "da")), end(pods.open(3, "db"))], uplinks.into())
}

fn paths(v4: bool) -> Vec<(usize, usize, Op)> {
    let o = outer(v4);
    let n = o.len();
    vec![(0, 2, Op::Encap(o.clone())), (3, 1, Op::Decap(n)), (1, 3, Op::Encap(o)), (2, 0, Op::Decap(n))]
}

#[test]
fn tcp_crosses_the_tunnel_in_merged_frames() {
    let _alone = alone();
    for v4 in [true, false] {
        let pods = Pods::new();
        let (mut ports, uplinks) = nodes(&pods, 1);
        ports.extend(uplinks.into_iter().flatten());
        let fwd = Forwarder::start(ports, paths(v4), false);
        for address in ["10.77.0.2", "fd77::2"] {
            let address: IpAddr = address.parse().expect("an address");
            tcp_transfer(&pods.a, &pods.b, address, 16 << 20);
            udp_echo(&pods.a, &pods.b, address, &[1, 999, 1472, 9000]);
        }
        let merged = fwd.seen.merged.load(Relaxed);
        assert!(merged > 100, "segments were to be merged, {merged} packets were");
        for reason in [DropReason::TxDevice, DropReason::RxTruncated, DropReason::NoBuffers] {
            assert_eq!(fwd.counters.total_drops(reason), 0, "{}", reason.name());
        }
    }
}

/// A wire between the uplinks that carries nothing but single datagrams, for the sender is a device without offloads: what
/// arrives is merged by us, on a kernel interface and on a device.
#[test]
fn separate_datagrams_are_merged_on_arrival() {
    let _alone = alone();
    for kernel in [true, false] {
        let pods = Pods::new();
        pods.dp.veth("u1", &pods.dp, "u2");
        for dev in ["u1", "u2"] {
            pods.dp.exec(&format!("ip link set {dev} mtu 1600"));
        }
        let (first, second) = pods.dp.within(move || {
            let opener = PortOpener::new(1, 64 << 20);
            let device = |n: u8, iface| {
                let devargs = format!("net_af_packet{n},iface={iface},blocksz=65536");
                opener.open_ethdev(PortId(0), &devargs, Role::Uplink, &pools()).expect("it opens")
            };
            let second = match kernel {
                true => opener.open_interface(PortId(0), "u2", Role::Uplink).expect("it opens"),
                false => device(9, "u2"),
            };
            (device(8, "u1"), second)
        });
        let ports = vec![end(pods.open(2, "da")), end(pods.open(3, "db")), end(first), end(second)];
        let fwd = Forwarder::start(ports, paths(true), false);
        for address in ["10.77.0.2", "fd77::2"] {
            let before = fwd.seen.merged.load(Relaxed);
            let address: IpAddr = address.parse().expect("an address");
            tcp_transfer(&pods.a, &pods.b, address, 4 << 20);
            udp_echo(&pods.a, &pods.b, address, &[1, 999, 1472, 9000]);
            let merged = fwd.seen.merged.load(Relaxed) - before;
            assert!(merged > 50, "to {address} segments were to be merged, {merged} packets were");
        }
        for reason in [DropReason::TxDevice, DropReason::BadOffload, DropReason::RxTruncated, DropReason::NoBuffers] {
            assert_eq!(fwd.counters.total_drops(reason), 0, "{}", reason.name());
        }
    }
}

#[test]
fn workers_share_an_uplink_and_see_each_frame_once() {
    let _alone = alone();
    let pods = Pods::new();
    let (ports, mut uplinks) = nodes(&pods, 3);
    let second = uplinks.pop().expect("u2");
    let first = uplinks.pop().expect("u1");
    // One loop visits all three ends of u2, as three workers would; a's frames leave by one end of u1.
    let mut all = ports;
    all.extend(first.into_iter().take(1));
    all.extend(second);
    let o = outer(true);
    let n = o.len();
    let mut paths = vec![(0, 2, Op::Encap(o.clone())), (1, 3, Op::Encap(o)), (2, 0, Op::Decap(n))];
    paths.extend((3..6).map(|p| (p, 1, Op::Decap(n))));
    // Replies may come to those ends of u1 that nobody visits: no answer is waited for.
    let fwd = Forwarder::start(all, paths, false);
    let before = pods.b.exec("cat /proc/net/dev");
    pods.a.exec("ip neigh replace 10.77.0.2 lladdr ff:ff:ff:ff:ff:ff dev eth0");
    let _ = std::process::Command::new("ip")
        .args(["netns", "exec", &pods.a.name, "ping", "-q", "-c", "10", "-i", "0.01", "-W", "5", "10.77.0.2"])
        .output();
    eventually("ten frames at b", || received(&pods) >= 10 + packets(&before));
    std::thread::sleep(std::time::Duration::from_millis(50));
    let came = received(&pods) - packets(&before);
    assert!((10..20).contains(&came), "each frame once, b received {came}");
    drop(fwd);
}

/// Packets that b's eth0 received.
fn received(pods: &Pods) -> u64 {
    packets(&pods.b.exec("cat /proc/net/dev"))
}

fn packets(dev: &str) -> u64 {
    let line = dev.lines().find_map(|l| l.trim().strip_prefix("eth0:")).expect("eth0 is there");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}
