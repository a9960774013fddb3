use super::*;

const DEVICE: u32 = 7;

/// A kernel that remembers what it was told.
#[derive(Default)]
struct Fake {
    known: HashMap<IpAddr, Neighbour>,
    managed: Vec<IpAddr>,
    resolved: Vec<IpAddr>,
    forgotten: Vec<IpAddr>,
}

impl Kernel for Fake {
    fn index(&self) -> u32 {
        DEVICE
    }

    fn all(&mut self) -> Vec<Neighbour> {
        self.known.values().cloned().collect()
    }

    fn one(&mut self, address: IpAddr) -> Option<Neighbour> {
        self.known.get(&address).cloned()
    }

    fn manage(&mut self, address: IpAddr) {
        self.managed.push(address);
    }

    fn resolve(&mut self, address: IpAddr) {
        self.resolved.push(address);
    }

    fn forget(&mut self, address: IpAddr) {
        self.forgotten.push(address);
    }
}

fn host(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc633_0000 + n).into()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn is(address: IpAddr, state: NeighState, mac: Option<Mac>) -> Neighbour {
    Neighbour { index: DEVICE, address, mac, state, managed: false }
}

fn answers(address: IpAddr, last: u8) -> Neighbour {
    is(address, NeighState::Valid, Some(mac(last)))
}

fn neighbours() -> (Neighbours<Fake>, Instant) {
    (Neighbours::of(Fake::default()), Instant::now())
}

const POD: PortId = PortId(5);

fn later(now: Instant, seconds: u64) -> Instant {
    now + Duration::from_secs(seconds)
}

#[test]
fn gateways_are_kept_resolved_and_forgotten_with_their_last_user() {
    let (mut all, now) = neighbours();
    let (first, second) = (host(1), host(2));
    all.keep(&[first, second].into());
    assert_eq!(all.kernel.managed, [first, second]);
    assert!(all.changed(&answers(first, 1)) && !all.changed(&answers(first, 1)), "the second time it is nothing new");
    assert_eq!(all.mac(first), Some(mac(1)));
    assert!(all.changed(&answers(first, 9)), "it has another Ethernet address");
    assert!(!all.changed(&is(first, NeighState::Failed, None)));
    assert_eq!(all.mac(first), Some(mac(9)), "a gateway keeps its last");
    assert!(!all.retry(now));
    assert_eq!(all.kernel.resolved, [second], "the one that has not answered is asked again");
    all.keep(&[second].into());
    assert_eq!((all.kernel.forgotten.as_slice(), all.mac(first)), ([first].as_slice(), None));
    assert_eq!(all.table(), [(Ipv4Addr::UNSPECIFIED.into(), None), (second, None)], "the others keep their index");
    all.keep(&[second, host(3)].into());
    assert_eq!(all.table()[0].0, host(3), "a free index is used again");
}

#[test]
fn what_an_administrator_set_is_used_and_left_alone() {
    let (mut all, _) = neighbours();
    let set = is(host(1), NeighState::Permanent, Some(mac(1)));
    all.kernel.known.insert(host(1), set);
    all.keep(&[host(1)].into());
    assert_eq!((all.mac(host(1)), all.kernel.managed.len()), (Some(mac(1)), 0));
    all.keep(&BTreeSet::new());
    assert!(all.kernel.forgotten.is_empty());
}

#[test]
fn hosts_are_asked_for_once_verified_and_forgotten_when_they_fail() {
    let (mut all, now) = neighbours();
    assert!(!all.ask(host(1), POD, now) && !all.ask(host(1), POD, now));
    assert_eq!(all.kernel.resolved, [host(1)]);
    assert!(all.changed(&answers(host(1), 1)));
    assert!(!all.retry(later(now, 29)));
    assert_eq!(all.kernel.resolved.len(), 1);
    assert!(!all.retry(later(now, 31)) && !all.retry(later(now, 32)));
    assert_eq!(all.kernel.resolved.len(), 2, "verified every half minute");
    assert!(all.changed(&is(host(1), NeighState::Failed, None)), "whoever used it must know");
    assert_eq!((all.mac(host(1)), all.kernel.forgotten.as_slice()), (None, [host(1)].as_slice()));
}

#[test]
fn one_that_the_kernel_knows_is_there_at_once() {
    let (mut all, now) = neighbours();
    all.kernel.known.insert(host(1), answers(host(1), 1));
    assert!(all.ask(host(1), POD, now));
    assert_eq!(all.mac(host(1)), Some(mac(1)));
}

#[test]
fn who_does_not_answer_is_forgotten_after_some_seconds() {
    let (mut all, now) = neighbours();
    all.ask(host(1), POD, now);
    assert!(!all.retry(later(now, 3)));
    assert!(all.retry(later(now, 4)), "its packets have waited long enough");
    assert!(all.get(host(1)).is_none());
}

#[test]
fn a_host_that_becomes_a_gateway_keeps_what_is_known_of_it() {
    let (mut all, now) = neighbours();
    all.ask(host(1), POD, now);
    all.changed(&answers(host(1), 1));
    all.keep(&[host(1)].into());
    assert_eq!((all.table(), all.kernel.managed.as_slice()), (vec![(host(1), Some(mac(1)))], [host(1)].as_slice()));
}

#[test]
fn other_devices_and_strangers_are_of_no_interest() {
    let (mut all, now) = neighbours();
    all.ask(host(1), POD, now);
    assert!(!all.changed(&Neighbour { index: DEVICE + 1, ..answers(host(1), 1) }));
    assert!(!all.changed(&answers(host(2), 1)));
    assert_eq!(all.mac(host(1)), None);
}

#[test]
fn lost_events_are_made_up_for() {
    let (mut all, now) = neighbours();
    all.ask(host(1), POD, now);
    all.ask(host(2), POD, now);
    all.kernel.known.extend([(host(1), answers(host(1), 1)), (host(2), answers(host(2), 2))]);
    assert!(all.read() && !all.read());
    assert_eq!((all.mac(host(1)), all.mac(host(2))), (Some(mac(1)), Some(mac(2))));
}

#[test]
fn a_pod_that_scans_keeps_no_other_from_its_neighbours() {
    let (mut all, now) = neighbours();
    let (scanner, other, third) = (PortId(5), PortId(6), PortId(7));
    for n in 0..1000 {
        all.ask(host(n), scanner, now);
    }
    assert_eq!(all.index.len(), UNANSWERED);
    for n in 1000..1010 {
        all.ask(host(n), other, now);
        assert!(all.get(host(n)).is_some(), "{n}");
    }
    assert_eq!(all.index.len(), UNANSWERED, "the scanner gave way");
    // Two that scan share; a third still has its own.
    for n in 2000..3000 {
        all.ask(host(n), third, now);
    }
    let of = |port| all.entries.iter().flatten().filter(|e| e.asked.is_some_and(|a| a.by == port)).count();
    assert_eq!((of(scanner), of(other), of(third)), (123, 10, 123));
    all.ask(host(3000), other, now);
    assert!(all.get(host(3000)).is_some());
}

#[test]
fn the_longest_known_host_makes_room() {
    let (mut all, now) = neighbours();
    for n in 0..HOSTS as u32 {
        all.ask(host(n), POD, later(now, u64::from(n)));
        all.changed(&answers(host(n), 1));
    }
    let end = later(now, HOSTS as u64);
    all.ask(host(HOSTS as u32), POD, end);
    assert_eq!(all.kernel.forgotten, [host(0)]);
    assert_eq!(all.table()[0].0, host(HOSTS as u32), "in its place");
}
