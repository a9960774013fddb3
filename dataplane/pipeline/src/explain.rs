//! What would become of an imaginary packet that opens a flow.
//!
//! It is taken through the graph's own nodes under a snapshot that is in force, by a worker of its own that has no flows
//! yet, up to where its flow would be made. Nothing leaves, nothing is counted, and no worker hears of it. Only what a
//! worker remembers beside the snapshot is missing: the backend of a client with session affinity, a node's lower MTU.

mod packet;

use std::net::IpAddr;
use std::sync::Arc;

use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::nat::Tuple;
use podplane_tables::VtepIndex;
use podplane_tables::fib::NextHop;
use podplane_tables::flow::Action;
use podplane_tables::mem::Want;
use podplane_tables::reasm::Limits;

use crate::counters::WorkerCounters;
use crate::drop::DropReason;
use crate::engine::{Engine, EngineConfig, EngineError};
use crate::env::{Env, Millis};
use crate::graph::{NodeId, process};
use crate::halves::HalfMsg;
use crate::headers;
use crate::judge::{Connection, Judgement, peek};
use crate::nodes::{Next, Pkt, World};
use crate::pass::Pass;
use crate::snapshot::Snapshot;
use crate::snapshot::services::{ServiceId, Target};
use crate::world::Ctx;

use packet::Page;

pub use packet::Imagined;

/// Half-entries of the worker that lives for one packet.
const FLOWS: usize = 64;

/// What would become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The port that it comes in by.
    pub enters: PortId,
    /// The peer whose tunnel it comes through.
    pub tunnel: Option<VtepIndex>,
    /// The nodes that it passes.
    pub path: Vec<NodeId>,
    /// Its end.
    pub end: End,
    /// Its tuple where it ends: translated as far as it came.
    pub tuple: Tuple,
    /// The Service that it is sent to, and among how many backends one was chosen.
    pub service: Option<(ServiceId, usize)>,
    /// What the rules of this node's pods say, as far as they were asked.
    pub judged: Vec<Judgement>,
}

/// How a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its flow is made, and it goes there.
    Leaves(Action),
    /// It is dropped.
    Dropped(DropReason),
    /// This node of the graph answers it, or passes it to the node's own stack as it is.
    Answered(NodeId),
    /// It waits for a neighbour's Ethernet address.
    Waits(Option<IpAddr>),
}

/// The world around a worker that does not exist.
struct Nowhere;

impl Env for Nowhere {
    type Buf = Page;

    fn now(&self) -> Millis {
        0
    }

    fn alloc(&mut self) -> Option<Page> {
        None
    }

    fn transmit(&mut self, _port: PortId, _buf: Page, _pass: Pass) {}

    fn hand_over(&mut self, _to: WorkerId, buf: Page) -> Result<(), Page> {
        Err(buf)
    }

    fn push_half(&mut self, _to: WorkerId, msg: HalfMsg) -> Result<(), HalfMsg> {
        Err(msg)
    }
}

/// Says what would become of a packet that comes in where its source's packets come in.
///
/// # Errors
/// There is no memory for a worker.
pub fn explain(snap: &Snapshot, imagined: &Imagined) -> Result<Fate, EngineError> {
    let mut worker = WorkerId(0);
    loop {
        let mut engine = Engine::new(EngineConfig {
            worker,
            workers: snap.workers(),
            flow_capacity: FLOWS,
            port_quota: FLOWS as u32,
            memory: Want::Base,
            fragments: Limits::default(),
            seed: snap.seed(),
            now: 0,
            counters: Arc::new(WorkerCounters::new(1)),
        })?;
        match attempt(snap, &mut engine, imagined) {
            Ok(fate) => return Ok(fate),
            // Its owner takes it from the beginning, as a worker does. Owners do not hand on.
            Err(owner) if owner != worker => worker = owner,
            Err(_) => {
                let (enters, tunnel) = entry(snap, imagined.source);
                let end = End::Dropped(DropReason::HandOverQueueFull);
                return Ok(Fate { end, ..Fate::new(enters, tunnel, imagined) });
            }
        }
    }
}

impl Fate {
    fn new(enters: PortId, tunnel: Option<VtepIndex>, imagined: &Imagined) -> Fate {
        Fate {
            enters,
            tunnel,
            path: Vec::new(),
            end: End::Dropped(DropReason::NotConfigured),
            tuple: imagined.tuple(),
            service: None,
            judged: Vec::new(),
        }
    }
}

/// Where packets of an address come in.
fn entry(snap: &Snapshot, source: IpAddr) -> (PortId, Option<VtepIndex>) {
    match snap.route(source) {
        Some(NextHop::Local(port)) => (port, None),
        Some(NextHop::Host) => (PortId::HOST, None),
        Some(NextHop::Vtep(vtep) | NextHop::Node(vtep)) => (PortId::UPLINK, Some(vtep)),
        _ if source.is_loopback() => (PortId::HOST, None),
        _ => (PortId::UPLINK, None),
    }
}

/// Takes the packet as far as it comes with one worker. `Err`: it is another's.
fn attempt(snap: &Snapshot, engine: &mut Engine<Page>, imagined: &Imagined) -> Result<Fate, WorkerId> {
    let (enters, tunnel) = entry(snap, imagined.source);
    let mut fate = Fate::new(enters, tunnel, imagined);
    let Some(port) = snap.port(enters) else {
        fate.end = End::Dropped(DropReason::UnknownPort);
        return Ok(fate);
    };
    // What comes in by the uplink is sent to the node, everything else to the gateway.
    let (to, from) = match enters {
        PortId::UPLINK if tunnel.is_none() => (port.mac, Mac::default()),
        _ => (Mac::GATEWAY, port.mac),
    };
    let mut ctx = Ctx::new(enters);
    let mut p = Pkt { buf: imagined.frame(enters, to, from), ctx: &mut ctx };
    let mut first = NodeId::Classify;
    if tunnel.is_some() {
        // Its outer headers were taken off.
        p.ctx.via.vtep = tunnel;
        p.ctx.class = port.kind;
        p.ctx.l3 = packet::ETHERNET as u16;
        first = NodeId::Owner;
        if let Err(reason) = headers::read_into(&p.buf, packet::ETHERNET, &mut p.ctx.ip, &mut p.ctx.l4) {
            fate.end = End::Dropped(reason);
            return Ok(fate);
        }
    }
    let mut w = World { snap, env: &mut Nowhere, st: engine.state_mut(), now: 0 };
    fate.end = walk(&mut w, &mut p, first, &mut fate)?;
    if fate.path.contains(&NodeId::Flow) {
        fate.tuple = p.ctx.new_tuple();
    }
    Ok(fate)
}

/// Walks from node to node up to where the flow would be made.
fn walk(w: &mut World<'_, Nowhere>, p: &mut Pkt<'_, Page>, first: NodeId, fate: &mut Fate) -> Result<End, WorkerId> {
    let mut node = first;
    loop {
        fate.path.push(node);
        let next = match node {
            // These answer by packets, of which there shall be none.
            NodeId::Arp
            | NodeId::Nd
            | NodeId::Gateway
            | NodeId::Refuse
            | NodeId::Reflect
            | NodeId::IcmpError
            | NodeId::L2Pass => return Ok(End::Answered(node)),
            NodeId::Create => return Ok(End::Leaves(p.ctx.out)),
            // The same judgement, but nothing is counted.
            NodeId::Policy => {
                fate.judged.extend(peek(w.snap, Connection::opened_by(p.ctx)));
                match fate.judged.iter().find(|judgement| !judgement.accepts()) {
                    Some(denial) => return Ok(End::Dropped(denial.direction.reason())),
                    None if p.ctx.awaits.is_some() => Next::Wait,
                    None => Next::To(p.ctx.then),
                }
            }
            _ => process(node, w, p),
        };
        if node == NodeId::Service {
            fate.service = service(w.snap, p);
        }
        match next {
            Next::To(next) => node = next,
            Next::HandOver(owner) => return Err(owner),
            Next::Drop(reason) | Next::DropAt(_, reason) => return Ok(End::Dropped(reason)),
            Next::Wait => return Ok(End::Waits(p.ctx.awaits)),
            // Neither fragments nor finished packets come this way.
            Next::Transmit(..) | Next::Hold | Next::Replaced => return Ok(End::Answered(node)),
        }
    }
}

/// The Service that a packet was sent to.
fn service(snap: &Snapshot, p: &Pkt<'_, Page>) -> Option<(ServiceId, usize)> {
    let frontend = snap.services().find(p.ctx.ip.dst, p.ctx.ip.proto, p.ctx.l4.dport)?;
    let outside = p.ctx.zone() == crate::world::zone::PLAIN;
    let backends = match frontend.target(outside) {
        Target::Set(set) => set.len(),
        Target::Reject | Target::Drop => 0,
    };
    Some((frontend.service, backends))
}

#[cfg(test)]
mod tests;
