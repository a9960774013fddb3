//! Small changes to a header, with its checksum kept right incrementally (RFC 1624).

use crate::checksum::update;
use crate::parse::{Addrs, Parsed};
use crate::wire::{Ipv4, Ipv6};

/// Takes one from the TTL or hop limit, in the packet and in `p`. `false`: there was none to take, nothing is changed.
#[inline]
pub fn decrement_ttl(head: &mut [u8], p: &mut Parsed) -> bool {
    if p.ttl <= 1 {
        return false;
    }
    let Some(l3) = head.get_mut(usize::from(p.l3_off)..) else { return false };
    match p.addrs {
        Addrs::V4 { .. } => {
            let Ok(mut ip) = Ipv4::new_header(l3) else { return false };
            let old = u32::from(ip.ttl()) << 8 | u32::from(ip.protocol());
            ip.set_ttl(p.ttl - 1);
            ip.set_checksum(update(ip.checksum(), old, u32::from(p.ttl - 1) << 8 | old & 0xff));
        }
        Addrs::V6 { .. } => {
            let Ok(mut ip) = Ipv6::new_header(l3) else { return false };
            ip.set_hop_limit(p.ttl - 1);
        }
        Addrs::None => return false,
    }
    p.ttl -= 1;
    true
}

/// Writes TOS or traffic class, in the packet and in `p`.
#[inline]
pub fn set_tos(head: &mut [u8], p: &mut Parsed, tos: u8) {
    let Some(l3) = head.get_mut(usize::from(p.l3_off)..) else { return };
    match p.addrs {
        Addrs::V4 { .. } => {
            let Ok(mut ip) = Ipv4::new_header(l3) else { return };
            let word = u32::from(ip.version_ihl()) << 8;
            let old = word | u32::from(ip.tos());
            ip.set_tos(tos);
            ip.set_checksum(update(ip.checksum(), old, word | u32::from(tos)));
        }
        Addrs::V6 { .. } => {
            let Ok(mut ip) = Ipv6::new_header(l3) else { return };
            ip.set_traffic_class(tos);
        }
        Addrs::None => return,
    }
    p.tos = tos;
}
