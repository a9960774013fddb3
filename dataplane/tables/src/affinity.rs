//! Which backend a client has (`sessionAffinity: ClientIP`).
//!
//! One table belongs to one worker: all connections of a client to a Service meet at the worker that owns the client.
//! Memory is fixed. A keyed hash chooses a set of eight places; a client that finds it full takes the place of the one
//! that was silent the longest, so a flood of clients costs others their affinity, not memory, and never more than
//! eight comparisons.

use std::net::{IpAddr, Ipv6Addr};

use crate::Millis;
use crate::flow::siphash13;

/// Places of one set.
const WAYS: usize = 8;

/// The longest timeout that Kubernetes allows, in milliseconds: `timeoutSeconds` is at most a day.
pub const MAX_TIMEOUT: Millis = 86_400_000;

/// One client of one Service. IPv4 addresses stand in their mapped form, which no packet may have.
#[derive(Clone, Copy, Debug)]
struct Place {
    client: Ipv6Addr,
    backend: Ipv6Addr,
    service: u32,
    last: Millis,
    port: u16,
    used: bool,
}

const EMPTY: Place =
    Place { client: Ipv6Addr::UNSPECIFIED, backend: Ipv6Addr::UNSPECIFIED, service: 0, last: 0, port: 0, used: false };

/// The affinity table of one worker. See the [module](self).
#[derive(Debug)]
pub struct Affinity {
    /// Sets of [`WAYS`] one after another.
    places: Box<[Place]>,
    seed: [u64; 2],
    /// Where [`Affinity::sweep`] goes on.
    cursor: usize,
    used: usize,
    evicted: u64,
}

impl Affinity {
    /// An empty table of at least `capacity` clients (48 bytes each), with the random key of its hash.
    pub fn new(capacity: usize, seed: [u64; 2]) -> Affinity {
        let places = vec![EMPTY; capacity.max(1).next_multiple_of(WAYS)].into();
        Affinity { places, seed, cursor: 0, used: 0, evicted: 0 }
    }

    /// The backend of a client's last connection to the Service, if that was less than `timeout` milliseconds ago
    /// (at most [`MAX_TIMEOUT`]). This connection counts: the time starts anew.
    pub fn get(&mut self, now: Millis, client: IpAddr, service: u32, timeout: Millis) -> Option<(IpAddr, u16)> {
        let client = mapped(client);
        let first = self.set_of(client, service) * WAYS;
        let place = self.places[first..][..WAYS].iter_mut().find(|p| p.is(client, service))?;
        if now.wrapping_sub(place.last) >= timeout {
            place.used = false;
            self.used -= 1;
            return None;
        }
        place.last = now;
        Some((IpAddr::V6(place.backend).to_canonical(), place.port))
    }

    /// Remembers the backend that a client's new connection to the Service got, in place of a former one.
    pub fn set(&mut self, now: Millis, client: IpAddr, service: u32, backend: (IpAddr, u16)) {
        let client = mapped(client);
        let first = self.set_of(client, service) * WAYS;
        let places = &mut self.places[first..][..WAYS];
        // The client's own place, else a free one, else that of the longest silence.
        let rank = |p: &Place| match () {
            () if p.is(client, service) => (2, 0),
            () if !p.used => (1, 0),
            () => (0, now.wrapping_sub(p.last)),
        };
        let Some(place) = places.iter_mut().max_by_key(|p| rank(p)) else { return };
        match rank(place).0 {
            1 => self.used += 1,
            0 => self.evicted += 1,
            _ => {}
        }
        *place = Place { client, backend: mapped(backend.0), service, last: now, port: backend.1, used: true };
    }

    /// Housekeeping: clears what is older than any timeout among the next `count` places, before the clock's wrapping
    /// would make it look young. A round takes `capacity / count` calls and must not take longer than 20 days.
    pub fn sweep(&mut self, now: Millis, count: usize) {
        for _ in 0..count.min(self.places.len()) {
            let place = &mut self.places[self.cursor];
            if place.used && now.wrapping_sub(place.last) >= MAX_TIMEOUT {
                place.used = false;
                self.used -= 1;
            }
            self.cursor = (self.cursor + 1) % self.places.len();
        }
    }

    /// How many clients it remembers at most.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    /// How many it remembers now, some perhaps beyond their timeout.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether it remembers nobody.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many clients lost their place to another one since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn set_of(&self, client: Ipv6Addr, service: u32) -> usize {
        let bits = u128::from(client);
        let hash = siphash13(self.seed, &[bits as u64, (bits >> 64) as u64, u64::from(service)]);
        let sets = self.places.len() / WAYS;
        ((u128::from(hash) * sets as u128) >> 64) as usize
    }
}

impl Place {
    #[inline]
    fn is(&self, client: Ipv6Addr, service: u32) -> bool {
        self.used && self.service == service && self.client == client
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const _: () = assert!(size_of::<Place>() <= 48);

    fn client(n: u8) -> IpAddr {
        match n % 2 {
            0 => Ipv4Addr::new(10, 0, 0, n).into(),
            _ => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
        }
    }

    /// The slow oracle: each set as a list, the longest silent client first.
    #[derive(Default)]
    struct Oracle(HashMap<usize, Vec<Listed>>);

    type Listed = (IpAddr, u32, (IpAddr, u16), Millis);

    impl Oracle {
        fn get(
            &mut self,
            set: usize,
            now: Millis,
            client: IpAddr,
            service: u32,
            timeout: Millis,
        ) -> Option<(IpAddr, u16)> {
            let list = self.0.entry(set).or_default();
            let at = list.iter().position(|e| e.0 == client && e.1 == service)?;
            let (.., backend, last) = list.remove(at);
            (now.wrapping_sub(last) < timeout).then(|| {
                list.push((client, service, backend, now));
                backend
            })
        }

        fn set(&mut self, set: usize, now: Millis, client: IpAddr, service: u32, backend: (IpAddr, u16)) {
            let list = self.0.entry(set).or_default();
            list.retain(|e| (e.0, e.1) != (client, service));
            if list.len() == WAYS {
                list.remove(0);
            }
            list.push((client, service, backend, now));
        }
    }

    proptest! {
        #[test]
        fn equals_lists(
            start: Millis,
            ops in proptest::collection::vec((any::<bool>(), 0u8..24, 0u32..3, 1u32..400, 0u16..4), 1..200),
        ) {
            let mut table = Affinity::new(16, [3, 4]);
            let mut oracle = Oracle::default();
            let mut now = start;
            for (get, n, service, step, port) in ops {
                // Never 0: among equal ages the table may evict any.
                now = now.wrapping_add(step);
                let client = client(n);
                let set = table.set_of(mapped(client), service);
                if get {
                    let expected = oracle.get(set, now, client, service, 5000);
                    prop_assert_eq!(table.get(now, client, service, 5000), expected);
                } else {
                    let backend = (client, port);
                    oracle.set(set, now, client, service, backend);
                    table.set(now, client, service, backend);
                }
                prop_assert_eq!(table.len(), oracle.0.values().map(Vec::len).sum::<usize>());
            }
        }
    }

    #[test]
    fn the_timeout_starts_anew_with_each_connection() {
        let mut table = Affinity::new(8, [1, 2]);
        let backend = (client(2), 80);
        table.set(0, client(4), 1, backend);
        assert_eq!(table.get(999, client(4), 1, 1000), Some(backend));
        assert_eq!(table.get(1998, client(4), 1, 1000), Some(backend));
        assert_eq!(table.get(1999, client(4), 2, 1000), None, "another Service");
        assert_eq!(table.get(2998, client(4), 1, 1000), None);
        assert!(table.is_empty());
    }

    #[test]
    fn a_flood_takes_no_memory_and_keeps_the_youngest() {
        let mut table = Affinity::new(64, [1, 2]);
        for n in 0..10_000u32 {
            table.set(n, Ipv4Addr::from(n).into(), 1, (client(2), 80));
        }
        assert_eq!((table.len(), table.capacity()), (64, 64));
        assert_eq!(table.evicted(), 10_000 - 64);
        assert_eq!(table.get(10_000, Ipv4Addr::from(9_999).into(), 1, 1000), Some((client(2), 80)));
    }

    #[test]
    fn sweeping_forgets_what_no_timeout_reaches() {
        let mut table = Affinity::new(64, [1, 2]);
        table.set(5, client(2), 1, (client(4), 80));
        table.sweep(MAX_TIMEOUT + 4, 64);
        assert_eq!(table.len(), 1);
        (0..8).for_each(|_| table.sweep(MAX_TIMEOUT + 5, 8));
        assert!(table.is_empty());
        assert_eq!(table.get(5, client(2), 1, MAX_TIMEOUT), None, "not when the clock has wrapped either");
    }
}
