//! Writing headers, and whole packets that the dataplane itself answers with.

mod icmp;
mod reply;
mod rewrite;
mod tcp;

pub use icmp::{Answer, IcmpError, MAX_ERROR_V4, MAX_ERROR_V6, icmp_error, may_answer};
pub use reply::{arp_reply, echo_reply, neighbour_advertisement};
pub use rewrite::{decrement_ttl, set_tos};
pub use tcp::{may_reset, tcp_reset};

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::{fold, sum};
use crate::id::Mac;
use crate::wire::EtherType;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv4::{DF, IPV4_LEN};
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UDP_LEN;

/// The default TTL of packets that start here (RFC 1700's recommendation).
pub const TTL: u8 = 64;

/// An Ethernet II header.
#[inline]
pub fn ethernet(dst: Mac, src: Mac, ethertype: EtherType) -> [u8; ETHERNET_LEN] {
    let mut h = [0; ETHERNET_LEN];
    h[..6].copy_from_slice(&dst.0);
    h[6..12].copy_from_slice(&src.0);
    h[12..].copy_from_slice(&ethertype.0.to_be_bytes());
    h
}

/// What varies in an IPv4 header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Fields {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Protocol of the payload.
    pub proto: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// TTL.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Do not fragment.
    pub df: bool,
    /// Bytes behind the header. Beyond 65,515 the length field wraps: only for a frame that [`gso`](crate::gso) will
    /// cut, which writes the lengths anew.
    pub payload_len: usize,
}

/// An IPv4 header with its checksum.
#[inline]
pub fn ipv4(f: &Ipv4Fields) -> [u8; IPV4_LEN] {
    let mut h = [0; IPV4_LEN];
    h[0] = 0x45;
    h[1] = f.tos;
    h[2..4].copy_from_slice(&((IPV4_LEN + f.payload_len) as u16).to_be_bytes());
    h[4..6].copy_from_slice(&f.id.to_be_bytes());
    h[6..8].copy_from_slice(&if f.df { DF } else { 0 }.to_be_bytes());
    h[8] = f.ttl;
    h[9] = f.proto;
    h[12..16].copy_from_slice(&f.src.octets());
    h[16..].copy_from_slice(&f.dst.octets());
    let checksum = !fold(sum(&h));
    h[10..12].copy_from_slice(&checksum.to_be_bytes());
    h
}

/// What varies in an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Fields {
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Protocol of the payload.
    pub proto: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Hop limit.
    pub ttl: u8,
    /// Flow label; only the low 20 bits count.
    pub label: u32,
    /// Bytes behind the header; as for [`Ipv4Fields::payload_len`] the field wraps beyond 65,535.
    pub payload_len: usize,
}

/// An IPv6 header.
#[inline]
pub fn ipv6(f: &Ipv6Fields) -> [u8; IPV6_LEN] {
    let mut h = [0; IPV6_LEN];
    h[..4].copy_from_slice(&(6 << 28 | u32::from(f.tos) << 20 | f.label & 0xf_ffff).to_be_bytes());
    h[4..6].copy_from_slice(&(f.payload_len as u16).to_be_bytes());
    h[6] = f.proto;
    h[7] = f.ttl;
    h[8..24].copy_from_slice(&f.src.octets());
    h[24..].copy_from_slice(&f.dst.octets());
    h
}

/// A UDP header. `checksum` 0 means none (IPv4; IPv6 tunnels by RFC 6935).
#[inline]
pub fn udp(src_port: u16, dst_port: u16, payload_len: usize, checksum: u16) -> [u8; UDP_LEN] {
    let mut h = [0; UDP_LEN];
    h[..2].copy_from_slice(&src_port.to_be_bytes());
    h[2..4].copy_from_slice(&dst_port.to_be_bytes());
    h[4..6].copy_from_slice(&((UDP_LEN + payload_len) as u16).to_be_bytes());
    h[6..].copy_from_slice(&checksum.to_be_bytes());
    h
}

#[cfg(test)]
mod tests;
