//! 10,000 pods in 1,000 namespaces under 2,000 policies, and one change among them. Prints how long each step takes
//! (`--nocapture`, in release for figures).

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::k8s::{Metadata, Namespace, Pod, PodIp, PodSpec, PodStatus, Policy};

const NAMESPACES: usize = 1000;
const PODS: usize = 10_000;
const POLICIES: usize = 2000;
/// Pods of this node.
const HERE: usize = 200;

fn labels<const N: usize>(pairs: [(&str, String); N]) -> Option<BTreeMap<String, String>> {
    Some(pairs.map(|(key, value)| (key.to_owned(), value)).into())
}

fn namespace(n: usize) -> Object {
    let labels = labels([("team", format!("t{}", n % 50)), ("env", format!("e{}", n % 3))]);
    Object::Namespace(Namespace { metadata: Metadata { name: format!("n{n}"), labels, ..Metadata::default() } })
}

fn pod_address(n: usize) -> String {
    // This node's come first, in its own range.
    if n < HERE { format!("10.0.0.{}", n + 2) } else { format!("10.1.{}.{}", n / 200, n % 200 + 2) }
}

fn pod(n: usize) -> Object {
    let metadata = Metadata {
        name: format!("p{n}"),
        namespace: Some(format!("n{}", n % NAMESPACES)),
        uid: Some(format!("00000000-0000-0000-0000-{n:012}")),
        labels: labels([("app", format!("a{}", n % 20)), ("tier", format!("t{}", n % 4)), ("pod", format!("p{n}"))]),
        ..Metadata::default()
    };
    let status = PodStatus { phase: Some("Running".into()), pod_ips: Some(vec![PodIp { ip: pod_address(n) }]) };
    Object::Pod(Pod { metadata, spec: PodSpec::default(), status })
}

/// Two policies for each namespace: one lets other teams' pods in, one says where its pods may go.
fn namespaced(n: usize) -> Object {
    let spec = if n.is_multiple_of(2) {
        json!({ "podSelector": { "matchLabels": { "tier": format!("t{}", n % 4) } },
            "ingress": [
                { "from": [{ "podSelector": {} }] },
                { "from": [{ "namespaceSelector": { "matchLabels": { "team": format!("t{}", n % 50) } },
                    "podSelector": { "matchLabels": { "app": format!("a{}", n % 20) } } }], "ports": [{ "port": 80 + n % 7 }] },
                { "from": [{ "ipBlock": { "cidr": format!("10.{}.0.0/16", n % 200) } }], "ports": [{ "port": 443 }] },
            ] })
    } else {
        json!({ "podSelector": {}, "policyTypes": ["Egress"],
            "egress": [
                { "to": [{ "namespaceSelector": { "matchExpressions": [{ "key": "env", "operator": "NotIn", "values": [format!("e{}", n % 3)] }] } }] },
                { "to": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "n0" } },
                    "podSelector": { "matchLabels": { "app": "a0" } } }], "ports": [{ "port": 53, "protocol": "UDP" }] },
            ] })
    };
    named(&format!("p{n}"), &format!("n{}", n / 2), spec)
}

fn named(name: &str, namespace: &str, spec: serde_json::Value) -> Object {
    let metadata = Metadata { name: name.into(), namespace: Some(namespace.into()), ..Metadata::default() };
    Object::NetworkPolicy(Policy { metadata, spec })
}

fn load() -> Index {
    let mut index = empty();
    for object in objects(CLUSTER).into_iter().filter(|object| object.kind() == Kind::Node) {
        index.apply(object).unwrap();
    }
    let all = (0..NAMESPACES).map(namespace).chain((0..PODS).map(pod)).chain((0..POLICIES).map(namespaced));
    all.for_each(|object| index.apply(object).unwrap());
    for n in 0..HERE {
        attach(&mut index, n);
    }
    index
}

fn attach(index: &mut Index, n: usize) {
    let pod = PodIdentity { namespace: format!("n{}", n % NAMESPACES), name: format!("p{n}"), uid: String::new() };
    index.attach_to(endpoint(&format!("c{n}"), &[&pod_address(n)]), Some(pod), false).unwrap();
}

/// The shortest of some runs, each with its own change.
fn shortest(runs: usize, mut run: impl FnMut(usize)) -> Duration {
    let time = |n| {
        let start = Instant::now();
        run(n);
        start.elapsed()
    };
    (0..runs).map(time).min().unwrap()
}

/// Memory of this process, in MiB: pages of 4 KiB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 256
}

#[test]
fn a_whole_cluster_and_one_change_in_it() {
    let before = resident();
    let start = Instant::now();
    let mut index = load();
    index.settle();
    println!("full load: {:?}; selectors, rules, lists: {:?}", start.elapsed(), index.policy_sizes());
    assert_eq!(index.withheld().count(), 0);
    let rules = |index: &Index| index.objects().keys().filter(|key| matches!(key, v1::Key::Rule(_))).count();
    println!("told: {} objects, {} rules among them", index.objects().len(), rules(&index));
    println!("memory, with what other tests take meanwhile: {} MiB", resident().saturating_sub(before));

    // A pod elsewhere changes its address alone.
    let elsewhere = shortest(5, |n| {
        index.apply(pod(PODS + n)).unwrap();
        assert_eq!(index.settle().len(), 1);
    });
    let one_rule = shortest(5, |n| {
        let port = json!([{ "ports": [{ "port": 1000 + n }] }]);
        index.apply(named("p1", "n0", json!({ "podSelector": {}, "ingress": port }))).unwrap();
        assert!((1..10).contains(&index.settle().len()));
    });
    println!("one pod elsewhere: {elsewhere:?}; one rule changed: {one_rule:?}");

    // A namespace of which 1,000 policies select every pod.
    for n in 0..1000 {
        let from = json!([{ "from": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "pod": format!("p{n}") } } }],
            "ports": [{ "port": 1 + n }] }]);
        let all = json!({ "matchExpressions": [{ "key": "pod", "operator": "Exists" }, { "key": format!("x{n}"), "operator": "DoesNotExist" }] });
        index.apply(named(&format!("many{n}"), "n0", json!({ "podSelector": all, "ingress": from }))).unwrap();
    }
    let start = Instant::now();
    index.settle();
    println!("1,000 policies more: {:?}", start.elapsed());
    let selected = shortest(5, |n| {
        let n = 20 * NAMESPACES + n * NAMESPACES;
        let Object::Pod(mut new) = pod(n) else { unreachable!() };
        let address = format!("10.0.0.{}", 220 + n / NAMESPACES - 20);
        new.status.pod_ips = Some(vec![PodIp { ip: address.clone() }]);
        index.apply(Object::Pod(new)).unwrap();
        let pod = PodIdentity { namespace: "n0".into(), name: format!("p{n}"), uid: String::new() };
        index.attach_to(endpoint(&format!("c{n}"), &[&address]), Some(pod), false).unwrap();
        let changes = index.settle();
        assert!(changes.contains_key(&v1::Key::Endpoint(format!("c{n}"))));
    });
    println!("one pod added that 1,000 policies select: {selected:?}");
    let sizes: Vec<usize> =
        index.pod_policies().iter().filter_map(|pod| Some(pod.ingress.as_ref()?.rules.len())).collect();
    assert_eq!(sizes.iter().filter(|size| **size > 1000).count(), 6);
}
