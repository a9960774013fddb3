//! How long a flow lives without packets: one table, in the manner of Linux conntrack's defaults.

use podplane_tables::flow::{Flags, TimeoutClass, Timeouts};

use crate::env::Millis;
use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP};

const SECOND: Millis = 1000;

/// The timeouts that a node has unless told otherwise: conntrack's as kube-proxy sets them.
pub const TIMEOUTS: Timeouts = {
    let mut t = [0; TimeoutClass::COUNT];
    t[TimeoutClass::Other as usize] = 600 * SECOND;
    t[TimeoutClass::TcpOpening as usize] = 60 * SECOND;
    t[TimeoutClass::TcpEstablished as usize] = 24 * 3600 * SECOND;
    // As kube-proxy sets conntrack's CLOSE_WAIT: one side is done, the other may still have much to say.
    t[TimeoutClass::TcpClosing as usize] = 3600 * SECOND;
    t[TimeoutClass::TcpClosed as usize] = 10 * SECOND;
    t[TimeoutClass::Udp as usize] = 30 * SECOND;
    t[TimeoutClass::UdpStream as usize] = 180 * SECOND;
    t[TimeoutClass::Icmp as usize] = 30 * SECOND;
    // conntrack's "established"; the heartbeat comes every 30 s.
    t[TimeoutClass::Sctp as usize] = 210 * SECOND;
    // Long enough to make a flood of denied packets cheap, short enough not to outlive a mistake.
    t[TimeoutClass::Deny as usize] = 2 * SECOND;
    Timeouts(t)
};

/// The longest time between two looks at a flow, so that what the other direction saw of its end is noticed in minutes
/// and not after a day.
const LOOK: Millis = 300 * SECOND;
/// The same for a connection of which one direction is closed: mostly the other closed at once, and a client with many
/// short connections must not fill its quota with what has ended.
const LOOK_CLOSING: Millis = 5 * SECOND;

/// The longest time between two looks at a flow of a class.
pub(crate) const fn look(class: TimeoutClass) -> Millis {
    match class {
        TimeoutClass::TcpClosing => LOOK_CLOSING,
        _ => LOOK,
    }
}

/// After which a question to the other half's owner that was not answered is repeated.
pub(crate) const RETRY: Millis = SECOND;

/// A TCP segment of this direction that is no SYN was seen: its end takes part in the connection.
pub(crate) const DATA: Flags = Flags(1 << Flags::FIRST_FREE_BIT);
/// The other direction is known to have seen one.
pub(crate) const PEER_DATA: Flags = Flags(1 << (Flags::FIRST_FREE_BIT + 1));

/// TCP flag bits as on the wire (RFC 9293 section 3.1).
mod tcp {
    pub(super) const FIN: u8 = 1;
    pub(super) const SYN: u8 = 2;
    pub(super) const RST: u8 = 4;
    pub(super) const ACK: u8 = 16;
}

/// Adds what a packet tells about its direction to what was remembered. A SYN on a closed connection opens a new one
/// (RFC 9293 section 3.6.1).
#[inline]
pub(crate) const fn observe(before: Flags, tcp_flags: Option<u8>) -> Flags {
    let Some(tcp_flags) = tcp_flags else { return before.with(Flags::SEEN) };
    let closed = Flags::FIN.with(Flags::RST).with(Flags::PEER_FIN).with(Flags::PEER_RST);
    let mut flags = before.with(Flags::SEEN);
    if tcp_flags & tcp::SYN == 0 {
        flags = flags.with(DATA);
    } else if before.0 & closed.0 != 0 {
        flags = flags.without(closed).without(DATA).without(PEER_DATA);
    }
    if tcp_flags & tcp::FIN != 0 {
        flags = flags.with(Flags::FIN);
    }
    if tcp_flags & tcp::RST != 0 {
        flags = flags.with(Flags::RST);
    }
    flags
}

/// Whether a packet asks for a new connection.
#[inline]
pub(crate) const fn is_opening(tcp_flags: Option<u8>) -> bool {
    matches!(tcp_flags, Some(flags) if flags & (tcp::SYN | tcp::ACK) == tcp::SYN)
}

/// Whether a packet is one of a TCP connection that is there already, and goes on.
#[inline]
pub(crate) const fn goes_on(tcp_flags: Option<u8>) -> bool {
    matches!(tcp_flags, Some(flags) if flags & (tcp::SYN | tcp::RST | tcp::ACK) == tcp::ACK)
}

/// Whether an end of the connection was seen.
#[inline]
pub(crate) const fn is_closed(flags: Flags) -> bool {
    let closed = Flags::FIN.with(Flags::RST).with(Flags::PEER_FIN).with(Flags::PEER_RST);
    flags.0 & closed.0 != 0
}

/// Adds what the other half remembers of its own direction.
pub(crate) const fn learn(own: Flags, other: Flags) -> Flags {
    let mut flags = own.without(Flags::PEER_FIN).without(Flags::PEER_RST);
    if other.has(Flags::SEEN) {
        flags = flags.with(Flags::PEER_SEEN);
    }
    if other.has(Flags::FIN) {
        flags = flags.with(Flags::PEER_FIN);
    }
    if other.has(Flags::RST) {
        flags = flags.with(Flags::PEER_RST);
    }
    if other.has(DATA) {
        flags = flags.with(PEER_DATA);
    }
    flags
}

/// The class of a flow by its protocol and what is known of both directions.
pub(crate) const fn class(proto: u8, flags: Flags) -> TimeoutClass {
    match proto {
        TCP if flags.has(Flags::RST) || flags.has(Flags::PEER_RST) => TimeoutClass::TcpClosed,
        TCP if flags.has(Flags::FIN) && flags.has(Flags::PEER_FIN) => TimeoutClass::TcpClosed,
        TCP if flags.has(Flags::FIN) || flags.has(Flags::PEER_FIN) => TimeoutClass::TcpClosing,
        TCP if flags.has(DATA) && flags.has(PEER_DATA) => TimeoutClass::TcpEstablished,
        TCP => TimeoutClass::TcpOpening,
        UDP if flags.has(Flags::PEER_SEEN) => TimeoutClass::UdpStream,
        UDP => TimeoutClass::Udp,
        ICMP | ICMPV6 => TimeoutClass::Icmp,
        SCTP => TimeoutClass::Sctp,
        _ => TimeoutClass::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: u8 = 16;

    #[test]
    fn a_tcp_connection_from_syn_to_close_and_reuse() {
        let (mut i, mut r) = (observe(Flags::NONE, Some(tcp::SYN)), Flags::NONE);
        assert_eq!(class(TCP, i), TimeoutClass::TcpOpening);
        r = observe(r, Some(tcp::SYN | ACK));
        i = observe(i, Some(ACK));
        assert_eq!(class(TCP, learn(i, r)), TimeoutClass::TcpOpening, "the responder sent only its SYN");
        r = observe(r, Some(ACK));
        i = learn(i, r);
        assert_eq!(class(TCP, i), TimeoutClass::TcpEstablished);
        i = observe(i, Some(tcp::FIN | ACK));
        assert_eq!(class(TCP, i), TimeoutClass::TcpClosing);
        r = observe(r, Some(tcp::FIN | ACK));
        i = learn(i, r);
        assert_eq!(class(TCP, i), TimeoutClass::TcpClosed);
        i = observe(i, Some(tcp::SYN));
        assert_eq!(class(TCP, i), TimeoutClass::TcpOpening, "reopened");
        r = observe(observe(r, Some(tcp::SYN | ACK)), Some(tcp::RST));
        assert_eq!(class(TCP, learn(i, r)), TimeoutClass::TcpClosed);
    }

    #[test]
    fn udp_needs_an_answer_to_live_longer() {
        let i = observe(Flags::NONE, None);
        assert_eq!(class(UDP, i), TimeoutClass::Udp);
        assert_eq!(class(UDP, learn(i, Flags::NONE)), TimeoutClass::Udp);
        assert_eq!(class(UDP, learn(i, observe(Flags::NONE, None))), TimeoutClass::UdpStream);
    }
}
