//! Gives the packet the addresses and ports that its flow's verdict says.
//!
//! Uses: `rewrite`, `way`, `ip`, `l4`. Sets: `ip`, `l4` to what they become.
//!
//! The last thing before the way out: what is said to the sender about a packet quotes it as it was sent. An ICMP error is
//! translated together with the packet that it quotes. What cannot be translated is dropped, never passed as it is.
//!
//! Next: what `forward` chose: `deliver`, `encap`, `outside`, `fragment`.

use podplane_packet::nat::{NatError, Part, Place, translate, translate_error};

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers::SCTP;

pub(crate) const NODE: Node = Node {
    does: "Rewrites addresses, ports and their checksums.",
    drops: &[
        DropReason::Untranslatable,
        DropReason::BadOffload,
        DropReason::SctpFragment,
        DropReason::IcmpQuoteMalformed,
    ],
    parses: false,
};

#[inline]
pub(crate) fn process<E: Env>(_w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(new) = &p.ctx.rewrite else { return Next::To(p.ctx.way) };
    let part = match p.ctx.ip.frag {
        None => Part::Whole,
        Some(f) if f.offset == 0 => Part::First,
        Some(_) => Part::Later,
    };
    // Nobody could put the packet together: its first fragment's checksum cannot be that of other ports.
    let ports = (new.sport, new.dport) != (p.ctx.l4.sport, p.ctx.l4.dport);
    if p.ctx.ip.proto == SCTP && p.ctx.ip.frag.is_some() && ports {
        return Next::Drop(DropReason::SctpFragment);
    }
    let at = Place { l3: p.ctx.l3.into(), l4: p.ctx.l4_at(), proto: p.ctx.ip.proto, part };
    let done = if p.ctx.l4.error { translate_error(&mut p.buf, &at, new) } else { translate(&mut p.buf, &at, new) };
    if let Err(e) = done {
        return Next::Drop(reason(e));
    }
    p.ctx.ip.dst = new.dst;
    if !p.ctx.l4.error {
        p.ctx.ip.src = new.src;
        (p.ctx.l4.sport, p.ctx.l4.dport) = (new.sport, new.dport);
    }
    Next::To(p.ctx.way)
}

/// The drop reason of each refusal.
#[cold]
fn reason(e: NatError) -> DropReason {
    match e {
        NatError::Family | NatError::Headers | NatError::Routed => DropReason::Untranslatable,
        NatError::Partial => DropReason::BadOffload,
        NatError::SctpFragment => DropReason::SctpFragment,
        NatError::Quote => DropReason::IcmpQuoteMalformed,
    }
}
