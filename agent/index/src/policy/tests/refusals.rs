//! Bad policies are refused whole by the field, and what they would have isolated stays isolated.

use super::*;

const BAD: &[(&str, &str)] = &[
    (
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
        "spec.ingress[0].from[0].ipBlock.cidr: \"10.0.0.0/33\" is no range",
    ),
    ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}", "ipBlock.cidr"),
    ("{ingress: [{from: [{ipBlock: {}}]}]}", "ipBlock.cidr"),
    ("{ingress: [{from: [{ipBlock: {cidr: \"::ffff:10.0.0.0/104\"}}]}]}", "written as IPv6"),
    (
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.1.0/28]}}]}]}",
        "ipBlock.except[0]: 10.0.1.0/28 is no part of 10.0.0.0/24",
    ),
    ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.0/24]}}]}]}", "is no part of"),
    ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24, except: [\"fd00::/64\"]}}]}]}", "is no part of"),
    ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24}, podSelector: {}}]}]}", "cannot stand beside selectors"),
    ("{ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]: a peer needs"),
    ("{ingress: [{from: [{podSelector: null}]}]}", "a peer needs"),
    (
        "{ingress: [{from: [{namespaceSelectr: {}, podSelector: {}}]}]}",
        "spec.ingress[0].from[0].namespaceSelectr: this field is not known",
    ),
    ("{ingress: [{to: [{podSelector: {}}]}]}", "spec.ingress[0].to: this field is not known"),
    ("{ingress: {}}", "spec.ingress: an object where a list is expected"),
    ("{ingress: [{ports: [{port: 0}]}]}", "spec.ingress[0].ports[0].port: 0 is no port"),
    ("{ingress: [{ports: [{port: 65536}]}]}", "65536 is no port"),
    ("{ingress: [{ports: [{port: -1}]}]}", "-1 is no port"),
    ("{ingress: [{ports: [{port: 80, endPort: 79}]}]}", "ports[0].endPort: 79 is below port 80"),
    ("{ingress: [{ports: [{port: 80, endPort: 65536}]}]}", "endPort: 65536"),
    ("{ingress: [{ports: [{endPort: 80}]}]}", "needs a port to begin with"),
    ("{ingress: [{ports: [{port: http, endPort: 80}]}]}", "a port with a name has no endPort"),
    ("{ingress: [{ports: [{port: \"80\"}]}]}", "\"80\" is no name of a port"),
    ("{ingress: [{ports: [{port: Http}]}]}", "no name of a port"),
    ("{ingress: [{ports: [{protocol: tcp}]}]}", "\"tcp\" is none of TCP, UDP, SCTP"),
    ("{ingress: [{ports: [{port: 1.5}]}]}", "whole number"),
    (
        "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}]}]}",
        "matchExpressions[0].operator: \"Is\" is none of In",
    ),
    (
        "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}]}",
        "values: In needs at least one value",
    ),
    (
        "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}]}]}",
        "NotIn needs",
    ),
    (
        "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}]}",
        "Exists takes no values",
    ),
    (
        "{ingress: [{from: [{podSelector: {matchExpressions: [{operator: Exists}]}}]}]}",
        "key: \"\" is no key of a label",
    ),
    ("{ingress: [{from: [{podSelector: {matchLabels: {\"-a\": b}}}]}]}", "\"-a\" is no key of a label"),
    ("{ingress: [{from: [{podSelector: {matchLabels: {\"A/b\": c}}}]}]}", "is no key of a label"),
    ("{ingress: [{from: [{podSelector: {matchLabels: {a: \"b c\"}}}]}]}", "\"b c\" is no value of a label"),
    ("{ingress: [{from: [{podSelector: {matchLabels: {a: 1}}}]}]}", "the number 1 where a text is expected"),
    ("{ingress: [{}], egres: []}", "spec.egres: this field is not known"),
    ("{policyTypes: [ingress]}", "spec.policyTypes[0]: \"ingress\" is none of Ingress, Egress"),
];

#[test]
fn each_mistake_is_refused_by_its_field_and_isolates() {
    for (spec, reason) in BAD {
        let mut index = cluster();
        let refused = apply(&mut index, &policy(spec));
        assert!(refused.len() == 1 && refused[0].contains(reason), "{spec}: {refused:?}");
        index.settle();
        expect(&index, &["c/bare > b/web TCP 80"], &["b/web > a/web TCP 80", "a/web > a/db TCP 80"]);
        let said: Vec<_> = index.refused().map(|(key, _)| key.to_string()).collect();
        assert_eq!(said, ["NetworkPolicy a/p"]);
        let report = &index.policies()[0];
        assert!(
            report.refused[0].contains(reason) && report.instead.as_ref().unwrap().contains("isolated"),
            "{report:?}"
        );
        // Put right, it is in force.
        assert_eq!(apply(&mut index, &policy("{ingress: [{}]}")), [""; 0]);
        index.settle();
        expect(&index, &["b/web > a/web TCP 80"], &[]);
        assert_eq!((index.refused().count(), index.policies()[0].instead.clone()), (0, None));
        remove(&mut index, Kind::NetworkPolicy, "a/p");
        index.settle();
        assert_eq!(index.policy_sizes(), [0, 0, 0]);
    }
}

#[test]
fn what_can_be_read_of_a_bad_policy_says_what_it_isolates() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "{podSelector: {matchLabels: {app: db}}, ingress: 7}",
            &["b/web > a/web TCP 1", "a/db > b/web TCP 1"],
            &["b/web > a/db TCP 1"],
        ),
        (
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: 7}",
            &["b/web > a/db TCP 1"],
            &["a/db > b/web TCP 1"],
        ),
        (
            "{podSelector: {matchLabels: {app: db}}, egress: [7]}",
            &["b/web > a/web TCP 1"],
            &["a/db > b/web TCP 1", "b/web > a/db TCP 1"],
        ),
        (
            "{podSelector: {matchLabels: {app: db}}, policyTypes: [Up]}",
            &["b/web > a/web TCP 1"],
            &["a/db > b/web TCP 1", "b/web > a/db TCP 1"],
        ),
        // Where not even the selector can be read: the whole namespace, both ways.
        (
            "{podSelector: {matchLabel: {app: db}}, policyTypes: [Ingress]}",
            &["b/web > c/bare TCP 1"],
            &["b/web > a/web TCP 1", "a/db > b/web TCP 1"],
        ),
        ("7", &["b/web > c/bare TCP 1"], &["b/web > a/web TCP 1", "a/web > 203.0.113.9 ICMP"]),
    ];
    for (spec, allowed, denied) in table {
        let mut index = cluster();
        assert_eq!(apply(&mut index, &policy(spec)).len(), 1);
        index.settle();
        expect(&index, allowed, denied);
    }
}

#[test]
fn what_a_policy_said_before_stays_in_force() {
    let mut index = cluster();
    apply(&mut index, &policy("{ingress: [{ports: [{port: 80}]}]}"));
    index.settle();
    for (spec, _) in BAD {
        assert!(apply(&mut index, &policy(spec))[0].ends_with("what it said before stays in force"));
        assert_eq!(index.settle(), Default::default());
    }
    expect(&index, &["b/web > a/web TCP 80"], &["b/web > a/web TCP 81"]);
}

/// What stands where in a policy that was good, the reason, flows that pass then and flows that do not.
type Mistake = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

#[test]
fn bad_cluster_network_policies_deny_what_they_would_have_denied() {
    let rules = "ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}, {action: Deny, from: [{namespaces: {matchLabels: {team: y}}}]}]";
    let subject = "subject: {namespaces: {matchLabels: {team: x}}}";
    let good = format!("{{tier: Admin, priority: 0, {subject}, {rules}}}");
    let table: &[Mistake] = &[
        (
            "priority: 0",
            "priority: 1001",
            "spec.priority: 1001 is out of 0 to 1000",
            &["c/bare > a/web TCP 1"],
            &["b/web > a/web TCP 1"],
        ),
        ("priority: 0", "priority: -1", "out of", &[], &["b/web > a/web TCP 1"]),
        ("priority: 0, ", "", "is missing", &[], &["b/web > a/web TCP 1"]),
        ("tier: Admin", "tier: NetworkPolicy", "spec.tier", &["c/bare > a/web TCP 1"], &["b/web > a/web TCP 1"]),
        ("number: 1", "number: 0", "0 is no port", &["c/bare > a/web TCP 1"], &["b/web > a/web TCP 1"]),
        (
            "number: 1",
            "number: 1, range: {start: 1, end: 2}",
            "exactly one of number and range",
            &[],
            &["b/web > a/web TCP 1"],
        ),
        ("number: 1", "range: {start: 2, end: 2}", "start 2 is not below end 2", &[], &["b/web > a/web TCP 1"]),
        (
            "action: Accept",
            "action: Allow",
            "spec.ingress[0].action: \"Allow\"",
            &["a/web > b/web TCP 1"],
            &["c/bare > a/web TCP 1"],
        ),
        (
            "matchLabels: {team: y}",
            "matchLabels: {team: [y]}",
            "a list where a text",
            &["a/web > b/web TCP 1"],
            &["c/bare > a/web TCP 1"],
        ),
        (
            "namespaces: {matchLabels: {team: x}}",
            "namespaces: {sameLabels: [x]}",
            "sameLabels: this field is not known",
            &["c/bare > a/web TCP 1"],
            &["b/web > a/web TCP 1", "b/far > c/bare TCP 1"],
        ),
        (
            "namespaces: {matchLabels: {team: x}}",
            "namespaces: {}, pods: {podSelector: {}}",
            "spec.subject: exactly one",
            &[],
            &["b/far > c/bare TCP 1"],
        ),
        (
            "from: [{namespaces: {}}]",
            "from: []",
            "at least one item",
            &["c/bare > a/web TCP 1"],
            &["b/web > a/web TCP 1"],
        ),
        (
            "from: [{namespaces: {}}]",
            "from: [{namespaces: {}, pods: {podSelector: {}}}]",
            "exactly one field of a peer",
            &[],
            &["b/web > a/web TCP 1"],
        ),
    ];
    for (from, to, reason, allowed, denied) in table {
        assert!(good.contains(from));
        let bad = admin("p", &good.replace(from, to));
        let mut index = cluster();
        let refused = apply(&mut index, &bad);
        assert!(refused.len() == 1 && refused[0].contains(reason), "{to}: {refused:?}");
        index.settle();
        expect(&index, allowed, denied);
        // After a good word, that one stays.
        let mut index = cluster();
        apply(&mut index, &admin("p", &good));
        index.settle();
        assert_eq!(apply(&mut index, &bad).len(), 1);
        assert_eq!(index.settle(), Default::default());
        expect(&index, &["b/web > a/web TCP 1", "c/bare > a/web TCP 2"], &["b/web > a/web TCP 2"]);
    }
    let egress = "{tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{destinationNamedPort: http}]}]}";
    assert!(apply(&mut cluster(), &admin("p", egress))[0].contains("networks and nodes have no named ports"));
}
