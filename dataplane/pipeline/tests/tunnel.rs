//! The tunnel: what is accepted from it, what goes into it, and what the underlay says about it.

mod common;

use common::{End, expect, frame, send};
use podplane_packet::buf::{Csum, Gso, Meta, PacketBuf};
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::parse;
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::{Sim, SimConfig, gateway_v4, node_v4, node_v6};

fn udp() -> Transport {
    Transport::Udp { sport: 1000, dport: 2000 }
}

/// Two nodes with a pod each; the second one's packets are caught on the wire.
fn cluster(underlay_v6: bool) -> (Sim, End, End) {
    let mut sim = Sim::new(SimConfig { underlay_v6, ..SimConfig::default() });
    let (a, b) = (End::Pod(sim.add_pod(0)), End::Pod(sim.add_pod(1)));
    (sim, a, b)
}

/// What leaves node 0's uplink for a frame of A. The node forgets its peer's MAC meanwhile, so the wire keeps it.
fn on_the_wire(sim: &mut Sim, from: End, spec: &FrameSpec, meta: Meta) -> VecBuf {
    for peer in &mut sim.nodes[0].config.peers {
        peer.next_hop = Some(Mac([2, 0xff, 0, 0, 0, 1]));
    }
    sim.nodes[0].publish();
    sim.inject(0, from.port(), WorkerId(0), VecBuf::new(&spec.build()).with_meta(meta));
    sim.settle();
    let mut out = sim.take(0, PortId::UPLINK);
    assert_eq!(out.len(), 1, "{:?}", sim.all_drops());
    out.remove(0)
}

#[test]
fn outer_headers_are_those_of_the_rfcs() {
    for underlay_v6 in [false, true] {
        let (mut sim, a, b) = cluster(underlay_v6);
        let mut spec = frame(&sim, a, b.ip(true), udp(), b"payload");
        spec.tos = 0xb8 | 2;
        let out = on_the_wire(&mut sim, a, &spec, Meta::default());
        let bytes = out.bytes();
        let outer = parse(&bytes, bytes.len()).expect("the outer headers can be read");
        assert_eq!((outer.tos, outer.ttl, outer.df), (spec.tos, 64, true), "class copied, TTL 64, DF");
        let (src, dst) = if underlay_v6 {
            (node_v6(0).into(), node_v6(1).into())
        } else {
            (node_v4(0).into(), std::net::IpAddr::from(node_v4(1)))
        };
        assert_eq!((outer.addrs.src(), outer.addrs.dst()), (Some(src), Some(dst)));
        let l4 = usize::from(outer.l4_off);
        let udp = &bytes[l4..];
        assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49152, "entropy port (RFC 7348 section 5)");
        assert_eq!(udp[2..4], 4789u16.to_be_bytes());
        assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), bytes.len() - l4, "UDP length");
        assert_eq!(udp[6..8], [0, 0], "no UDP checksum");
        assert_eq!(udp[8..16], [8, 0, 0, 0, 0, 0x10, 0x92, 0], "flag I and VNI 4242");
        assert_eq!(usize::from(out.meta().tunnel), l4 + 16);
        let mut inner = spec.clone();
        (inner.src_mac, inner.dst_mac, inner.ttl) = (Mac::GATEWAY, Mac::GATEWAY, 63);
        assert_eq!(bytes[l4 + 16..], inner.build());
    }
}

#[test]
fn offloads_stay_with_the_inner_packet() {
    let (mut sim, a, b) = cluster(false);
    let l4 = common::tcp(1, 2, common::ACK);
    let mut spec = frame(&sim, a, b.ip(false), l4, &[7; 9000]);
    if let Ip::V4 { df, .. } = &mut spec.ip {
        *df = true;
    }
    let meta = Meta { csum: Csum::Partial { start: 34, offset: 16 }, gso: Gso::Tcp4 { size: 1390 }, ..Meta::default() };
    let out = on_the_wire(&mut sim, a, &spec, meta);
    assert_eq!(out.meta().gso, Gso::Tcp4 { size: 1390 });
    assert_eq!(out.meta().csum, Csum::Partial { start: 34 + 50, offset: 16 });
    assert_eq!(out.meta().tunnel, 50);
    // One byte more in each segment and it fits no more.
    let too_big = Meta { gso: Gso::Tcp4 { size: 1411 }, ..meta };
    sim.inject(0, a.port(), WorkerId(0), VecBuf::new(&spec.build()).with_meta(too_big));
    sim.settle();
    assert_eq!(sim.drops(DropReason::TooBig), 1);
    // Without DF the segments are made smaller instead.
    if let Ip::V4 { df, .. } = &mut spec.ip {
        *df = false;
    }
    sim.inject(0, a.port(), WorkerId(0), VecBuf::new(&spec.build()).with_meta(too_big));
    sim.settle();
    let out = sim.take(0, PortId::UPLINK);
    assert_eq!(out[0].meta().gso, Gso::Tcp4 { size: 1410 });
}

#[test]
fn a_merged_frame_from_the_uplink_keeps_its_offloads() {
    let (mut sim, a, b) = cluster(false);
    let spec = frame(&sim, a, b.ip(false), common::tcp(1, 2, common::ACK), &[7; 9000]);
    let meta = Meta { csum: Csum::Partial { start: 34, offset: 16 }, gso: Gso::Tcp4 { size: 1390 }, ..Meta::default() };
    let wire = on_the_wire(&mut sim, a, &spec, meta);
    sim.inject(1, PortId::UPLINK, WorkerId(1), VecBuf::new(&wire.bytes()).with_meta(*wire.meta()));
    sim.settle();
    let out = sim.take(1, b.port());
    assert_eq!(out.len(), 1, "{:?}", sim.all_drops());
    let got = out[0].meta();
    assert_eq!((got.csum, got.gso, got.tunnel), (meta.csum, meta.gso, 0));
    // Merged datagrams, with the offloads of the outer UDP, are nothing that could be taken apart here.
    let outer = Meta { csum: Csum::Partial { start: 34, offset: 6 }, gso: Gso::Udp { size: 1448 }, ..Meta::default() };
    sim.inject(1, PortId::UPLINK, WorkerId(1), VecBuf::new(&wire.bytes()).with_meta(outer));
    sim.settle();
    assert_eq!(sim.drops(DropReason::VxlanGso), 1);
}

/// A VXLAN frame as node 0 would send it to node 1, changed by `change`.
fn hostile(change: impl FnOnce(&mut Vec<u8>)) -> (Sim, End, End) {
    let (mut sim, a, b) = cluster(false);
    let spec = frame(&sim, a, b.ip(false), udp(), b"payload");
    let mut bytes = on_the_wire(&mut sim, a, &spec, Meta::default()).bytes();
    change(&mut bytes);
    sim.inject(1, PortId::UPLINK, WorkerId(1), VecBuf::new(&bytes));
    sim.settle();
    (sim, a, b)
}

fn fill_v4(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = !podplane_packet::testing::naive_sum(&ip[..20]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn only_peers_with_our_network_and_their_own_pods_are_heard() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change, DropReason); 11] = [
        ("unknown peer", |b| (b[29] = 77, fill_v4(&mut b[14..])).1, DropReason::VxlanUnknownPeer),
        ("our own address", |b| (b[29] = 2, fill_v4(&mut b[14..])).1, DropReason::VxlanUnknownPeer),
        ("another VNI", |b| b[48] ^= 4, DropReason::VxlanWrongVni),
        ("no flag I", |b| b[42] = 0, DropReason::VxlanBadHeader),
        ("another inner MAC", |b| b[55] ^= 1, DropReason::VxlanInnerMac),
        ("inner ARP", |b| (b[62], b[63]) = (8, 6), DropReason::VxlanInnerNotIp),
        ("a pod of ours as source", |b| (b[78] = 2, fill_v4(&mut b[64..])).1, DropReason::VxlanInnerSource),
        ("a stranger as source", |b| (b[76] = 11, fill_v4(&mut b[64..])).1, DropReason::VxlanInnerSource),
        ("for somebody else", |b| (b[82] = 1, fill_v4(&mut b[64..])).1, DropReason::VxlanNotLocal),
        ("congestion on a packet without ECN", |b| (b[15] = 3, fill_v4(&mut b[14..])).1, DropReason::EcnIllegal),
        (
            "a first fragment",
            |b| (b[20] = 0x20, b[16] = 0, b[17] = 76, b.truncate(14 + 76), fill_v4(&mut b[14..])).4,
            DropReason::VxlanOuterFragment,
        ),
    ];
    for (name, change, reason) in cases {
        let (mut sim, _, b) = hostile(change);
        assert_eq!(sim.all_drops(), [(reason.name(), 1)], "{name}");
        assert!(sim.take(1, b.port()).is_empty() && sim.take(1, PortId::HOST).is_empty(), "{name}");
        assert_eq!(sim.conserved(), Ok(()), "{name}");
    }
    let (mut sim, _, b) = hostile(|_| {});
    assert_eq!(sim.take(1, b.port()).len(), 1, "unchanged it arrives");
}

#[test]
fn every_truncation_is_survived() {
    let (mut sim, a, b) = cluster(false);
    let spec = frame(&sim, a, b.ip(false), udp(), b"payload");
    let bytes = on_the_wire(&mut sim, a, &spec, Meta::default()).bytes();
    for len in 0..bytes.len() {
        sim.inject(1, PortId::UPLINK, WorkerId(0), VecBuf::new(&bytes[..len]));
    }
    sim.settle();
    assert!(sim.take(1, b.port()).is_empty(), "nothing that was cut short arrives");
    assert_eq!(sim.conserved(), Ok(()));
}

#[test]
fn a_mark_of_congestion_comes_through() {
    let (mut sim, a, b) = cluster(false);
    let mut spec = frame(&sim, a, b.ip(false), udp(), b"payload");
    spec.tos = 0x28 | 2;
    let mut bytes = on_the_wire(&mut sim, a, &spec, Meta::default()).bytes();
    bytes[15] = 3;
    fill_v4(&mut bytes[14..]);
    sim.inject(1, PortId::UPLINK, WorkerId(0), VecBuf::new(&bytes));
    sim.settle();
    let got = sim.take(1, b.port());
    assert_eq!(got[0].bytes()[15], 0x28 | 3, "CE, and the DSCP that the pod chose");
}

/// "Fragmentation needed" from a router of the underlay about VXLAN of node 0.
fn needs_fragmentation(vxlan: &[u8], quoted: usize, mtu: u16) -> VecBuf {
    let spec = FrameSpec {
        dst_mac: Mac([2, 0, 0, 0, 0xaa, 1]),
        src_mac: Mac([2, 9, 9, 9, 9, 9]),
        vlan: None,
        tos: 0,
        ttl: 60,
        ip: Ip::V4 { src: [192, 0, 2, 254].into(), dst: node_v4(0), id: 1, df: false, options: Vec::new() },
        l4: Transport::Icmp { kind: 3, code: 4, rest: [0, 0, (mtu >> 8) as u8, mtu as u8] },
        payload: vxlan[14..14 + quoted].to_vec(),
    };
    VecBuf::new(&spec.build())
}

/// As much as a router must quote: the IP header and eight bytes.
const LEAST_QUOTE: usize = 28;
/// The VXLAN header is quoted, too.
const LONG_QUOTE: usize = 36;

#[test]
fn a_narrow_underlay_is_learnt_for_ten_minutes_by_all_workers() {
    let (mut sim, a, b) = cluster(false);
    let other = End::Pod(sim.add_pod(0));
    let big = vec![1; 1400 - 28];
    let to_b = frame(&sim, a, b.ip(false), udp(), &big);
    let from_other = frame(&sim, other, b.ip(false), udp(), &big);
    let wire = on_the_wire(&mut sim, a, &to_b, Meta::default()).bytes();
    let news = needs_fragmentation(&wire, LEAST_QUOTE, 1400);
    sim.inject(0, PortId::UPLINK, WorkerId(1), news.clone());
    sim.settle();
    let passed = sim.take(0, PortId::HOST);
    assert_eq!(passed[0].bytes(), news.bytes(), "the node's own stack hears of it too");
    for (from, spec) in [(a, &to_b), (other, &from_other)] {
        send(&mut sim, from, spec);
        let told = sim.take(0, from.port());
        assert_eq!(told.len(), 1, "{:?}", sim.all_drops());
        let bytes = told[0].bytes();
        assert_eq!(bytes[26..30], gateway_v4(0).octets(), "the node speaks");
        assert_eq!((bytes[34], bytes[35], bytes[40..42].to_vec()), (3, 4, 1350u16.to_be_bytes().to_vec()));
    }
    assert_eq!(sim.drops(DropReason::TooBig), 2);
    sim.advance(10 * 60 * 1000);
    sim.take(0, PortId::UPLINK);
    send(&mut sim, a, &to_b);
    assert_eq!(sim.take(0, PortId::UPLINK).len(), 1, "forgotten after ten minutes");
    // News about what we did not send is no news.
    let mut foreign = wire.clone();
    foreign[14 + 12 + 3] = 99;
    fill_v4(&mut foreign[14..]);
    let mut guessed = wire.clone();
    guessed[34..36].copy_from_slice(&4789u16.to_be_bytes());
    for forged in [foreign, guessed] {
        sim.inject(0, PortId::UPLINK, WorkerId(0), needs_fragmentation(&forged, LONG_QUOTE, 1400));
    }
    sim.settle();
    send(&mut sim, a, &to_b);
    assert_eq!(sim.take(0, PortId::UPLINK).len(), 1);
}

#[test]
fn a_narrow_underlay_is_forgotten_also_by_those_who_send_nothing_for_weeks() {
    let (mut sim, a, b) = cluster(false);
    let spec = frame(&sim, a, b.ip(false), udp(), &[1; 1400 - 28]);
    let wire = on_the_wire(&mut sim, a, &spec, Meta::default()).bytes();
    sim.inject(0, PortId::UPLINK, WorkerId(0), needs_fragmentation(&wire, LEAST_QUOTE, 1400));
    sim.settle();
    // A bit more than half the clock's round: what lay behind lies ahead.
    for _ in 0..9 {
        sim.now = sim.now.wrapping_add(1 << 28);
        sim.settle();
    }
    send(&mut sim, a, &spec);
    assert_eq!(sim.drops(DropReason::TooBig), 0);
    assert_eq!(sim.take(0, PortId::UPLINK).len(), 1);
}

#[test]
fn news_about_another_network_is_no_news_where_the_quote_names_it() {
    type Change = fn(&mut [u8]);
    let cases: [(&str, Change, usize, bool); 6] = [
        ("our network", |_| {}, LONG_QUOTE, true),
        ("that of entry nodes", |v| v[6] += 1, LONG_QUOTE, true),
        ("another", |v| v[6] += 2, LONG_QUOTE, false),
        ("the one before", |v| v[6] -= 1, LONG_QUOTE, false),
        ("no network", |v| v[0] = 0, LONG_QUOTE, false),
        ("not quoted", |v| v[6] += 2, LONG_QUOTE - 1, true),
    ];
    for (name, change, quoted, believed) in cases {
        let (mut sim, a, b) = cluster(false);
        let spec = frame(&sim, a, b.ip(false), udp(), &[1; 1400 - 28]);
        let mut wire = on_the_wire(&mut sim, a, &spec, Meta::default()).bytes();
        change(&mut wire[42..50]);
        sim.inject(0, PortId::UPLINK, WorkerId(0), needs_fragmentation(&wire, quoted, 1400));
        sim.settle();
        assert_eq!(sim.take(0, PortId::HOST).len(), 1, "{name}: the node's own stack hears of it in any case");
        send(&mut sim, a, &spec);
        assert_eq!(sim.drops(DropReason::TooBig), u64::from(believed), "{name}");
        assert_eq!(sim.take(0, PortId::UPLINK).len(), usize::from(!believed), "{name}");
    }
}

#[test]
fn a_peer_whose_mac_is_unknown_is_waited_for_by_name() {
    let (mut sim, a, b) = cluster(false);
    let spec = frame(&sim, a, b.ip(false), udp(), b"x");
    sim.nodes[0].config.peers[0].next_hop = None;
    sim.nodes[0].publish();
    send(&mut sim, a, &spec);
    assert_eq!(sim.all_drops(), [(DropReason::NextHopUnresolved.name(), 1)]);
    sim.nodes[0].config.peers[0].next_hop = Some(sim.nodes[1].uplink_mac());
    sim.nodes[0].publish();
    expect(&mut sim, a, b, &spec);
}

/// VXLAN from node `from` to node 0 around an inner frame.
fn wrap(sim: &Sim, from: usize, mut inner: FrameSpec) -> VecBuf {
    (inner.src_mac, inner.dst_mac) = (Mac::GATEWAY, Mac::GATEWAY);
    let outer = FrameSpec {
        dst_mac: sim.nodes[0].uplink_mac(),
        src_mac: sim.nodes[from].uplink_mac(),
        vlan: None,
        tos: 0,
        ttl: 64,
        ip: Ip::V4 { src: node_v4(from), dst: node_v4(0), id: 0, df: true, options: Vec::new() },
        l4: Transport::Udp { sport: 50_000, dport: 4789 },
        payload: [&[8, 0, 0, 0, 0, 0x10, 0x92, 0][..], &inner.build()].concat(),
    };
    VecBuf::new(&outer.build())
}

#[test]
fn an_error_from_a_third_node_moves_no_flow() {
    let mut sim = Sim::new(SimConfig { nodes: 3, ..SimConfig::default() });
    let [a, b, c] = [0, 1, 2].map(|n| End::Pod(sim.add_pod(n)));
    let asked = frame(&sim, a, b.ip(false), udp(), b"anybody?");
    expect(&mut sim, a, b, &asked);
    // The flow is to be judged again, and what meets it first is an error in another node's name.
    if let Some((_, port)) = sim.nodes[0].config.ports.iter_mut().find(|(id, _)| *id == a.port()) {
        port.mtu -= 1;
    }
    sim.nodes[0].publish();
    let unreachable = Transport::Icmp { kind: 3, code: 3, rest: [0; 4] };
    let error = wrap(&sim, 2, frame(&sim, c, a.ip(false), unreachable, &asked.build()[14..]));
    sim.inject(0, PortId::UPLINK, WorkerId(0), error);
    sim.settle();
    assert_eq!(sim.all_drops(), [(DropReason::VxlanInnerSource.name(), 1)]);
    let reply = frame(&sim, b, a.ip(false), Transport::Udp { sport: 2000, dport: 1000 }, b"me");
    send(&mut sim, b, &reply);
    assert_eq!(sim.take(0, a.port()).len(), 1, "{:?}", sim.all_drops());
}
