//! Tells a packet's sender why it was dropped: TTL exceeded, too big, no route.
//!
//! Uses: `complaint`, `ip`, `l4`, `via`. Sets: nothing; the packet is dropped.
//!
//! The source is the node's address in its pod range; to clients outside, the address that they sent to. Nothing is sent about ICMP errors, later fragments and senders
//! that are no single host (RFC 1122 section 3.2.2, RFC 4443 section 2.4), nor above the rate of the port that the
//! packet came in by.
//!
//! Next: `encap` for senders behind a tunnel; drop.

use podplane_packet::buf::PacketBuf;
use podplane_packet::build::{Answer, IcmpError, icmp_error, may_answer};
use podplane_packet::id::Mac;
use podplane_packet::parse::Parsed;
use podplane_tables::flow::Action;

use super::classify::ETH_LEN;
use super::{Next, Pkt, World, encap};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers;
use crate::pass::Pass;
use crate::world::{Complaint, Ctx, zone};

pub(crate) const NODE: Node = Node {
    does: "Tells the sender why its packet was dropped.",
    drops: &[DropReason::TtlExceeded, DropReason::TooBig, DropReason::NoRoute, DropReason::NoSuchPod],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if let Some(parsed) = headers::parsed(&p.buf, usize::from(p.ctx.l3)) {
        complain(w, p, &parsed, wording(p.ctx.complaint, p.ctx.ip.src.is_ipv6()));
    }
    Next::Drop(match p.ctx.complaint {
        Complaint::TtlExceeded => DropReason::TtlExceeded,
        Complaint::TooBig(_) => DropReason::TooBig,
        Complaint::NoRoute => DropReason::NoRoute,
        Complaint::NoSuchPod => DropReason::NoSuchPod,
    })
}

/// What the packet crate calls it. "No route" and "nobody there" have other codes in each family.
fn wording(complaint: Complaint, v6: bool) -> IcmpError {
    match complaint {
        Complaint::TtlExceeded => IcmpError::TimeExceeded,
        Complaint::TooBig(mtu) => IcmpError::TooBig { mtu },
        Complaint::NoRoute => IcmpError::Unreachable { code: 0 },
        Complaint::NoSuchPod => IcmpError::Unreachable { code: if v6 { 3 } else { 1 } },
    }
}

/// Builds and sends the error, if one may be sent. Without an address to speak from, or a buffer, nobody is told.
fn complain<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>, parsed: &Parsed, error: IcmpError) {
    if !may_answer(parsed, error) || !w.st.limiters.allow(p.ctx.via.port, w.now) {
        return;
    }
    let source = match p.ctx.zone() {
        // Outside, nobody knows the pod range.
        zone::PLAIN => Some(p.ctx.ip.dst),
        _ => w.snap.local().and_then(|local| local.gateway(p.ctx.ip.src.is_ipv6())),
    };
    let Some(source) = source else { return };
    let Some(mut buf) = w.env.alloc() else { return };
    let answer = Answer { from: source, src_mac: our_mac(w, p), dst_mac: p.src_mac() };
    if icmp_error(&mut buf, &p.buf, parsed, error, &answer) {
        send(w, p, buf);
    } else {
        w.st.abandoned += 1;
    }
}

/// Our Ethernet address as the sender of a packet knows it. Behind a tunnel, `encap` writes the inner ones.
pub(super) fn our_mac<E: Env>(w: &World<'_, E>, p: &Pkt<E::Buf>) -> Mac {
    match (p.ctx.zone(), w.snap.local()) {
        (zone::PLAIN, Some(local)) => local.uplink_mac,
        _ => Mac::GATEWAY,
    }
}

/// Sends an answer of ours to where a packet came from.
pub(super) fn send<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>, mut buf: E::Buf) {
    buf.meta_mut().port = p.ctx.via.port;
    let mut ctx = Ctx::new(p.ctx.via.port);
    ctx.l3 = ETH_LEN as u16;
    ctx.hash = p.ctx.hash;
    ctx.pass = Some(Pass::gateway_reply());
    let mut news = Pkt { buf, ctx: &mut ctx };
    let next = match p.ctx.via.vtep {
        Some(vtep) => {
            news.ctx.out = if p.ctx.via.entry { Action::Enter(vtep) } else { Action::Encap(vtep) };
            encap::process(w, &mut news)
        }
        None => Next::Transmit(p.ctx.via.port, Pass::gateway_reply()),
    };
    w.finish(news, next);
}
