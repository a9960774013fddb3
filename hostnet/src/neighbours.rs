//! Neighbour entries (ARP and ND) of the node's kernel.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};
use podplane_packet::id::Mac;

use crate::{Netlink, Result, addresses::family, error::gone_is_fine};

/// What the kernel knows about a neighbour, as far as it matters to a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighState {
    /// The address is set by an administrator.
    Permanent,
    /// Its MAC can be used (reachable, stale, delay, probe, noarp).
    Valid,
    /// It is being asked for.
    Incomplete,
    /// It did not answer.
    Failed,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface index.
    pub index: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address, where known.
    pub mac: Option<Mac>,
    /// State.
    pub state: NeighState,
    /// The kernel resolves and refreshes it by itself (`NTF_EXT_MANAGED`).
    pub managed: bool,
}

impl Netlink {
    /// Sets a permanent neighbour, replacing what was known.
    pub fn set_permanent_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let mut message = message(index, address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let what = || format!("set the neighbour {address} on interface {index}");
        self.change(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
    }

    /// Makes the kernel resolve a neighbour and keep it resolved for as long as the entry exists (Linux 5.16).
    /// On older kernels this resolves it once: repeat every few seconds.
    pub fn manage_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let what = || format!("resolve the neighbour {address} on interface {index}");
        let mut managed = message(index, address);
        managed.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        match self.change(what, flags, RouteNetlinkMessage::NewNeighbour(managed)) {
            Err(e) if matches!(e.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => self.use_neighbour(index, address),
            other => other,
        }
    }

    /// Makes the kernel resolve a neighbour once, as if a packet were sent to it (`NTF_USE`).
    pub fn use_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let mut message = message(index, address);
        message.header.flags = NeighbourFlags::Use;
        let what = || format!("resolve the neighbour {address} on interface {index}");
        self.change(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
    }

    /// Forgets a neighbour. Not there: no error.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let what = || format!("remove the neighbour {address} from interface {index}");
        gone_is_fine(self.change(what, 0, RouteNetlinkMessage::DelNeighbour(message(index, address))))
    }

    /// What the kernel knows about one neighbour now; `None`: nothing.
    pub fn neighbour(&mut self, index: u32, address: IpAddr) -> Result<Option<Neighbour>> {
        let what = || format!("look up the neighbour {address} on interface {index}");
        match self.request(what, 0, RouteNetlinkMessage::GetNeighbour(message(index, address))) {
            Ok(replies) => Ok(replies.into_iter().find_map(|reply| match reply {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour_of(&message),
                _ => None,
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Neighbours of both families on the device with `index`, or on all devices; bridge entries excepted.
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>> {
        let mut neighbours = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            let replies = self.dump(|| "list neighbours".into(), RouteNetlinkMessage::GetNeighbour(message))?;
            neighbours.extend(replies.into_iter().filter_map(|reply| match reply {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour_of(&message),
                _ => None,
            }));
        }
        neighbours.retain(|n| index.is_none_or(|i| i == n.index));
        Ok(neighbours)
    }
}

fn message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    }));
    message
}

/// Reads a neighbour message; `None` for entries of other kinds (bridge forwarding).
pub(crate) fn neighbour_of(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let state = match message.header.state {
        NeighbourState::Permanent => NeighState::Permanent,
        NeighbourState::Failed | NeighbourState::None => NeighState::Failed,
        NeighbourState::Incomplete => NeighState::Incomplete,
        _ => NeighState::Valid,
    };
    Some(Neighbour { index: message.header.ifindex, address: address?, mac, state, managed })
}
