//! What single objects say, checked by itself.

use std::net::IpAddr;

use ipnet::IpNet;
use podplane_packet::id::{Mac, Vni};

use super::{Addresses, Endpoint, LocalNode, Masquerade, Peer, Ranges, Refusal, refuse};
use super::{MAX_HOST_PORTS, MAX_NETWORKS, MIN_MASQUERADE_PORTS, MIN_MTU};
use crate::v1;

/// The longest name of a node or an endpoint, in bytes.
const MAX_NAME: usize = 512;
/// The longest name of a network interface, in bytes (`IFNAMSIZ` less the terminator).
const MAX_IFNAME: usize = 15;

pub(super) fn name(object: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return refuse(object, format!("{name:?} is no name: 1 to {MAX_NAME} bytes without control characters"));
    }
    Ok(())
}

/// An address that a host can have.
pub(super) fn unicast(object: &str, address: IpAddr) -> Result<IpAddr, Refusal> {
    let bad = address.is_multicast()
        || address.is_unspecified()
        || address.is_loopback()
        || match address {
            // From 240.0.0.0 on reserved (RFC 1112 section 4).
            IpAddr::V4(v4) => v4.is_link_local() || !(1..240).contains(&v4.octets()[0]),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
    if bad { refuse(object, format!("{address} is no address that a node or a pod can have")) } else { Ok(address) }
}

fn node_addresses(object: &str, vtep: IpAddr, raw: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    let mut addresses = raw.iter().map(|&a| unicast(object, a)).collect::<Result<Vec<_>, _>>()?;
    addresses.sort_unstable();
    addresses.dedup();
    if !addresses.contains(&vtep) {
        return refuse(object, format!("its VTEP {vtep} is none of its addresses"));
    }
    Ok(addresses)
}

fn pod_cidrs(object: &str, raw: &[IpNet]) -> Result<Ranges, Refusal> {
    let mut ranges = Ranges::default();
    for net in raw {
        unicast(object, net.network())?;
        if net.max_prefix_len() - net.prefix_len() < 2 {
            return refuse(object, format!("the pods' range {net} has no room for a pod: /30 or /126 is the least"));
        }
        let twice = match net {
            IpNet::V4(net) => ranges.v4.replace(net.trunc()).is_some(),
            IpNet::V6(net) => ranges.v6.replace(net.trunc()).is_some(),
        };
        if twice {
            return refuse(object, format!("{net} is a second range of the same family: one of each is supported"));
        }
    }
    Ok(ranges)
}

pub(super) fn local(raw: &v1::LocalNode) -> Result<LocalNode, Refusal> {
    let object = format!("this node ({})", raw.name);
    name(&object, &raw.name)?;
    let vni = Vni::try_from(raw.vni).or_else(|e| refuse(&object, e.to_string()))?;
    // The network after ours is that of entry nodes.
    if vni.get() == 0 || Vni::try_from(vni.get() + 1).is_err() {
        return refuse(&object, format!("VNI {} cannot be used: 1 to 16777214 can", raw.vni));
    }
    if raw.pod_mtu < MIN_MTU {
        return refuse(&object, format!("a pods' MTU of {} is below {MIN_MTU}, the least for IPv6", raw.pod_mtu));
    }
    Ok(LocalNode {
        name: raw.name.clone(),
        vtep: raw.vtep,
        addresses: node_addresses(&object, raw.vtep, &raw.addresses)?,
        pod_cidrs: pod_cidrs(&object, &raw.pod_cidrs)?,
        vni,
        pod_mtu: raw.pod_mtu,
        service_cidrs: networks(&object, "range of ClusterIPs", &raw.service_cidrs)?,
        no_masquerade: networks(&object, "range that is not masqueraded", &raw.no_masquerade)?,
        masquerade: raw.masquerade.as_ref().map(|m| masquerade(&object, m, &raw.addresses)).transpose()?,
        cluster_seed: raw.cluster_seed,
    })
}

/// Networks by their first address, sorted, each once.
fn networks(object: &str, what: &str, raw: &[IpNet]) -> Result<Vec<IpNet>, Refusal> {
    if raw.len() > MAX_NETWORKS {
        return refuse(object, format!("{} times a {what}: {MAX_NETWORKS} is the limit", raw.len()));
    }
    let mut nets: Vec<IpNet> = raw.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    Ok(nets)
}

fn masquerade(object: &str, raw: &v1::Masquerade, own: &[IpAddr]) -> Result<Masquerade, Refusal> {
    let (first, last) = raw.ports;
    if first == 0 || usize::from(last.saturating_sub(first)) + 1 < MIN_MASQUERADE_PORTS {
        return refuse(
            object,
            format!("masquerade ports {first} to {last}: at least {MIN_MASQUERADE_PORTS}, from 1 on, are needed"),
        );
    }
    let mut addresses = Addresses::default();
    for &address in &raw.addresses {
        if !own.contains(&address) {
            return refuse(object, format!("its masquerade address {address} is none of its addresses"));
        }
        addresses
            .add(address)
            .or_else(|()| refuse(object, format!("{address} is a second masquerade address of the same family")))?;
    }
    if addresses.is_empty() {
        return refuse(object, "it masquerades without an address");
    }
    Ok(Masquerade { addresses, first, last })
}

pub(super) fn peer(raw: &v1::Peer) -> Result<Peer, Refusal> {
    let object = format!("node {}", raw.name);
    name(&object, &raw.name)?;
    Ok(Peer {
        vtep: raw.vtep,
        addresses: node_addresses(&object, raw.vtep, &raw.addresses)?,
        pod_cidrs: pod_cidrs(&object, &raw.pod_cidrs)?,
    })
}

pub(super) fn endpoint(raw: &v1::Endpoint) -> Result<Endpoint, Refusal> {
    let object = format!("endpoint {}", raw.id);
    name(&object, &raw.id)?;
    let v1::PortKind::Veth { host_ifname } = &raw.port;
    if host_ifname.is_empty() || host_ifname.len() > MAX_IFNAME || host_ifname.contains(['/', ' ', '\n', '\0']) {
        return refuse(object, format!("{host_ifname:?} is no name of a network interface"));
    }
    let mac = Mac(raw.mac);
    if mac.is_group() || [Mac::default(), Mac::GATEWAY, Mac::GATEWAY_FORWARDED].contains(&mac) {
        return refuse(object, format!("{mac} is no address that a pod can have"));
    }
    let mut addresses = Addresses::default();
    for &address in &raw.addresses {
        addresses
            .add(unicast(&object, address)?)
            .or_else(|()| refuse(&object, format!("{address} is a second address of the same family")))?;
    }
    if addresses.is_empty() {
        return refuse(object, "it has no address");
    }
    if raw.host_ports.len() > MAX_HOST_PORTS {
        return refuse(object, format!("{} host ports: {MAX_HOST_PORTS} is the limit", raw.host_ports.len()));
    }
    for port in &raw.host_ports {
        host_port(&object, port, addresses)?;
    }
    let host_ports = raw.host_ports.clone();
    let (pod, port, policy) = (raw.pod.clone(), raw.port.clone(), raw.policy);
    Ok(Endpoint { pod, port, mac, addresses, host_ports, policy })
}

fn host_port(object: &str, raw: &v1::HostPort, addresses: Addresses) -> Result<(), Refusal> {
    if raw.port == 0 || raw.target == 0 {
        return refuse(object, format!("host port {} to {}: 0 is no port", raw.port, raw.target));
    }
    match raw.address {
        Some(IpAddr::V4(v4)) if v4.is_loopback() => {}
        Some(address) => drop(unicast(object, address)?),
        None => {}
    }
    match raw.address {
        Some(address) if !addresses.has_family_of(address) => {
            refuse(object, format!("host port {} at {address}: the pod has no address of that family", raw.port))
        }
        _ => Ok(()),
    }
}
