//! Packets between pods, nodes and the world outside, as their own network stacks send them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use podplane_packet::checksum::complete;
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::{L4 as Ports, parse};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_packet::wire::proto;
use podplane_pipeline::sim::{Sim, SimConfig, node_v4, node_v6};
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::Reach;
use podplane_policy_model::objects::Protocol;
use podplane_policy_model::oracle::L4;

pub const ROUTER: Mac = Mac([2, 0, 0, 0, 0xbb, 0xfe]);
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod's port of a node.
    Pod(usize, PortId),
    /// A node's own stack.
    Host(usize),
    /// Behind the router, plain by this node.
    Wire(usize),
}

impl Place {
    /// The node by which it is joined.
    pub fn node(self) -> usize {
        match self {
            Place::Pod(n, _) | Place::Host(n) | Place::Wire(n) => n,
        }
    }
}

/// A node's own address.
pub fn node(v6: bool, n: usize) -> IpAddr {
    if v6 { node_v6(n).into() } else { node_v4(n).into() }
}

/// An address of the world outside, by number.
pub fn outside(v6: bool, n: u8) -> IpAddr {
    if v6 { format!("2001:db8:51::{n:x}").parse().expect("an address") } else { Ipv4Addr::new(198, 51, 100, n).into() }
}

fn router(v6: bool) -> IpAddr {
    if v6 { "2001:db8::fe".parse().expect("an address") } else { Ipv4Addr::new(192, 0, 2, 254).into() }
}

/// Two nodes without pods, their uplinks on one network with a router.
pub fn sim(workers: u8) -> Sim {
    let room = SimConfig {
        flow_capacity: 8192,
        port_quota: 8192,
        half_queue: 8192,
        hand_over_queue: 8192,
        ..SimConfig::default()
    };
    let mut sim = Sim::new(SimConfig { workers, counted_ports: 32, ..room });
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
    sim
}

/// A packet that is sent. The ports of ICMP are those of an echo: its identifier, and 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub from: Place,
    pub mac: Mac,
    pub src: SocketAddr,
    pub dst: IpAddr,
    pub l4: L4,
    /// Of TCP.
    pub flags: u8,
    /// An echo reply.
    pub reply: bool,
}

/// A packet as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at: Place,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// What the sender wrote into its payload.
    pub mark: u32,
}

/// Puts a packet on its way. `mark` is found again in [`Seen::mark`].
pub fn inject(sim: &mut Sim, sent: &Sent, mark: u32) {
    let Sent { from, src, dst, .. } = *sent;
    let (port, dst_mac) = match from {
        Place::Pod(_, port) => (port, Mac::GATEWAY),
        Place::Host(n) => (PortId::HOST, next_hop(sim, n, dst)),
        Place::Wire(n) => (PortId::UPLINK, sim.nodes[n].uplink_mac()),
    };
    let ip = match (src.ip(), dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ip::V4 { src, dst, id: 7, df: true, options: Vec::new() },
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ip::V6 { src, dst, label: 5, extensions: Vec::new() },
        _ => panic!("{sent:?}: two families"),
    };
    let (flags, window) = (sent.flags, 500);
    let l4 = match sent.l4 {
        L4::Port(Protocol::Tcp, dport) => {
            Transport::Tcp { sport: src.port(), dport, seq: 1000, ack: 2000, flags, window, options: Vec::new() }
        }
        L4::Port(Protocol::Udp, dport) => Transport::Udp { sport: src.port(), dport },
        L4::Port(Protocol::Sctp, dport) => Transport::Sctp { sport: src.port(), dport },
        L4::Portless => {
            let kind = match (dst.is_ipv6(), sent.reply) {
                (false, false) => 8,
                (false, true) => 0,
                (true, false) => 128,
                (true, true) => 129,
            };
            let [a, b] = src.port().to_be_bytes();
            Transport::Icmp { kind, code: 0, rest: [a, b, 0, 1] }
        }
    };
    let mut payload = mark.to_be_bytes().to_vec();
    payload.extend(b"marked");
    let frame = FrameSpec { dst_mac, src_mac: sent.mac, vlan: None, tos: 0, ttl: 64, ip, l4, payload };
    let bytes = frame.build();
    let spread = bytes.iter().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
    let worker = WorkerId((spread % usize::from(sim.config.workers)) as u8);
    sim.inject(from.node(), port, worker, VecBuf::new(&bytes));
}

/// A node's routes: what is another node's by its uplink, the rest by the dataplane.
fn next_hop(sim: &Sim, n: usize, dst: IpAddr) -> Mac {
    match (0..sim.nodes.len()).find(|m| *m != n && node(dst.is_ipv6(), *m) == dst) {
        Some(other) => sim.nodes[other].uplink_mac(),
        None => Mac::GATEWAY,
    }
}

/// Lets everything run, and takes what arrived anywhere, by mark.
///
/// # Panics
/// If a packet is not accounted for, or arrives twice.
pub fn settle(sim: &mut Sim) -> BTreeMap<u32, Seen> {
    sim.settle();
    let mut all = BTreeMap::new();
    for n in 0..sim.nodes.len() {
        for (port, buf) in std::mem::take(&mut sim.nodes[n].delivered) {
            let at = match port {
                PortId::UPLINK => Place::Wire(n),
                PortId::HOST => Place::Host(n),
                port => Place::Pod(n, port),
            };
            if let Some(seen) = seen(at, buf)
                && let Some(twice) = all.insert(seen.mark, seen)
            {
                panic!("a packet arrived twice: {twice:?}");
            }
        }
    }
    sim.conserved().expect("all packets are accounted for");
    all
}

/// What arrived; nothing, if it is an ICMP error or not one of ours.
fn seen(at: Place, mut buf: VecBuf) -> Option<Seen> {
    let _ = complete(&mut buf);
    let bytes = buf.bytes();
    let parsed = parse(&bytes, bytes.len()).ok()?;
    let (src, dst) = parsed.addrs.src().zip(parsed.addrs.dst())?;
    let header = match (parsed.l4, parsed.proto) {
        (Ports::IcmpError { .. }, _) => return None,
        (_, proto::TCP) => 20,
        (_, proto::UDP | proto::ICMP | proto::ICMPV6) => 8,
        _ => 12,
    };
    let payload = bytes.get(usize::from(parsed.l4_off) + header..)?;
    let mark = payload.get(..4)?.try_into().map(u32::from_be_bytes).ok()?;
    (payload.get(4..10)? == b"marked").then_some(Seen { at, src, dst, mark })
}
