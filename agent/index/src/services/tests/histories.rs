//! Histories: whatever happened in whatever order, the same objects give the same; and only what changed is told.

use std::collections::BTreeMap;

use podplane_config::valid::State;
use proptest::prelude::*;

use super::*;
use crate::index::tests::apply_all;
use crate::services::choose::{Here, Policies, choose};
use crate::services::slices::EndpointFacts;

/// One object's new text, or its end.
#[derive(Clone, Debug)]
enum Event {
    Put(ObjectKey, String),
    Gone(ObjectKey),
    HostPort(u8, bool),
}

fn key(kind: crate::Kind, name: String) -> ObjectKey {
    ObjectKey { kind, namespace: "a".into(), name }
}

fn play(index: &mut Index, event: &Event) {
    match event {
        Event::Put(_, text) => {
            for placed in manifest::parse(text).unwrap().objects {
                let _ = index.apply(placed.object);
            }
        }
        Event::Gone(key) => index.delete(key),
        Event::HostPort(n, there) => {
            let id = format!("e{n}");
            if !there {
                return index.detach(&id);
            }
            let port =
                v1::HostPort { protocol: v1::Protocol::Tcp, address: None, port: 30_000 + u16::from(n / 2), target: 1 };
            let endpoint = v1::Endpoint {
                id: id.clone(),
                pod: String::new(),
                port: v1::PortKind::Veth { host_ifname: id },
                mac: [2, 0, 0, 0, 0, 9],
                addresses: vec![format!("10.0.0.{}", 100 + n).parse().unwrap()],
                host_ports: vec![port],
                policy: Default::default(),
            };
            index.attach(endpoint).unwrap();
        }
    }
}

fn any_service() -> impl Strategy<Value = Event> {
    let policy = prop::sample::select(vec!["Cluster", "Local"]);
    let vip = prop::sample::select(vec!["203.0.113.1", "203.0.113.2", "192.0.2.20", "10.96.0.2"]);
    ("[s-v]", 1..4u8, 1..5u8, 0..4u16, policy, vip, 1..4u8).prop_map(|(name, age, ip, node_port, policy, vip, port)| {
        let node_port = if node_port == 0 { String::new() } else { format!(", nodePort: {}", 29_999 + node_port) };
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{namespace: a, name: {name}, \
             creationTimestamp: \"2026-01-0{age}T00:00:00Z\"}}, spec: {{type: LoadBalancer, clusterIPs: [10.96.0.{ip}], \
             externalTrafficPolicy: {policy}, ports: [{{name: http, port: {port}{node_port}}}]}}, \
             status: {{loadBalancer: {{ingress: [{{ip: {vip}}}]}}}}}}"
        );
        Event::Put(key(crate::Kind::Service, name), text)
    })
}

fn any_slice() -> impl Strategy<Value = Event> {
    let conditions = prop::sample::select(vec!["", "ready: false", "ready: false, terminating: true"]);
    let endpoint = (2..5u8, 0..2u8, conditions).prop_map(|(d, node, conditions)| {
        format!("{{addresses: [10.0.{node}.{d}], nodeName: n{node}, conditions: {{{conditions}}}}}")
    });
    ("[s-v]", "[x-z]", prop::collection::vec(endpoint, 0..3)).prop_map(|(service, name, endpoints)| {
        let text = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{namespace: a, \
             name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}, ports: [{{name: http, port: 8080}}], \
             endpoints: [{}]}}",
            endpoints.join(", ")
        );
        Event::Put(key(crate::Kind::EndpointSlice, name), text)
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any_service(),
        4 => any_slice(),
        1 => "[s-v]".prop_map(|name| Event::Gone(key(crate::Kind::Service, name))),
        1 => "[x-z]".prop_map(|name| Event::Gone(key(crate::Kind::EndpointSlice, name))),
        1 => (0..6u8, any::<bool>()).prop_map(|(n, there)| Event::HostPort(n, there)),
        1 => (2..4u8).prop_map(|n| Event::Put(
            ObjectKey { kind: crate::Kind::Node, namespace: String::new(), name: "n0".into() },
            NODES.replace("192.0.2.20", &format!("192.0.2.{n}0")),
        )),
    ]
}

fn empty() -> Index {
    let mut index = Index::new(settings());
    index.set_uplink_mtu(1500);
    feed(&mut index, NODES);
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Step by step is as at once; the dataplane takes each step.
    #[test]
    fn moments_do_not_matter(events in prop::collection::vec((any_event(), any::<bool>()), 0..25)) {
        let mut stepped = empty();
        let mut state = State::default();
        let mut told: BTreeMap<_, _> = stepped.objects().iter().map(|(k, o)| (k.clone(), Some(o.clone()))).collect();
        state = apply_all(&state, &told, 0, true);
        for (event, settles) in &events {
            play(&mut stepped, event);
            if *settles {
                let changes = stepped.settle();
                state = apply_all(&state, &changes, 1, false);
            }
        }
        let changes = stepped.settle();
        state = apply_all(&state, &changes, 1, false);
        // At once, and in another order: the last word on each object, from the back.
        let mut scratch = empty();
        let mut last = BTreeMap::new();
        for (event, _) in &events {
            let subject = match event {
                Event::Put(key, _) | Event::Gone(key) => key.to_string(),
                Event::HostPort(n, _) => n.to_string(),
            };
            last.insert(subject, event);
        }
        last.values().rev().for_each(|event| play(&mut scratch, event));
        scratch.settle();
        prop_assert_eq!(stepped.objects(), scratch.objects());
        prop_assert_eq!(reasons(&stepped), reasons(&scratch));
        prop_assert_eq!(stepped.node_traffic(), scratch.node_traffic());
        prop_assert_eq!(stepped.services(), scratch.services());
        told = scratch.objects().iter().map(|(k, o)| (k.clone(), Some(o.clone()))).collect();
        prop_assert_eq!(state, apply_all(&State::default(), &told, 1, true));
        // Nothing is told that did not change, and the sets of what is reported used are the sets in force.
        prop_assert!(stepped.settle().is_empty());
    }

    /// Against kube-proxy's own way of saying it, as slow and literal as it stands there.
    #[test]
    fn the_choice_is_kube_proxys(
        endpoints in prop::collection::vec(any_endpoint(), 0..6), cluster in any::<bool>(), local in any::<bool>()
    ) {
        let here = Here { node: "n0", zone: "a" };
        let refs: Vec<&EndpointFacts> = endpoints.iter().collect();
        let ours = choose(&refs, Policies { cluster, local }, here);
        let (theirs_cluster, theirs_local, any) = categorize(&endpoints, cluster, local);
        prop_assert_eq!((ours.cluster, ours.local, ours.any), (theirs_cluster, theirs_local, any));
    }
}

fn any_endpoint() -> impl Strategy<Value = EndpointFacts> {
    let names = |all: Vec<&'static str>| prop::collection::vec(prop::sample::select(all).prop_map(str::to_owned), 0..3);
    let conditions = prop::sample::select(vec![
        (true, true, false),
        (true, true, false),
        (false, true, true),
        (false, false, true),
        (false, false, false),
        (true, true, true),
    ]);
    (0..3u8, conditions, names(vec!["a", "a", "b"]), names(vec!["n0", "n0", "n1"])).prop_map(
        |(node, (ready, serving, terminating), for_zones, for_nodes)| EndpointFacts {
            address: [10, 0, node, 2].into(),
            pod: String::new(),
            node: if node == 2 { String::new() } else { format!("n{node}") },
            ready,
            serving,
            terminating,
            for_zones,
            for_nodes,
        },
    )
}

/// The oracle.
fn categorize(all: &[EndpointFacts], cluster: bool, local: bool) -> (Vec<usize>, Vec<usize>, bool) {
    let indexed: Vec<(usize, &EndpointFacts)> = all.iter().enumerate().collect();
    let ready: Vec<_> = indexed.iter().filter(|(_, e)| e.ready).collect();
    let draining: Vec<_> = indexed.iter().filter(|(_, e)| e.serving && e.terminating).collect();
    let mut hinted: Option<Vec<usize>> = None;
    if !ready.is_empty() && ready.iter().all(|(_, e)| !e.for_nodes.is_empty()) {
        let mine: Vec<_> = ready.iter().filter(|(_, e)| e.for_nodes.contains(&"n0".into())).map(|(i, _)| *i).collect();
        hinted = (!mine.is_empty()).then_some(mine);
    }
    if hinted.is_none() && !ready.is_empty() && ready.iter().all(|(_, e)| !e.for_zones.is_empty()) {
        let mine: Vec<_> = ready.iter().filter(|(_, e)| e.for_zones.contains(&"a".into())).map(|(i, _)| *i).collect();
        hinted = (!mine.is_empty()).then_some(mine);
    }
    let indices = |list: &[&(usize, &EndpointFacts)]| list.iter().map(|(i, _)| *i).collect::<Vec<_>>();
    let mut for_cluster = Vec::new();
    if cluster {
        for_cluster = hinted.unwrap_or_else(|| indices(&ready));
        if for_cluster.is_empty() {
            for_cluster = indices(&draining);
        }
    }
    let here = |list: &[&(usize, &EndpointFacts)]| {
        list.iter().filter(|(_, e)| e.node == "n0").map(|(i, _)| *i).collect::<Vec<_>>()
    };
    let mut for_local = Vec::new();
    if local {
        for_local = here(&ready);
        if for_local.is_empty() {
            for_local = here(&draining);
        }
    }
    let any = (cluster && !for_cluster.is_empty()) || (local && !(ready.is_empty() && draining.is_empty()));
    (for_cluster, for_local, any)
}

/// One slice of one of many Services: one Service is told.
#[test]
fn one_slice_tells_one_service() {
    let mut text = String::new();
    for n in 1..=50 {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{namespace: a, name: s{n}}}, spec: {{clusterIPs: [10.96.1.{n}], \
             ports: [{{name: http, port: 80}}]}}}}\n"
        );
    }
    let mut index = index(&text);
    let slice = slice("x", &endpoint("10.0.0.2", "n0", "")).replace("service-name: web", "service-name: s7");
    for placed in manifest::parse(&slice).unwrap().objects {
        index.apply(placed.object).unwrap();
    }
    assert_eq!(index.settle().into_keys().collect::<Vec<_>>(), [Key::Service("a/s7".into())]);
}
