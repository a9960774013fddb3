//! A peer node's tunnel end, with its outer headers ready to be copied.

use std::net::IpAddr;

use podplane_packet::id::Mac;

use super::{Local, VXLAN_PORT};

/// Bytes of an Ethernet header.
pub(crate) const ETH: usize = 14;
/// Bytes in front of the inner Ethernet header over an IPv4 underlay.
pub(crate) const OUTER_V4: usize = ETH + 20 + 8 + 8;
/// Bytes in front of the inner Ethernet header over an IPv6 underlay.
pub(crate) const OUTER_V6: usize = ETH + 40 + 8 + 8;

/// A peer node's tunnel end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Its address.
    pub addr: IpAddr,
    /// The MAC of the next hop towards it. `None`: not known (yet).
    pub next_hop: Option<Mac>,
    /// The longest IP packet that fits through the tunnel over our uplink, in bytes.
    pub mtu: u16,
    /// The generation that gave the address this index: tells users of a reused index apart.
    pub since: u32,
    /// Outer Ethernet, IP, UDP and VXLAN headers; lengths, checksum, traffic class, source port and flow label are
    /// zero.
    template: [u8; OUTER_V6],
}

impl Vtep {
    pub(super) fn new(addr: IpAddr, next_hop: Option<Mac>, local: &Local, uplink_mtu: u16, since: u32) -> Vtep {
        let mut template = [0; OUTER_V6];
        if let Some(mac) = next_hop {
            template[..6].copy_from_slice(&mac.0);
        }
        template[6..12].copy_from_slice(&local.uplink_mac.0);
        let outer = match (local.vtep, addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                template[12..14].copy_from_slice(&[0x08, 0x00]);
                let ip = &mut template[ETH..];
                ip[0] = 0x45;
                ip[6] = 0x40; // DF: outer packets are never fragmented, too-big comes back to us
                ip[8] = 64;
                ip[9] = 17;
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                OUTER_V4
            }
            (src, dst) => {
                template[12..14].copy_from_slice(&[0x86, 0xdd]);
                let ip = &mut template[ETH..];
                ip[0] = 0x60;
                ip[6] = 17;
                ip[7] = 64;
                ip[8..24].copy_from_slice(&v6_octets(src));
                ip[24..40].copy_from_slice(&v6_octets(dst));
                OUTER_V6
            }
        };
        let udp = &mut template[outer - 16..outer];
        udp[2..4].copy_from_slice(&VXLAN_PORT.to_be_bytes());
        udp[8] = 0x08; // flag I: the VNI is valid
        udp[12..15].copy_from_slice(&local.vni.get().to_be_bytes()[1..]);
        let mtu = uplink_mtu.saturating_sub(outer as u16);
        Vtep { addr, next_hop, mtu, since, template }
    }

    /// The MTU inside the tunnel for a path MTU of the underlay, if that is less than what our uplink takes. News of an
    /// MTU below what every link must carry (Linux' `min_pmtu`, RFC 8200 section 5) counts as that much.
    pub(crate) fn lowered_to(&self, path_mtu: u32) -> Option<u16> {
        let (floor, overhead) = match self.addr {
            IpAddr::V4(_) => (552, OUTER_V4),
            IpAddr::V6(_) => (1280, OUTER_V6),
        };
        // Routers older than RFC 1191 say 0; there is nothing to learn from them.
        let mtu = path_mtu.max(floor).saturating_sub(overhead as u32);
        (path_mtu != 0 && mtu < u32::from(self.mtu)).then_some(mtu as u16)
    }

    /// The outer headers, without the fields that differ from packet to packet.
    #[inline]
    pub fn template(&self) -> &[u8] {
        match self.addr {
            IpAddr::V4(_) => &self.template[..OUTER_V4],
            IpAddr::V6(_) => &self.template,
        }
    }
}

fn v6_octets(a: IpAddr) -> [u8; 16] {
    match a {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}
