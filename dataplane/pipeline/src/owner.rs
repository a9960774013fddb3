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
        _ => spread(snap, dst),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::{config, pod};

    #[test]
    fn each_case_of_the_design() {
        let mut c = config(4);
        c.ports[1].1.home = WorkerId(3);
        c.ports.push(pod(2, 1));
        c.ports.push(pod(3, 2));
        let s = Snapshot::compile(&c, None).expect("a valid configuration");
        let at = |last: u8| IpAddr::from([10, 244, 1, last]);
        let port = |p: u16| Arrival::Port(PortId(p));
        let error = |dst: IpAddr, embedded_src: IpAddr| owner(&s, Arrival::Tunnel, dst, Some(embedded_src));
        assert_eq!(owner(&s, port(2), at(3), None), WorkerId(1), "from a pod: its home, wherever it goes");
        assert_eq!(owner(&s, port(2), at(3), Some(at(3))), WorkerId(1), "its ICMP errors too");
        assert_eq!(owner(&s, port(1), at(2), None), WorkerId(3), "from the node: the host port's home");
        assert_eq!(owner(&s, Arrival::Tunnel, at(3), None), WorkerId(2), "to a pod: its home");
        assert_eq!(owner(&s, Arrival::Tunnel, [192, 0, 2, 1].into(), None), WorkerId(3), "to the node");
        assert_eq!(owner(&s, Arrival::Tunnel, at(1), None), WorkerId(3), "to the node's range address");
        assert_eq!(error(at(3), at(2)), WorkerId(1), "an ICMP error: where the replies to its quotation go");
        let stray = IpAddr::from([198, 51, 100, 7]);
        let spread = owner(&s, Arrival::Tunnel, stray, None);
        assert!(spread.0 < 4);
        let next = Snapshot::compile(&c, Some(&s)).expect("a valid configuration");
        assert_eq!(owner(&next, Arrival::Tunnel, stray, None), spread, "the same under every snapshot");
        assert_eq!(owner(&s, port(9), at(3), None), WorkerId(0), "a port that is gone");
    }
}
