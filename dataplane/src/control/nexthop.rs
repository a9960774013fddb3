//! Ways out by the uplink, as the node's kernel knows them: the next hops of the peers' VTEPs, and the routes to the
//! world outside the cluster. So routers, static routes and routing daemons need no code of ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_hostnet::routes::{PROTO_PODPLANE, Route, TABLE_MAIN, UNICAST};
use podplane_hostnet::{Mac, Neighbour, Netlink, Result};
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::{OutsideConfig, Reach};

use super::compile::prefix;
use super::neighbours::Neighbours;

/// `RT_TABLE_DEFAULT`: looked up after the main table.
const TABLE_DEFAULT: u32 = 253;

/// What is known of the ways out.
pub struct NextHops {
    netlink: Netlink,
    /// The node's side of the host port.
    host_index: u32,
    /// VTEP to the address of its next hop; `None`: the kernel has no route to it by the host port.
    ways: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Routes to the world outside.
    routes: Vec<(Prefix, Reach)>,
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
        let neighbours = Neighbours::new(host_index)?;
        let mut hops = NextHops { netlink, host_index, ways: BTreeMap::new(), routes, neighbours };
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
        let mut changed = routes != self.routes;
        self.routes = routes;
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

    /// A worker has packets for this host on the uplink's network. `true`: its Ethernet address is known at once.
    pub fn ask(&mut self, address: IpAddr) -> bool {
        self.neighbours.ask(address)
    }

    /// Asks again for those that have not answered. To be called every few seconds. `true`: something is different.
    pub fn retry(&mut self) -> bool {
        self.neighbours.retry()
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
            Reach::OnLink => None,
        });
        let wanted = gateways.chain(self.ways.values().flatten().copied()).collect();
        self.neighbours.keep(&wanted);
    }
}

/// The kernel's routes through the host port, but for those that lead to ourselves. Without any, what the kernel says
/// stays unknown and nothing leaves the cluster; the next change of a route asks again.
fn outside(netlink: &mut Netlink, host_index: u32) -> Vec<(Prefix, Reach)> {
    match netlink.routes() {
        Ok(routes) => select(&routes, host_index),
        Err(error) => {
            tracing::warn!(%error, "cannot read the node's routes to the world outside");
            Vec::new()
        }
    }
}

/// Of each destination the route that the kernel would take: the main table's before the default one's, then the
/// lowest metric. A multipath route's first way through the host port counts.
fn select(routes: &[Route], host_index: u32) -> Vec<(Prefix, Reach)> {
    let ours = |r: &&Route| {
        matches!(r.table, TABLE_MAIN | TABLE_DEFAULT)
            && r.kind == UNICAST
            && r.protocol != PROTO_PODPLANE
            && r.from.is_none()
            && r.uses(host_index)
            && is_routed(&r.dst)
    };
    let mut best: HashMap<IpNet, &Route> = HashMap::new();
    for route in routes.iter().filter(ours) {
        let rank = |r: &Route| (r.table != TABLE_MAIN, r.metric);
        let known = best.entry(route.dst.trunc()).or_insert(route);
        if rank(route) < rank(known) {
            *known = route;
        }
    }
    let reach = |route: &Route| {
        let hop = route.hops.iter().find(|hop| hop.index == host_index)?;
        Some((prefix(route.dst), hop.gateway.map_or(Reach::OnLink, Reach::Gateway)))
    };
    let mut all: Vec<_> = best.into_values().filter_map(reach).collect();
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

    #[test]
    fn the_kernels_choice_among_its_routes_is_ours() {
        let gateway = |a: &str| Reach::Gateway(a.parse().expect("an address"));
        let net = |n: &str| prefix(n.parse().expect("a network"));
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
            (net("2001:db8::/64"), Reach::OnLink),
        ];
        assert_eq!(select(&routes, 7), wanted);
    }
}
