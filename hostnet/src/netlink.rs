//! The rtnetlink handle; the other modules add what it can do.

use netlink_packet_core::{Emitable, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    Error, Netns, Result,
    raw::{RawSocket, Request},
};

/// A request channel to the kernel's network configuration, of the namespace it was opened in.
pub struct Netlink {
    socket: RawSocket,
}

impl Netlink {
    /// Opens a handle for the caller's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Netlink { socket: RawSocket::open(NETLINK_ROUTE)? })
    }

    /// Opens a handle for `netns`; it stays bound to it whoever uses it.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Netlink::open)?
    }

    /// Sends `message` and returns the answers to it. `what` describes the attempt for errors.
    pub(crate) fn request(
        &mut self,
        what: impl Fn() -> String,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut payload = vec![0; NetlinkSerializable::buffer_len(&message)];
        NetlinkSerializable::serialize(&message, &mut payload);
        let request = Request { kind: message.message_type(), flags, payload };
        let replies = self.socket.request(&what, &request)?;
        let parse = |kind: u16, payload: &[u8]| {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            RouteNetlinkMessage::deserialize(&header, payload)
                .map_err(|e| Error::Decode { what: what(), reason: e.to_string() })
        };
        replies.into_iter().map(|r| parse(r.kind, &r.payload)).collect()
    }

    /// Sends `message` for which nothing but success or refusal is expected.
    pub(crate) fn change(&mut self, what: impl Fn() -> String, flags: u16, message: RouteNetlinkMessage) -> Result<()> {
        self.request(what, flags, message).map(drop)
    }

    /// Reads a whole table.
    pub(crate) fn dump(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.request(what, NLM_F_DUMP, message)
    }
}

/// The bytes of an attribute's value, for those that are kept as they are.
pub(crate) fn attribute_bytes(nla: &impl netlink_packet_core::Nla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

/// The bytes of anything emitable.
pub(crate) fn emit(value: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; value.buffer_len()];
    value.emit(&mut bytes);
    bytes
}
