//! Making and checking a pod's devices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podplane_api::{AddReply, AttachmentId};
use podplane_hostnet::{
    Address, Error, Link, LinkChange, Mac, NeighState, Netlink, Netns, Peer, Route, Veth, ethtool::Ethtool,
    ingress_drop, parse_mac, sysctl, sysctl::Family,
};

use crate::{CniError, Code, host_end, output::full_length};

/// A lease, checked: the agent is trusted, but a mistake of its must not become a mistake of the kernel's.
pub(crate) struct Plan<'a> {
    pub(crate) lease: &'a AddReply,
    mac: Mac,
    gateway_mac: Mac,
}

impl<'a> Plan<'a> {
    /// Checks a lease.
    pub(crate) fn of(lease: &'a AddReply) -> Result<Self, CniError> {
        let refuse =
            |what: String| Err(CniError::new(Code::Refused, format!("the agent's answer makes no sense: {what}")));
        if !host_end::is_host_end(&lease.host_ifname) {
            return refuse(format!("host interface \"{}\"", lease.host_ifname));
        }
        let (mac, gateway_mac) = (parse_mac(&lease.mac)?, parse_mac(&lease.gateway_mac)?);
        if mac.is_group() || gateway_mac.is_group() {
            return refuse(format!("MAC {mac}, gateway {gateway_mac}"));
        }
        if lease.addresses.is_empty() {
            return refuse("no address".into());
        }
        if let Some(lonely) =
            lease.addresses.iter().find(|a| !lease.gateways.iter().any(|g| g.is_ipv4() == a.is_ipv4()))
        {
            return refuse(format!("no gateway for {lonely}"));
        }
        if lease.mtu < 576 {
            return refuse(format!("MTU {}", lease.mtu));
        }
        Ok(Plan { lease, mac, gateway_mac })
    }

    fn has_v6(&self) -> bool {
        self.lease.addresses.iter().any(IpAddr::is_ipv6)
    }
}

/// Makes the pair and configures both ends; returns the host end's Ethernet address.
pub(crate) fn make(
    netlink: &mut Netlink,
    netns: &Netns,
    id: &AttachmentId,
    plan: &Plan<'_>,
) -> Result<String, CniError> {
    let host = &plan.lease.host_ifname;
    let mut pod = Netlink::open_in(netns)?;
    if pod.link(&id.ifname)?.is_some() {
        let message =
            format!("CNI_IFNAME={}: there is an interface of that name in {}", id.ifname, netns.path().display());
        return Err(CniError::new(Code::InvalidEnvironment, message));
    }
    // The agent gives this name to this attachment alone: what has it is left from an ADD that was killed.
    host_end::remove(netlink, host)?;
    let peer = Peer { name: &id.ifname, mac: Some(plan.mac), netns: Some(netns) };
    netlink.create_veth(&Veth { name: host, mac: None, mtu: Some(plan.lease.mtu.into()), peer })?;
    let near = netlink.need_link(host)?;
    netlink.change_link(near.index, &LinkChange { alias: Some(&host_end::alias(id)), ..LinkChange::default() })?;
    // Deaf before it comes up: the kernel must never answer a pod, nor solicit routers from it.
    sysctl::disable_ipv6(host)?;
    ingress_drop::add(host)?;
    // This end first: an end that comes up before the other has no carrier yet, and the kernel gives it its queue a while
    // later, by a thread of its own. Till then all that the pod sends is lost, without a word. We send past queues.
    netlink.set_up(near.index, true)?;
    pod_end(netns, &mut pod, id, plan)?;
    Ok(near.mac.map(|m| m.to_string()).unwrap_or_default())
}

fn pod_end(netns: &Netns, pod: &mut Netlink, id: &AttachmentId, plan: &Plan<'_>) -> Result<(), CniError> {
    let ifname = &id.ifname;
    netns.run(|| pod_sysctls(ifname, plan.has_v6()))??;
    let lo = pod.need_link("lo")?;
    if !lo.up {
        pod.set_up(lo.index, true)?;
    }
    Ethtool::open_in(netns)?.keep_to_virtio(ifname)?;
    let index = pod.need_link(ifname)?.index;
    for address in &plan.lease.addresses {
        pod.add_address(&Address::new(index, net(*address, full_length(address))?))?;
    }
    pod.set_up(index, true)?;
    for gateway in &plan.lease.gateways {
        pod.set_permanent_neighbour(index, *gateway, plan.gateway_mac)?;
        for route in routes(*gateway, index)? {
            pod.replace_route(&route)?;
        }
    }
    Ok(())
}

/// IPv6 only where the pod has an address of it; no autoconfiguration, no duplicate detection (nobody else can have
/// the address, and ADD must not wait for it).
fn pod_sysctls(ifname: &str, v6: bool) -> Result<(), Error> {
    if !v6 {
        return sysctl::disable_ipv6(ifname);
    }
    for (key, value) in [("accept_ra", "0"), ("autoconf", "0"), ("dad_transmits", "0"), ("accept_dad", "0")] {
        sysctl::set(Family::V6, ifname, key, value)?;
    }
    // A runtime may have switched IPv6 off for the whole namespace.
    sysctl::set(Family::V6, "lo", "disable_ipv6", "0")?;
    sysctl::set(Family::V6, ifname, "disable_ipv6", "0")
}

fn net(address: IpAddr, length: u8) -> Result<ipnet::IpNet, CniError> {
    ipnet::IpNet::new(address, length).map_err(|e| CniError::caused(Code::Refused, format!("{address}/{length}"), e))
}

/// The gateway on the link, and everything else through it.
fn routes(gateway: IpAddr, index: u32) -> Result<[Route; 2], CniError> {
    let everything = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let on_link = Route::new(net(gateway, full_length(&gateway))?, index).link_scope();
    Ok([on_link, Route::new(net(everything, 0)?, index).via(gateway, true)])
}

/// Compares the pod's network with its lease; the first difference is the error.
pub(crate) fn check(netlink: &mut Netlink, netns: &Netns, id: &AttachmentId, plan: &Plan<'_>) -> Result<(), CniError> {
    let differs = |what: String| Err(CniError::new(Code::CheckFailed, what));
    let (lease, host) = (plan.lease, &plan.lease.host_ifname);
    let Some(near) = netlink.link(host)? else { return differs(format!("the host end {host} is gone")) };
    let mut pod = Netlink::open_in(netns)?;
    let Some(far) = pod.link(&id.ifname)? else {
        return differs(format!("there is no {} in {}", id.ifname, netns.path().display()));
    };
    if far.link != Some(near.index) {
        return differs(format!("{} is not the other end of {host}", id.ifname));
    }
    for (link, name) in [(&near, host), (&far, &id.ifname)] {
        if !link.up || link.mtu != u32::from(lease.mtu) {
            return differs(format!("{name}: up {}, MTU {}; expected up, MTU {}", link.up, link.mtu, lease.mtu));
        }
    }
    if far.mac != Some(plan.mac) {
        return differs(format!("{}: its Ethernet address is not {}", id.ifname, plan.mac));
    }
    if !ingress_drop::is_on(host)? {
        return differs(format!("the ingress drop of {host} (table netdev {}) is gone", ingress_drop::TABLE));
    }
    check_pod(&mut pod, &far, plan)
}

fn check_pod(pod: &mut Netlink, link: &Link, plan: &Plan<'_>) -> Result<(), CniError> {
    let differs = |what: String| Err(CniError::new(Code::CheckFailed, format!("{}: {what}", link.name)));
    let addresses = pod.addresses(Some(link.index))?;
    if let Some(lost) = plan.lease.addresses.iter().find(|a| !addresses.iter().any(|have| have.net.addr() == **a)) {
        return differs(format!("address {lost} is gone"));
    }
    let present = pod.routes()?;
    let neighbours = pod.neighbours(Some(link.index))?;
    for gateway in &plan.lease.gateways {
        let known = |n: &&podplane_hostnet::Neighbour| {
            n.address == *gateway && n.mac == Some(plan.gateway_mac) && n.state == NeighState::Permanent
        };
        if !neighbours.iter().any(|n| known(&n)) {
            return differs(format!("the permanent neighbour {gateway} is gone"));
        }
        for wanted in routes(*gateway, link.index)? {
            let same =
                |r: &&Route| r.dst == wanted.dst && r.uses(link.index) && r.hops[0].gateway == wanted.hops[0].gateway;
            if !present.iter().any(|r| same(&r)) {
                return differs(format!("the route to {} is gone", wanted.dst));
            }
        }
    }
    Ok(())
}
