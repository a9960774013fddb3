//! Two or three nodes with pods, a router on the uplinks' network, and clients behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podplane_packet::buf::PacketBuf;
use podplane_packet::checksum::complete;
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::{L4, Parsed, Verdict, parse, transport_ok};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_pipeline::sim::{Sim, SimConfig, SimPod, gateway_v4, gateway_v6, node_v4, node_v6};
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::{
    Backend, Choice, FrontendConfig, FrontendKind, Masquerade, Protocol, Reach, ServiceConfig, ServiceId,
};

pub const ROUTER: Mac = Mac([2, 0, 0, 0, 0xbb, 0xfe]);
pub const PORTS: (u16, u16) = (50_000, 50_999);

pub fn ip(v6: bool, four: &str, six: &str) -> IpAddr {
    if v6 { six } else { four }.parse().expect("an address")
}

/// A client outside, by number.
pub fn client(v6: bool, n: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, n.into()).into()
    } else {
        Ipv4Addr::new(198, 51, 100, n).into()
    }
}

pub fn router(v6: bool) -> IpAddr {
    ip(v6, "192.0.2.254", "2001:db8::fe")
}

/// The ClusterIP of all tests.
pub fn vip(v6: bool) -> IpAddr {
    ip(v6, "10.96.0.10", "fd00:96::10")
}

pub fn node(v6: bool, n: usize) -> IpAddr {
    if v6 { node_v6(n).into() } else { node_v4(n).into() }
}

pub fn gateway(v6: bool, n: usize) -> IpAddr {
    if v6 { gateway_v6(n).into() } else { gateway_v4(n).into() }
}

pub fn pod(v6: bool, p: SimPod) -> IpAddr {
    if v6 { p.v6.into() } else { p.v4.into() }
}

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Pod(SimPod),
    Host(usize),
    /// The uplinks' network, behind the router, by this node.
    Wire(usize),
}

pub struct World {
    pub sim: Sim,
    /// a and b on node 0, c and d on node 1 (e on node 2).
    pub pods: Vec<SimPod>,
}

fn net(addr: &str, len: u8) -> Prefix {
    Prefix { addr: addr.parse().expect("an address"), len }
}

impl World {
    pub fn new(workers: u8) -> World {
        World::with(SimConfig { workers, ..SimConfig::default() })
    }

    pub fn with(config: SimConfig) -> World {
        let mut sim = Sim::new(config);
        let mut pods: Vec<SimPod> = [0, 0, 1, 1].into_iter().map(|n| sim.add_pod(n)).collect();
        pods.extend((2..usize::from(config.nodes)).map(|n| sim.add_pod(n)));
        let macs: Vec<Mac> = sim.nodes.iter().map(|n| n.uplink_mac()).collect();
        for (n, node) in sim.nodes.iter_mut().enumerate() {
            let local = node.config.local.as_mut().expect("configured");
            local.service_cidrs = vec![net("10.96.0.0", 16), net("fd00:96::", 112)];
            local.no_masquerade = vec![net("172.16.0.0", 12), net("2001:db8:16::", 48)];
            local.masquerade = Some(Masquerade { addresses: local.addresses.clone(), ports: PORTS });
            let outside = &mut node.config.outside;
            outside.routes = vec![(net("192.0.2.0", 24), Reach::OnLink), (net("2001:db8::", 64), Reach::OnLink)];
            for v6 in [false, true] {
                let all = net(if v6 { "::" } else { "0.0.0.0" }, 0);
                outside.routes.push((all, Reach::Gateway(router(v6))));
                outside.neighbours.push((router(v6), Some(ROUTER)));
                let peers = macs.iter().enumerate().filter(|(p, _)| *p != n);
                outside.neighbours.extend(peers.map(|(p, mac)| (super::world::node(v6, p), Some(*mac))));
            }
            node.publish();
        }
        World { sim, pods }
    }

    /// Puts a Service in force on all nodes.
    pub fn serve(&mut self, id: u32, service: &ServiceConfig) {
        let service = Arc::new(service.clone());
        for node in &mut self.sim.nodes {
            node.config.services.insert(ServiceId(id), Arc::clone(&service));
            node.publish();
        }
    }

    /// Puts a Service in force on one node, as a node port is.
    pub fn serve_at(&mut self, node: usize, id: u32, service: &ServiceConfig) {
        let node = &mut self.sim.nodes[node];
        node.config.services.insert(ServiceId(id), Arc::new(service.clone()));
        node.publish();
    }

    pub fn withdraw(&mut self, id: u32) {
        for node in &mut self.sim.nodes {
            node.config.services.remove(ServiceId(id));
            node.publish();
        }
    }

    /// Builds a frame as it comes from a place.
    pub fn frame(&self, from: Place, src: IpAddr, dst: IpAddr, l4: Transport, payload: &[u8]) -> FrameSpec {
        let (dst_mac, src_mac) = match from {
            Place::Pod(p) => (Mac::GATEWAY, p.mac),
            Place::Host(n) => (Mac::GATEWAY, self.sim.nodes[n].uplink_mac()),
            Place::Wire(n) => (self.sim.nodes[n].uplink_mac(), ROUTER),
        };
        let ip = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Ip::V4 { src, dst, id: 7, df: true, options: Vec::new() },
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ip::V6 { src, dst, label: 5, extensions: Vec::new() },
            _ => panic!("two families"),
        };
        FrameSpec { dst_mac, src_mac, vlan: None, tos: 0, ttl: 64, ip, l4, payload: payload.to_vec() }
    }

    /// Sends bytes in at a place, received by any worker.
    pub fn inject(&mut self, from: Place, bytes: &[u8]) {
        let (node, port) = place(from);
        let sum = bytes.iter().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
        let worker = WorkerId((sum % usize::from(self.sim.config.workers)) as u8);
        self.sim.inject(node, port, worker, VecBuf::new(bytes));
    }

    /// Sends a packet from a place, lets everything settle and returns what arrived at another.
    pub fn send(&mut self, from: Place, src: IpAddr, dst: IpAddr, l4: Transport, at: Place) -> Vec<Seen> {
        let bytes = self.frame(from, src, dst, l4, b"payload").build();
        self.inject(from, &bytes);
        self.sim.settle();
        self.take(at)
    }

    /// The same, of which exactly one is expected.
    pub fn pass(&mut self, from: Place, src: IpAddr, dst: IpAddr, l4: Transport, at: Place) -> Seen {
        let mut all = self.send(from, src, dst, l4, at);
        assert_eq!(all.len(), 1, "{src} -> {dst} from {from:?} to {at:?}: {:?}", self.sim.all_drops());
        assert_eq!(self.sim.conserved(), Ok(()));
        all.remove(0)
    }

    /// Everything that arrived at a place, checked to be well-formed.
    pub fn take(&mut self, at: Place) -> Vec<Seen> {
        let (node, port) = place(at);
        self.sim.take(node, port).into_iter().map(Seen::of).collect()
    }

    /// A conversation that a client opens: what the server sees, and the client of its answer.
    pub fn converse(&mut self, from: Place, src: IpAddr, to: (IpAddr, u16), at: Place, sport: u16) -> (Seen, Seen) {
        let l4 = |sport, dport| Transport::Udp { sport, dport };
        let there = self.pass(from, src, to.0, l4(sport, to.1), at);
        let back = self.pass_answer(at, &there, from);
        (there, back)
    }

    /// Sends the answer to what was seen, and returns what comes of it.
    pub fn pass_answer(&mut self, by: Place, seen: &Seen, at: Place) -> Seen {
        let mut answer =
            self.frame(by, seen.dst, seen.src, Transport::Udp { sport: seen.dport, dport: seen.sport }, b"answer");
        // The node's own stack answers strangers by the router and other nodes plainly, everybody else by us.
        if matches!(by, Place::Host(_)) && !self.ours(seen.src) {
            let peer = (0..self.sim.nodes.len()).find(|n| [node(false, *n), node(true, *n)].contains(&seen.src));
            answer.dst_mac = peer.map_or(ROUTER, |n| self.sim.nodes[n].uplink_mac());
        }
        self.inject(by, &answer.build());
        self.sim.settle();
        let mut all = self.take(at);
        assert_eq!(all.len(), 1, "answer to {seen:?} by {by:?} at {at:?}: {:?}", self.sim.all_drops());
        all.remove(0)
    }

    /// Whether a node's routes lead an address to the host port.
    fn ours(&self, a: IpAddr) -> bool {
        let text = a.to_string();
        text.starts_with("10.244.") || text.starts_with("fd00:244:") || text.starts_with("10.96.") || a.is_loopback()
    }

    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.sim.all_drops()
    }
}

fn place(p: Place) -> (usize, PortId) {
    match p {
        Place::Pod(p) => (p.node, p.port),
        Place::Host(n) => (n, PortId::HOST),
        Place::Wire(n) => (n, PortId::UPLINK),
    }
}

/// A packet as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub parsed: Parsed,
    pub bytes: Vec<u8>,
}

impl Seen {
    pub fn of(mut buf: VecBuf) -> Seen {
        let _ = complete(&mut buf);
        let bytes = buf.bytes();
        let parsed = parse(&bytes, bytes.len()).expect("what arrives can be read");
        assert_ne!(transport_ok(&buf, &parsed), Verdict::Bad, "a wrong checksum in {parsed:?}");
        let (sport, dport) = match parsed.l4 {
            L4::Ports { src, dst } => (src, dst),
            L4::Echo { id, .. } => (id, id),
            _ => (0, 0),
        };
        let (src, dst) = (parsed.addrs.src().expect("IP"), parsed.addrs.dst().expect("IP"));
        assert!(buf.len() >= 14);
        Seen { src, dst, sport, dport, parsed, bytes }
    }

    pub fn ends(&self) -> (IpAddr, u16, IpAddr, u16) {
        (self.src, self.sport, self.dst, self.dport)
    }
}

/// A Service with one set of backends for everybody.
pub fn service(protocol: Protocol, frontends: &[(IpAddr, u16)], backends: &[(IpAddr, u16)]) -> ServiceConfig {
    let mut set: Vec<Backend> =
        backends.iter().map(|(address, port)| Backend { address: *address, port: *port }).collect();
    set.sort();
    let choice = if set.is_empty() { Choice::Reject } else { Choice::Set(0) };
    let cidr = |a: &IpAddr| a.to_string().starts_with("10.96.") || a.to_string().starts_with("fd00:96:");
    let frontend = |(address, port): &(IpAddr, u16)| FrontendConfig {
        kind: match address {
            a if cidr(a) => FrontendKind::ClusterIp,
            a if a.is_loopback() => FrontendKind::HostPort,
            _ => FrontendKind::NodePort,
        },
        address: *address,
        port: *port,
        inside: choice,
        outside: choice,
        sources: None,
    };
    ServiceConfig {
        protocol,
        affinity_seconds: None,
        sets: if set.is_empty() { Vec::new() } else { vec![set] },
        frontends: frontends.iter().map(frontend).collect(),
    }
}

pub fn udp(sport: u16, dport: u16) -> Transport {
    Transport::Udp { sport, dport }
}

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;

pub fn tcp(sport: u16, dport: u16, flags: u8) -> Transport {
    Transport::Tcp { sport, dport, seq: 1000, ack: 2000, flags, window: 500, options: Vec::new() }
}

/// Runs a test with several numbers of workers, in both families.
pub fn everywhere(test: impl Fn(u8, bool)) {
    for workers in [1, 2, 4] {
        for v6 in [false, true] {
            test(workers, v6);
        }
    }
}
