//! Judges the first packet of a flow, and mints the token without which nothing leaves.
//!
//! Uses: `key`, `hash`, `ip`, `via`, `class`, `out`, `then`, `awaits`; `rewrite`, where a Service chose the destination: the client's own
//! address and the backend's are what policy sees. Sets: `pass`.
//!
//! [`crate::judge`] holds the rules. What they forbid is dropped silently, counted at the pod whose rules forbid it, and
//! remembered for two seconds so that a flood costs little; packets do not prolong that, and a change of what it depends
//! on ends it. Nothing is remembered where that would take the room of flows that are allowed.
//!
//! What leads nowhere is judged, too, before anybody is told: by what it was sent to.
//!
//! Next: `masquerade`; `refuse` and `icmp_error`, where there is nothing to let go.

use podplane_tables::flow::{Action, Entry, Flags, Half, Key, TimeoutClass, Verdict};
use podplane_tables::mem::Pod;

use super::create::{payer, reply_zone};
use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::flows::Family;
use crate::graph::Node;
use crate::halves;
use crate::judge::{Connection, judge};
use crate::pass::Pass;
use crate::world::{AnyKey, Ctx};

pub(crate) const NODE: Node = Node {
    does: "Judges a new flow and mints the token to transmit.",
    drops: &[DropReason::PolicyIngress, DropReason::PolicyEgress],
    parses: false,
};

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    // A packet that waited is judged by what is in force now, but counts once.
    let counts = !std::mem::replace(&mut p.ctx.judged, true);
    match judge(w.snap, &Connection::opened_by(p.ctx), counts) {
        Ok(_) if p.ctx.awaits.is_some() => Next::Wait,
        Ok(accepted) => {
            p.ctx.pass = Some(Pass::by_policy(accepted));
            Next::To(p.ctx.then)
        }
        Err(denial) => {
            let reason = denial.direction.reason();
            match p.ctx.key {
                AnyKey::V4(key) => remember(w, p.ctx, key, reason),
                AnyKey::V6(key) => remember(w, p.ctx, key, reason),
            }
            Next::DropAt(denial.port, reason)
        }
    }
}

/// Caches a denial.
#[cold]
fn remember<A: Family, E: Env>(w: &mut World<'_, E>, ctx: &Ctx, key: Key<A>, reason: DropReason)
where
    Entry<A>: Pod,
{
    let local_port = payer(ctx);
    let (part, quota) = A::of(&mut w.st.flows);
    if part.table.is_scarce() || quota.is_half_used(local_port) {
        return;
    }
    let half = Half {
        key,
        verdict: Verdict { action: Action::Drop(reason as u8), rewrite: super::create::rewrite(ctx) },
        generation: w.snap.generation(),
        last_seen: w.now,
        peer: None,
        flags: halves::leading_to(Flags::INITIATOR.with(ctx.client), reply_zone(ctx.out)),
        class: TimeoutClass::Deny,
        local_port,
        vtep: ctx.via.vtep,
    };
    if let Ok(slot) = part.insert(ctx.hash, &half, quota) {
        let timeout = part.timeouts.of(TimeoutClass::Deny);
        part.arm(slot, w.now.wrapping_add(timeout));
    }
}
