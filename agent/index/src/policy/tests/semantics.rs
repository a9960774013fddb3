//! NetworkPolicy, line by line of its API text.

use super::*;

#[test]
fn without_policies_everything_passes_and_is_told_so() {
    let index = cluster();
    expect(&index, &["c/bare > a/web TCP 80", "a/web > b/far ICMP", "203.0.113.9 > a/db UDP 53"], &[]);
    assert_eq!(index.policy_sizes(), [0, 0, 0]);
    // Owners are told in any case.
    let owner = Told(&index).address("10.0.1.40".parse().unwrap()).cloned().unwrap();
    assert_eq!((&*owner.owner, &*owner.name, owner.selectors), ("b-far", "b/far", vec![]));
    assert_eq!(Told(&index).address("192.0.2.2".parse().unwrap()), None, "the host network's is its node's");
}

#[test]
fn isolation_is_per_direction_and_policy_types_have_defaults() {
    let table: &[(&str, &[&str], &[&str])] = &[
        // Nothing stated: every pod of the namespace, for ingress.
        ("{}", &["a/web > b/web TCP 80", "c/bare > b/web TCP 80"], &["b/web > a/web TCP 80", "b/web > a/db ICMP"]),
        ("{podSelector: {}}", &["a/web > b/web TCP 80"], &["b/web > a/web TCP 80", "a/db > a/web TCP 80"]),
        ("{podSelector: null, policyTypes: []}", &["a/web > b/web TCP 80"], &["b/web > a/web TCP 80"]),
        // Egress rules bring egress, an empty list of them does not.
        ("{podSelector: {}, egress: []}", &["a/web > b/web TCP 80"], &["b/web > a/web TCP 80"]),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}",
            &["a/web > 192.0.2.9 TCP 80"],
            &["a/web > b/web TCP 80", "b/web > a/web TCP 80"],
        ),
        // Only what is named.
        ("{policyTypes: [Egress]}", &["b/web > a/web TCP 80"], &["a/web > b/web TCP 80", "a/web > 203.0.113.9 ICMP"]),
        ("{policyTypes: [Egress], ingress: [{}]}", &["b/web > a/web TCP 80"], &["a/web > b/web TCP 80"]),
        ("{policyTypes: [Ingress], egress: [{}]}", &["a/web > b/web TCP 80"], &["b/web > a/web TCP 80"]),
        ("{policyTypes: [Ingress, Egress]}", &[], &["a/web > b/web TCP 80", "b/web > a/web TCP 80"]),
        // Pods that are not selected are not isolated.
        ("{podSelector: {matchLabels: {app: web}}}", &["b/web > a/db TCP 80"], &["b/web > a/web TCP 80"]),
    ];
    for (spec, allowed, denied) in table {
        check(&policy(spec), allowed, denied);
    }
}

#[test]
fn empty_and_missing_lists_and_selectors_of_peers() {
    let table: &[(&str, &[&str], &[&str])] = &[
        // No rule: nobody. An empty rule, missing or empty lists: everybody, with everything.
        ("{ingress: []}", &[], &["b/web > a/web TCP 80"]),
        ("{ingress: [{}]}", &["b/web > a/web TCP 80", "203.0.113.9 > a/web ICMP"], &[]),
        ("{ingress: [{from: [], ports: []}]}", &["b/web > a/web UDP 80", "203.0.113.9 > a/web ICMP"], &[]),
        ("{ingress: [{from: null, ports: null}]}", &["b/web > a/web SCTP 80"], &[]),
        // podSelector alone: this namespace; empty: all of it.
        (
            "{ingress: [{from: [{podSelector: {}}]}]}",
            &["a/db > a/web TCP 80", "a/db > a/web ICMP"],
            &["b/web > a/web TCP 80", "203.0.113.9 > a/web TCP 80"],
        ),
        (
            "{ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
            &["a/web > a/db TCP 80"],
            &["b/web > a/db TCP 80", "a/db > a/web TCP 80"],
        ),
        // namespaceSelector alone: all of their pods; empty: all namespaces, but nobody outside.
        (
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}}]}]}",
            &["b/web > a/web TCP 80", "b/far > a/web TCP 80"],
            &["a/db > a/web TCP 80", "c/bare > a/web TCP 80"],
        ),
        (
            "{ingress: [{from: [{namespaceSelector: {}}]}]}",
            &["a/db > a/web TCP 80", "c/bare > a/web TCP 80", "b/far > a/web TCP 80"],
            &["203.0.113.9 > a/web TCP 80", "10.0.1.99 > a/web TCP 80", "192.0.2.2 > a/web TCP 80"],
        ),
        // Together: both must fit.
        (
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: web}}}]}]}",
            &["b/web > a/web TCP 80"],
            &["b/far > a/web TCP 80", "a/db > a/web TCP 80"],
        ),
        (
            "{ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}",
            &["b/web > a/web TCP 80", "a/web > a/db TCP 80"],
            &["b/far > a/web TCP 80", "c/bare > a/web TCP 80"],
        ),
        // As two peers: one must.
        (
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}}, {podSelector: {matchLabels: {app: db}}}]}]}",
            &["b/far > a/web TCP 80", "a/db > a/web TCP 80"],
            &["c/bare > a/web TCP 80"],
        ),
        // The name of a namespace, whatever its label says.
        (
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: b}}}]}]}",
            &["b/web > a/web TCP 80"],
            &["c/bare > a/web TCP 80"],
        ),
        (
            "{ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [b]}]}}]}]}",
            &["c/bare > a/web TCP 80"],
            &["b/web > a/web TCP 80"],
        ),
        // Egress likewise.
        (
            "{policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}",
            &["a/web > a/db TCP 80"],
            &["a/web > b/web TCP 80", "a/web > 203.0.113.9 TCP 80"],
        ),
        (
            "{policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: y}}}]}]}",
            &["a/web > b/far TCP 80"],
            &["a/web > c/bare TCP 80"],
        ),
        ("{policyTypes: [Egress], egress: [{}]}", &["a/web > 203.0.113.9 ICMP"], &[]),
    ];
    for (spec, allowed, denied) in table {
        check(&policy(spec), allowed, denied);
    }
}

#[test]
fn every_operator_of_match_expressions() {
    let of = |expression: &str| {
        policy(&format!(
            "{{ingress: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchExpressions: [{expression}]}}}}]}}]}}"
        ))
    };
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "{key: app, operator: In, values: [web, far]}",
            &["b/web > a/web TCP 1", "b/far > a/web TCP 1"],
            &["a/db > a/web TCP 1", "c/bare > a/web TCP 1"],
        ),
        (
            "{key: app, operator: NotIn, values: [web, far]}",
            &["a/db > a/web TCP 1", "c/bare > a/web TCP 1"],
            &["b/web > a/web TCP 1"],
        ),
        ("{key: app, operator: Exists}", &["a/db > a/web TCP 1"], &["c/bare > a/web TCP 1"]),
        ("{key: app, operator: DoesNotExist, values: []}", &["c/bare > a/web TCP 1"], &["a/db > a/web TCP 1"]),
        (
            "{key: app, operator: In, values: [web]}, {key: tier, operator: DoesNotExist}",
            &["b/web > a/db TCP 1"],
            &["a/web > a/db TCP 1"],
        ),
        ("{key: tier, operator: In, values: [\"\"]}", &[], &["a/web > a/db TCP 1", "c/bare > a/db TCP 1"]),
    ];
    for (expression, allowed, denied) in table {
        check(&of(expression), allowed, denied);
    }
    // Labels and expressions together; of the subject as well.
    let spec =
        "{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [front]}]}}";
    check(&policy(spec), &["b/web > a/db TCP 1"], &["b/web > a/web TCP 1"]);
}

#[test]
fn ip_blocks_go_by_addresses_whoever_has_them() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "{cidr: 203.0.113.0/24}",
            &["203.0.113.9 > a/web TCP 1", "203.0.113.9 > a/web ICMP"],
            &["198.51.100.1 > a/web TCP 1", "b/web > a/web TCP 1"],
        ),
        ("{cidr: 203.0.113.77/24}", &["203.0.113.9 > a/web TCP 1"], &[]),
        ("{cidr: 0.0.0.0/0}", &["203.0.113.9 > a/web TCP 1", "b/web > a/web TCP 1"], &["2001:db8::1 > a/web TCP 1"]),
        (
            "{cidr: 10.0.0.0/24, except: [10.0.0.20/32, 10.0.0.30/31]}",
            &["a/db > a/web TCP 1"],
            &["b/web > a/web TCP 1", "c/bare > a/web TCP 1", "10.0.0.31 > a/web TCP 1"],
        ),
        (
            "{cidr: \"2001:db8::/32\", except: [\"2001:db8:1::/48\"]}",
            &["2001:db8::1 > a/web TCP 1"],
            &["2001:db8:1::1 > a/web TCP 1", "b/web > a/web TCP 1"],
        ),
    ];
    for (block, allowed, denied) in table {
        check(&policy(&format!("{{ingress: [{{from: [{{ipBlock: {block}}}]}}]}}")), allowed, denied);
    }
}

#[test]
fn ports_by_number_by_range_and_by_name() {
    let of = |ports: &str| policy(&format!("{{ingress: [{{ports: [{ports}]}}]}}"));
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "{port: 80}",
            &["b/web > a/web TCP 80"],
            &["b/web > a/web TCP 81", "b/web > a/web UDP 80", "b/web > a/web ICMP"],
        ),
        ("{}", &["b/web > a/web TCP 1", "b/web > a/web TCP 65535"], &["b/web > a/web UDP 1", "b/web > a/web ICMP"]),
        ("{protocol: UDP}", &["b/web > a/web UDP 9"], &["b/web > a/web TCP 9"]),
        ("{protocol: SCTP, port: 9}", &["b/web > a/web SCTP 9"], &["b/web > a/web TCP 9"]),
        (
            "{port: 80, endPort: 90}, {port: 70, endPort: 70}",
            &["b/web > a/web TCP 80", "b/web > a/web TCP 90", "b/web > a/web TCP 70"],
            &["b/web > a/web TCP 91", "b/web > a/web TCP 79"],
        ),
        // A name is what the server's own pod calls so, with the protocol that is asked for.
        (
            "{port: http}",
            &["b/web > a/web TCP 8080", "b/web > a/db TCP 9090"],
            &["b/web > a/web TCP 9090", "b/web > a/db TCP 8080", "b/web > a/web UDP 8080"],
        ),
        ("{protocol: UDP, port: dns}", &["b/web > a/web UDP 53"], &["b/web > a/web TCP 53", "b/web > a/db UDP 53"]),
        ("{port: dns}", &[], &["b/web > a/web UDP 53", "b/web > a/web TCP 53"]),
        // Sidecars have ports, init containers that end do not.
        ("{port: metrics}, {port: 1}", &["b/web > a/db TCP 9100", "b/web > a/db TCP 1"], &["b/web > a/web TCP 9100"]),
        ("{port: once}", &[], &["b/web > a/db TCP 9200"]),
        ("{port: nowhere}", &[], &["b/web > a/db TCP 1"]),
    ];
    for (ports, allowed, denied) in table {
        check(&of(ports), allowed, denied);
    }
}

#[test]
fn names_of_ports_in_egress_are_the_servers() {
    let of = |rule: &str| {
        policy(&format!("{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{rule}]}}"))
    };
    let everyone = of("{ports: [{port: http}, {port: 5}]}");
    check(
        &everyone,
        &["a/web > a/db TCP 9090", "a/web > b/far TCP 7070", "a/web > c/bare TCP 5"],
        &["a/web > a/db TCP 7070", "a/web > b/far TCP 9090", "a/web > c/bare TCP 9090", "a/web > 192.0.2.2 TCP 6060"],
    );
    let near = of("{to: [{podSelector: {}}], ports: [{port: http}]}");
    check(&near, &["a/web > a/db TCP 9090"], &["a/web > b/far TCP 7070", "a/web > a/db TCP 5"]);
    // Names come and go with pods.
    let mut index = cluster();
    apply(&mut index, &everyone);
    index.settle();
    remove(&mut index, Kind::Pod, "b/far");
    index.settle();
    expect(&index, &["a/web > a/db TCP 9090"], &["a/web > b/far TCP 7070"]);
    let another = CLUSTER.replace("name: http, containerPort: 9090", "name: http, containerPort: 9191");
    apply(&mut index, &another);
    index.settle();
    expect(&index, &["a/web > a/db TCP 9191", "a/web > b/far TCP 7070"], &["a/web > a/db TCP 9090"]);
    remove(&mut index, Kind::NetworkPolicy, "a/p");
    index.settle();
    assert_eq!(index.policy_sizes(), [0, 0, 0], "nothing is left behind");
}

#[test]
fn policies_add_up() {
    let second = policy("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}]}]}")
        .replace("name: p,", "name: q,");
    let both = format!("{}---\n{second}", policy("{ingress: [{ports: [{port: 80}]}]}"));
    check(
        &both,
        &["b/web > a/web TCP 80", "a/db > a/web TCP 9", "b/web > a/db TCP 80"],
        &["b/web > a/web TCP 9", "a/web > a/db TCP 9"],
    );
}

#[test]
fn labels_of_pods_and_namespaces_count_as_they_are_now() {
    let mut index = cluster();
    apply(
        &mut index,
        &policy(
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: web}}}]}]}",
        ),
    );
    index.settle();
    expect(&index, &["b/web > a/web TCP 1"], &["c/bare > a/web TCP 1", "b/far > a/web TCP 1"]);
    apply(&mut index, "{apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {team: z}}}");
    let changes = index.settle();
    assert!(changes.keys().all(|key| matches!(key, v1::Key::Address(_))), "rules do not change: {changes:?}");
    expect(&index, &[], &["b/web > a/web TCP 1"]);
    apply(&mut index, "{apiVersion: v1, kind: Namespace, metadata: {name: c, labels: {team: y}}}");
    apply(
        &mut index,
        "{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: c, uid: c-bare, labels: {app: web}}, status: {podIPs: [{ip: 10.0.0.30}]}}",
    );
    index.settle();
    expect(&index, &["c/bare > a/web TCP 1"], &["b/web > a/web TCP 1"]);
    // A pod leaves the policy's subject with its label.
    let spec = policy("{podSelector: {matchLabels: {tier: front}}}");
    apply(&mut index, &spec);
    index.settle();
    expect(&index, &["b/web > a/db TCP 1"], &["b/web > a/web TCP 1"]);
    apply(&mut index, &CLUSTER.replace("tier: front", "tier: back"));
    index.settle();
    expect(&index, &["b/web > a/web TCP 1"], &[]);
}

#[test]
fn pods_with_equal_rules_share_and_numbers_stay() {
    let mut index = cluster();
    apply(&mut index, &policy("{ingress: [{ports: [{port: 80}]}]}"));
    index.settle();
    let sets = |index: &Index| {
        let told = Told(index);
        ["10.0.0.10", "10.0.0.11"].map(|address| told.policy(address.parse().unwrap()).unwrap().ingress.unwrap())
    };
    let [first, second] = sets(&index);
    assert_eq!((first, index.policy_sizes()), (second, [1, 2, 1]));
    // A changed rule is told alone.
    apply(&mut index, &policy("{ingress: [{ports: [{port: 81}]}]}"));
    let changes = index.settle();
    assert!(matches!(changes.keys().collect::<Vec<_>>()[..], [v1::Key::Rule(_)]), "{changes:?}");
    // One more rule changes the list in place.
    apply(&mut index, &policy("{ingress: [{ports: [{port: 81}]}, {ports: [{port: 82}]}]}"));
    let changes = index.settle();
    assert!(matches!(changes.keys().collect::<Vec<_>>()[..], [v1::Key::Rule(_), v1::Key::RuleSet(_)]), "{changes:?}");
    assert_eq!(sets(&index), [first, first]);
    // Where only one of them gets it, that one has another list.
    apply(&mut index, &policy("{podSelector: {matchLabels: {app: db}}}").replace("name: p,", "name: q,"));
    apply(
        &mut index,
        &policy("{podSelector: {matchLabels: {app: db}}, ingress: [{}]}").replace("name: p,", "name: r,"),
    );
    index.settle();
    assert_ne!(sets(&index)[0], sets(&index)[1]);
    expect(&index, &["b/web > a/db TCP 7"], &["b/web > a/web TCP 7"]);
}
