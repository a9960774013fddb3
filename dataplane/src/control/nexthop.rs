//! What the node's kernel knows of the network: the next hops of the peers' VTEPs, the routes to the world outside the
//! cluster, and its own addresses. So routers, static routes and routing daemons need no code of ours.
//!
//! A route that leads through another device than the uplink (a second NIC, another bridge of the node) counts too: packets
//! for it are handed to the node's stack, which knows the way. One that refuses (blackhole, unreachable, prohibit) leads
//! nowhere. Tables other than main and default, rules and types of service are not followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use podplane_hostnet::routes::{PROTO_PODPLANE, Route, TABLE_MAIN, UNICAST};
use podplane_hostnet::{Mac, Neighbour, Netlink, Result};
use podplane_packet::id::PortId;
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::{OutsideConfig, Reach};

use super::compile::prefix;
use super::neighbours::Neighbours;

/// `RT_TABLE_DEFAULT`: looked up after the main table.
const TABLE_DEFAULT: u32 = 253;
/// `RTN_BLACKHOLE`, `RTN_UNREACHABLE` and `RTN_PROHIBIT`: routes to nowhere.
const REFUSING: std::ops::RangeInclusive<u8> = 6..=8;
/// `RTN_THROW`: the next table is to be asked.
const THROW: u8 = 9;
/// `RT_SCOPE_HOST`: an address for the node alone.
const SCOPE_HOST: u8 = 254;
/// `IFA_F_TENTATIVE` and `IFA_F_DADFAILED`: not, or not yet, the node's.
const NOT_OURS: u32 = 0x40 | 0x08;

/// What is known of the ways out.
pub struct NextHops {
    netlink: Netlink,
    /// The node's side of the host port.
    host_index: u32,
    /// VTEP to the address of its next hop; `None`: the kernel has no route to it by the host port.
    ways: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Routes to the world outside.
    routes: Vec<(Prefix, Reach)>,
    /// The node's own addresses on all its devices, sorted.
    own: Vec<IpAddr>,
    neighbours: Neighbours,
}

impl std::fmt::Debug for NextHops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NextHops").field("ways", &self.ways).field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl NextHops {
    /// Follows no VTEPs yet. `host_index`: the interface index of the node's side of the host port.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn new(host_index: u32) -> Result<NextHops> {
        let mut netlink = Netlink::open()?;
        let routes = outside(&mut netlink, host_index);
        let own = own(&mut netlink);
        let neighbours = Neighbours::new(host_index)?;
        let mut hops = NextHops { netlink, host_index, ways: BTreeMap::new(), routes, own, neighbours };
        hops.keep();
        Ok(hops)
    }

    /// Follows the ways to these VTEPs and no others.
    pub fn follow(&mut self, vteps: impl Iterator<Item = IpAddr>) {
        let wanted: BTreeSet<IpAddr> = vteps.collect();
        let before = self.ways.len();
        self.ways.retain(|vtep, _| wanted.contains(vtep));
        let fresh: Vec<IpAddr> = wanted.into_iter().filter(|vtep| !self.ways.contains_key(vtep)).collect();
        if fresh.is_empty() && self.ways.len() == before {
            return;
        }
        for vtep in fresh {
            let way = self.way_to(vtep);
            self.ways.insert(vtep, way);
        }
        self.keep();
    }

    /// Routes or addresses changed: asks for all ways again. `true`: some are others now.
    pub fn routes_changed(&mut self) -> bool {
        let routes = outside(&mut self.netlink, self.host_index);
        let own = own(&mut self.netlink);
        let mut changed = routes != self.routes || own != self.own;
        (self.routes, self.own) = (routes, own);
        for vtep in self.ways.keys().copied().collect::<Vec<_>>() {
            let way = self.way_to(vtep);
            changed |= self.ways.insert(vtep, way) != Some(way);
        }
        self.keep();
        changed
    }

    /// A neighbour changed. `true`: the Ethernet address of one that is in use is another now.
    pub fn neighbour_changed(&mut self, neighbour: &Neighbour) -> bool {
        self.neighbours.changed(neighbour)
    }

    /// Reads all neighbours again, because events were lost. `true`: something is different.
    pub fn read_neighbours(&mut self) -> bool {
        self.neighbours.read()
    }

    /// A worker has packets for this host on the uplink's network, which came in by port `by`. `true`: its Ethernet
    /// address is known at once.
    pub fn ask(&mut self, address: IpAddr, by: PortId) -> bool {
        self.neighbours.ask(address, by, Instant::now())
    }

    /// Asks again for those that have not answered. To be called every few seconds. `true`: something is different.
    pub fn retry(&mut self) -> bool {
        self.neighbours.retry(Instant::now())
    }

    /// The address of the next hop to a VTEP.
    pub fn via(&self, vtep: IpAddr) -> Option<IpAddr> {
        self.ways.get(&vtep).copied().flatten()
    }

    /// The Ethernet address of the next hop to a VTEP.
    pub fn mac(&self, vtep: IpAddr) -> Option<Mac> {
        self.neighbours.mac(self.via(vtep)?)
    }

    /// The world outside, for the pipeline.
    pub fn outside(&self) -> OutsideConfig {
        OutsideConfig { routes: self.routes.clone(), neighbours: self.neighbours.table() }
    }

    /// The addresses that the node's kernel has, on all its devices.
    pub fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// The neighbours by their indices; a free index holds the unspecified address.
    pub fn known(&self) -> Vec<IpAddr> {
        self.neighbours.table().into_iter().map(|(address, _)| address).collect()
    }

    fn way_to(&mut self, vtep: IpAddr) -> Option<IpAddr> {
        match self.netlink.route_to(vtep, None) {
            Ok(route) => {
                let hop = route.hops.first().filter(|hop| hop.index == self.host_index);
                if hop.is_none() {
                    tracing::warn!(%vtep, "the node's route to this peer does not lead through the uplink: {route:?}");
                }
                hop.map(|hop| hop.gateway.unwrap_or(vtep))
            }
            Err(error) => {
                tracing::warn!(%vtep, %error, "the node has no route to this peer");
                None
            }
        }
    }

    /// Has all gateways in use resolved.
    fn keep(&mut self) {
        let gateways = self.routes.iter().filter_map(|(_, reach)| match reach {
            Reach::Gateway(gateway) => Some(*gateway),
            Reach::OnLink | Reach::Host | Reach::Nowhere => None,
        });
        let wanted = gateways.chain(self.ways.values().flatten().copied()).collect();
        self.neighbours.keep(&wanted);
    }
}

/// The kernel's routes, but for those that lead to ourselves. Without any, what the kernel says stays unknown and nothing leaves the cluster; the next change of a route asks again.
fn outside(netlink: &mut Netlink, host_index: u32) -> Vec<(Prefix, Reach)> {
    match netlink.routes() {
        Ok(routes) => select(&routes, host_index),
        Err(error) => {
            tracing::warn!(%error, "cannot read the node's routes to the world outside");
            Vec::new()
        }
    }
}

/// The addresses of the node's devices that others may send to. Without an answer there are none: what the agent says of
/// the node is there in any case.
fn own(netlink: &mut Netlink) -> Vec<IpAddr> {
    let all = netlink.addresses(None).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the node's addresses");
        Vec::new()
    });
    let ours = all.iter().filter(|a| a.scope != SCOPE_HOST && a.flags & NOT_OURS == 0).map(|a| a.net.addr());
    ours.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Of each destination the route that the kernel would take: the main table's before the default one's, then the
/// lowest metric. A multipath route's first way through the host port counts. The default table is asked only for what the
/// main one knows nothing of.
fn select(routes: &[Route], host_index: u32) -> Vec<(Prefix, Reach)> {
    let counts = |r: &&Route| {
        matches!(r.table, TABLE_MAIN | TABLE_DEFAULT)
            && (matches!(r.kind, UNICAST | THROW) || REFUSING.contains(&r.kind))
            && r.protocol != PROTO_PODPLANE
            && r.from.is_none()
            && is_routed(&r.dst)
    };
    let all: Vec<&Route> = routes.iter().filter(counts).collect();
    let in_main = |dst: &IpNet| all.iter().any(|r| r.table == TABLE_MAIN && r.kind != THROW && r.dst.contains(dst));
    let mut best: HashMap<IpNet, &Route> = HashMap::new();
    for route in all.iter().filter(|r| r.table == TABLE_MAIN || !in_main(&r.dst)) {
        let rank = |r: &Route| (r.kind == THROW, r.table != TABLE_MAIN, r.metric);
        let known = best.entry(route.dst.trunc()).or_insert(route);
        if rank(route) < rank(known) {
            *known = route;
        }
    }
    let reach = |route: &Route| match route.hops.iter().find(|hop| hop.index == host_index) {
        _ if route.kind != UNICAST => Reach::Nowhere,
        Some(hop) => hop.gateway.map_or(Reach::OnLink, Reach::Gateway),
        None => Reach::Host,
    };
    let mut all: Vec<_> = best.into_values().map(|route| (prefix(route.dst), reach(route))).collect();
    all.sort_unstable_by_key(|(prefix, _)| *prefix);
    all
}

/// Link-local and multicast destinations are on every link, and never routed.
fn is_routed(dst: &IpNet) -> bool {
    let network = dst.network();
    let local = match network {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    !local && !network.is_multicast()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn route(dst: &str, index: u32, gateway: Option<&str>) -> Route {
        let mut route = Route::new(dst.parse().expect("a network"), index);
        route.protocol = 3;
        if let Some(gateway) = gateway {
            route = route.via(gateway.parse().expect("an address"), false);
        }
        route
    }

    fn net(n: &str) -> Prefix {
        prefix(n.parse().expect("a network"))
    }

    #[test]
    fn the_kernels_choice_among_its_routes_is_ours() {
        let gateway = |a: &str| Reach::Gateway(a.parse().expect("an address"));
        let mut worse = route("0.0.0.0/0", 7, Some("192.0.2.254"));
        worse.metric = 100;
        let mut other_table = route("198.51.100.0/24", 7, None);
        other_table.table = 100;
        let mut own = route("10.244.0.0/16", 7, Some("169.254.1.1"));
        own.protocol = PROTO_PODPLANE;
        let routes = [
            worse,
            route("0.0.0.0/0", 7, Some("192.0.2.1")),
            route("192.0.2.0/24", 7, None),
            route("203.0.113.0/24", 8, None),
            route("fe80::/64", 7, None),
            route("2001:db8::/64", 7, None),
            other_table,
            own,
        ];
        let wanted = vec![
            (net("0.0.0.0/0"), gateway("192.0.2.1")),
            (net("192.0.2.0/24"), Reach::OnLink),
            (net("203.0.113.0/24"), Reach::Host),
            (net("2001:db8::/64"), Reach::OnLink),
        ];
        assert_eq!(select(&routes, 7), wanted);
    }

    #[test]
    fn what_another_device_or_nobody_has_is_not_the_uplinks() {
        let of_kind = |dst: &str, kind: u8| Route { kind, hops: Vec::new(), ..route(dst, 0, None) };
        let with_metric = |route: Route, metric| Route { metric, ..route };
        let mut many = route("10.3.0.0/16", 8, Some("172.31.0.1"));
        many.hops.push(route("10.3.0.0/16", 7, Some("192.0.2.9")).hops.remove(0));
        let routes = [
            with_metric(route("10.1.0.0/16", 7, None), 100),
            with_metric(route("10.1.0.0/16", 8, None), 50),
            with_metric(route("10.2.0.0/16", 8, None), 100),
            with_metric(route("10.2.0.0/16", 7, None), 50),
            many,
            of_kind("10.6.0.0/16", 6),
            of_kind("10.7.0.0/16", 7),
            of_kind("10.8.0.0/16", 8),
            // A broadcast address of the local table's sort, which is none of ours to route.
            of_kind("10.9.0.0/32", 3),
        ];
        let wanted = vec![
            (net("10.1.0.0/16"), Reach::Host),
            (net("10.2.0.0/16"), Reach::OnLink),
            (net("10.3.0.0/16"), Reach::Gateway([192, 0, 2, 9].into())),
            (net("10.6.0.0/16"), Reach::Nowhere),
            (net("10.7.0.0/16"), Reach::Nowhere),
            (net("10.8.0.0/16"), Reach::Nowhere),
        ];
        assert_eq!(select(&routes, 7), wanted);
    }

    #[test]
    fn the_default_table_is_asked_last() {
        let in_default = |dst: &str| Route { table: TABLE_DEFAULT, ..route(dst, 7, None) };
        let throw = |dst: &str| Route { kind: THROW, hops: Vec::new(), ..route(dst, 0, None) };
        let routes = [
            in_default("10.1.2.0/24"),
            in_default("10.2.0.0/16"),
            in_default("10.3.0.0/16"),
            route("10.1.0.0/16", 8, None),
            throw("10.3.0.0/16"),
            throw("10.4.0.0/16"),
        ];
        let wanted = vec![
            (net("10.1.0.0/16"), Reach::Host),
            (net("10.2.0.0/16"), Reach::OnLink),
            (net("10.3.0.0/16"), Reach::OnLink),
            (net("10.4.0.0/16"), Reach::Nowhere),
        ];
        assert_eq!(select(&routes, 7), wanted);
    }
}
