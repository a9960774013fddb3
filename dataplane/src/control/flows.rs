//! The flow memory: what a former process left goes to the workers with the first configuration, and what this one will
//! leave is given to the agent to keep.
//!
//! Until the first configuration the workers have next to no flow tables, and need none. So control fills the real
//! ones at leisure: no worker waits for what a stranger's file holds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::Snapshot;
use podplane_pipeline::resume::{FlowStore, resume};
use podplane_pipeline::snapshot::services::Served;
use podplane_tables::fib::NeighbourIndex;
use podplane_tables::flow::{FlowError, FlowMemory, MemoryConfig, OldFlows, Present, Rejected, Renumber};
use podplane_tables::mem::{Backing, Want};
use rustix::time::{ClockId, clock_gettime};

use super::table::Attached;
use crate::clock::{Clock, millis};
use crate::memory::Division;

/// The flow memory of this process, and that of the one before.
#[derive(Debug)]
pub struct FlowKeeper {
    memory: FlowMemory,
    clock: Clock,
    /// The workers' tables, until they get them.
    stores: Option<Vec<FlowStore>>,
    old: Option<Arc<OldFlows>>,
}

/// Who the indices of the configuration in force are.
pub struct Users<'a> {
    /// Peers.
    pub snapshot: &'a Snapshot,
    /// Pods' ports by endpoint.
    pub ports: &'a std::collections::BTreeMap<String, Attached>,
    /// Neighbours outside, by index; a free index holds the unspecified address.
    pub neighbours: &'a [IpAddr],
}

impl FlowKeeper {
    /// Takes the memory of all workers' flows.
    ///
    /// # Errors
    /// It is not there.
    pub fn make(
        workers: u8,
        division: &Division,
        seed: [u64; 2],
        names_key: [u64; 2],
        hugepages: bool,
        clock: Clock,
    ) -> Result<FlowKeeper, FlowError> {
        let now = millis(clock.nanos());
        let mut memory = FlowMemory::new(MemoryConfig {
            workers,
            capacity: division.flows,
            memory: if hugepages { Want::Huge } else { Want::Base },
            seed,
            names_key,
            origin: monotonic_millis().wrapping_sub(u64::from(now)),
        })?;
        let backing = memory.backing();
        if hugepages && backing != Backing::Huge {
            tracing::warn!(
                ?backing,
                "too few hugepages are free for the flows: lookups are slower; reserve an eighth \
                 more than --memory, for a restarted dataplane takes its memory before it can give the former one's back"
            );
        }
        let store = |me| {
            let tables = memory.tables(me, seed)?;
            Ok(FlowStore::new(me, tables, division.port_quota, seed, now))
        };
        let stores = (0..workers).map(WorkerId).map(store).collect::<Result<Vec<_>, FlowError>>()?;
        Ok(FlowKeeper { memory, clock, stores: Some(stores), old: None })
    }

    /// The file for the agent to keep. `None`: there is none, and the flows end with the process.
    pub fn file(&self) -> Option<OwnedFd> {
        let file = self.memory.file()?.try_clone_to_owned();
        file.inspect_err(|error| tracing::warn!(%error, "the flows will not outlive the process")).ok()
    }

    /// Half-entries of both families that each worker has room for.
    pub fn capacity(&self) -> usize {
        2 * self.memory.config().capacity
    }

    /// An agent gives what it kept for us. Once the workers have their flows it is too late for that.
    pub fn offered(&mut self, file: OwnedFd) {
        if self.stores.is_none() {
            return;
        }
        match OldFlows::open(file, self.memory.config()) {
            Ok(old) => {
                self.memory.set_seed(old.seed());
                self.old = Some(Arc::new(old));
            }
            Err(error) => tracing::warn!(%error, "the flows of the former process end"),
        }
    }

    /// The former process' flows, until the workers have them.
    pub fn old(&self) -> Option<&Arc<OldFlows>> {
        self.old.as_ref()
    }

    /// Whether the workers have no flow tables yet.
    pub fn is_waiting(&self) -> bool {
        self.stores.is_some()
    }

    /// The workers' flow tables, those of the former process in them, which count as judged under `users.snapshot`: it
    /// must be followed by one that has stamped everything, and remembers what was served, before a worker forwards. Once.
    pub fn begin(&mut self, users: &Users<'_>) -> Option<(Vec<FlowStore>, Served)> {
        let mut stores = self.stores.take()?;
        let served = self.old.take().map(|old| self.resume(&mut stores, &old, users));
        Some((stores, served.unwrap_or_default()))
    }

    fn resume(&self, stores: &mut [FlowStore], old: &OldFlows, users: &Users<'_>) -> Served {
        let (began, now) = (Instant::now(), millis(self.clock.nanos()));
        let ports: HashMap<_, PortId> = users.ports.iter().map(|(id, port)| (old.identity(id), port.id)).collect();
        let vteps: HashMap<IpAddr, _> = users.snapshot.vteps().map(|(index, vtep)| (vtep.addr, index)).collect();
        let neighbours: HashMap<IpAddr, _> =
            indexed(users.neighbours).map(|(index, address)| (address, index)).collect();
        let present = Present { origin: self.memory.config().origin, now, generation: users.snapshot.generation() };
        let renumber = Renumber::new(
            old,
            present,
            |identity| ports.get(&identity).copied(),
            |address| vteps.get(&address).copied(),
            |address| neighbours.get(&address).copied(),
        );
        let mut served = Served::default();
        match resume(stores, old, &renumber, now, &mut served) {
            Ok(adopted) => tracing::info!(
                flows = adopted.taken,
                unpaired = adopted.rejected(Rejected::Unpaired),
                gone = adopted.rejected(Rejected::Gone),
                no_room = adopted.rejected(Rejected::NoRoom),
                millis = began.elapsed().as_millis() as u64,
                "flows of the former process go on"
            ),
            Err(error) => tracing::error!(%error, "flows of the former process are lost"),
        }
        served
    }

    /// Notes who the indices are, before workers use them.
    pub fn name(&self, users: &Users<'_>) {
        let names = self.memory.names();
        users.ports.iter().for_each(|(id, port)| names.port(port.id, id, port.home));
        users.snapshot.vteps().for_each(|(index, vtep)| names.vtep(index, vtep.addr));
        indexed(users.neighbours).for_each(|(index, address)| names.neighbour(index, address));
    }
}

fn indexed(neighbours: &[IpAddr]) -> impl Iterator<Item = (NeighbourIndex, IpAddr)> + '_ {
    let all = neighbours.iter().take(NeighbourIndex::MAX).enumerate();
    all.filter(|(_, a)| !a.is_unspecified()).map(|(i, address)| (NeighbourIndex(i as u16), *address))
}

/// The machine's clock that all processes share.
fn monotonic_millis() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
