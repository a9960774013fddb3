//! Next hops of the peers' VTEPs: asked of the kernel's routes, and resolved by the kernel's neighbour tables on the
//! host port, which reach the uplink's network at L2. So routers, static routes, ARP and ND need no code of ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use podplane_hostnet::{Mac, NeighState, Neighbour, Netlink, Result};

/// What is known of the ways to the peers.
pub struct NextHops {
    netlink: Netlink,
    /// The node's side of the host port.
    host_index: u32,
    /// VTEP to the address of its next hop; `None`: the kernel has no route to it by the host port.
    ways: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Next hops to their Ethernet addresses. One that stops answering keeps its last: the kernel goes on asking, and
    /// nothing better is known.
    macs: HashMap<IpAddr, Mac>,
    /// Next hops that the kernel was told to keep resolved.
    managed: BTreeSet<IpAddr>,
}

impl std::fmt::Debug for NextHops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NextHops").field("ways", &self.ways).field("macs", &self.macs).finish_non_exhaustive()
    }
}

impl NextHops {
    /// Follows nothing yet. `host_index`: the interface index of the node's side of the host port.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn new(host_index: u32) -> Result<NextHops> {
        Ok(NextHops {
            netlink: Netlink::open()?,
            host_index,
            ways: BTreeMap::new(),
            macs: HashMap::new(),
            managed: BTreeSet::new(),
        })
    }

    /// Follows the ways to these VTEPs and no others.
    pub fn follow(&mut self, vteps: impl Iterator<Item = IpAddr>) {
        let wanted: BTreeSet<IpAddr> = vteps.collect();
        self.ways.retain(|vtep, _| wanted.contains(vtep));
        let fresh: Vec<IpAddr> = wanted.into_iter().filter(|vtep| !self.ways.contains_key(vtep)).collect();
        for vtep in fresh {
            let way = self.way_to(vtep);
            self.ways.insert(vtep, way);
        }
        self.manage();
    }

    /// Routes or addresses changed: asks for all ways again. `true`: some are others now.
    pub fn routes_changed(&mut self) -> bool {
        let vteps: Vec<IpAddr> = self.ways.keys().copied().collect();
        let mut changed = false;
        for vtep in vteps {
            let way = self.way_to(vtep);
            changed |= self.ways.insert(vtep, way) != Some(way);
        }
        self.manage();
        changed
    }

    /// A neighbour changed. `true`: the Ethernet address of a next hop that is in use is another now.
    pub fn neighbour_changed(&mut self, neighbour: &Neighbour) -> bool {
        if neighbour.index != self.host_index || !usable(neighbour.state) {
            return false;
        }
        let Some(mac) = neighbour.mac else { return false };
        if !self.managed.contains(&neighbour.address) {
            return false;
        }
        self.macs.insert(neighbour.address, mac) != Some(mac)
    }

    /// Reads all neighbours again, because events were lost. `true`: something is different.
    pub fn read_neighbours(&mut self) -> bool {
        let neighbours = self.netlink.neighbours(Some(self.host_index)).unwrap_or_default();
        // Not `any`: each must be looked at.
        neighbours.iter().fold(false, |changed, n| self.neighbour_changed(n) | changed)
    }

    /// Asks again for those that have not answered. To be called every few seconds.
    pub fn retry(&mut self) {
        for hop in self.managed.iter().filter(|hop| !self.macs.contains_key(hop)) {
            if let Err(error) = self.netlink.use_neighbour(self.host_index, *hop) {
                tracing::debug!(%hop, %error, "cannot ask for a next hop");
            }
        }
    }

    /// The address of the next hop to a VTEP.
    pub fn via(&self, vtep: IpAddr) -> Option<IpAddr> {
        self.ways.get(&vtep).copied().flatten()
    }

    /// The Ethernet address of the next hop to a VTEP.
    pub fn mac(&self, vtep: IpAddr) -> Option<Mac> {
        self.macs.get(&self.via(vtep)?).copied()
    }

    fn way_to(&mut self, vtep: IpAddr) -> Option<IpAddr> {
        match self.netlink.route_to(vtep, None) {
            Ok(route) => {
                let hop = route.hops.first().filter(|hop| hop.index == self.host_index);
                if hop.is_none() {
                    tracing::warn!(%vtep, "the node's route to this peer does not lead through the uplink: {route:?}");
                }
                hop.map(|hop| hop.gateway.unwrap_or(vtep))
            }
            Err(error) => {
                tracing::warn!(%vtep, %error, "the node has no route to this peer");
                None
            }
        }
    }

    /// Lets the kernel keep the next hops in use resolved, and forget the others.
    fn manage(&mut self) {
        let wanted: BTreeSet<IpAddr> = self.ways.values().flatten().copied().collect();
        for &hop in self.managed.difference(&wanted) {
            if let Err(error) = self.netlink.delete_neighbour(self.host_index, hop) {
                tracing::debug!(%hop, %error, "cannot forget a next hop");
            }
            self.macs.remove(&hop);
        }
        let fresh: Vec<IpAddr> = wanted.difference(&self.managed).copied().collect();
        self.managed = wanted;
        if fresh.is_empty() {
            return;
        }
        // An address that an administrator set stays as it is.
        let known = self.netlink.neighbours(Some(self.host_index)).unwrap_or_default();
        let permanent = |hop: IpAddr| known.iter().any(|n| n.address == hop && n.state == NeighState::Permanent);
        for hop in fresh.into_iter().filter(|hop| !permanent(*hop)) {
            if let Err(error) = self.netlink.manage_neighbour(self.host_index, hop) {
                tracing::warn!(%hop, %error, "the kernel does not resolve a next hop");
            }
        }
        for neighbour in &known {
            self.neighbour_changed(neighbour);
        }
    }
}

fn usable(state: NeighState) -> bool {
    matches!(state, NeighState::Permanent | NeighState::Valid)
}
