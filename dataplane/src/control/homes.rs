//! Which index and which home a new port gets.

use std::collections::BTreeSet;

use podplane_packet::id::{PortId, WorkerId};

/// Indices and homes in use.
#[derive(Debug)]
pub struct Homes {
    used: BTreeSet<PortId>,
    /// The index that was given out last.
    last: Option<PortId>,
    /// Ports of each worker.
    load: Vec<usize>,
}

impl Homes {
    /// Nothing but the uplink, and the host port with the first worker as its home.
    pub fn new(workers: u8) -> Homes {
        let mut load = vec![0; usize::from(workers.max(1))];
        load[0] = 1;
        Homes { used: BTreeSet::new(), last: None, load }
    }

    /// A free index, and a home: that of its flows in a former process, or the worker with the fewest ports. `None`: the
    /// node is full.
    ///
    /// Indices go round: one that was just left may still be named by flows on their way out, and is charged for them.
    pub fn take(&mut self, former: Option<WorkerId>) -> Option<(PortId, WorkerId)> {
        let all = || (PortId::FIRST_POD.index()..PortId::MAX).map(|i| PortId(i as u16));
        let last = self.last;
        let id = all().filter(|id| Some(*id) > last).chain(all()).find(|id| !self.used.contains(id))?;
        let former = former.map(WorkerId::index).filter(|&home| home < self.load.len());
        let home = former.or_else(|| (0..self.load.len()).min_by_key(|&home| self.load[home]))?;
        let load = self.load.get_mut(home)?;
        *load += 1;
        self.used.insert(id);
        self.last = Some(id);
        Some((id, WorkerId(home as u8)))
    }

    /// Gives an index back.
    pub fn release(&mut self, id: PortId, home: WorkerId) {
        if self.used.remove(&id)
            && let Some(load) = self.load.get_mut(home.index())
        {
            *load = load.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_spread_over_the_workers() {
        let mut homes = Homes::new(3);
        let taken: Vec<u8> = (0..8).map(|_| homes.take(None).unwrap().1.0).collect();
        assert_eq!(taken, [1, 2, 0, 1, 2, 0, 1, 2], "the host port counts for worker 0");
        assert_eq!(homes.take(Some(WorkerId(2))).unwrap().1, WorkerId(2), "where its flows are");
        assert_eq!(homes.take(Some(WorkerId(3))).unwrap().1, WorkerId(0), "there is no such worker any more");
    }

    #[test]
    fn an_index_that_was_left_is_the_last_to_be_taken_again() {
        let mut homes = Homes::new(1);
        let (first, home) = homes.take(None).unwrap();
        homes.release(first, home);
        for _ in 1..PortId::MAX - PortId::FIRST_POD.index() {
            let (id, home) = homes.take(None).unwrap();
            assert_ne!(id, first);
            homes.release(id, home);
        }
        assert_eq!(homes.take(None).unwrap().0, first);
    }

    proptest! {
        #[test]
        fn indices_are_unique_valid_and_all_usable(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200)) {
            let mut homes = Homes::new(4);
            let mut held: Vec<(PortId, WorkerId)> = Vec::new();
            for (take, which) in steps {
                if take || held.is_empty() {
                    let new = homes.take(None).unwrap();
                    prop_assert!(new.0 >= PortId::FIRST_POD && new.0.index() < PortId::MAX);
                    prop_assert!(held.iter().all(|h| h.0 != new.0));
                    held.push(new);
                } else {
                    let (id, home) = held.swap_remove(which.index(held.len()));
                    homes.release(id, home);
                }
            }
            while homes.take(None).is_some() {
                held.push((PortId::default(), WorkerId::default()));
            }
            prop_assert_eq!(held.len(), PortId::MAX - PortId::FIRST_POD.index());
        }
    }
}
