//! Specs of any shape, of the API's words in any place: none breaks the reader, the dataplane takes all that comes of
//! them, and one that is refused lets nothing in.

use podplane_config::valid::State;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::index::tests::apply_all;
use crate::k8s::{Metadata, Policy};

const WORDS: &[&str] = &[
    "podSelector",
    "namespaceSelector",
    "policyTypes",
    "ingress",
    "egress",
    "from",
    "to",
    "ports",
    "port",
    "endPort",
    "protocol",
    "ipBlock",
    "cidr",
    "except",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "tier",
    "priority",
    "subject",
    "namespaces",
    "pods",
    "nodes",
    "networks",
    "domainNames",
    "protocols",
    "tcp",
    "destinationPort",
    "number",
    "range",
    "start",
    "end",
    "destinationNamedPort",
    "action",
    "name",
    "app",
    "x/y",
];
const TEXTS: &[&str] = &[
    "",
    "Ingress",
    "Egress",
    "TCP",
    "UDP",
    "In",
    "NotIn",
    "Exists",
    "DoesNotExist",
    "web",
    "http",
    "10.0.0.0/24",
    "10.0.0.20/32",
    "::/0",
    "0.0.0.0/0",
    "1.2.3.4",
    "Admin",
    "Baseline",
    "Accept",
    "Deny",
    "Pass",
    "\u{7}",
    "team",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0), Just(80), Just(65_535), Just(65_536), any::<i64>()].prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        let map = proptest::collection::vec((prop::sample::select(WORDS), inner.clone()), 0..4);
        let map = map.prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::from),
            map.prop_map(|map: Map<String, Value>| Value::from(map)),
        ]
    })
}

/// Good specs: one value of each is replaced by anything.
fn good() -> impl Strategy<Value = (bool, Value)> {
    let network = r#"{"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]}},
            {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.20/32"]}}], "ports": [{"port": 80, "endPort": 90}, {"port": "http"}]}],
        "egress": [{"to": [{"podSelector": {}}], "ports": [{"protocol": "UDP", "port": 53}, {"port": "http"}]}]}"#;
    let cluster = r#"{"tier": "Admin", "priority": 3, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {}}},
        "ingress": [{"name": "one", "action": "Accept", "from": [{"namespaces": {"matchLabels": {"team": "x"}}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
            {"action": "Deny", "from": [{"namespaces": {}}]}],
        "egress": [{"action": "Pass", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}], "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]}]}"#;
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    prop_oneof![Just((true, read(network))), Just((false, read(cluster)))]
}

/// Replaces the `at`-th value, counted from the outside in.
fn replace(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, with)),
        Value::Object(map) => map.values_mut().for_each(|item| replace(item, at, with)),
        _ => {}
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn play(is_network: bool, spec: Value) {
    let mut index = cluster();
    let metadata = Metadata { name: "p".into(), namespace: Some("a".into()), ..Metadata::default() };
    let object = Policy { metadata, spec };
    let object = if is_network { Object::NetworkPolicy(object) } else { Object::ClusterNetworkPolicy(object) };
    let refused = index.apply(object).is_err();
    index.settle();
    let full = index.objects().iter().map(|(key, object)| (key.clone(), Some(object.clone()))).collect();
    apply_all(&State::default(), &full, 1, true);
    let actions = index.objects().values().filter_map(|object| match object {
        v1::Object::Rule(rule) => Some(rule.action),
        _ => None,
    });
    let denies = |action: RuleAction| action == RuleAction::Deny;
    if refused {
        let mut actions = actions.peekable();
        assert!(!is_network || actions.peek().is_some(), "it isolates");
        assert!(actions.all(denies), "and accepts nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_spec_is_read_or_refused(is_network: bool, spec in value()) {
        play(is_network, spec);
    }

    #[test]
    fn a_good_spec_with_one_wrong_value_is_read_or_refused((is_network, mut spec) in good(), at: prop::sample::Index, with in value()) {
        let mut at = at.index(count(&spec));
        replace(&mut spec, &mut at, &with);
        play(is_network, spec);
    }
}
