//! What introspection may see of control, replaced whole whenever it changes.

use podplane_config::introspect::{Agent, Failure, Node, Peer};
use podplane_config::v1::EndpointPolicy;
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::catalog::Catalog;
use crate::ports::{LinkState, PortFacts, PortMonitor};
use crate::worker::shared::Shared;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What introspection may see of control.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The agent.
    pub agent: Agent,
    /// This node.
    pub node: Option<Node>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Endpoints that are not connected.
    pub failed: Vec<Failure>,
    /// The ports.
    pub ports: Vec<PortView>,
    /// The names of Services, and policy.
    pub catalog: Catalog,
    /// What compiling the last change of policy took.
    pub policy_compiled: Duration,
}

/// A port as introspection sees it.
#[derive(Clone, Debug)]
pub struct PortView {
    /// Its index.
    pub id: PortId,
    /// Its device.
    pub facts: PortFacts,
    /// The device's state.
    pub monitor: PortMonitor,
    /// The endpoint's identity, or empty.
    pub endpoint: String,
    /// The pod's name, or empty.
    pub pod: String,
    /// Its home; `None`: every worker receives.
    pub home: Option<WorkerId>,
    /// The Ethernet address behind it.
    pub mac: Mac,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The rules that the pod has.
    pub policy: EndpointPolicy,
    /// Longest IP packet in bytes.
    pub mtu: u16,
    /// What its index had counted before it was attached.
    pub baseline: Arc<Baseline>,
}

/// The counters of one port index on all workers at one time: indices are used again, counters never go back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// By worker.
    workers: Vec<PortCount>,
}

/// One worker's counters of one port, or their difference to earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortCount {
    /// Packets and bytes that came in.
    pub rx: (u64, u64),
    /// Packets and bytes that went out.
    pub tx: (u64, u64),
    /// Packets that came in and were dropped, by reason.
    pub drops: [u64; DropReason::COUNT],
}

impl PortCount {
    /// What `counters` say of `port` now.
    fn read(counters: &WorkerCounters, port: PortId) -> PortCount {
        let port = counters.port(port);
        let mut drops = [0; DropReason::COUNT];
        for &reason in DropReason::ALL {
            drops[reason.index()] = port.drops(reason);
        }
        PortCount { rx: port.rx(), tx: port.tx(), drops }
    }

    fn since(&self, before: &PortCount) -> PortCount {
        let less = |now: (u64, u64), then: (u64, u64)| (now.0.wrapping_sub(then.0), now.1.wrapping_sub(then.1));
        let mut drops = self.drops;
        drops.iter_mut().zip(before.drops).for_each(|(now, then)| *now = now.wrapping_sub(then));
        PortCount { rx: less(self.rx, before.rx), tx: less(self.tx, before.tx), drops }
    }
}

impl Baseline {
    /// What the workers have counted for `port` so far.
    pub fn take(shared: &Shared, port: PortId) -> Baseline {
        Baseline { workers: shared.seats.iter().map(|seat| PortCount::read(&seat.counters, port)).collect() }
    }

    /// What each worker counted for `port` since.
    pub fn since<'a>(&'a self, shared: &'a Shared, port: PortId) -> impl Iterator<Item = PortCount> + 'a {
        shared.seats.iter().enumerate().map(move |(worker, seat)| {
            let now = PortCount::read(&seat.counters, port);
            self.workers.get(worker).map_or(now, |before| now.since(before))
        })
    }
}

/// The contract's word for a device's state.
pub fn link(state: LinkState) -> podplane_config::introspect::Link {
    use podplane_config::introspect::Link;
    match state {
        LinkState::Up => Link::Up,
        LinkState::Down => Link::Down,
        LinkState::Gone => Link::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_index_starts_at_zero() {
        let counters = WorkerCounters::new(4);
        let port = PortId(3);
        counters.count_rx(port, 5, 500);
        counters.count_drop(port, DropReason::NoRoute);
        let before = PortCount::read(&counters, port);
        counters.count_rx(port, 2, 20);
        counters.count_drop(port, DropReason::NoRoute);
        counters.count_drop(port, DropReason::SpoofedMac);
        let since = PortCount::read(&counters, port).since(&before);
        assert_eq!((since.rx, since.tx), ((2, 20), (0, 0)));
        assert_eq!(since.drops[DropReason::NoRoute.index()], 1);
        assert_eq!(since.drops[DropReason::SpoofedMac.index()], 1);
        assert_eq!(since.drops.iter().sum::<u64>(), 2);
    }
}
