//! One generation of compiled configuration: valid by construction, immutable, shared by all workers.
//!
//! Control describes what it wants as plain data ([`SnapshotConfig`]) and compiles it, naming the snapshot in force as
//! the previous one. Compiling checks everything that a worker would otherwise have to distrust.

mod compile;
mod config;
pub(crate) mod nets;
pub(crate) mod outside;
mod policy;
pub mod services;
#[cfg(test)]
pub(crate) mod testing;
mod vtep;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podplane_packet::id::{Mac, PortId, Vni};
use podplane_tables::VtepIndex;
use podplane_tables::changed::ChangedCells;
use podplane_tables::fib::{Fib, NextHop};
use podplane_tables::policy::Policies;

use nets::Nets;
use outside::Outside;
use policy::Policy;
use services::{FrontendView, Served, Services};

pub use config::{LocalConfig, PeerConfig, PortClass, PortEntry, Prefix, SnapshotConfig, SnapshotError};
pub use policy::{PolicyMap, PortPolicy};
pub use vtep::Vtep;

/// The UDP port of VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;
/// The smallest MTU that carries IPv6 (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// The gateway of every pod's IPv4 routes.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway of every pod's IPv6 routes.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The gateway's link-local address on the host port: the one that [`Mac::GATEWAY`](podplane_packet::id::Mac::GATEWAY)
/// itself would form (RFC 4291 appendix A). There fe80::1 belongs to the uplink's network: it is the default router of
/// many hosting networks.
pub const HOST_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x50, 0x50ff, 0xfe00, 1);

/// The gateway's link-local address as it is known behind a port of this class.
#[inline]
pub(crate) const fn gateway_v6(class: PortClass) -> Ipv6Addr {
    match class {
        PortClass::Host => HOST_GATEWAY_V6,
        PortClass::Pod | PortClass::Uplink => GATEWAY_V6,
    }
}

/// This node, compiled.
#[derive(Clone, Debug)]
pub struct Local {
    /// Our VTEP.
    pub vtep: IpAddr,
    /// The VXLAN network.
    pub vni: Vni,
    /// Our address in the IPv4 pod range (network + 1): the source of ICMP errors.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// The pods' MTU in bytes.
    pub pod_mtu: u16,
    /// The uplink's MAC: the source of what we encapsulate.
    pub uplink_mac: Mac,
    /// What leaves the cluster is given these addresses, by family, and ports from the first to the last.
    pub(crate) masquerade_v4: Option<Ipv4Addr>,
    pub(crate) masquerade_v6: Option<Ipv6Addr>,
    pub(crate) masquerade_ports: (u16, u16),
    /// The node's addresses that other nodes know.
    pub(crate) announced: Box<[IpAddr]>,
    pub(crate) service_cidrs: Nets,
    pub(crate) no_masquerade: Nets,
    /// The key of Maglev's hashes.
    pub(crate) cluster_seed: [u64; 2],
}

impl Local {
    /// Our address in the pod range of a family.
    #[inline]
    pub(crate) fn gateway(&self, v6: bool) -> Option<IpAddr> {
        if v6 { self.gateway_v6.map(IpAddr::V6) } else { self.gateway_v4.map(IpAddr::V4) }
    }

    /// The address given to what leaves the cluster.
    #[inline]
    pub(crate) fn masquerade(&self, v6: bool) -> Option<IpAddr> {
        if v6 { self.masquerade_v6.map(IpAddr::V6) } else { self.masquerade_v4.map(IpAddr::V4) }
    }

    /// Whether an address and port are of those that are given to what leaves the cluster.
    #[inline]
    pub(crate) fn is_masquerade(&self, address: IpAddr, port: u16) -> bool {
        let (first, last) = self.masquerade_ports;
        (first..=last).contains(&port) && self.masquerade(address.is_ipv6()) == Some(address)
    }
}

/// The parts of a configuration that changes are found in.
#[derive(Debug, Default)]
struct Wanted {
    ports: Vec<(PortId, PortEntry)>,
    places: Arc<Places>,
}

/// Those of this node and its peers.
#[derive(Debug, Default)]
struct Places {
    local: Option<LocalConfig>,
    peers: Vec<PeerConfig>,
    /// Addresses and ranges of each peer by the index of its VTEP.
    by_vtep: Vec<Option<(Vec<IpAddr>, Vec<Prefix>)>>,
}

/// One generation of compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    generation: u32,
    workers: u8,
    seed: [u64; 2],
    ports: Arc<[Option<PortEntry>]>,
    local: Option<Arc<Local>>,
    vteps: Arc<[Option<Vtep>]>,
    fib: Fib,
    /// What the routes were built from, to be compared with the next snapshot's.
    wanted: Arc<Wanted>,
    services: Services,
    outside: Outside,
    policy: Policy,
    changed: Arc<ChangedCells>,
}

impl Snapshot {
    /// Which generation this is; counts up from 1.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// How many workers forward packets.
    #[inline]
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// This node, once the agent has said what it is.
    #[inline]
    pub fn local(&self) -> Option<&Local> {
        self.local.as_deref()
    }

    /// A port, if there is one of that index.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(id.index())?.as_ref()
    }

    /// A peer's VTEP, if the index is in use.
    #[inline]
    pub fn vtep(&self, id: VtepIndex) -> Option<&Vtep> {
        self.vteps.get(id.index())?.as_ref()
    }

    /// The key of the hash that spreads packets over workers.
    #[inline]
    pub(crate) fn seed(&self) -> [u64; 2] {
        self.seed
    }

    /// The indices of VTEPs and what they stand for.
    pub fn vteps(&self) -> impl Iterator<Item = (VtepIndex, &Vtep)> {
        self.vteps.iter().enumerate().filter_map(|(i, v)| Some((VtepIndex(i as u16), v.as_ref()?)))
    }

    /// Where an address leads. `None`: nowhere that we know.
    #[inline]
    pub fn route(&self, dst: IpAddr) -> Option<NextHop> {
        self.fib.lookup(dst)
    }

    /// The Services.
    #[inline]
    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// The world outside the cluster.
    #[inline]
    pub(crate) fn outside(&self) -> &Outside {
        &self.outside
    }

    /// The rule sets, and the classes of addresses.
    #[inline]
    pub fn policies(&self) -> &Policies {
        &self.policy.tables
    }

    /// All frontends of Services, with how often each was used.
    pub fn frontends(&self) -> impl Iterator<Item = FrontendView> {
        self.services.views()
    }

    /// Bytes of the tables that choose among Services' backends. Walks all of them: for gauges.
    pub fn service_table_bytes(&self) -> usize {
        self.services.table_bytes()
    }

    /// Takes what a former process served for what was served here. To be called before the snapshot is in force.
    pub fn remember(&mut self, served: &Served) {
        self.services.remember(served);
    }

    /// The cells that say when something last changed.
    #[inline]
    pub fn changed(&self) -> &ChangedCells {
        &self.changed
    }
}
