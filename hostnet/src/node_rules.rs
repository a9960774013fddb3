//! Rules that bring the node's own traffic for its own addresses to the host port.
//!
//! A process that talks to an address of its own node never leaves `lo`: the `local` table is asked first. So that rule
//! moves behind ours, and ours send single ports of own addresses to a table whose default route is the host port. They
//! hold for what the node itself sends (`iif lo`): what comes back from the host port is delivered as ever.
//!
//! Others keep what is forwarded from bearing an own IPv6 address. The dataplane would not take it for the node's
//! ([`node_routes`](crate::node_routes)), but rules of policies may well name that address. The kernel drops such packets
//! of IPv4 by itself (martian sources), but not of IPv6, where a container or a host behind another device could speak
//! in the node's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    Netlink, Result,
    node_routes::{GATEWAY_V4, HOST_GATEWAY_V6, ensure_gateway},
    routes::{PROTO_KERNEL, PROTO_PODPLANE, Route, TABLE_LOCAL},
    rules::{Other, Rule},
    takeover::HOST_PORT,
};

/// The table that leads to the host port.
pub const TABLE: u32 = 100;
/// Preference of our rules.
pub const PREFERENCE: u32 = 90;
/// Where the `local` rule goes: behind ours.
pub const LOCAL_PREFERENCE: u32 = 100;
/// What the node itself sends goes on behind the next rules from here.
const SENT: u32 = 101;
/// Where forwarded packets from own addresses end.
const FORWARDED: u32 = 102;
/// Where what the node sends goes on.
const BEHIND: u32 = 103;

/// Ports of an own address that the dataplane serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// The address.
    pub address: IpAddr,
    /// Transport protocol number.
    pub protocol: u8,
    /// First and last port.
    pub ports: (u16, u16),
}

/// What the rules should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRules {
    /// Each once.
    pub served: Vec<Served>,
    /// The node's own IPv6 addresses, each once: nobody is forwarded under one.
    pub own_v6: Vec<Ipv6Addr>,
    /// The source of the node's packets to these ports, IPv4. `None`: the kernel chooses.
    pub source_v4: Option<Ipv4Addr>,
    /// The same, IPv6.
    pub source_v6: Option<Ipv6Addr>,
    /// MTU in bytes: the backend may be a pod on another node. `None`: the host port's.
    pub mtu: Option<u32>,
}

/// What [`ensure`] had to do; nothing on a node that was as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rules and routes that were added or corrected, the `local` rule's move included.
    pub set: usize,
    /// Rules that nobody wants any more.
    pub removed: usize,
}

/// Makes the node's rules so: only what differs is touched, and beside the `local` rule only rules and routes of
/// [`PROTO_PODPLANE`]. The host port missing is an error for which `is_not_found()` holds.
pub fn ensure(netlink: &mut Netlink, wanted: &NodeRules) -> Result<Changed> {
    let port = netlink.need_link(HOST_PORT)?.index;
    let mut changed = Changed::default();
    for v6 in [false, true] {
        if wanted.served.iter().any(|served| served.address.is_ipv6() == v6) {
            // The way first: a rule without it would fall through to the address itself.
            changed.set += ensure_gateway(netlink, port, v6)? + ensure_default(netlink, port, wanted, v6)?;
        }
    }
    let rules = netlink.rules()?;
    for v6 in [false, true] {
        changed.set += move_local(netlink, &rules, v6, LOCAL_PREFERENCE)?;
    }
    let mut stale: Vec<Rule> = rules.into_iter().filter(is_ours).collect();
    // In this order: what the node sends must find its way around before anything is dropped.
    for rule in wanted.served.iter().map(rule_for).chain(guard(&wanted.own_v6)) {
        match stale.iter().position(|present| *present == rule) {
            Some(at) => drop(stale.swap_remove(at)),
            None => {
                netlink.add_rule(&rule)?;
                changed.set += 1;
            }
        }
    }
    stale.sort_by_key(is_around);
    for rule in &stale {
        netlink.delete_rule(rule)?;
        changed.removed += 1;
    }
    Ok(changed)
}

/// Removes all that [`ensure`] made, and puts the `local` rule back to the front.
pub fn remove_all(netlink: &mut Netlink) -> Result<()> {
    let rules = netlink.rules()?;
    let mut ours: Vec<&Rule> = rules.iter().filter(|rule| is_ours(rule)).collect();
    ours.sort_by_key(|rule| is_around(rule));
    for rule in ours {
        netlink.delete_rule(rule)?;
    }
    for v6 in [false, true] {
        move_local(netlink, &rules, v6, 0)?;
    }
    for route in netlink.routes()?.iter().filter(|route| route.protocol == PROTO_PODPLANE && route.table == TABLE) {
        netlink.delete_route(route)?;
    }
    Ok(())
}

fn is_ours(rule: &Rule) -> bool {
    let guards = [SENT, FORWARDED, BEHIND].contains(&rule.preference) && rule.table.is_none();
    rule.protocol == PROTO_PODPLANE && (rule.table == Some(TABLE) || guards)
}

/// Whether a rule leads what the node sends around those that drop: such are the last to go.
fn is_around(rule: &Rule) -> bool {
    rule.table.is_none() && rule.preference != FORWARDED
}

/// Drops what bears an own address and was not sent by the node itself. (A rule can be inverted as a whole only, so
/// what the node sends is led around.)
fn guard(own: &[Ipv6Addr]) -> impl Iterator<Item = Rule> {
    let around = [
        Rule::other(true, BEHIND, Other::Nop),
        Rule { iif: Some("lo".into()), ..Rule::other(true, SENT, Other::Goto(BEHIND)) },
    ];
    let drop = |address: &Ipv6Addr| Rule {
        src: Some(IpAddr::from(*address).into()),
        ..Rule::other(true, FORWARDED, Other::Blackhole)
    };
    around.into_iter().filter(|_| !own.is_empty()).chain(own.iter().map(drop))
}

fn rule_for(served: &Served) -> Rule {
    Rule {
        dst: Some(IpNet::from(served.address)),
        iif: Some("lo".into()),
        ip_proto: Some(served.protocol),
        dports: Some(served.ports),
        ..Rule::new(served.address.is_ipv6(), PREFERENCE, TABLE)
    }
}

/// Has the rule that asks the `local` table, without any condition, at `preference` alone.
fn move_local(netlink: &mut Netlink, rules: &[Rule], v6: bool, preference: u32) -> Result<usize> {
    // A kernel without IPv6 has no rules of it.
    if !rules.iter().any(|rule| rule.v6 == v6) {
        return Ok(0);
    }
    // As the kernel makes it at the front; by our number elsewhere, so that it is known as ours.
    let protocol = if preference == 0 { PROTO_KERNEL } else { PROTO_PODPLANE };
    let wanted = Rule { protocol, ..Rule::new(v6, preference, TABLE_LOCAL) };
    let plain = |rule: &&Rule| Rule { preference, protocol, ..(*rule).clone() } == wanted;
    let present: Vec<&Rule> = rules.iter().filter(plain).collect();
    let mut changed = 0;
    // First the new one: without any, the node would not know its own addresses.
    if !present.iter().any(|rule| rule.preference == preference) {
        netlink.add_rule(&wanted)?;
        changed += 1;
    }
    // An administrator's own at another place is left alone.
    let other = |rule: &&&Rule| rule.preference != preference && [0, LOCAL_PREFERENCE].contains(&rule.preference);
    for rule in present.iter().filter(other) {
        netlink.delete_rule(rule)?;
        changed += 1;
    }
    Ok(changed)
}

fn ensure_default(netlink: &mut Netlink, port: u32, wanted: &NodeRules, v6: bool) -> Result<usize> {
    let (everything, gateway, source): (IpNet, IpAddr, Option<IpAddr>) = match v6 {
        false => (Ipv4Net::default().into(), GATEWAY_V4.into(), wanted.source_v4.map(IpAddr::from)),
        true => (Ipv6Net::default().into(), HOST_GATEWAY_V6.into(), wanted.source_v6.map(IpAddr::from)),
    };
    let mut route = Route::new(everything, port).via(gateway, true).from_source(source).with_mtu(wanted.mtu);
    route.table = TABLE;
    let present = netlink.routes()?;
    if present.iter().any(|r| r.table == TABLE && r.protocol == PROTO_PODPLANE && crate::node_routes::same(r, &route)) {
        return Ok(0);
    }
    netlink.replace_route(&route)?;
    Ok(1)
}
