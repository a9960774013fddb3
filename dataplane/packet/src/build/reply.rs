//! Answers made of the question, in place.

use core::net::{IpAddr, Ipv6Addr};

use super::{Ipv6Fields, TTL, ethernet, ipv6};
use crate::buf::{Csum, PacketBuf};
use crate::checksum::{fold, pseudo_v6, sum, update};
use crate::id::Mac;
use crate::parse::{Addrs, Kind, L4, Parsed};
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ipv6::IPV6_LEN;
use crate::wire::ndp::{NEIGHBOUR_LEN, Neighbour};
use crate::wire::{Arp, EtherType, Icmp, Icmpv4Type, Icmpv6Type, Ipv4, Ipv6, arp, proto};

/// All nodes on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where [`ALL_NODES`] goes on Ethernet (RFC 2464 section 7).
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// A neighbour advertisement with the target's link-layer address.
const ADVERTISEMENT_LEN: usize = NEIGHBOUR_LEN + 8;

/// Turns an ARP request into the reply that `mac` has the address asked for. `false`: it is no request, unchanged.
#[must_use]
pub fn arp_reply(head: &mut [u8], p: &Parsed, mac: Mac) -> bool {
    let at = usize::from(p.l3_off);
    let Some((l2, l3)) = head.split_at_mut_checked(at) else { return false };
    let Ok(mut a) = Arp::new(l3) else { return false };
    if a.operation() != arp::REQUEST || l2.len() < ETHERNET_LEN {
        return false;
    }
    let (asker, asker_ip, wanted) = (a.sender_mac(), a.sender_ip(), a.target_ip());
    a.set_operation(arp::REPLY);
    a.set_sender_mac(mac);
    a.set_sender_ip(wanted);
    a.set_target_mac(asker);
    a.set_target_ip(asker_ip);
    l2[..6].copy_from_slice(&asker.0);
    l2[6..12].copy_from_slice(&mac.0);
    true
}

/// Turns an ICMP or ICMPv6 echo request for a unicast address into its reply: addresses and MACs swapped, TTL 64. The payload
/// is not looked at, so a wrong checksum stays wrong. `false`: it is no whole echo request, unchanged.
#[must_use]
pub fn echo_reply<B: PacketBuf + ?Sized>(buf: &mut B, p: &Parsed) -> bool {
    if !matches!(p.l4, L4::Echo { request: true, .. }) || p.fragment.is_some() {
        return false;
    }
    let partial = matches!(buf.meta().csum, Csum::Partial { .. });
    let head = buf.head_mut();
    let (l3, l4) = (usize::from(p.l3_off), usize::from(p.l4_off));
    if head.len() < l4 + 8 || l3 < ETHERNET_LEN {
        return false;
    }
    let reply = match p.addrs {
        Addrs::V4 { src, dst } if !dst.is_multicast() && !dst.is_broadcast() => {
            let Ok(mut ip) = Ipv4::new_header(&mut head[l3..l4]) else { return false };
            let old = u32::from(ip.ttl()) << 8;
            ip.set_src(dst);
            ip.set_dst(src);
            ip.set_ttl(TTL);
            ip.set_checksum(update(ip.checksum(), old, u32::from(TTL) << 8));
            Icmpv4Type::ECHO_REPLY.0
        }
        Addrs::V6 { src, dst } if !dst.is_multicast() => {
            let Ok(mut ip) = Ipv6::new_header(&mut head[l3..l4]) else { return false };
            ip.set_src(dst);
            ip.set_dst(src);
            ip.set_hop_limit(TTL);
            Icmpv6Type::ECHO_REPLY.0
        }
        _ => return false,
    };
    let Ok(mut icmp) = Icmp::new(&mut head[l4..]) else { return false };
    let (old, code) = (u32::from(icmp.kind()) << 8, u32::from(icmp.code()));
    icmp.set_kind(reply);
    // A partial sum covers the pseudo-header alone, which swapping leaves as it is.
    if !partial {
        icmp.set_checksum(update(icmp.checksum(), old | code, u32::from(reply) << 8 | code));
    }
    swap_macs(head);
    true
}

fn swap_macs(head: &mut [u8]) {
    let (dst, src) = head[..12].split_at_mut(6);
    dst.swap_with_slice(src);
}

/// Turns a neighbour solicitation into the advertisement that `mac` is the router with the address asked for; to all nodes if
/// the asker has no address yet (RFC 4861 section 7.2.4). `false`: it is no sound solicitation, or there is no room to grow;
/// then drop it, for the length may have changed.
#[must_use]
pub fn neighbour_advertisement<B: PacketBuf + ?Sized>(buf: &mut B, p: &Parsed, mac: Mac) -> bool {
    let (l3, l4) = (usize::from(p.l3_off), usize::from(p.l4_off));
    let (Some(IpAddr::V6(asker)), Kind::Nd) = (p.addrs.src(), p.kind) else { return false };
    // RFC 4861 section 7.1.1; extension headers have no business here.
    if p.ttl != 255 || l4 != l3 + IPV6_LEN || l3 < ETHERNET_LEN {
        return false;
    }
    let target = match buf.head().get(l4..p.frame_len()).map(Neighbour::new) {
        Some(Ok(ns)) if ns.is_solicitation() => ns.target(),
        _ => return false,
    };
    let end = l4 + ADVERTISEMENT_LEN;
    buf.truncate(end.min(p.frame_len()));
    let missing = end - buf.len();
    if missing > 0 && !buf.append(&[0; ADVERTISEMENT_LEN][..missing]) {
        return false;
    }
    let Some(frame) = buf.head_mut().get_mut(..end) else { return false };
    let (dst, dst_mac, solicited) = if asker.is_unspecified() {
        (ALL_NODES, ALL_NODES_MAC, 0)
    } else {
        let mut sender = Mac::default();
        sender.0.copy_from_slice(&frame[6..12]);
        (asker, sender, Neighbour::<&[u8]>::SOLICITED)
    };
    let flags = Neighbour::<&[u8]>::ROUTER | Neighbour::<&[u8]>::OVERRIDE | solicited;
    let message = advertisement(target, dst, flags, mac);
    let ip = Ipv6Fields {
        src: target,
        dst,
        proto: proto::ICMPV6,
        tos: 0,
        ttl: 255,
        label: 0,
        payload_len: ADVERTISEMENT_LEN,
    };
    // The tags of a tagged frame lie between the addresses and the EtherType that is there already.
    frame[..12].copy_from_slice(&ethernet(dst_mac, mac, EtherType::IPV6)[..12]);
    frame[l3..l4].copy_from_slice(&ipv6(&ip));
    frame[l4..].copy_from_slice(&message);
    buf.meta_mut().csum = Csum::Good;
    true
}

fn advertisement(target: Ipv6Addr, dst: Ipv6Addr, flags: u32, mac: Mac) -> [u8; ADVERTISEMENT_LEN] {
    let mut m = [0; ADVERTISEMENT_LEN];
    m[0] = Icmpv6Type::NEIGHBOUR_ADVERTISEMENT.0;
    m[4..8].copy_from_slice(&flags.to_be_bytes());
    m[8..24].copy_from_slice(&target.octets());
    // Option 2, one unit of 8 bytes: the target's link-layer address.
    m[24..26].copy_from_slice(&[2, 1]);
    m[26..].copy_from_slice(&mac.0);
    let checksum = !fold(pseudo_v6(target, dst, proto::ICMPV6, ADVERTISEMENT_LEN as u32) + sum(&m));
    m[2..4].copy_from_slice(&checksum.to_be_bytes());
    m
}
