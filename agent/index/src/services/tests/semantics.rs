//! Types, endpoints, policies and hints, as kube-proxy has them.

use super::*;

fn two() -> String {
    slice("s", &[endpoint("10.0.0.2", "n0", ""), endpoint("10.0.1.2", "n1", "")].join(", "))
}

/// What `a/web` gets with `more` in its spec, one endpoint here and one on `n1`.
fn served(more: &str) -> Vec<String> {
    shown(&index(&(web(more) + &two())))
}

#[test]
fn types() {
    let both = "10.0.0.2+10.0.1.2/10.0.0.2+10.0.1.2";
    assert_eq!(served(""), [format!("ClusterIp 10.96.0.1 80 {both}")]);
    assert_eq!(served(", type: ExternalName, externalName: a.b"), [""; 0]);
    let port = |more: &str| format!(", ports: [{{name: http, port: 80{more}}}]");
    let service = |spec: &str| shown(&index(&(web("").replace(", ports: [{name: http, port: 80}]", spec) + &two())));
    // The first InternalIP as the Node lists them, and only in the families that the Service has.
    let node_port = service(&(port(", nodePort: 30080") + ", type: NodePort"));
    assert_eq!(node_port[1..], [format!("NodePort 192.0.2.20 30080 {both}")]);
    let balancer = |status: &str| {
        let more = ", type: LoadBalancer, loadBalancerSourceRanges: [\" 198.51.100.0/24\", \"fd00::/8\"]}, status: {";
        shown(&index(&(web(&(more.to_owned() + status)) + &two())))
    };
    let ingress = balancer(
        "loadBalancer: {ingress: [{ip: 203.0.113.1, ipMode: VIP}, {ip: 203.0.113.2}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: x}]}",
    );
    assert_eq!(
        ingress[1..],
        [
            format!("LoadBalancer 203.0.113.1 80 {both} 198.51.100.0/24"),
            format!("LoadBalancer 203.0.113.2 80 {both} 198.51.100.0/24")
        ],
        "no node port was asked for, and none is served"
    );
}

#[test]
fn source_ranges_are_per_family_and_a_zero_prefix_is_no_restriction() {
    let ranges = |ranges: &str| {
        let more = format!(
            ", loadBalancerSourceRanges: [{ranges}]}}, status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}]}}"
        );
        served(&more)[1].split_once(" 10.0").unwrap().1.split_once(' ').map(|(_, s)| s.to_owned())
    };
    assert_eq!(ranges(""), None);
    assert_eq!(ranges("\"fd00::/8\""), None, "kube-proxy: a family without a range is not restricted");
    assert_eq!(ranges("198.51.100.0/24, 0.0.0.0/0"), None);
    assert_eq!(ranges("198.51.100.7/32").as_deref(), Some("198.51.100.7/32"));
    // A node that may call and holds the address calls from it.
    assert_eq!(ranges("192.0.2.0/24").as_deref(), Some("192.0.2.0/24 203.0.113.1/32"));
}

#[test]
fn what_is_left_to_others_is_not_served() {
    for label in ["service.kubernetes.io/service-proxy-name: other", "service.kubernetes.io/headless: \"\""] {
        let text = web("").replace("name: web}", &format!("name: web, labels: {{{label}}}}}")) + &two();
        let index = index(&text);
        assert_eq!(told(&index, "a/web"), None, "{label}");
        assert!(reasons(&index).is_empty(), "its slices are not lost: {:?}", reasons(&index));
        assert!(index.services()[0].skipped.is_some());
        // The label on a slice alone.
        let slice = two().replace("labels: {", &format!("labels: {{{label}, "));
        assert_eq!(shown(&super::index(&(web("") + &slice))), ["ClusterIp 10.96.0.1 80 Reject/Reject"]);
    }
    let headless = web("").replace("clusterIPs: [10.96.0.1]", "clusterIP: \"None\", clusterIPs: [\"None\"]");
    assert_eq!(told(&index(&headless), "a/web"), None);
    let unallocated = web("").replace("clusterIPs: [10.96.0.1], ", "");
    assert_eq!(told(&index(&unallocated), "a/web"), None);
}

#[test]
fn external_addresses_only_where_enabled() {
    let text = web(", externalIPs: [198.51.100.1, \"fd09::1\"], externalTrafficPolicy: Local") + &two();
    let off = index(&text);
    assert_eq!(shown(&off).len(), 1);
    assert!(reasons(&off)[0].contains("--external-ips"), "{:?}", reasons(&off));
    let on = index_with(Settings { external_ips: true, ..settings() }, &text);
    assert_eq!(shown(&on)[1..], ["ExternalIp 198.51.100.1 80 10.0.0.2+10.0.1.2/10.0.0.2"]);
    assert_eq!(on.node_traffic().unwrap().outer.len(), 1);
}

#[test]
fn node_ports_where_the_settings_say() {
    let text = web(", type: NodePort").replace("port: 80", "port: 80, nodePort: 30080") + &two();
    let at = |nets: &str| {
        let settings = Settings { node_port_addresses: nets.parse().unwrap(), ..settings() };
        let index = index_with(settings, &text);
        shown(&index)[1..].iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(at("primary"), ["192.0.2.20"]);
    assert_eq!(at("192.0.2.0/28"), ["192.0.2.10"]);
    assert_eq!(at("0.0.0.0/0"), ["192.0.2.10", "192.0.2.20"]);
    assert_eq!(at("127.0.0.0/8"), [""; 0]);
}

#[test]
fn two_families_are_two_ports() {
    let text = web("").replace("[10.96.0.1]", "[\"fd00:96::1\", 10.96.0.1]")
        + &two()
        + &slice("six", &endpoint("fd00:0:0:1::2", "n0", "")).replace("IPv4", "IPv6");
    let index = index(&text);
    let ports: Vec<_> = told(&index, "a/web").unwrap().ports.iter().map(|p| p.sets[0].len()).collect();
    assert_eq!(ports, [2, 1]);
}

#[test]
fn endpoints_of_several_slices_by_port_name_and_protocol() {
    let named = |name: &str, port: &str, endpoints: &str| {
        slice(name, endpoints).replace("{name: http, protocol: TCP, port: 8080}", port)
    };
    let here = |address: &str| endpoint(address, "n0", "");
    let text = web("")
        + &slice("one", &[here("10.0.0.2"), here("10.0.0.3")].join(", "))
        + &slice("twice", &here("10.0.0.3"))
        + &named("other", "{name: http, port: 9090}", &here("10.0.0.4"))
        + &named("udp", "{name: http, protocol: UDP, port: 9090}", &here("10.0.0.5"))
        + &named("name", "{name: metrics, port: 9090}", &here("10.0.0.6"))
        + &named("none", "{port: 9090}", &here("10.0.0.7"))
        + &named("all", "{name: http}", &here("10.0.0.8"))
        + &slice("second", "{addresses: [10.0.0.9, 10.0.0.10]}");
    let index = index(&text);
    let places: Vec<_> = told(&index, "a/web").unwrap().ports[0].sets[0].iter().map(|b| (b.address, b.port)).collect();
    let expected = [("10.0.0.2", 8080), ("10.0.0.3", 8080), ("10.0.0.4", 9090), ("10.0.0.9", 8080)];
    assert_eq!(places, expected.map(|(a, p)| (a.parse().unwrap(), p)));
    let unused: Vec<_> = index.services()[0].ports[0].endpoints.iter().filter(|e| e.port.is_none()).cloned().collect();
    assert_eq!(unused.len(), 4);
    assert!(unused[0].unused.as_ref().unwrap().contains("no port \"http\" TCP"));
}

const READY: &str = ", conditions: {ready: true}";
const UNREADY: &str = ", conditions: {ready: false, serving: false}";
const DRAINING: &str = ", conditions: {ready: false, serving: true, terminating: true}";
const GONE: &str = ", conditions: {ready: false, serving: false, terminating: true}";

/// One endpoint here and one on `n1` with these conditions; an empty one is not there.
fn pair(spec: &str, here: &str, there: &str) -> String {
    let mut endpoints = Vec::new();
    if !here.is_empty() {
        endpoints.push(endpoint("10.0.0.2", "n0", here));
    }
    if !there.is_empty() {
        endpoints.push(endpoint("10.0.1.2", "n1", there));
    }
    let text = web(&format!(", type: NodePort{spec}")).replace("port: 80", "port: 80, nodePort: 30080");
    let index = index(&(text + &slice("s", &endpoints.join(", "))));
    let gets =
        |line: &String| line.rsplit(' ').next().unwrap().replace("10.0.0.2", "here").replace("10.0.1.2", "there");
    shown(&index).iter().map(gets).collect::<Vec<_>>().join(" ")
}

/// Columns: spec, the endpoint here, the endpoint there, what the ClusterIP gets, what the node port gets from
/// inside/outside.
#[test]
fn policies_and_conditions() {
    const LOCAL_OUT: &str = ", externalTrafficPolicy: Local";
    const LOCAL_IN: &str = ", internalTrafficPolicy: Local";
    let table = [
        ("", "", "", "Reject/Reject", "Reject/Reject"),
        ("", UNREADY, GONE, "Reject/Reject", "Reject/Reject"),
        ("", READY, READY, "here+there/here+there", "here+there/here+there"),
        ("", READY, UNREADY, "here/here", "here/here"),
        ("", READY, DRAINING, "here/here", "here/here"),
        ("", DRAINING, DRAINING, "here+there/here+there", "here+there/here+there"),
        ("", DRAINING, GONE, "here/here", "here/here"),
        (LOCAL_OUT, READY, READY, "here+there/here+there", "here+there/here"),
        (LOCAL_OUT, "", READY, "there/there", "there/Drop"),
        (LOCAL_OUT, UNREADY, READY, "there/there", "there/Drop"),
        (LOCAL_OUT, DRAINING, READY, "there/there", "there/here"),
        (LOCAL_OUT, DRAINING, GONE, "here/here", "here/here"),
        (LOCAL_OUT, UNREADY, UNREADY, "Reject/Reject", "Reject/Reject"),
        (LOCAL_IN, READY, READY, "here/here", "here+there/here+there"),
        (LOCAL_IN, "", READY, "Drop/Drop", "there/there"),
        (LOCAL_IN, "", DRAINING, "Drop/Drop", "there/there"),
        (LOCAL_IN, DRAINING, READY, "here/here", "there/there"),
        (LOCAL_IN, "", UNREADY, "Reject/Reject", "Reject/Reject"),
    ];
    for (spec, here, there, cluster_ip, node_port) in table {
        let expected = format!("{cluster_ip} {node_port}");
        assert_eq!(pair(spec, here, there), expected, "{spec} here{here} there{there}");
    }
}

#[test]
fn conditions_that_are_not_stated() {
    let text = web("")
        + &slice(
            "s",
            "{addresses: [10.0.0.2]}, {addresses: [10.0.0.3], conditions: {ready: false, terminating: true}}",
        );
    assert_eq!(shown(&index(&text)), ["ClusterIp 10.96.0.1 80 10.0.0.2/10.0.0.2"]);
    let terminating = web("") + &slice("s", "{addresses: [10.0.0.3], conditions: {ready: false, terminating: true}}");
    assert_eq!(shown(&index(&terminating)), ["ClusterIp 10.96.0.1 80 10.0.0.3/10.0.0.3"], "serving where not stated");
}

#[test]
fn hints() {
    let hint = |zones: &str, nodes: &str| {
        let named =
            |names: &str| names.split_whitespace().map(|n| format!("{{name: {n}}}")).collect::<Vec<_>>().join(", ");
        format!(", hints: {{forZones: [{}], forNodes: [{}]}}", named(zones), named(nodes))
    };
    let table = [
        (hint("a", ""), hint("b", ""), "here"),
        (hint("b", ""), hint("a b", ""), "there"),
        (hint("b", ""), hint("b", ""), "here+there"),
        (hint("a", ""), hint("", ""), "here+there"),
        (hint("b", "n0"), hint("a", "n1"), "here"),
        (hint("b", "n1"), hint("a", "n1"), "there"),
        (hint("a", "n0"), hint("b", ""), "here"),
        (hint("", "n1"), hint("", "n1"), "here+there"),
    ];
    for (here, there, expected) in table {
        let gets = pair("", &here, &there);
        assert_eq!(gets.split('/').next().unwrap(), expected, "here{here} there{there}");
    }
    // Hints of the Cluster policy only.
    let gets = pair(", internalTrafficPolicy: Local", &hint("b", ""), &hint("a", ""));
    assert_eq!(gets, "here/here there/there");
    let index = index(
        &(web("")
            + &slice(
                "s",
                &[endpoint("10.0.0.2", "n0", &hint("a", "")), endpoint("10.0.1.2", "n1", &hint("b c", ""))].join(", "),
            )),
    );
    let endpoints = &index.services()[0].ports[0].endpoints;
    assert_eq!(endpoints[0].unused, None);
    assert_eq!(endpoints[1].unused.as_deref(), Some("hinted for other zones: b, c"));
}

#[test]
fn reasons_of_endpoints_that_are_not_used() {
    let unused = |here: &str, there: &str| {
        let text =
            web("") + &slice("s", &[endpoint("10.0.0.2", "n0", here), endpoint("10.0.1.2", "n1", there)].join(", "));
        index(&text).services()[0].ports[0].endpoints[1].unused.clone().unwrap_or_default()
    };
    assert_eq!(unused(READY, READY), "");
    assert_eq!(unused(READY, UNREADY), "not ready");
    assert_eq!(unused(READY, GONE), "terminating, and not serving any more");
    assert_eq!(unused(READY, DRAINING), "terminating, and others are ready");
    let local = web(", internalTrafficPolicy: Local") + &two();
    assert_eq!(
        index(&local).services()[0].ports[0].endpoints[1].unused.as_deref(),
        Some("on another node, and the policy is Local")
    );
}

#[test]
fn affinity_and_health_checks() {
    let affinity = |more: &str| told(&index(&web(more)), "a/web").unwrap().ports[0].affinity_seconds;
    assert_eq!(affinity(""), None);
    assert_eq!(affinity(", sessionAffinity: None"), None);
    assert_eq!(affinity(", sessionAffinity: ClientIP"), Some(10_800));
    let seconds = ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}";
    assert_eq!(affinity(seconds), Some(7));
    let health = |spec: &str, here: &str| {
        let text = web(&format!(", healthCheckNodePort: 31000{spec}"));
        let endpoints =
            [endpoint("10.0.0.2", "n0", here), endpoint("10.0.0.3", "n0", here), endpoint("10.0.1.2", "n1", "")];
        let index = index(&(text + &slice("s", &endpoints.join(", ")) + &slice("t", &endpoints[0])));
        index.health_checks().map(|check| (check.port, check.v4, check.v6)).next()
    };
    let balancer = ", type: LoadBalancer, externalTrafficPolicy: Local";
    assert_eq!(health(balancer, READY), Some((31_000, Some(2), None)));
    assert_eq!(health(balancer, DRAINING), Some((31_000, Some(0), None)), "what drains takes no new clients");
    assert_eq!(health(", type: LoadBalancer", READY), None);
    assert_eq!(health(", type: NodePort, externalTrafficPolicy: Local", READY), None);
}
