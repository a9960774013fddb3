//! A small valid configuration for unit tests.

use podplane_packet::id::{Mac, PortId, Vni, WorkerId};

use super::{LocalConfig, PeerConfig, PortClass, PortEntry, PortPolicy, Prefix, SnapshotConfig};

fn port(kind: PortClass) -> PortEntry {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    PortEntry {
        kind,
        home: WorkerId(0),
        mac,
        v4: None,
        v6: None,
        mtu: 1500,
        incarnation: 0,
        policy: PortPolicy::default(),
    }
}

/// The pod with port `index` and address 10.244.1.`index`.
pub(crate) fn pod(index: u16, home: u8) -> (PortId, PortEntry) {
    let v4 = Some([10, 244, 1, index as u8].into());
    (PortId(index), PortEntry { v4, home: WorkerId(home), ..port(PortClass::Pod) })
}

/// The node 192.0.2.`last` with 10.244.`last`.0/24.
pub(crate) fn peer(last: u8) -> PeerConfig {
    PeerConfig {
        vtep: [192, 0, 2, last].into(),
        addresses: vec![[192, 0, 2, last].into()],
        pod_cidrs: vec![Prefix { addr: [10, 244, last, 0].into(), len: 24 }],
        next_hop: Some(Mac([2, 0, 0, 0, 0, last])),
    }
}

/// Node 1 without pods and peers.
pub(crate) fn config(workers: u8) -> SnapshotConfig {
    SnapshotConfig {
        workers,
        seed: [1, 2],
        ports: vec![(PortId::UPLINK, port(PortClass::Uplink)), (PortId::HOST, port(PortClass::Host))],
        local: Some(LocalConfig {
            vtep: [192, 0, 2, 1].into(),
            addresses: vec![[192, 0, 2, 1].into()],
            unannounced: Vec::new(),
            pod_cidrs: vec![Prefix { addr: [10, 244, 1, 0].into(), len: 24 }],
            vni: Vni::try_from(7).unwrap_or_else(|e| unreachable!("{e}")),
            pod_mtu: 1450,
            service_cidrs: Vec::new(),
            no_masquerade: Vec::new(),
            masquerade: None,
            cluster_seed: [5, 6],
        }),
        peers: Vec::new(),
        ..SnapshotConfig::default()
    }
}
