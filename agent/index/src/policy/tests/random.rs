//! Whatever the order of updates: each step is a transaction that the dataplane takes, and what the steps add up to
//! judges every flow as an index does that heard only the last words.

use std::collections::BTreeSet;

use podplane_config::valid::State;
use proptest::prelude::*;

use super::*;
use crate::index::tests::apply_all;

/// Something that happens; the numbers choose among a few of each thing, so that they meet.
#[derive(Clone, Debug)]
enum Event {
    Pod { pod: u8, labels: u8, port: u8, state: u8 },
    PodGone(u8),
    Namespace { namespace: u8, labels: u8 },
    Policy { policy: u8, spec: u16 },
    PolicyGone(u8),
    Node { node: u8, labels: u8 },
    Connect(u8),
    Disconnect(u8),
}

const PODS: u8 = 8;
const POLICIES: u8 = 6;

fn label(n: u8) -> &'static str {
    ["{}", "{l: x}", "{l: y}", "{l: x, m: x}"][usize::from(n % 4)]
}

fn selector(n: u16) -> &'static str {
    [
        "{}",
        "{matchLabels: {l: x}}",
        "{matchExpressions: [{key: l, operator: In, values: [x, y]}]}",
        "{matchExpressions: [{key: l, operator: NotIn, values: [x]}]}",
        "{matchExpressions: [{key: m, operator: Exists}]}",
        "{matchExpressions: [{key: m, operator: DoesNotExist}]}",
        "{matchLabels: {kubernetes.io/metadata.name: n1}}",
    ][usize::from(n % 7)]
}

fn address(pod: u8) -> String {
    // The last two live on another node.
    format!("10.0.{}.{}", u8::from(pod >= PODS - 2), 10 + pod)
}

fn path(pod: u8) -> String {
    format!("n{}/p{pod}", pod % 3)
}

fn spec(n: u16) -> String {
    let (a, b, ports) = (
        selector(n),
        selector(n / 7),
        ["", ", ports: [{port: 80}]", ", ports: [{port: http}, {protocol: UDP}]"][usize::from(n / 49 % 3)],
    );
    match n / 147 % 6 {
        0 => format!("{{podSelector: {a}}}"),
        1 => format!("{{podSelector: {a}, ingress: [{{from: [{{podSelector: {b}}}]{ports}}}]}}"),
        2 => format!(
            "{{podSelector: {a}, ingress: [{{from: [{{namespaceSelector: {b}, podSelector: {a}}}]{ports}}}, {{ports: [{{port: 7}}]}}]}}"
        ),
        3 => format!(
            "{{podSelector: {a}, policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: {b}}}]{ports}}}]}}"
        ),
        4 => format!(
            "{{podSelector: {a}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 10.0.0.0/28, except: [10.0.0.12/31]}}}}]{ports}}}]}}"
        ),
        _ => format!(
            "{{podSelector: {a}, policyTypes: [Egress, Ingress], ingress: [{{}}], egress: [{{to: []{ports}}}]}}"
        ),
    }
}

fn cluster_spec(n: u16) -> String {
    let (a, b) = (selector(n), selector(n / 7));
    let action = ["Accept", "Deny", "Pass"][usize::from(n / 49 % 3)];
    let protocols =
        ["", ", protocols: [{tcp: {destinationPort: {number: 80}}}]", ", protocols: [{destinationNamedPort: http}]"]
            [usize::from(n / 147 % 3)];
    let tier = ["Admin", "Baseline"][usize::from(n % 2)];
    let deny = "{action: Deny, from: [{namespaces: {}}]}";
    let ingress = format!("[{{action: {action}, from: [{{namespaces: {b}}}]{protocols}}}, {deny}]");
    let to = if protocols.contains("Named") { format!("namespaces: {b}") } else { format!("nodes: {b}") };
    format!(
        "{{tier: {tier}, priority: {}, subject: {{pods: {{namespaceSelector: {b}, podSelector: {a}}}}}, ingress: {ingress}, egress: [{{action: {action}, to: [{{{to}}}]{protocols}}}]}}",
        n % 3
    )
}

impl Event {
    fn play(&self, index: &mut Index) {
        let apply = |index: &mut Index, text: String| assert_eq!(apply(index, &text), [""; 0], "{text}");
        match self {
            Event::Pod { pod, labels, port, state } => {
                let (namespace, name) = (format!("n{}", pod % 3), format!("p{pod}"));
                let uid = path(*pod).replace('/', "-");
                let uid = if *state == 4 { format!("{uid}-again") } else { uid };
                let phase = ["Pending", "Running", "Running", "Failed", "Running"][usize::from(*state)];
                let ips = if *state == 0 { String::new() } else { format!(", podIPs: [{{ip: {}}}]", address(*pod)) };
                let port = ["", "name: http, containerPort: 80", "name: http, containerPort: 81"][usize::from(*port)];
                let labels = label(*labels);
                apply(
                    index,
                    format!(
                        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, uid: {uid}, labels: {labels}}}, spec: {{containers: [{{ports: [{{{port}}}]}}]}}, status: {{phase: {phase}{ips}}}}}"
                    ),
                );
            }
            Event::PodGone(pod) => remove(index, Kind::Pod, &path(*pod)),
            Event::Namespace { namespace, labels } => {
                apply(
                    index,
                    format!(
                        "{{apiVersion: v1, kind: Namespace, metadata: {{name: n{namespace}, labels: {}}}}}",
                        label(*labels)
                    ),
                );
            }
            Event::Policy { policy, spec: n } if policy % 2 == 0 => {
                let spec = spec(*n);
                apply(
                    index,
                    format!(
                        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p{policy}, namespace: n{}}}, spec: {spec}}}",
                        policy % 3
                    ),
                );
            }
            Event::Policy { policy, spec } => apply(index, admin(&format!("p{policy}"), &cluster_spec(*spec))),
            Event::PolicyGone(policy) if policy % 2 == 0 => {
                remove(index, Kind::NetworkPolicy, &format!("n{}/p{policy}", policy % 3));
            }
            Event::PolicyGone(policy) => remove(index, Kind::ClusterNetworkPolicy, &format!("p{policy}")),
            Event::Node { node, labels } => {
                apply(
                    index,
                    format!(
                        "{{apiVersion: v1, kind: Node, metadata: {{name: n{node}, labels: {}}}, spec: {{podCIDRs: [10.0.{node}.0/24]}}, status: {{addresses: [{{type: InternalIP, address: 192.0.2.{}}}]}}}}",
                        label(*labels),
                        node + 1
                    ),
                );
            }
            Event::Connect(pod) => connect(index, &path(*pod), &address(*pod)),
            Event::Disconnect(pod) => index.detach(&path(*pod)),
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..PODS, 0..4u8, 0..3u8, 0..5u8).prop_map(|(pod, labels, port, state)| Event::Pod { pod, labels, port, state }),
        2 => (0..PODS).prop_map(Event::PodGone),
        3 => (0..3u8, 0..4u8).prop_map(|(namespace, labels)| Event::Namespace { namespace, labels }),
        6 => (0..POLICIES, 0..882u16).prop_map(|(policy, spec)| Event::Policy { policy, spec }),
        2 => (0..POLICIES).prop_map(Event::PolicyGone),
        2 => (0..2u8, 0..4u8).prop_map(|(node, labels)| Event::Node { node, labels }),
        4 => (0..PODS - 2).prop_map(Event::Connect),
        1 => (0..PODS - 2).prop_map(Event::Disconnect),
    ];
    proptest::collection::vec(event, 1..40)
}

/// Every pair of addresses with some traffic of each kind: what is denied.
fn denied(index: &Index) -> BTreeSet<(IpAddr, IpAddr, L4)> {
    let mut addresses: Vec<IpAddr> = (0..PODS).map(|pod| address(pod).parse().unwrap()).collect();
    addresses.extend(["10.0.1.99", "192.0.2.2", "203.0.113.9"].map(|a| a.parse::<IpAddr>().unwrap()));
    let traffic = [
        None,
        Some((Protocol::Tcp, 80)),
        Some((Protocol::Tcp, 81)),
        Some((Protocol::Udp, 80)),
        Some((Protocol::Tcp, 7)),
    ];
    let told = Told(index);
    let mut denied = BTreeSet::new();
    for client in &addresses {
        for server in addresses.iter().filter(|server| *server != client) {
            let flows = traffic.into_iter().map(|l4| (*client, *server, l4));
            denied.extend(flows.filter(|(client, server, l4)| !told.judge(*client, *server, *l4)));
        }
    }
    denied
}

/// Who is connected and whose each address is.
fn known(index: &Index) -> BTreeSet<String> {
    let name = |object: &v1::Object| match object {
        v1::Object::Endpoint(endpoint) => Some(format!("endpoint {}", endpoint.id)),
        v1::Object::Address(address) => Some(format!("{} {}", address.address, address.owner)),
        _ => None,
    };
    index.objects().values().filter_map(name).collect()
}

/// The last word on each thing, in the order in which they were said; of a pod that is gone while its endpoint stays,
/// all that is needed to know it again.
fn last_words(events: &[Event]) -> Vec<Event> {
    let subject = |event: &Event| match event {
        Event::Pod { pod, .. } | Event::PodGone(pod) => (0, *pod),
        Event::Namespace { namespace, .. } => (1, *namespace),
        Event::Policy { policy, .. } | Event::PolicyGone(policy) => (2, *policy),
        Event::Node { node, .. } => (3, *node),
        Event::Connect(pod) | Event::Disconnect(pod) => (4, *pod),
    };
    let mut last: Vec<Event> = Vec::new();
    for event in events {
        last.retain(|other| subject(other) != subject(event));
        last.push(event.clone());
    }
    last
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 1000 }))]

    #[test]
    fn steps_add_up_to_what_was_said_last(events in events(), moments in proptest::collection::vec(any::<bool>(), 40)) {
        let base = [Event::Node { node: 0, labels: 0 }, Event::Node { node: 1, labels: 1 }];
        let base: Vec<Event> = base.into_iter().chain((0..2).map(|namespace| Event::Namespace { namespace, labels: 1 })).collect();
        let all: Vec<Event> = base.iter().chain(&events).cloned().collect();
        let (mut stepped, mut once) = (empty(), empty());
        let mut state = State::default();
        for (at, event) in all.iter().enumerate() {
            event.play(&mut stepped);
            event.play(&mut once);
            if at >= base.len() && moments[at - base.len()] {
                state = apply_all(&state, &stepped.settle(), at as u64, false);
            }
        }
        state = apply_all(&state, &stepped.settle(), 99, false);
        once.settle();
        // Steps, and all at once.
        prop_assert_eq!(denied(&stepped), denied(&once));
        prop_assert_eq!(known(&stepped), known(&once));
        prop_assert_eq!(stepped.policy_sizes(), once.policy_sizes());
        // The steps are what a full synchronisation says.
        let full = stepped.objects().iter().map(|(key, object)| (key.clone(), Some(object.clone()))).collect();
        prop_assert_eq!(state, apply_all(&State::default(), &full, 1, true));
        // And what somebody knows who begins now, unless an endpoint has outlived its pod's object.
        let mut scratch = empty();
        last_words(&all).iter().for_each(|event| event.play(&mut scratch));
        scratch.settle();
        if scratch.withheld().count() == 0 {
            prop_assert_eq!(denied(&stepped), denied(&scratch));
            prop_assert_eq!(known(&stepped), known(&scratch));
            prop_assert_eq!(stepped.policy_sizes(), scratch.policy_sizes());
        }
        // Nothing is left behind.
        (0..PODS).for_each(|pod| Event::Disconnect(pod).play(&mut stepped));
        (0..POLICIES).for_each(|policy| Event::PolicyGone(policy).play(&mut stepped));
        stepped.settle();
        prop_assert_eq!(stepped.policy_sizes(), [0, 0, 0]);
    }
}
