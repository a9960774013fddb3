//! Opening ports: control's side. Workers never come here.

use std::sync::Arc;

use podplane_packet::id::{PortId, WorkerId};

use super::afpacket::{self, KernelPort, SocketBudget};
use super::{EthdevPort, LinkState, OpenError, Pools, PortFacts, PortIo};

/// What a port is for, which decides who receives on it and what it must offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A pod's port, or the host port: its home alone receives.
    Single {
        /// The home.
        home: WorkerId,
    },
    /// The uplink: every worker receives its share of the flows.
    Uplink,
}

/// A port that was opened.
#[derive(Debug)]
pub struct OpenedPort {
    /// What is known of it.
    pub facts: PortFacts,
    /// One end for each worker, by [`WorkerId`].
    pub ends: Vec<PortIo>,
    /// How control watches it.
    pub monitor: PortMonitor,
}

/// Control's view of a port whose ends are with the workers.
#[derive(Clone, Debug)]
pub struct PortMonitor {
    inner: Watched,
}

#[derive(Clone, Debug)]
enum Watched {
    Kernel(Arc<afpacket::Shared>),
    Ethdev(Arc<super::ethdev::Shared>),
}

impl PortMonitor {
    /// The state that the workers last saw.
    pub fn state(&self) -> LinkState {
        match &self.inner {
            Watched::Kernel(s) => s.state(),
            Watched::Ethdev(s) => s.state(),
        }
    }

    /// Frames that the kernel (or the device) dropped before we could receive them, since the port was opened: the
    /// socket's buffer was full, or the device's queue.
    pub fn receive_overruns(&self) -> u64 {
        match &self.inner {
            Watched::Kernel(s) => s.receive_overruns(),
            Watched::Ethdev(s) => s.receive_overruns(),
        }
    }
}

/// Opens ports for a number of workers.
#[derive(Clone, Debug)]
pub struct PortOpener {
    workers: u8,
    budget: Arc<SocketBudget>,
    ethdev_mtu: Option<u16>,
}

impl PortOpener {
    /// Memory in bytes that the sockets of all ports of a node may hold unless said otherwise.
    pub const DEFAULT_SOCKET_MEMORY: usize = 512 << 20;

    /// An opener for `workers` workers (at least one), whose sockets share `socket_memory` bytes of kernel memory.
    pub fn new(workers: u8, socket_memory: usize) -> PortOpener {
        PortOpener { workers: workers.max(1), budget: SocketBudget::new(socket_memory), ethdev_mtu: None }
    }

    /// The same, which sets the MTU of the DPDK devices that it opens (bytes) instead of taking it from them.
    pub fn with_ethdev_mtu(self, mtu: Option<u16>) -> PortOpener {
        PortOpener { ethdev_mtu: mtu, ..self }
    }

    /// Opens a kernel interface of the calling thread's network namespace: a pod's host end, the host port's, or the
    /// uplink by `iface`. With several workers an uplink must be up.
    ///
    /// # Errors
    /// No such interface, not Ethernet, not permitted, refused options; see [`OpenError`].
    pub fn open_interface(&self, port: PortId, ifname: &str, role: Role) -> Result<OpenedPort, OpenError> {
        let (facts, shared, ends) = KernelPort::open(port, ifname, role, self.workers, &self.budget)?;
        Ok(OpenedPort {
            facts,
            ends: ends.into_iter().map(PortIo::Kernel).collect(),
            monitor: PortMonitor { inner: Watched::Kernel(shared) },
        })
    }

    /// Opens a DPDK device by its arguments: a PCI address (with the device bound to vfio-pci), or a virtual device
    /// such as `net_tap0,iface=dtap0`.
    ///
    /// # Errors
    /// DPDK knows no such device, or refused its configuration; see [`OpenError`].
    pub fn open_ethdev(&self, port: PortId, devargs: &str, role: Role, pools: &Pools) -> Result<OpenedPort, OpenError> {
        let (facts, shared, ends) = EthdevPort::open(port, devargs, role, self.workers, pools, self.ethdev_mtu)?;
        Ok(OpenedPort {
            facts,
            ends: ends.into_iter().map(PortIo::Ethdev).collect(),
            monitor: PortMonitor { inner: Watched::Ethdev(shared) },
        })
    }
}
