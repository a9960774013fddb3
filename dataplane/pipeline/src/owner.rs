//! Which worker owns a packet: a pure function of its headers and the port table, never of flow state.
//!
//! The design's cases, the first that fits:
//! 1. ICMP errors: those of the embedded tuple, reversed (so the destination is the embedded source).
//! 2. From a pod or the host port: that port's home.
//! 3. Fragments that came plain to node or Service addresses: gathered at [`gatherer`], then handed in order to the owner
//!    that their ports name.
//! 4. Plain to a masquerade port: the worker that the port names. (What is masqueraded and goes on through a tunnel is
//!    answered through the tunnel: case 6, for the ports of its later fragments are not known there.)
//! 5. To a local pod, plain or tunnelled: its home.
//! 6. Tunnelled to the node: the host port's home.
//! 7. Plain to node or Service addresses: hash of the source, so that one worker knows all connections of a client.
//! 8. Tunnelled to anything else: hash of the destination; for answers to a client outside the same as case 7.
//!
//! A port's home never changes while the port lives.

use std::net::IpAddr;

use podplane_packet::id::{PortId, WorkerId};
use podplane_tables::fib::NextHop;
use podplane_tables::flow::siphash13;

use crate::snapshot::Snapshot;
use crate::snapshot::nets::number;
use crate::world::{Ip, L4};

/// How a packet arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// From a pod or the host port.
    Port(PortId),
    /// Inside the tunnel from another node.
    Tunnel,
    /// By the uplink, but not inside a tunnel.
    Plain,
}

/// What the owner depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// The destination port, or the echo identifier; of no matter for protocols without.
    pub(crate) dport: u16,
}

impl Ends {
    /// Those of a packet; for an ICMP error those of the packet that it quotes, reversed.
    #[inline]
    pub(crate) fn of(ip: &Ip, l4: &L4) -> Ends {
        match l4.quoted {
            Some(q) => Ends { src: q.dst, dst: q.src, dport: q.sport },
            None => Ends { src: ip.src, dst: ip.dst, dport: l4.dport },
        }
    }
}

/// The worker that owns a packet.
#[inline]
pub(crate) fn owner(snap: &Snapshot, arrival: Arrival, ends: Ends) -> WorkerId {
    match arrival {
        Arrival::Port(port) => home(snap, port),
        Arrival::Tunnel | Arrival::Plain => by_addresses(snap, arrival, ends),
    }
}

fn by_addresses(snap: &Snapshot, arrival: Arrival, ends: Ends) -> WorkerId {
    match (arrival, snap.route(ends.dst)) {
        (_, Some(NextHop::Local(port))) => home(snap, port),
        (Arrival::Plain, _) => match snap.local().filter(|l| l.is_masquerade(ends.dst, ends.dport)) {
            Some(local) => {
                let distance = ends.dport - local.masquerade_ports.0;
                WorkerId((distance % u16::from(snap.workers())) as u8)
            }
            None => spread(snap, number(ends.src)),
        },
        (_, Some(NextHop::Host | NextHop::Gateway)) => home(snap, PortId::HOST),
        _ => spread(snap, number(ends.dst)),
    }
}

/// The worker at which the fragments of a packet meet.
pub(crate) fn gatherer(snap: &Snapshot, src: IpAddr, dst: IpAddr, id: u32) -> WorkerId {
    spread(snap, number(src).rotate_left(64) ^ number(dst) ^ u128::from(id) << 32)
}

/// A port's home. A port that is gone belongs to worker 0, which drops what comes from it.
fn home(snap: &Snapshot, port: PortId) -> WorkerId {
    snap.port(port).map_or(WorkerId(0), |p| p.home)
}

fn spread(snap: &Snapshot, bits: u128) -> WorkerId {
    let hash = siphash13(snap.seed(), &[bits as u64, (bits >> 64) as u64]);
    WorkerId((hash % u64::from(snap.workers())) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::services::Masquerade;
    use crate::snapshot::testing::{config, pod};

    #[test]
    fn each_case_of_the_design() {
        let mut c = config(4);
        c.ports[1].1.home = WorkerId(3);
        c.ports.push(pod(2, 1));
        c.ports.push(pod(3, 2));
        let node = IpAddr::from([192, 0, 2, 1]);
        c.local.as_mut().expect("a node").masquerade =
            Some(Masquerade { addresses: vec![node], ports: (50_001, 50_999) });
        let s = Snapshot::compile(&c, None).expect("a valid configuration");
        let at = |last: u8| IpAddr::from([10, 244, 1, last]);
        let stray = IpAddr::from([198, 51, 100, 7]);
        let ends = |src, dst| Ends { src, dst, dport: 80 };
        let port = |p: u16| owner(&s, Arrival::Port(PortId(p)), ends(at(2), at(3)));
        let tunnel = |dst| owner(&s, Arrival::Tunnel, ends(stray, dst));
        let plain = |src, dst, dport| owner(&s, Arrival::Plain, Ends { src, dst, dport });
        assert_eq!(port(2), WorkerId(1), "from a pod: its home, wherever it goes");
        assert_eq!(port(1), WorkerId(3), "from the node: the host port's home");
        assert_eq!(port(9), WorkerId(0), "a port that is gone");
        assert_eq!(tunnel(at(3)), WorkerId(2), "to a pod: its home");
        assert_eq!(plain(stray, at(3), 80), WorkerId(2), "plain to a pod: its home");
        assert_eq!(tunnel(node), WorkerId(3), "tunnelled to the node");
        assert_eq!(tunnel(at(1)), WorkerId(3), "to the node's range address");
        for distance in 0..8u16 {
            let want = WorkerId((distance % 4) as u8);
            assert_eq!(plain(stray, node, 50_001 + distance), want, "the worker that the masquerade port names");
        }
        let service = plain(stray, node, 80);
        assert_eq!(plain(stray, IpAddr::from([10, 96, 0, 1]), 443), service, "one worker knows a client's connections");
        assert_eq!(tunnel(stray), service, "which is the one that answers from other nodes go to");
        let next = Snapshot::compile(&c, Some(&s)).expect("a valid configuration");
        assert_eq!(owner(&next, Arrival::Tunnel, ends(at(3), stray)), service, "the same under every snapshot");
    }
}
