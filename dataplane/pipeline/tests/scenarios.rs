//! Packet in, packet out: one line of the table per scenario. Add yours at the end of a table.
//!
//! The cluster: node 0 with pods A and B, node 1 with pod C; 10.244.1.0/24 and 10.244.2.0/24 (and fd00:244:1::/64,
//! fd00:244:2::/64), each node's own address in its range is .1; nodes are 192.0.2.1 and .2.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{ACK, End, SYN, arrived, echo, frame, hops, send, tcp};
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::{Sim, SimConfig, gateway_v4, gateway_v6};

/// What must come of a frame.
enum Want {
    /// It arrives there, as a router passes it on.
    At(usize),
    /// It arrives at the other of uplink and host port as it was.
    Unchanged(PortId),
    /// It is dropped, and nobody hears of it.
    Drop(DropReason),
    /// It is dropped, and an ICMP error with this type, code and last field comes back from the node of that number.
    Tell(DropReason, u8, u8, u32, usize),
    /// This comes back.
    Reply(Vec<u8>),
}

struct Cluster {
    sim: Sim,
    /// A, B, C, node 0, node 1.
    ends: [End; 5],
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const NODE: usize = 3;

fn cluster(workers: u8) -> Cluster {
    let mut sim = Sim::new(SimConfig { workers, ..SimConfig::default() });
    let [a, b, c] = [0, 0, 1].map(|n| End::Pod(sim.add_pod(n)));
    Cluster { sim, ends: [a, b, c, End::Node(0), End::Node(1)] }
}

fn udp() -> Transport {
    Transport::Udp { sport: 1000, dport: 2000 }
}

fn v4(s: &str) -> IpAddr {
    s.parse::<Ipv4Addr>().expect("an address").into()
}

fn v6(s: &str) -> IpAddr {
    s.parse::<Ipv6Addr>().expect("an address").into()
}

fn set_src(spec: &mut FrameSpec, to: IpAddr) {
    match (&mut spec.ip, to) {
        (Ip::V4 { src, .. }, IpAddr::V4(a)) => *src = a,
        (Ip::V6 { src, .. }, IpAddr::V6(a)) => *src = a,
        _ => panic!("another family"),
    }
}

fn no_df(spec: &mut FrameSpec) {
    if let Ip::V4 { df, .. } = &mut spec.ip {
        *df = false;
    }
}

/// Sends one frame and checks what came of it.
fn check(c: &mut Cluster, name: &str, from: usize, spec: &FrameSpec, want: &Want) {
    let end = c.ends[from];
    send(&mut c.sim, end, spec);
    let back = c.sim.take(end.node(), end.port());
    match want {
        Want::At(to) => {
            let to = c.ends[*to];
            let got = if to == end { back } else { c.sim.take(to.node(), to.port()) };
            let want = arrived(&c.sim, spec, to, hops(end, to));
            assert_eq!(got.iter().map(VecBuf::bytes).collect::<Vec<_>>(), [want], "{name}: {:?}", c.sim.all_drops());
        }
        Want::Unchanged(port) => {
            let got = c.sim.take(end.node(), *port);
            assert_eq!(got.iter().map(VecBuf::bytes).collect::<Vec<_>>(), [spec.build()], "{name}");
        }
        Want::Drop(reason) => {
            assert_eq!(c.sim.all_drops(), [(reason.name(), 1)], "{name}");
            assert!(back.is_empty(), "{name}: {back:?}");
        }
        Want::Tell(reason, kind, code, rest, node) => {
            assert_eq!(c.sim.all_drops(), [(reason.name(), 1)], "{name}");
            assert_eq!(back.len(), 1, "{name}");
            told(c, name, end, spec, &back[0], (*kind, *code, *rest, *node));
        }
        Want::Reply(bytes) => {
            assert_eq!(back.iter().map(VecBuf::bytes).collect::<Vec<_>>(), std::slice::from_ref(bytes), "{name}");
        }
    }
    assert_eq!(c.sim.conserved(), Ok(()), "{name}");
    assert!(c.sim.nodes.iter().all(|n| n.delivered.is_empty()), "{name}: something went elsewhere");
}

/// Checks an ICMP error byte for byte but for the quoted packet, which must be the one sent (but for TTL and checksum).
fn told(c: &Cluster, name: &str, to: End, spec: &FrameSpec, got: &VecBuf, want: (u8, u8, u32, usize)) {
    let (kind, code, rest, node) = want;
    let sent = spec.build();
    let v6 = matches!(spec.ip, Ip::V6 { .. });
    let (longest, header) = if v6 { (1280, 40) } else { (576, 20) };
    let bytes = got.bytes();
    let quote = &bytes[14 + header + 8..];
    let len = (longest - header - 8).min(sent.len() - 14);
    assert_eq!(quote.len(), len, "{name}: length of the quotation");
    let (ttl_at, sum_at) = if v6 { (7, 7..8) } else { (8, 10..12) };
    for (i, (q, s)) in quote.iter().zip(&sent[14..]).enumerate() {
        assert!(q == s || i == ttl_at || sum_at.contains(&i), "{name}: quoted byte {i}");
    }
    let from: IpAddr = if v6 { gateway_v6(node).into() } else { gateway_v4(node).into() };
    let passed = if node == to.node() { 0 } else { 1 };
    let mut error = frame(&c.sim, to, from, Transport::Icmp { kind, code, rest: rest.to_be_bytes() }, quote);
    error.ip = common::addresses(from, to.ip(v6));
    if let Ip::V4 { id, df, .. } = &mut error.ip {
        (*id, *df) = (0, true);
    }
    if let Ip::V6 { label, .. } = &mut error.ip {
        *label = 0;
    }
    error.tos = 0xc0;
    error.ttl = 64 - passed;
    (error.src_mac, error.dst_mac) = (Mac::GATEWAY, to.mac(&c.sim));
    assert_eq!(bytes, error.build(), "{name}");
}

type Scenario = (&'static str, usize, IpAddr, Transport, usize, fn(&mut FrameSpec), Want);

/// Name, sender, destination, transport, payload bytes, what else differs, what must come of it.
fn table() -> Vec<Scenario> {
    use DropReason as D;
    let (a, b, c) = ("10.244.1.10", "10.244.1.11", "10.244.2.10");
    let (a6, b6, c6) = ("fd00:244:1::a", "fd00:244:1::b", "fd00:244:2::a");
    let same = |_: &mut FrameSpec| {};
    let ttl1 = |s: &mut FrameSpec| s.ttl = 1;
    let ttl2 = |s: &mut FrameSpec| s.ttl = 2;
    let past_us = |s: &mut FrameSpec| s.dst_mac = Mac([2, 9, 9, 9, 9, 9]);
    vec![
        ("local", A, v4(b), udp(), 10, same, Want::At(B)),
        ("local, IPv6", A, v6(b6), udp(), 10, same, Want::At(B)),
        ("remote", A, v4(c), udp(), 10, same, Want::At(C)),
        ("to the node", A, v4("192.0.2.1"), udp(), 10, same, Want::At(NODE)),
        ("to the other node", A, v4("192.0.2.2"), udp(), 10, same, Want::At(4)),
        ("full size", A, v4(c), udp(), 1430 - 28, same, Want::At(C)),
        ("congestion experienced stays", A, v4(c), udp(), 10, |s| s.tos = 0xb8 | 3, Want::At(C)),
        ("IPv4 options", A, v4(c), udp(), 10, |s| options(s, &[7, 7, 4, 0, 0, 0, 0]), Want::At(C)),
        ("IPv6 destination options", A, v6(c6), udp(), 10, |s| extension(s, 60, vec![1, 4, 0, 0, 0, 0]), Want::At(C)),
        // TTL
        ("TTL 1 ends at the first hop", A, v4(b), udp(), 10, ttl1, Want::Tell(D::TtlExceeded, 11, 0, 0, 0)),
        ("hop limit 1", A, v6(b6), udp(), 10, ttl1, Want::Tell(D::TtlExceeded, 3, 0, 0, 0)),
        ("TTL 2 ends at the second", A, v4(c), udp(), 10, ttl2, Want::Tell(D::TtlExceeded, 11, 0, 0, 1)),
        ("hop limit 2", A, v6(c6), udp(), 10, ttl2, Want::Tell(D::TtlExceeded, 3, 0, 0, 1)),
        ("from the node", NODE, v4(c), udp(), 10, ttl1, Want::Tell(D::TtlExceeded, 11, 0, 0, 0)),
        // MTU
        ("too big, DF", A, v4(b), udp(), 1500 - 28, same, Want::Tell(D::TooBig, 3, 4, 1430, 0)),
        ("too big, IPv6", A, v6(b6), udp(), 1500 - 48, same, Want::Tell(D::TooBig, 2, 0, 1430, 0)),
        ("too big for the tunnel", A, v4(c), udp(), 1451 - 28, same, Want::Tell(D::TooBig, 3, 4, 1450, 0)),
        // Nobody there
        ("no such pod", A, v4("10.244.1.200"), udp(), 10, same, Want::Tell(D::NoSuchPod, 3, 1, 0, 0)),
        ("no such pod, IPv6", A, v6("fd00:244:1::99"), udp(), 10, same, Want::Tell(D::NoSuchPod, 1, 3, 0, 0)),
        ("no such pod there", A, v4("10.244.2.200"), udp(), 10, same, Want::Tell(D::NoSuchPod, 3, 1, 0, 1)),
        ("no route", A, v4("198.51.100.1"), udp(), 10, same, Want::Tell(D::NoRoute, 3, 0, 0, 0)),
        ("no route, IPv6", A, v6("2001:db8:1::1"), udp(), 10, same, Want::Tell(D::NoRoute, 1, 0, 0, 0)),
        ("to itself", A, v4(a), udp(), 10, same, Want::Drop(D::Hairpin)),
        // Spoofing
        ("another MAC", A, v4(b), udp(), 10, |s| s.src_mac.0[5] ^= 1, Want::Drop(D::SpoofedMac)),
        ("another's address", A, v4(c), udp(), 10, |s| set_src(s, v4("10.244.1.11")), Want::Drop(D::SpoofedIpv4)),
        ("another's IPv6", A, v6(c6), udp(), 10, |s| set_src(s, v6("fd00:244:1::b")), Want::Drop(D::SpoofedIpv6)),
        ("a link-local source", A, v6(c6), udp(), 10, |s| set_src(s, v6("fe80::7")), Want::Drop(D::SpoofedIpv6)),
        (
            "past the gateway",
            A,
            v4(b),
            udp(),
            10,
            |s| s.dst_mac = Mac([2, 0, 0, 1, 1, 11]),
            Want::Drop(D::NotToGateway),
        ),
        ("tagged", A, v4(b), udp(), 10, |s| s.vlan = Some(5), Want::Drop(D::VlanTagged)),
        (
            "the node as a local pod",
            NODE,
            v4(b),
            udp(),
            10,
            |s| set_src(s, v4("10.244.1.10")),
            Want::Drop(D::SpoofedFromHost),
        ),
        (
            "the node as a pod of another node",
            NODE,
            v4(b),
            udp(),
            10,
            |s| set_src(s, v4("10.244.2.10")),
            Want::Drop(D::SpoofedFromHost),
        ),
        (
            "the node as another node",
            NODE,
            v4(b),
            udp(),
            10,
            |s| set_src(s, v4("192.0.2.2")),
            Want::Drop(D::SpoofedFromHost),
        ),
        (
            "the node as a pod that is not there",
            NODE,
            v4(b),
            udp(),
            10,
            |s| set_src(s, v4("10.244.1.77")),
            Want::Drop(D::SpoofedFromHost),
        ),
        (
            "router advertisement",
            A,
            v6("ff02::1"),
            icmp(134, 0),
            8,
            |s| all_nodes(s),
            Want::Drop(D::RouterAdvertisementFromPod),
        ),
        ("redirect", A, v4(b), icmp(5, 1), 28, same, Want::Drop(D::RedirectFromPod)),
        ("MLD report", A, v6("ff02::16"), icmp(143, 0), 20, |s| all_nodes(s), Want::Drop(D::Multicast)),
        (
            "router solicitation",
            A,
            v6("ff02::2"),
            icmp(133, 0),
            0,
            |s| all_nodes(s),
            Want::Drop(D::NdRouterSolicitation),
        ),
        // Addresses that are not routed
        ("multicast", A, v4("224.0.0.251"), udp(), 10, same, Want::Drop(D::Multicast)),
        ("broadcast", A, v4("255.255.255.255"), udp(), 10, same, Want::Drop(D::Multicast)),
        ("loopback", A, v4("127.0.0.1"), udp(), 10, same, Want::Drop(D::Martian)),
        ("metadata service", A, v4("169.254.169.254"), udp(), 10, same, Want::Drop(D::LinkLocalForwarded)),
        ("link-local, IPv6", A, v6("fe80::9"), udp(), 10, same, Want::Drop(D::LinkLocalForwarded)),
        // The gateway
        ("TCP to the gateway", A, v4("169.254.1.1"), tcp(1, 2, SYN), 0, same, Want::Drop(D::GatewayNoService)),
        (
            "TCP to the node's range address",
            C,
            v4("10.244.1.1"),
            tcp(1, 2, SYN),
            0,
            same,
            Want::Drop(D::GatewayNoService),
        ),
        ("ICMP timestamp", A, v4(b), icmp(13, 0), 12, same, Want::Drop(D::IcmpTypeUnsupported)),
        ("an error about nothing", A, v4(b), icmp(3, 3), 3, same, Want::Drop(D::IcmpQuoteMalformed)),
        // Our own protocol from a pod is nothing special
        ("VXLAN from a pod", A, v4("192.0.2.1"), Transport::Udp { sport: 9, dport: 4789 }, 60, same, Want::At(NODE)),
        ("VXLAN to another node", A, v4("192.0.2.2"), Transport::Udp { sport: 9, dport: 4789 }, 60, same, Want::At(4)),
        // Nor may a process of the node speak it for us: peers believe what comes from a node's address
        ("VXLAN from the node", NODE, v4("192.0.2.2"), vxlan(), 60, past_us, Want::Drop(D::VxlanFromHost)),
        ("VXLAN of others", NODE, v4("198.51.100.1"), vxlan(), 60, past_us, Want::Unchanged(PortId::UPLINK)),
        // The node's network is not ours
        (
            "not to the gateway",
            NODE,
            v4("198.51.100.1"),
            udp(),
            10,
            |s| s.dst_mac = Mac([2, 9, 9, 9, 9, 9]),
            Want::Unchanged(PortId::UPLINK),
        ),
        (
            "its multicast",
            NODE,
            v4("224.0.0.5"),
            udp(),
            10,
            |s| s.dst_mac = Mac([1, 0, 0x5e, 0, 0, 5]),
            Want::Unchanged(PortId::UPLINK),
        ),
        (
            "its VLANs",
            NODE,
            v4("198.51.100.1"),
            udp(),
            10,
            |s| (s.vlan, s.dst_mac) = (Some(7), Mac([2, 9, 9, 9, 9, 9])),
            Want::Unchanged(PortId::UPLINK),
        ),
        ("established elsewhere", A, v4(c), tcp(5, 6, ACK), 100, same, Want::At(C)),
        ("from the node, IPv6", NODE, v6(c6), udp(), 10, same, Want::At(C)),
        ("to a pod from the node", NODE, v6(a6), udp(), 10, same, Want::At(A)),
    ]
}

fn vxlan() -> Transport {
    Transport::Udp { sport: 50_000, dport: 4789 }
}

fn icmp(kind: u8, code: u8) -> Transport {
    Transport::Icmp { kind, code, rest: [0; 4] }
}

fn all_nodes(s: &mut FrameSpec) {
    s.ttl = 255;
    s.dst_mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
    set_src(s, v6("fe80::1234"));
}

fn options(s: &mut FrameSpec, bytes: &[u8]) {
    if let Ip::V4 { options, .. } = &mut s.ip {
        *options = bytes.to_vec();
    }
}

fn extension(s: &mut FrameSpec, proto: u8, bytes: Vec<u8>) {
    if let Ip::V6 { extensions, .. } = &mut s.ip {
        extensions.push((proto, bytes));
    }
}

#[test]
fn each_frame_comes_to_what_the_table_says() {
    for workers in [1, 3] {
        for (name, from, to, l4, payload, change, want) in table() {
            let mut c = cluster(workers);
            let payload: Vec<u8> = (0..payload).map(|i| i as u8).collect();
            let mut spec = frame(&c.sim, c.ends[from], to, l4, &payload);
            change(&mut spec);
            check(&mut c, name, from, &spec, &want);
        }
    }
}

#[test]
fn the_gateway_answers_echo_on_all_its_addresses() {
    let gateways = [
        v4("169.254.1.1"),
        v4("10.244.1.1"),
        v4("10.244.2.1"),
        v6("fe80::1"),
        v6("fe80::50:50ff:fe00:1"),
        v6("fd00:244:1::1"),
        v6("fd00:244:2::1"),
    ];
    for gateway in gateways {
        for from in [A, NODE] {
            if gateway == v6(if from == A { "fe80::50:50ff:fe00:1" } else { "fe80::1" }) {
                continue;
            }
            let mut c = cluster(2);
            let end = c.ends[from];
            let v6 = gateway.is_ipv6();
            let spec = frame(&c.sim, end, gateway, echo(v6, true, 9), b"are you there");
            let mut reply = spec.clone();
            reply.ip = common::addresses(gateway, end.ip(v6));
            if let (Ip::V6 { label, .. }, Ip::V6 { label: asked, .. }) = (&mut reply.ip, &spec.ip) {
                *label = *asked;
            }
            reply.l4 = echo(v6, false, 9);
            (reply.src_mac, reply.dst_mac) = (Mac::GATEWAY, end.mac(&c.sim));
            let there = matches!(gateway, IpAddr::V4(a) if a.octets()[2] == 2)
                || matches!(gateway, IpAddr::V6(a) if a.segments()[2] == 2);
            reply.ttl = if there { 63 } else { 64 };
            check(&mut c, &gateway.to_string(), from, &spec, &Want::Reply(reply.build()));
            if from == A {
                let mut shouted = spec.clone();
                shouted.dst_mac = Mac::BROADCAST;
                check(&mut c, "asked of all, answered by one", from, &shouted, &Want::Reply(reply.build()));
            }
        }
    }
}

#[test]
fn ipv4_without_df_is_cut_and_arrives_whole() {
    for (to, payload) in [(B, 1480), (C, 1480), (C, 4000)] {
        let mut c = cluster(2);
        let body: Vec<u8> = (0..payload).map(|i| (i * 7) as u8).collect();
        let mut spec = frame(&c.sim, c.ends[A], c.ends[to].ip(false), udp(), &body);
        no_df(&mut spec);
        send(&mut c.sim, c.ends[A], &spec);
        let end = c.ends[to];
        let pieces = c.sim.take(end.node(), end.port());
        assert!(pieces.len() >= 2, "{:?}", c.sim.all_drops());
        let mut whole: Vec<u8> = Vec::new();
        for (i, p) in pieces.iter().enumerate() {
            let b = p.bytes();
            let field = u16::from_be_bytes([b[20], b[21]]);
            assert_eq!(usize::from(field & 0x1fff) * 8, whole.len(), "in order, without gaps");
            assert_eq!(field & 0x2000 != 0, i + 1 < pieces.len(), "more fragments");
            assert!(b.len() - 14 <= 1430, "fits the pod's MTU");
            whole.extend(&b[34..]);
        }
        assert_eq!(whole, spec.build()[34..].to_vec());
        assert_eq!(c.sim.conserved(), Ok(()));
    }
}

#[test]
fn what_the_uplink_brings_that_is_not_ours_passes_to_the_node() {
    let mut c = cluster(2);
    let mac = c.sim.nodes[0].uplink_mac();
    let frames = [
        vec![0xff; 60],
        [&mac.0[..], &[2, 0, 0, 0, 0, 9], &[0x88, 0xcc], &[0; 46]].concat(),
        [&mac.0[..], &[2, 0, 0, 0, 0, 9], &[0x08, 0x00], &[0x45; 3]].concat(),
    ];
    for f in frames {
        c.sim.inject(0, PortId::UPLINK, WorkerId(1), VecBuf::new(&f));
        c.sim.settle();
        let got = c.sim.take(0, PortId::HOST);
        assert_eq!(got.iter().map(VecBuf::bytes).collect::<Vec<_>>(), [f]);
    }
    assert_eq!(c.sim.all_drops(), Vec::new());
}
