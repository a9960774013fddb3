//! Routes that bring the node's own traffic for pods to the host port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podplane_packet::id::Mac;

use crate::{
    Netlink, Result,
    neighbours::NeighState,
    routes::{PROTO_PODPLANE, Route, TABLE_MAIN},
    takeover::HOST_PORT,
};

/// The gateway of the host port and of every pod, IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway of every pod, IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The gateway of the host port, IPv6: the link-local address that [`Mac::GATEWAY`] itself would form. Not fe80::1, which
/// is the default router of many hosting networks, on this very device.
pub const HOST_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x50, 0x50ff, 0xfe00, 1);

/// What the node's routes should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRoutes {
    /// Pod ranges of this node and of all others, ranges of ClusterIPs, addresses of load balancers; both families.
    pub prefixes: Vec<IpNet>,
    /// The node's IPv4 address: the source of its packets to these ranges. `None`: the kernel chooses.
    pub source_v4: Option<Ipv4Addr>,
    /// The node's IPv6 address.
    pub source_v6: Option<Ipv6Addr>,
    /// MTU towards these ranges in bytes (the uplink's less the overlay); `None`: the host port's.
    pub mtu: Option<u32>,
}

/// What [`ensure`] had to do; nothing on a node that was as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Routes that were added or corrected.
    pub set: usize,
    /// Routes that nobody wants any more.
    pub removed: usize,
    /// Whether a gateway's neighbour entry had to be set.
    pub neighbours: usize,
}

/// Makes the node's routes so: only what differs is touched, only routes of [`PROTO_PODPLANE`] in the main table through
/// the host port are ever removed. The host port missing is an error for which `is_not_found()` holds.
pub fn ensure(netlink: &mut Netlink, wanted: &NodeRoutes) -> Result<Changed> {
    let port = netlink.need_link(HOST_PORT)?.index;
    let mut changed = Changed { neighbours: ensure_gateways(netlink, port, wanted)?, ..Changed::default() };
    let mut stale = own_routes(netlink, port)?;
    for prefix in &wanted.prefixes {
        let route = route_for(*prefix, port, wanted);
        match stale.iter().position(|r| same(r, &route)) {
            Some(at) => drop(stale.swap_remove(at)),
            None => {
                netlink.replace_route(&route)?;
                // A route to the same prefix that differed was replaced, not left beside it.
                stale.retain(|r| r.dst != route.dst);
                changed.set += 1;
            }
        }
    }
    for route in &stale {
        netlink.delete_route(route)?;
        changed.removed += 1;
    }
    Ok(changed)
}

/// Removes all routes that [`ensure`] made, and its neighbours. No host port: nothing to do, they went with it.
pub fn remove_all(netlink: &mut Netlink) -> Result<()> {
    let Some(port) = netlink.link(HOST_PORT)? else { return Ok(()) };
    for route in own_routes(netlink, port.index)? {
        netlink.delete_route(&route)?;
    }
    for gateway in [IpAddr::from(GATEWAY_V4), IpAddr::from(HOST_GATEWAY_V6)] {
        netlink.delete_neighbour(port.index, gateway)?;
    }
    Ok(())
}

fn own_routes(netlink: &mut Netlink, port: u32) -> Result<Vec<Route>> {
    let mut routes = netlink.routes()?;
    routes.retain(|r| r.protocol == PROTO_PODPLANE && r.table == TABLE_MAIN && r.uses(port));
    Ok(routes)
}

fn route_for(prefix: IpNet, port: u32, wanted: &NodeRoutes) -> Route {
    let (gateway, source) = match prefix {
        IpNet::V4(_) => (IpAddr::from(GATEWAY_V4), wanted.source_v4.map(IpAddr::from)),
        IpNet::V6(_) => (IpAddr::from(HOST_GATEWAY_V6), wanted.source_v6.map(IpAddr::from)),
    };
    Route::new(prefix, port).via(gateway, true).from_source(source).with_mtu(wanted.mtu)
}

/// Whether the kernel's `present` route is the `wanted` one. The kernel fills in the metric (IPv6: 1024), a preference,
/// and drops the onlink flag of IPv6 gateways that are reachable anyway.
pub(crate) fn same(present: &Route, wanted: &Route) -> bool {
    let way = |r: &Route| r.hops.iter().map(|h| (h.gateway, h.index)).collect::<Vec<_>>();
    present.dst == wanted.dst
        && present.src == wanted.src
        && present.metrics == wanted.metrics
        && present.kind == wanted.kind
        && way(present) == way(wanted)
}

/// The gateways answer from any host port with the same address, so nobody needs to ask.
fn ensure_gateways(netlink: &mut Netlink, port: u32, wanted: &NodeRoutes) -> Result<usize> {
    let mut set = 0;
    for v6 in [false, true] {
        if wanted.prefixes.iter().any(|prefix| prefix.addr().is_ipv6() == v6) {
            set += ensure_gateway(netlink, port, v6)?;
        }
    }
    Ok(set)
}

/// The same for the gateway of one family; answers how many entries had to be set.
pub(crate) fn ensure_gateway(netlink: &mut Netlink, port: u32, v6: bool) -> Result<usize> {
    let gateway = if v6 { IpAddr::from(HOST_GATEWAY_V6) } else { IpAddr::from(GATEWAY_V4) };
    let right =
        |n: &crate::Neighbour| n.address == gateway && n.mac == Some(Mac::GATEWAY) && n.state == NeighState::Permanent;
    if netlink.neighbours(Some(port))?.iter().any(right) {
        return Ok(0);
    }
    netlink.set_permanent_neighbour(port, gateway, Mac::GATEWAY)?;
    Ok(1)
}
