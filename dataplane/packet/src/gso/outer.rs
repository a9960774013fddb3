//! The outer headers of a tunnelled frame. Their length fields mean nothing before segmentation: encapsulated GSO frames
//! can exceed what they can say.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{GsoError, behind, write_ip};
use crate::checksum::{fold, not_zero, pseudo_v4, pseudo_v6};
use crate::wire::ethernet::{ETHERNET_LEN, VLAN_LEN};
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::udp::UDP_LEN;
use crate::wire::vxlan::VXLAN_LEN;
use crate::wire::{EtherType, array, be16, proto};

/// Where a tunnelled frame's outer headers are: Ethernet, perhaps a tag, IPv4 or IPv6, UDP, VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    pub(crate) l3: usize,
    pub(crate) udp: usize,
    pub(crate) v6: bool,
    /// The template's UDP checksum is not zero: compute it.
    pub(crate) checksum: bool,
}

impl Outer {
    /// The outer headers are the first `len` bytes of `head`, VXLAN's included. Their lengths are not looked at.
    ///
    /// # Errors
    /// [`GsoError::BadTunnel`]
    pub fn new(head: &[u8], len: usize) -> Result<Outer, GsoError> {
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

    /// Bytes of the outer headers without VXLAN's: where it starts.
    #[inline]
    pub const fn vxlan(&self) -> usize {
        self.udp + UDP_LEN
    }

    /// Bytes of the outer headers, VXLAN's included.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.vxlan() + VXLAN_LEN
    }

    /// The IPv4 identification of the headers that `out` starts with; 0 for IPv6.
    pub fn id(&self, out: &[u8]) -> u16 {
        if self.v6 { 0 } else { be16(out, self.l3 + 4) }
    }

    /// Sets the IPv4 identification; the header's checksum is left alone.
    pub fn set_id(&self, out: &mut [u8], id: u16) {
        if !self.v6 {
            out[self.l3 + 4..self.l3 + 6].copy_from_slice(&id.to_be_bytes());
        }
    }

    /// The UDP pseudo-header's sum for a datagram of `udp_len` bytes; `head` starts with the frame.
    pub(crate) fn pseudo_sum(&self, head: &[u8], udp_len: usize) -> u32 {
        let ip = &head[self.l3..];
        if self.v6 {
            let (src, dst) = (Ipv6Addr::from(array::<16>(ip, 8)), Ipv6Addr::from(array::<16>(ip, 24)));
            pseudo_v6(src, dst, proto::UDP, udp_len as u32)
        } else {
            let (src, dst) = (Ipv4Addr::from(array::<4>(ip, 12)), Ipv4Addr::from(array::<4>(ip, 16)));
            pseudo_v4(src, dst, proto::UDP, udp_len as u32)
        }
    }

    /// Writes the lengths of one datagram with `bytes` bytes behind the UDP header, the identification of the `i`th.
    pub(crate) fn write_lengths(&self, out: &mut [u8], i: usize, bytes: usize) {
        let udp_len = UDP_LEN + bytes;
        write_ip(&mut out[self.l3..self.udp], self.v6, self.udp - self.l3 + udp_len, i);
        out[self.udp + 4..self.udp + 6].copy_from_slice(&(udp_len as u16).to_be_bytes());
    }

    /// Writes lengths and checksums of one datagram with `bytes` bytes behind the UDP header, the UDP checksum in its partial
    /// form. `out` starts with these headers. Answers where UDP's is. `None`: longer than the fields can say; unchanged.
    pub fn write_partial(&self, out: &mut [u8], bytes: usize) -> Option<usize> {
        u16::try_from(self.udp - self.l3 + UDP_LEN + bytes).ok()?;
        self.write_lengths(out, 0, bytes);
        let sum = fold(self.pseudo_sum(out, UDP_LEN + bytes));
        out[self.udp + 6..self.udp + 8].copy_from_slice(&sum.to_be_bytes());
        Some(self.udp)
    }

    /// Writes the outer fields of segment `i`; `out` holds all its headers, the inner ones finished.
    pub(super) fn write(&self, out: &mut [u8], i: usize, payload_len: usize, payload: u16) {
        let udp_len = out.len() + payload_len - self.udp;
        self.write_lengths(out, i, udp_len - UDP_LEN);
        if !self.checksum {
            return;
        }
        out[self.udp + 6..self.udp + 8].fill(0);
        let field = not_zero(!behind(self.pseudo_sum(out, udp_len), &out[self.udp..], payload));
        out[self.udp + 6..self.udp + 8].copy_from_slice(&field.to_be_bytes());
    }
}
