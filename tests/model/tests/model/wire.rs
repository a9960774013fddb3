//! Two nodes with two pods each, a router on their uplinks' network, clients and servers behind it; and packets between
//! them, as their own network stacks send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use podplane_model::objects::{Node, Protocol};
use podplane_packet::checksum::complete;
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::{L4, parse, transport_ok};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_packet::wire::proto;
use podplane_pipeline::sim::{Sim, SimConfig, SimPod, gateway_v4, gateway_v6, node_v4, node_v6};
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::Reach;

pub const ROUTER: Mac = Mac([2, 0, 0, 0, 0xbb, 0xfe]);
/// Settings' default.
pub const MASQUERADE: std::ops::RangeInclusive<u16> = 55_000..=65_535;

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// a and b on node 0, c and d on node 1.
    Pod(usize),
    Host(usize),
    /// Behind the router, plain by this node.
    Wire(usize),
}

impl Place {
    /// The node by which it is joined.
    pub fn node(self) -> usize {
        match self {
            Place::Pod(p) => p / 2,
            Place::Host(n) | Place::Wire(n) => n,
        }
    }
}

pub fn node(v6: bool, n: usize) -> IpAddr {
    if v6 { node_v6(n).into() } else { node_v4(n).into() }
}

/// Whose address it is.
pub fn node_of(address: IpAddr) -> Option<usize> {
    (0..2).find(|n| node(address.is_ipv6(), *n) == address)
}

pub fn gateway(v6: bool, n: usize) -> IpAddr {
    if v6 { gateway_v6(n).into() } else { gateway_v4(n).into() }
}

/// The simulator gives pods of a node the ports 2, 3.
pub fn pod(v6: bool, p: usize) -> IpAddr {
    let (n, last) = ((p / 2 + 1) as u8, (p % 2) as u8 + 10);
    match v6 {
        false => Ipv4Addr::new(10, 244, n, last).into(),
        true => Ipv6Addr::new(0xfd00, 0x244, n.into(), 0, 0, 0, 0, last.into()).into(),
    }
}

pub fn pod_of(address: IpAddr) -> Option<usize> {
    (0..4).find(|p| pod(address.is_ipv6(), *p) == address)
}

/// An address of the world outside, by number: 1 and 2 are clients, 80 a server.
pub fn outside(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(198, 51, 100, n).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, n.into()).into(),
    }
}

/// A server outside that pods reach under their own addresses.
pub fn routed(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0x2001, 0xdb8, 0x16, 0, 0, 0, 0, 5).into() } else { Ipv4Addr::new(172, 16, 0, 5).into() }
}

pub fn no_masquerade() -> Vec<IpNet> {
    ["172.16.0.0/12", "2001:db8:16::/48"].map(|net| net.parse().expect("a range")).to_vec()
}

fn router(v6: bool) -> IpAddr {
    if v6 { "2001:db8::fe".parse().expect("an address") } else { Ipv4Addr::new(192, 0, 2, 254).into() }
}

/// The nodes as Kubernetes has them.
pub fn nodes(zones: [Option<String>; 2]) -> Vec<Node> {
    let mut zones = zones.into_iter();
    let node = |n: usize, zone| Node {
        name: format!("n{n}"),
        zone,
        addresses: vec![node(false, n), node(true, n)],
        pod_cidrs: [format!("10.244.{}.0/24", n + 1), format!("fd00:244:{}::/64", n + 1)]
            .map(|net| net.parse().expect("a range"))
            .to_vec(),
    };
    (0..2).map(|n| node(n, zones.next().flatten())).collect()
}

/// The simulator with these nodes, and its pods.
pub fn sim(workers: u8) -> (Sim, Vec<SimPod>) {
    let mut sim = Sim::new(SimConfig { workers, ..SimConfig::default() });
    let pods: Vec<SimPod> = [0, 0, 1, 1].into_iter().map(|n| sim.add_pod(n)).collect();
    for (p, sim_pod) in pods.iter().enumerate() {
        assert_eq!([pod(false, p), pod(true, p)], [IpAddr::V4(sim_pod.v4), sim_pod.v6.into()]);
    }
    let macs: Vec<Mac> = sim.nodes.iter().map(|n| n.uplink_mac()).collect();
    for (n, sim_node) in sim.nodes.iter_mut().enumerate() {
        let net = |text: &str, len| Prefix { addr: text.parse().expect("an address"), len };
        let world = &mut sim_node.config.outside;
        world.routes = vec![(net("192.0.2.0", 24), Reach::OnLink), (net("2001:db8::", 64), Reach::OnLink)];
        for v6 in [false, true] {
            world.routes.push((net(if v6 { "::" } else { "0.0.0.0" }, 0), Reach::Gateway(router(v6))));
            world.neighbours.push((router(v6), Some(ROUTER)));
            world.neighbours.push((node(v6, 1 - n), Some(macs[1 - n])));
        }
        sim_node.publish();
    }
    (sim, pods)
}

/// A packet that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub from: Place,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: Protocol,
    /// Of TCP.
    pub flags: u8,
}

/// A packet as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at: Place,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub what: What,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Of these, with TCP's flags.
    Packet(Protocol, u8),
    PortUnreachable,
    Other(u8),
}

/// Sends a packet, as the stack at its place would, and returns all that comes of it, everywhere.
pub fn send(sim: &mut Sim, pods: &[SimPod], packet: Sent) -> Result<Vec<Seen>, String> {
    let Sent { from, src, dst, .. } = packet;
    let (port, dst_mac, src_mac) = match from {
        Place::Pod(p) => (pods[p].port, Mac::GATEWAY, pods[p].mac),
        Place::Host(n) => (PortId::HOST, next_hop(sim, n, src.ip(), dst.ip()), sim.nodes[n].uplink_mac()),
        Place::Wire(n) => (PortId::UPLINK, sim.nodes[n].uplink_mac(), ROUTER),
    };
    let ip = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ip::V4 { src, dst, id: 7, df: true, options: Vec::new() },
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ip::V6 { src, dst, label: 5, extensions: Vec::new() },
        _ => return Err(format!("{packet:?}: two families")),
    };
    let (sport, dport) = (src.port(), dst.port());
    let l4 = match packet.protocol {
        Protocol::Tcp => {
            Transport::Tcp { sport, dport, seq: 1000, ack: 2000, flags: packet.flags, window: 500, options: Vec::new() }
        }
        Protocol::Udp => Transport::Udp { sport, dport },
        Protocol::Sctp => Transport::Sctp { sport, dport },
    };
    let payload = b"payload!".to_vec();
    let bytes = FrameSpec { dst_mac, src_mac, vlan: None, tos: 0, ttl: 64, ip, l4, payload }.build();
    let spread = bytes.iter().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
    let worker = WorkerId((spread % usize::from(sim.config.workers)) as u8);
    sim.inject(from.node(), port, worker, VecBuf::new(&bytes));
    sim.settle();
    collect(sim, pods)
}

/// The node's routes: pods, Services and what it holds itself by the dataplane, the rest by the uplink's network.
fn next_hop(sim: &Sim, n: usize, src: IpAddr, dst: IpAddr) -> Mac {
    match node_of(dst) {
        Some(other) if other != n => sim.nodes[other].uplink_mac(),
        // An answer to the world outside is no connection to a load balancer.
        None if outside(dst.is_ipv6(), 80) == dst || routed(dst.is_ipv6()) == dst => ROUTER,
        None if [1, 2].iter().any(|c| outside(dst.is_ipv6(), *c) == dst) => ROUTER,
        _ => {
            debug_assert_eq!(src.is_ipv6(), dst.is_ipv6());
            Mac::GATEWAY
        }
    }
}

fn collect(sim: &mut Sim, pods: &[SimPod]) -> Result<Vec<Seen>, String> {
    let mut all = Vec::new();
    for n in 0..sim.nodes.len() {
        for (port, buf) in std::mem::take(&mut sim.nodes[n].delivered) {
            let at = match port {
                PortId::UPLINK => Place::Wire(n),
                PortId::HOST => Place::Host(n),
                port => Place::Pod(pods.iter().position(|p| p.node == n && p.port == port).ok_or("no such pod")?),
            };
            all.push(seen(at, buf, sim, pods)?);
        }
    }
    sim.conserved()?;
    Ok(all)
}

fn seen(at: Place, mut buf: VecBuf, sim: &Sim, pods: &[SimPod]) -> Result<Seen, String> {
    let _ = complete(&mut buf);
    let bytes = buf.bytes();
    let parsed = parse(&bytes, bytes.len()).map_err(|e| format!("at {at:?}: {e:?}"))?;
    if transport_ok(&buf, &parsed) == podplane_packet::parse::Verdict::Bad {
        return Err(format!("at {at:?}: a wrong checksum in {parsed:?}"));
    }
    let mac = match at {
        Place::Pod(p) => pods[p].mac,
        Place::Host(n) => sim.nodes[n].uplink_mac(),
        Place::Wire(_) => ROUTER,
    };
    if !bytes.starts_with(&mac.0) {
        return Err(format!("at {at:?}: a frame to {:x?}", &bytes[..6]));
    }
    let (src, dst) = parsed.addrs.src().zip(parsed.addrs.dst()).ok_or("no IP")?;
    let flags = || bytes[usize::from(parsed.l4_off) + 13];
    let (ports, what) = match (parsed.l4, parsed.proto) {
        (L4::Ports { src, dst }, proto::TCP) => ((src, dst), What::Packet(Protocol::Tcp, flags())),
        (L4::Ports { src, dst }, proto::UDP) => ((src, dst), What::Packet(Protocol::Udp, 0)),
        (L4::Ports { src, dst }, proto::SCTP) => ((src, dst), What::Packet(Protocol::Sctp, 0)),
        (L4::IcmpError { kind: 3, code: 3 }, proto::ICMP) => ((0, 0), What::PortUnreachable),
        (L4::IcmpError { kind: 1, code: 4 }, proto::ICMPV6) => ((0, 0), What::PortUnreachable),
        (_, other) => ((0, 0), What::Other(other)),
    };
    Ok(Seen { at, src: SocketAddr::new(src, ports.0), dst: SocketAddr::new(dst, ports.1), what })
}
