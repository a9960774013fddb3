//! Random policies of both kinds: every feature of them, and now and then one that makes no sense.

use podplane_policy_model::api::*;
use podplane_policy_model::objects::Protocol;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::random::SPACES;

pub fn labels_of(keys: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = Labels> {
    let one = move |(key, values): &(&'static str, &'static [&'static str])| {
        let key = *key;
        prop::option::weighted(0.7, select(*values))
            .prop_map(move |value| value.map(|v| (key.to_owned(), v.to_owned())))
    };
    keys.iter().map(one).collect::<Vec<_>>().prop_map(|all| all.into_iter().flatten().collect())
}

pub const POD_KEYS: &[(&str, &[&str])] = &[("app", &["a", "b", "c"]), ("tier", &["x", "y"])];
pub const SPACE_KEYS: &[(&str, &[&str])] = &[("team", &["p", "q"]), ("env", &["dev", "prod"])];
pub const NODE_KEYS: &[(&str, &[&str])] = &[("zone", &["z1", "z2"]), ("kubernetes.io/os", &["linux"])];

fn selector(keys: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = LabelSelector> {
    let requirement = select(keys).prop_flat_map(|(key, values)| {
        let operator = select(&["In", "NotIn", "Exists", "DoesNotExist"][..]);
        (operator, subsequence(values.to_vec(), 1..=values.len())).prop_map(move |(operator, values)| Requirement {
            key: (*key).to_owned(),
            operator: operator.to_owned(),
            values: match operator {
                "In" | "NotIn" => values.into_iter().map(str::to_owned).collect(),
                _ => Vec::new(),
            },
        })
    });
    let labels = select(keys).prop_flat_map(|(key, values)| {
        select(values).prop_map(move |value| Labels::from([((*key).to_owned(), value.to_owned())]))
    });
    let of = |match_labels, match_expressions| LabelSelector { match_labels, match_expressions };
    prop_oneof![
        3 => Just(LabelSelector::default()),
        4 => labels.clone().prop_map(move |l| of(l, Vec::new())),
        3 => prop::collection::vec(requirement.clone(), 1..3).prop_map(move |e| of(Labels::new(), e)),
        1 => (labels, prop::collection::vec(requirement, 1..2)).prop_map(move |(l, e)| of(l, e)),
    ]
}

fn of_pods() -> impl Strategy<Value = LabelSelector> {
    selector(POD_KEYS)
}

fn of_spaces() -> impl Strategy<Value = LabelSelector> {
    let by_name = select(&SPACES[..]).prop_map(|name| LabelSelector {
        match_labels: Labels::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]),
        match_expressions: Vec::new(),
    });
    prop_oneof![3 => selector(SPACE_KEYS), 1 => by_name]
}

/// Ranges: everything, the pods' of a node, parts of them, one pod's, the nodes', the world's outside.
const NETS: &[&str] = &[
    "0.0.0.0/0",
    "::/0",
    "10.244.0.0/16",
    "10.244.1.0/24",
    "10.244.2.0/24",
    "10.244.1.8/29",
    "10.244.2.10/32",
    "10.244.1.11/32",
    "fd00:244::/32",
    "fd00:244:1::/64",
    "fd00:244:2::8/125",
    "fd00:244:1::a/128",
    "192.0.2.0/24",
    "192.0.2.2/32",
    "2001:db8::2/128",
    "198.51.100.0/24",
    "198.51.100.1/32",
    "2001:db8:51::/64",
    "2001:db8:51::1/128",
];

fn block() -> impl Strategy<Value = IpBlock> {
    (select(NETS), subsequence(NETS, 0..4)).prop_map(|(cidr, inner)| {
        let net: ipnet::IpNet = cidr.parse().expect("a range");
        let is_part = |text: &&&str| {
            let other: ipnet::IpNet = text.parse().expect("a range");
            net.contains(&other) && other.prefix_len() > net.prefix_len()
        };
        IpBlock { cidr: cidr.to_owned(), except: inner.iter().filter(is_part).map(|n| (*n).to_owned()).collect() }
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let of = |pod_selector, namespace_selector, ip_block| Peer { pod_selector, namespace_selector, ip_block };
    prop_oneof![
        3 => of_pods().prop_map(move |p| of(Some(p), None, None)),
        2 => of_spaces().prop_map(move |n| of(None, Some(n), None)),
        2 => (of_pods(), of_spaces()).prop_map(move |(p, n)| of(Some(p), Some(n), None)),
        3 => block().prop_map(move |b| of(None, None, Some(b))),
    ]
}

/// Numbers that policies and pods speak of.
pub const PORTS: &[u16] = &[53, 80, 81, 443, 5000, 8080, 9000];
pub const NAMES: &[&str] = &["web", "dns", "adm"];

pub fn protocol() -> impl Strategy<Value = Protocol> {
    select(&Protocol::ALL[..])
}

fn port() -> impl Strategy<Value = Port> {
    let protocol = prop::option::weighted(0.75, protocol()).prop_map(|p| p.map(|p| p.text().to_owned()));
    let at = prop_oneof![
        1 => Just((None, None)),
        4 => select(PORTS).prop_map(|p| (Some(IntOrString::Int(p.into())), None)),
        2 => (select(PORTS), 0..4000u16).prop_map(|(p, n)| (Some(IntOrString::Int(p.into())), Some(i64::from(p + n)))),
        4 => select(NAMES).prop_map(|n| (Some(IntOrString::String(n.to_owned())), None)),
    ];
    (protocol, at).prop_map(|(protocol, (port, end_port))| Port { protocol, port, end_port })
}

/// A policy, now and then one that makes no sense.
pub fn policy() -> impl Strategy<Value = NetworkPolicySpec> {
    (right_policy(), prop::option::weighted(0.08, 0..10u8)).prop_map(|(mut spec, fault)| {
        if let Some(fault) = fault {
            spoil(&mut spec, fault);
        }
        spec
    })
}

fn spoil(spec: &mut NetworkPolicySpec, fault: u8) {
    let requirement = |operator: &str| Requirement { key: "app".into(), operator: operator.into(), values: Vec::new() };
    let nowhere = IpBlock { cidr: "10.0.0.0/8".into(), except: vec!["192.168.0.0/16".into()] };
    let bad_net = IpBlock { cidr: "10.0.0.0/33".into(), except: Vec::new() };
    let of_block = |block| Peer { ip_block: Some(block), ..Peer::default() };
    let mut of_peer = |peer| spec.ingress.push(IngressRule { from: vec![peer], ports: Vec::new() });
    match fault {
        0 => of_peer(of_block(nowhere)),
        1 => of_peer(of_block(bad_net)),
        2 => of_peer(Peer::default()),
        3 => of_peer(Peer {
            pod_selector: Some(LabelSelector::default()),
            ..of_block(IpBlock { cidr: "::/0".into(), except: vec![] })
        }),
        4 => spec.pod_selector.match_expressions.push(requirement("Equals")),
        5 => spec.pod_selector.match_expressions.push(requirement("In")),
        6 => spec.policy_types = Some(vec!["Ingress".into(), "Forward".into()]),
        _ => {
            let port = match fault {
                7 => Port { port: Some(IntOrString::Int(90)), end_port: Some(80), protocol: None },
                8 => Port { port: Some(IntOrString::Int(80)), end_port: None, protocol: Some("ICMP".into()) },
                _ => Port { port: Some(IntOrString::String("web".into())), end_port: Some(90), protocol: None },
            };
            spec.egress.push(EgressRule { to: Vec::new(), ports: vec![port] });
        }
    }
}

fn right_policy() -> impl Strategy<Value = NetworkPolicySpec> {
    let types = prop_oneof![
        3 => Just(None),
        1 => Just(Some(&[][..])),
        2 => Just(Some(&["Ingress"][..])),
        2 => Just(Some(&["Egress"][..])),
        3 => Just(Some(&["Ingress", "Egress"][..])),
    ];
    let few = || prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(peer(), 1..3)];
    let ports = || prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(port(), 1..4)];
    let ingress = prop::collection::vec((few(), ports()).prop_map(|(from, ports)| IngressRule { from, ports }), 0..3);
    let egress = prop::collection::vec((few(), ports()).prop_map(|(to, ports)| EgressRule { to, ports }), 0..3);
    (of_pods(), types, ingress, egress).prop_map(|(pod_selector, types, ingress, egress)| NetworkPolicySpec {
        pod_selector,
        policy_types: types.map(|t| t.iter().map(|t| (*t).to_owned()).collect()),
        ingress,
        egress,
    })
}

fn namespaced() -> impl Strategy<Value = NamespacedPod> {
    (of_spaces(), of_pods())
        .prop_map(|(namespace_selector, pod_selector)| NamespacedPod { namespace_selector, pod_selector })
}

fn cluster_peer(egress: bool) -> impl Strategy<Value = ClusterPeer> {
    let nets = prop::collection::btree_set(select(NETS), 1..3);
    prop_oneof![
        3 => of_spaces().prop_map(|n| ClusterPeer { namespaces: Some(n), ..ClusterPeer::default() }),
        3 => namespaced().prop_map(|p| ClusterPeer { pods: Some(p), ..ClusterPeer::default() }),
        if egress { 2 } else { 0 } =>
            selector(NODE_KEYS).prop_map(|n| ClusterPeer { nodes: Some(n), ..ClusterPeer::default() }),
        if egress { 3 } else { 0 } => nets.prop_map(|nets| ClusterPeer {
            networks: nets.into_iter().map(str::to_owned).collect(), ..ClusterPeer::default()
        }),
    ]
}

fn cluster_protocol(named: bool) -> impl Strategy<Value = ClusterProtocol> {
    let port = prop_oneof![
        3 => select(PORTS).prop_map(|n| ClusterPort { number: Some(n), range: None }),
        1 => (select(PORTS), 1..4000u16)
            .prop_map(|(p, n)| ClusterPort { number: None, range: Some(PortRange { start: p, end: p + n }) }),
    ];
    let stated = (protocol(), port).prop_map(|(protocol, port)| {
        let stated = Some(Match { destination_port: Some(port) });
        match protocol {
            Protocol::Tcp => ClusterProtocol { tcp: stated, ..ClusterProtocol::default() },
            Protocol::Udp => ClusterProtocol { udp: stated, ..ClusterProtocol::default() },
            Protocol::Sctp => ClusterProtocol { sctp: stated, ..ClusterProtocol::default() },
        }
    });
    let name = select(NAMES)
        .prop_map(|n| ClusterProtocol { destination_named_port: Some(n.to_owned()), ..ClusterProtocol::default() });
    prop_oneof![2 => stated, if named { 1 } else { 0 } => name]
}

/// A policy, now and then one that makes no sense, or says what is not supported.
pub fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicySpec> {
    (right_cluster_policy(), prop::option::weighted(0.12, (0..8u8, 0..3usize))).prop_map(|(mut spec, fault)| {
        if let Some((fault, at)) = fault {
            spoil_cluster(&mut spec, fault, at);
        }
        spec
    })
}

fn spoil_cluster(spec: &mut ClusterNetworkPolicySpec, fault: u8, at: usize) {
    let names = ClusterPeer { domain_names: vec!["example.org".into()], ..ClusterPeer::default() };
    let bad_net = ClusterPeer { networks: vec!["10.0.0.0/33".into()], ..ClusterPeer::default() };
    let both = ClusterPeer {
        namespaces: Some(LabelSelector::default()),
        nodes: Some(LabelSelector::default()),
        ..ClusterPeer::default()
    };
    let egress = spec.egress.get_mut(at);
    match (fault, egress) {
        (0, Some(rule)) => rule.to.push(names),
        (1, Some(rule)) => rule.to.push(bad_net),
        (2, Some(rule)) => rule.to.push(both),
        (3, Some(rule)) => rule.to.push(ClusterPeer::default()),
        (4, Some(rule)) => rule.action = "Reject".into(),
        (5, _) => spec.subject = Subject::default(),
        (6, _) => spec.priority = 1001,
        (7, _) => spec.tier = "Middle".into(),
        _ => {}
    }
}

fn right_cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicySpec> {
    let subject = prop_oneof![
        of_spaces().prop_map(|n| Subject { namespaces: Some(n), pods: None }),
        namespaced().prop_map(|p| Subject { namespaces: None, pods: Some(p) }),
    ];
    let action = || select(&["Accept", "Deny", "Deny", "Pass"][..]);
    let protocols =
        |named| prop_oneof![Just(Vec::new()).boxed(), prop::collection::vec(cluster_protocol(named), 1..3).boxed()];
    let peers = |egress| prop::collection::vec(cluster_peer(egress), 1..3);
    let ingress = (action(), peers(false), protocols(true)).prop_map(|(action, from, protocols)| ClusterIngressRule {
        name: String::new(),
        action: action.into(),
        from,
        protocols,
    });
    // Names of ports only go with pods: the API refuses the rest.
    let egress = (action(), peers(true), protocols(true), protocols(false)).prop_map(|(action, to, named, plain)| {
        let are_pods = to.iter().all(|p| p.nodes.is_none() && p.networks.is_empty());
        let protocols = if are_pods { named } else { plain };
        ClusterEgressRule { name: String::new(), action: action.into(), to, protocols }
    });
    let rules = (prop::collection::vec(ingress, 0..4), prop::collection::vec(egress, 0..4));
    let tier = select(&["Admin", "Admin", "Baseline"][..]);
    (tier, select(&[0i64, 5, 5, 10, 1000][..]), subject, rules).prop_map(
        |(tier, priority, subject, (ingress, egress))| ClusterNetworkPolicySpec {
            tier: tier.into(),
            priority,
            subject,
            ingress,
            egress,
        },
    )
}

/// Numbers of ports that are asked for: those that anybody speaks of, and their neighbours.
pub fn asked() -> Vec<u16> {
    let mut all: Vec<u16> = PORTS.iter().flat_map(|p| [*p, p + 1]).collect();
    all.extend([1, 65_535]);
    all.sort_unstable();
    all.dedup();
    all
}
