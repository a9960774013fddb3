use podplane_config::valid::{Assembler, State};
use proptest::prelude::*;

use super::*;
use crate::k8s::{Metadata, Node, NodeAddress, NodeSpec, NodeStatus};
use crate::node::Family;

fn settings() -> Settings {
    Settings::new("n0", Family::Ipv4, 100)
}

fn index() -> Index {
    let mut index = Index::new(settings());
    index.set_uplink_mtu(1500);
    index
}

fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> Object {
    let internal = |a: &&str| NodeAddress { kind: "InternalIP".into(), address: (*a).into() };
    let mut listed: Vec<_> = addresses.iter().map(internal).collect();
    listed.push(NodeAddress { kind: "Hostname".into(), address: name.into() });
    listed.push(NodeAddress { kind: "ExternalIP".into(), address: "198.51.100.1".into() });
    Object::Node(Node {
        metadata: Metadata { name: name.into(), ..Metadata::default() },
        spec: NodeSpec { pod_cidr: None, pod_cidrs: Some(cidrs.iter().map(|c| (*c).into()).collect()), taints: None },
        status: NodeStatus { addresses: Some(listed) },
    })
}

fn aged(mut object: Object, created: &str) -> Object {
    if let Object::Node(node) = &mut object {
        node.metadata.creation_timestamp = Some(created.into());
    }
    object
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Node, namespace: String::new(), name: name.into() }
}

fn endpoint(id: &str, addresses: &[&str]) -> v1::Endpoint {
    v1::Endpoint {
        id: id.into(),
        pod: "default/p".into(),
        port: v1::PortKind::Veth { host_ifname: format!("pp{id}") },
        mac: [2, 0, 0, 0, 0, 9],
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        host_ports: Vec::new(),
        policy: Default::default(),
    }
}

fn reasons(index: &Index) -> Vec<String> {
    index.refused().map(|(key, reason)| format!("{key}: {reason}")).collect()
}

#[test]
fn two_nodes_become_a_local_node_and_a_peer() {
    let mut index = Index::new(settings());
    index.apply(node("n0", &["fd01::1", "192.0.2.1"], &["fd00:1::/64", "10.0.1.0/24"])).unwrap();
    index.apply(node("n1", &["192.0.2.2"], &["10.0.2.0/24"])).unwrap();
    assert_eq!(index.settle().into_keys().collect::<Vec<_>>(), [v1::Key::Peer("n1".into())]);
    index.set_uplink_mtu(1500);
    let changes = index.settle();
    let Some(Some(v1::Object::Local(local))) = changes.get(&v1::Key::Local) else { panic!("{changes:?}") };
    assert_eq!(local.vtep, "192.0.2.1".parse::<IpAddr>().unwrap());
    assert_eq!(local.addresses.len(), 2);
    assert_eq!(local.pod_cidrs[0], "10.0.1.0/24".parse().unwrap());
    assert_eq!(local.pod_mtu, 1450);
    assert_eq!(index.settle(), Changes::new());
    index.delete(&key("n1"));
    assert_eq!(index.settle(), [(v1::Key::Peer("n1".into()), None)].into());
    assert_eq!(index.obstacle(), None);
}

#[test]
fn a_node_that_makes_no_sense_keeps_its_last_state() {
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&["192.0.2.7"], &["10.0.2.0/33"], "no range such as"),
        (&["192.0.2.7"], &["10.0.2.1/24"], "10.0.2.0/24 is meant"),
        (&["192.0.2.7"], &["10.0.2.0/24", "10.0.3.0/24"], "same family"),
        (&["192.0.2.7"], &["10.0.2.0/31"], "no room"),
        (&["192.0.2.7"], &["224.0.0.0/24"], "no range of addresses that pods can have"),
        (&["fd01::7"], &["10.0.2.0/24"], "no InternalIP of family ipv4"),
        (&["somewhere"], &["10.0.2.0/24"], "no IP address"),
        (&["127.0.0.1"], &["10.0.2.0/24"], "no address of a host"),
        (&["10.0.2.9"], &["10.0.2.0/24"], "the node's own address"),
    ];
    for (addresses, cidrs, reason) in cases {
        let mut index = index();
        index.apply(node("n1", &["192.0.2.2"], &["10.0.2.0/24"])).unwrap();
        let good = {
            index.settle();
            index.objects().clone()
        };
        let error = index.apply(node("n1", addresses, cidrs)).unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert_eq!(index.settle(), Changes::new());
        assert_eq!(*index.objects(), good);
        assert_eq!(reasons(&index), [format!("Node n1: {error}")]);
        index.apply(node("n1", &["192.0.2.2"], &["10.0.2.0/24"])).unwrap();
        assert!(reasons(&index).is_empty());
    }
}

#[test]
fn the_older_node_keeps_what_two_claim() {
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&["192.0.2.3"], &["10.0.2.128/25"], "overlaps 10.0.2.0/24 of node n1"),
        (&["192.0.2.2"], &["10.0.3.0/24"], "192.0.2.2 is also an address of node n1"),
        (&["10.0.2.5"], &["10.0.3.0/24"], "lies in 10.0.2.0/24, the pods' range of node n1"),
        (&["192.0.2.9"], &["192.0.2.0/30"], "contains 192.0.2.2, an address of node n1"),
    ];
    for (addresses, cidrs, reason) in cases {
        // Node n2 sorts behind n1 by name, and n0 would before: its age decides.
        for name in ["n2", "n0"] {
            let mut index = index();
            index.apply(aged(node(name, addresses, cidrs), "2026-02-01T00:00:00Z")).unwrap();
            index.settle();
            index.apply(aged(node("n1", &["192.0.2.2"], &["10.0.2.0/24"]), "2026-01-01T00:00:00Z")).unwrap();
            index.settle();
            let said = reasons(&index);
            assert!(said.len() == 1 && said[0].contains(reason) && said[0].ends_with("left out"), "{said:?}");
            assert!(index.objects().contains_key(&v1::Key::Peer("n1".into())));
            assert_eq!(index.objects().len(), 1);
            assert!(index.obstacle().unwrap().contains(if name == "n0" { reason } else { "no Node object" }));
            index.delete(&key("n1"));
            index.settle();
            assert_eq!((index.objects().len(), reasons(&index).len()), (1, 0));
        }
    }
}

#[test]
fn a_change_into_a_conflict_leaves_the_state_before() {
    let mut index = index();
    index.apply(aged(node("n1", &["192.0.2.2"], &["10.0.2.0/24"]), "2026-01-01T00:00:00Z")).unwrap();
    index.apply(aged(node("n2", &["192.0.2.3"], &["10.0.3.0/24"]), "2026-02-01T00:00:00Z")).unwrap();
    index.settle();
    index.apply(aged(node("n2", &["192.0.2.3"], &["10.0.2.0/24"]), "2026-02-01T00:00:00Z")).unwrap();
    assert_eq!(index.settle(), Changes::new());
    assert!(reasons(&index)[0].ends_with("what it said before stays in force"), "{:?}", reasons(&index));
}

#[test]
fn obstacles_are_named() {
    let mut index = index();
    index.settle();
    assert!(index.obstacle().unwrap().contains("no Node object \"n0\""));
    index.apply(node("n0", &["192.0.2.1"], &[])).unwrap();
    index.settle();
    assert!(index.obstacle().unwrap().contains("no spec.podCIDRs yet"));
    assert!(index.objects().contains_key(&v1::Key::Local));
    index.apply(node("n0", &["192.0.2.1"], &["10.0.0.0/24"])).unwrap();
    index.set_uplink_mtu(1300);
    index.settle();
    assert!(index.obstacle().unwrap().contains("raise the uplink's MTU to 1330"));
    assert!(!index.objects().contains_key(&v1::Key::Local));
}

#[test]
fn endpoints_whose_address_became_somebody_elses_are_withheld() {
    let mut index = index();
    index.apply(node("n0", &["192.0.2.1"], &["10.0.0.0/24"])).unwrap();
    index.attach(endpoint("a", &["10.0.0.2"])).unwrap();
    assert!(index.attach(endpoint("b", &["10.0.0.2"])).unwrap_err().contains("belongs to a"));
    index.attach(endpoint("c", &["10.0.9.2"])).unwrap();
    index.settle();
    assert_eq!(index.withheld().count(), 0);
    index.apply(node("n1", &["10.0.9.2"], &["10.0.1.0/24"])).unwrap();
    let changes = index.settle();
    assert_eq!(changes[&v1::Key::Endpoint("c".into())], None);
    assert!(index.withheld().next().unwrap().reason.contains("an address of node n1"));
    index.apply(node("n1", &["192.0.2.2"], &["10.0.9.0/24"])).unwrap();
    index.settle();
    assert!(index.withheld().next().unwrap().reason.contains("range of node n1"));
    index.delete(&key("n1"));
    assert!(index.settle()[&v1::Key::Endpoint("c".into())].is_some());
    index.apply(node("n0", &["192.0.2.1"], &["10.0.9.0/30"])).unwrap();
    index.attach(endpoint("d", &["10.0.9.1"])).unwrap();
    index.settle();
    assert!(index.withheld().any(|w| w.id == "d" && w.reason.contains("the node's own")));
    index.detach("a");
    let address = v1::Key::Address("10.0.0.2".parse().unwrap());
    assert_eq!(index.settle(), [(v1::Key::Endpoint("a".into()), None), (address, None)].into());
}

#[derive(Clone, Debug)]
enum Event {
    Node(u8, Vec<u8>, Vec<u8>, u8),
    Gone(u8),
    Endpoint(u8, u8),
    Detach(u8),
}

impl Event {
    /// What the event is about: events about different things commute.
    fn subject(&self) -> (bool, u8) {
        match self {
            Event::Node(n, ..) | Event::Gone(n) => (false, *n),
            Event::Endpoint(e, _) | Event::Detach(e) => (true, *e),
        }
    }

    fn play(&self, index: &mut Index) {
        match self {
            Event::Node(n, addresses, cidrs, age) => {
                let addresses: Vec<_> = addresses.iter().map(|a| format!("10.0.0.{a}")).collect();
                // Ranges of several sizes among the same few addresses, so that they collide often.
                let cidrs: Vec<_> = cidrs.iter().map(|c| format!("10.0.0.{}/{}", c & 0xfc, 28 + (c & 3))).collect();
                let strs = |v: &Vec<String>| v.clone();
                let (addresses, cidrs) = (strs(&addresses), strs(&cidrs));
                let object = node(
                    &format!("n{n}"),
                    &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
                    &cidrs.iter().map(String::as_str).collect::<Vec<_>>(),
                );
                let _ = index.apply(aged(object, &format!("2026-01-0{age}T00:00:00Z")));
            }
            Event::Gone(n) => index.delete(&key(&format!("n{n}"))),
            // Addresses of endpoints come from the IPAM, which gives each to one only.
            Event::Endpoint(e, a) => {
                index.attach(endpoint(&e.to_string(), &[&format!("10.0.0.{}", e + 6 * a)])).unwrap()
            }
            Event::Detach(e) => index.detach(&e.to_string()),
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let some = |max| proptest::collection::vec(1..max, 0..3usize);
    let event = prop_oneof![
        6 => (0..4u8, some(60u8), some(60u8), 1..4u8).prop_map(|(n, a, c, g)| Event::Node(n, a, c, g)),
        1 => (0..4u8).prop_map(Event::Gone),
        2 => (1..6u8, 0..8u8).prop_map(|(e, a)| Event::Endpoint(e, a)),
        1 => (1..6u8).prop_map(Event::Detach),
    ];
    proptest::collection::vec(event, 0..24)
}

/// Another order that keeps the order of the events about each thing.
fn interleave(events: &[Event], picks: &[prop::sample::Index]) -> Vec<Event> {
    let mut queues: BTreeMap<_, Vec<Event>> = BTreeMap::new();
    for event in events.iter().rev() {
        queues.entry(event.subject()).or_default().push(event.clone());
    }
    let mut order = Vec::new();
    for pick in picks.iter().cycle().take(events.len()) {
        let mut waiting: Vec<_> = queues.values_mut().filter(|queue| !queue.is_empty()).collect();
        let at = pick.index(waiting.len());
        order.extend(waiting[at].pop());
    }
    order
}

pub(crate) fn apply_all(state: &State, changes: &Changes, generation: u64, full: bool) -> State {
    let mut assembler = Assembler::default();
    assembler.message(v1::ToDataplane::Begin { generation, full }).unwrap();
    for (key, object) in changes {
        let message = match object {
            Some(object) => v1::ToDataplane::Upsert(object.clone()),
            None => v1::ToDataplane::Delete(key.clone()),
        };
        assembler.message(message).unwrap();
    }
    let transaction = assembler.message(v1::ToDataplane::Commit { generation }).unwrap().unwrap();
    state.apply(&transaction).unwrap()
}

/// The slow oracle: every pair of nodes compared, in order of age.
fn admitted(claims: &BTreeMap<String, Claim>) -> BTreeMap<String, NodeFacts> {
    let collide = |a: &NodeFacts, b: &NodeFacts| {
        let contains = |x: &NodeFacts, y: &NodeFacts| {
            x.pod_cidrs.iter().any(|net| y.addresses.iter().any(|address| net.contains(address)))
        };
        a.addresses.iter().any(|address| b.addresses.contains(address))
            || a.pod_cidrs.iter().any(|x| b.pod_cidrs.iter().any(|y| x.contains(y) || y.contains(x)))
            || contains(a, b)
            || contains(b, a)
    };
    let mut order: Vec<_> = claims.iter().collect();
    order.sort_by_key(|(name, claim)| (claim.current.created.clone(), (*name).clone()));
    let mut admitted: BTreeMap<String, NodeFacts> = BTreeMap::new();
    for (name, claim) in order {
        for facts in std::iter::once(&claim.current).chain(&claim.previous) {
            if !admitted.values().any(|other| collide(facts, other)) {
                admitted.insert(name.clone(), facts.clone());
                break;
            }
        }
    }
    admitted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Events in any order, settled at any moments, give the same; the dataplane accepts each step; what the steps
    /// add up to is what a full synchronisation says.
    #[test]
    fn order_and_moments_do_not_matter(
        events in events(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 24),
        moments in proptest::collection::vec(any::<bool>(), 24),
    ) {
        let mut scratch = index();
        events.iter().for_each(|event| event.play(&mut scratch));
        scratch.settle();

        let mut stepped = index();
        let mut state = State::default();
        for (i, event) in interleave(&events, &picks).iter().enumerate() {
            event.play(&mut stepped);
            if moments[i] {
                state = apply_all(&state, &stepped.settle(), i as u64, false);
            }
        }
        state = apply_all(&state, &stepped.settle(), 99, false);
        prop_assert_eq!(stepped.objects(), scratch.objects());
        prop_assert_eq!(reasons(&stepped), reasons(&scratch));
        prop_assert!(stepped.withheld().eq(scratch.withheld()));
        let full = scratch.objects().iter().map(|(key, object)| (key.clone(), Some(object.clone()))).collect();
        prop_assert_eq!(state, apply_all(&State::default(), &full, 1, true));
        prop_assert_eq!(&scratch.resolved.nodes, &admitted(&scratch.nodes));
    }
}
