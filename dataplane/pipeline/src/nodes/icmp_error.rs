//! Tells a packet's sender why it was dropped: TTL exceeded, too big, no route.
//!
//! Uses: `complaint`, `ip`, `l4`, `via`. Sets: nothing; the packet is dropped.
//!
//! The source is the node's address in its pod range. Nothing is sent about ICMP errors, later fragments and senders
//! that are no single host (RFC 1122 section 3.2.2, RFC 4443 section 2.4), nor above the worker's rate.
//!
//! Next: `encap` for senders behind a tunnel; drop.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::checksum;
use podplane_packet::id::Mac;
use podplane_tables::flow::Action;

use super::classify::ETH_LEN;
use super::{Next, Pkt, World, encap};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::{self, ICMP, ICMPV6, icmp4, icmp6};
use crate::pass::Pass;
use crate::world::{Complaint, Ctx};

pub(crate) const NODE: Node = Node {
    does: "Tells the sender why its packet was dropped.",
    drops: &[DropReason::TtlExceeded, DropReason::TooBig, DropReason::NoRoute, DropReason::NoSuchPod],
    parses: false,
};

/// The longest ICMP error: every IPv4 host takes 576 bytes (RFC 1812 section 4.3.2.3), every IPv6 link 1,280.
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if may_answer(&p.ctx) && w.st.limiter.allow(w.now) {
        tell(w, p);
    }
    Next::Drop(match p.ctx.complaint {
        Complaint::TtlExceeded => DropReason::TtlExceeded,
        Complaint::TooBig(_) => DropReason::TooBig,
        Complaint::NoRoute => DropReason::NoRoute,
        Complaint::NoSuchPod => DropReason::NoSuchPod,
    })
}

fn may_answer(ctx: &Ctx) -> bool {
    // Addresses that are no single host were dropped by `owner`.
    !ctx.l4.error && ctx.ip.frag.is_none_or(|f| f.offset == 0)
}

/// Type, code and the four bytes behind the checksum.
fn message(complaint: Complaint, v6: bool) -> (u8, u8, u32) {
    match (complaint, v6) {
        (Complaint::TtlExceeded, false) => (icmp4::TIME_EXCEEDED, 0, 0),
        (Complaint::TtlExceeded, true) => (icmp6::TIME_EXCEEDED, 0, 0),
        (Complaint::TooBig(mtu), false) => (icmp4::UNREACHABLE, 4, mtu.into()),
        (Complaint::TooBig(mtu), true) => (icmp6::TOO_BIG, 0, mtu.into()),
        (Complaint::NoRoute, false) => (icmp4::UNREACHABLE, 0, 0),
        (Complaint::NoRoute, true) => (icmp6::UNREACHABLE, 0, 0),
        (Complaint::NoSuchPod, false) => (icmp4::UNREACHABLE, 1, 0),
        (Complaint::NoSuchPod, true) => (icmp6::UNREACHABLE, 3, 0),
    }
}

/// Builds and sends the error. Without an address to speak from, or a buffer, nobody is told.
fn tell<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>) {
    let Some(local) = w.snap.local() else { return };
    let source = match p.ctx.ip.src {
        IpAddr::V4(_) => local.gateway_v4.map(IpAddr::V4),
        IpAddr::V6(_) => local.gateway_v6.map(IpAddr::V6),
    };
    let Some(source) = source else { return };
    let Some(mut buf) = w.env.alloc() else { return };
    if !build(&mut buf, p, source) {
        w.st.abandoned += 1;
        return;
    }
    buf.meta_mut().port = p.ctx.via.port;
    let mut ctx = Ctx::new(p.ctx.via.port);
    ctx.l3 = ETH_LEN as u16;
    ctx.hash = p.ctx.hash;
    ctx.pass = Some(Pass::gateway_reply());
    let mut error = Pkt { buf, ctx };
    let next = match p.ctx.via.vtep {
        Some(vtep) => {
            error.ctx.out = Action::Encap(vtep);
            encap::process(w, &mut error)
        }
        None => {
            error.set_macs(p.src_mac(), Mac::GATEWAY);
            Next::Transmit(p.ctx.via.port, Pass::gateway_reply())
        }
    };
    w.finish(error, next);
}

fn build<B: PacketBuf>(buf: &mut B, p: &Pkt<B>, source: IpAddr) -> bool {
    let (kind, code, rest) = message(p.ctx.complaint, source.is_ipv6());
    let (ip_len, longest, ethertype) =
        if source.is_ipv6() { (40, LONGEST_V6, [0x86, 0xdd]) } else { (20, LONGEST_V4, [0x08, 0x00]) };
    let room = longest - ip_len - 8;
    let from = usize::from(p.ctx.l3);
    let quote = room.min(p.ctx.ip.len as usize).min(p.buf.len() - from);
    let mut headers = [0; ETH_LEN + 48];
    headers[12..14].copy_from_slice(&ethertype);
    let start = ETH_LEN + ip_len;
    headers[start] = kind;
    headers[start + 1] = code;
    headers[start + 4..start + 8].copy_from_slice(&rest.to_be_bytes());
    if !buf.append(&headers[..start + 8]) {
        return false;
    }
    let mut ok = true;
    let whole = p.buf.for_each_slice(from, quote, &mut |bytes| ok &= buf.append(bytes));
    if !ok || !whole || buf.head().len() != buf.len() {
        return false;
    }
    let frame = buf.head_mut();
    let len = frame.len() - ETH_LEN;
    match (source, p.ctx.ip.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            headers::put_v4(&mut frame[ETH_LEN..], src, dst, ICMP, len as u16, 0xc0);
            let sum = !checksum::fold(checksum::sum(&frame[start..]));
            frame[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = &mut frame[ETH_LEN..];
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            ip[6..8].copy_from_slice(&[ICMPV6, 64]);
            ip[8..24].copy_from_slice(&src.octets());
            ip[24..40].copy_from_slice(&dst.octets());
            let sum = headers::icmpv6_checksum(src, dst, &frame[start..]);
            frame[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
        }
        _ => return false,
    }
    true
}
