//! ICMP (RFC 792) and ICMPv6 (RFC 4443): the header of eight bytes that both share.

use super::WireError;

/// Bytes of the header: type, code, checksum and four bytes whose meaning depends on the type.
pub const ICMP_LEN: usize = 8;

/// Types of ICMP for IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmpv4Type(pub u8);

impl Icmpv4Type {
    /// Echo reply.
    pub const ECHO_REPLY: Icmpv4Type = Icmpv4Type(0);
    /// Destination unreachable; code 4: fragmentation needed.
    pub const UNREACHABLE: Icmpv4Type = Icmpv4Type(3);
    /// Source quench (deprecated).
    pub const SOURCE_QUENCH: Icmpv4Type = Icmpv4Type(4);
    /// Redirect.
    pub const REDIRECT: Icmpv4Type = Icmpv4Type(5);
    /// Echo request.
    pub const ECHO_REQUEST: Icmpv4Type = Icmpv4Type(8);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Icmpv4Type = Icmpv4Type(11);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Icmpv4Type = Icmpv4Type(12);

    /// Whether the message is an error and quotes a packet (RFC 1122 section 3.2.2).
    #[inline]
    pub const fn is_error(self) -> bool {
        matches!(self.0, 3 | 4 | 5 | 11 | 12)
    }
}

/// Types of ICMP for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmpv6Type(pub u8);

impl Icmpv6Type {
    /// Destination unreachable.
    pub const UNREACHABLE: Icmpv6Type = Icmpv6Type(1);
    /// Packet too big.
    pub const TOO_BIG: Icmpv6Type = Icmpv6Type(2);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Icmpv6Type = Icmpv6Type(3);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Icmpv6Type = Icmpv6Type(4);
    /// Echo request.
    pub const ECHO_REQUEST: Icmpv6Type = Icmpv6Type(128);
    /// Echo reply.
    pub const ECHO_REPLY: Icmpv6Type = Icmpv6Type(129);
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: Icmpv6Type = Icmpv6Type(133);
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: Icmpv6Type = Icmpv6Type(134);
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: Icmpv6Type = Icmpv6Type(135);
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: Icmpv6Type = Icmpv6Type(136);
    /// Redirect.
    pub const REDIRECT: Icmpv6Type = Icmpv6Type(137);

    /// Whether the message is an error and quotes a packet (RFC 4443 section 2.1).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// Whether the message belongs to neighbour discovery (RFC 4861).
    #[inline]
    pub const fn is_nd(self) -> bool {
        matches!(self.0, 133..=137)
    }
}

view! {
    /// An ICMP or ICMPv6 message.
    Icmp
}

fields! { Icmp {
    /// Type; see [`Icmpv4Type`] and [`Icmpv6Type`].
    kind / set_kind: u8 @ 0;
    /// Code.
    code / set_code: u8 @ 1;
    /// Checksum as it stands in the packet.
    checksum / set_checksum: u16 @ 2;
    /// The four bytes behind the checksum: unused, pointer, MTU, or identifier and sequence.
    rest / set_rest: u32 @ 4;
    /// Identifier of an echo message.
    echo_id / set_echo_id: u16 @ 4;
    /// Sequence number of an echo message.
    echo_seq / set_echo_seq: u16 @ 6;
} }

impl<T: AsRef<[u8]>> Icmp<T> {
    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 8 bytes.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        if bytes.as_ref().len() < ICMP_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// The message's body: echo data, or the quoted packet.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[ICMP_LEN..]
    }

    /// The next hop's MTU: of "fragmentation needed" (RFC 1191, 16 bits; 0 from routers older than that).
    #[inline]
    pub fn mtu_v4(&self) -> u16 {
        self.rest() as u16
    }

    /// The next hop's MTU: of "packet too big" (RFC 4443 section 3.2, 32 bits).
    #[inline]
    pub fn mtu_v6(&self) -> u32 {
        self.rest()
    }
}
