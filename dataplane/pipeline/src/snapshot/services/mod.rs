//! Services: what a client gets who sends to an address and port.
//!
//! Compiled Services are shared with the snapshot before but for what changed. Sets of equal backends share one Maglev
//! table, also if they differ in the port alone.

mod compile;
mod config;
pub(crate) mod shards;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use podplane_packet::id::WorkerId;

pub use config::{
    Backend, Choice, FrontendConfig, FrontendKind, Masquerade, OutsideConfig, Protocol, Reach, ServiceConfig,
    ServiceId, ServiceMap,
};

use super::nets::{Nets, number};
pub(crate) use compile::Terms;
use compile::{Table, Tables};
use shards::{Map, Shards};

/// Address, protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Socket {
    address: u128,
    tail: u32,
}

impl Socket {
    #[inline]
    pub(crate) fn new(address: IpAddr, proto: u8, port: u16) -> Socket {
        Socket { address: number(address), tail: u32::from(proto) << 16 | u32::from(port) }
    }

    fn parts(self) -> (IpAddr, u8, u16) {
        (IpAddr::from(self.address.to_be_bytes()).to_canonical(), (self.tail >> 16) as u8, self.tail as u16)
    }
}

/// Equal backends and the table that chooses among them.
#[derive(Debug)]
pub(crate) struct Set {
    /// Sorted.
    backends: Box<[Backend]>,
    maglev: Arc<Table>,
}

impl Set {
    /// The backend for a hash.
    #[inline]
    pub(crate) fn pick(&self, hash: u64) -> Option<Backend> {
        self.backends.get(self.maglev.pick(hash)).copied()
    }

    /// How many backends it has.
    pub(crate) fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether a backend is one of the set.
    #[inline]
    pub(crate) fn contains(&self, backend: Backend) -> bool {
        self.backends.binary_search(&backend).is_ok()
    }
}

/// What a client gets.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Set(Arc<Set>),
    Reject,
    Drop,
}

/// One worker's counter, alone in its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Cell(AtomicU64);

/// A frontend, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) service: ServiceId,
    pub(crate) kind: FrontendKind,
    /// Milliseconds for which a client keeps its backend.
    pub(crate) affinity: Option<u32>,
    inside: Target,
    outside: Target,
    sources: Option<Nets>,
    /// New flows; each cell is written by one worker alone. Handed on from snapshot to snapshot.
    hits: Arc<[Cell]>,
}

impl Frontend {
    /// What a client gets; `outside`: it came plain by the uplink.
    #[inline]
    pub(crate) fn target(&self, outside: bool) -> &Target {
        if outside { &self.outside } else { &self.inside }
    }

    /// Whether a client is served at all.
    #[inline]
    pub(crate) fn serves(&self, client: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|nets| nets.contains(client))
    }

    /// Counts a new flow.
    #[inline]
    pub(crate) fn hit(&self, worker: WorkerId) {
        if let Some(Cell(cell)) = self.hits.get(worker.index()) {
            cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }
}

/// A frontend as it is in force, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendView {
    /// Whose it is.
    pub service: ServiceId,
    /// What it is.
    pub kind: FrontendKind,
    /// Its address.
    pub address: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// How many backends pods and the node have; `None`: no set.
    pub inside: Option<usize>,
    /// How many backends clients outside have; `None`: no set.
    pub outside: Option<usize>,
    /// How many flows were made since the frontend came.
    pub hits: u64,
}

/// How many former frontends, and former backends on this node's network, are remembered.
const FORMER: usize = 16 * 1024;

/// The last frontends that went.
#[derive(Clone, Debug, Default)]
struct Former {
    known: Map<Socket, ()>,
    /// How many of each address.
    addresses: Map<u128, u32>,
    order: VecDeque<Socket>,
}

impl Former {
    fn add(&mut self, socket: Socket) {
        if self.known.insert(socket, ()).is_some() {
            return;
        }
        self.order.push_back(socket);
        *self.addresses.entry(socket.address).or_default() += 1;
        if self.order.len() > FORMER
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            if let Some(count) = self.addresses.get_mut(&oldest.address) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(&oldest.address);
                }
            }
        }
    }
}

/// What clients outside were served by a process before this one, as its flows tell: address, protocol and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The frontends.
    pub frontends: Vec<(IpAddr, u8, u16)>,
    /// The backends on this node's own network.
    pub host_backends: Vec<(IpAddr, u8, u16)>,
}

/// How many frontends there are of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    all: u32,
    cluster_ips: u32,
}

/// All Services, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    wanted: ServiceMap,
    frontends: Shards<Socket, Arc<Frontend>>,
    addresses: Shards<u128, Uses>,
    /// Backends on this node's own network that clients outside may have, and by how many frontends; none: they once
    /// were, and their flows may still live.
    host_backends: Arc<Map<Socket, u32>>,
    /// What were frontends once: their flows may still live.
    former: Arc<Former>,
    /// This node's addresses as they were when `host_backends` was made.
    own: Arc<[IpAddr]>,
    /// Control's own, shared by all snapshots; workers never look at it.
    tables: Arc<Tables>,
}

impl Services {
    /// The frontend of an address and port.
    #[inline]
    pub(crate) fn find(&self, address: IpAddr, proto: u8, port: u16) -> Option<&Frontend> {
        self.frontends.get(&Socket::new(address, proto, port)).map(|f| &**f)
    }

    /// Whether an address and port was a frontend once, whose flows may still live.
    #[inline]
    pub(crate) fn was_frontend(&self, address: IpAddr, proto: u8, port: u16) -> bool {
        !self.former.known.is_empty() && self.former.known.contains_key(&Socket::new(address, proto, port))
    }

    /// Takes what a former process served for what was served here: what of it is served no more has flows yet.
    pub(super) fn remember(&mut self, served: &Served) {
        let sockets = |all: &[(IpAddr, u8, u16)]| -> Vec<Socket> {
            all.iter().take(FORMER).map(|(address, proto, port)| Socket::new(*address, *proto, *port)).collect()
        };
        let former = Arc::make_mut(&mut self.former);
        for socket in sockets(&served.frontends) {
            if self.frontends.get(&socket).is_none() {
                former.add(socket);
            }
        }
        let backends = Arc::make_mut(&mut self.host_backends);
        for socket in sockets(&served.host_backends) {
            backends.entry(socket).or_default();
        }
    }

    /// Whether an address has frontends, or had any.
    #[inline]
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let address = number(address);
        self.addresses.get(&address).is_some()
            || !self.former.addresses.is_empty() && self.former.addresses.contains_key(&address)
    }

    /// Whether an address is some Service's ClusterIP.
    pub(crate) fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.addresses.get(&number(address)).is_some_and(|uses| uses.cluster_ips > 0)
    }

    /// Whether what leaves the node's own stack from there may be an answer to a client outside.
    #[inline]
    pub(crate) fn is_host_backend(&self, address: IpAddr, proto: u8, port: u16) -> bool {
        self.host_backends.contains_key(&Socket::new(address, proto, port))
    }

    /// Whether there is any such backend.
    #[inline]
    pub(crate) fn has_host_backends(&self) -> bool {
        !self.host_backends.is_empty()
    }

    /// Bytes of the Maglev tables in use, by former snapshots too; a table that several sets share counts once.
    pub(crate) fn table_bytes(&self) -> usize {
        self.tables.bytes()
    }

    /// All frontends.
    pub(crate) fn views(&self) -> impl Iterator<Item = FrontendView> {
        let size = |target: &Target| match target {
            Target::Set(set) => Some(set.backends.len()),
            Target::Reject | Target::Drop => None,
        };
        self.frontends.iter().filter_map(move |(socket, f)| {
            let (address, proto, port) = socket.parts();
            Some(FrontendView {
                service: f.service,
                kind: f.kind,
                address,
                protocol: Protocol::from_number(proto)?,
                port,
                inside: size(&f.inside),
                outside: size(&f.outside),
                hits: f.hits.iter().map(|c| c.0.load(Relaxed)).fold(0, u64::wrapping_add),
            })
        })
    }
}
