//! Each refusal by an object that earns it; any bytes and any messages survived.

mod policy;
mod services;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::v1::{FromDataplane, Key, Object, PortKind, ToDataplane};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn node() -> v1::LocalNode {
    v1::LocalNode {
        name: "node1".into(),
        vtep: ip("10.77.0.11"),
        addresses: vec![ip("10.77.0.11"), ip("fd00:10:77::11")],
        pod_cidrs: vec![net("10.244.1.0/24"), net("fd00:10:244:1::/64")],
        vni: 4096,
        pod_mtu: 1450,
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:10:96::/112")],
        no_masquerade: vec![net("192.168.0.0/16")],
        masquerade: Some(v1::Masquerade { addresses: vec![ip("10.77.0.11")], ports: (49152, 65535) }),
        cluster_seed: [1, 2],
    }
}

fn other() -> v1::Peer {
    v1::Peer {
        name: "node2".into(),
        vtep: ip("10.77.0.12"),
        addresses: vec![ip("10.77.0.12")],
        pod_cidrs: vec![net("10.244.2.0/24")],
    }
}

fn pod(id: &str, last: u8) -> v1::Endpoint {
    v1::Endpoint {
        id: id.into(),
        pod: format!("default/{id}"),
        port: PortKind::Veth { host_ifname: format!("pp{id}") },
        mac: [2, 0, 0, 0, 0, last],
        addresses: vec![ip(&format!("10.244.1.{last}"))],
        host_ports: Vec::new(),
        policy: Default::default(),
    }
}

fn transaction(full: bool, objects: impl IntoIterator<Item = Object>) -> Transaction {
    let mut assembler = Assembler::default();
    assembler.message(ToDataplane::Begin { generation: 1, full }).unwrap();
    for object in objects {
        assert_eq!(assembler.message(ToDataplane::Upsert(object)), Ok(None));
    }
    assembler.message(ToDataplane::Commit { generation: 1 }).unwrap().unwrap()
}

fn good() -> [Object; 3] {
    [Object::Local(node()), Object::Peer(other()), Object::Endpoint(pod("a", 2))]
}

fn refusal(objects: impl IntoIterator<Item = Object>) -> String {
    State::default().apply(&transaction(true, objects)).unwrap_err().to_string()
}

#[test]
fn a_good_configuration_is_taken_and_a_full_one_removes_what_it_does_not_name() {
    let state = State::default().apply(&transaction(true, good())).unwrap();
    assert_eq!((state.peers.len(), state.endpoints.len()), (1, 1));
    assert_eq!(state.local.as_ref().unwrap().pod_cidrs.gateways().v4, Some("10.244.1.1".parse().unwrap()));
    let added = state.apply(&transaction(false, [Object::Endpoint(pod("b", 3))])).unwrap();
    assert_eq!(added.endpoints.len(), 2);
    let full = added.apply(&transaction(true, [Object::Local(node())])).unwrap();
    assert_eq!((full.peers.len(), full.endpoints.len()), (0, 0));
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let local = |change: fn(&mut v1::LocalNode)| {
        let mut node = node();
        change(&mut node);
        refusal([Object::Local(node)])
    };
    assert!(local(|n| n.vni = 1 << 24).contains("24 bits"));
    assert!(local(|n| n.vni = 0).contains("VNI 0"));
    assert!(local(|n| n.pod_mtu = 1279).contains("below 1280"));
    assert!(local(|n| n.vtep = ip("10.77.0.99")).contains("none of its addresses"));
    assert!(local(|n| n.addresses.push(ip("224.0.0.1"))).contains("no address that"));
    assert!(local(|n| n.pod_cidrs = vec![net("10.244.1.0/31")]).contains("no room"));
    assert!(local(|n| n.pod_cidrs = vec![net("10.244.1.0/24"), net("10.245.1.0/24")]).contains("second range"));
    assert!(local(|n| n.pod_cidrs = vec![net("10.77.0.0/16")]).contains("contains 10.77.0.11"));
    assert!(local(|n| n.name = "a\nb".into()).contains("no name"));
    assert!(local(|n| n.service_cidrs.push(net("10.244.0.0/16"))).contains("overlaps 10.244.1.0/24"));
    assert!(local(|n| n.service_cidrs.push(net("10.77.0.0/24"))).contains("contains 10.77.0.11"));
    let masquerade = |addresses: &[&str], ports| {
        let addresses = addresses.iter().map(|a| ip(a)).collect();
        refusal([Object::Local(v1::LocalNode { masquerade: Some(v1::Masquerade { addresses, ports }), ..node() })])
    };
    assert!(masquerade(&["10.77.0.12"], (50_000, 60_000)).contains("none of its addresses"));
    assert!(masquerade(&["10.77.0.11", "10.77.0.11"], (50_000, 60_000)).contains("second masquerade"));
    assert!(masquerade(&[], (50_000, 60_000)).contains("without an address"));
    assert!(masquerade(&["10.77.0.11"], (60_000, 50_000)).contains("at least 64"));
    assert!(masquerade(&["10.77.0.11"], (0, 50_000)).contains("at least 64"));
    let endpoint = |change: fn(&mut v1::Endpoint)| {
        let mut pod = pod("a", 2);
        change(&mut pod);
        refusal([Object::Local(node()), Object::Endpoint(pod)])
    };
    assert!(endpoint(|e| e.mac = [0x33, 0, 0, 0, 0, 1]).contains("no address"));
    assert!(endpoint(|e| e.mac = Mac::GATEWAY.0).contains("no address"));
    assert!(endpoint(|e| e.mac = Mac::GATEWAY_FORWARDED.0).contains("no address"));
    assert!(endpoint(|e| e.addresses.clear()).contains("has no address"));
    assert!(endpoint(|e| e.addresses.push(ip("10.244.1.9"))).contains("second address"));
    assert!(endpoint(|e| e.addresses = vec![ip("10.77.0.11")]).contains("also that of a node"));
    assert!(endpoint(|e| e.addresses = vec![ip("10.244.1.1")]).contains("also that of a node"));
    assert!(endpoint(|e| e.port = PortKind::Veth { host_ifname: "../eth0".into() }).contains("no name"));
}

#[test]
fn what_contradicts_another_is_refused_by_name() {
    let peer = |change: fn(&mut v1::Peer)| {
        let mut peer = other();
        change(&mut peer);
        refusal([Object::Local(node()), Object::Peer(peer)])
    };
    assert!(peer(|p| (p.vtep, p.addresses) = (ip("fd00::2"), vec![ip("fd00::2")])).contains("family"));
    assert!(peer(|p| p.addresses.push(ip("10.77.0.11"))).contains("also that of this node"));
    assert!(peer(|p| p.pod_cidrs = vec![net("10.244.0.0/16")]).contains("overlaps"));
    assert!(peer(|p| p.pod_cidrs = vec![net("10.244.1.128/25")]).contains("overlaps"));
    let twice = refusal([Object::Local(node()), Object::Endpoint(pod("a", 2)), Object::Endpoint(pod("b", 2))]);
    assert!(twice.contains("also that of a"), "{twice}");
}

#[test]
fn a_refused_transaction_changes_nothing_and_the_next_one_is_judged_afresh() {
    let state = State::default().apply(&transaction(true, good())).unwrap();
    assert!(state.apply(&transaction(false, [Object::Endpoint(pod("b", 2))])).is_err());
    assert!(state.apply(&transaction(false, [Object::Endpoint(pod("b", 3))])).is_ok());
}

#[test]
fn messages_out_of_order_are_told_apart() {
    let commit = |generation| ToDataplane::Commit { generation };
    let mut assembler = Assembler::default();
    assert_eq!(assembler.message(ToDataplane::Delete(Key::Local)), Err(OutOfOrder::NotOpen));
    assert_eq!(assembler.message(commit(1)), Err(OutOfOrder::NotOpen));
    assembler.message(ToDataplane::Begin { generation: 2, full: false }).unwrap();
    assert_eq!(assembler.message(ToDataplane::Begin { generation: 3, full: false }), Err(OutOfOrder::Nested(2)));
    assert_eq!(assembler.message(commit(3)), Err(OutOfOrder::OtherGeneration { open: 2, closed: 3 }));
    assert!(assembler.message(commit(2)).unwrap().is_some());
}

type Change = (Key, Option<Object>);

/// Holds a state that follows `steps` against ones that are made at once of what is there after each.
fn compare(mut state: State, begin: Vec<Object>, steps: Vec<Vec<Change>>) -> Result<(), TestCaseError> {
    let mut all: BTreeMap<Key, Object> = begin.into_iter().map(|object| (object.key(), object)).collect();
    for (n, step) in steps.into_iter().enumerate() {
        let mut next = all.clone();
        let mut assembler = Assembler::default();
        assembler.message(ToDataplane::Begin { generation: n as u64, full: false }).unwrap();
        for (key, object) in step {
            match &object {
                Some(object) => drop(next.insert(key.clone(), object.clone())),
                None => drop(next.remove(&key)),
            }
            assembler.message(object.map_or(ToDataplane::Delete(key), ToDataplane::Upsert)).unwrap();
        }
        let change = assembler.message(ToDataplane::Commit { generation: n as u64 }).unwrap().unwrap();
        let incremental = state.apply(&change);
        let full = State::default().apply(&transaction(true, next.values().cloned()));
        prop_assert_eq!(incremental.is_ok(), full.is_ok(), "{:?} {:?}", incremental, full);
        if let (Ok(incremental), Ok(full)) = (incremental, full) {
            prop_assert_eq!(&incremental, &full);
            (state, all) = (incremental, next);
        }
    }
    Ok(())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..3, 0u8..4).prop_map(|(c, d)| IpAddr::from([10, 244, c, d])),
        any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
        any::<u128>().prop_map(|a| IpAddr::V6(a.into())),
    ]
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (any_address(), 0u8..=128).prop_map(|(a, p)| IpNet::new(a, p % if a.is_ipv4() { 33 } else { 129 }).unwrap())
}

fn any_object() -> impl Strategy<Value = Object> {
    let addresses = || prop::collection::vec(any_address(), 0..3);
    let nets = || prop::collection::vec(any_net(), 0..3);
    let masquerade = prop::option::of((addresses(), any::<(u16, u16)>()));
    prop_oneof![
        (any_address(), addresses(), nets(), nets(), any::<u32>(), any::<u16>(), masquerade).prop_map(
            |(vtep, addresses, pod_cidrs, service_cidrs, vni, pod_mtu, masquerade)| {
                let masquerade = masquerade.map(|(addresses, ports)| v1::Masquerade { addresses, ports });
                let (addresses, no_masquerade) = (addresses, service_cidrs.clone());
                let local = v1::LocalNode { vtep, addresses, pod_cidrs, service_cidrs, vni, pod_mtu, ..node() };
                Object::Local(v1::LocalNode { no_masquerade, masquerade, ..local })
            }
        ),
        ("[a-c]", any_address(), addresses(), nets())
            .prop_map(|(name, vtep, addresses, pod_cidrs)| Object::Peer(v1::Peer { name, vtep, addresses, pod_cidrs })),
        ("[a-c]", any::<[u8; 6]>(), addresses()).prop_map(|(id, mac, addresses)| {
            let port = PortKind::Veth { host_ifname: id.clone() };
            let host_ports = Vec::new();
            let policy = v1::EndpointPolicy::default();
            Object::Endpoint(v1::Endpoint { id, pod: String::new(), port, mac, addresses, host_ports, policy })
        }),
    ]
}

proptest! {
    #[test]
    fn any_objects_are_judged_without_a_crash(objects in prop::collection::vec(any_object(), 0..8)) {
        let start = State::default().apply(&transaction(true, good())).unwrap();
        if let Ok(state) = start.apply(&transaction(false, objects)) {
            prop_assert!(state.endpoints.values().all(|endpoint| !endpoint.addresses.is_empty()));
        }
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = postcard::from_bytes::<ToDataplane>(&bytes);
        let _ = postcard::from_bytes::<FromDataplane>(&bytes);
    }
}
