//! Services and a world outside, for every kind of translation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podplane_packet::id::Mac;
use podplane_pipeline::sim::{Sim, SimPod, node_v4, node_v6};
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::{
    Backend, Choice, FrontendConfig, FrontendKind, Masquerade, OutsideConfig, Protocol, Reach, ServiceConfig,
    ServiceId, ServiceMap,
};

/// The router on the underlay; the stranger speaks in its name.
pub(super) const ROUTER: Mac = Mac([2, 9, 9, 9, 9, 9]);

/// An address that Services have, and one that has nothing behind it.
pub(super) fn cluster_ip(n: u8, v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(10, 96, 0, n).into(),
        true => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n.into()).into(),
    }
}

pub(super) fn router(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(192, 0, 2, 254).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe).into(),
    }
}

/// Somebody far away.
pub(super) fn outside(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(8, 8, 8, 8).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 9).into(),
    }
}

fn pod(pod: &SimPod, v6: bool) -> IpAddr {
    if v6 { pod.v6.into() } else { pod.v4.into() }
}

fn node(n: usize, v6: bool) -> IpAddr {
    if v6 { node_v6(n).into() } else { node_v4(n).into() }
}

/// Puts them in force on both nodes.
pub(super) fn serve(sim: &mut Sim, pods: &[SimPod; 3]) {
    let uplinks = [0, 1].map(|n| sim.nodes[n].uplink_mac());
    for (n, it) in sim.nodes.iter_mut().enumerate() {
        let local = it.config.local.as_mut().expect("configured");
        local.service_cidrs =
            [(false, 16), (true, 112)].map(|(v6, len)| Prefix { addr: cluster_ip(0, v6), len }).into();
        local.masquerade = Some(Masquerade { addresses: local.addresses.clone(), ports: (49152, 65535) });
        let mut neighbours = Vec::new();
        let mut routes = Vec::new();
        for v6 in [false, true] {
            neighbours.push((router(v6), Some(ROUTER)));
            neighbours.extend([0, 1].map(|other| (node(other, v6), Some(uplinks[other]))));
            routes.push((Prefix { addr: router(v6), len: if v6 { 64 } else { 24 } }, Reach::OnLink));
            let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
            routes.push((Prefix { addr: any, len: 0 }, Reach::Gateway(router(v6))));
        }
        it.config.outside = OutsideConfig { routes, neighbours };
        let mut map = ServiceMap::default();
        for (id, service) in (0..).zip([false, true].into_iter().flat_map(|v6| services(n, pods, v6))) {
            map.insert(ServiceId(id), Arc::new(service));
        }
        it.config.services = map;
        it.publish();
    }
}

fn services(n: usize, pods: &[SimPod; 3], v6: bool) -> Vec<ServiceConfig> {
    let set = |backends: &[(IpAddr, u16)]| {
        let mut set: Vec<_> = backends.iter().map(|&(address, port)| Backend { address, port }).collect();
        set.sort_unstable();
        vec![set]
    };
    let at = |kind, address, port, inside, outside, sources| FrontendConfig {
        kind,
        address,
        port,
        inside,
        outside,
        sources,
    };
    let vip = |port| at(FrontendKind::ClusterIp, cluster_ip(10, v6), port, Choice::Set(0), Choice::Set(0), None);
    let near = Some(vec![Prefix { addr: router(v6), len: if v6 { 64 } else { 24 } }]);
    let pod = |i: usize| pod(&pods[i], v6);
    vec![
        // On both nodes, and by a node port: hairpin, reply through the entry node.
        ServiceConfig {
            protocol: Protocol::Tcp,
            affinity_seconds: None,
            sets: set(&[(pod(0), 1000), (pod(2), 2000)]),
            frontends: vec![
                vip(80),
                at(FrontendKind::NodePort, node(n, v6), 30_000, Choice::Set(0), Choice::Set(0), None),
            ],
        },
        // With affinity, and for some clients only.
        ServiceConfig {
            protocol: Protocol::Udp,
            affinity_seconds: Some(10),
            sets: set(&[(pod(0), 53), (pod(1), 53), (pod(2), 53)]),
            frontends: vec![
                vip(53),
                at(FrontendKind::LoadBalancer, cluster_ip(12, v6), 53, Choice::Set(0), Choice::Set(0), near),
            ],
        },
        // On the other node's own network.
        ServiceConfig {
            protocol: Protocol::Sctp,
            affinity_seconds: None,
            sets: set(&[(node(1 - n, v6), 8080)]),
            frontends: vec![
                vip(80),
                at(FrontendKind::NodePort, node(n, v6), 30_000, Choice::Set(0), Choice::Set(0), None),
            ],
        },
        // Outside the cluster.
        ServiceConfig {
            protocol: Protocol::Tcp,
            affinity_seconds: None,
            sets: set(&[(outside(v6), 443)]),
            frontends: vec![vip(443)],
        },
        // Without anybody.
        ServiceConfig {
            protocol: Protocol::Tcp,
            affinity_seconds: None,
            sets: Vec::new(),
            frontends: vec![at(FrontendKind::ClusterIp, cluster_ip(12, v6), 443, Choice::Reject, Choice::Drop, None)],
        },
    ]
}
