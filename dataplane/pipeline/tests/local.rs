//! What happens on one node's own ports: ARP, neighbour discovery, fragments, ICMP errors of pods.

mod common;

use common::{End, expect, frame, send};
use podplane_packet::id::{Mac, WorkerId};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::{Sim, SimConfig};

fn cluster() -> (Sim, End, End) {
    let mut sim = Sim::new(SimConfig::default());
    let (a, b) = (End::Pod(sim.add_pod(0)), End::Pod(sim.add_pod(0)));
    (sim, a, b)
}

fn arp(op: u8, mac: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, op][..], &mac.0, &sender, &[0; 6], &target].concat();
    [&Mac::BROADCAST.0[..], &mac.0, &[8, 6], &body, &[0; 18]].concat()
}

fn put(sim: &mut Sim, from: End, bytes: &[u8]) -> Vec<Vec<u8>> {
    sim.inject(from.node(), from.port(), WorkerId(0), VecBuf::new(bytes));
    sim.settle();
    assert_eq!(sim.conserved(), Ok(()));
    sim.take(from.node(), from.port()).iter().map(VecBuf::bytes).collect()
}

#[test]
fn arp_is_answered_for_the_gateway_alone() {
    let gateway = [169, 254, 1, 1];
    let own = [10, 244, 1, 10];
    let (mut sim, a, _) = cluster();
    let mac = a.mac(&sim);
    let answer = put(&mut sim, a, &arp(1, mac, own, gateway));
    let want = [&mac.0[..], &Mac::GATEWAY.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &Mac::GATEWAY.0, &gateway, &mac.0, &own];
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0][..42], want.concat());
    for (frame, reason) in [
        (arp(1, mac, own, [10, 244, 1, 11]), DropReason::ArpNotForGateway),
        (arp(1, mac, [0; 4], own), DropReason::ArpNotForGateway),
        (arp(2, mac, own, gateway), DropReason::ArpNotForGateway),
        (arp(1, mac, [10, 244, 1, 11], gateway), DropReason::SpoofedArp),
        (arp(2, mac, gateway, gateway), DropReason::SpoofedArp),
        (arp(1, mac, own, gateway)[..30].to_vec(), DropReason::ArpMalformed),
    ] {
        let (mut sim, a, _) = cluster();
        assert!(put(&mut sim, a, &frame).is_empty());
        assert_eq!(sim.all_drops(), [(reason.name(), 1)]);
    }
}

#[test]
fn the_nodes_arp_for_others_goes_to_its_network() {
    let (mut sim, _, _) = cluster();
    let node = End::Node(0);
    let mac = node.mac(&sim);
    assert_eq!(put(&mut sim, node, &arp(1, mac, [192, 0, 2, 1], [169, 254, 1, 1])).len(), 1);
    let other = arp(1, mac, [192, 0, 2, 1], [192, 0, 2, 254]);
    assert!(put(&mut sim, node, &other).is_empty());
    let out = sim.take(0, podplane_packet::id::PortId::UPLINK);
    assert_eq!(out.iter().map(VecBuf::bytes).collect::<Vec<_>>(), [other]);
}

/// A neighbour solicitation of `from` for `target`.
fn solicitation(sim: &Sim, from: End, src: &str, target: &str, option: Mac) -> FrameSpec {
    let target: std::net::Ipv6Addr = target.parse().expect("an address");
    let group = podplane_packet::wire::ndp::solicited_node(target);
    let o = group.octets();
    let mut spec = frame(sim, from, group.into(), Transport::Icmp { kind: 135, code: 0, rest: [0; 4] }, b"");
    spec.dst_mac = Mac([0x33, 0x33, o[12], o[13], o[14], o[15]]);
    spec.ttl = 255;
    if let Ip::V6 { src: s, .. } = &mut spec.ip {
        *s = src.parse().expect("an address");
    }
    spec.payload = [&target.octets()[..], &[1, 1], &option.0].concat();
    spec
}

#[test]
fn neighbour_discovery_is_answered_for_the_gateway_alone() {
    let (mut sim, a, _) = cluster();
    let mac = a.mac(&sim);
    for src in ["fd00:244:1::a", "fe80::aaaa"] {
        let ask = solicitation(&sim, a, src, "fe80::1", mac);
        let answers = put(&mut sim, a, &ask.build());
        let mut want = ask.clone();
        (want.src_mac, want.dst_mac) = (Mac::GATEWAY, mac);
        let gateway: std::net::Ipv6Addr = "fe80::1".parse().expect("an address");
        want.ip = Ip::V6 { src: gateway, dst: src.parse().expect("an address"), label: 0, extensions: Vec::new() };
        want.l4 = Transport::Icmp { kind: 136, code: 0, rest: [0xe0, 0, 0, 0] };
        want.payload = [&gateway.octets()[..], &[2, 1], &Mac::GATEWAY.0].concat();
        assert_eq!(answers, [want.build()]);
    }
    let node = End::Node(0);
    let ask = solicitation(&sim, node, "fe80::99", "fe80::50:50ff:fe00:1", node.mac(&sim));
    assert_eq!(put(&mut sim, node, &ask.build()).len(), 1, "the node may ask too, by the name that it knows us by");
    for other in ["fe80::5:1", "fe80::1"] {
        let ask = solicitation(&sim, node, "fe80::99", other, node.mac(&sim));
        assert!(put(&mut sim, node, &ask.build()).is_empty());
        let passed = sim.take(0, podplane_packet::id::PortId::UPLINK).len();
        assert_eq!(passed, 1, "the same group, another address: many a real router is called fe80::1");
    }
    assert_eq!(sim.all_drops(), Vec::new());
}

#[test]
fn neighbour_discovery_that_lies_is_dropped() {
    type Change = fn(&mut FrameSpec);
    let cases: [(Change, DropReason); 5] = [
        (|s| s.payload[18..24].fill(9), DropReason::SpoofedNd),
        (|s| s.ttl = 64, DropReason::NdMalformed),
        (|s| s.payload[17] = 0, DropReason::NdMalformed),
        (|s| s.payload[15] = 2, DropReason::NdNotForGateway),
        (|s| s.l4 = Transport::Icmp { kind: 136, code: 0, rest: [0x20, 0, 0, 0] }, DropReason::SpoofedNd),
    ];
    for (change, reason) in cases {
        let (mut sim, a, _) = cluster();
        let mut spec = solicitation(&sim, a, "fe80::aaaa", "fe80::1", a.mac(&sim));
        change(&mut spec);
        assert!(put(&mut sim, a, &spec.build()).is_empty());
        assert_eq!(sim.all_drops(), [(reason.name(), 1)]);
    }
}

/// Cuts an IPv4 frame's payload into fragments of `size` bytes.
fn fragments(spec: &FrameSpec, size: usize) -> Vec<Vec<u8>> {
    let whole = spec.build();
    let payload = &whole[34..];
    let count = payload.len().div_ceil(size);
    let piece = |(i, chunk): (usize, &[u8])| {
        let mut b = [&whole[..34], chunk].concat();
        b[16..18].copy_from_slice(&(20 + chunk.len() as u16).to_be_bytes());
        let field = (i * size / 8) as u16 | if i + 1 < count { 0x2000 } else { 0 };
        b[20..22].copy_from_slice(&field.to_be_bytes());
        b[24..26].fill(0);
        let sum = !podplane_packet::testing::naive_sum(&b[14..34]);
        b[24..26].copy_from_slice(&sum.to_be_bytes());
        b
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

#[test]
fn fragments_follow_their_first_in_any_order() {
    for (order, to_other_node) in [([0, 1, 2], false), ([2, 1, 0], false), ([1, 0, 2], true)] {
        let (mut sim, a, b) = cluster();
        let to = if to_other_node { End::Pod(sim.add_pod(1)) } else { b };
        let spec = frame(&sim, a, to.ip(false), Transport::Udp { sport: 1, dport: 2 }, &[5; 300]);
        let pieces = fragments(&spec, 120);
        for i in order {
            sim.inject(0, a.port(), WorkerId(0), VecBuf::new(&pieces[i]));
            sim.settle();
        }
        let got = sim.take(to.node(), to.port());
        assert_eq!(got.len(), 3, "{:?}", sim.all_drops());
        let all: usize = got.iter().map(|b| b.bytes().len() - 34).sum();
        assert_eq!(all, 308);
        assert_eq!(sim.flows(), if to_other_node { 4 } else { 2 }, "one flow, keyed by its ports");
        assert_eq!(sim.conserved(), Ok(()));
    }
}

#[test]
fn fragments_without_their_first_and_overlaps_are_dropped_by_name() {
    let (mut sim, a, b) = cluster();
    let spec = frame(&sim, a, b.ip(false), Transport::Udp { sport: 1, dport: 2 }, &[5; 300]);
    let pieces = fragments(&spec, 120);
    put(&mut sim, a, &pieces[1]);
    assert_eq!(sim.conserved(), Ok(()), "held");
    sim.advance(16_000);
    assert_eq!(sim.all_drops(), [(DropReason::FragmentTimeout.name(), 1)]);
    let (mut sim, a, b2) = cluster();
    assert_eq!(b, b2);
    put(&mut sim, a, &pieces[0]);
    put(&mut sim, a, &fragments(&spec, 112)[1]);
    put(&mut sim, a, &pieces[2]);
    assert_eq!(sim.drops(DropReason::FragmentOverlap), 2, "the whole packet is refused: {:?}", sim.all_drops());
    assert_eq!(sim.take(0, b.port()).len(), 1);
}

#[test]
fn an_icmp_error_takes_the_flows_way_and_only_that() {
    let (mut sim, a, b) = cluster();
    let asked = frame(&sim, a, b.ip(false), Transport::Udp { sport: 1, dport: 2 }, b"anybody?");
    expect(&mut sim, a, b, &asked);
    let quote = asked.build()[14..].to_vec();
    let unreachable = Transport::Icmp { kind: 3, code: 3, rest: [0; 4] };
    let error = frame(&sim, b, a.ip(false), unreachable.clone(), &quote);
    expect(&mut sim, b, a, &error);
    // About a packet that A never sent.
    let mut invented = quote.clone();
    invented[21] = 9;
    let error = frame(&sim, b, a.ip(false), unreachable.clone(), &invented);
    send(&mut sim, b, &error);
    // From a third pod, about a packet that it never got.
    let c = End::Pod(sim.add_pod(0));
    let error = frame(&sim, c, a.ip(false), unreachable, &quote);
    send(&mut sim, c, &error);
    assert_eq!(sim.all_drops(), [(DropReason::IcmpErrorWithoutFlow.name(), 2)]);
    assert!(sim.take(0, a.port()).is_empty());
}

#[test]
fn icmp_errors_are_rationed() {
    let mut sim = Sim::new(SimConfig { workers: 1, ..SimConfig::default() });
    let [a, b, c] = [0; 3].map(|n| End::Pod(sim.add_pod(n)));
    let mut spec = frame(&sim, a, b.ip(false), Transport::Udp { sport: 1, dport: 2 }, b"x");
    spec.ttl = 1;
    for _ in 0..300 {
        sim.inject(0, a.port(), WorkerId(0), VecBuf::new(&spec.build()));
    }
    sim.settle();
    assert_eq!(sim.drops(DropReason::TtlExceeded), 300);
    assert_eq!(sim.take(0, a.port()).len(), 100, "a bucket full");
    // Another pod of the same worker still hears of its path's MTU.
    let big = frame(&sim, c, b.ip(false), Transport::Udp { sport: 1, dport: 2 }, &[0; 1480]);
    send(&mut sim, c, &big);
    assert_eq!(sim.take(0, c.port()).len(), 1, "{:?}", sim.all_drops());
}

#[test]
fn an_exhausted_pool_is_a_named_drop() {
    let (mut sim, a, b) = cluster();
    let mut spec = frame(&sim, a, b.ip(false), Transport::Udp { sport: 1, dport: 2 }, &[0; 1480]);
    if let Ip::V4 { df, .. } = &mut spec.ip {
        *df = false;
    }
    sim.exhausted = true;
    assert!(put(&mut sim, a, &spec.build()).is_empty());
    assert_eq!(sim.all_drops(), [(DropReason::NoBuffers.name(), 1)]);
}

#[test]
fn before_any_configuration_uplink_and_node_are_joined_and_pods_wait() {
    let (mut sim, a, _) = cluster();
    sim.nodes[0].config.local = None;
    sim.nodes[0].publish();
    let node = End::Node(0);
    let dhcp = [&Mac::BROADCAST.0[..], &node.mac(&sim).0, &[8, 0], &[0; 46]].concat();
    assert!(put(&mut sim, node, &dhcp).is_empty());
    assert_eq!(sim.take(0, podplane_packet::id::PortId::UPLINK)[0].bytes(), dhcp);
    let uplink = podplane_packet::id::PortId::UPLINK;
    sim.inject(0, uplink, WorkerId(1), VecBuf::new(&dhcp));
    sim.settle();
    assert_eq!(sim.take(0, node.port())[0].bytes(), dhcp);
    let spec = frame(&sim, a, node.ip(false), Transport::Udp { sport: 1, dport: 2 }, b"x");
    assert!(put(&mut sim, a, &spec.build()).is_empty());
    assert_eq!(sim.all_drops(), [(DropReason::NotConfigured.name(), 1)]);
}
