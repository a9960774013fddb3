//! A worker's flows apart from its engine: control fills them with those of a former process and lends them to the
//! workers before the first configuration is in force. Until then there are no flows.

use std::collections::HashSet;
use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::flow::{
    Action, Addr, Adopted, FlowTable, Half, OldFlows, Pair, Renumber, ResumeError, Slot, V4, V6,
};

use crate::engine::Engine;
use crate::env::Millis;
use crate::flows::{Family, Flows};
use crate::halves::BARRED;
use crate::snapshot::services::Served;
use crate::world::zone;

/// Over which time the first looks at adopted flows are spread, in milliseconds, so that they do not come at once.
const SPREAD: Millis = 16_384;

/// All flows of one worker, to be exchanged with those of its engine.
#[derive(Debug)]
pub struct FlowStore(Flows);

impl FlowStore {
    /// Flows in these tables; `seed` as in [`EngineConfig`](crate::EngineConfig).
    pub fn new(
        worker: WorkerId,
        tables: (FlowTable<V4>, FlowTable<V6>),
        port_quota: u32,
        seed: [u64; 2],
        now: Millis,
    ) -> FlowStore {
        FlowStore(Flows::with_tables(worker, tables, port_quota, seed, now))
    }

    /// How many half-entries of both families it has room for.
    pub fn capacity(&self) -> usize {
        self.0.v4.table.capacity() + self.0.v6.table.capacity()
    }
}

impl<B: PacketBuf> Engine<B> {
    /// Gives the engine these flows and gets its own. Costs no more than a copy of some words.
    pub fn exchange_flows(&mut self, store: &mut FlowStore) {
        let timeouts = self.flows().v4.timeouts;
        std::mem::swap(self.flows_mut(), &mut store.0);
        self.set_timeouts(timeouts);
    }
}

/// Takes the connections of a former process into empty stores, one for each worker by number, and notes what they were
/// served by; and what bars the servers of connections that policy ended ([`crate::forbid`]). Afterwards the snapshot that comes into force must have stamped everything as changed, so that each is judged
/// before its first packet goes anywhere, and must [remember](crate::Snapshot::remember) what was served.
///
/// # Errors
/// The file cannot be read to its end; what was read before is taken.
pub fn resume(
    stores: &mut [FlowStore],
    old: &OldFlows,
    renumber: &Renumber,
    now: Millis,
    served: &mut Served,
) -> Result<Adopted, ResumeError> {
    let mut seen = Seen::default();
    let v4 = adopt::<V4>(stores, old, renumber, now, &mut seen);
    let v6 = adopt::<V6>(stores, old, renumber, now, &mut seen);
    *served = Served {
        frontends: seen.frontends.into_iter().collect(),
        host_backends: seen.host_backends.into_iter().collect(),
    };
    for Flows { v4, v6, .. } in stores.iter_mut().map(|store| &mut store.0) {
        v4.table.settle();
        v6.table.settle();
    }
    Ok(v4?.and(v6?))
}

fn adopt<A: Family>(
    stores: &mut [FlowStore],
    old: &OldFlows,
    renumber: &Renumber,
    now: Millis,
    seen: &mut Seen,
) -> Result<Adopted, ResumeError> {
    let mut bars = Vec::new();
    let take = |pair: &Pair<A>| {
        let taken = pair.adopt(|worker, put| {
            if let Some(store) = stores.get_mut(worker.index()) {
                let (part, quota) = A::of(&mut store.0);
                put(&mut part.table, quota);
            }
        });
        // The initiator's half owns the lifetime of both.
        if let Some(store) = stores.get_mut(pair.initiator_at.worker.index()).filter(|_| taken) {
            let slot = pair.initiator_at.slot;
            A::of(&mut store.0).0.arm(slot, now.wrapping_add(first_look(slot)));
            seen.note(&pair.initiator);
        }
        taken
    };
    let adopted = old.pairs::<A>(renumber, BARRED, take, |at, half| bars.push((at, *half)));
    // A connection that is there bars nothing, so those go first.
    for (at, half) in bars {
        let Some(store) = stores.get_mut(at.worker.index()) else { continue };
        let (part, quota) = A::of(&mut store.0);
        if part.table.adopt(at.slot, at.sequence, &half, quota).is_ok() {
            part.arm(at.slot, now.wrapping_add(first_look(at.slot)));
        }
    }
    adopted
}

/// What the adopted flows were served by, each once.
#[derive(Default)]
struct Seen {
    frontends: HashSet<(IpAddr, u8, u16)>,
    host_backends: HashSet<(IpAddr, u8, u16)>,
}

impl Seen {
    /// Notes whom a client outside reached, by its direction of a flow. What pods and the node send comes to us in any
    /// case.
    fn note<A: Addr>(&mut self, half: &Half<A>) {
        let (key, rewrite) = (&half.key, half.verdict.rewrite);
        let Some(new) = rewrite.filter(|new| key.zone == zone::PLAIN && (new.dst, new.dport) != (key.dst, key.dport))
        else {
            return;
        };
        self.frontends.insert((key.dst.ip(), key.proto, key.dport));
        if half.verdict.action == Action::Forward(PortId::HOST) {
            self.host_backends.insert((new.dst.ip(), key.proto, new.dport));
        }
    }
}

/// When the first look at a flow is due: neighbouring slots far apart.
fn first_look(slot: Slot) -> Millis {
    slot.index().wrapping_mul(0x9e37_79b1) % SPREAD
}

#[cfg(test)]
mod tests {
    use podplane_tables::flow::{Flags, Key, Rewrite, TimeoutClass, Verdict};

    use super::*;

    #[test]
    fn clients_outside_tell_what_was_served() {
        let (client, front, back) = ([198, 51, 100, 9], [203, 0, 113, 5], [10, 244, 1, 10]);
        let half = |zone, dst, action| Half::<V4> {
            key: Key::new(client, front, 4000, 80, 6, zone),
            verdict: Verdict { action, rewrite: Some(Rewrite { src: client, dst, sport: 4000, dport: 8080 }) },
            generation: 1,
            last_seen: 0,
            peer: None,
            flags: Flags::INITIATOR,
            class: TimeoutClass::TcpEstablished,
            local_port: PortId(5),
            vtep: None,
        };
        let (pod, host) = (Action::Forward(PortId(5)), Action::Forward(PortId::HOST));
        let mut seen = Seen::default();
        seen.note(&half(zone::POD, back, pod));
        seen.note(&Half { verdict: Verdict { action: pod, rewrite: None }, ..half(zone::PLAIN, back, pod) });
        assert!(seen.frontends.is_empty(), "a pod's, and one that no Service has led");
        seen.note(&half(zone::PLAIN, back, pod));
        assert_eq!((seen.frontends.len(), seen.host_backends.len()), (1, 0));
        seen.note(&half(zone::PLAIN, back, host));
        assert!(seen.frontends.contains(&(front.into(), 6, 80)) && seen.frontends.len() == 1);
        assert!(seen.host_backends.contains(&(back.into(), 6, 8080)));
    }
}
