//! What a flow entry remembers: the verdict, flags, and how long it may be silent.

use podplane_packet::id::PortId;

use crate::VtepIndex;
use crate::fib::NeighbourIndex;

/// What happens to a packet of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It leaves by a port of this node.
    Forward(PortId),
    /// It is encapsulated to a peer.
    Encap(VtepIndex),
    /// It is encapsulated to a peer in the entry network (VNI + 1), in which sources are clients outside the cluster.
    Enter(VtepIndex),
    /// It leaves plain by the uplink, to a neighbour.
    Outside(NeighbourIndex),
    /// It is dropped and counted; the number is the pipeline's drop reason.
    Drop(u8),
}

/// The tuple that packets of the flow leave with, where it is another than they came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rewrite<A> {
    /// New source address.
    pub src: A,
    /// New destination address.
    pub dst: A,
    /// New source port, host byte order.
    pub sport: u16,
    /// New destination port, host byte order.
    pub dport: u16,
}

/// The complete cached verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict<A> {
    /// Where packets go.
    pub action: Action,
    /// How their tuple is translated.
    pub rewrite: Option<Rewrite<A>>,
}

/// What is remembered of a flow beside its verdict, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// Nothing.
    pub const NONE: Flags = Flags(0);
    /// The direction of the connection's first packet; this half owns the lifetime of both.
    pub const INITIATOR: Flags = Flags(1);
    /// The direction of the replies.
    pub const REPLY: Flags = Flags(1 << 1);
    /// The connection's first packet came from the node's kernel, which forwarded it; in both halves.
    pub const FORWARDED: Flags = Flags(1 << 2);
    /// A packet of this direction was seen.
    pub const SEEN: Flags = Flags(1 << 3);
    /// A FIN of this direction was seen.
    pub const FIN: Flags = Flags(1 << 4);
    /// A FIN of the other direction is known of.
    pub const PEER_FIN: Flags = Flags(1 << 5);
    /// A RST of this direction was seen.
    pub const RST: Flags = Flags(1 << 6);
    /// A RST of the other direction is known of.
    pub const PEER_RST: Flags = Flags(1 << 7);
    /// The other direction is known to have been seen.
    pub const PEER_SEEN: Flags = Flags(1 << 8);
    /// The first bit that this crate gives no meaning; the pipeline may use this one and those above.
    pub const FIRST_FREE_BIT: u32 = 9;

    /// Whether all of `other` are set.
    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those of `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// These less those of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

/// How long a flow may be silent, by what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TimeoutClass {
    /// Protocols that nothing is known of.
    #[default]
    Other = 0,
    /// TCP before both directions were seen.
    TcpOpening = 1,
    /// TCP, both directions seen.
    TcpEstablished = 2,
    /// TCP after a FIN.
    TcpClosing = 3,
    /// TCP after a RST, or after both FINs.
    TcpClosed = 4,
    /// UDP, one direction seen.
    Udp = 5,
    /// UDP, both directions seen.
    UdpStream = 6,
    /// ICMP echo.
    Icmp = 7,
    /// SCTP.
    Sctp = 8,
    /// A cached drop.
    Deny = 9,
}

impl TimeoutClass {
    /// How many there are.
    pub const COUNT: usize = 10;

    pub(super) const fn from_raw(raw: u8) -> TimeoutClass {
        match raw {
            1 => TimeoutClass::TcpOpening,
            2 => TimeoutClass::TcpEstablished,
            3 => TimeoutClass::TcpClosing,
            4 => TimeoutClass::TcpClosed,
            5 => TimeoutClass::Udp,
            6 => TimeoutClass::UdpStream,
            7 => TimeoutClass::Icmp,
            8 => TimeoutClass::Sctp,
            9 => TimeoutClass::Deny,
            _ => TimeoutClass::Other,
        }
    }
}

/// The silence that ends a flow of each class, in milliseconds; all below 2^31 so that the wrapping clock can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts(pub [u32; TimeoutClass::COUNT]);

impl Timeouts {
    /// The silence that ends a flow of that class, in milliseconds.
    #[inline]
    pub const fn of(&self, class: TimeoutClass) -> u32 {
        self.0[class as usize]
    }
}
