//! IP addresses of devices, with everything that is needed to take one away and give it back unchanged.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
    },
};
use serde::{Deserialize, Serialize};

use crate::{Error, Netlink, Result, error::gone_is_fine};

/// Lifetime without an end (`INFINITY_LIFE_TIME`).
pub const FOREVER: u32 = u32::MAX;
/// No duplicate address detection: the address works at once (`IFA_F_NODAD`, IPv6).
pub const NODAD: u32 = 0x02;
/// Made by the kernel from another one of the same network; comes and goes with its primary (`IFA_F_SECONDARY`, IPv4).
pub const SECONDARY: u32 = 0x01;
/// No route to the network comes with the address (`IFA_F_NOPREFIXROUTE`).
pub const NOPREFIXROUTE: u32 = 0x200;
/// Flags that the administrator decides; the others are states that the kernel reports.
pub const SETTABLE: u32 = NODAD | NOPREFIXROUTE | 0x04 | 0x10 | 0x100 | 0x400;

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Interface index. Not kept in records: it names nothing after a reboot.
    #[serde(skip)]
    pub index: u32,
    /// Address and length of its network.
    pub net: IpNet,
    /// The far end of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// IPv4 broadcast address.
    pub broadcast: Option<IpAddr>,
    /// `IFA_F_*`.
    pub flags: u32,
    /// `RT_SCOPE_*`: 0 universe, 253 link, 254 host.
    pub scope: u8,
    /// IPv4 label ("eth0:1"), where it differs from the name.
    pub label: Option<String>,
    /// Seconds for which it may be used; [`FOREVER`].
    pub valid: u32,
    /// Seconds for which it is preferred; [`FOREVER`].
    pub preferred: u32,
    /// Who made it (`IFAPROT_*`); 0: nobody said.
    pub protocol: u8,
    /// Metric of its prefix route; 0: the kernel's default.
    pub metric: u32,
}

impl Address {
    /// A permanent address without duplicate detection; its scope follows from the address.
    pub fn new(index: u32, net: IpNet) -> Self {
        let link_local = match net.addr() {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        };
        Address {
            index,
            net,
            peer: None,
            broadcast: None,
            flags: NODAD,
            scope: if link_local { 253 } else { 0 },
            label: None,
            valid: FOREVER,
            preferred: FOREVER,
            protocol: 0,
            metric: 0,
        }
    }

    /// Whether it is an IPv6 address.
    pub fn is_v6(&self) -> bool {
        self.net.addr().is_ipv6()
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.net.addr());
        message.header.prefix_len = self.net.prefix_len();
        message.header.index = self.index;
        message.header.scope = AddressScope::from(self.scope);
        // The header's eight bits are the lower part of the attribute's.
        message.header.flags = AddressHeaderFlags::from_bits_retain((self.flags & SETTABLE) as u8);
        let attributes = &mut message.attributes;
        attributes.push(AddressAttribute::Local(self.net.addr()));
        attributes.push(AddressAttribute::Address(self.peer.unwrap_or(self.net.addr())));
        attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(self.flags & SETTABLE)));
        if let Some(IpAddr::V4(broadcast)) = self.broadcast {
            attributes.push(AddressAttribute::Broadcast(broadcast));
        }
        attributes.extend(self.label.clone().map(AddressAttribute::Label));
        if self.protocol != 0 {
            attributes.push(AddressAttribute::Protocol(AddressProtocol::from(self.protocol)));
        }
        if self.metric != 0 {
            attributes.push(AddressAttribute::RoutePriority(self.metric));
        }
        if (self.valid, self.preferred) != (FOREVER, FOREVER) {
            let mut life = CacheInfo::default();
            life.ifa_valid = self.valid;
            life.ifa_preferred = self.preferred.min(self.valid);
            attributes.push(AddressAttribute::CacheInfo(life));
        }
        message
    }
}

/// Netlink's name of an address's family.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

impl Netlink {
    /// Adds an address to its device, or changes the flags and lifetimes of the one that is there.
    pub fn add_address(&mut self, address: &Address) -> Result<()> {
        let what = || format!("add address {} to interface {}", address.net, address.index);
        self.change(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(address.message()))
    }

    /// Takes an address away. Not there: no error.
    pub fn delete_address(&mut self, address: &Address) -> Result<()> {
        let what = || format!("remove address {} from interface {}", address.net, address.index);
        gone_is_fine(self.change(what, 0, RouteNetlinkMessage::DelAddress(address.message())))
    }

    /// Addresses of both families of the device with `index`, or of all devices.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>> {
        let replies =
            self.dump(|| "list addresses".into(), RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let mut addresses = Vec::new();
        for reply in replies {
            if let RouteNetlinkMessage::NewAddress(message) = reply
                && index.is_none_or(|i| i == message.header.index)
            {
                addresses.extend(address_of(message)?);
            }
        }
        Ok(addresses)
    }
}

fn address_of(message: AddressMessage) -> Result<Option<Address>> {
    let (mut local, mut address) = (None, None);
    let mut got = Address::new(message.header.index, IpNet::default());
    got.scope = message.header.scope.into();
    got.flags = u32::from(message.header.flags.bits());
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            AddressAttribute::Broadcast(ip) => got.broadcast = Some(ip.into()),
            AddressAttribute::Flags(flags) => got.flags = flags.bits(),
            AddressAttribute::Label(label) => got.label = Some(label),
            AddressAttribute::Protocol(protocol) => got.protocol = protocol.into(),
            AddressAttribute::RoutePriority(metric) => got.metric = metric,
            AddressAttribute::CacheInfo(life) => (got.valid, got.preferred) = (life.ifa_valid, life.ifa_preferred),
            _ => {}
        }
    }
    // IFA_ADDRESS is the far end of a point-to-point address, the address itself otherwise.
    let Some(own) = local.or(address) else { return Ok(None) };
    got.peer = address.filter(|far| *far != own);
    let length = message.header.prefix_len;
    got.net = IpNet::new(own, length)
        .map_err(|_| Error::Decode { what: "list addresses".into(), reason: format!("prefix length {length}") })?;
    Ok(Some(got))
}
