//! Which worker owns a packet: a pure function of its headers and the port table, never of flow state.
//!
//! The design's cases, the first that fits:
//! 1. ICMP errors: those of the embedded tuple, reversed (so the destination is the embedded source).
//! 2. From a pod or the host port: that port's home.
//! 3. Fragments to node addresses: such packets are not tracked yet, they pass at L2 wherever they arrive. Fragments to
//!    pods fall under case 5, whose owner does not depend on ports.
//! 4. To the masquerade range: with Services.
//! 5. To a local pod: its home.
//! 6. Tunnelled to the node: the host port's home.
//! 7. Plain to node or Service addresses: with Services; until then case 3's answer.
//! 8. Tunnelled to anything else: hash of the destination.
//!
//! A port's home never changes while the port lives.

use std::net::IpAddr;

use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::fib::NextHop;
use podplane_tables::flow::siphash13;

use crate::snapshot::Snapshot;

/// How a packet arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// From a pod or the host port.
    Port(PortId),
    /// Inside the tunnel from another node.
    Tunnel,
}

/// The worker that owns a packet to `dst`; `embedded_src` is the source of the packet that an ICMP error is about.
pub(crate) fn owner(snap: &Snapshot, arrival: Arrival, dst: IpAddr, embedded_src: Option<IpAddr>) -> WorkerId {
    if let Arrival::Port(port) = arrival {
        return home(snap, port);
    }
    let dst = embedded_src.unwrap_or(dst);
    match snap.route(dst) {
        Some(NextHop::Local(port)) => home(snap, port),
        Some(NextHop::Host | NextHop::Gateway) => home(snap, PortId::HOST),
        Some(NextHop::Vtep(_) | NextHop::Blackhole) | None => spread(snap, dst),
    }
}

/// A port's home. A port that is gone belongs to worker 0, which drops what comes from it.
fn home(snap: &Snapshot, port: PortId) -> WorkerId {
    snap.port(port).map_or(WorkerId(0), |p| p.home)
}

fn spread(snap: &Snapshot, dst: IpAddr) -> WorkerId {
    let bits = match dst {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let hash = siphash13(snap.seed(), &[bits as u64, (bits >> 64) as u64]);
    WorkerId((hash % u64::from(snap.workers())) as u8)
}
