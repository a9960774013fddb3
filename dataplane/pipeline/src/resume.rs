//! A worker's flows apart from its engine: control fills them with those of a former process and lends them to the
//! workers before the first configuration is in force. Until then there are no flows.

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::WorkerId;
use podplane_tables::flow::{Adopted, FlowTable, OldFlows, Pair, Renumber, ResumeError, Slot, V4, V6};

use crate::engine::Engine;
use crate::env::Millis;
use crate::flows::{Family, Flows};

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

/// Takes the connections of a former process into empty stores, one for each worker by number. Afterwards the snapshot
/// that comes into force must have stamped everything as changed, so that each is judged before its first packet goes
/// anywhere.
///
/// # Errors
/// The file cannot be read to its end; what was read before is taken.
pub fn resume(
    stores: &mut [FlowStore],
    old: &OldFlows,
    renumber: &Renumber,
    now: Millis,
) -> Result<Adopted, ResumeError> {
    let v4 = adopt::<V4>(stores, old, renumber, now);
    let v6 = adopt::<V6>(stores, old, renumber, now);
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
) -> Result<Adopted, ResumeError> {
    old.pairs::<A>(renumber, |pair: &Pair<A>| {
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
        }
        taken
    })
}

/// When the first look at a flow is due: neighbouring slots far apart.
fn first_look(slot: Slot) -> Millis {
    slot.index().wrapping_mul(0x9e37_79b1) % SPREAD
}
