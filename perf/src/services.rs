//! Ten thousand Services, and what both sides of a comparison are told about them.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podplane_config::v1::{Backend, Choice, Frontend, FrontendKind, Object, Protocol, Service, ServicePort};

use crate::bench::Family;
use crate::node::pod_addresses;

/// Services on both sides, the measured one included.
pub const SERVICES: u32 = 10_000;
/// Endpoints of each of them but the measured one.
pub const ENDPOINTS: u32 = 10;
/// The measured Service's name.
pub const MEASURED: &str = "bench/measured";
/// The pod that serves it.
pub const SERVER_POD: u8 = 2;
/// Its ports: iperf3's, those of the round trips, and that of the datagrams.
pub const PORTS: [(Protocol, u16); 3] = [(Protocol::Tcp, 5201), (Protocol::Tcp, 7007), (Protocol::Udp, 7008)];

/// The measured Service's address.
pub fn measured_address(family: Family) -> IpAddr {
    cluster_ip(family, SERVICES)
}

/// The ClusterIP of the `i`-th Service.
pub fn cluster_ip(family: Family, i: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0x0a60_0100 + i).into(),
        Family::V6 => Ipv6Addr::from((0xfd00_0096_u128 << 96) + 0x100 + u128::from(i)).into(),
    }
}

/// The `k`-th endpoint of the `i`-th Service, on no node that is there.
fn endpoint(family: Family, i: u32, k: u32) -> IpAddr {
    let n = i * ENDPOINTS + k;
    match family {
        Family::V4 => Ipv4Addr::from(0x0a80_0000 + n).into(),
        Family::V6 => Ipv6Addr::from((0xfd00_0128_u128 << 96) + u128::from(n)).into(),
    }
}

/// A Service of these ports, each served by the same port of `backends`.
pub fn service(name: &str, address: IpAddr, ports: &[(Protocol, u16)], backends: &[IpAddr]) -> Object {
    let ports = ports.iter().map(|&(protocol, port)| ServicePort {
        name: port.to_string(),
        protocol,
        affinity_seconds: None,
        sets: vec![backends.iter().map(|&address| Backend { address, port }).collect()],
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address,
            port,
            inside: Choice::Set(0),
            outside: Choice::Set(0),
            sources: None,
        }],
    });
    Object::Service(Service { name: name.to_owned(), ports: ports.collect() })
}

/// All Services but the measured one: one TCP port and [`ENDPOINTS`] endpoints each.
pub fn others(family: Family) -> impl Iterator<Item = Object> {
    (0..SERVICES - 1).map(move |i| {
        let backends: Vec<IpAddr> = (0..ENDPOINTS).map(|k| endpoint(family, i, k)).collect();
        service(&format!("bench/other{i}"), cluster_ip(family, i), &[(Protocol::Tcp, 80)], &backends)
    })
}

/// The measured Service, served by [`SERVER_POD`].
pub fn measured(family: Family) -> Object {
    let backend = pod_addresses(SERVER_POD)[family.index()];
    service(MEASURED, measured_address(family), &PORTS, &[backend])
}

/// nftables' words of a family.
struct Words {
    table: &'static str,
    header: &'static str,
    address: &'static str,
    pods: &'static str,
}

fn words(family: Family) -> Words {
    match family {
        Family::V4 => Words { table: "ip", header: "ip", address: "ipv4_addr", pods: "10.244.0.0/16" },
        Family::V6 => Words { table: "ip6", header: "ip6", address: "ipv6_addr", pods: "fd00:244::/32" },
    }
}

/// The counter of the measured Service in [`rules`], and its table.
pub fn counter(family: Family) -> [&'static str; 3] {
    [words(family).table, TABLE, COUNTER]
}

const TABLE: &str = "kube-proxy";
const COUNTER: &str = "measured";

/// A ruleset in the form of kube-proxy's nftables mode, for `nft -f`: base chains, the verdict map from address, protocol
/// and port to a Service's chain, and for the measured Service its own chain and its endpoint's. What a packet passes is
/// the same as with kube-proxy. The other Services' elements share a hundred chains, since the kernel takes a time to load
/// chains that grows with the square of their number, and the map does not care.
pub fn rules(family: Family) -> String {
    let mut text = base(family);
    let Words { table, header, .. } = words(family);
    let mut elements = Vec::new();
    let (address, backend) = (measured_address(family), pod_addresses(SERVER_POD)[family.index()]);
    let _ = writeln!(text, "table {table} {TABLE} {{\n counter {COUNTER} {{ }}");
    for (protocol, port) in PORTS {
        let protocol = protocol.to_string().to_lowercase();
        let target = socket(backend, port);
        let _ = writeln!(
            text,
            " chain endpoint-{protocol}-{port} {{ {header} saddr {backend} jump mark-for-masquerade; meta l4proto \
             {protocol} dnat to {target}; }}\n chain service-{protocol}-{port} {{ {header} daddr {address} {protocol} dport \
             {port} {header} saddr != {pods} jump mark-for-masquerade; counter name {COUNTER}; numgen random mod 1 vmap \
             {{ 0 : goto endpoint-{protocol}-{port} }}; }}",
            pods = words(family).pods,
        );
        elements.push(format!("{address} . {protocol} . {port} : goto service-{protocol}-{port}"));
    }
    for i in 0..100 {
        let _ = writeln!(text, " chain other{i} {{ {} }}", pick(family, i));
    }
    let other = |i| format!("{} . tcp . 80 : goto other{}", cluster_ip(family, i), i % 100);
    elements.extend((0..SERVICES - 1).map(other));
    let _ = writeln!(text, "}}\nadd element {table} {TABLE} service-ips {{ {} }}", elements.join(",\n"));
    text
}

/// A ruleset that is right for `services` Services, in the shortest form that is: one chain each, where kube-proxy has one
/// more for each endpoint. For the time to load it.
pub fn short_rules(family: Family, services: u32) -> String {
    let mut text = base(family);
    let table = words(family).table;
    let _ = writeln!(text, "table {table} {TABLE} {{");
    for i in 0..services {
        let _ = writeln!(text, " chain service{i} {{ {} }}", pick(family, i));
    }
    let element = |i| format!("{} . tcp . 80 : goto service{i}", cluster_ip(family, i));
    let elements: Vec<String> = (0..services).map(element).collect();
    let _ = writeln!(text, "}}\nadd element {table} {TABLE} service-ips {{ {} }}", elements.join(",\n"));
    text
}

/// One of the `i`-th Service's endpoints at random, in one rule.
fn pick(family: Family, i: u32) -> String {
    let endpoints: Vec<String> = (0..ENDPOINTS).map(|k| format!("{k} : {} . 80", endpoint(family, i, k))).collect();
    let header = words(family).header;
    format!(
        "meta l4proto tcp dnat {header} addr . port to numgen random mod {ENDPOINTS} map {{ {} }};",
        endpoints.join(", ")
    )
}

/// What kube-proxy has beside Services' own chains.
fn base(family: Family) -> String {
    let Words { table, header, address, .. } = words(family);
    format!(
        "table {table} {TABLE} {{
 map service-ips {{ type {address} . inet_proto . inet_service : verdict; }}
 map no-endpoint-services {{ type {address} . inet_proto . inet_service : verdict; }}
 map firewall-ips {{ type {address} . inet_proto . inet_service : verdict; }}
 chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
 chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }}
 chain services {{ {header} daddr . meta l4proto . th dport vmap @service-ips; }}
 chain service-endpoints-check {{ {header} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
 chain firewall-check {{ {header} daddr . meta l4proto . th dport vmap @firewall-ips; }}
 chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
 chain nat-output {{ type nat hook output priority -100; jump services; }}
 chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
 chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
 chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check; }}
}}
"
    )
}

fn socket(address: IpAddr, port: u16) -> String {
    if address.is_ipv4() { format!("{address}:{port}") } else { format!("[{address}]:{port}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_services_have_addresses_of_their_own_on_both_sides() {
        for family in [Family::V4, Family::V6] {
            let mut addresses: BTreeSet<IpAddr> = (0..SERVICES - 1).map(|i| cluster_ip(family, i)).collect();
            assert!(addresses.insert(measured_address(family)));
            assert_eq!(addresses.len(), SERVICES as usize);
            let rules = rules(family);
            assert_eq!(rules.matches(" : goto other").count(), SERVICES as usize - 1);
            assert!(addresses.iter().all(|address| rules.contains(&format!("{address} . tcp . "))));
        }
    }

    #[test]
    fn ten_endpoints_each() {
        let endpoints: BTreeSet<Backend> = others(Family::V4)
            .flat_map(|object| match object {
                Object::Service(service) => service.ports.into_iter().flat_map(|port| port.sets).flatten(),
                other => panic!("{other:?} is no Service"),
            })
            .collect();
        assert_eq!(endpoints.len(), (SERVICES as usize - 1) * ENDPOINTS as usize);
    }
}
