//! From a frame to everything that the packet path asks of its headers, in one pass.
//!
//! Lengths are checked against the frame, so offsets in [`Parsed`] can be trusted for this frame; the transport checksum is
//! left alone (see [`transport_ok`]). Ethernet padding is not part of the packet: [`Parsed::frame_len`] says where
//! the packet ends.

mod embedded;
mod error;
mod v4;
mod v6;
mod verify;

pub use embedded::Embedded;
pub use error::ParseError;
pub use verify::{Verdict, transport_ok};

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{pseudo_v4, pseudo_v6};
use crate::wire::ethernet::{ETHERNET_LEN, VLAN_LEN};
use crate::wire::{Arp, EtherType, Icmpv4Type, Icmpv6Type, TcpFlags, be16, proto};

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv4.
    Ipv4,
    /// IPv6 other than neighbour discovery.
    Ipv6,
    /// Neighbour discovery (ICMPv6 types 133 to 137), unfragmented (RFC 6980).
    Nd,
    /// Something else: only the Ethernet header is known.
    Other,
}

/// Source and destination of the packet. For ARP: the sender's and the target's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addrs {
    /// No addresses.
    None,
    /// IPv4.
    V4 {
        /// Source.
        src: Ipv4Addr,
        /// Destination.
        dst: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source.
        src: Ipv6Addr,
        /// Destination.
        dst: Ipv6Addr,
    },
}

impl Addrs {
    /// The source.
    #[inline]
    pub fn src(&self) -> Option<IpAddr> {
        match *self {
            Addrs::None => None,
            Addrs::V4 { src, .. } => Some(src.into()),
            Addrs::V6 { src, .. } => Some(src.into()),
        }
    }

    /// The destination.
    #[inline]
    pub fn dst(&self) -> Option<IpAddr> {
        match *self {
            Addrs::None => None,
            Addrs::V4 { dst, .. } => Some(dst.into()),
            Addrs::V6 { dst, .. } => Some(dst.into()),
        }
    }

    /// Whether these are IPv6 addresses.
    #[inline]
    pub const fn is_v6(&self) -> bool {
        matches!(self, Addrs::V6 { .. })
    }
}

/// What the transport header says of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum L4 {
    /// Nothing: a later fragment, or a protocol without ports.
    None,
    /// TCP, UDP, SCTP.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP or ICMPv6 echo.
    Echo {
        /// A request, not a reply.
        request: bool,
        /// Identifier.
        id: u16,
    },
    /// An ICMP or ICMPv6 error; [`Parsed::embedded`] reads the packet that it quotes.
    IcmpError {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Another ICMP or ICMPv6 message.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

/// A fragment's place in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Where its data belongs, in bytes.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
    /// Identification (16 bits in IPv4).
    pub id: u32,
    /// Where its data starts, from the first byte of the frame (behind the IPv6 fragment header).
    pub data_off: u16,
}

impl Fragment {
    /// Whether it carries the transport header.
    #[inline]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// A frame's headers. Offsets are from the first byte of the frame that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What the frame carries.
    pub kind: Kind,
    /// The EtherType behind all tags.
    pub ethertype: EtherType,
    /// Tag control information of the outermost tag that stands in the frame.
    pub vlan: Option<u16>,
    /// Where the layer 3 header starts.
    pub l3_off: u16,
    /// Where the transport header starts, or the data of a later fragment.
    pub l4_off: u16,
    /// Where the transport's payload starts; equal to `l4_off` where there is no known transport header.
    pub payload_off: u16,
    /// Bytes of the layer 3 packet by its own length field, without Ethernet padding; for [`Kind::Other`] all there is.
    pub l3_len: u32,
    /// The transport protocol behind all extension headers; 0 if not IP. In a later IPv6 fragment: the first protocol of
    /// the fragmentable part, which may be an extension header.
    pub proto: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4: do not fragment. IPv6: true.
    pub df: bool,
    /// TCP's control bits; none for other protocols.
    pub tcp_flags: TcpFlags,
    /// A fragment's place; `None` for whole packets, atomic fragments (RFC 6946) included.
    pub fragment: Option<Fragment>,
    /// Source and destination.
    pub addrs: Addrs,
    /// Ports or ICMP fields.
    pub l4: L4,
}

impl Parsed {
    /// Where the packet ends, in bytes from the start of the frame: what is beyond is padding.
    #[inline]
    pub const fn frame_len(&self) -> usize {
        self.l3_off as usize + self.l3_len as usize
    }

    /// Bytes behind the transport header.
    #[inline]
    pub const fn payload_len(&self) -> usize {
        self.frame_len() - self.payload_off as usize
    }

    /// Bytes of transport header and payload.
    #[inline]
    pub const fn l4_len(&self) -> usize {
        self.frame_len() - self.l4_off as usize
    }

    /// The sum over the pseudo-header for `len` bytes of transport header and payload (RFC 9293 section 3.1, RFC 8200 section
    /// 8.1), as a partial checksum stores it once it is folded. 0 for what is not IP.
    #[inline]
    pub fn pseudo_sum(&self, len: usize) -> u32 {
        match self.addrs {
            Addrs::V4 { src, dst } => pseudo_v4(src, dst, self.proto, len as u32),
            Addrs::V6 { src, dst } => pseudo_v6(src, dst, self.proto, len as u32),
            Addrs::None => 0,
        }
    }

    /// Where the internet checksum lies in this packet's transport header, from the header's start. `None`: its protocol has
    /// none over the pseudo-header, or the packet is a fragment.
    #[inline]
    pub const fn csum_offset(&self) -> Option<u16> {
        match self.proto {
            _ if self.fragment.is_some() => None,
            proto::TCP => Some(16),
            proto::UDP => Some(6),
            _ => None,
        }
    }

    /// Differentiated services code point.
    #[inline]
    pub const fn dscp(&self) -> u8 {
        self.tos >> 2
    }

    /// ECN field.
    #[inline]
    pub const fn ecn(&self) -> u8 {
        self.tos & 3
    }

    #[inline(always)]
    fn other(
        ethertype: EtherType,
        vlan: Option<u16>,
        head: &[u8],
        l3_off: usize,
        frame_len: usize,
    ) -> Result<Parsed, ParseError> {
        // A head beyond the packet, or offsets beyond 16 bits: the caller's fault, but no reason to compute nonsense.
        if head.len() > frame_len || l3_off > head.len() || l3_off > 1024 {
            return Err(ParseError::FrameTooShort);
        }
        let l3_len = (frame_len - l3_off) as u32;
        let l3_off = l3_off as u16;
        Ok(Parsed {
            kind: Kind::Other,
            ethertype,
            vlan,
            l3_off,
            l4_off: l3_off,
            payload_off: l3_off,
            l3_len,
            proto: 0,
            tos: 0,
            ttl: 0,
            df: false,
            tcp_flags: TcpFlags(0),
            fragment: None,
            addrs: Addrs::None,
            l4: L4::None,
        })
    }
}

/// Parses a frame: `head` is the first segment, which holds all headers, `frame_len` the length over all segments.
///
/// # Errors
/// [`ParseError`].
#[inline]
pub fn parse(head: &[u8], frame_len: usize) -> Result<Parsed, ParseError> {
    parse_at(head, 0, frame_len)
}

/// As [`parse`], for a frame whose Ethernet header starts `l2_off` bytes into `head` (inside a tunnel). Offsets in the
/// result count from the start of `head`.
///
/// # Errors
/// [`ParseError`].
#[inline]
pub fn parse_at(head: &[u8], l2_off: usize, frame_len: usize) -> Result<Parsed, ParseError> {
    let Some(eth) = head.get(l2_off..).and_then(<[u8]>::first_chunk::<ETHERNET_LEN>) else {
        return Err(ParseError::FrameTooShort);
    };
    let ethertype = EtherType(u16::from_be_bytes([eth[12], eth[13]]));
    let l3_off = l2_off + ETHERNET_LEN;
    if matches!(ethertype, EtherType::VLAN | EtherType::QINQ) {
        return tagged(head, l3_off, frame_len);
    }
    parse_l3(head, ethertype, None, l3_off, frame_len)
}

/// Steps over one or two tags.
#[cold]
fn tagged(head: &[u8], mut at: usize, frame_len: usize) -> Result<Parsed, ParseError> {
    let mut outermost = None;
    for _ in 0..2 {
        let tag = head.get(at..at + VLAN_LEN).ok_or(ParseError::VlanTruncated)?;
        outermost = outermost.or(Some(be16(tag, 0)));
        let ethertype = EtherType(be16(tag, 2));
        at += VLAN_LEN;
        if !matches!(ethertype, EtherType::VLAN | EtherType::QINQ) {
            return parse_l3(head, ethertype, outermost, at, frame_len);
        }
    }
    Err(ParseError::VlanTooDeep)
}

/// Parses from layer 3 on, for a caller that knows the EtherType already.
///
/// # Errors
/// [`ParseError`].
#[inline]
pub fn parse_l3(
    head: &[u8],
    ethertype: EtherType,
    vlan: Option<u16>,
    l3_off: usize,
    frame_len: usize,
) -> Result<Parsed, ParseError> {
    let mut p = Parsed::other(ethertype, vlan, head, l3_off, frame_len)?;
    match ethertype {
        EtherType::IPV4 => v4::parse(head, &mut p)?,
        EtherType::IPV6 => v6::parse(head, &mut p)?,
        EtherType::ARP => arp(head, &mut p)?,
        _ => {}
    }
    Ok(p)
}

/// As [`parse_l3`] for IPv4.
///
/// # Errors
/// [`ParseError`].
// Inlined, for what the caller does not ask of the result need then not be written; a family by itself, for over both
// at once the compiler moves addresses byte by byte.
#[inline(always)]
pub fn parse_ipv4(head: &[u8], l3_off: usize, frame_len: usize) -> Result<Parsed, ParseError> {
    let mut p = Parsed::other(EtherType::IPV4, None, head, l3_off, frame_len)?;
    v4::parse(head, &mut p)?;
    Ok(p)
}

/// As [`parse_l3`] for IPv6.
///
/// # Errors
/// [`ParseError`].
#[inline(always)]
pub fn parse_ipv6(head: &[u8], l3_off: usize, frame_len: usize) -> Result<Parsed, ParseError> {
    let mut p = Parsed::other(EtherType::IPV6, None, head, l3_off, frame_len)?;
    v6::parse(head, &mut p)?;
    Ok(p)
}

fn arp(head: &[u8], p: &mut Parsed) -> Result<(), ParseError> {
    let a = Arp::new(&head[usize::from(p.l3_off)..]).map_err(|_| ParseError::ArpMalformed)?;
    p.kind = Kind::Arp;
    p.l3_len = crate::wire::arp::ARP_LEN as u32;
    p.l4_off = p.l3_off + crate::wire::arp::ARP_LEN as u16;
    p.payload_off = p.l4_off;
    p.addrs = Addrs::V4 { src: a.sender_ip(), dst: a.target_ip() };
    Ok(())
}

/// Reads the transport header at `p.l4_off`; lengths are those of this packet, or of a first fragment.
#[inline(always)]
fn transport(head: &[u8], p: &mut Parsed) -> Result<(), ParseError> {
    let l4 = usize::from(p.l4_off);
    let end = p.frame_len();
    let truncated = if p.fragment.is_some() { ParseError::FragmentSplitsTransport } else { ParseError::L4Truncated };
    let bytes = &head[l4.min(head.len())..end.min(head.len())];
    let short = || if end > head.len() { ParseError::HeadersSplit } else { truncated };
    match p.proto {
        proto::TCP => {
            let h: &[u8; 20] = bytes.first_chunk().ok_or_else(short)?;
            let len = usize::from(h[12] >> 4) * 4;
            if len < 20 {
                return Err(ParseError::TcpBadOffset);
            }
            if len > bytes.len() {
                return Err(short());
            }
            p.tcp_flags = TcpFlags(h[13]);
            p.payload_off = (l4 + len) as u16;
            p.l4 = ports(h);
        }
        proto::UDP => {
            let h: &[u8; 8] = bytes.first_chunk().ok_or_else(short)?;
            let len = usize::from(be16(h, 4));
            // A first fragment's length field speaks of the whole datagram.
            if len < 8 || (len > end - l4 && p.fragment.is_none()) {
                return Err(ParseError::UdpBadLength);
            }
            p.payload_off = (l4 + 8) as u16;
            p.l4 = ports(h);
        }
        proto::SCTP => {
            let h: &[u8; 12] = bytes.first_chunk().ok_or_else(short)?;
            p.payload_off = (l4 + 12) as u16;
            p.l4 = ports(h);
        }
        proto::ICMP | proto::ICMPV6 if (p.proto == proto::ICMPV6) == p.addrs.is_v6() => {
            let h: &[u8; 8] = bytes.first_chunk().ok_or_else(short)?;
            if p.addrs.is_v6() && Icmpv6Type(h[0]).is_nd() && p.fragment.is_none() {
                p.kind = Kind::Nd;
            }
            p.payload_off = (l4 + 8) as u16;
            p.l4 = icmp(h, p.addrs.is_v6());
        }
        _ => {}
    }
    Ok(())
}

#[inline]
fn ports(h: &[u8]) -> L4 {
    L4::Ports { src: be16(h, 0), dst: be16(h, 2) }
}

fn icmp(h: &[u8; 8], v6: bool) -> L4 {
    let (kind, code) = (h[0], h[1]);
    let (request, reply, error) = if v6 {
        let t = Icmpv6Type(kind);
        (t == Icmpv6Type::ECHO_REQUEST, t == Icmpv6Type::ECHO_REPLY, t.is_error())
    } else {
        let t = Icmpv4Type(kind);
        (t == Icmpv4Type::ECHO_REQUEST, t == Icmpv4Type::ECHO_REPLY, t.is_error())
    };
    if request || reply {
        L4::Echo { request, id: be16(h, 4) }
    } else if error {
        L4::IcmpError { kind, code }
    } else {
        L4::Icmp { kind, code }
    }
}

#[cfg(test)]
mod tests;
