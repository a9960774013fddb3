//! What the node's own traffic needs of the kernel: routes, rules, sysctls, reserved ports.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use podplane_config::v1::Protocol;
use podplane_hostnet::node_routes::{self, NodeRoutes};
use podplane_hostnet::node_rules::{self, NodeRules, Served};
use podplane_hostnet::sysctl::{self, Family};
use podplane_hostnet::takeover::HOST_PORT;
use podplane_hostnet::{Netlink, Result, reserved_ports};
use podplane_index::{Index, NodeTraffic};

/// The host port's sysctls: packets from own addresses come in by it, answers leave by other ways than they came, and
/// 127.0.0.1 is spoken to through it. The dataplane sets them when it makes the host port.
const SYSCTLS: [(&str, &str); 3] = [("accept_local", "1"), ("rp_filter", "0"), ("route_localnet", "1")];

/// What should be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Routes to pods.
    pub(super) routes: NodeRoutes,
    traffic: NodeTraffic,
}

/// `None` before this node and the uplink are known, and when its object is gone: what an agent before this one made
/// stays as it is.
pub(super) fn wanted(index: &Index) -> Option<Wanted> {
    let local = index.local()?;
    let mut routes = NodeRoutes { mtu: Some(index.pod_mtu()?.into()), ..NodeRoutes::default() };
    routes.prefixes = index.pod_ranges().collect();
    // The address that the others know this node by; of the other family the first.
    for address in std::iter::once(&local.vtep).chain(&local.addresses) {
        match address {
            IpAddr::V4(v4) => drop(routes.source_v4.get_or_insert(*v4)),
            IpAddr::V6(v6) => drop(routes.source_v6.get_or_insert(*v6)),
        }
    }
    Some(Wanted { routes, traffic: index.node_traffic()? })
}

impl Wanted {
    /// Routes and rules on a node that holds the addresses `held`.
    fn on_node_with(&self, held: &BTreeSet<IpAddr>) -> (NodeRoutes, NodeRules) {
        let NodeTraffic { service_cidrs, addresses, node_port_addresses, node_ports, outer, host_ports, .. } =
            &self.traffic;
        let mut served = BTreeSet::new();
        let mut serve = |address: IpAddr, protocol: Protocol, ports: (u16, u16)| {
            // Only what the node holds would stay on `lo`; a port of the node ports is among them already.
            if held.contains(&address) {
                served.insert(Served { address, protocol: protocol.number(), ports });
            }
        };
        for protocol in Protocol::ALL {
            node_port_addresses.iter().for_each(|address| serve(*address, protocol, *node_ports));
        }
        let everywhere = || addresses.iter().copied().chain([IpAddr::from([127, 0, 0, 1])]);
        for &(address, protocol, port) in host_ports {
            match address {
                Some(address) => serve(address, protocol, (port, port)),
                None => everywhere().for_each(|address| serve(address, protocol, (port, port))),
            }
        }
        for &(address, protocol, port) in outer {
            serve(address, protocol, (port, port));
        }
        let mut routes = self.routes.clone();
        routes.prefixes.extend(service_cidrs);
        let away: BTreeSet<IpAddr> = outer.iter().map(|place| place.0).filter(|a| !held.contains(a)).collect();
        // One within a range of ClusterIPs has its route already.
        let covered = |address: &IpAddr| service_cidrs.iter().any(|net| net.contains(address));
        routes.prefixes.extend(away.into_iter().filter(|address| !covered(address)).map(IpNet::from));
        // Without an address of a family the node cannot talk to that family's pods.
        let (v4, v6) = (routes.source_v4.is_some(), routes.source_v6.is_some());
        routes.prefixes.retain(|net| if net.addr().is_ipv4() { v4 } else { v6 });
        let rules = NodeRules {
            served: served.into_iter().filter(|s| if s.address.is_ipv4() { v4 } else { v6 }).collect(),
            own_v6: held.iter().filter_map(own_v6).collect(),
            source_v4: routes.source_v4,
            source_v6: routes.source_v6,
            mtu: routes.mtu,
        };
        (routes, rules)
    }
}

/// An address that a packet could be forwarded under.
fn own_v6(address: &IpAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(address) = address else { return None };
    Some(*address).filter(|a| !a.is_loopback() && !a.is_unicast_link_local())
}

/// Makes it so. `Ok(Some)`: it is so, but something on the node stands against it. The host port missing is an error
/// for which `is_not_found()` holds; other errors that could be taken for it come as trouble.
pub(super) fn place(state_dir: &Path, wanted: &Wanted) -> Result<Option<String>> {
    let mut netlink = Netlink::open()?;
    netlink.need_link(HOST_PORT)?;
    let held = netlink.addresses(None)?.into_iter().map(|address| address.net.addr());
    // The whole of 127.0.0.0/8 is the node's; only this one is served.
    let held: BTreeSet<IpAddr> = held.chain([IpAddr::from([127, 0, 0, 1])]).collect();
    let (routes, rules) = wanted.on_node_with(&held);
    let changed = node_routes::ensure(&mut netlink, &routes)?;
    if changed != Default::default() {
        let (set, removed, neighbours) = (changed.set, changed.removed, changed.neighbours);
        tracing::info!(set, removed, neighbours, "node's routes to pods and Services");
    }
    let changed = node_rules::ensure(&mut netlink, &rules)?;
    if changed != Default::default() {
        tracing::info!(set = changed.set, removed = changed.removed, "node's rules for ports that are served");
    }
    for (key, value) in SYSCTLS {
        sysctl::set(Family::V4, HOST_PORT, key, value)?;
    }
    match reserved_ports::ensure(state_dir, wanted.traffic.masquerade_ports) {
        Ok(true) => tracing::info!(ports = ?wanted.traffic.masquerade_ports, "reserved for what leaves the cluster"),
        Ok(false) => {}
        Err(e) => return Ok(Some(format!("the ports for what leaves the cluster are not reserved: {e}"))),
    }
    // The kernel takes the larger of `all` and the interface's own.
    let strict = sysctl::get(Family::V4, "all", "rp_filter")?.as_deref() == Some("1");
    Ok(strict.then(|| {
        "net.ipv4.conf.all.rp_filter is 1: the node drops replies of pods and Services; set it to 2 or 0 \
         (sysctl -w net.ipv4.conf.all.rp_filter=2)"
            .to_owned()
    }))
}

/// Removes all of it, for uninstalling.
pub fn remove_all(state_dir: &Path) -> Result<()> {
    let mut netlink = Netlink::open()?;
    node_rules::remove_all(&mut netlink)?;
    node_routes::remove_all(&mut netlink)?;
    reserved_ports::remove(state_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_the_node_holds_gets_rules_and_what_it_does_not_routes() {
        let wanted = Wanted {
            routes: NodeRoutes {
                prefixes: vec!["10.244.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
                source_v4: Some("192.0.2.1".parse().unwrap()),
                ..NodeRoutes::default()
            },
            traffic: NodeTraffic {
                service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
                addresses: vec![ip("192.0.2.1"), ip("fd01::1")],
                node_port_addresses: vec![ip("192.0.2.1"), ip("fd01::1")],
                node_ports: (30_000, 32_767),
                masquerade_ports: (49_152, 65_535),
                outer: [("203.0.113.1", 80), ("203.0.113.2", 81), ("10.96.0.9", 80)]
                    .map(|(address, port)| (ip(address), Protocol::Udp, port))
                    .into(),
                host_ports: [(None, Protocol::Sctp, 8080), (Some(ip("198.51.100.7")), Protocol::Tcp, 1)].into(),
            },
        };
        let held = ["192.0.2.1", "fd01::1", "127.0.0.1", "203.0.113.2"].map(ip).into();
        let (routes, rules) = wanted.on_node_with(&held);
        let prefixes: Vec<String> = routes.prefixes.iter().map(IpNet::to_string).collect();
        assert_eq!(prefixes, ["10.244.0.0/24", "10.96.0.0/16", "203.0.113.1/32"], "no IPv6 source, no IPv6 route");
        let served = |address: &str, protocol, ports| Served { address: ip(address), protocol, ports };
        assert_eq!(
            rules.served,
            [
                served("127.0.0.1", 132, (8080, 8080)),
                served("192.0.2.1", 6, (30_000, 32_767)),
                served("192.0.2.1", 17, (30_000, 32_767)),
                served("192.0.2.1", 132, (8080, 8080)),
                served("192.0.2.1", 132, (30_000, 32_767)),
                served("203.0.113.2", 17, (81, 81)),
            ]
        );
    }
}
