//! Who the indices in the entries are: a table beside the entries, so that a later process, which numbers ports, peers
//! and neighbours anew, can tell.
//!
//! Nothing is ever removed: an index whose user is gone keeps the name until it gets another user, so that what is
//! left of the former one's flows is not taken for somebody else's.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use podplane_packet::id::{PortId, WorkerId};

use super::hash::siphash13;
use crate::VtepIndex;
use crate::fib::NeighbourIndex;
use crate::mem::Array;

/// Words of a port's name: two of its identity, and its home + 1.
const PORT_WORDS: usize = 3;
/// Words of an address: IPv4 in its mapped form.
const ADDRESS_WORDS: usize = 2;
const VTEPS: usize = PortId::MAX * PORT_WORDS;
const NEIGHBOURS: usize = VTEPS + VtepIndex::MAX * ADDRESS_WORDS;
/// Words of all names.
pub(super) const WORDS: usize = NEIGHBOURS + NeighbourIndex::MAX * ADDRESS_WORDS;

/// Whose a port is: 128 bits of a keyed hash of the endpoint's id, so that any id fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u64; 2]);

impl Identity {
    pub(super) fn new(key: [u64; 2], id: &str) -> Identity {
        let lane = |n: u64| {
            let start = siphash13(key, &[n, id.len() as u64]);
            id.as_bytes().chunks(8).fold(start, |state, chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                siphash13(key, &[state, u64::from_ne_bytes(word)])
            })
        };
        // Never all zeroes, which stands for nobody.
        Identity([lane(1), lane(2) | 1])
    }
}

/// The names in the flow memory. Written by control alone, before workers use an index; read by a later process.
#[derive(Debug)]
pub struct Names {
    words: Array<AtomicU64>,
    key: [u64; 2],
}

impl Names {
    pub(super) fn new(words: Array<AtomicU64>, key: [u64; 2]) -> Names {
        debug_assert_eq!(words.len(), WORDS);
        Names { words, key }
    }

    /// Notes whose a port is, and its home.
    pub fn port(&self, port: PortId, endpoint: &str, home: WorkerId) {
        if port.index() < PortId::MAX {
            let Identity([a, b]) = Identity::new(self.key, endpoint);
            self.set(port.index() * PORT_WORDS, &[a, b, u64::from(home.0) + 1]);
        }
    }

    /// Notes a peer's VTEP.
    pub fn vtep(&self, vtep: VtepIndex, address: IpAddr) {
        if vtep.index() < VtepIndex::MAX {
            self.set(VTEPS + vtep.index() * ADDRESS_WORDS, &words_of(address));
        }
    }

    /// Notes a neighbour outside the cluster.
    pub fn neighbour(&self, neighbour: NeighbourIndex, address: IpAddr) {
        if neighbour.index() < NeighbourIndex::MAX {
            self.set(NEIGHBOURS + neighbour.index() * ADDRESS_WORDS, &words_of(address));
        }
    }

    fn set(&self, at: usize, values: &[u64]) {
        for (word, value) in self.words[at..].iter().zip(values) {
            // Whoever reads it comes after our end.
            word.store(*value, Ordering::Relaxed);
        }
    }
}

/// Names read from a former process' memory: any bits.
#[derive(Debug)]
pub(super) struct OldNames(pub(super) Vec<u64>);

impl OldNames {
    pub(super) fn ports(&self) -> impl Iterator<Item = (PortId, Identity, WorkerId)> + '_ {
        self.records::<PORT_WORDS>(0, PortId::MAX).filter_map(|(i, [a, b, home])| {
            let home = u8::try_from(home.checked_sub(1)?).ok().filter(|&h| usize::from(h) < WorkerId::MAX)?;
            Some((PortId(i), Identity([a, b]), WorkerId(home)))
        })
    }

    pub(super) fn vteps(&self) -> impl Iterator<Item = (VtepIndex, IpAddr)> + '_ {
        self.records(VTEPS, VtepIndex::MAX).map(|(i, words)| (VtepIndex(i), address_of(words)))
    }

    pub(super) fn neighbours(&self) -> impl Iterator<Item = (NeighbourIndex, IpAddr)> + '_ {
        self.records(NEIGHBOURS, NeighbourIndex::MAX).map(|(i, words)| (NeighbourIndex(i), address_of(words)))
    }

    /// The records that are not all zeroes.
    fn records<const N: usize>(&self, from: usize, count: usize) -> impl Iterator<Item = (u16, [u64; N])> + '_ {
        let words = self.0.get(from..from + count * N).unwrap_or_default();
        let records = words.as_chunks::<N>().0.iter().enumerate();
        records.filter(|(_, words)| words.iter().any(|&w| w != 0)).map(|(i, words)| (i as u16, *words))
    }
}

fn words_of(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(a) => u128::from(a.to_ipv6_mapped()),
        IpAddr::V6(a) => u128::from(a),
    };
    [bits as u64, (bits >> 64) as u64]
}

fn address_of([low, high]: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(u128::from(low) | u128::from(high) << 64)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Want;

    #[test]
    fn names_come_back() {
        let names = Names::new(Array::new(WORDS, Want::Base).unwrap(), [1, 2]);
        names.port(PortId(7), "default/a-pod/eth0", WorkerId(3));
        names.port(PortId(u16::MAX), "nobody's", WorkerId(3));
        names.vtep(VtepIndex(0), [192, 0, 2, 1].into());
        names.vtep(VtepIndex(9), "2001:db8::9".parse().unwrap());
        names.neighbour(NeighbourIndex(NeighbourIndex::MAX as u16 - 1), [198, 51, 100, 1].into());
        let old = OldNames(names.words.iter().map(|w| w.load(Ordering::Relaxed)).collect());
        let id = |text| Identity::new([1, 2], text);
        assert_eq!(old.ports().collect::<Vec<_>>(), [(PortId(7), id("default/a-pod/eth0"), WorkerId(3))]);
        let vteps = [(VtepIndex(0), [192, 0, 2, 1].into()), (VtepIndex(9), "2001:db8::9".parse().unwrap())];
        assert_eq!(old.vteps().collect::<Vec<_>>(), vteps);
        assert_eq!(old.neighbours().count(), 1);
        assert_ne!(id("default/a-pod/eth0"), id("default/b-pod/eth0"));
        assert_ne!(id("a"), id("a\\0"), "the length counts");
        assert_ne!(id("a"), Identity::new([1, 3], "a"));
    }
}
