//! Ethernet devices of DPDK: physical ones by PCI address, virtual ones by device arguments.
//!
//! A [`Port`] belongs to control; each of its queues is taken once and given to the thread that works with it.

mod config;
mod error;
mod info;
mod port;
mod probe;
mod queue;

pub use config::{Granted, PortConfig, RxOffloads, TxOffloads};
pub use error::DevError;
pub use info::{DeviceInfo, Link, Stats};
pub use port::Port;
pub use queue::{RxQueue, TxQueue};
