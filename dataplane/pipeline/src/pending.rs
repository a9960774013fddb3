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
use crate::snapshot::PortClass;
use crate::world::{Held, Pkt, World};

/// How many packets wait at a worker.
const ALL: usize = 256;
/// How many of them for one neighbour.
const EACH: usize = 16;
/// How many of one pod's: a pod that scans the network must not keep the others from theirs, nor control from its work.
const POD: usize = 32;
/// How many of what came by the uplink or the host port.
const SHARED: usize = ALL / 2;
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
    let port = packet.ctx.via.port;
    let (mut of_this, mut of_port) = (0, 0);
    for other in &pending.waiting {
        of_this += usize::from(other.neighbour == neighbour);
        of_port += usize::from(other.packet.ctx.via.port == port);
    }
    let share = if packet.ctx.class == PortClass::Pod { POD } else { SHARED };
    if of_port >= share {
        return w.drop(port, DropReason::NeighbourQueueFull);
    }
    if of_this == 0 {
        w.env.resolve(neighbour, port);
    }
    if pending.waiting.len() >= ALL || of_this >= EACH {
        return w.drop(port, DropReason::NeighbourQueueFull);
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
    // They are patient for equally long, so the first one gives up first.
    if !news && w.st.pending.next_deadline().is_some_and(|first| !reached(w.now, first)) {
        return;
    }
    let mut freed = std::mem::take(&mut w.st.pending.freed);
    let (outside, now) = (w.snap.outside(), w.now);
    let goes = |p: &mut Waiting<E::Buf>| reached(now, p.until) || news && outside.is_resolved(p.neighbour);
    freed.extend(w.st.pending.waiting.extract_if(.., goes));
    for Waiting { mut packet, neighbour, .. } in freed.drain(..) {
        if w.snap.outside().is_resolved(neighbour) {
            packet.ctx.slot = None;
            packet.ctx.rewrite = None;
            packet.ctx.pass = None;
            packet.ctx.awaits = None;
            let Held { buf, mut ctx } = packet;
            walk(w, Pkt { buf, ctx: &mut ctx }, NodeId::Flow);
        } else {
            w.drop(packet.ctx.via.port, DropReason::NeighbourUnresolved);
        }
    }
    w.st.pending.freed = freed;
}
