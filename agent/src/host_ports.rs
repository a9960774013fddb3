//! Host ports (CNI's `portMappings`): what a runtime asks for becomes what the dataplane serves, or a refusal.

use std::net::IpAddr;

use ipnet::IpNet;
use podplane_api::{PortMapping, Protocol};
use podplane_config::v1::{self, HostPort};
use podplane_config::valid::MAX_HOST_PORTS;

/// The host ports of a pod whose addresses will come from `ranges`.
///
/// # Errors
/// What cannot be served, and why.
pub fn of(mappings: &[PortMapping], ranges: &[IpNet]) -> Result<Vec<HostPort>, String> {
    let mut ports: Vec<HostPort> = Vec::new();
    for mapping in mappings {
        let port = host_port(mapping, ranges)?;
        let same = |other: &&HostPort| (other.protocol, other.port) == (port.protocol, port.port);
        let clash = ports.iter().filter(same).any(|other| {
            let overlap = other.address.is_none() || port.address.is_none() || other.address == port.address;
            overlap && other.target != port.target
        });
        if clash {
            return Err(format!("host port {} {} is asked for twice, to different ports", port.port, port.protocol));
        }
        ports.push(port);
    }
    // At all addresses is also at each of them.
    let everywhere: Vec<HostPort> = ports.iter().filter(|port| port.address.is_none()).cloned().collect();
    let is_in = |port: &HostPort| everywhere.contains(&HostPort { address: None, ..port.clone() });
    ports.retain(|port| port.address.is_none() || !is_in(port));
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > MAX_HOST_PORTS {
        return Err(format!("{} host ports: {MAX_HOST_PORTS} is the limit", ports.len()));
    }
    Ok(ports)
}

fn host_port(mapping: &PortMapping, ranges: &[IpNet]) -> Result<HostPort, String> {
    let PortMapping { protocol, host_ip, host_port, container_port } = *mapping;
    if host_port == 0 || container_port == 0 {
        return Err(format!("host port {host_port} to {container_port}: 0 is no port"));
    }
    // "0.0.0.0" and "::" are ways to say: everywhere.
    let address = host_ip.filter(|address| !address.is_unspecified());
    if let Some(address) = address {
        let possible = match address {
            IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast() && !v4.is_link_local() && v4.octets()[0] != 0,
            // Nothing leads ::1 away from `lo`.
            IpAddr::V6(v6) => {
                !v6.is_multicast() && !v6.is_loopback() && !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none()
            }
        };
        if !possible {
            return Err(format!("host port {host_port}: it cannot be served at hostIP {address}"));
        }
        if !ranges.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4()) {
            return Err(format!("host port {host_port} at hostIP {address}: the pod gets no address of that family"));
        }
    }
    let protocol = match protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    Ok(HostPort { protocol, address, port: host_port, target: container_port })
}

/// What a lease keeps, as the API says it.
pub fn mappings(ports: &[HostPort]) -> Vec<PortMapping> {
    let mapping = |port: &HostPort| PortMapping {
        protocol: match port.protocol {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        host_ip: port.address,
        host_port: port.port,
        container_port: port.target,
    };
    ports.iter().map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
        PortMapping { protocol: Protocol::Tcp, host_ip: host_ip.parse().ok(), host_port, container_port }
    }

    #[test]
    fn everywhere_contains_each_address_and_twice_is_once() {
        let ranges = ["10.0.0.0/24".parse().unwrap()];
        let ports =
            of(&[mapping("0.0.0.0", 80, 8080), mapping("192.0.2.1", 80, 8080), mapping("::", 80, 8080)], &ranges);
        assert_eq!(ports.unwrap().len(), 1);
        let apart = of(&[mapping("192.0.2.1", 80, 8080), mapping("192.0.2.2", 80, 8081)], &ranges).unwrap();
        assert_eq!(mappings(&apart), [mapping("192.0.2.1", 80, 8080), mapping("192.0.2.2", 80, 8081)]);
        assert_eq!(of(&[mapping("127.0.0.1", 80, 8080)], &ranges).unwrap().len(), 1);
        for (mappings, reason) in [
            (vec![mapping("", 80, 1), mapping("192.0.2.1", 80, 2)], "asked for twice"),
            (vec![mapping("", 0, 1)], "0 is no port"),
            (vec![mapping("224.0.0.1", 80, 1)], "cannot be served"),
            (vec![mapping("::1", 80, 1)], "cannot be served"),
            (vec![mapping("fd00::1", 80, 1)], "no address of that family"),
        ] {
            let refused = of(&mappings, &ranges).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
