//! Tells a client that a Service takes no connection: a reset for TCP, port unreachable for all else.
//!
//! Uses: `ip`, `l4`, `via`. Sets: nothing; the packet is dropped.
//!
//! The answer speaks as the address that the client sent to, for no other means anything to it, and goes back the way the
//! packet came: by the pod's port or the host port, into the tunnel, or plain to the MAC that the frame came from. Not
//! answered are resets, fragments of TCP, later fragments of others, packets whose checksum is wrong (a damaged port number
//! is no reason to end a connection), and what exceeds the limits of the port that they came in by.
//!
//! Next: `encap` for clients behind a tunnel; drop.

use podplane_packet::build::{Answer, IcmpError, icmp_error, may_answer, may_reset, tcp_reset};
use podplane_packet::parse::{Parsed, Verdict, transport_ok};

use super::icmp_error::{our_mac, send};
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::{self, TCP};

pub(crate) const NODE: Node = Node {
    does: "Answers what a Service refuses with a TCP reset or port unreachable.",
    drops: &[DropReason::ServiceRefused],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if let Some(parsed) = headers::parsed(&p.buf, usize::from(p.ctx.l3))
        && may(w, p, &parsed)
        && transport_ok(&p.buf, &parsed) != Verdict::Bad
    {
        tell(w, p, &parsed);
    }
    Next::Drop(DropReason::ServiceRefused)
}

/// "Port unreachable" (RFC 792; RFC 4443 section 3.1).
const fn unreachable(v6: bool) -> IcmpError {
    IcmpError::Unreachable { code: if v6 { 4 } else { 3 } }
}

/// Whether the packet is one to answer, and there is a token for the answer.
fn may<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>, parsed: &Parsed) -> bool {
    let port = p.ctx.via.port;
    match p.ctx.ip.proto {
        TCP => may_reset(parsed) && w.st.limiters.allow_reset(port, w.now),
        _ => may_answer(parsed, unreachable(parsed.addrs.is_v6())) && w.st.limiters.allow(port, w.now),
    }
}

/// Builds and sends the answer. Without a buffer, nobody is told.
fn tell<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>, parsed: &Parsed) {
    let Some(mut buf) = w.env.alloc() else { return };
    let answer = Answer { from: p.ctx.ip.dst, src_mac: our_mac(w, p), dst_mac: p.src_mac() };
    let built = match p.ctx.ip.proto {
        TCP => tcp_reset(&mut buf, &p.buf, parsed, answer.src_mac, answer.dst_mac),
        _ => icmp_error(&mut buf, &p.buf, parsed, unreachable(parsed.addrs.is_v6()), &answer),
    };
    if built {
        send(w, p, buf);
    } else {
        w.st.abandoned += 1;
    }
}
