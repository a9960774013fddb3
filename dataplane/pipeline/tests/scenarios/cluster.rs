//! The cluster of all scenarios: two nodes with two pods each, one without, a router, and the world behind it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podplane_packet::buf::PacketBuf;
use podplane_packet::checksum::complete;
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::testing::{FrameSpec, Ip, VecBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::{Sim, SimConfig, SimPod, gateway_v4, gateway_v6, node_v4, node_v6};
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services as wanted;

use crate::file::{Frontend, Kind, Protocol, Service};
use crate::packet::{self, Names};
use crate::rules::{Book, Owners, Policies};

/// Ranges by name.
pub type Nets = BTreeMap<String, Vec<String>>;

/// The router on the uplinks' network.
const ROUTER: Mac = Mac([2, 0, 0, 0, 0xbb, 0xfe]);
/// A host on the uplinks' network.
const NEAR: Mac = Mac([2, 0, 0, 0, 0xbb, 0x63]);

/// Where packets come in and out.
const PLACES: [&str; 10] = ["a", "b", "c", "d", "node1", "node2", "node3", "uplink1", "uplink2", "uplink3"];

/// A cluster in which a scenario happens.
pub struct Cluster {
    pub sim: Sim,
    names: Names,
    book: Book,
    v6: bool,
    /// a, b (node1), c, d (node2).
    pods: [(&'static str, SimPod); 4],
}

fn pair(v6: bool, four: [u8; 4], six: &str) -> IpAddr {
    if v6 { IpAddr::V6(six.parse().expect("an address")) } else { Ipv4Addr::from(four).into() }
}

impl Cluster {
    pub fn new(workers: u8, v6: bool, mut names: Names) -> Cluster {
        let mut sim = Sim::new(SimConfig { workers, nodes: 3, ..SimConfig::default() });
        let pods = [("a", 0), ("b", 0), ("c", 1), ("d", 1)].map(|(name, node)| (name, sim.add_pod(node)));
        for (name, pod) in &pods {
            names.add(name, if v6 { pod.v6.into() } else { pod.v4.into() });
        }
        for n in 0..sim.nodes.len() {
            names.add(&format!("node{}", n + 1), if v6 { node_v6(n).into() } else { node_v4(n).into() });
            names.add(&format!("gateway{}", n + 1), if v6 { gateway_v6(n).into() } else { gateway_v4(n).into() });
        }
        let (router, near) = (pair(v6, [192, 0, 2, 254], "2001:db8::fe"), pair(v6, [192, 0, 2, 99], "2001:db8::63"));
        names.add("router", router);
        names.add("near", near);
        names.add("late", pair(v6, [192, 0, 2, 77], "2001:db8::77"));
        names.add("intranet", pair(v6, [172, 16, 3, 4], "2001:db8:16::4"));
        names.add("client", pair(v6, [198, 51, 100, 9], "2001:db8:51::9"));
        names.add("client2", pair(v6, [198, 51, 100, 10], "2001:db8:51::a"));
        let bridge = pair(v6, [172, 17, 0, 1], "fd00:17::1");
        names.add("bridge", bridge);
        names.add("container", pair(v6, [172, 17, 0, 2], "fd00:17::2"));
        names.add("hole", pair(v6, [198, 18, 0, 1], "2001:db8:18::1"));
        names.add("vacant", pair(v6, [10, 244, 1, 200], "fd00:244:1::c8"));
        let node_address = |n| if v6 { IpAddr::from(node_v6(n)) } else { node_v4(n).into() };
        let nodes: Vec<_> =
            sim.nodes.iter().enumerate().map(|(n, node)| (node_address(n), node.uplink_mac())).collect();
        for node in &mut sim.nodes {
            let local = node.config.local.as_mut().expect("configured");
            local.service_cidrs = vec![
                Prefix { addr: Ipv4Addr::new(10, 96, 0, 0).into(), len: 16 },
                Prefix { addr: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0).into(), len: 112 },
            ];
            local.unannounced = vec![bridge];
            let addresses = local.addresses.clone();
            local.no_masquerade = vec![
                Prefix { addr: Ipv4Addr::new(172, 16, 0, 0).into(), len: 12 },
                Prefix { addr: Ipv6Addr::new(0x2001, 0xdb8, 0x16, 0, 0, 0, 0, 0).into(), len: 48 },
            ];
            local.masquerade = Some(wanted::Masquerade { addresses, ports: (49152, 65535) });
            let (net, len) =
                if v6 { (pair(true, [0; 4], "2001:db8::"), 64) } else { (pair(false, [192, 0, 2, 0], ""), 24) };
            let (beside, hole) = if v6 { ("fd00:17::", "2001:db8:18::") } else { ("172.17.0.0", "198.18.0.0") };
            let range = |text: &str| Prefix { addr: text.parse().expect("an address"), len: if v6 { 64 } else { 16 } };
            node.config.outside = wanted::OutsideConfig {
                routes: vec![
                    (Prefix { addr: net, len }, wanted::Reach::OnLink),
                    (range(beside), wanted::Reach::Host),
                    (range(hole), wanted::Reach::Nowhere),
                    (Prefix { addr: pair(v6, [0; 4], "::"), len: 0 }, wanted::Reach::Gateway(router)),
                ],
                neighbours: [(router, ROUTER), (near, NEAR)]
                    .into_iter()
                    .chain(nodes.iter().copied())
                    .map(|(address, mac)| (address, Some(mac)))
                    .collect(),
            };
            node.publish();
        }
        Cluster { sim, names, book: Book::default(), v6, pods }
    }

    /// Puts Services in force on both nodes.
    pub fn serve(&mut self, services: &BTreeMap<String, Service>) -> Result<(), String> {
        for n in 0..self.sim.nodes.len() {
            let here = format!("node{}", n + 1);
            let mut map = wanted::ServiceMap::default();
            for (name, service) in services {
                // A number for each name, whatever others come and go.
                let id = name.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
                let service = self.compile(service, &here).map_err(|e| format!("Service {name}: {e}"))?;
                map.insert(wanted::ServiceId(id), Arc::new(service));
            }
            self.sim.nodes[n].config.services = map;
            self.sim.nodes[n].publish();
        }
        Ok(())
    }

    /// Puts owners and policies in force on all nodes.
    pub fn enforce(&mut self, owners: &Owners, policies: &Policies, nets: &Nets) -> Result<(), String> {
        let (map, pods) = self.book.compile(owners, policies, nets, &self.names, self.v6)?;
        if let Some(stray) = pods.keys().find(|name| !self.pods.iter().any(|(pod, _)| pod == name)) {
            return Err(format!("'{stray}' is no pod and has no policy"));
        }
        for (n, node) in self.sim.nodes.iter_mut().enumerate() {
            node.config.policy = map.clone();
            for (name, pod) in self.pods.iter().filter(|(_, pod)| pod.node == n) {
                if let Some((_, entry)) = node.config.ports.iter_mut().find(|(id, _)| *id == pod.port) {
                    entry.policy = pods.get(*name).copied().unwrap_or_default();
                }
            }
            node.publish();
        }
        Ok(())
    }

    /// The addresses that have an owner unless a scenario says otherwise.
    pub fn owned() -> impl Iterator<Item = &'static str> {
        ["a", "b", "c", "d", "node1", "node2", "node3"].into_iter()
    }

    fn compile(&self, s: &Service, here: &str) -> Result<wanted::ServiceConfig, String> {
        let mut sets = Vec::new();
        for backends in s.sets.values() {
            let mut set = Vec::new();
            for b in backends {
                let (address, port) = self.names.socket(b)?;
                set.push(wanted::Backend { address, port });
            }
            set.sort();
            sets.push(set);
        }
        let mine = s.frontends.iter().filter(|f| f.on.is_empty() || f.on.iter().any(|n| n == here));
        let frontends = mine.map(|f| self.frontend(f, s)).collect::<Result<_, _>>()?;
        let protocol = match s.protocol {
            Protocol::Tcp => wanted::Protocol::Tcp,
            Protocol::Udp => wanted::Protocol::Udp,
            Protocol::Sctp => wanted::Protocol::Sctp,
        };
        Ok(wanted::ServiceConfig { protocol, affinity_seconds: s.affinity, sets, frontends })
    }

    fn frontend(&self, f: &Frontend, s: &Service) -> Result<wanted::FrontendConfig, String> {
        let choice = |name: &str| match name {
            "reject" => Ok(wanted::Choice::Reject),
            "drop" => Ok(wanted::Choice::Drop),
            set => match s.sets.keys().position(|k| k == set) {
                Some(i) => Ok(wanted::Choice::Set(i as u16)),
                None => Err(format!("'{set}' is neither a set of the Service nor 'reject' nor 'drop'")),
            },
        };
        let (address, port) = self.names.socket(&f.at)?;
        let kind = match f.kind {
            Kind::ClusterIp => wanted::FrontendKind::ClusterIp,
            Kind::NodePort => wanted::FrontendKind::NodePort,
            Kind::LoadBalancer => wanted::FrontendKind::LoadBalancer,
            Kind::ExternalIp => wanted::FrontendKind::ExternalIp,
            Kind::HostPort => wanted::FrontendKind::HostPort,
        };
        let sources = f.sources.as_ref().map(|all| {
            let prefixes = all.iter().map(|text| {
                let (addr, len) = text.split_once('/').ok_or("a source is ADDRESS/LENGTH")?;
                let addr: IpAddr = addr.parse().map_err(|_| format!("'{addr}' is no address"))?;
                Ok(Prefix { addr, len: len.parse().map_err(|_| format!("'{len}' is no length"))? })
            });
            let prefixes = prefixes.collect::<Result<Vec<Prefix>, String>>();
            prefixes.map(|p| p.into_iter().filter(|p| p.addr.is_ipv6() == self.v6).collect())
        });
        let (inside, outside) = (choice(&f.inside)?, choice(&f.outside)?);
        Ok(wanted::FrontendConfig { kind, address, port, inside, outside, sources: sources.transpose()? })
    }

    /// Lets every node know the Ethernet address of a host on the uplinks' network.
    pub fn resolve(&mut self, name: &str) -> Result<(), String> {
        let address = self.names.address(name)?;
        for node in &mut self.sim.nodes {
            node.config.outside.neighbours.push((address, Some(NEAR)));
            node.publish();
        }
        Ok(())
    }

    /// Sends a packet in at a place.
    pub fn send(&mut self, place: &str, text: &str) -> Result<(), String> {
        let mut spec = packet::build(text, &self.names)?;
        // What a node's kernel forwards goes to another gateway than what the node itself sends.
        let forwarded = place.strip_prefix("kernel").map(|n| format!("node{n}"));
        let gateway = if forwarded.is_some() { Mac::GATEWAY_FORWARDED } else { Mac::GATEWAY };
        let (node, port) = self.place(forwarded.as_deref().unwrap_or(place))?;
        (spec.dst_mac, spec.src_mac) = match port {
            PortId::UPLINK => (self.sim.nodes[node].uplink_mac(), self.neighbour(source(&spec))?.unwrap_or(ROUTER)),
            // The node's stack knows the world outside by its own routes; its own addresses come here by rules of theirs.
            PortId::HOST => {
                let own = self.sim.nodes[node].uplink_mac();
                (self.neighbour(destination(&spec))?.filter(|m| *m != own).unwrap_or(gateway), own)
            }
            port => {
                let pod = self.pods.iter().find(|(_, p)| p.port == port && p.node == node);
                (Mac::GATEWAY, pod.map_or(Mac::default(), |(_, p)| p.mac))
            }
        };
        let frame = packet::frame(&spec, packet::shape(text)?)?;
        self.sim.inject(node, port, WorkerId(0), frame);
        self.sim.settle();
        Ok(())
    }

    /// The MAC by which an address on the uplinks' network or behind it is reached.
    fn neighbour(&self, address: IpAddr) -> Result<Option<Mac>, String> {
        let is = |name: &str| Ok::<_, String>(self.names.address(name)? == address);
        Ok(if is("near")? || is("late")? {
            Some(NEAR)
        } else if let Some(n) = (0..self.sim.nodes.len()).find(|n| is(&format!("node{}", n + 1)) == Ok(true)) {
            Some(self.sim.nodes[n].uplink_mac())
        } else if is("router")? || is("intranet")? || is("client")? || is("client2")? {
            Some(ROUTER)
        } else {
            None
        })
    }

    fn place(&self, place: &str) -> Result<(usize, PortId), String> {
        if let Some((_, pod)) = self.pods.iter().find(|(name, _)| *name == place) {
            return Ok((pod.node, pod.port));
        }
        match place {
            "node1" => Ok((0, PortId::HOST)),
            "node2" => Ok((1, PortId::HOST)),
            "node3" => Ok((2, PortId::HOST)),
            "uplink1" => Ok((0, PortId::UPLINK)),
            "uplink2" => Ok((1, PortId::UPLINK)),
            "uplink3" => Ok((2, PortId::UPLINK)),
            _ => Err(format!("'{place}' is no place: {}", PLACES.join(", "))),
        }
    }

    /// What came out since it was asked last: places and packets.
    ///
    /// # Errors
    /// A packet that is wrong in something that a text does not say.
    pub fn received(&mut self) -> Result<BTreeMap<&'static str, Vec<String>>, String> {
        let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for place in PLACES {
            let (node, port) = self.place(place)?;
            for mut buf in self.sim.take(node, port) {
                complete(&mut buf).map_err(|e| format!("at {place}: {e}"))?;
                let bytes = buf.bytes();
                let text = packet::describe(&bytes, &self.names).map_err(|e| format!("at {place}: {e}"))?;
                self.check_macs(&buf, node, port).map_err(|e| format!("at {place}: {e}: {text}"))?;
                all.entry(place).or_default().push(text);
            }
        }
        Ok(all)
    }

    fn check_macs(&self, buf: &VecBuf, node: usize, port: PortId) -> Result<(), String> {
        let head = buf.head();
        let (dst, src) = (&head[..6], &head[6..12]);
        let uplink = self.sim.nodes[node].uplink_mac();
        let ok = match port {
            PortId::UPLINK => [ROUTER, NEAR].iter().any(|m| m.0 == dst) && src == uplink.0,
            PortId::HOST => dst == uplink.0,
            port => {
                let pod = self.pods.iter().find(|(_, p)| p.port == port && p.node == node);
                pod.is_some_and(|(_, p)| p.mac.0 == dst) && src == Mac::GATEWAY.0
            }
        };
        if ok { Ok(()) } else { Err(format!("sent from MAC {src:02x?} to {dst:02x?}")) }
    }

    /// Every reason that dropped something so far, and how often.
    pub fn drops(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = Vec::new();
        for reason in DropReason::ALL {
            let n = self.sim.drops(*reason);
            if n > 0 && !reason.is_policy() {
                all.push((reason.name().to_owned(), n));
            }
            for place in PLACES.into_iter().filter(|_| n > 0 && reason.is_policy()) {
                let Ok((node, port)) = self.place(place) else { continue };
                let n: u64 = self.sim.nodes[node].counters.iter().map(|c| c.port(port).drops(*reason)).sum();
                if n > 0 {
                    all.push((format!("{}@{place}", reason.name()), n));
                }
            }
        }
        all
    }
}

fn source(s: &FrameSpec) -> IpAddr {
    match s.ip {
        Ip::V4 { src, .. } => src.into(),
        Ip::V6 { src, .. } => src.into(),
    }
}

fn destination(s: &FrameSpec) -> IpAddr {
    match s.ip {
        Ip::V4 { dst, .. } => dst.into(),
        Ip::V6 { dst, .. } => dst.into(),
    }
}
