use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use podplane_api::MAX_CONTAINER_ID;
use proptest::prelude::*;
use redb::backends::InMemoryBackend;

use super::*;

const COOL_DOWN: Duration = Duration::from_secs(60);

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.into(), ifname: "eth0".into() }
}

fn nets(ranges: &[&str]) -> Vec<IpNet> {
    ranges.iter().map(|r| r.parse().unwrap()).collect()
}

fn reserve(store: &Store, container: &str, ranges: &[IpNet], now: Moment) -> Result<Reserved, IpamError> {
    store.reserve(
        &Wish { id: &id(container), netns: "/run/netns/x", pod: None, ranges, mtu: 1450, host_ports: &[] },
        now,
    )
}

fn memory() -> Store {
    Store::on(InMemoryBackend::new(), COOL_DOWN).unwrap()
}

fn text(reserved: &Reserved) -> Vec<String> {
    reserved.lease.addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn both_families_and_the_same_again() {
    let store = memory();
    let ranges = nets(&["10.0.0.0/29", "fd00::/64"]);
    let first = reserve(&store, "a", &ranges, 0).unwrap();
    assert_eq!(text(&first), ["10.0.0.2", "fd00::2"]);
    assert_eq!(reserve(&store, "a", &ranges, 5).unwrap(), first);
    assert_eq!(text(&reserve(&store, "b", &ranges, 5).unwrap()), ["10.0.0.3", "fd00::3"]);
    let usage = store.usage(&ranges).unwrap();
    assert_eq!((usage[0].used, usage[0].size, usage[1].used), (2, 5, 2));
    store.set_ready(&id("a"), true).unwrap();
    assert!(store.get(&id("a")).unwrap().unwrap().ready);
    assert!(reserve(&store, "a", &ranges, 9).unwrap().lease.ready);
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(store.release(&id("a"), 9).unwrap().unwrap().addresses, first.lease.addresses);
    assert_eq!(store.release(&id("a"), 9).unwrap(), None);
    assert_eq!(store.get(&id("a")).unwrap(), None);
}

#[test]
fn an_address_cools_down_unless_there_is_no_other() {
    let store = memory();
    let ranges = nets(&["10.0.0.0/29"]);
    for (i, container) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        assert_eq!(text(&reserve(&store, container, &ranges, 0).unwrap()), [format!("10.0.0.{}", i + 2)]);
    }
    assert!(matches!(reserve(&store, "f", &ranges, 0), Err(IpamError::Exhausted { size: 5, .. })));
    for (container, at) in [("c", 1_000), ("b", 2_000), ("d", 3_000)] {
        store.release(&id(container), at).unwrap();
    }
    // The oldest first, and said so.
    let early = reserve(&store, "f", &ranges, 4_000).unwrap();
    assert_eq!((text(&early), early.reused_early.len()), (vec!["10.0.0.4".into()], 1));
    // 62 s: .3 has cooled down, .5 has not.
    let cool = reserve(&store, "g", &ranges, 62_000).unwrap();
    assert_eq!((text(&cool), cool.reused_early.len()), (vec!["10.0.0.3".into()], 0));
    assert_eq!(reserve(&store, "h", &ranges, 62_500).unwrap().reused_early.len(), 1);
}

#[test]
fn a_clock_that_is_set_back_blocks_nothing_for_ever() {
    let store = memory();
    let ranges = nets(&["10.0.0.0/30"]);
    reserve(&store, "a", &ranges, 9_000_000).unwrap();
    store.release(&id("a"), 9_000_000).unwrap();
    let again = reserve(&store, "b", &ranges, 1_000).unwrap();
    assert_eq!(again.reused_early, [] as [IpAddr; 0]);
}

#[test]
fn a_changed_range_is_used_for_new_ones_only() {
    let store = memory();
    let old = reserve(&store, "a", &nets(&["10.0.0.0/29"]), 0).unwrap();
    let new = nets(&["10.9.0.0/29", "fd00::/64"]);
    assert_eq!(reserve(&store, "a", &new, 0).unwrap().lease.addresses, old.lease.addresses);
    assert_eq!(text(&reserve(&store, "b", &new, 0).unwrap()), ["10.9.0.2", "fd00::2"]);
    assert!(matches!(reserve(&store, "c", &[], 0), Err(IpamError::NoRange)));
    // One family without room: nothing is taken of the other.
    let narrow = nets(&["10.8.0.0/29", "fd01::/126"]);
    reserve(&store, "d", &narrow, 0).unwrap();
    reserve(&store, "e", &narrow, 0).unwrap();
    assert!(reserve(&store, "f", &narrow, 0).is_err());
    assert_eq!(store.usage(&narrow).unwrap()[0].used, 2);
}

#[test]
fn identities_are_checked() {
    reserve(&memory(), &"x".repeat(MAX_CONTAINER_ID), &nets(&["10.0.0.0/29"]), 0).unwrap();
    for bad in ["", "a/b", "a b", "a\n", &"x".repeat(MAX_CONTAINER_ID + 1)] {
        assert!(matches!(reserve(&memory(), bad, &nets(&["10.0.0.0/29"]), 0), Err(IpamError::Identity(_))), "{bad:?}");
    }
}

#[test]
fn a_second_agent_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam.redb");
    let _first = Store::open(&path, COOL_DOWN).unwrap();
    let error = Store::open(&path, COOL_DOWN).unwrap_err().to_string();
    assert!(error.contains("another agent runs"), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u8),
    Release(u8),
    Wait(u32),
    Range(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12u8).prop_map(Step::Reserve),
        4 => (0..12u8).prop_map(Step::Release),
        3 => (0..50_000u32).prop_map(Step::Wait),
        1 => (0..3u8).prop_map(Step::Range),
    ];
    proptest::collection::vec(step, 0..60)
}

/// The slow oracle: all of history, searched each time.
#[derive(Default)]
struct Model {
    leases: BTreeMap<u8, Vec<IpAddr>>,
    freed: BTreeMap<IpAddr, Moment>,
}

impl Model {
    fn pods(range: &IpNet) -> Vec<IpAddr> {
        let all: Vec<IpAddr> = match range {
            IpNet::V4(net) => net.hosts().map(IpAddr::V4).collect(),
            IpNet::V6(net) => net.hosts().skip(1).map(IpAddr::V6).collect(),
        };
        all[1..].to_vec()
    }

    fn check(&self, range: &IpNet, got: IpAddr, early: bool, now: Moment) -> Result<(), TestCaseError> {
        let used = |a: &IpAddr| self.leases.values().flatten().any(|x| x == a);
        let cooling = |a: &IpAddr| self.freed.get(a).is_some_and(|freed| now - freed < 60_000);
        let pods = Model::pods(range);
        prop_assert!(pods.contains(&got) && !used(&got), "{got} of {range}");
        prop_assert_eq!(early, cooling(&got));
        if early {
            let free: Vec<_> = pods.iter().filter(|a| !used(a) && !cooling(a)).collect();
            prop_assert!(free.is_empty(), "{:?} were free", free);
            let oldest = pods.iter().filter(|a| !used(a)).map(|a| self.freed[a]).min();
            prop_assert_eq!(Some(self.freed[&got]), oldest);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn leases_follow_the_rules(steps in steps()) {
        let store = memory();
        let choices = [nets(&["10.0.0.0/29", "fd00::/125"]), nets(&["10.0.0.0/28"]), nets(&["10.0.0.4/30", "fd00::/124"])];
        let (mut ranges, mut now, mut model) = (&choices[0], 1_000_000, Model::default());
        for step in steps {
            match step {
                Step::Wait(ms) => now += Moment::from(ms),
                Step::Range(i) => ranges = &choices[usize::from(i)],
                Step::Release(n) => {
                    let gone = store.release(&id(&n.to_string()), now).unwrap().map(|lease| lease.addresses);
                    prop_assert_eq!(&gone, &model.leases.remove(&n));
                    model.freed.extend(gone.into_iter().flatten().map(|a| (a, now)));
                }
                Step::Reserve(n) => match reserve(&store, &n.to_string(), ranges, now) {
                    Ok(got) if model.leases.contains_key(&n) => prop_assert_eq!(&got.lease.addresses, &model.leases[&n]),
                    Ok(got) => {
                        prop_assert_eq!(got.lease.addresses.len(), ranges.len());
                        for (range, address) in ranges.iter().zip(&got.lease.addresses) {
                            model.check(range, *address, got.reused_early.contains(address), now)?;
                        }
                        model.leases.insert(n, got.lease.addresses);
                    }
                    Err(IpamError::Exhausted { range, .. }) => {
                        let full = Model::pods(&range).iter().all(|a| model.leases.values().flatten().any(|x| x == a));
                        prop_assert!(full, "{range} is not full");
                    }
                    Err(e) => panic!("{e}"),
                },
            }
        }
        let listed: BTreeMap<u8, Vec<IpAddr>> =
            store.list().unwrap().into_iter().map(|l| (l.id.container_id.parse().unwrap(), l.addresses)).collect();
        prop_assert_eq!(listed, model.leases);
    }
}

const CHILD: &str = "PODPLANE_AGENT_IPAM_CHILD";

/// Not a test of its own: the process that the next one kills. It says each step before and after it was done.
#[test]
fn child_of_the_crash_test() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Store::open(Path::new(&path), Duration::ZERO).unwrap();
    let ranges = nets(&["10.0.0.0/26", "fd00::/64"]);
    let mut random = u64::from(std::process::id());
    for _ in 0..100_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (random >> 33) % 40;
        if random >> 63 == 0 {
            println!("try {n}");
            let got = reserve(&store, &n.to_string(), &ranges, now()).unwrap();
            println!("has {n} {}", text(&got).join(","));
        } else {
            println!("try {n}");
            store.release(&id(&n.to_string()), now()).unwrap();
            println!("free {n}");
        }
    }
}

#[test]
fn a_kill_between_any_two_steps_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam.redb");
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..8u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ipam::tests::child_of_the_crash_test", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut underway = None;
        let mut note = |line: String| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            match (words[0].as_str(), words.as_slice()) {
                ("try", [_, n]) => underway = Some(n.clone()),
                ("has", [_, n, addresses]) => {
                    known.insert(n.clone(), addresses.clone());
                    underway = None;
                }
                ("free", [_, n]) => {
                    known.remove(n);
                    underway = None;
                }
                _ => return false,
            }
            true
        };
        // Another moment each round; the rest of what the child said is in the pipe.
        let steps = 20 + 37 * round;
        let seen = lines.by_ref().filter_map(|line| note(line).then_some(())).take(steps as usize).count();
        assert_eq!(seen, steps as usize);
        std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(|line| {
            note(line);
        });

        let store = Store::open(&path, Duration::ZERO).unwrap();
        let mut stored: BTreeMap<String, String> = BTreeMap::new();
        for lease in store.list().unwrap() {
            let addresses: Vec<_> = lease.addresses.iter().map(ToString::to_string).collect();
            stored.insert(lease.id.container_id, addresses.join(","));
        }
        // Only the step that was under way may have happened or not.
        if let Some(n) = &underway {
            match stored.get(n) {
                Some(addresses) => known.insert(n.clone(), addresses.clone()),
                None => known.remove(n),
            };
        }
        assert_eq!(stored, known, "round {round}");
        let used = store.usage(&nets(&["10.0.0.0/26", "fd00::/64"])).unwrap();
        assert!(used.iter().all(|pool| pool.used == stored.len() as u64), "{used:?}, {} leases", stored.len());
    }
}
