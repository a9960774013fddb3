//! Judges the first packet of a flow, and mints the token without which nothing leaves.
//!
//! Uses: `key`, `via`, `out`; `rewrite`, where a Service chose the destination: the client's own address and the
//! backend's are what policy sees. Sets: `pass`.
//!
//! There are no policies yet, so every flow is allowed; NetworkPolicy takes its place here, and only here.
//!
//! Next: `masquerade`.

use super::{Next, Pkt, World};
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::pass::Pass;

pub(crate) const NODE: Node =
    Node { does: "Judges a new flow and mints the token to transmit.", drops: &[], parses: false };

pub(crate) fn process<E: Env>(_w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    p.ctx.pass = Some(Pass::by_policy());
    Next::To(NodeId::Masquerade)
}

/// The token for a packet whose flow was allowed before, under a snapshot that still holds for it.
#[inline]
pub(super) fn of_cached_verdict() -> Pass {
    Pass::by_policy()
}
