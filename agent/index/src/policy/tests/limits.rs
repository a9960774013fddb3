//! What does not fit into the dataplane is closed for whom it concerns, and for nobody else.

use std::fmt::Write;

use podplane_config::valid::{Assembler, State};

use super::*;
use crate::policy::limits::Load;

/// Rules of a NetworkPolicy for everybody's TCP ports from `first` on.
fn ports(count: usize, first: usize) -> String {
    let rules: Vec<String> = (0..count).map(|n| format!("{{ports: [{{port: {}}}]}}", first + n)).collect();
    format!("[{}]", rules.join(", "))
}

fn named(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {spec}}}\n---\n"
    )
}

fn ingress(namespace: &str, name: &str, app: &str, count: usize, first: usize) -> String {
    named(
        namespace,
        name,
        &format!("{{podSelector: {{matchLabels: {{app: {app}}}}}, ingress: {}}}", ports(count, first)),
    )
}

/// The pods that are denied everything.
fn denied(index: &Index) -> Vec<String> {
    index.denied().map(|denied| denied.id).collect()
}

fn none() -> Load {
    Load { rules: usize::MAX, uses: usize::MAX, matches: usize::MAX, bytes: usize::MAX }
}

#[test]
fn the_namespace_that_takes_most_yields_and_comes_back() {
    for (what, most) in [
        ("rules", Load { rules: 30, ..none() }),
        ("rules in pods' lists", Load { uses: 33, ..none() }),
        ("bytes", Load { bytes: 15_000, ..none() }),
    ] {
        let mut index = cluster();
        index.limits().load = most;
        // Five rules in a and b, then twenty more in a: its own pod yields, the one of its two with most.
        apply(&mut index, &(ingress("a", "few", "db", 5, 100) + &ingress("b", "few", "web", 5, 200)));
        index.settle();
        assert_eq!(denied(&index), [""; 0], "{what}");
        apply(&mut index, &ingress("a", "many", "web", 100, 1000));
        let changes = index.settle();
        assert_eq!(denied(&index), ["a/web"], "{what}");
        let report = index.pod_policies().into_iter().find(|pod| pod.pod == "a/web").unwrap();
        let trouble = report.trouble.unwrap();
        assert!(trouble.contains(what) && trouble.contains("namespace a") && trouble.contains("denied"), "{trouble}");
        let rules = &report.ingress.unwrap().rules;
        assert!(
            rules.len() == 1 && rules[0].name == "the pod's rules do not fit" && rules[0].action == RuleAction::Deny
        );
        assert!(report.egress.is_some());
        // Nothing of what did not fit is told.
        assert!(changes.iter().all(|(key, object)| !matches!(key, v1::Key::Rule(_)) || object.is_none() || {
            let Some(v1::Object::Rule(rule)) = object else { panic!() };
            !rule.name.contains("a/many")
        }));
        expect(
            &index,
            &["c/bare > b/web TCP 200", "c/bare > a/db TCP 100", "c/bare > b/web TCP 204"],
            &["c/bare > a/web TCP 1000", "a/web > c/bare TCP 1", "c/bare > b/web TCP 1"],
        );
        // Another change leaves it as it is, as does saying the same again.
        apply(&mut index, &(ingress("b", "more", "web", 2, 300) + &ingress("a", "many", "web", 100, 1000)));
        index.settle();
        assert_eq!(denied(&index), ["a/web"], "{what}");
        // Less of it has room.
        apply(&mut index, &ingress("a", "many", "web", 3, 1000));
        index.settle();
        assert_eq!(denied(&index), [""; 0], "{what}");
        expect(&index, &["c/bare > a/web TCP 1000", "a/web > c/bare TCP 1"], &["c/bare > a/web TCP 1003"]);
    }
}

#[test]
fn there_is_room_again_when_others_go() {
    let mut index = cluster();
    index.limits().load.rules = 30;
    apply(&mut index, &(ingress("b", "many", "web", 20, 200) + &ingress("a", "many", "web", 19, 100)));
    index.settle();
    assert_eq!(denied(&index), ["b/web"]);
    // b's is heavier still, but a's are gone.
    remove(&mut index, Kind::NetworkPolicy, "a/many");
    index.settle();
    assert_eq!(denied(&index), [""; 0]);
    expect(&index, &["c/bare > b/web TCP 219"], &["c/bare > b/web TCP 220"]);
    // A pod that goes takes its trouble with it.
    apply(&mut index, &ingress("b", "many", "web", 200, 200));
    index.settle();
    assert_eq!(denied(&index), ["b/web"]);
    index.detach("b/web");
    index.settle();
    assert_eq!((denied(&index), index.policy_sizes()[1]), (vec![], 0));
}

#[test]
fn matches_are_counted_by_addresses_and_the_selectors_in_force() {
    let mut index = cluster();
    index.limits().load.matches = 20;
    // Each selector matches all five pods that own an address.
    let from = |count: usize| -> String {
        let peer = |n| {
            format!(
                "{{namespaceSelector: {{}}, podSelector: {{matchExpressions: [{{key: x{n}, operator: DoesNotExist}}]}}}}"
            )
        };
        let peers: Vec<String> = (0..count).map(peer).collect();
        format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{}]}}]}}", peers.join(", "))
    };
    apply(&mut index, &(named("a", "p", &from(4)) + &ingress("b", "q", "web", 50, 1)));
    index.settle();
    assert_eq!(denied(&index), [""; 0]);
    apply(&mut index, &named("a", "p", &from(5)));
    index.settle();
    assert_eq!(denied(&index), ["a/web"]);
    expect(&index, &["c/bare > b/web TCP 1"], &["c/bare > a/web TCP 1"]);
    apply(&mut index, &named("a", "p", &from(4)));
    index.settle();
    assert_eq!(denied(&index), [""; 0]);
}

#[test]
fn addresses_beyond_the_limit_are_nobodys() {
    let mut index = empty();
    index.limits().addresses = 4;
    apply(&mut index, CLUSTER);
    for (path, address) in HERE {
        connect(&mut index, path, address);
    }
    apply(&mut index, &policy("{ingress: [{from: [{namespaceSelector: {}}]}]}"));
    index.settle();
    let told = |index: &Index| index.objects().keys().filter(|key| matches!(key, v1::Key::Address(_))).count();
    assert_eq!(told(&index), 4);
    assert!(index.shortages()[0].starts_with("1 addresses of pods are nobody's"), "{:?}", index.shortages());
    remove(&mut index, Kind::Pod, "c/bare");
    index.detach("c/bare");
    index.settle();
    assert_eq!((told(&index), index.shortages()), (4, vec![]));
    expect(&index, &["b/far > a/web TCP 1"], &[]);
}

/// Pods of one namespace that give many numbers to a name of a port do not swell the rules of others.
#[test]
fn a_name_of_a_port_is_bound_to_so_many_numbers_by_each_namespace() {
    let pod = |name: usize, ports: std::ops::Range<usize>| {
        let mut text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: n{name}, namespace: c, uid: u{name}}}, \
             status: {{phase: Running, podIPs: [{{ip: 10.0.1.{}}}]}}, spec: {{containers: [",
            100 + name
        );
        for port in ports {
            write!(text, "{{ports: [{{name: http, containerPort: {port}}}]}}, ").unwrap();
        }
        text + "]}}\n---\n"
    };
    let mut index = cluster();
    index.limits().bindings = 3;
    let accept = named("b", "p", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}");
    let deny = r#"{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c},
        spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, egress:
        [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]}}"#;
    assert_eq!(apply(&mut index, &(accept + deny)), [""; 0]);
    // Three numbers are c's; the fourth is not known by its name; one that others have is known whoever else has it.
    apply(&mut index, &(pod(1, 1000..1003) + &pod(2, 1003..1004) + &pod(3, 8080..8081)));
    index.settle();
    let rules = |index: &Index| {
        let pods = index.pod_policies();
        pods.iter().find(|pod| pod.pod == "b/web").unwrap().egress.as_ref().unwrap().rules.len()
    };
    // 8080, 9090, 7070, c's three, and the isolation.
    assert_eq!(rules(&index), 7);
    expect(
        &index,
        &[
            "b/web > 10.0.1.101 TCP 1002",
            "b/web > 10.0.1.103 TCP 8080",
            "a/web > 10.0.1.101 TCP 99",
            "a/web > 10.0.1.103 TCP 8081",
        ],
        &[
            "b/web > 10.0.1.102 TCP 1003",
            "a/web > 10.0.1.101 TCP 1000",
            "a/web > 10.0.1.102 TCP 1003",
            "a/web > 10.0.1.102 TCP 99",
        ],
    );
    assert!(
        index.shortages()[0].starts_with("pods of namespace c give more than 3 numbers"),
        "{:?}",
        index.shortages()
    );
    // One of c's goes: there is room.
    apply(&mut index, &pod(1, 1000..1002));
    index.settle();
    assert_eq!((rules(&index), index.shortages()), (7, vec![]));
    expect(&index, &["b/web > 10.0.1.102 TCP 1003", "a/web > 10.0.1.102 TCP 99"], &["a/web > 10.0.1.102 TCP 1003"]);
    remove(&mut index, Kind::NetworkPolicy, "b/p");
    remove(&mut index, Kind::ClusterNetworkPolicy, "c");
    index.settle();
    assert_eq!(index.policy_sizes(), [0, 0, 0]);
}

/// With the limits of the dataplane itself: what the index tells is taken.
#[test]
fn the_dataplane_takes_what_is_told() {
    let mut index = cluster();
    let mut state = State::default();
    let mut generation = 0;
    let mut put = |index: &mut Index| {
        generation += 1;
        let mut assembler = Assembler::default();
        let changes = index.settle();
        // The first word is about everything.
        let full = generation == 1;
        assembler.message(v1::ToDataplane::Begin { generation, full }).unwrap();
        let all = index.objects().iter().map(|(key, object)| (key.clone(), Some(object.clone())));
        for (key, object) in if full { all.collect() } else { changes } {
            let message = match object {
                Some(object) => v1::ToDataplane::Upsert(object),
                None => v1::ToDataplane::Delete(key),
            };
            assembler.message(message).unwrap();
        }
        let whole = assembler.message(v1::ToDataplane::Commit { generation }).unwrap().unwrap();
        state = state.apply(&whole).unwrap();
        state.policy.rules.len()
    };
    // Ten pods of 27,000 rules each have more of them than there may be.
    let rules: Vec<_> = (0..27_000).map(|n| serde_json::json!({ "ports": [{ "port": 1 + n }] })).collect();
    for n in 0..10 {
        let (space, name) = (if n < 8 { "a" } else { "b" }, format!("w{n}"));
        apply(
            &mut index,
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {space}, uid: {space}-{name}, \
                 labels: {{w: {name}}}}}}}"
            ),
        );
        connect(&mut index, &format!("{space}/{name}"), &format!("10.0.0.{}", 100 + n));
        let spec = serde_json::json!({ "podSelector": { "matchLabels": { "w": name } }, "ingress": rules });
        let metadata = crate::k8s::Metadata { name, namespace: Some(space.into()), ..Default::default() };
        index.apply(Object::NetworkPolicy(crate::k8s::Policy { metadata, spec })).unwrap();
        let told = put(&mut index);
        if n < 9 {
            assert_eq!((told, denied(&index)), ((n + 1) * 27_001 - n, vec![]));
        }
    }
    assert_eq!(denied(&index), ["a/w7"]);
}
