//! The imaginary packet, and the page that it is written on.

use std::net::IpAddr;

use podplane_packet::buf::{Csum, Meta, PacketBuf};
use podplane_packet::build::{self, Ipv4Fields, Ipv6Fields, TTL};
use podplane_packet::id::{Mac, PortId};
use podplane_packet::nat::Tuple;
use podplane_packet::wire::EtherType;

use crate::headers::{ICMP, ICMPV6, SCTP, TCP, UDP, icmp4, icmp6};

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// As unlikely to mean anything as any port that a client may have.
const CLIENT_PORT: u16 = 50_123;
/// Payload of a datagram, in bytes.
const PAYLOAD: usize = 8;

/// A packet that opens a flow. Addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imagined {
    /// Who sends it.
    pub source: IpAddr,
    /// Whom it is sent to.
    pub destination: IpAddr,
    /// TCP (a SYN), UDP, SCTP (an INIT), or ICMP or ICMPv6 (an echo request); the family decides which of the two.
    pub protocol: u8,
    /// The port that it is sent to, host byte order; of no meaning for ICMP.
    pub port: u16,
}

impl Imagined {
    pub(super) fn tuple(&self) -> Tuple {
        let dport = if self.is_icmp() { CLIENT_PORT } else { self.port };
        Tuple { src: self.source, dst: self.destination, sport: CLIENT_PORT, dport }
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol, ICMP | ICMPV6)
    }

    /// The protocol as the family has it.
    fn proto(&self) -> u8 {
        match (self.is_icmp(), self.source.is_ipv4()) {
            (true, true) => ICMP,
            (true, false) => ICMPV6,
            _ => self.protocol,
        }
    }

    /// The whole frame.
    pub(super) fn frame(&self, port: PortId, to: Mac, from: Mac) -> Page {
        let transport = self.transport();
        let (proto, tos, ttl, payload_len) = (self.proto(), 0, TTL, transport.len());
        let (ethertype, ip) = match (self.source, self.destination) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let fields = Ipv4Fields { src, dst, proto, tos, ttl, id: 0, df: true, payload_len };
                (EtherType::IPV4, build::ipv4(&fields).to_vec())
            }
            (src, dst) => {
                let fields = Ipv6Fields { src: v6(src), dst: v6(dst), proto, tos, ttl, label: 0, payload_len };
                (EtherType::IPV6, build::ipv6(&fields).to_vec())
            }
        };
        let bytes = [build::ethernet(to, from, ethertype).to_vec(), ip, transport].concat();
        // Its checksum is not written: it goes to nobody.
        Page { bytes, meta: Meta { port, csum: Csum::Good, ..Meta::default() } }
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [CLIENT_PORT.to_be_bytes(), self.port.to_be_bytes()].concat();
        match self.proto() {
            // RFC 9293 section 3.1: sequence and acknowledgement numbers, offset, SYN, window.
            TCP => [ports, vec![0; 8], vec![5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat(),
            UDP => [build::udp(CLIENT_PORT, self.port, PAYLOAD, 0).to_vec(), vec![0; PAYLOAD]].concat(),
            // RFC 9260 section 3.3.2: tag and checksum, then an INIT chunk of 20 bytes.
            SCTP => [ports, vec![0; 8], vec![1, 0, 0, 20], vec![0; 16]].concat(),
            ICMP => {
                [vec![icmp4::ECHO_REQUEST, 0, 0, 0], CLIENT_PORT.to_be_bytes().to_vec(), vec![0; 2 + PAYLOAD]].concat()
            }
            ICMPV6 => {
                [vec![icmp6::ECHO_REQUEST, 0, 0, 0], CLIENT_PORT.to_be_bytes().to_vec(), vec![0; 2 + PAYLOAD]].concat()
            }
            _ => vec![0; PAYLOAD],
        }
    }
}

fn v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// One packet in one piece, without room around it.
#[derive(Debug)]
pub(super) struct Page {
    bytes: Vec<u8>,
    meta: Meta,
}

impl PacketBuf for Page {
    fn head(&self) -> &[u8] {
        &self.bytes
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn prepend(&mut self, _n: usize) -> Option<&mut [u8]> {
        None
    }

    fn adj(&mut self, n: usize) -> bool {
        let fits = n < self.bytes.len();
        if fits {
            self.bytes.drain(..n);
        }
        fits
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    fn append(&mut self, _bytes: &[u8]) -> bool {
        false
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) -> bool {
        let part = self.bytes.get(offset..offset.saturating_add(dst.len()));
        part.is_some_and(|part| {
            dst.copy_from_slice(part);
            true
        })
    }

    fn for_each_slice(&self, offset: usize, len: usize, f: &mut dyn FnMut(&[u8])) -> bool {
        let part = self.bytes.get(offset..offset.saturating_add(len));
        part.is_some_and(|part| {
            f(part);
            true
        })
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}
