//! The steps of a take-over; each can be repeated.

use super::{DATAPLANE_PORT, Facts, HOST_PORT, OnStep, Record, record::in_order};
use crate::{
    Error, Link, LinkChange, Netlink, Peer, Result, Veth,
    addresses::{Address, FOREVER, NODAD},
    error::exists_is_fine,
    ethtool::Ethtool,
    ingress_drop, parse_mac,
    routes::Route,
    sysctl::{self, Family},
};

/// `IFAPROT_KERNEL_RA`: the address follows router advertisements, which reach the host port and renew it there.
const FROM_ADVERTISEMENT: u8 = 2;

/// How the node's stack treats the interface that carries its addresses; copied to the host port.
const COPIED_V4: [&str; 6] =
    ["forwarding", "arp_announce", "arp_ignore", "arp_notify", "accept_redirects", "proxy_arp"];
const COPIED_V6: [&str; 8] = [
    "forwarding",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "autoconf",
    "use_tempaddr",
    "accept_redirects",
];
/// What the node's own traffic needs of the host port: packets from its own addresses come in by it, by routes that
/// reverse-path checks would not expect, and 127.0.0.1:hostPort goes out by it.
const HOST_PORT_V4: [(&str, &str); 3] = [("accept_local", "1"), ("rp_filter", "0"), ("route_localnet", "1")];

/// Makes the host port, with addresses, routes and neighbours.
pub(super) fn host_port(netlink: &mut Netlink, record: &Record, on_step: OnStep<'_>) -> Result<()> {
    let state = &record.host_port;
    if netlink.link(HOST_PORT)?.is_none() {
        let peer = Peer { name: DATAPLANE_PORT, mac: None, netns: None };
        netlink.create_veth(&Veth { name: HOST_PORT, mac: Some(state.mac()?), mtu: Some(state.mtu), peer })?;
    }
    on_step("host port created")?;
    let near = netlink.need_link(HOST_PORT)?;
    let far = netlink.need_link(DATAPLANE_PORT)?;
    sysctl::disable_ipv6(DATAPLANE_PORT)?;
    ingress_drop::add(DATAPLANE_PORT)?;
    on_step("dataplane's side deaf")?;
    configure(record)?;
    correct(netlink, &near, Some(state.mac()?), state.mtu)?;
    correct(netlink, &far, None, state.mtu)?;
    let mut ethtool = Ethtool::open()?;
    ethtool.keep_to_virtio(HOST_PORT)?;
    ethtool.keep_to_virtio(DATAPLANE_PORT)?;
    netlink.set_up(far.index, true)?;
    netlink.set_up(near.index, true)?;
    on_step("host port up")?;
    for address in in_order(&state.addresses) {
        netlink.add_address(&moved_address(address, near.index))?;
    }
    on_step("host port addressed")?;
    for (address, mac) in &state.neighbours {
        netlink.set_permanent_neighbour(near.index, *address, parse_mac(mac)?)?;
    }
    move_routes(netlink, &state.routes, state.routes_index, near.index)?;
    on_step("routes moved")
}

/// Strips the uplink.
pub(super) fn uplink(netlink: &mut Netlink, record: &Record, on_step: OnStep<'_>) -> Result<()> {
    let Some(state) = &record.uplink else { return Ok(()) };
    ingress_drop::add(&state.name)?;
    on_step("uplink deaf")?;
    let link = netlink.need_link(&state.name)?;
    for address in netlink.addresses(Some(link.index))?.iter().filter(|a| !a.is_v6()) {
        netlink.delete_address(address)?;
    }
    on_step("uplink without IPv4")?;
    sysctl::disable_ipv6(&state.name)?;
    on_step("uplink without IPv6")?;
    netlink
        .change_link(link.index, &LinkChange { up: Some(true), promiscuous: Some(true), ..LinkChange::default() })?;
    on_step("uplink promiscuous")
}

/// What the dataplane gets to know.
pub(super) fn facts(netlink: &mut Netlink, record: &Record) -> Result<Facts> {
    let uplink = match &record.uplink {
        Some(state) => Some(netlink.need_link(&state.name)?),
        None => None,
    };
    Ok(Facts {
        uplink: uplink.as_ref().map(|l| l.name.clone()),
        uplink_index: uplink.map(|l| l.index),
        mac: record.host_port.mac()?,
        mtu: record.host_port.mtu,
        addresses: record.host_port.addresses.iter().map(|a| a.net).collect(),
        host_port: HOST_PORT.to_string(),
        host_port_index: netlink.need_link(HOST_PORT)?.index,
        dataplane_port: DATAPLANE_PORT.to_string(),
        dataplane_port_index: netlink.need_link(DATAPLANE_PORT)?.index,
    })
}

fn configure(record: &Record) -> Result<()> {
    // None: link-local addresses are the recorded ones, not made anew with duplicate detection.
    sysctl::set_if_present(Family::V6, HOST_PORT, "addr_gen_mode", "1")?;
    sysctl::set_if_present(Family::V6, HOST_PORT, "disable_ipv6", "0")?;
    if let Some(uplink) = &record.uplink {
        for (family, keys) in [(Family::V4, &COPIED_V4[..]), (Family::V6, &COPIED_V6[..])] {
            for key in keys {
                if let Some(value) = sysctl::get(family, &uplink.name, key)? {
                    sysctl::set(family, HOST_PORT, key, &value)?;
                }
            }
        }
    }
    HOST_PORT_V4.iter().try_for_each(|(key, value)| sysctl::set(Family::V4, HOST_PORT, key, value))
}

/// A port that an earlier process left may differ from what is wanted now.
fn correct(netlink: &mut Netlink, link: &Link, mac: Option<podplane_packet::id::Mac>, mtu: u32) -> Result<()> {
    let mac = mac.filter(|m| link.mac != Some(*m));
    if mac.is_none() && link.mtu == mtu {
        return Ok(());
    }
    netlink.change_link(link.index, &LinkChange { mac, mtu: Some(mtu), ..LinkChange::default() })
}

/// The address as the host port gets it: at once usable, and for good, since whoever renews a lease looks at the uplink.
fn moved_address(address: &Address, index: u32) -> Address {
    let mut moved = Address { index, label: None, flags: address.flags | NODAD, ..address.clone() };
    if address.protocol != FROM_ADVERTISEMENT {
        (moved.valid, moved.preferred) = (FOREVER, FOREVER);
    }
    moved
}

/// Moves `routes` from the device `from` to the device `to`; hops through other devices stay.
///
/// The old route goes first: two default routes with the same metric would share the traffic (IPv6) or be refused
/// (IPv4). A route that comes with an address is there already and not added twice.
pub(super) fn move_routes(netlink: &mut Netlink, routes: &[Route], from: u32, to: u32) -> Result<()> {
    let mut present = netlink.routes()?;
    // Routes on the link first: a gateway must be reachable before there can be a route through it.
    let (direct, through): (Vec<&Route>, Vec<&Route>) =
        routes.iter().partition(|r| r.hops.iter().all(|h| h.gateway.is_none()));
    for route in direct.into_iter().chain(through) {
        let mut moved = route.clone();
        moved.hops.iter_mut().filter(|h| h.index == from).for_each(|h| h.index = to);
        if from != to && present.iter().any(|p| same_way(p, route)) {
            netlink.delete_route(route)?;
        }
        if present.iter().any(|p| same_way(p, &moved)) {
            continue;
        }
        match exists_is_fine(netlink.append_route(&moved)) {
            // Through a device that went meanwhile: nothing to be put back.
            Err(e) if e.errno() == Some(libc::ENODEV) && moved.hops.len() > 1 => {}
            other => other.map_err(|e| explain(e, &moved))?,
        }
        present.push(moved);
    }
    Ok(())
}

fn same_way(a: &Route, b: &Route) -> bool {
    (a.dst, a.from, a.table, a.metric, a.tos, a.kind) == (b.dst, b.from, b.table, b.metric, b.tos, b.kind)
        && a.hops == b.hops
}

fn explain(error: Error, route: &Route) -> Error {
    match error {
        Error::Kernel { what, errno, detail } => {
            let ways: Vec<String> = route.hops.iter().map(|h| format!("via {:?} dev {}", h.gateway, h.index)).collect();
            Error::Kernel { what: format!("{what} ({})", ways.join(", ")), errno, detail }
        }
        other => other,
    }
}
