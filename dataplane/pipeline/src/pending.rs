//! Packets that wait until a neighbour on the uplink's network is known.
//!
//! They wait before their flow is made, or untouched before `forward`, so they walk again from `flow` under the snapshot
//! that knows the neighbour.

use std::net::IpAddr;

use podplane_tables::reached;

use crate::drop::DropReason;
use crate::engine::walk;
use crate::env::{Env, Millis};
use crate::graph::NodeId;
use crate::world::{Held, Pkt, World};

/// How many packets wait at a worker.
const ALL: usize = 256;
/// How many of them for one neighbour.
const EACH: usize = 16;
/// For how long.
const PATIENCE: Millis = 1000;

/// A worker's waiting packets, in order of arrival.
#[derive(Debug)]
pub(crate) struct Pending<B> {
    waiting: Vec<Waiting<B>>,
    /// Room for those that are set free; empty between rounds.
    freed: Vec<Waiting<B>>,
    /// The snapshot under which they wait.
    generation: u32,
}

#[derive(Debug)]
struct Waiting<B> {
    packet: Held<B>,
    neighbour: IpAddr,
    until: Millis,
}

impl<B> Pending<B> {
    pub(crate) fn new() -> Self {
        Pending { waiting: Vec::with_capacity(ALL), freed: Vec::with_capacity(ALL), generation: 0 }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the first of them gives up.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        self.waiting.first().map(|w| w.until)
    }
}

/// Takes a packet in and has its neighbour resolved.
pub(crate) fn hold<E: Env>(w: &mut World<'_, E>, packet: Pkt<'_, E::Buf>) {
    let Some(neighbour) = packet.ctx.awaits else {
        return w.drop(packet.ctx.via.port, DropReason::NeighbourUnresolved);
    };
    let pending = &mut w.st.pending;
    let of_this = pending.waiting.iter().filter(|p| p.neighbour == neighbour).count();
    if of_this == 0 {
        w.env.resolve(neighbour);
    }
    if pending.waiting.len() >= ALL || of_this >= EACH {
        return w.drop(packet.ctx.via.port, DropReason::NeighbourQueueFull);
    }
    pending.waiting.push(Waiting { packet: packet.hold(), neighbour, until: w.now.wrapping_add(PATIENCE) });
}

/// Sends on what waits no longer in vain, and drops what waited too long.
pub(crate) fn run<E: Env>(w: &mut World<'_, E>) {
    if w.st.pending.waiting.is_empty() {
        return;
    }
    let news = w.st.pending.generation != w.snap.generation();
    w.st.pending.generation = w.snap.generation();
    let mut freed = std::mem::take(&mut w.st.pending.freed);
    let (outside, now) = (w.snap.outside(), w.now);
    let goes = |p: &mut Waiting<E::Buf>| reached(now, p.until) || news && outside.is_resolved(p.neighbour);
    freed.extend(w.st.pending.waiting.extract_if(.., goes));
    for Waiting { mut packet, neighbour, .. } in freed.drain(..) {
        if w.snap.outside().is_resolved(neighbour) {
            packet.ctx.slot = None;
            packet.ctx.rewrite = None;
            packet.ctx.pass = None;
            let Held { buf, mut ctx } = packet;
            walk(w, Pkt { buf, ctx: &mut ctx }, NodeId::Flow);
        } else {
            w.drop(packet.ctx.via.port, DropReason::NeighbourUnresolved);
        }
    }
    w.st.pending.freed = freed;
}
