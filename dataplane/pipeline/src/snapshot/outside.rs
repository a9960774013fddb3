//! The world outside the cluster: routes and neighbours of the uplink's network, compiled.

use std::collections::HashMap;
use std::net::IpAddr;

use podplane_packet::id::Mac;
use podplane_tables::changed::ChangedCells;
use podplane_tables::fib::{Fib, NeighbourIndex, NextHop};

use super::SnapshotError;
use super::services::{OutsideConfig, Reach};

/// How a packet gets to an address outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By this neighbour, whose MAC may have to be resolved.
    By(NeighbourIndex),
    /// By a neighbour that has no index yet: it must be resolved first.
    Unresolved(IpAddr),
    /// By another device of the node: its own stack sends it on.
    Host,
    /// There is no route, or one that says so.
    None,
}

/// The world outside, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside {
    wanted: OutsideConfig,
    fib: Fib,
    index: HashMap<IpAddr, NeighbourIndex>,
}

impl Outside {
    /// Compiles; what did not change since `previous` is shared.
    pub(crate) fn compile(config: &OutsideConfig, previous: Option<&Outside>) -> Result<Outside, SnapshotError> {
        if let Some(same) = previous.filter(|p| p.wanted == *config) {
            return Ok(same.clone());
        }
        let mut index = HashMap::new();
        for (i, (address, _)) in config.neighbours.iter().enumerate().filter(|(_, n)| !n.0.is_unspecified()) {
            if i >= NeighbourIndex::MAX || index.insert(*address, NeighbourIndex(i as u16)).is_some() {
                return Err(SnapshotError::Neighbour(*address));
            }
        }
        let hop = |reach: Reach| match reach {
            Reach::OnLink => Ok(NextHop::OnLink),
            Reach::Host => Ok(NextHop::Host),
            Reach::Nowhere => Ok(NextHop::Blackhole),
            Reach::Gateway(g) => index.get(&g).map(|i| NextHop::Outside(*i)).ok_or(SnapshotError::Neighbour(g)),
        };
        let hops = config.routes.iter().map(|(p, reach)| Ok((p.addr, p.len, hop(*reach)?)));
        let routes = hops.collect::<Result<Vec<_>, SnapshotError>>()?;
        let fib = match previous {
            // The gateways' indices are stable, so equal routes mean an equal table.
            Some(p) if p.wanted.routes == config.routes && p.same_gateways(config) => p.fib.clone(),
            _ => Fib::build(routes, []).map_err(|e| SnapshotError::Routes(e.to_string()))?,
        };
        Ok(Outside { wanted: config.clone(), fib, index })
    }

    fn same_gateways(&self, config: &OutsideConfig) -> bool {
        config.routes.iter().all(|(_, reach)| match reach {
            Reach::OnLink | Reach::Host | Reach::Nowhere => true,
            Reach::Gateway(g) => self
                .index
                .get(g)
                .is_some_and(|i| config.neighbours.get(i.index()).is_some_and(|(address, _)| address == g)),
        })
    }

    /// Stamps what differs from `old`.
    pub(super) fn stamp(&self, old: &Outside, cells: &ChangedCells, generation: u32) {
        if self.wanted.routes != old.wanted.routes {
            cells.stamp_all(generation);
        }
        let (now, before) = (&self.wanted.neighbours, &old.wanted.neighbours);
        for i in 0..now.len().max(before.len()).min(NeighbourIndex::MAX) {
            let (is, was) = (now.get(i).map(|n| n.0), before.get(i).map(|n| n.0));
            if is != was {
                cells.stamp_neighbour(NeighbourIndex(i as u16), generation);
                // Flows to it that found it without an index, or hold another.
                [is, was].into_iter().flatten().for_each(|a| cells.stamp_address(a, generation));
            }
        }
    }

    /// How an address is reached.
    pub(crate) fn way(&self, dst: IpAddr) -> Way {
        match self.fib.lookup(dst) {
            Some(NextHop::Outside(neighbour)) => Way::By(neighbour),
            Some(NextHop::OnLink) => self.index.get(&dst).map_or(Way::Unresolved(dst), |i| Way::By(*i)),
            Some(NextHop::Host) => Way::Host,
            _ => Way::None,
        }
    }

    /// Whether the MAC of a neighbour is known.
    pub(crate) fn is_resolved(&self, address: IpAddr) -> bool {
        self.index.get(&address).and_then(|i| self.neighbour(*i)).is_some_and(|(_, mac)| mac.is_some())
    }

    /// A neighbour's address and MAC.
    #[inline]
    pub(crate) fn neighbour(&self, index: NeighbourIndex) -> Option<(IpAddr, Option<Mac>)> {
        self.wanted.neighbours.get(index.index()).copied().filter(|(address, _)| !address.is_unspecified())
    }
}
