//! Into the tunnel to a peer: VXLAN (RFC 7348) over IPv4 or IPv6.
//!
//! Uses: `out`, `hash`, `ip`, `pass`. Sets: outer headers; `meta().tunnel`, `meta().csum` moves along.
//!
//! - The network: ours; for what Service clients outside send and are answered, ours + 1.
//! - Source port: from the flow's hash, 49152 to 65535 (RFC 7348 section 5), so that the underlay spreads flows; over
//!   IPv6 the flow label too (RFC 6438).
//! - TTL 64, for the underlay is another network (RFC 2003 section 3.1); DF set over IPv4, so outer packets are never
//!   fragmented and their identification may be 0 (RFC 6864).
//! - Traffic class: [`crate::ecn`].
//! - UDP checksum zero. Over IPv4 as RFC 7348 section 5 asks. Over IPv6 as RFC 6935 section 5 allows tunnels: the
//!   inner packet has checksums of its own, what the outer headers can do wrong is caught by the receiver's checks of
//!   peer, VNI, MAC and inner source (RFC 6936 section 4), and a sum would have to be taken over every byte.
//! - A partial inner checksum and inner GSO stay as they are: the port completes and cuts. The outer lengths of a GSO
//!   packet describe it whole, 65,535 if it is longer; the port writes those of each piece.
//!
//! Next: out by the uplink.

use std::net::IpAddr;

use podplane_packet::buf::{Gso, PacketBuf};
use podplane_packet::id::{Mac, PortId};
use podplane_tables::flow::Action;

use super::classify::ETH_LEN;
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::ecn;
use crate::env::Env;
use crate::graph::Node;
use crate::headers;

/// The outer source ports are the upper quarter (RFC 7348 section 5).
pub(super) const FIRST_SOURCE_PORT: u16 = 0xc000;

pub(crate) const NODE: Node = Node {
    does: "Puts VXLAN's outer headers in front.",
    drops: &[
        DropReason::PortDown,
        DropReason::NotJudged,
        DropReason::NextHopUnresolved,
        DropReason::TooLong,
        DropReason::NoHeadroom,
    ],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let (Action::Encap(vtep) | Action::Enter(vtep)) = p.ctx.out else { return Next::Drop(DropReason::PortDown) };
    let Some(entry) = w.snap.vtep(vtep) else { return Next::Drop(DropReason::PortDown) };
    if entry.next_hop.is_none() {
        return Next::Drop(DropReason::NextHopUnresolved);
    }
    let Some(pass) = p.ctx.pass.take() else { return Next::Drop(DropReason::NotJudged) };
    p.set_macs(Mac::GATEWAY, Mac::GATEWAY);
    let template = entry.template();
    let after_ip = p.buf.len() + template.len() - ETH_LEN;
    if after_ip > usize::from(u16::MAX) && p.buf.meta().gso == Gso::None {
        return Next::Drop(DropReason::TooLong);
    }
    let Some(head) = p.buf.prepend(template.len()) else { return Next::Drop(DropReason::NoHeadroom) };
    let outer = &mut head[..template.len()];
    outer.copy_from_slice(template);
    let clamp = |n: usize| n.min(usize::from(u16::MAX)) as u16;
    let tos = ecn::encapsulate(p.ctx.ip.tos);
    let hash = p.ctx.hash.0;
    let udp_at = outer.len() - 16;
    match entry.addr {
        IpAddr::V4(_) => {
            let ip = &mut outer[ETH_LEN..];
            ip[1] = tos;
            ip[2..4].copy_from_slice(&clamp(after_ip).to_be_bytes());
            headers::fill_v4_checksum(ip, 20);
        }
        IpAddr::V6(_) => {
            let word = 6 << 28 | u32::from(tos) << 20 | (hash >> 16) as u32 & 0xf_ffff;
            outer[ETH_LEN..ETH_LEN + 4].copy_from_slice(&word.to_be_bytes());
            outer[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&clamp(after_ip - 40).to_be_bytes());
        }
    }
    if matches!(p.ctx.out, Action::Enter(_))
        && let Some(local) = w.snap.local()
    {
        outer[udp_at + 12..udp_at + 15].copy_from_slice(&(local.vni.get() + 1).to_be_bytes()[1..]);
    }
    let udp_len = clamp(after_ip + ETH_LEN - udp_at);
    let sport = FIRST_SOURCE_PORT | hash as u16 & 0x3fff;
    outer[udp_at..udp_at + 2].copy_from_slice(&sport.to_be_bytes());
    outer[udp_at + 4..udp_at + 6].copy_from_slice(&udp_len.to_be_bytes());
    let by = template.len();
    let meta = p.buf.meta_mut();
    meta.shift(by as i32);
    meta.tunnel = by as u8;
    Next::Transmit(PortId::UPLINK, pass)
}
