//! Messages from a few bytes each, out of a world so small that objects often collide.

use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1::{
    Backend, Choice, Endpoint, Frontend, FrontendKind, HostPort, Key, LocalNode, Masquerade, Object, Peer, PortKind,
    Protocol, Service, ServicePort, ToDataplane,
};

use super::policy;
use crate::input::Input;

/// The message that a byte from 128 on stands for.
pub(super) fn made(kind: u8, input: &mut Input<'_>) -> Option<ToDataplane> {
    Some(match kind {
        0x80..0xd8 => ToDataplane::Upsert(object(kind, input)?),
        0xd8..0xe0 => ToDataplane::Extend(service(kind, input)?),
        0xe0..0xf0 => ToDataplane::Delete(match (kind & 7, input.u8()?) {
            (0, _) => Key::Local,
            (1, n) => Key::Peer(name(n)),
            (2, n) => Key::Endpoint(name(n)),
            (3, n) => Key::Service(name(n)),
            (kind, n) => policy::key(kind, n),
        }),
        0xf0..0xf8 => ToDataplane::Begin { generation: (kind & 3).into(), full: kind & 4 != 0 },
        _ => ToDataplane::Commit { generation: (kind & 3).into() },
    })
}

pub(super) fn object(kind: u8, input: &mut Input<'_>) -> Option<Object> {
    Some(match kind >> 4 {
        8 => {
            let (n, odd) = (input.u8()?, input.u8()?);
            let (addresses, pod_cidrs) = node(n, kind);
            let vni = if odd & 8 != 0 { 0xff_fffd + u32::from(odd & 7) } else { 4096 };
            let pod_mtu = if odd & 16 != 0 { 1279 } else { 1450 };
            let more = if odd & 32 != 0 { input.u8()? } else { 0 };
            let masquerade = (more & 1 != 0).then(|| Masquerade {
                addresses: if more & 2 != 0 { addresses.clone() } else { vec![address(more, more & 4 != 0)] },
                ports: (u16::from(more >> 6), 79 + u16::from(more >> 3 & 7)),
            });
            Object::Local(LocalNode {
                name: name(n),
                vtep: addresses[0],
                addresses,
                pod_cidrs,
                vni,
                pod_mtu,
                service_cidrs: (more & 8 != 0).then(|| range(more, more & 4 != 0)).into_iter().collect(),
                no_masquerade: (more & 16 != 0).then(|| range(more >> 4, false)).into_iter().collect(),
                masquerade,
                cluster_seed: [1, 2],
            })
        }
        9 => {
            let (id, n) = (input.u8()?, input.u8()?);
            let (addresses, pod_cidrs) = node(n, kind);
            let vtep = if id & 128 != 0 { address(n, true) } else { addresses[0] };
            Object::Peer(Peer { name: name(id & 127), vtep, addresses, pod_cidrs })
        }
        11 => policy::object(kind, input)?,
        12 | 13 => Object::Service(service(kind, input)?),
        _ => {
            let (id, n, v6) = (input.u8()?, input.u8()?, input.u8()?);
            let mut addresses = vec![address(n, v6 & 1 != 0)];
            addresses.extend((v6 & 2 != 0).then(|| address(n, v6 & 4 != 0)));
            let mut host_ports = Vec::new();
            for _ in 0..v6 >> 6 {
                let (place, at) = (input.u8()?, input.u8()?);
                let address = (place & 0xc0 != 0).then(|| node_address(place, place & 0x20 != 0));
                host_ports.push(HostPort { protocol: protocol(at), address, port: port(at), target: port(place) });
            }
            let host_ifname = if v6 & 8 != 0 { name(n) } else { format!("pp{id}") };
            Object::Endpoint(Endpoint {
                id: name(id),
                pod: String::new(),
                port: PortKind::Veth { host_ifname },
                mac: [2, 0, 0, 0, v6 >> 4, n],
                addresses,
                host_ports,
                policy: policy::of_endpoint(id),
            })
        }
    })
}

/// A Service of up to three ports; two bytes a frontend, two a backend.
fn service(kind: u8, input: &mut Input<'_>) -> Option<Service> {
    let name = name(input.u8()?);
    let mut ports = Vec::new();
    for _ in 0..kind & 3 {
        let (shape, odds) = (input.u8()?, input.u8()?);
        let mut sets = Vec::new();
        for _ in 0..shape & 3 {
            let (n, odds) = (input.u8()?, input.u8()?);
            let mut set = vec![Backend { address: address(n, odds & 1 != 0), port: port(odds >> 1) }];
            set.extend((odds & 64 != 0).then(|| Backend { address: address(n >> 1, odds & 1 != 0), port: port(n) }));
            set.truncate(if odds & 128 != 0 { 0 } else { 2 });
            sets.push(set);
        }
        let mut frontends = Vec::new();
        for _ in 0..shape >> 2 & 3 {
            let (n, odds) = (input.u8()?, input.u8()?);
            let kinds = [FrontendKind::ClusterIp, FrontendKind::NodePort, FrontendKind::LoadBalancer];
            let choices = [Choice::Set(0), Choice::Set(1), Choice::Reject, Choice::Drop];
            let v6 = odds & 1 != 0;
            frontends.push(Frontend {
                kind: kinds[usize::from(odds >> 1) % 3],
                address: if n & 0x80 != 0 { node_address(n & 0x3f, v6) } else { address(n, v6) },
                port: port(n),
                inside: choices[usize::from(odds >> 3 & 3)],
                outside: choices[usize::from(odds >> 5 & 3)],
                sources: (odds & 128 != 0).then(|| vec![range(n, v6)]),
            });
        }
        ports.push(ServicePort {
            name: if odds & 1 != 0 { String::new() } else { format!("p{}", odds >> 1 & 3) },
            protocol: protocol(odds),
            affinity_seconds: (odds & 128 != 0).then_some(u32::from(odds & 64) * 2000),
            sets,
            frontends,
        });
    }
    Some(Service { name, ports })
}

pub(super) fn protocol(n: u8) -> Protocol {
    Protocol::ALL[usize::from(n >> 4) % 3]
}

/// Few, so that they collide; some in the range that leaves the cluster.
pub(super) fn port(n: u8) -> u16 {
    [0, 53, 80, 8080][usize::from(n & 3)]
}

/// Mostly a name; sometimes none that anybody may have.
pub(super) fn name(n: u8) -> String {
    match n {
        250 => String::new(),
        251 => "a\nb".to_owned(),
        252 => "../x".to_owned(),
        253 => "long".repeat(200),
        n => format!("n{}", n & 7),
    }
}

/// Addresses and ranges of the node `n`; `kind` says which families.
fn node(n: u8, kind: u8) -> (Vec<IpAddr>, Vec<IpNet>) {
    let mut addresses = vec![node_address(n, kind & 1 != 0)];
    addresses.extend((kind & 2 != 0).then(|| node_address(n, kind & 1 == 0)));
    let mut ranges = vec![range(n, false)];
    ranges.extend((kind & 4 != 0).then(|| range(n, true)));
    ranges.extend((kind & 8 != 0).then(|| range(n.wrapping_add(1), n & 16 != 0)));
    (addresses, ranges)
}

fn node_address(n: u8, v6: bool) -> IpAddr {
    match (n >> 6, v6) {
        (3, _) => address(n, v6),
        (_, false) => IpAddr::from([10, 77, 0, 10 + (n & 15)]),
        (_, true) => IpAddr::from([0xfd00, 0x10, 0x77, 0, 0, 0, 0, (n & 15).into()]),
    }
}

/// A pod's address, or one that nobody can have.
pub(super) fn address(n: u8, v6: bool) -> IpAddr {
    match (n, v6) {
        (255, false) => IpAddr::from([224, 0, 0, 1]),
        (254, false) => IpAddr::from([127, 0, 0, 1]),
        (253, false) => IpAddr::from([169, 254, 1, 1]),
        (255, true) => IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]),
        (254, true) => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]),
        (253, true) => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
        (n, false) => IpAddr::from([10, 244, n >> 4, n & 15]),
        (n, true) => IpAddr::from([0xfd00, 0x10, 0x244, (n >> 4).into(), 0, 0, 0, (n & 15).into()]),
    }
}

pub(super) fn range(n: u8, v6: bool) -> IpNet {
    let len = match (n >> 5, v6) {
        (0..4, false) => 24,
        (4, false) => 16,
        (5, false) => 31,
        (6, false) => 0,
        (7, false) => 28,
        (0..4, true) => 64,
        (4, true) => 48,
        (_, true) => 128,
        _ => 24,
    };
    IpNet::new(address(n << 4, v6), len).expect("a length of the family")
}
