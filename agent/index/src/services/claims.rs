//! Who has an address or a node port that several Services claim.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podplane_config::v1::Protocol;

/// What one Service only can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A ClusterIP, with all its ports.
    ClusterIp(IpAddr),
    /// A node port, at all addresses.
    NodePort(Protocol, u16),
    /// A port of a load balancer's or external address, which Services may share.
    Outer(IpAddr, Protocol, u16),
}

/// Age, then name: the least of them has the place.
type Claimant = (String, String);

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    places: BTreeMap<Place, BTreeSet<Claimant>>,
}

impl Claims {
    /// Who has a place.
    pub(super) fn holder(&self, place: Place) -> Option<&str> {
        self.places.get(&place)?.first().map(|(_, name)| name.as_str())
    }

    /// Replaces what `name` claims; answers the Services that have to be judged again for it.
    pub(super) fn replace(
        &mut self,
        name: &str,
        old: (&str, &BTreeSet<Place>),
        new: (&str, &BTreeSet<Place>),
    ) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let unchanged = old.0 == new.0;
        let either: BTreeSet<Place> = old.1.union(new.1).copied().collect();
        for place in either {
            if unchanged && old.1.contains(&place) && new.1.contains(&place) {
                continue;
            }
            let claimants = self.places.entry(place).or_default();
            let before = claimants.first().cloned();
            if old.1.contains(&place) {
                claimants.remove(&(old.0.to_owned(), name.to_owned()));
            }
            if new.1.contains(&place) {
                claimants.insert((new.0.to_owned(), name.to_owned()));
            }
            let after = claimants.first().cloned();
            // All of them: those that go without name the one that has it.
            let all: Vec<String> = claimants.iter().map(|(_, name)| name.clone()).collect();
            if claimants.is_empty() {
                self.places.remove(&place);
            }
            if before != after {
                touched.extend(all);
                touched.extend(before.map(|(_, name)| name));
                if let Place::ClusterIp(address) = place {
                    touched.extend(self.outer(address));
                }
            }
        }
        touched.remove(name);
        touched
    }

    /// Who claims a load balancer's or external port at an address.
    fn outer(&self, address: IpAddr) -> impl Iterator<Item = String> {
        let from = Place::Outer(address, Protocol::Tcp, 0);
        let to = Place::Outer(address, Protocol::Sctp, u16::MAX);
        self.places.range(from..=to).flat_map(|(_, claimants)| claimants.iter().map(|(_, name)| name.clone()))
    }

    /// Who claims a node port, or a load balancer's or external port at one of `addresses`.
    pub(super) fn at_port<'a>(
        &'a self,
        addresses: impl Iterator<Item = IpAddr> + 'a,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = &'a str> {
        let outer = addresses.map(move |address| Place::Outer(address, protocol, port));
        let places = std::iter::once(Place::NodePort(protocol, port)).chain(outer);
        places.filter_map(|place| self.places.get(&place)).flatten().map(|(_, name)| name.as_str())
    }
}
