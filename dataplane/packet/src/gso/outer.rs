//! The outer headers of a tunnelled frame. Their length fields mean nothing before segmentation: encapsulated GSO frames
//! can exceed what they can say.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{GsoError, behind, write_ip};
use crate::checksum::{not_zero, pseudo_v4, pseudo_v6};
use crate::wire::ethernet::{ETHERNET_LEN, VLAN_LEN};
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;
use crate::wire::{EtherType, array, be16, proto};

#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    l3: usize,
    udp: usize,
    v6: bool,
    /// The template's UDP checksum is not zero: compute it.
    checksum: bool,
}

impl Outer {
    /// The outer headers are the first `len` bytes of `head`.
    pub(super) fn new(head: &[u8], len: usize) -> Result<Outer, GsoError> {
        const BAD: GsoError = GsoError::BadTunnel;
        let h = head.get(..len).filter(|h| h.len() >= ETHERNET_LEN + IPV4_LEN).ok_or(BAD)?;
        let tagged = EtherType(be16(h, 12)) == EtherType::VLAN;
        let l3 = ETHERNET_LEN + if tagged { VLAN_LEN } else { 0 };
        let (v6, ip_len, protocol) = match EtherType(be16(h, l3 - 2)) {
            EtherType::IPV4 if h[l3] >> 4 == 4 && h[l3] & 15 >= 5 => (false, usize::from(h[l3] & 15) * 4, h[l3 + 9]),
            EtherType::IPV6 if h[l3] >> 4 == 6 => (true, IPV6_LEN, h[l3 + 6]),
            _ => return Err(BAD),
        };
        let udp = l3 + ip_len;
        if protocol != proto::UDP || udp + UDP_LEN + VXLAN_LEN != len {
            return Err(BAD);
        }
        Ok(Outer { l3, udp, v6, checksum: be16(h, udp + 6) != 0 })
    }

    /// Writes the outer fields of segment `i`; `out` holds all its headers, the inner ones finished.
    pub(super) fn write(&self, out: &mut [u8], i: usize, payload_len: usize, payload: u16) {
        let end = out.len() + payload_len;
        write_ip(&mut out[self.l3..self.udp], self.v6, end - self.l3, i);
        let udp_len = end - self.udp;
        out[self.udp + 4..self.udp + 6].copy_from_slice(&(udp_len as u16).to_be_bytes());
        if !self.checksum {
            return;
        }
        out[self.udp + 6..self.udp + 8].fill(0);
        let ip = &out[self.l3..];
        let pseudo = if self.v6 {
            let (src, dst) = (Ipv6Addr::from(array::<16>(ip, 8)), Ipv6Addr::from(array::<16>(ip, 24)));
            pseudo_v6(src, dst, proto::UDP, udp_len as u32)
        } else {
            let (src, dst) = (Ipv4Addr::from(array::<4>(ip, 12)), Ipv4Addr::from(array::<4>(ip, 16)));
            pseudo_v4(src, dst, proto::UDP, udp_len as u32)
        };
        let field = not_zero(!behind(pseudo, &out[self.udp..], payload));
        out[self.udp + 6..self.udp + 8].copy_from_slice(&field.to_be_bytes());
    }
}
