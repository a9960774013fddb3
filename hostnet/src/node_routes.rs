//! Routes that bring the node's traffic for pods to the host port.
//!
//! Pods always let their own node in, and the dataplane sees no more of what comes by the host port than the frame. So
//! the kernel says by the gateway whose a packet is: what the node itself sends (`iif lo`) is routed by a table of its own
//! to one gateway, all else, which the node forwards for others and may masquerade on the way, by the main table to
//! another, of another Ethernet address. A packet that meets none of our rules (somebody removed it) is not the node's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podplane_packet::id::Mac;

use crate::{
    Netlink, Result,
    neighbours::NeighState,
    routes::{PROTO_PODPLANE, Route, TABLE_MAIN},
    rules::Rule,
    takeover::HOST_PORT,
};

/// The gateway of the host port and of every pod, IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway of every pod, IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The gateway of the host port, IPv6: the link-local address that [`Mac::GATEWAY`] itself would form. Not fe80::1, which
/// is the default router of many hosting networks, on this very device.
pub const HOST_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x50, 0x50ff, 0xfe00, 1);
/// The same gateway for what the node forwards, IPv4.
pub const FORWARD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
/// The same, IPv6: what [`Mac::GATEWAY_FORWARDED`] would form.
pub const FORWARD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x50, 0x50ff, 0xfe00, 2);
/// The table of the routes of what the node itself sends.
pub const TABLE_OWN: u32 = 101;
/// Preference of the rule that asks it: behind the `local` table and the rules of [`node_rules`](crate::node_rules),
/// before all that others may have made, which would find the main table's routes.
pub const PREFERENCE: u32 = 104;

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
    /// Routes and rules that were added or corrected.
    pub set: usize,
    /// Routes and rules that nobody wants any more.
    pub removed: usize,
    /// Whether a gateway's neighbour entry had to be set.
    pub neighbours: usize,
}

/// Whose packets a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// What the node itself sends.
    Own,
    /// What it forwards.
    Forwarded,
}

impl Whose {
    fn table(self) -> u32 {
        match self {
            Whose::Own => TABLE_OWN,
            Whose::Forwarded => TABLE_MAIN,
        }
    }

    fn gateway(self, v6: bool) -> (IpAddr, Mac) {
        match (self, v6) {
            (Whose::Own, false) => (GATEWAY_V4.into(), Mac::GATEWAY),
            (Whose::Own, true) => (HOST_GATEWAY_V6.into(), Mac::GATEWAY),
            (Whose::Forwarded, false) => (FORWARD_GATEWAY_V4.into(), Mac::GATEWAY_FORWARDED),
            (Whose::Forwarded, true) => (FORWARD_GATEWAY_V6.into(), Mac::GATEWAY_FORWARDED),
        }
    }
}

/// Makes the node's routes so, and the rules that ask for them: only what differs is touched, only what is of
/// [`PROTO_PODPLANE`] in the main table through the host port and in [`TABLE_OWN`] is ever removed. The host port missing
/// is an error for which `is_not_found()` holds.
pub fn ensure(netlink: &mut Netlink, wanted: &NodeRoutes) -> Result<Changed> {
    let port = netlink.need_link(HOST_PORT)?.index;
    let mut changed = Changed { neighbours: ensure_gateways(netlink, port, wanted)?, ..Changed::default() };
    let mut stale = own_routes(netlink, port)?;
    // The node's own way first: without it the node would go the way of those whom it forwards for.
    for whose in [Whose::Own, Whose::Forwarded] {
        for prefix in &wanted.prefixes {
            let route = route_for(*prefix, port, wanted, whose);
            match stale.iter().position(|r| same(r, &route)) {
                Some(at) => drop(stale.swap_remove(at)),
                None => {
                    netlink.replace_route(&route)?;
                    // A route to the same prefix that differed was replaced, not left beside it.
                    stale.retain(|r| (r.table, r.dst) != (route.table, route.dst));
                    changed.set += 1;
                }
            }
        }
        if whose == Whose::Own {
            let (set, removed) = ensure_rules(netlink, wanted)?;
            changed.set += set;
            changed.removed += removed;
        }
    }
    for route in &stale {
        netlink.delete_route(route)?;
        changed.removed += 1;
    }
    Ok(changed)
}

/// Removes all that [`ensure`] made. Without the host port only rules are left, for routes and neighbours went with it.
pub fn remove_all(netlink: &mut Netlink) -> Result<()> {
    if let Some(port) = netlink.link(HOST_PORT)? {
        let mut routes = own_routes(netlink, port.index)?;
        // The node's own last, as they came first.
        routes.sort_by_key(|route| route.table == TABLE_OWN);
        for route in routes {
            netlink.delete_route(&route)?;
        }
        for (whose, v6) in both() {
            netlink.delete_neighbour(port.index, whose.gateway(v6).0)?;
        }
    }
    ensure_rules(netlink, &NodeRoutes::default()).map(drop)
}

/// Whose and of which family.
fn both() -> impl Iterator<Item = (Whose, bool)> {
    [Whose::Own, Whose::Forwarded].into_iter().flat_map(|whose| [(whose, false), (whose, true)])
}

fn has_family(wanted: &NodeRoutes, v6: bool) -> bool {
    wanted.prefixes.iter().any(|prefix| prefix.addr().is_ipv6() == v6)
}

/// The rules that send what the node itself sends to its table; answers how many were made and removed.
fn ensure_rules(netlink: &mut Netlink, wanted: &NodeRoutes) -> Result<(usize, usize)> {
    let ours = |rule: &Rule| rule.protocol == PROTO_PODPLANE && rule.table == Some(TABLE_OWN);
    let mut stale: Vec<Rule> = netlink.rules()?.into_iter().filter(ours).collect();
    let mut set = 0;
    for v6 in [false, true].into_iter().filter(|v6| has_family(wanted, *v6)) {
        let rule = Rule { iif: Some("lo".into()), ..Rule::new(v6, PREFERENCE, TABLE_OWN) };
        match stale.iter().position(|present| *present == rule) {
            Some(at) => drop(stale.swap_remove(at)),
            None => {
                netlink.add_rule(&rule)?;
                set += 1;
            }
        }
    }
    for rule in &stale {
        netlink.delete_rule(rule)?;
    }
    Ok((set, stale.len()))
}

fn own_routes(netlink: &mut Netlink, port: u32) -> Result<Vec<Route>> {
    let mut routes = netlink.routes()?;
    routes.retain(|r| r.protocol == PROTO_PODPLANE && [TABLE_MAIN, TABLE_OWN].contains(&r.table) && r.uses(port));
    Ok(routes)
}

fn route_for(prefix: IpNet, port: u32, wanted: &NodeRoutes, whose: Whose) -> Route {
    let source = match prefix {
        IpNet::V4(_) => wanted.source_v4.map(IpAddr::from),
        IpNet::V6(_) => wanted.source_v6.map(IpAddr::from),
    };
    let (gateway, _) = whose.gateway(prefix.addr().is_ipv6());
    let mut route = Route::new(prefix, port).via(gateway, true).from_source(source).with_mtu(wanted.mtu);
    route.table = whose.table();
    route
}

/// Whether the kernel's `present` route is the `wanted` one. The kernel fills in the metric (IPv6: 1024), a preference,
/// and drops the onlink flag of IPv6 gateways that are reachable anyway.
pub(crate) fn same(present: &Route, wanted: &Route) -> bool {
    let way = |r: &Route| r.hops.iter().map(|h| (h.gateway, h.index)).collect::<Vec<_>>();
    present.dst == wanted.dst
        && present.table == wanted.table
        && present.src == wanted.src
        && present.metrics == wanted.metrics
        && present.kind == wanted.kind
        && way(present) == way(wanted)
}

/// The gateways answer from any host port with the same addresses, so nobody needs to ask.
fn ensure_gateways(netlink: &mut Netlink, port: u32, wanted: &NodeRoutes) -> Result<usize> {
    let mut set = 0;
    for (whose, v6) in both().filter(|(_, v6)| has_family(wanted, *v6)) {
        set += ensure_neighbour(netlink, port, whose.gateway(v6))?;
    }
    Ok(set)
}

/// The same for the gateway of what the node itself sends, of one family; answers how many entries had to be set.
pub(crate) fn ensure_gateway(netlink: &mut Netlink, port: u32, v6: bool) -> Result<usize> {
    ensure_neighbour(netlink, port, Whose::Own.gateway(v6))
}

fn ensure_neighbour(netlink: &mut Netlink, port: u32, (gateway, mac): (IpAddr, Mac)) -> Result<usize> {
    let right = |n: &crate::Neighbour| n.address == gateway && n.mac == Some(mac) && n.state == NeighState::Permanent;
    if netlink.neighbours(Some(port))?.iter().any(right) {
        return Ok(0);
    }
    netlink.set_permanent_neighbour(port, gateway, mac)?;
    Ok(1)
}
