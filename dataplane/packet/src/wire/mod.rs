//! Header views: typed windows on bytes, read-only over `&[u8]` and writable over `&mut [u8]`.
//!
//! A constructor checks everything that the accessors rely on, so that no accessor of a view over a slice panics,
//! whatever the bytes. Values are in host byte order; offsets and lengths in bytes.

#[macro_use]
mod view;

pub mod arp;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vxlan;

pub use arp::Arp;
pub use ethernet::{EtherType, Ethernet, Vlan};
pub use icmp::{Icmp, Icmpv4Type, Icmpv6Type};
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use sctp::Sctp;
pub use tcp::{Tcp, TcpFlags};
pub use udp::Udp;
pub use vxlan::Vxlan;

/// Why bytes are not the header that they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the header, or than the header says it has.
    #[error("cut short")]
    Truncated,
    /// The IP version field is another.
    #[error("wrong IP version")]
    Version,
    /// A header length below the minimum.
    #[error("impossible header length")]
    HeaderLength,
    /// A total or payload length below the header's, or beyond the bytes.
    #[error("length beyond the packet or below the header")]
    Length,
    /// An option or extension header that contradicts its own length or place.
    #[error("malformed option or extension header")]
    Option,
    /// Values that make it another protocol (ARP for other hardware, VXLAN without the I flag).
    #[error("not of the expected kind")]
    Kind,
}

/// IP protocol numbers (IANA) that the packet path tells apart.
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DEST_OPTS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

#[inline(always)]
pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

#[inline(always)]
pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// `N` bytes from `at` on as an array; the caller has checked the length.
#[inline(always)]
pub(crate) fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut a = [0; N];
    a.copy_from_slice(&b[at..at + N]);
    a
}

#[cfg(test)]
mod tests;
