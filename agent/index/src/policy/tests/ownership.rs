//! Whose an address is, through histories; and endpoints whose pods are not, or no longer, known.

use super::*;

fn pod(name: &str, uid: &str, app: &str, address: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: b, uid: {uid}, labels: {{app: {app}}}{}}}, spec: {{{}}}, status: {{{} podIPs: [{{ip: {address}}}]}}}}\n",
        if more == "terminating" { ", deletionTimestamp: 2026-01-01T00:00:00Z" } else { "" },
        if more == "host" { "hostNetwork: true" } else { "" },
        if more.starts_with("phase") { more } else { "" },
    )
}

fn owner(index: &Index, address: &str) -> Option<String> {
    Told(index).address(address.parse().unwrap()).map(|known| known.owner.clone())
}

/// Applies, settles and answers who owns 10.0.1.50 then.
fn then(index: &mut Index, text: &str) -> Option<String> {
    assert_eq!(apply(index, text), [""; 0]);
    index.settle();
    owner(index, "10.0.1.50")
}

const IT: &str = "10.0.1.50";

#[test]
fn finished_pods_own_nothing_and_terminating_ones_do() {
    let mut index = cluster();
    assert_eq!(then(&mut index, &pod("p", "u1", "web", IT, "")).as_deref(), Some("u1"));
    assert_eq!(then(&mut index, &pod("p", "u1", "web", IT, "terminating")).as_deref(), Some("u1"));
    for phase in ["phase: Succeeded,", "phase: Failed,"] {
        assert_eq!(then(&mut index, &pod("p", "u1", "web", IT, phase)), None);
        assert_eq!(then(&mut index, &pod("p", "u1", "web", IT, "phase: Running,")).as_deref(), Some("u1"));
    }
    assert_eq!(then(&mut index, &pod("h", "u2", "web", "10.0.1.51", "host")).as_deref(), Some("u1"));
    assert_eq!(owner(&index, "10.0.1.51"), None, "of the host network");
    assert_eq!(then(&mut index, &pod("p", "u1", "web", "10.0.1.52", "")), None, "it has another now");
}

#[test]
fn reused_addresses_are_the_new_owners_at_once() {
    let mut index = cluster();
    apply(
        &mut index,
        &policy("{ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: good}}}]}]}"),
    );
    then(&mut index, &pod("old", "u1", "good", IT, ""));
    expect(&index, &["10.0.1.50 > a/web TCP 1"], &[]);
    // The old one has not said goodbye yet, and says it late, in any of these ways.
    assert_eq!(then(&mut index, &pod("new", "u2", "bad", IT, "")).as_deref(), Some("u2"));
    expect(&index, &[], &["10.0.1.50 > a/web TCP 1"]);
    for more in ["", "terminating", "phase: Failed,"] {
        assert_eq!(then(&mut index, &pod("old", "u1", "good", IT, more)).as_deref(), Some("u2"), "{more}");
    }
    remove(&mut index, Kind::Pod, "b/old");
    index.settle();
    assert_eq!(owner(&index, IT).as_deref(), Some("u2"));
    // One that is about to end does not take it from one that lives, though it came later.
    assert_eq!(then(&mut index, &pod("late", "u3", "good", IT, "terminating")).as_deref(), Some("u2"));
    remove(&mut index, Kind::Pod, "b/new");
    index.settle();
    assert_eq!(owner(&index, IT).as_deref(), Some("u3"));
    // Of two that are read at once, the younger.
    let created = |text: String, at: &str| text.replace("labels:", &format!("creationTimestamp: {at}, labels:"));
    let (x, y) = (pod("x", "u4", "bad", "10.0.1.60", ""), pod("y", "u5", "good", "10.0.1.60", ""));
    for (first, second) in [(&x, &y), (&y, &x)] {
        let mut index = cluster();
        for text in [first, second] {
            let at = if text.contains("u5") { "2026-01-02T00:00:00Z" } else { "2026-01-03T00:00:00Z" };
            apply(&mut index, &created(text.clone(), at));
        }
        index.settle();
        assert_eq!(owner(&index, "10.0.1.60").as_deref(), Some("u4"));
    }
}

#[test]
fn the_uid_decides() {
    let mut index = cluster();
    then(&mut index, &pod("p", "u1", "good", IT, ""));
    // A pod of the same name made anew, elsewhere: what the old one had is nobody's.
    assert_eq!(then(&mut index, &pod("p", "u2", "good", "10.0.1.51", "")), None);
    let key = objects(&pod("p", "u1", "good", IT, "")).remove(0).key();
    index.delete_pod(&key, "u1");
    assert_eq!(index.settle(), Default::default(), "the delete of the former one comes late");
    assert_eq!(owner(&index, "10.0.1.51").as_deref(), Some("u2"));
    index.delete_pod(&key, "u2");
    index.settle();
    assert_eq!(owner(&index, "10.0.1.51"), None);
}

#[test]
fn an_address_of_this_node_is_its_endpoints_from_the_beginning() {
    let mut index = cluster();
    let from_b =
        "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: new}}}]}]}";
    apply(&mut index, &policy(from_b));
    // Its status says nothing yet; that of a former pod still does.
    apply(&mut index, &pod("former", "u1", "old", "10.0.0.50", ""));
    apply(
        &mut index,
        "{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: b, uid: b-new, labels: {app: new}}}",
    );
    connect(&mut index, "b/new", "10.0.0.50");
    index.settle();
    assert_eq!(owner(&index, "10.0.0.50").as_deref(), Some("b-new"));
    expect(&index, &["10.0.0.50 > a/web TCP 1"], &[]);
    // It is over: nobody's, though its endpoint is still there.
    apply(
        &mut index,
        "{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: b, uid: b-new, labels: {app: new}}, status: {phase: Failed}}",
    );
    index.settle();
    assert_eq!(owner(&index, "10.0.0.50"), None);
    index.detach("b/new");
    index.settle();
    assert_eq!(owner(&index, "10.0.0.50").as_deref(), Some("u1"));
    // One that no runtime named a pod for: known, and selected by nothing.
    index.attach(endpoint("tool", &["10.0.0.60"])).unwrap();
    apply(
        &mut index,
        &admin(
            "d",
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
        ),
    );
    index.settle();
    assert_eq!(owner(&index, "10.0.0.60").as_deref(), Some("endpoint/tool"));
    expect(
        &index,
        &["b/web > 10.0.0.60 TCP 1", "10.0.0.60 > c/bare TCP 1"],
        &["a/db > c/bare TCP 1", "10.0.0.61 > c/bare TCP 1"],
    );
}

#[test]
fn pods_whose_namespace_is_not_known_own_nothing() {
    let mut index = cluster();
    apply(&mut index, &policy("{ingress: [{from: [{namespaceSelector: {}}]}]}"));
    let lost = pod("p", "u1", "web", IT, "").replace("namespace: b", "namespace: lost");
    assert_eq!(then(&mut index, &lost), None);
    expect(&index, &[], &["10.0.1.50 > a/web TCP 1"]);
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: lost}}";
    assert_eq!(then(&mut index, namespace).as_deref(), Some("u1"));
    expect(&index, &["10.0.1.50 > a/web TCP 1"], &[]);
    // What it said counts while it has pods.
    remove(&mut index, Kind::Namespace, "lost");
    assert_eq!(index.settle(), Default::default());
    remove(&mut index, Kind::Pod, "lost/p");
    assert_eq!(then(&mut index, &lost), None);
}

#[test]
fn endpoints_wait_for_their_pods_objects() {
    let mut index = cluster();
    apply(&mut index, &policy("{}"));
    let new = "{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: a, uid: a-new}}";
    let withheld = |index: &Index| index.withheld().map(|w| w.reason).collect::<Vec<_>>();
    apply(&mut index, &new.replace("a-new", "a-former"));
    connect(&mut index, "a/new", "10.0.0.50");
    let changes = index.settle();
    assert!(!changes.contains_key(&v1::Key::Endpoint("a/new".into())));
    assert!(withheld(&index)[0].contains("pod a/new with UID a-new is not known"), "{:?}", withheld(&index));
    assert!(index.awaits_pod("a/new").is_some());
    assert_eq!(owner(&index, "10.0.0.50"), None);
    // All in one transaction: the endpoint, its rules, its address.
    apply(&mut index, new);
    let changes = index.settle();
    assert!(changes.contains_key(&v1::Key::Endpoint("a/new".into())));
    assert!(changes.contains_key(&v1::Key::Address("10.0.0.50".parse().unwrap())));
    assert_eq!((withheld(&index).len(), index.awaits_pod("a/new")), (0, None));
    expect(&index, &[], &["b/web > 10.0.0.50 TCP 1"]);
    // The namespace must be known as well.
    apply(&mut index, "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: lost, uid: lost-p}}");
    connect(&mut index, "lost/p", "10.0.0.51");
    index.settle();
    assert!(withheld(&index)[0].contains("namespace lost is not known"));
    apply(&mut index, "{apiVersion: v1, kind: Namespace, metadata: {name: lost}}");
    index.settle();
    assert_eq!(withheld(&index).len(), 0);
    // A static pod's object has another UID than its kubelet knows it by.
    let mirror = "{apiVersion: v1, kind: Pod, metadata: {name: static, namespace: a, uid: other, annotations: {kubernetes.io/config.mirror: a-static}}}";
    apply(&mut index, mirror);
    connect(&mut index, "a/static", "10.0.0.52");
    index.settle();
    assert_eq!(withheld(&index).len(), 0);
}

#[test]
fn endpoints_outlive_their_pods_objects_under_the_same_rules() {
    let mut index = cluster();
    apply(&mut index, &policy("{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}]}]}"));
    index.settle();
    expect(&index, &["a/web > a/db TCP 1"], &["b/web > a/db TCP 1"]);
    remove(&mut index, Kind::Pod, "a/db");
    index.settle();
    assert_eq!(owner(&index, "10.0.0.11"), None);
    expect(&index, &["a/web > a/db TCP 1"], &["b/web > a/db TCP 1"]);
    // Another pod of that name is another pod; policies that come later count for the one that is gone, too.
    apply(&mut index, "{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: a, uid: another}}");
    apply(&mut index, &policy("{podSelector: {matchLabels: {app: db}}}"));
    index.settle();
    assert_eq!(index.withheld().count(), 0);
    expect(&index, &[], &["a/web > a/db TCP 1"]);
    // Said again, as after a call that was repeated, it is still the same.
    connect(&mut index, "a/db", "10.0.0.11");
    index.settle();
    expect(&index, &[], &["a/web > a/db TCP 1"]);
    index.detach("a/db");
    remove(&mut index, Kind::NetworkPolicy, "a/p");
    index.settle();
    assert_eq!(index.policy_sizes(), [0, 0, 0]);
}

#[test]
fn endpoints_of_before_are_denied_everything_until_their_pods_are_known() {
    let mut index = empty();
    let pod = identity("a/web", "a-web");
    index.attach_to(endpoint("a/web", &["10.0.0.10"]), Some(pod), true).unwrap();
    index.settle();
    let denied = |index: &Index| index.denied().map(|denied| denied.reason).collect::<Vec<_>>();
    assert_eq!(index.withheld().count(), 0);
    assert!(denied(&index)[0].contains("pod a/web with UID a-web is not known"));
    expect(&index, &[], &["b/web > a/web TCP 1", "a/web > b/web TCP 1", "a/web > a/web TCP 1"]);
    apply(&mut index, CLUSTER);
    index.settle();
    assert_eq!(denied(&index).len(), 0);
    expect(&index, &["b/web > a/web TCP 1", "a/web > b/web TCP 1"], &[]);
    assert_eq!(index.policy_sizes(), [0, 0, 0]);
}
