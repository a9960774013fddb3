//! ClusterNetworkPolicy, line by line of its API text.

use super::*;

/// Of the Admin tier, for pods of namespace a.
fn one(rules: &str) -> String {
    admin(
        "p",
        &format!("{{tier: Admin, priority: 10, subject: {{namespaces: {{matchLabels: {{team: x}}}}}}, {rules}}}"),
    )
}

#[test]
fn subjects_and_no_isolation_of_its_own() {
    let deny = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: y}}}]}]";
    check(
        &one(deny),
        &["c/bare > a/web TCP 1", "203.0.113.9 > a/web TCP 1", "a/web > b/web TCP 1"],
        &["b/web > a/web TCP 1", "b/far > a/db ICMP"],
    );
    let table: &[(&str, &[&str], &[&str])] = &[
        ("{namespaces: {}}", &[], &["b/web > a/web TCP 1", "b/web > c/bare TCP 1", "b/far > b/web TCP 1"]),
        (
            "{pods: {namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: db}}}}",
            &["b/web > a/web TCP 1"],
            &["b/web > a/db TCP 1"],
        ),
        (
            "{pods: {podSelector: {matchLabels: {app: web}}}}",
            &["b/web > a/db TCP 1"],
            &["b/far > b/web TCP 1", "b/web > a/web TCP 1"],
        ),
    ];
    for (subject, allowed, denied) in table {
        check(&admin("p", &format!("{{tier: Baseline, priority: 0, subject: {subject}, {deny}}}")), allowed, denied);
    }
    check(&one("ingress: []"), &["b/web > a/web TCP 1"], &[]);
}

#[test]
fn peers_of_every_kind() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "egress: [{action: Deny, to: [{pods: {namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: far}}}}]}]",
            &["a/web > b/web TCP 1"],
            &["a/web > b/far TCP 1"],
        ),
        // Networks match everything in them, pods and ICMP included.
        (
            "egress: [{action: Deny, to: [{networks: [10.0.1.0/24, \"2001:db8::/32\"]}]}]",
            &["a/web > b/web ICMP"],
            &["a/web > b/far ICMP", "a/web > 2001:db8::1 UDP 1"],
        ),
        // Nodes go by all addresses of their status; the host network's pods are no pods here.
        (
            "egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: two}}}]}]",
            &["a/web > 192.0.2.1 TCP 1", "a/web > b/far TCP 1"],
            &["a/web > 192.0.2.2 TCP 1", "a/web > 203.0.113.2 TCP 1"],
        ),
        ("egress: [{action: Deny, to: [{nodes: {}}]}]", &["a/web > 203.0.113.9 TCP 1"], &["a/web > 192.0.2.1 TCP 1"]),
        (
            "egress: [{action: Deny, to: [{namespaces: {}}]}]",
            &["a/web > 192.0.2.2 TCP 1", "a/web > 203.0.113.9 TCP 1"],
            &["a/web > c/bare TCP 1"],
        ),
        // An address of a pods' range that nobody is known to have: a selector that denies matches it.
        (
            "egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: none}}}]}]",
            &["a/web > b/far TCP 1", "a/web > 203.0.113.9 TCP 1"],
            &["a/web > 10.0.1.99 TCP 1"],
        ),
        (
            "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: y}}}, {namespaces: {matchLabels: {kubernetes.io/metadata.name: c}}}]}]",
            &["a/db > a/web TCP 1"],
            &["b/web > a/web TCP 1", "c/bare > a/web TCP 1"],
        ),
    ];
    for (rules, allowed, denied) in table {
        check(&one(rules), allowed, denied);
    }
}

#[test]
fn protocols_and_their_ports() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "[{tcp: {destinationPort: {number: 80}}}]",
            &["b/web > a/web TCP 81", "b/web > a/web UDP 80", "b/web > a/web ICMP"],
            &["b/web > a/web TCP 80"],
        ),
        (
            "[{udp: {destinationPort: {range: {start: 5, end: 7}}}}, {sctp: {}}]",
            &["b/web > a/web UDP 8", "b/web > a/web TCP 5"],
            &["b/web > a/web UDP 7", "b/web > a/web SCTP 9"],
        ),
        (
            "[{destinationNamedPort: http}]",
            &["b/web > a/web TCP 9090"],
            &["b/web > a/web TCP 8080", "b/web > a/db TCP 9090"],
        ),
        // Whatever protocol the port of that name has.
        ("[{destinationNamedPort: dns}]", &["b/web > a/web TCP 53"], &["b/web > a/web UDP 53"]),
        ("null", &[], &["b/web > a/web ICMP"]),
    ];
    for (protocols, allowed, denied) in table {
        check(
            &one(&format!("ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: {protocols}}}]")),
            allowed,
            denied,
        );
    }
    let egress = one("egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]");
    check(&egress, &["a/web > a/db TCP 7070"], &["a/web > a/db TCP 9090", "a/web > b/far TCP 7070"]);
}

#[test]
fn tiers_priorities_order_and_pass() {
    let rule = |action: &str, port: u16| {
        format!(
            "{{action: {action}, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{number: {port}}}}}}}]}}"
        )
    };
    let cnp = |name: &str, tier: &str, priority: u16, rules: &[String]| {
        admin(
            name,
            &format!(
                "{{tier: {tier}, priority: {priority}, subject: {{namespaces: {{matchLabels: {{team: x}}}}}}, ingress: [{}]}}",
                rules.join(", ")
            ),
        )
    };
    // Within a policy the first rule counts, within a tier the lower priority, then the first name.
    check(&cnp("p", "Admin", 5, &[rule("Accept", 1), rule("Deny", 1)]), &["b/web > a/web TCP 1"], &[]);
    let later = cnp("a", "Admin", 6, &[rule("Accept", 1), rule("Deny", 2)]);
    check(
        &format!("{}{later}", cnp("z", "Admin", 5, &[rule("Deny", 1)])),
        &["b/web > a/web TCP 3"],
        &["b/web > a/web TCP 1", "b/web > a/web TCP 2"],
    );
    let equal = format!("{}{}", cnp("z", "Admin", 5, &[rule("Accept", 1)]), cnp("y", "Admin", 5, &[rule("Deny", 1)]));
    check(&equal, &[], &["b/web > a/web TCP 1"]);
    // Admin overrules NetworkPolicy, and that Baseline; Pass goes on with the next tier.
    let tiers = format!(
        "{}{}{}",
        cnp(
            "adm",
            "Admin",
            0,
            &[rule("Accept", 1), rule("Deny", 2), rule("Pass", 3), rule("Deny", 3), rule("Pass", 4)]
        ),
        cnp("base", "Baseline", 0, &[rule("Pass", 5), rule("Deny", 5), rule("Deny", 4), rule("Deny", 6)]),
        format_args!(
            "---\n{}",
            policy("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 2}, {port: 3}, {port: 6}]}]}")
        ),
    );
    check(
        &tiers,
        &[
            "b/web > a/web TCP 1",
            "b/web > a/web TCP 3",
            "b/web > a/web TCP 6",
            "b/web > a/db TCP 3",
            "b/web > a/db TCP 5",
            "b/web > a/db TCP 7",
        ],
        &[
            "b/web > a/web TCP 2",
            "b/web > a/web TCP 4",
            "b/web > a/web TCP 5",
            "b/web > a/web TCP 7",
            "b/web > a/db TCP 2",
            "b/web > a/db TCP 4",
            "b/web > a/db TCP 6",
        ],
    );
}

#[test]
fn what_is_not_supported_is_closed_rule_by_rule_and_reported() {
    let all = "{action: Deny, to: [{networks: [0.0.0.0/0]}]}";
    let table: &[(&str, &str, &[&str], &[&str])] = &[
        (
            "egress: [{action: Accept, to: [{domainNames: [example.org]}]}, DENY]",
            "spec.egress[0].to[0].domainNames: not supported; the rule is ignored",
            &[],
            &["a/web > b/web TCP 1"],
        ),
        (
            "egress: [{action: Accept, to: [{networks: [10.0.0.0/24]}, {domainNames: [example.org]}]}, DENY]",
            "the rule is ignored",
            &[],
            &["a/web > b/web TCP 1"],
        ),
        (
            "egress: [{action: Deny, to: [{domainNames: [example.org]}]}]",
            "the rule denies everything instead",
            &["b/web > a/web TCP 1"],
            &["a/web > b/web TCP 1"],
        ),
        (
            "ingress: [{action: Pass, from: [{moons: {}}]}]",
            "spec.ingress[0].from[0].moons",
            &["a/web > b/web TCP 1"],
            &["b/web > a/web TCP 1"],
        ),
        (
            "ingress: [{action: Deny, from: [{}]}]",
            "spec.ingress[0].from[0]: not supported",
            &[],
            &["b/web > a/web TCP 1"],
        ),
        (
            "ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {flags: syn}}]}, {action: Deny, from: [{namespaces: {}}]}]",
            "protocols[0]: not supported",
            &[],
            &["b/web > a/web TCP 1"],
        ),
        (
            "ingress: [{action: Accept, from: [{namespaces: {}}], when: night}]",
            "spec.ingress[0].when",
            &["b/web > a/web TCP 1"],
            &[],
        ),
    ];
    for (rules, reason, allowed, denied) in table {
        let mut index = cluster();
        assert_eq!(apply(&mut index, &one(&rules.replace("DENY", all))), [""; 0]);
        index.settle();
        let said: Vec<_> = index.refused().map(|(key, reason)| format!("{key}: {reason}")).collect();
        assert!(
            said.len() == 1 && said[0].starts_with("ClusterNetworkPolicy p: ") && said[0].contains(reason),
            "{said:?}"
        );
        assert_eq!(index.policies()[0].instead, None);
        expect(&index, allowed, denied);
    }
}
