//! Frames written field by field, with checksums by the book: the oracle of parser, builders and segmentation.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::id::Mac;
use crate::wire::proto;

/// The network layer of a [`FrameSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4 {
        /// Source.
        src: Ipv4Addr,
        /// Destination.
        dst: Ipv4Addr,
        /// Identification.
        id: u16,
        /// Do not fragment.
        df: bool,
        /// Options; padded with zeros to a multiple of 4 by [`FrameSpec::build`]; at most 40 bytes.
        options: Vec<u8>,
    },
    /// IPv6.
    V6 {
        /// Source.
        src: Ipv6Addr,
        /// Destination.
        dst: Ipv6Addr,
        /// Flow label, 20 bits.
        label: u32,
        /// Extension headers: protocol number, and the bytes behind next header and length (6 + 8n of them).
        extensions: Vec<(u8, Vec<u8>)>,
    },
}

/// The transport layer of a [`FrameSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Control bits.
        flags: u8,
        /// Window.
        window: u16,
        /// Options; padded to a multiple of 4; at most 40 bytes.
        options: Vec<u8>,
    },
    /// UDP.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// SCTP.
    Sctp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// ICMP or ICMPv6, by the network layer.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
    },
    /// Another protocol number without any header.
    Raw(u8),
}

/// A frame by its fields. Everything that is not a field is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSpec {
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source MAC.
    pub src_mac: Mac,
    /// Tag control information of a tag in the frame.
    pub vlan: Option<u16>,
    /// TOS or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Network layer.
    pub ip: Ip,
    /// Transport layer.
    pub l4: Transport,
    /// What follows the transport header.
    pub payload: Vec<u8>,
}

/// The ones' complement sum as RFC 1071 section 4.1 writes it, folded.
pub fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for w in bytes.chunks(2) {
        sum += u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum field's value for a transport header and payload whose own field is zero.
pub fn naive_transport_checksum(ip: &Ip, protocol: u8, l4: &[u8]) -> u16 {
    let mut all = match ip {
        Ip::V4 { .. } if protocol == proto::ICMP => Vec::new(),
        Ip::V4 { src, dst, .. } => [src.octets(), dst.octets()].concat(),
        Ip::V6 { src, dst, .. } => [src.octets(), dst.octets()].concat(),
    };
    if !all.is_empty() {
        all.extend((l4.len() as u32).to_be_bytes());
        all.extend([0, 0, 0, protocol]);
    }
    all.extend(l4);
    match !naive_sum(&all) {
        0 if protocol == proto::UDP => 0xffff,
        c => c,
    }
}

/// CRC32c as RFC 9260 appendix A defines it, bit by bit. In a packet its bytes stand from the lowest to the highest.
pub fn naive_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &b in bytes {
        crc ^= u32::from(b);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn padded(options: &[u8]) -> Vec<u8> {
    let mut o = options.to_vec();
    o.resize(o.len().next_multiple_of(4), 0);
    o
}

impl FrameSpec {
    /// The transport protocol number.
    pub fn proto(&self) -> u8 {
        match (&self.l4, &self.ip) {
            (Transport::Tcp { .. }, _) => proto::TCP,
            (Transport::Udp { .. }, _) => proto::UDP,
            (Transport::Sctp { .. }, _) => proto::SCTP,
            (Transport::Icmp { .. }, Ip::V4 { .. }) => proto::ICMP,
            (Transport::Icmp { .. }, Ip::V6 { .. }) => proto::ICMPV6,
            (Transport::Raw(p), _) => *p,
        }
    }

    /// Bytes of Ethernet header and tag.
    pub fn l2_len(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    /// Bytes of network header, options and extension headers.
    pub fn l3_header_len(&self) -> usize {
        match &self.ip {
            Ip::V4 { options, .. } => 20 + padded(options).len(),
            Ip::V6 { extensions, .. } => 40 + extensions.iter().map(|(_, b)| b.len() + 2).sum::<usize>(),
        }
    }

    /// Bytes of the transport header.
    pub fn l4_header_len(&self) -> usize {
        match &self.l4 {
            Transport::Tcp { options, .. } => 20 + padded(options).len(),
            Transport::Udp { .. } | Transport::Icmp { .. } => 8,
            Transport::Sctp { .. } => 12,
            Transport::Raw(_) => 0,
        }
    }

    /// Bytes of all headers.
    pub fn headers_len(&self) -> usize {
        self.l2_len() + self.l3_header_len() + self.l4_header_len()
    }

    /// The frame, without padding.
    pub fn build(&self) -> Vec<u8> {
        let mut f = [self.dst_mac.0, self.src_mac.0].concat();
        if let Some(tci) = self.vlan {
            f.extend(0x8100u16.to_be_bytes());
            f.extend(tci.to_be_bytes());
        }
        let l4 = self.transport();
        match &self.ip {
            Ip::V4 { src, dst, id, df, options } => {
                f.extend(0x0800u16.to_be_bytes());
                let options = padded(options);
                let mut h = vec![0x40 | (5 + options.len() / 4) as u8, self.tos];
                h.extend(((20 + options.len() + l4.len()) as u16).to_be_bytes());
                h.extend(id.to_be_bytes());
                h.extend([u8::from(*df) << 6, 0, self.ttl, self.proto(), 0, 0]);
                h.extend(src.octets());
                h.extend(dst.octets());
                h.extend(options);
                let sum = !naive_sum(&h);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                f.extend(h);
            }
            Ip::V6 { src, dst, label, extensions } => {
                f.extend(0x86ddu16.to_be_bytes());
                f.extend((6 << 28 | u32::from(self.tos) << 20 | label & 0xf_ffff).to_be_bytes());
                f.extend(((self.l3_header_len() - 40 + l4.len()) as u16).to_be_bytes());
                f.extend([extensions.first().map_or(self.proto(), |e| e.0), self.ttl]);
                f.extend(src.octets());
                f.extend(dst.octets());
                for (i, (kind, body)) in extensions.iter().enumerate() {
                    let next = extensions.get(i + 1).map_or(self.proto(), |e| e.0);
                    let len = if *kind == proto::AH { (body.len() + 2) / 4 - 2 } else { (body.len() + 2) / 8 - 1 };
                    f.extend([next, if *kind == proto::FRAGMENT { 0 } else { len as u8 }]);
                    f.extend(body);
                }
            }
        }
        f.extend(l4);
        f
    }

    fn transport(&self) -> Vec<u8> {
        let mut h = Vec::new();
        let field = match &self.l4 {
            Transport::Tcp { sport, dport, seq, ack, flags, window, options } => {
                let options = padded(options);
                h.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
                h.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
                h.extend([((5 + options.len() / 4) as u8) << 4, *flags]);
                h.extend(window.to_be_bytes());
                h.extend([0; 4]);
                h.extend(options);
                Some(16)
            }
            Transport::Udp { sport, dport } => {
                h.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
                h.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                h.extend([0; 2]);
                Some(6)
            }
            Transport::Sctp { sport, dport } => {
                h.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
                h.extend([1, 2, 3, 4, 0, 0, 0, 0]);
                None
            }
            Transport::Icmp { kind, code, rest } => {
                h.extend([*kind, *code, 0, 0]);
                h.extend(rest);
                Some(2)
            }
            Transport::Raw(_) => None,
        };
        h.extend(&self.payload);
        if matches!(self.l4, Transport::Sctp { .. }) {
            let crc = naive_crc32c(&h).to_le_bytes();
            h[8..12].copy_from_slice(&crc);
        }
        if let Some(at) = field {
            let sum = naive_transport_checksum(&self.ip, self.proto(), &h);
            h[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        h
    }
}
