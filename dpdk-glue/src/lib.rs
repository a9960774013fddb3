//! A safe layer over DPDK: EAL, mempool, mbuf, ethdev, timers.
//!
//! [`Eal::init`] starts DPDK, once in a process. [`Mempool`] holds buffers, [`Mbuf`] is one packet (a chain of
//! buffers, freed on drop), [`ethdev::Port`] a device whose [`ethdev::RxQueue`] and [`ethdev::TxQueue`] are each owned
//! by one thread at a time. A thread that wants a mempool cache registers itself with [`Lcore::register`].
//!
//! Lifetimes: pools, ports and queues keep EAL alive; a pool whose buffers are not all back is leaked rather than
//! freed, so that no [`Mbuf`] can outlive its memory.
#![allow(unsafe_code)]

mod eal;
mod errno;
pub mod ethdev;
pub mod files;
mod lcore;
mod mbuf;
mod mempool;
pub mod time;

pub use eal::{Eal, EalConfig, EalError, Hugepages, Pci, dpdk_version};
pub use errno::Errno;
pub use lcore::{Lcore, LcoreError};
pub use mbuf::{AttachError, Frozen, Mbuf, MbufRepr, RawMbuf, Segments, TxOffload, flags, ptype};
pub use mempool::{Mempool, PoolConfig, PoolError, Private};
