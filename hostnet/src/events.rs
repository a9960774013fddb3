//! Changes of the node's network as they happen, on a descriptor that can be polled.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::{RouteNetlinkMessage, route::RouteMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{Error, Link, Neighbour, Result, links::link_of, neighbours::neighbour_of, raw::messages};

/// Multicast groups of rtnetlink (linux/rtnetlink.h).
const GROUPS: &[(u32, Interest)] = &[
    (1, Interest::LINKS),
    (3, Interest::NEIGHBOURS),
    (5, Interest::ADDRESSES),
    (7, Interest::ROUTES),
    (9, Interest::ADDRESSES),
    (11, Interest::ROUTES),
    (8, Interest::RULES),
    (19, Interest::RULES),
];

/// What to be told about; combine with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    /// Devices.
    pub const LINKS: Interest = Interest(1);
    /// Neighbours.
    pub const NEIGHBOURS: Interest = Interest(2);
    /// Addresses of both families.
    pub const ADDRESSES: Interest = Interest(4);
    /// Routes of both families.
    pub const ROUTES: Interest = Interest(8);
    /// Policy rules of both families.
    pub const RULES: Interest = Interest(16);

    fn contains(self, other: Interest) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Interest {
    type Output = Interest;
    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device appeared or changed.
    Link(Link),
    /// A device went.
    LinkGone(Link),
    /// A neighbour appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour went.
    NeighbourGone(Neighbour),
    /// An address appeared, changed or went: read them again.
    AddressesChanged,
    /// A route appeared, changed or went: ask again.
    RoutesChanged {
        /// The route's protocol number, so that a listener can ignore its own doing.
        protocol: u8,
        /// Whether it went.
        gone: bool,
    },
    /// A rule appeared or went.
    RulesChanged,
    /// Events were lost, the kernel's queue was full: read everything again.
    Overrun,
}

/// A subscription; the descriptor is readable when there are events.
pub struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// Subscribes in the caller's network namespace. Non-blocking.
    pub fn subscribe(interest: Interest) -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            for (group, _) in GROUPS.iter().filter(|(_, kind)| interest.contains(*kind)) {
                socket.add_membership(*group)?;
            }
            // Room for a burst of a few thousand; what is lost anyway is reported as an overrun.
            let _ = socket.set_rx_buf_sz(1_048_576u32);
            Ok(socket)
        };
        let socket = open().map_err(|e| Error::io("subscribe to network events", e))?;
        Ok(Events { socket, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Takes the next events: none where there are none now. Never blocks; call until it returns none.
    pub fn pending(&mut self) -> Result<Vec<Event>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(vec![Event::Overrun]),
                Err(e) => return Err(Error::io("read network events", e)),
            }
            let events: Vec<Event> = messages(&self.buffer).filter_map(|m| event(m.kind, m.payload)).collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn event(kind: u16, payload: &[u8]) -> Option<Event> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    // What cannot be read is of no kind that was asked for.
    let message = RouteNetlinkMessage::deserialize(&header, payload).ok()?;
    let route = |message: &RouteMessage, gone| Event::RoutesChanged { protocol: message.header.protocol.into(), gone };
    match &message {
        RouteNetlinkMessage::NewLink(_) => link_of(message).map(Event::Link),
        RouteNetlinkMessage::DelLink(_) => link_of(message).map(Event::LinkGone),
        RouteNetlinkMessage::NewNeighbour(m) => neighbour_of(m).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(m) => neighbour_of(m).map(Event::NeighbourGone),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Event::AddressesChanged),
        RouteNetlinkMessage::NewRoute(m) => Some(route(m, false)),
        RouteNetlinkMessage::DelRoute(m) => Some(route(m, true)),
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Event::RulesChanged),
        _ => None,
    }
}
