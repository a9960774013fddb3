//! DPDK's virtual devices as ports.

use std::net::IpAddr;

use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::DropReason;

use super::alone;
use super::lab::{Forwarder, Op, pools};
use super::traffic::{Pods, end, tcp_transfer, udp_echo};
use crate::ports::{OpenError, PortOpener, Role, TxFrom};

#[test]
fn net_af_packet_gets_what_it_cannot_do_done() {
    let _alone = alone();
    let pods = Pods::new();
    for ns in [&pods.a, &pods.b] {
        // The driver knows no virtio header: frames come to it as they would from a wire.
        ns.exec("ethtool -K eth0 tx off tso off gso off");
    }
    pods.a.exec("ethtool -K eth0 tx on tso on gso on");
    let other = pods.dp.within(|| {
        let role = Role::Single { home: WorkerId(0) };
        PortOpener::new(1, 64 << 20).open_ethdev(PortId(3), "net_af_packet7,iface=db,blocksz=65536", role, &pools())
    });
    let other = other.expect("it opens");
    assert_eq!((other.facts.mtu, other.facts.tx), (1500, TxFrom::Home(WorkerId(0))));
    let ports = vec![end(pods.open(2, "da")), end(other)];
    let fwd = Forwarder::start(ports, vec![(0, 1, Op::Plain), (1, 0, Op::Plain)], false);
    for address in ["10.77.0.2", "fd77::2"] {
        let address: IpAddr = address.parse().expect("an address");
        tcp_transfer(&pods.a, &pods.b, address, 1 << 20);
        udp_echo(&pods.a, &pods.b, address, &[1, 1001, 1472]);
    }
    assert_eq!(fwd.counters.total_drops(DropReason::TxDevice), 0);
}

#[test]
fn net_tap_carries_tcp() {
    let _alone = alone();
    let pods = Pods::new();
    let tap = pods.dp.within(|| {
        let role = Role::Single { home: WorkerId(0) };
        PortOpener::new(1, 64 << 20).open_ethdev(PortId(3), "net_tap7,iface=dtap7", role, &pools())
    });
    let tap = tap.expect("it opens");
    pods.dp.exec("ip addr add 10.77.0.3/24 dev dtap7");
    let ports = vec![end(pods.open(2, "da")), end(tap)];
    let fwd = Forwarder::start(ports, vec![(0, 1, Op::Plain), (1, 0, Op::Plain)], false);
    let address: IpAddr = "10.77.0.3".parse().expect("an address");
    tcp_transfer(&pods.a, &pods.dp, address, 1 << 20);
    udp_echo(&pods.a, &pods.dp, address, &[1, 1001, 1472]);
    assert_eq!(fwd.counters.total_drops(DropReason::TxDevice), 0);
}

#[test]
fn an_ethdev_that_is_not_there_says_why() {
    let _alone = alone();
    let role = Role::Uplink;
    let e = PortOpener::new(1, 1 << 20).open_ethdev(PortId(0), "net_nonsense0", role, &pools()).expect_err("no driver");
    assert!(matches!(e, OpenError::Device { .. }) && e.to_string().contains("net_nonsense0"), "{e}");
}
