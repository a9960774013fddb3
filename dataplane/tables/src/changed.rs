//! What changed since an entry was judged.
//!
//! Control stamps the cells of everything that a new snapshot changes with that snapshot's generation **before** it
//! publishes it; whoever sees the snapshot therefore sees the stamps. A worker whose entry was judged under an older
//! generation looks whether one of the entry's cells is newer. An index that is given to another user is stamped too,
//! so entries about the former user are judged anew.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use podplane_packet::id::PortId;

use crate::VtepIndex;
use crate::fib::NeighbourIndex;
use crate::flow::siphash13;

/// Whether a cached verdict may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Judged under this very snapshot.
    Valid,
    /// Nothing that it depends on changed since: note the new generation and use it.
    Restamp,
    /// Something may have changed: judge again.
    Revalidate,
}

/// How many cells remote addresses share by hash.
pub const ADDRESS_CELLS: usize = 4096;

/// The generation that changed each port, VTEP, neighbour and hashed address last. Written by control alone; read by all workers.
#[derive(Debug)]
pub struct ChangedCells {
    ports: Box<[AtomicU32]>,
    vteps: Box<[AtomicU32]>,
    neighbours: Box<[AtomicU32]>,
    addresses: Box<[AtomicU32]>,
    seed: [u64; 2],
}

impl ChangedCells {
    /// Nothing changed yet. `seed` keeps others from choosing addresses that share one cell.
    pub fn new(seed: [u64; 2]) -> Self {
        let cells = |n: usize| (0..n).map(|_| AtomicU32::new(0)).collect();
        ChangedCells {
            ports: cells(PortId::MAX),
            vteps: cells(VtepIndex::MAX),
            neighbours: cells(NeighbourIndex::MAX),
            addresses: cells(ADDRESS_CELLS),
            seed,
        }
    }

    /// Control: port `port` changes with `generation`.
    pub fn stamp_port(&self, port: PortId, generation: u32) {
        stamp(&self.ports, port.index(), generation);
    }

    /// Control: the VTEP changes with `generation`.
    pub fn stamp_vtep(&self, vtep: VtepIndex, generation: u32) {
        stamp(&self.vteps, vtep.index(), generation);
    }

    /// Control: the index stands for another neighbour from `generation` on. (Another MAC of the same neighbour changes
    /// no verdict.)
    pub fn stamp_neighbour(&self, neighbour: NeighbourIndex, generation: u32) {
        stamp(&self.neighbours, neighbour.index(), generation);
    }

    /// Control: what is known of an address changes with `generation`.
    pub fn stamp_address(&self, address: IpAddr, generation: u32) {
        stamp(&self.addresses, self.cell(address), generation);
    }

    /// Control: everything may change with `generation` (a whole prefix moved, the VNI changed).
    pub fn stamp_all(&self, generation: u32) {
        // Every entry depends on some address.
        for cell in self.addresses.iter() {
            cell.fetch_max(generation, Ordering::Relaxed);
        }
    }

    /// The generation that changed a port last; "always" for an index that no port can have.
    #[inline]
    pub fn port(&self, port: PortId) -> u32 {
        self.ports.get(port.index()).map_or(u32::MAX, |c| c.load(Ordering::Relaxed))
    }

    /// The generation that changed a VTEP last; "always" for an index that no VTEP can have.
    #[inline]
    pub fn vtep(&self, vtep: VtepIndex) -> u32 {
        self.vteps.get(vtep.index()).map_or(u32::MAX, |c| c.load(Ordering::Relaxed))
    }

    /// The generation that gave a neighbour's index to another one last; "always" for an index that no neighbour can
    /// have.
    #[inline]
    pub fn neighbour(&self, neighbour: NeighbourIndex) -> u32 {
        self.neighbours.get(neighbour.index()).map_or(u32::MAX, |c| c.load(Ordering::Relaxed))
    }

    /// The generation that changed an address's cell last.
    #[inline]
    pub fn address(&self, address: impl Into<IpAddr>) -> u32 {
        self.addresses[self.cell(address.into())].load(Ordering::Relaxed)
    }

    /// Judges an entry of generation `entry` under the snapshot of generation `snapshot`: it depends on a local port,
    /// perhaps a VTEP, and addresses. (Entries have [`Entry::validity`](crate::flow::Entry::validity).)
    pub fn judge(
        &self,
        entry: u32,
        snapshot: u32,
        port: PortId,
        vtep: Option<VtepIndex>,
        addresses: &[IpAddr],
    ) -> Validity {
        if entry == snapshot {
            return Validity::Valid;
        }
        let vtep = vtep.map_or(0, |v| self.vtep(v));
        let newest = addresses.iter().fold(self.port(port).max(vtep), |n, a| n.max(self.address(*a)));
        if newest > entry { Validity::Revalidate } else { Validity::Restamp }
    }

    fn cell(&self, address: IpAddr) -> usize {
        let bits = match address {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        siphash13(self.seed, &[bits as u64, (bits >> 64) as u64]) as usize % ADDRESS_CELLS
    }
}

fn stamp(cells: &[AtomicU32], index: usize, generation: u32) {
    // Relaxed suffices: publishing the snapshot releases, and taking it acquires.
    if let Some(cell) = cells.get(index) {
        cell.fetch_max(generation, Ordering::Relaxed);
    }
}
