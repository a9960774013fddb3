//! Routes, with everything that is needed to move one to another device and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
        RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Netlink, Result,
    addresses::family,
    error::gone_is_fine,
    netlink::{attribute_bytes, emit},
};

/// The main table.
pub const TABLE_MAIN: u32 = 254;
/// The table of the node's own addresses.
pub const TABLE_LOCAL: u32 = 255;
/// `RTPROT_KERNEL`: made by the kernel itself, for an address.
pub const PROTO_KERNEL: u8 = 2;
/// `RTPROT_STATIC`: made by an administrator.
pub const PROTO_STATIC: u8 = 4;
/// `RTPROT_RA`: from a router advertisement.
pub const PROTO_RA: u8 = 9;
/// Podplane's own routes (`ip route show proto 80`): not a number of linux/rtnetlink.h or of a known routing daemon.
pub const PROTO_PODPLANE: u8 = 80;
/// `RTN_UNICAST`.
pub const UNICAST: u8 = 1;
/// `RTAX_MTU`.
const RTAX_MTU: u16 = 2;

/// One way out of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Gateway, possibly of the other family (RFC 5549); `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Interface index; 0: none (blackhole and the like).
    pub index: u32,
    /// Weight less one.
    pub weight: u8,
    /// The gateway is reachable although no address says so.
    pub onlink: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Source prefix that it is for (IPv6 only).
    pub from: Option<IpNet>,
    /// Ways out; several for a multipath route.
    pub hops: Vec<NextHop>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Table.
    pub table: u32,
    /// Metric; 0: the kernel's default.
    pub metric: u32,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// Type of service.
    pub tos: u8,
    /// `RTAX_*` metrics, the value's bytes.
    pub metrics: Vec<(u16, Vec<u8>)>,
    /// Seconds until it goes (IPv6).
    pub expires: Option<u32>,
    /// Attributes that need no understanding here (preference, encapsulation): type and value.
    pub others: Vec<(u16, Vec<u8>)>,
}

impl Route {
    /// A unicast route in the main table through the device with `index`, of Podplane's protocol number.
    pub fn new(dst: IpNet, index: u32) -> Self {
        Route {
            dst: dst.trunc(),
            from: None,
            hops: vec![NextHop { index, ..NextHop::default() }],
            src: None,
            table: TABLE_MAIN,
            metric: 0,
            protocol: PROTO_PODPLANE,
            scope: 0,
            kind: UNICAST,
            tos: 0,
            metrics: Vec::new(),
            expires: None,
            others: Vec::new(),
        }
    }

    /// A destination on the link itself, without a gateway.
    pub fn link_scope(mut self) -> Self {
        self.scope = 253;
        self
    }

    /// Through `gateway`; `onlink`: without looking whether the gateway is reachable.
    pub fn via(mut self, gateway: IpAddr, onlink: bool) -> Self {
        for hop in &mut self.hops {
            hop.gateway = Some(gateway);
            hop.onlink = onlink;
        }
        self
    }

    /// With a preferred source address.
    pub fn from_source(mut self, src: Option<IpAddr>) -> Self {
        self.src = src;
        self
    }

    /// With a path MTU in bytes (`RTAX_MTU`).
    pub fn with_mtu(mut self, mtu: Option<u32>) -> Self {
        self.metrics.retain(|(kind, _)| *kind != RTAX_MTU);
        self.metrics.extend(mtu.map(|m| (RTAX_MTU, m.to_ne_bytes().to_vec())));
        self
    }

    /// Whether one of its ways out is the device with `index`.
    pub fn uses(&self, index: u32) -> bool {
        self.hops.iter().any(|h| h.index == index)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(self.dst.addr()),
            destination_prefix_length: self.dst.prefix_len(),
            source_prefix_length: self.from.map_or(0, |f| f.prefix_len()),
            tos: self.tos,
            table: u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
            protocol: RouteProtocol::from(self.protocol),
            scope: RouteScope::from(self.scope),
            kind: RouteType::from(self.kind),
            flags: RouteFlags::empty(),
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        if self.dst.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(self.dst.addr().into()));
        }
        attributes.extend(self.from.map(|f| RouteAttribute::Source(f.addr().into())));
        attributes.extend(self.src.map(|s| RouteAttribute::PrefSource(s.into())));
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        if !self.metrics.is_empty() {
            let metric = |(kind, value): &(u16, Vec<u8>)| RouteMetric::Other(DefaultNla::new(*kind, value.clone()));
            attributes.push(RouteAttribute::Metrics(self.metrics.iter().map(metric).collect()));
        }
        attributes.extend(self.expires.map(RouteAttribute::Expires));
        let raw = |(kind, value): &(u16, Vec<u8>)| RouteAttribute::Other(DefaultNla::new(*kind, value.clone()));
        attributes.extend(self.others.iter().map(raw));
        match &self.hops[..] {
            [hop] => {
                attributes.extend(hop_attributes(hop, self.dst));
                message.header.flags.set(RouteFlags::Onlink, hop.onlink);
            }
            [] => {}
            hops => attributes.push(RouteAttribute::MultiPath(hops.iter().map(|h| multipath(h, self.dst)).collect())),
        }
        message
    }
}

fn hop_attributes(hop: &NextHop, dst: IpNet) -> Vec<RouteAttribute> {
    let mut attributes = Vec::new();
    if hop.index != 0 {
        attributes.push(RouteAttribute::Oif(hop.index));
    }
    attributes.extend(hop.gateway.map(|gateway| match (gateway, dst) {
        (IpAddr::V6(v6), IpNet::V4(_)) => RouteAttribute::Via(RouteVia::Inet6(v6)),
        (IpAddr::V4(v4), IpNet::V6(_)) => RouteAttribute::Via(RouteVia::Inet(v4)),
        _ => RouteAttribute::Gateway(gateway.into()),
    }));
    attributes
}

fn multipath(hop: &NextHop, dst: IpNet) -> RouteNextHop {
    let mut next = RouteNextHop::default();
    next.interface_index = hop.index;
    next.hops = hop.weight;
    next.flags.set(RouteNextHopFlags::Onlink, hop.onlink);
    // The index is in the structure, not in an attribute.
    next.attributes = hop_attributes(&NextHop { index: 0, ..hop.clone() }, dst);
    next
}

impl Netlink {
    /// Adds a route; one with the same destination, table and metric is replaced.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("set the route to {}", route.dst);
        self.change(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Adds a route; an equal one is an error for which `is_exists()`.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("add the route to {}", route.dst);
        self.change(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Adds a route beside others to the same destination through other devices. For IPv4; IPv6 keeps routes through
    /// different devices apart by itself, but joins those with gateways and equal metric into one multipath route.
    pub fn append_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("append the route to {}", route.dst);
        self.change(what, NLM_F_CREATE | NLM_F_APPEND, RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Removes a route. Not there: no error.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let mut route = route.clone();
        // Not part of a route's identity, and refused or misread by some kernels on removal.
        route.expires = None;
        let what = || format!("remove the route to {}", route.dst);
        gone_is_fine(self.change(what, 0, RouteNetlinkMessage::DelRoute(route.message())))
    }

    /// All routes of all tables and both families, cached and cloned ones excepted.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for reply in self.dump(|| "list routes".into(), RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(message) = reply
                    && message.header.address_family == family
                    && !message.header.flags.contains(RouteFlags::Cloned)
                {
                    routes.push(route_of(message)?);
                }
            }
        }
        Ok(routes)
    }

    /// The route that the kernel would take to `destination` now (`ip route get`): one hop, and the source in `src`.
    /// `oif`: only through this device. No way there: an error for which `is_unreachable()` holds.
    pub fn route_to(&mut self, destination: IpAddr, oif: Option<u32>) -> Result<Route> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        message.attributes.extend(oif.map(RouteAttribute::Oif));
        let what = || format!("find the route to {destination}");
        let replies = self.request(what, 0, RouteNetlinkMessage::GetRoute(message))?;
        let route = replies.into_iter().find_map(|r| match r {
            RouteNetlinkMessage::NewRoute(message) => Some(route_of(message)),
            _ => None,
        });
        route.unwrap_or_else(|| Err(Error::Decode { what: what(), reason: "no route in the answer".into() }))
    }
}

fn route_of(message: RouteMessage) -> Result<Route> {
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let (mut dst, mut from) = (any, any);
    let mut route = Route::new(IpNet::from(any), 0);
    route.hops = Vec::new();
    (route.table, route.tos) = (u32::from(header.table), header.tos);
    (route.protocol, route.scope, route.kind) = (header.protocol.into(), header.scope.into(), header.kind.into());
    let mut single = NextHop { onlink: header.flags.contains(RouteFlags::Onlink), ..NextHop::default() };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => dst = ip(&a).unwrap_or(dst),
            RouteAttribute::Source(a) => from = ip(&a).unwrap_or(from),
            RouteAttribute::PrefSource(a) => route.src = ip(&a),
            RouteAttribute::Table(table) => route.table = table,
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Metrics(metrics) => {
                route.metrics = metrics.iter().map(|m| (m.kind(), attribute_bytes(m))).collect();
            }
            RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(hop_of).collect(),
            RouteAttribute::CacheInfo(info) => {
                // In USER_HZ (100 on every architecture that we run on), signed: 0 or less means no end.
                route.expires = (info.expires as i32 > 0).then_some(info.expires / 100);
            }
            RouteAttribute::Iif(_) | RouteAttribute::Uid(_) | RouteAttribute::MfcStats(_) => {}
            // A next-hop object: its ways out are listed beside it, and it does not survive its device.
            RouteAttribute::NhId(_) => {}
            a @ (RouteAttribute::Oif(_) | RouteAttribute::Gateway(_) | RouteAttribute::Via(_)) => {
                take_hop(&mut single, &a)
            }
            other => route.others.push((other.kind(), attribute_bytes(&other))),
        }
    }
    if route.hops.is_empty() && (single.index != 0 || single.gateway.is_some()) {
        route.hops.push(single);
    }
    let net = |address, length| {
        IpNet::new(address, length)
            .map_err(|_| Error::Decode { what: "list routes".into(), reason: format!("prefix length {length}") })
    };
    route.dst = net(dst, header.destination_prefix_length)?;
    if header.source_prefix_length > 0 {
        route.from = Some(net(from, header.source_prefix_length)?);
    }
    Ok(route)
}

fn take_hop(hop: &mut NextHop, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Oif(index) => hop.index = *index,
        RouteAttribute::Gateway(a) => hop.gateway = ip(a),
        RouteAttribute::Via(RouteVia::Inet(a)) => hop.gateway = Some((*a).into()),
        RouteAttribute::Via(RouteVia::Inet6(a)) => hop.gateway = Some((*a).into()),
        _ => {}
    }
}

fn hop_of(next: &RouteNextHop) -> NextHop {
    let onlink = next.flags.contains(RouteNextHopFlags::Onlink);
    let mut hop = NextHop { index: next.interface_index, weight: next.hops, onlink, gateway: None };
    next.attributes.iter().for_each(|a| take_hop(&mut hop, a));
    hop
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        other => match emit(other).len() {
            // The kernel leaves an all-zero address out or sends it as bytes.
            4 => Some(Ipv4Addr::UNSPECIFIED.into()),
            16 => Some(Ipv6Addr::UNSPECIFIED.into()),
            _ => None,
        },
    }
}
