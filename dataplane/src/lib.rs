//! Podplane's dataplane process: the only place where the packet path meets DPDK, sockets and threads.
//!
//! [`start::run`] brings everything up and down. [`worker`] is the packet path's loop, [`control`] the thread that
//! configures it, [`ports`] the devices, [`uplink`] the take-over of the node's interface.

pub mod alone;
pub mod args;
pub mod clock;
pub mod control;
pub mod lcores;
pub mod memory;
pub mod ports;
pub mod retry;
pub mod signals;
pub mod start;
pub mod uplink;
pub mod worker;
