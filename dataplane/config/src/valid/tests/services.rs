//! Services and host ports: refusals by name, and incremental states against ones made at once.

use std::sync::Arc;

use super::*;
use crate::v1::{Backend, Choice, Frontend, FrontendKind, HostPort, Protocol, Service, ServicePort};

fn backends(places: &[(&str, u16)]) -> Vec<Backend> {
    places.iter().map(|(address, port)| Backend { address: ip(address), port: *port }).collect()
}

fn frontend(address: &str, port: u16) -> Frontend {
    let kind = FrontendKind::ClusterIp;
    Frontend { kind, address: ip(address), port, inside: Choice::Set(0), outside: Choice::Reject, sources: None }
}

fn port(address: &str, number: u16) -> ServicePort {
    ServicePort {
        name: format!("p{number}"),
        protocol: Protocol::Tcp,
        affinity_seconds: None,
        sets: vec![backends(&[("10.244.1.2", 8080), ("10.244.2.2", 8080)])],
        frontends: vec![frontend(address, number)],
    }
}

fn service(name: &str, ports: Vec<ServicePort>) -> Object {
    Object::Service(Service { name: name.into(), ports })
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let refused = |change: fn(&mut ServicePort)| {
        let mut port = port("10.96.0.1", 80);
        change(&mut port);
        refusal([Object::Local(node()), service("a/b", vec![port])])
    };
    assert!(refused(|p| p.frontends.clear()).contains("no address"));
    assert!(refused(|p| p.frontends[0].port = 0).contains("port 0"));
    assert!(refused(|p| p.frontends[0].address = ip("127.0.0.1")).contains("no address that"));
    assert!(refused(|p| p.frontends[0].inside = Choice::Set(1)).contains("set 1 of 1"));
    assert!(refused(|p| p.frontends[0].sources = Some(vec![net("fd00::/8")])).contains("other family"));
    assert!(refused(|p| p.frontends.push(frontend("fd00::1", 80))).contains("other family"));
    assert!(refused(|p| p.frontends.push(frontend("10.96.0.1", 80))).contains("also belongs to Service a/b"));
    assert!(refused(|p| p.sets[0].clear()).contains("without a backend"));
    assert!(refused(|p| p.sets[0].swap(0, 1)).contains("not in order"));
    assert!(refused(|p| p.sets[0][1] = p.sets[0][0]).contains("twice"));
    assert!(refused(|p| p.sets[0][0].port = 0).contains("port 0"));
    assert!(refused(|p| p.sets[0][0].address = ip("240.0.0.1")).contains("no address that"), "not compiled either");
    assert!(refused(|p| p.sets[0][0].address = ip("169.254.1.1")).contains("no address that"), "CVE-2021-25740");
    assert!(refused(|p| p.sets[0][0].address = ip("fd00::1")).contains("other family"));
    assert!(refused(|p| p.sets.push(p.sets[0].clone())).contains("alike"));
    assert!(refused(|p| p.affinity_seconds = Some(0)).contains("affinity"));
    assert!(refused(|p| p.affinity_seconds = Some(86_401)).contains("affinity"));
    let twice = refusal([service("a/b", vec![port("10.96.0.1", 80), port("10.96.0.2", 80)])]);
    assert!(twice.contains("twice in a family"), "{twice}");
    let many = (0..=MAX_BACKENDS_PER_PORT)
        .map(|n| Backend { address: IpAddr::from([10, 200, (n >> 8) as u8, n as u8]), port: 80 });
    let large = ServicePort { sets: vec![many.collect()], ..port("10.96.0.1", 80) };
    assert!(refusal([service("a/b", vec![large])]).contains("is the limit"));
}

#[test]
fn a_place_belongs_to_one() {
    let other = refusal([service("a/a", vec![port("10.96.0.1", 80)]), service("a/b", vec![port("10.96.0.1", 80)])]);
    assert_eq!(other, "a/b: 10.96.0.1 port 80 TCP also belongs to Service a/a");
    let masquerade = refusal([Object::Local(node()), service("a/b", vec![port("10.77.0.11", 50_000)])]);
    assert!(masquerade.contains("leaves the cluster"), "{masquerade}");
    let with = |port: u16, address: Option<&str>| {
        let host = HostPort { protocol: Protocol::Tcp, address: address.map(ip), port, target: 80 };
        Object::Endpoint(v1::Endpoint { host_ports: vec![host], ..pod("a", 2) })
    };
    let node_port = || service("a/b", vec![port("10.77.0.11", 30_000)]);
    let host = refusal([Object::Local(node()), with(30_000, None), node_port()]);
    assert!(host.contains("10.77.0.11 port 30000 TCP also belongs to endpoint a"), "{host}");
    assert!(refusal([Object::Local(node()), with(0, None)]).contains("0 is no port"));
    assert!(refusal([Object::Local(node()), with(1, Some("fd00:10:77::11"))]).contains("of that family"));
    assert!(refusal([Object::Local(node()), with(1, Some("224.0.0.1"))]).contains("no address"));
    assert!(refusal([Object::Local(node()), with(50_000, None)]).contains("leaves the cluster"));
    let Object::Endpoint(b) = with(30_000, Some("127.0.0.1")) else { unreachable!() };
    let b = Object::Endpoint(v1::Endpoint { host_ports: b.host_ports, ..pod("b", 3) });
    assert!(refusal([Object::Local(node()), with(30_000, None), b]).contains("also belongs to endpoint a"));
}

#[test]
fn a_host_port_without_an_address_is_served_at_each_of_the_nodes_and_follows_them() {
    let host = HostPort { protocol: Protocol::Udp, address: None, port: 53, target: 5353 };
    let dns = Object::Endpoint(v1::Endpoint { host_ports: vec![host], ..pod("a", 2) });
    let state = State::default().apply(&transaction(true, [Object::Local(node()), dns])).unwrap();
    let places = |state: &State| state.host_ports().keys().map(|claim| claim.0).collect::<Vec<_>>();
    assert_eq!(places(&state), [ip("10.77.0.11"), ip("127.0.0.1")], "the pod has no IPv6");
    let mut moved = node();
    moved.addresses.push(ip("10.77.0.111"));
    let state = state.apply(&transaction(false, [Object::Local(moved)])).unwrap();
    assert_eq!(places(&state).len(), 3);
}

#[test]
fn a_place_moves_between_services_within_a_transaction() {
    let one = service("a/a", vec![port("10.96.0.1", 80)]);
    let state = State::default().apply(&transaction(true, [one])).unwrap();
    let swapped = [service("a/a", vec![port("10.96.0.2", 80)]), service("a/0", vec![port("10.96.0.1", 80)])];
    let state = state.apply(&transaction(false, swapped)).unwrap();
    assert_eq!(state.claimed_by(&(ip("10.96.0.1"), Protocol::Tcp, 80)).map(|name| &**name), Some("a/0"));
}

#[test]
fn what_says_the_same_stays_the_same_allocation() {
    let all = || [service("a/a", vec![port("10.96.0.1", 80)]), service("a/b", vec![port("10.96.0.2", 80)])];
    let state = State::default().apply(&transaction(true, all())).unwrap();
    let again = state.apply(&transaction(true, all())).unwrap();
    assert!(state.services.values().zip(again.services.values()).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert_eq!(state, again);
}

#[test]
fn a_service_in_parts_is_whole_and_a_part_alone_is_no_message() {
    let part = |n| Service { name: "a/b".into(), ports: vec![port("10.96.0.1", n)] };
    let mut assembler = Assembler::default();
    assembler.message(ToDataplane::Begin { generation: 1, full: true }).unwrap();
    let orphan = assembler.message(ToDataplane::Extend(part(1)));
    assert_eq!(orphan, Err(OutOfOrder::NothingToExtend("a/b".into())));
    assembler.message(ToDataplane::Upsert(Object::Service(part(1)))).unwrap();
    assembler.message(ToDataplane::Extend(part(2))).unwrap();
    let whole = assembler.message(ToDataplane::Commit { generation: 1 }).unwrap().unwrap();
    let state = State::default().apply(&whole).unwrap();
    assert_eq!(state.services["a/b"].ports.len(), 2);
    assembler.message(ToDataplane::Begin { generation: 2, full: false }).unwrap();
    assembler.message(ToDataplane::Delete(Key::Service("a/b".into()))).unwrap();
    assert!(assembler.message(ToDataplane::Extend(part(3))).is_err(), "it is removed");
}

#[test]
fn a_transaction_is_bounded_in_memory_not_only_in_messages() {
    // A byte each in the message, 24 in memory.
    let hollow = ServicePort { sets: vec![Vec::new(); 1_000_000], ..port("10.96.0.1", 80) };
    let mut assembler = Assembler::default();
    assembler.message(ToDataplane::Begin { generation: 1, full: true }).unwrap();
    let outcome =
        (0..20).find_map(|_| assembler.message(ToDataplane::Upsert(service("a/b", vec![hollow.clone()]))).err());
    assert_eq!(outcome, Some(OutOfOrder::TooLarge));
}

fn any_service() -> impl Strategy<Value = (String, Option<Vec<ServicePort>>)> {
    let place = (0u8..6, 1u16..4).prop_map(|(d, n)| {
        let own = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.77.0.11", "10.77.0.11", "192.0.2.1"];
        let number = if n == 3 { 50_000 } else { n };
        port(own[usize::from(d)], number)
    });
    ("[a-d]", prop::option::of(prop::collection::vec(place, 0..3)))
}

fn any_host_port() -> impl Strategy<Value = HostPort> {
    let address = prop::option::of(prop::sample::select(vec!["127.0.0.1", "10.77.0.11", "192.0.2.1"]));
    (address, 1u16..4).prop_map(|(address, port)| HostPort {
        protocol: Protocol::Tcp,
        address: address.map(ip),
        port,
        target: 80,
    })
}

fn any_change() -> impl Strategy<Value = (Key, Option<Object>)> {
    prop_oneof![
        5 => any_service().prop_map(|(name, ports)| {
            let object = ports.map(|ports| service(&name, ports));
            (Key::Service(name), object)
        }),
        2 => (2u8..5, prop::option::of(prop::collection::vec(any_host_port(), 0..2))).prop_map(|(n, ports)| {
            let id = n.to_string();
            let object = ports.map(|host_ports| Object::Endpoint(v1::Endpoint { host_ports, ..pod(&id, n) }));
            (Key::Endpoint(id), object)
        }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(masquerade, more)| {
            let mut local = node();
            local.masquerade = local.masquerade.filter(|_| masquerade);
            local.addresses.extend(more.then(|| ip("192.0.2.1")));
            (Key::Local, Some(Object::Local(local)))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Step by step is as at once: the same refusals, the same state.
    #[test]
    fn incremental_states_are_what_full_ones_are(
        steps in prop::collection::vec(prop::collection::vec(any_change(), 1..4), 1..12)
    ) {
        compare(State::default(), Vec::new(), steps)?;
    }
}
