//! The steps of giving an uplink back; each can be repeated.

use super::{DATAPLANE_PORT, HOST_PORT, OnStep, Record, Restored, UplinkState, record::in_order, take::move_routes};
use crate::{
    Link, LinkChange, Netlink, Result,
    addresses::{Address, NODAD},
    ingress_drop, parse_mac,
    sysctl::{self, Family},
};

/// Gives everything back; the caller holds the lock.
pub(super) fn all(netlink: &mut Netlink, state_dir: &std::path::Path, on_step: OnStep<'_>) -> Result<Restored> {
    let Some(record) = Record::read(state_dir)? else { return Ok(Restored::Nothing) };
    if !record.is_of_this_boot()? {
        Record::remove(state_dir)?;
        return Ok(Restored::Outdated);
    }
    let mut result = Restored::GivenBack;
    if let Some(state) = &record.uplink {
        match netlink.link(&state.name)? {
            Some(link) => uplink(netlink, state, &link, on_step)?,
            None => result = Restored::UplinkGone,
        }
        ingress_drop::remove(&state.name)?;
        on_step("uplink heard")?;
    }
    // The chain before the device: there must be none left that waits for a device of that name.
    ingress_drop::remove(DATAPLANE_PORT)?;
    netlink.delete_link(HOST_PORT)?;
    on_step("host port removed")?;
    Record::remove(state_dir)?;
    on_step("record removed")?;
    Ok(result)
}

fn uplink(netlink: &mut Netlink, state: &UplinkState, link: &Link, on_step: OnStep<'_>) -> Result<()> {
    let sysctl = |key: &str| state.sysctls_v6.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    // None until the recorded link-local address is back, or the kernel would make one with duplicate detection.
    if let Some(value) = sysctl("disable_ipv6") {
        sysctl::set_if_present(Family::V6, &state.name, "addr_gen_mode", "1")?;
        sysctl::set_if_present(Family::V6, &state.name, "disable_ipv6", value)?;
    }
    let change = LinkChange { up: Some(state.up), promiscuous: Some(state.promiscuous), ..LinkChange::default() };
    netlink.change_link(link.index, &change)?;
    on_step("uplink configured")?;
    addresses(netlink, state, link.index)?;
    on_step("uplink addressed")?;
    for (address, mac) in &state.neighbours {
        netlink.set_permanent_neighbour(link.index, *address, parse_mac(mac)?)?;
    }
    routes(netlink, state, link.index)?;
    on_step("routes given back")?;
    if let Some(value) = sysctl("addr_gen_mode") {
        sysctl::set_if_present(Family::V6, &state.name, "addr_gen_mode", value)?;
    }
    on_step("uplink's sysctls given back")
}

/// The host port still has the addresses, so none of the node's sockets or routes ever misses its own.
fn addresses(netlink: &mut Netlink, state: &UplinkState, index: u32) -> Result<()> {
    let ipv6_off = state.sysctls_v6.iter().any(|(k, v)| k == "disable_ipv6" && v == "1");
    for address in in_order(&state.addresses).filter(|a| !(a.is_v6() && ipv6_off)) {
        // Without duplicate detection: these have been the node's all the time. Then the flags as they were.
        netlink.add_address(&Address { index, flags: address.flags | NODAD, ..address.clone() })?;
        if address.is_v6() && address.flags & NODAD == 0 {
            netlink.add_address(&Address { index, ..address.clone() })?;
        }
    }
    Ok(())
}

fn routes(netlink: &mut Netlink, state: &UplinkState, index: u32) -> Result<()> {
    let mut routes = state.routes.clone();
    routes.iter_mut().flat_map(|r| &mut r.hops).filter(|h| h.index == state.index).for_each(|h| h.index = index);
    let Some(port) = netlink.link(HOST_PORT)? else { return move_routes(netlink, &routes, index, index) };
    let mut on_port = routes;
    on_port.iter_mut().flat_map(|r| &mut r.hops).filter(|h| h.index == index).for_each(|h| h.index = port.index);
    move_routes(netlink, &on_port, port.index, index)
}
