//! The flows of a worker, for people: copied in bounded chunks between two bursts.

use std::net::IpAddr;

use podplane_packet::id::PortId;
use podplane_packet::nat::Tuple;
use podplane_tables::VtepIndex;
use podplane_tables::flow::{Action, Addr, Entry, Flags, FlowTable, HalfRef, TimeoutClass};
use podplane_tables::mem::Pod;

use crate::engine::Engine;
use crate::env::Millis;
use crate::flows::Flows;
use crate::halves::BARRED;
use crate::world::zone;
use podplane_packet::buf::PacketBuf;

/// How packets of a direction come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrives {
    /// From a pod.
    Pod,
    /// From the node's own stack.
    Host,
    /// Through the tunnel.
    Tunnel,
    /// Plain by the uplink.
    Plain,
    /// Through the tunnel from the entry node of a Service's client, or back to it.
    Entry,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Its half-entry.
    pub id: HalfRef,
    /// The half-entry of the direction that opened the flow: this one's, or the other's. Equal in both directions. `None`:
    /// a cached drop.
    pub creator: Option<HalfRef>,
    /// Whether this is the direction that opened the flow.
    pub opens: bool,
    /// How its packets come in.
    pub arrives: Arrives,
    /// The tuple that they come with.
    pub tuple: Tuple,
    /// The one that they leave with.
    pub leaves: Tuple,
    /// The IP protocol.
    pub proto: u8,
    /// Where they go. The number of a drop indexes [`DropReason::ALL`](crate::DropReason::ALL).
    pub action: Action,
    /// Its state, by the silence that ends it.
    pub class: TimeoutClass,
    /// Milliseconds since the last packet.
    pub idle: Millis,
    /// The port of this node whose flow it is.
    pub local_port: PortId,
    /// The peer node that it depends on.
    pub vtep: Option<VtepIndex>,
}

/// A place in the walk over a worker's flows; the default is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    v6: bool,
    next: u32,
}

impl<B: PacketBuf> Engine<B> {
    /// Tells of the flows among the next `count` places of the tables from `cursor` on, which it moves. `false`: that was
    /// the end. Flows that come or go meanwhile may be told or not; none is told twice.
    pub fn dump(&self, now: Millis, cursor: &mut Cursor, count: u32, tell: &mut dyn FnMut(FlowView)) -> bool {
        let flows = self.flows();
        let table_end = |capacity: usize| capacity as u32;
        if cursor.v6 {
            chunk(flows, &flows.v6.table, now, cursor, count, tell);
            return cursor.next <= table_end(flows.v6.table.capacity());
        }
        chunk(flows, &flows.v4.table, now, cursor, count, tell);
        if cursor.next > table_end(flows.v4.table.capacity()) {
            *cursor = Cursor { v6: true, next: 0 };
        }
        true
    }
}

fn chunk<A: Addr>(
    flows: &Flows,
    table: &FlowTable<A>,
    now: Millis,
    cursor: &mut Cursor,
    count: u32,
    tell: &mut dyn FnMut(FlowView),
) where
    Entry<A>: Pod,
{
    let from = cursor.next;
    cursor.next = from.saturating_add(count.max(1));
    for slot in table.live(from, count.max(1) as usize) {
        let (Some(entry), Some(id)) = (table.get(slot), table.half_ref(flows.me, slot)) else { continue };
        tell(view(entry, id, now));
    }
}

fn view<A: Addr>(entry: &Entry<A>, id: HalfRef, now: Millis) -> FlowView {
    let key = entry.key();
    let (src, dst): (IpAddr, IpAddr) = (key.src.ip(), key.dst.ip());
    let tuple = Tuple { src, dst, sport: key.sport, dport: key.dport };
    let opens = entry.flags().has(Flags::INITIATOR) && !entry.flags().has(BARRED);
    FlowView {
        id,
        creator: entry.peer().map(|peer| if opens { id } else { peer }),
        opens,
        arrives: match key.zone {
            zone::POD => Arrives::Pod,
            zone::HOST => Arrives::Host,
            zone::TUNNEL => Arrives::Tunnel,
            zone::PLAIN => Arrives::Plain,
            _ => Arrives::Entry,
        },
        tuple,
        leaves: entry.rewrite().map_or(tuple, |n| Tuple {
            src: n.src.ip(),
            dst: n.dst.ip(),
            sport: n.sport,
            dport: n.dport,
        }),
        proto: key.proto,
        action: entry.action(),
        class: entry.class(),
        idle: now.wrapping_sub(entry.last_seen()),
        local_port: entry.local_port(),
        vtep: entry.vtep(),
    }
}
