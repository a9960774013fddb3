//! Network devices: veth pairs, bridges, and the properties of any device.

use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use podplane_packet::id::Mac;

use crate::{Error, Netlink, Netns, Result, error::gone_is_fine};

/// Longest interface name, without the terminating zero (`IFNAMSIZ` - 1).
pub const MAX_NAME: usize = 15;

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; `None` for devices that have none.
    pub mac: Option<Mac>,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Up and with a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Receives what is not addressed to it (`IFF_PROMISC`, as set by an administrator).
    pub promiscuous: bool,
    /// All `IFF_*` flags.
    pub flags: u32,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Kind as in `ip -d link` ("veth", "bridge", ...); `None` for hardware.
    pub kind: Option<String>,
    /// Index of the peer or lower device (`IFLA_LINK`), in that device's own namespace.
    pub link: Option<u32>,
    /// Alias, a free text.
    pub alias: Option<String>,
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the end in the handle's namespace.
    pub name: &'a str,
    /// Its address; `None`: the kernel's choice.
    pub mac: Option<Mac>,
    /// MTU of both ends in bytes; `None`: 1500.
    pub mtu: Option<u32>,
    /// The other end.
    pub peer: Peer<'a>,
}

/// The far end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; `None`: the kernel's choice.
    pub mac: Option<Mac>,
    /// The namespace it is made in, under its final name; `None`: the handle's.
    pub netns: Option<&'a Netns>,
}

/// Changes to a device; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct LinkChange<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// New name; the device may have to be down.
    pub name: Option<&'a str>,
    /// New Ethernet address.
    pub mac: Option<Mac>,
    /// New MTU in bytes.
    pub mtu: Option<u32>,
    /// Bridge to join; 0: leave the present one.
    pub master: Option<u32>,
    /// Promiscuous or not.
    pub promiscuous: Option<bool>,
    /// Largest GSO packet for both families, in bytes.
    pub gso_max_size: Option<u32>,
    /// Most segments of a GSO packet.
    pub gso_max_segs: Option<u32>,
    /// Namespace to move to.
    pub netns: Option<RawFd>,
    /// Alias: a free text (at most 255 bytes) that `ip link` shows.
    pub alias: Option<&'a str>,
}

impl<'a> LinkChange<'a> {
    /// Moves the device to `netns`, which must stay open until the change was made.
    pub fn into_netns(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns.as_fd().as_raw_fd());
        self
    }
}

/// Refuses what the kernel would refuse as a device name, with a better reason; and control characters, which it takes
/// but which would end up in logs and on terminals.
pub fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > MAX_NAME
        || name == "."
        || name == ".."
        || name.chars().any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control());
    match bad {
        true => Err(Error::Invalid(format!(
            "\"{}\" cannot name an interface: 1 to {MAX_NAME} bytes without '/', ':', spaces or control characters",
            name.escape_debug()
        ))),
        false => Ok(()),
    }
}

impl Netlink {
    /// Looks a device up by name. `None`: there is none in this namespace.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        self.get_link(format!("look up interface {name}"), message)
    }

    /// Looks a device up by index. `None`: there is none in this namespace.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(format!("look up interface {index}"), message)
    }

    /// Like [`Netlink::link`], but a device that is not there is an error that names it.
    pub fn need_link(&mut self, name: &str) -> Result<Link> {
        self.link(name)?.ok_or_else(|| Error::NotFound(format!("no interface {name} in this network namespace")))
    }

    fn get_link(&mut self, what: String, message: LinkMessage) -> Result<Option<Link>> {
        match self.request(|| what.clone(), 0, RouteNetlinkMessage::GetLink(message)) {
            Ok(replies) => Ok(replies.into_iter().find_map(link_of)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All devices of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let replies = self.dump(|| "list interfaces".into(), RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(replies.into_iter().filter_map(link_of).collect())
    }

    /// Makes a veth pair, both ends down. Either name taken: an error for which `is_exists()`, nothing is made.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        check_name(veth.name)?;
        check_name(veth.peer.name)?;
        let mut peer = LinkMessage::default();
        peer.attributes = end(veth.peer.name, veth.peer.mac, veth.mtu);
        if let Some(netns) = veth.peer.netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        }
        let mut message = LinkMessage::default();
        message.attributes = end(veth.name, veth.mac, veth.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = || format!("create the veth pair {} - {}", veth.name, veth.peer.name);
        self.change(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
    }

    /// Makes a bridge without spanning tree, down.
    pub fn create_bridge(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes = end(name, None, None);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
        ]));
        let what = || format!("create the bridge {name}");
        self.change(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
    }

    /// Applies `change` to the device with `index`, all of it in one request.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mut flag = |wanted: Option<bool>, flag: LinkFlags| {
            if let Some(on) = wanted {
                message.header.change_mask |= flag;
                if on {
                    message.header.flags |= flag;
                }
            }
        };
        flag(change.up, LinkFlags::Up);
        flag(change.promiscuous, LinkFlags::Promisc);
        if let Some(name) = change.name {
            check_name(name)?;
            message.attributes.push(LinkAttribute::IfName(name.to_string()));
        }
        let mut attribute = |a: Option<LinkAttribute>| message.attributes.extend(a);
        attribute(change.mac.map(|m| LinkAttribute::Address(m.0.to_vec())));
        attribute(change.mtu.map(LinkAttribute::Mtu));
        attribute(change.master.map(LinkAttribute::Controller));
        attribute(change.gso_max_size.map(LinkAttribute::GsoMaxSize));
        attribute(change.gso_max_size.map(LinkAttribute::GsoIpv4MaxSize));
        attribute(change.gso_max_segs.map(LinkAttribute::GsoMaxSegs));
        attribute(change.netns.map(LinkAttribute::NetNsFd));
        attribute(change.alias.map(|a| LinkAttribute::IfAlias(a.to_string())));
        self.change(|| format!("change interface {index}"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Sets a device up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        self.change_link(index, &LinkChange { up: Some(up), ..LinkChange::default() })
    }

    /// Deletes a device by name (a veth takes its peer along). Not there: no error.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        gone_is_fine(self.change(|| format!("delete interface {name}"), 0, RouteNetlinkMessage::DelLink(message)))
    }

    /// Deletes the device with `index`. Not there: no error.
    pub fn delete_link_by_index(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        gone_is_fine(self.change(|| format!("delete interface {index}"), 0, RouteNetlinkMessage::DelLink(message)))
    }
}

fn end(name: &str, mac: Option<Mac>, mtu: Option<u32>) -> Vec<LinkAttribute> {
    let mut attributes = vec![LinkAttribute::IfName(name.to_string())];
    attributes.extend(mac.map(|m| LinkAttribute::Address(m.0.to_vec())));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    attributes
}

/// Reads a link message; `None` for other messages.
pub(crate) fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let (RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        promiscuous: flags.contains(LinkFlags::Promisc),
        flags: flags.bits(),
        master: None,
        kind: None,
        link: None,
        alias: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.link = Some(index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                })
            }
            _ => {}
        }
    }
    Some(link)
}
