//! Objects that contradict themselves or one another: one by one refused by name, the rest works.

use super::*;

/// A Service by name and age, with `spec` as its whole.
fn service(name: &str, created: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{namespace: a, name: {name}, creationTimestamp: \"{created}\"}}, \
         spec: {{{spec}}}}}\n"
    )
}

fn refused(text: &str) -> String {
    let index = index(text);
    let reasons = reasons(&index);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons[0].clone()
}

#[test]
fn by_themselves() {
    let with = |spec: &str| refused(&service("bad", "2026-01-01T00:00:00Z", spec));
    let ip = "clusterIPs: [10.96.0.9], ";
    for (spec, reason) in [
        ("ports: [{name: \"a b\", port: 1}]", "no name"),
        ("ports: [{port: 0}]", "0 is no port"),
        ("ports: [{port: 65536}]", "65536 is no port"),
        ("ports: [{port: 80, nodePort: 65536}]", "65536 is no port"),
        ("ports: [{port: 80, protocol: ICMP}]", "\"ICMP\" is no protocol"),
        ("ports: [{port: 80}, {port: 81}]", "two are named"),
        ("ports: [{port: 80}, {name: b, port: 80}]", "stands there twice"),
        ("ports: [{port: 80, nodePort: 30001}, {name: b, port: 81, nodePort: 30001}]", "two have node port"),
        ("ports: [{port: 80, nodePort: 8080}]", "outside of 30000 to 32767"),
        ("sessionAffinity: Cookie, ports: []", "None or ClientIP"),
        ("internalTrafficPolicy: Here, ports: []", "Cluster or Local"),
        ("loadBalancerSourceRanges: [here], ports: []", "no range"),
        ("healthCheckNodePort: 70000, ports: []", "70000 is no port"),
    ] {
        let said = with(&format!("{ip}{spec}"));
        assert!(said.starts_with("Service a/bad: ") && said.contains(reason), "{said}");
    }
    assert!(with("clusterIPs: [10.96.0.9, 10.96.0.10], ports: []").contains("same family"));
    assert!(with("clusterIPs: [10.96.0.300], ports: []").contains("no IP address"));
    assert!(with("clusterIPs: [224.0.0.1], ports: []").contains("no address of a host"));
    assert!(with("clusterIPs: [10.97.0.1], ports: [{port: 80}]").contains("outside of all ServiceCIDRs"));
    assert!(with("clusterIPs: [192.0.2.11], ports: [{port: 80}]").contains("an address of node n1"));
    assert!(with("clusterIPs: [10.0.1.7], ports: [{port: 80}]").contains("the pods' range of node n1"));
}

#[test]
fn a_bad_word_leaves_the_one_before_in_force() {
    let mut index = index(&web(""));
    let good = told(&index, "a/web").cloned();
    feed(&mut index, &web("").replace("port: 80", "port: 65536"));
    assert_eq!(told(&index, "a/web").cloned(), good);
    assert!(reasons(&index)[0].contains("65536"));
    feed(&mut index, &web(""));
    assert!(reasons(&index).is_empty());
}

#[test]
fn the_older_service_keeps_what_two_claim() {
    let spec = "clusterIPs: [10.96.0.9], ports: [{port: 80, nodePort: 30001}]";
    let other = "clusterIPs: [10.96.0.8], ports: [{port: 81, nodePort: 30001}]";
    // By age, not by name; by name, where the age is the same.
    for (old, new, ages) in [("z", "b", ["2026-01-01", "2026-02-01"]), ("b", "z", ["2026-01-01", "2026-01-01"])] {
        let [early, late] = ages.map(|day| format!("{day}T00:00:00Z"));
        let text = service(new, &late, &spec.replace("30001", "30002")) + &service(old, &early, spec);
        let said = refused(&text);
        assert_eq!(
            said,
            format!("Service a/{new}: ClusterIP 10.96.0.9 is also that of Service a/{old}, which is older")
        );
        let mut index = index(&text);
        assert_eq!(told(&index, &format!("a/{new}")).unwrap().ports[0].frontends.len(), 1, "its node port works");
        index.delete(&ObjectKey { kind: crate::Kind::Service, namespace: "a".into(), name: old.into() });
        index.settle();
        assert_eq!(told(&index, &format!("a/{new}")).unwrap().ports[0].frontends.len(), 2, "it inherits the address");
        assert!(reasons(&index).is_empty());
        let said = refused(&(service(new, &late, other) + &service(old, &early, spec)));
        assert!(said.contains(&format!("node port 30001 TCP is also that of Service a/{old}")), "{said}");
    }
}

#[test]
fn addresses_of_load_balancers_may_be_shared_by_port_and_hijack_nothing() {
    let vip = |name: &str, created: &str, ip: &str, port: u16, vip: &str| {
        service(
            name,
            created,
            &format!(
                "clusterIPs: [{ip}], ports: [{{port: {port}}}]}}, status: {{loadBalancer: {{ingress: [{{ip: {vip}}}]}}"
            ),
        )
    };
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let shared = vip("x", old, "10.96.0.1", 80, "203.0.113.1") + &vip("y", new, "10.96.0.2", 81, "203.0.113.1");
    assert!(reasons(&index(&shared)).is_empty());
    let same = shared.replace("port: 81", "port: 80");
    assert!(refused(&same).starts_with("Service a/y: load balancer's address 203.0.113.1 port 80 TCP is also that of"));
    // However old: a ClusterIP is not caught by an outer address.
    let hijack = vip("x", new, "10.96.0.1", 80, "203.0.113.1") + &vip("y", old, "10.96.0.2", 81, "10.96.0.1");
    assert!(refused(&hijack).contains("is the ClusterIP of Service a/x"));
    assert!(refused(&vip("x", old, "10.96.0.1", 80, "10.0.1.9")).contains("the pods' range of node n1"));
    assert!(refused(&vip("x", old, "10.96.0.1", 30_001, "192.0.2.10")).contains("are node ports"));
    assert!(refused(&vip("x", old, "10.96.0.1", 60_000, "192.0.2.20")).contains("--masquerade-ports"));
    let own = index(&vip("x", old, "10.96.0.1", 80, "192.0.2.10"));
    assert!(reasons(&own).is_empty(), "a node's own address may be a load balancer's");
}

#[test]
fn slices() {
    assert!(refused(&slice("s", &endpoint("10.0.0.2", "n0", ""))).contains("there is no Service a/web"));
    // One that Kubernetes' own controller made is about to go.
    let derived = slice("s", &endpoint("10.0.0.2", "n0", "")).replace(
        "kubernetes.io/service-name:",
        "endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io, kubernetes.io/service-name:",
    );
    assert!(reasons(&index(&derived)).is_empty());
    let with = |endpoint: &str| refused(&(web("") + &slice("s", &format!("{endpoint}, {{addresses: [10.0.0.2]}}"))));
    assert!(with("{addresses: [169.254.169.254]}").contains("CVE-2021-25740"));
    assert!(with("{addresses: [240.0.0.1]}").contains("no address of a host"), "the dataplane would refuse all");
    assert!(with("{addresses: [127.0.0.1]}").contains("CVE-2021-25740"));
    assert!(with("{addresses: [\"fd00::1\"]}").contains("addressType"));
    assert!(with("{addresses: [somewhere]}").contains("no IP address"));
    assert!(with("{addresses: []}").contains("without an address"));
    let text = web("") + &slice("s", "{addresses: [169.254.1.1]}, {addresses: [10.0.0.2]}");
    assert_eq!(shown(&index(&text)), ["ClusterIp 10.96.0.1 80 10.0.0.2/10.0.0.2"], "the others are used");
    let port = |port: &str| refused(&(web("") + &slice("s", "{addresses: [10.0.0.2]}").replace("8080", port)));
    assert!(port("0").contains("0 is no port"));
    assert!(port("65536").contains("65536 is no port"));
    assert!(refused(&slice("s", "").replace("kubernetes.io/service-name: web", "")).contains("nobody knows whose"));
    assert!(refused(&slice("s", "").replace("IPv4", "IPX")).contains("addressType"));
}

#[test]
fn ranges_of_cluster_ips() {
    let cidr = |net: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: x}}, spec: {{cidrs: [{net}]}}}}"
        )
    };
    assert!(refused(&cidr("10.0.0.0/8")).contains("the pods' range of node n1"));
    assert!(refused(&cidr("192.0.2.0/24")).contains("192.0.2.10, an address of node n0"));
    assert!(refused(&cidr("here")).contains("no range such as"));
    let added = index(&cidr("10.97.0.0/16"));
    let v1::Object::Local(local) = &added.objects()[&Key::Local] else { panic!() };
    assert_eq!(local.service_cidrs.len(), 3);
    // The command line's ranges count only where there is no object.
    let fallback = Settings { service_cidrs: vec!["10.98.0.0/16".parse().unwrap()], ..settings() };
    let mut index = index_with(fallback, "");
    let cidrs = |index: &Index| index.node_traffic().unwrap().service_cidrs.len();
    assert_eq!(cidrs(&index), 2);
    index.delete(&ObjectKey { kind: crate::Kind::ServiceCidr, namespace: String::new(), name: "kubernetes".into() });
    index.settle();
    assert_eq!(cidrs(&index), 1);
}

#[test]
fn host_ports_of_running_pods_win() {
    let port = |address: Option<&str>, port: u16| v1::HostPort {
        protocol: v1::Protocol::Tcp,
        address: address.map(|a| a.parse().unwrap()),
        port,
        target: 80,
    };
    let pod = |id: &str, address: &str, ports: Vec<v1::HostPort>| v1::Endpoint {
        id: id.into(),
        pod: format!("a/{id}"),
        port: v1::PortKind::Veth { host_ifname: format!("pp{id}") },
        mac: [2, 0, 0, 0, 0, 9],
        addresses: vec![address.parse().unwrap()],
        host_ports: ports,
        policy: Default::default(),
    };
    let node_port = web(", type: NodePort").replace("port: 80", "port: 80, nodePort: 30080");
    let mut index = index(&node_port);
    let conflict = |index: &Index, wanted| index.host_port_conflict("new", &wanted).unwrap_or_default();
    assert!(conflict(&index, port(None, 30_080)).contains("Service a/web is served there"));
    assert!(conflict(&index, port(Some("192.0.2.10"), 30_080)).contains("Service a/web"));
    assert_eq!(conflict(&index, port(None, 30_081)), "");
    assert!(conflict(&index, port(None, 60_000)).contains("--masquerade-ports"));
    // Ports of upstream's conformance tests, which the default leaves to pods.
    for upstream in 54_321..=54_324 {
        assert_eq!(conflict(&index, port(None, upstream)), "");
    }
    index.attach(pod("p", "10.0.0.2", vec![port(None, 30_080)])).unwrap();
    index.settle();
    accepted(&index);
    assert!(reasons(&index)[0].contains("192.0.2.20 port 30080 TCP is a host port of a/p"), "{:?}", reasons(&index));
    assert!(conflict(&index, port(Some("127.0.0.1"), 30_080)).contains("a/p has it"));
    assert!(conflict(&index, port(None, 30_080)).contains("a/p has it"));
    assert_eq!(conflict(&index, port(Some("198.51.100.9"), 30_080)), "");
    // Two that collide since the node has got one's address: the first keeps its own.
    index.attach(pod("q", "10.0.0.3", vec![port(Some("198.51.100.9"), 30_080), port(None, 9000)])).unwrap();
    index.settle();
    accepted(&index);
    assert_eq!(index.refused_host_ports().count(), 0);
    feed(&mut index, &NODES.replace("192.0.2.10", "198.51.100.9"));
    accepted(&index);
    assert_eq!(index.refused_host_ports().map(|w| w.id).collect::<Vec<_>>(), ["q"]);
    index.detach("p");
    index.settle();
    accepted(&index);
    assert_eq!(index.refused_host_ports().count(), 0);
    let Some(v1::Object::Endpoint(q)) = index.objects().get(&Key::Endpoint("q".into())) else { panic!() };
    assert_eq!(q.host_ports.len(), 2, "what was refused is granted, and the other was never lost");
}

#[test]
fn a_health_check_port_belongs_to_one_service() {
    let spec = |address: &str, node_port: u16| {
        format!(
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30700, clusterIPs: [{address}], \
             ports: [{{port: 80, nodePort: {node_port}}}]"
        )
    };
    let older = service("z", "2026-01-01T00:00:00Z", &spec("10.96.0.8", 30_001));
    let both = service("b", "2026-02-01T00:00:00Z", &spec("10.96.0.9", 30_002)) + &older;
    assert_eq!(
        refused(&both),
        "Service a/b: health check node port 30700 is also a port of Service a/z, which is older"
    );
    let of = |index: &Index| index.health_checks().map(|check| check.service.clone()).collect::<Vec<_>>();
    let mut index = index(&both);
    assert_eq!(of(&index), ["a/z"]);
    index.delete(&ObjectKey { kind: crate::Kind::Service, namespace: "a".into(), name: "z".into() });
    index.settle();
    assert_eq!((of(&index), reasons(&index)), (vec!["a/b".to_owned()], vec![]));
    assert!(refused(&older.replace("30001", "30700")).contains("is its node port, too"));
}
