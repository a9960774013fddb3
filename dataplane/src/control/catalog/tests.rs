use std::net::IpAddr;

use podplane_config::v1::{self, Object};
use podplane_config::valid::{Assembler, State};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(name: &str, address: &str, backends: &[&str]) -> v1::Service {
    let set: Vec<_> = backends.iter().map(|b| v1::Backend { address: ip(b), port: 8080 }).collect();
    let choice = if set.is_empty() { v1::Choice::Reject } else { v1::Choice::Set(0) };
    let frontend = v1::Frontend {
        kind: v1::FrontendKind::ClusterIp,
        address: ip(address),
        port: 80,
        inside: choice,
        outside: choice,
        sources: None,
    };
    let port = v1::ServicePort {
        name: "http".into(),
        protocol: v1::Protocol::Tcp,
        affinity_seconds: None,
        sets: if set.is_empty() { Vec::new() } else { vec![set] },
        frontends: vec![frontend],
    };
    v1::Service { name: name.into(), ports: vec![port] }
}

fn apply(state: &State, full: bool, objects: Vec<Object>) -> State {
    let mut assembler = Assembler::default();
    assembler.message(v1::ToDataplane::Begin { generation: 1, full }).expect("begin");
    for object in objects {
        assembler.message(v1::ToDataplane::Upsert(object)).expect("a message in order");
    }
    let done = assembler.message(v1::ToDataplane::Commit { generation: 1 }).expect("commit");
    state.apply(&done.expect("a whole transaction")).expect("a valid state")
}

/// What the pipeline is told, by what the numbers stand for.
fn told(catalog: &Catalog) -> Vec<(Identity, ServiceConfig)> {
    let mut all: Vec<_> = catalog
        .map()
        .iter()
        .map(|(id, config)| (catalog.identity(id).cloned().expect("a name"), (**config).clone()))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

#[test]
fn following_step_by_step_is_following_at_once() {
    let a = |backends: &[&str]| Object::Service(service("ns/a", "10.96.0.1", backends));
    let b = Object::Service(service("ns/b", "10.96.0.2", &["10.244.1.9"]));
    let first = apply(&State::default(), true, vec![a(&["10.244.1.2"]), b.clone()]);
    let second = apply(&first, false, vec![a(&["10.244.1.2", "10.244.1.3"])]);
    let third = apply(&second, true, vec![a(&[])]);
    let stepped = Catalog::default().follow(&first);
    let id = |catalog: &Catalog, name: &str| {
        catalog.map().iter().map(|(id, _)| id).find(|id| catalog.identity(*id).is_some_and(|i| &*i.service == name))
    };
    let (a_id, b_id) = (id(&stepped, "ns/a"), id(&stepped, "ns/b"));
    assert!(a_id.is_some() && b_id.is_some() && a_id != b_id);
    let before = stepped.map().get(b_id.expect("b")).cloned().expect("b's ports");
    let stepped = stepped.follow(&second);
    assert_eq!(told(&stepped), told(&Catalog::default().follow(&second)));
    assert_eq!((id(&stepped, "ns/a"), id(&stepped, "ns/b")), (a_id, b_id), "numbers stay");
    assert!(Arc::ptr_eq(stepped.map().get(b_id.expect("b")).expect("b"), &before), "what is the same is shared");
    let stepped = stepped.follow(&third);
    assert_eq!(told(&stepped), told(&Catalog::default().follow(&third)));
    assert_eq!(id(&stepped, "ns/b"), None);
    let again = stepped.follow(&apply(&third, false, vec![b]));
    assert_ne!(id(&again, "ns/b"), b_id, "a number is not given twice");
}

#[test]
fn a_host_port_is_a_frontend_with_one_backend() {
    let local = v1::LocalNode {
        name: "node1".into(),
        vtep: ip("192.0.2.1"),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        pod_cidrs: vec!["10.244.1.0/24".parse().expect("a range")],
        vni: 7,
        pod_mtu: 1450,
        service_cidrs: Vec::new(),
        no_masquerade: Vec::new(),
        masquerade: None,
        cluster_seed: [0; 2],
    };
    let endpoint = v1::Endpoint {
        id: "c/eth0".into(),
        pod: "ns/web".into(),
        port: v1::PortKind::Veth { host_ifname: "pp1".into() },
        mac: [2, 0, 0, 0, 0, 9],
        addresses: vec![ip("10.244.1.9")],
        host_ports: vec![v1::HostPort { protocol: v1::Protocol::Tcp, address: None, port: 8080, target: 80 }],
        policy: Default::default(),
    };
    let state = apply(&State::default(), true, vec![Object::Local(local), Object::Endpoint(endpoint)]);
    let told = told(&Catalog::default().follow(&state));
    assert_eq!(told.len(), 1, "the pod has no IPv6 address, so there is no IPv6 host port");
    let (identity, config) = &told[0];
    assert_eq!((&*identity.service, &*identity.port, identity.is_ipv4), ("ns/web", "8080", true));
    assert_eq!(config.sets, vec![vec![Backend { address: ip("10.244.1.9"), port: 80 }]]);
    let places: Vec<_> = config.frontends.iter().map(|f| (f.address, f.port, f.inside, f.outside)).collect();
    let served = Choice::Set(0);
    assert_eq!(
        places,
        vec![(ip("127.0.0.1"), 8080, served, Choice::Drop), (ip("192.0.2.1"), 8080, served, served)],
        "the node's addresses, and inside also localhost"
    );
}
