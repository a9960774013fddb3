//! From wanted to compiled Services: checks, sharing, and what has to be stamped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use podplane_tables::changed::ChangedCells;
use podplane_tables::flow::siphash13;
use podplane_tables::maglev::Maglev;

use super::super::SnapshotError;
use super::super::nets::{Nets, number, usable};
use super::shards::Map;
use super::{
    Backend, Cell, Choice, FORMER, Frontend, FrontendConfig, FrontendKind, ServiceConfig, ServiceId, ServiceMap,
    Services, Set, Socket, Target,
};

/// The Maglev tables in use, by the names of their backends. Touched by control alone, while it compiles.
#[derive(Debug, Default)]
pub(super) struct Tables {
    known: Mutex<Known>,
    /// Bytes of all that live, those of former snapshots that a worker may still hold among them.
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Known {
    tables: HashMap<Box<[u64]>, Weak<Table>>,
    /// How many there were when the dead ones were last thrown away.
    cleaned: usize,
}

/// A Maglev table, whose bytes are counted for as long as it lives.
#[derive(Debug)]
pub(crate) struct Table {
    maglev: Maglev,
    bytes: Arc<AtomicUsize>,
}

impl std::ops::Deref for Table {
    type Target = Maglev;

    #[inline]
    fn deref(&self) -> &Maglev {
        &self.maglev
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.maglev.bytes(), Relaxed);
    }
}

/// What is the same for all Services of a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The key of Maglev's hashes.
    pub(crate) seed: [u64; 2],
    pub(crate) workers: u8,
    /// The most bytes that Maglev tables may take.
    pub(crate) table_limit: Option<usize>,
}

impl Tables {
    /// The table of a set of names.
    fn get(&self, names: Box<[u64]>, terms: Terms) -> Result<Arc<Table>, SnapshotError> {
        // Poisoned by a panic of control, which has then more to worry about; the map is whole between statements.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.tables.len() > 2 * known.cleaned + 64 {
            known.tables.retain(|_, table| table.strong_count() > 0);
            known.cleaned = known.tables.len();
        }
        if let Some(table) = known.tables.get(&names).and_then(Weak::upgrade) {
            return Ok(table);
        }
        // Before the work is done: nobody may make us build what is refused in the end.
        let limit = terms.table_limit.unwrap_or(usize::MAX);
        if self.bytes().saturating_add(Maglev::bytes_for(names.len())) > limit {
            return Err(SnapshotError::ServiceMemory { limit, has: self.bytes(), backends: names.len() });
        }
        let table = Table { maglev: Maglev::build(&names, terms.seed), bytes: Arc::clone(&self.bytes) };
        self.bytes.fetch_add(table.maglev.bytes(), Relaxed);
        let table = Arc::new(table);
        known.tables.insert(names, Arc::downgrade(&table));
        Ok(table)
    }

    /// Bytes of the tables in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// A set with its table. The names are those of the addresses where all ports are equal, so that a Service's ports
    /// share one table.
    fn set(&self, backends: &[Backend], terms: Terms) -> Result<Arc<Set>, SnapshotError> {
        let one_port = backends.windows(2).all(|w| w[0].port == w[1].port);
        let name = |b: &Backend| {
            let n = number(b.address);
            siphash13(terms.seed, &[n as u64, (n >> 64) as u64, if one_port { 0 } else { u64::from(b.port) }])
        };
        let maglev = self.get(backends.iter().map(name).collect(), terms)?;
        Ok(Arc::new(Set { backends: backends.into(), maglev }))
    }
}

/// What a new set of Services changes for flows.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Frontends' addresses that mean something else now, and backends that came or went.
    addresses: Vec<IpAddr>,
}

impl Change {
    /// Stamps it.
    pub(crate) fn stamp(&self, cells: &ChangedCells, generation: u32) {
        self.addresses.iter().for_each(|a| cells.stamp_address(*a, generation));
    }
}

/// One Service that differs.
struct Diff<'a> {
    id: ServiceId,
    before: Option<&'a ServiceConfig>,
    now: Option<&'a ServiceConfig>,
}

impl Services {
    /// Compiles the Services of a node with the addresses `own`.
    pub(crate) fn compile(
        config: &ServiceMap,
        own: &[IpAddr],
        terms: Terms,
        previous: Option<&Services>,
    ) -> Result<(Services, Change), SnapshotError> {
        let mut next = previous.cloned().unwrap_or_default();
        let mut change = Change::default();
        let before = std::mem::replace(&mut next.wanted, config.clone());
        let mut diffs = Vec::new();
        config.diff(&before, &mut |id, before, now| {
            diffs.push(Diff { id, before: before.map(|s| &**s), now: now.map(|s| &**s) });
        });
        // All that go go first, so that a frontend may move from one Service to another.
        let mut gone: HashMap<Socket, Arc<Frontend>> = HashMap::new();
        let frontends = |s: Option<&'_ ServiceConfig>| s.map_or(0, |s| s.frontends.len());
        gone.reserve(diffs.iter().map(|d| frontends(d.before)).sum());
        for service in diffs.iter().filter_map(|d| d.before) {
            next.withdraw(service, &mut gone);
        }
        for diff in &diffs {
            if let Some(service) = diff.now {
                next.add(diff.id, service, terms, &mut gone, &mut change)?;
            }
        }
        change.addresses.extend(gone.keys().map(|socket| socket.parts().0));
        if !gone.is_empty() {
            let former = Arc::make_mut(&mut next.former);
            gone.keys().for_each(|socket| former.add(*socket));
        }
        if *next.own != *own {
            next.own = own.into();
            next.host_backends = Arc::default();
            let all: Vec<Arc<ServiceConfig>> = config.iter().map(|(_, s)| Arc::clone(s)).collect();
            all.iter().for_each(|s| next.count_host_backends(s, true));
        } else {
            diffs.iter().filter_map(|d| d.now).for_each(|s| next.count_host_backends(s, true));
            diffs.iter().filter_map(|d| d.before).for_each(|s| next.count_host_backends(s, false));
        }
        Ok((next, change))
    }

    fn withdraw(&mut self, service: &ServiceConfig, gone: &mut HashMap<Socket, Arc<Frontend>>) {
        for f in &service.frontends {
            let socket = Socket::new(f.address, service.protocol.number(), f.port);
            if let Some(old) = self.frontends.remove(&socket) {
                gone.insert(socket, old);
                self.count_address(f, -1);
            }
        }
    }

    fn add(
        &mut self,
        id: ServiceId,
        service: &ServiceConfig,
        terms: Terms,
        gone: &mut HashMap<Socket, Arc<Frontend>>,
        change: &mut Change,
    ) -> Result<(), SnapshotError> {
        let mut sets: Vec<Arc<Set>> = Vec::with_capacity(service.sets.len());
        for (i, backends) in service.sets.iter().enumerate() {
            check_set(id, i, backends)?;
            sets.push(self.tables.set(backends, terms)?);
        }
        for f in &service.frontends {
            let proto = service.protocol.number();
            let socket = Socket::new(f.address, proto, f.port);
            let old = gone.remove(&socket);
            let hits = match &old {
                Some(old) if old.service == id => Arc::clone(&old.hits),
                _ => (0..terms.workers).map(|_| Cell::default()).collect(),
            };
            let invalid = || SnapshotError::FrontendInvalid(id, f.address, f.port);
            let target = |choice| target(choice, f.address, &sets).ok_or_else(invalid);
            let sources = f.sources.as_ref().map(|s| Nets::new(s).ok_or_else(invalid)).transpose()?;
            let local = f.kind == FrontendKind::HostPort && f.address.is_loopback() && f.address.is_ipv4();
            if f.port == 0 || !(usable(f.address) || local) {
                return Err(invalid());
            }
            let frontend = Frontend {
                service: id,
                kind: f.kind,
                affinity: service.affinity_seconds.map(|s| s.min(86_400) * 1000),
                inside: target(f.inside)?,
                outside: target(f.outside)?,
                sources,
                hits,
            };
            match &old {
                Some(old) => compare(old, &frontend, f.address, change),
                None => change.addresses.push(f.address),
            }
            if let Some(other) = self.frontends.insert(socket, Arc::new(frontend)) {
                return Err(SnapshotError::FrontendTwice(f.address, f.port, service.protocol, other.service, id));
            }
            self.count_address(f, 1);
        }
        Ok(())
    }

    fn count_address(&mut self, f: &FrontendConfig, by: i32) {
        let key = number(f.address);
        let mut uses = self.addresses.get(&key).copied().unwrap_or_default();
        uses.all = uses.all.wrapping_add_signed(by);
        if f.kind == FrontendKind::ClusterIp {
            uses.cluster_ips = uses.cluster_ips.wrapping_add_signed(by);
        }
        if uses.all == 0 {
            self.addresses.remove(&key);
        } else {
            self.addresses.insert(key, uses);
        }
    }

    fn count_host_backends(&mut self, service: &ServiceConfig, come: bool) {
        for f in &service.frontends {
            let Choice::Set(i) = f.outside else { continue };
            for b in service.sets.get(usize::from(i)).into_iter().flatten().filter(|b| self.own.contains(&b.address)) {
                let map: &mut Map<Socket, u32> = Arc::make_mut(&mut self.host_backends);
                let socket = Socket::new(b.address, service.protocol.number(), b.port);
                let count = map.entry(socket).or_default();
                *count = count.wrapping_add_signed(if come { 1 } else { -1 });
                if map.len() > FORMER {
                    map.retain(|_, count| *count > 0);
                }
            }
        }
    }
}

fn check_set(id: ServiceId, index: usize, backends: &[Backend]) -> Result<(), SnapshotError> {
    let sorted = backends.windows(2).all(|w| w[0] < w[1] && w[0].address.is_ipv4() == w[1].address.is_ipv4());
    if !sorted || backends.is_empty() || backends.len() > Maglev::MAX_BACKENDS {
        return Err(SnapshotError::SetInvalid(id, index));
    }
    match backends.iter().find(|b| b.port == 0 || !usable(b.address)) {
        Some(bad) => Err(SnapshotError::BackendInvalid(id, *bad)),
        None => Ok(()),
    }
}

fn target(choice: Choice, address: IpAddr, sets: &[Arc<Set>]) -> Option<Target> {
    match choice {
        Choice::Set(i) => sets
            .get(usize::from(i))
            .filter(|set| set.backends.first().is_some_and(|b| b.address.is_ipv4() == address.is_ipv4()))
            .map(|set| Target::Set(Arc::clone(set))),
        Choice::Reject => Some(Target::Reject),
        Choice::Drop => Some(Target::Drop),
    }
}

/// What the flows of a frontend have to hear of. Backends that come and go concern the flows of these backends alone.
fn compare(old: &Frontend, new: &Frontend, address: IpAddr, change: &mut Change) {
    let mut other = old.service != new.service || old.sources != new.sources;
    for outside in [false, true] {
        match (old.target(outside), new.target(outside)) {
            (Target::Set(a), Target::Set(b)) => {
                let left = a.backends.iter().filter(|x| !b.contains(**x));
                let joined = b.backends.iter().filter(|x| !a.contains(**x));
                change.addresses.extend(left.chain(joined).map(|x| x.address));
            }
            (Target::Reject, Target::Reject) | (Target::Drop, Target::Drop) => {}
            _ => other = true,
        }
    }
    if other {
        change.addresses.push(address);
    }
}
