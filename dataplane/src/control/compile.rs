//! From the agent's validated configuration and the open ports to what the pipeline compiles.

use ipnet::IpNet;
use podplane_config::valid::{LocalNode, Peer, State};
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_pipeline::snapshot::services::Masquerade;
use podplane_pipeline::snapshot::{LocalConfig, PeerConfig, PortClass, PortEntry, PortPolicy, Prefix, SnapshotConfig};

use super::catalog::Catalog;
use super::nexthop::NextHops;
use super::rules;
use super::table::Attached;

/// What does not change while the process lives.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// How many workers there are.
    pub workers: u8,
    /// The key of the pipeline's hashes.
    pub seed: [u64; 2],
    /// The node's Ethernet address, on the uplink and the host port.
    pub mac: Mac,
    /// The uplink's and the host port's MTU in bytes.
    pub mtu: u16,
    /// The most bytes that the tables of Services' backends may take.
    pub table_limit: usize,
}

impl Base {
    /// What is in force without an agent: uplink and host port are joined at L2.
    pub fn alone(&self) -> SnapshotConfig {
        let entry = |kind| PortEntry {
            kind,
            home: WorkerId(0),
            mac: self.mac,
            v4: None,
            v6: None,
            mtu: self.mtu,
            incarnation: 0,
            policy: PortPolicy::default(),
        };
        SnapshotConfig {
            workers: self.workers,
            seed: self.seed,
            ports: vec![(PortId::UPLINK, entry(PortClass::Uplink)), (PortId::HOST, entry(PortClass::Host))],
            local: None,
            peers: Vec::new(),
            table_limit: Some(self.table_limit),
            ..SnapshotConfig::default()
        }
    }

    /// What is in force with `state`, its Services and rules in `catalog`, the pods' ports `attached`, and the ways out.
    pub fn with<'a>(
        &self,
        state: &State,
        catalog: &Catalog,
        attached: impl Iterator<Item = &'a Attached>,
        hops: &NextHops,
    ) -> SnapshotConfig {
        let mut config = self.alone();
        config.services = catalog.map().clone();
        config.policy = catalog.rules().map().clone();
        config.outside = hops.outside();
        config.ports.extend(attached.map(|port| (port.id, entry(port, state))));
        config.local = state.local.as_ref().map(|node| {
            let unannounced = hops.own().iter().copied().filter(|a| !node.addresses.contains(a)).collect();
            LocalConfig { unannounced, ..local(node) }
        });
        config.peers = state.peers.values().map(|other| peer(other, hops.mac(other.vtep))).collect();
        config
    }
}

/// This node as the pipeline has it, but for what its kernel alone knows.
pub fn local(local: &LocalNode) -> LocalConfig {
    LocalConfig {
        vtep: local.vtep,
        addresses: local.addresses.clone(),
        unannounced: Vec::new(),
        pod_cidrs: local.pod_cidrs.iter().map(prefix).collect(),
        vni: local.vni,
        pod_mtu: local.pod_mtu,
        service_cidrs: local.service_cidrs.iter().copied().map(prefix).collect(),
        no_masquerade: local.no_masquerade.iter().copied().map(prefix).collect(),
        masquerade: local
            .masquerade
            .map(|m| Masquerade { addresses: m.addresses.iter().collect(), ports: (m.first, m.last) }),
        cluster_seed: local.cluster_seed,
    }
}

/// Another node as the pipeline has it. `next_hop`: the MAC on the way to its VTEP, if it is known.
pub fn peer(peer: &Peer, next_hop: Option<Mac>) -> PeerConfig {
    PeerConfig {
        vtep: peer.vtep,
        addresses: peer.addresses.clone(),
        pod_cidrs: peer.pod_cidrs.iter().map(prefix).collect(),
        next_hop,
    }
}

fn entry(port: &Attached, state: &State) -> PortEntry {
    let pod_mtu = state.local.as_ref().map_or(u16::MAX, |local| local.pod_mtu);
    PortEntry {
        kind: PortClass::Pod,
        home: port.home,
        mac: port.endpoint.mac,
        v4: port.endpoint.addresses.v4,
        v6: port.endpoint.addresses.v6,
        // The pod's own end may be smaller than the device that we see, never larger than what pods were promised.
        mtu: port.facts.mtu.min(pod_mtu),
        incarnation: port.incarnation,
        policy: rules::of_endpoint(port.endpoint.policy),
    }
}

/// A range as the pipeline has it.
pub(super) fn prefix(net: IpNet) -> Prefix {
    Prefix { addr: net.addr(), len: net.prefix_len() }
}
