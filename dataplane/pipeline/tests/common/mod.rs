//! Frames as pods would send them, and what is expected of them at the other end.
#![allow(dead_code, reason = "shared by several test programs, none of which uses all of it")]

use std::net::IpAddr;

use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::{Verdict, parse, transport_ok};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::sim::{Sim, SimPod, node_v4, node_v6};

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Pod(SimPod),
    Node(usize),
}

impl End {
    pub fn node(self) -> usize {
        match self {
            End::Pod(p) => p.node,
            End::Node(n) => n,
        }
    }

    pub fn port(self) -> PortId {
        match self {
            End::Pod(p) => p.port,
            End::Node(_) => PortId::HOST,
        }
    }

    pub fn mac(self, sim: &Sim) -> Mac {
        match self {
            End::Pod(p) => p.mac,
            End::Node(n) => sim.nodes[n].uplink_mac(),
        }
    }

    pub fn ip(self, v6: bool) -> IpAddr {
        match (self, v6) {
            (End::Pod(p), false) => p.v4.into(),
            (End::Pod(p), true) => p.v6.into(),
            (End::Node(n), false) => node_v4(n).into(),
            (End::Node(n), true) => node_v6(n).into(),
        }
    }
}

pub fn addresses(src: IpAddr, dst: IpAddr) -> Ip {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ip::V4 { src, dst, id: 7, df: true, options: Vec::new() },
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ip::V6 { src, dst, label: 0x12345, extensions: Vec::new() },
        _ => panic!("two families in one packet"),
    }
}

/// A frame from one end to the gateway.
pub fn frame(sim: &Sim, from: End, to: IpAddr, l4: Transport, payload: &[u8]) -> FrameSpec {
    FrameSpec {
        dst_mac: Mac::GATEWAY,
        src_mac: from.mac(sim),
        vlan: None,
        tos: 0,
        ttl: 64,
        ip: addresses(from.ip(to.is_ipv6()), to),
        l4,
        payload: payload.to_vec(),
    }
}

pub fn tcp(sport: u16, dport: u16, flags: u8) -> Transport {
    Transport::Tcp { sport, dport, seq: 1000, ack: 2000, flags, window: 500, options: Vec::new() }
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

pub fn echo(v6: bool, request: bool, id: u16) -> Transport {
    let kind = match (v6, request) {
        (false, true) => 8,
        (false, false) => 0,
        (true, true) => 128,
        (true, false) => 129,
    };
    Transport::Icmp { kind, code: 0, rest: [(id >> 8) as u8, id as u8, 0, 1] }
}

/// Sends a frame in and lets everything settle.
pub fn send(sim: &mut Sim, from: End, spec: &FrameSpec) {
    sim.inject(from.node(), from.port(), WorkerId(0), VecBuf::new(&spec.build()));
    sim.settle();
}

/// The frame as it must arrive: other MACs, `hops` off the TTL, all else as it was.
pub fn arrived(sim: &Sim, spec: &FrameSpec, to: End, hops: u8) -> Vec<u8> {
    let mut want = spec.clone();
    want.src_mac = Mac::GATEWAY;
    want.dst_mac = to.mac(sim);
    want.ttl -= hops;
    want.build()
}

/// Hops from one end to another: a node each.
pub fn hops(from: End, to: End) -> u8 {
    if from.node() == to.node() { 1 } else { 2 }
}

/// Sends a frame and expects it, and nothing else, at the other end, byte for byte.
pub fn expect(sim: &mut Sim, from: End, to: End, spec: &FrameSpec) {
    send(sim, from, spec);
    let got = sim.take(to.node(), to.port());
    let drops = sim.all_drops();
    assert_eq!(got.len(), 1, "from {from:?} to {to:?}: {drops:?}");
    assert_eq!(got[0].bytes(), arrived(sim, spec, to, hops(from, to)), "from {from:?} to {to:?}");
    let bytes = got[0].bytes();
    let parsed = parse(&bytes, bytes.len()).expect("what is delivered can be read");
    assert_ne!(transport_ok(&got[0], &parsed), Verdict::Bad);
    assert_eq!(sim.conserved(), Ok(()));
}
