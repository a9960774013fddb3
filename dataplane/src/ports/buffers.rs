//! Where packets' memory comes from: pools that all workers share, and each worker's scratch.

use dpdk_glue::{Eal, Mbuf, Mempool, PoolConfig, PoolError};
use podplane_packet::buf::Meta;
use podplane_pipeline::DropReason;

use super::Pkt;
use super::afpacket::{RecvBatch, SendBatch};

/// Bytes of data in a small buffer, behind the headroom.
pub const SMALL: usize = 2048;
/// Bytes of data in a large buffer.
pub const LARGE: usize = 16 << 10;
/// Large buffers behind the small one for the biggest frame: 64 KiB and an Ethernet header.
pub(crate) const LARGE_PER_FRAME: usize = 4;
const _: () = assert!(SMALL + LARGE_PER_FRAME * LARGE >= 65_535 + 14 + 4);

/// How many buffers there are, for all workers and ports together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// Buffers of [`SMALL`] bytes: one for each packet.
    pub small: u32,
    /// Buffers of [`LARGE`] bytes: up to four for each GSO frame, and 128 in each worker's stash.
    pub large: u32,
    /// Buffers without bytes of their own, which show parts of others: one or two for each segment that was merged.
    pub slices: u32,
}

impl Default for PoolSizes {
    /// About 170 MiB.
    fn default() -> Self {
        PoolSizes { small: 16_383, large: 8_191, slices: 16_383 }
    }
}

impl PoolSizes {
    /// Memory in bytes that the pools take, roughly.
    pub fn bytes(&self) -> u64 {
        let each = |n: u32, room: usize| u64::from(n) * (room as u64 + 512);
        each(self.small, SMALL) + each(self.large, LARGE) + each(self.slices, 0)
    }
}

/// The pools, shared by all workers and all ports: memory is not reserved for a pod. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pools {
    pub(crate) eal: Eal,
    pub(crate) small: Mempool,
    pub(crate) large: Mempool,
    pub(crate) slices: Mempool,
}

impl Pools {
    /// Makes the pools.
    ///
    /// # Errors
    /// Too little memory, or they exist already.
    pub fn create(eal: &Eal, sizes: &PoolSizes) -> Result<Pools, PoolError> {
        let pool = |name: &str, count: u32, data_room: usize| {
            let cache = (count / 16).min(256);
            let config = PoolConfig { name: name.into(), count, cache, data_room: data_room as u16, socket: None };
            Mempool::create::<Meta>(eal, &config)
        };
        Ok(Pools {
            eal: eal.clone(),
            small: pool("podplane-small", sizes.small, SMALL)?,
            large: pool("podplane-large", sizes.large, LARGE)?,
            slices: pool("podplane-slices", sizes.slices, 0)?,
        })
    }

    /// An empty packet with room for `len` bytes in one buffer.
    ///
    /// # Errors
    /// [`DropReason::NoBuffers`]: the pool is exhausted; [`DropReason::LinearTooLong`]: no buffer is so large.
    #[inline]
    pub(crate) fn alloc(&self, len: usize) -> Result<Pkt, DropReason> {
        let pool = match len {
            0..=SMALL => &self.small,
            _ if len <= LARGE => &self.large,
            _ => return Err(DropReason::LinearTooLong),
        };
        pool.alloc().map(Pkt::new).ok_or(DropReason::NoBuffers)
    }

    /// How full the pools are: (in use, all) of small, large and slices. For housekeeping.
    pub fn usage(&self) -> [(u32, u32); 3] {
        [&self.small, &self.large, &self.slices].map(|p| (p.in_use(), p.capacity()))
    }
}

/// One worker's handles to the pools, and its scratch for system calls with the stash of buffers that wait to be
/// received into.
#[derive(Debug)]
pub struct Buffers {
    pub(crate) pools: Pools,
    pub(crate) recv: RecvBatch,
    pub(crate) send: SendBatch,
}

impl Buffers {
    /// A worker's buffers. Allocates all that it will ever need but mbufs, which come with the first packets.
    pub fn new(pools: &Pools) -> Buffers {
        Buffers { pools: pools.clone(), recv: RecvBatch::new(), send: SendBatch::new() }
    }

    /// An empty small packet: [`SMALL`] bytes of room behind the headroom. `None`: the pool is exhausted.
    #[inline]
    pub fn alloc(&self) -> Option<Pkt> {
        self.pools.small.alloc().map(Pkt::new)
    }

    /// Gives the stash back to the pools: for a worker that ends.
    pub fn clear(&mut self) {
        self.recv = RecvBatch::new();
    }
}

/// An mbuf that is nowhere linked, for a stash.
pub(crate) type Spare = Option<Mbuf>;
