//! The verbs in all versions, against a fake agent and real namespaces.
#![allow(missing_docs)]

mod common;

use common::{Node, Space};
use podplane_hostnet::events::{Event, Events, Interest};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

/// The end that comes up first gets its queue late, and the pod's first packets would be lost in its absence.
#[test]
fn the_pods_end_comes_up_last() {
    /// `IFF_LOWER_UP`: there is a carrier, for the other end is up.
    const CARRIER: u32 = 1 << 16;
    let node = Node::new();
    let mut events = node.space.netns.run(|| Events::subscribe(Interest::LINKS)).unwrap().unwrap();
    let pod = Space::new("pod");
    node.good("ADD", "c1", &pod.path(), &node.config("1.1.0"));
    let mut came_up = Vec::new();
    loop {
        let pending = events.pending().unwrap();
        if pending.is_empty() {
            break;
        }
        came_up.extend(pending.into_iter().filter_map(|event| match event {
            Event::Link(link) if link.name == "pp000000000001" && link.up => Some(link.flags & CARRIER),
            _ => None,
        }));
    }
    assert_eq!(came_up.first(), Some(&0), "the node's end was up before there was anybody at the other");
}

#[test]
fn a_pod_is_wired() {
    let node = Node::new();
    let pod = Space::new("pod");
    let result = node.good("ADD", "c1", &pod.path(), &node.config("1.1.0"));
    assert_eq!(result["interfaces"][0]["name"], "pp000000000001");
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path());
    assert_eq!(result["ips"][0]["address"], "10.90.0.3/32");
    assert_eq!(result["interfaces"][1]["mtu"], 1450);

    let link = pod.sh("ip link show eth0; ip link show lo");
    assert!(link.contains("02:00:00:00:00:01") && link.contains("mtu 1450"), "{link}");
    assert_eq!(link.matches("LOWER_UP").count(), 2, "eth0 and lo are up: {link}");
    let addresses = pod.sh("ip addr show dev eth0");
    assert!(addresses.contains("10.90.0.3/32") && addresses.contains("fd90::1/128"), "{addresses}");
    // The kernel makes the link-local one itself, and looks at it a moment later; nothing waits for that.
    let is_ready = |line: &str| !(line.contains("scope global") && line.contains("tentative"));
    assert!(addresses.lines().all(is_ready), "usable at once: {addresses}");
    let routes = pod.sh("ip route; ip -6 route; ip neigh; ip -6 neigh");
    for wanted in [
        "default via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0 proto 80 scope link",
        "default via fe80::1 dev eth0",
        "169.254.1.1 dev eth0 lladdr 02:50:50:00:00:01 PERMANENT",
        "fe80::1 dev eth0 lladdr 02:50:50:00:00:01 PERMANENT",
    ] {
        assert!(routes.contains(wanted), "{wanted}: {routes}");
    }
    assert_eq!(pod.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
    let offloads = pod.sh("ethtool -k eth0");
    for off in ["tx-gre-segmentation", "tx-udp_tnl-segmentation", "tx-sctp-segmentation", "tx-checksum-sctp"] {
        assert!(offloads.contains(&format!("{off}: off")), "{off}: {offloads}");
    }
    assert!(offloads.contains("tx-tcp-segmentation: on"), "{offloads}");

    let host = node.space.sh("ip -o addr; nft list ruleset; ip -o link show pp000000000001");
    assert!(!host.contains("inet"), "no addresses on the host end, not even of its own making: {host}");
    assert!(host.contains("policy drop") && host.contains("podplane c1 eth0") && host.contains(",UP"), "{host}");
    assert_eq!(node.state.lock().unwrap().ready.len(), 1);
    let request = node.state.lock().unwrap().adds[0].clone();
    assert_eq!((request.netns, request.pod), (pod.path(), None), "as cnitool calls, without a pod");

    node.good("DEL", "c1", &pod.path(), &with(node.config("1.1.0"), "prevResult", result));
    node.assert_clean("after DEL");
    assert!(!pod.sh("ip -o link").contains("eth0"));
    assert!(node.state.lock().unwrap().leases.is_empty());
    assert_eq!(node.good("DEL", "c1", &pod.path(), &node.config("1.1.0")), Value::Null, "idempotent");
    assert_eq!(node.notes(), 0);
}

#[test]
fn all_versions_and_no_others() {
    let node = Node::new();
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let pod = Space::new("pod");
        let (id, config) = (format!("v{n}"), node.config(version));
        let result = node.good("ADD", &id, &pod.path(), &config);
        assert_eq!(result["cniVersion"], version);
        let old = n < 3;
        assert_eq!(result["ips"][0].get("version").is_some(), old, "{version}");
        let with_result = with(config.clone(), "prevResult", result);
        match n >= 2 {
            true => assert_eq!(node.good("CHECK", &id, &pod.path(), &with_result), Value::Null),
            false => assert_eq!(node.bad("CHECK", &id, &pod.path(), &with_result).0, 1),
        }
        match n == 4 {
            true => assert_eq!(node.good("STATUS", "", "", &config), Value::Null),
            false => assert_eq!(node.bad("STATUS", "", "", &config).0, 1),
        }
        node.good("DEL", &id, &pod.path(), &with_result);
        let answer = node.good("VERSION", "", "", &json!({"cniVersion": version}));
        assert_eq!(answer, json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
    for version in ["0.1.0", "0.2.0", "1.2.0", "2.0.0", "", "x"] {
        let (code, message) = node.bad("ADD", "c", "/run/netns/none", &node.config(version));
        assert_eq!(code, 1, "{version}");
        assert!(message.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{message}");
    }
    node.assert_clean("after all versions");
}

#[test]
fn host_ports_reach_the_agent_and_check_compares_them() {
    let node = Node::new();
    let pod = Space::new("pod");
    let ask = |port: u16| {
        let mapping = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
        with(node.config("1.1.0"), "runtimeConfig", json!({ "portMappings": mapping }))
    };
    let result = node.good("ADD", "c1", &pod.path(), &ask(8080));
    let asked = node.state.lock().unwrap().adds[0].host_ports.clone();
    assert_eq!((asked.len(), asked[0].host_port, asked[0].container_port), (1, 8080, 80));
    let with_result = |port| with(ask(port), "prevResult", result.clone());
    node.good("CHECK", "c1", &pod.path(), &with_result(8080));
    let (_, message) = node.bad("CHECK", "c1", &pod.path(), &with_result(8081));
    assert!(message.contains("host port 8081"), "{message}");
    node.good("DEL", "c1", &pod.path(), &ask(8080));
    node.assert_clean("after host ports");
}

#[test]
fn bad_calls_name_the_cause_and_change_nothing() {
    let node = Node::new();
    let pod = Space::new("pod");
    let config = node.config("1.1.0");
    let cases = [
        ("ADD", "c/1", pod.path(), 4, "CNI_CONTAINERID"),
        ("ADD", "", pod.path(), 4, "CNI_CONTAINERID"),
        ("ADD", "c1", "/run/netns/pp-cni-none".to_string(), 4, "CNI_NETNS"),
        ("ADD", "c1", "/etc/hostname".into(), 4, "CNI_NETNS"),
        ("ADD", "c1", node.space.path(), 4, "node's own namespace"),
        ("PUT", "c1", pod.path(), 4, "CNI_COMMAND"),
        ("CHECK", "c1", pod.path(), 7, "prevResult"),
        ("GC", "", String::new(), 7, "cni.dev/valid-attachments"),
    ];
    for (verb, id, netns, code, text) in cases {
        let (got, message) = node.bad(verb, id, &netns, &config);
        assert_eq!(got, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    let known = with(config.clone(), "prevResult", json!({}));
    assert_eq!(node.bad("CHECK", "c1", &pod.path(), &known).0, 3);
    let link = node.folder.path().join("link");
    std::os::unix::fs::symlink(pod.path(), &link).unwrap();
    assert_eq!(node.bad("ADD", "c1", link.to_str().unwrap(), &config).0, 4, "links are not followed");
    pod.sh("ip link add eth0 type veth peer name other");
    let (code, message) = node.bad("ADD", "c1", &pod.path(), &config);
    assert!(code == 4 && message.contains("CNI_IFNAME=eth0"), "{code} {message}");
    assert!(pod.sh("ip -o link").contains("eth0"), "not ours, not removed");
    node.assert_clean("after bad calls");
    assert!(node.state.lock().unwrap().leases.is_empty());

    let output = std::process::Command::new(env!("CARGO_BIN_EXE_podplane-cni")).env_clear().output().unwrap();
    let usage = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && usage.contains("CNI_COMMAND") && usage.contains("1.1.0"), "{usage}");
    let version = std::process::Command::new(env!("CARGO_BIN_EXE_podplane-cni")).arg("--version").output().unwrap();
    assert!(version.status.success());
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.starts_with("podplane-cni 0.") && version.contains("git"), "{version}");
}

#[test]
fn a_failed_add_undoes_everything() {
    let mut node = Node::new();
    let pod = Space::new("pod");
    let config = node.config("1.1.0");
    for (retry, code) in [(true, 11), (false, 100)] {
        node.state.lock().unwrap().fail_ready = Some(("workers are asleep".into(), retry));
        let (got, message) = node.bad("ADD", "c1", &pod.path(), &config);
        assert_eq!(got, code);
        assert!(message.contains("workers are asleep"), "{message}");
        node.assert_clean("after a failed ADD");
        assert!(!pod.sh("ip -o link").contains("eth0"));
        assert!(node.state.lock().unwrap().leases.is_empty());
    }
    node.state.lock().unwrap().fail_ready = None;
    node.state.lock().unwrap().host_ifname = Some("eth0".into());
    let (code, message) = node.bad("ADD", "c1", &pod.path(), &config);
    assert!(code == 100 && message.contains("makes no sense"), "{code} {message}");
    node.state.lock().unwrap().host_ifname = None;
    node.agent = None;
    let (code, message) = node.bad("ADD", "c1", &pod.path(), &config);
    assert!(code == 11 && message.contains("agent.sock"), "{code} {message}");
    assert_eq!(node.notes(), 0, "nothing was asked for, nothing is to be given back");
    node.assert_clean("after an ADD without agent");
}

#[test]
fn del_works_without_agent_and_without_namespace() {
    let mut node = Node::new();
    let (with_netns, without) = (Space::new("pod"), Space::new("pod"));
    let config = node.config("0.4.0");
    node.good("ADD", "c1", &with_netns.path(), &config);
    node.good("ADD", "c2", &without.path(), &config);
    node.good("ADD", "c3", &Space::new("short").path(), &config);
    node.agent = None;
    node.good("DEL", "c1", &with_netns.path(), &config);
    assert!(!with_netns.sh("ip -o link").contains("eth0"));
    // The namespace lives on, held by somebody, but the runtime does not know its name any more.
    node.good("DEL", "c2", "", &config);
    // This one is gone, and its devices with it: the kernel does that in its own time.
    let gone = || !node.space.sh("ip -o link").contains("pp000000000003");
    for _ in 0..3000 {
        if gone() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    node.good("DEL", "c3", "/run/netns/pp-cni-gone", &config);
    node.assert_clean("after DEL without agent");
    assert_eq!(node.notes(), 3);
    node.good("DEL", "c3", "/run/netns/pp-cni-gone", &config);
    assert_eq!(node.notes(), 3, "one note for each attachment");
    node.start_agent();
    assert_eq!(node.state.lock().unwrap().leases.len(), 3, "the agent delivers the notes when it returns");
}

#[test]
fn check_sees_each_difference() {
    let node = Node::new();
    let pod = Space::new("pod");
    let config = node.config("1.0.0");
    let result = node.good("ADD", "c1", &pod.path(), &config);
    let config = with(config, "prevResult", result);
    node.good("CHECK", "c1", &pod.path(), &config);
    let other = with(config.clone(), "prevResult", json!({"ips": [{"address": "10.0.0.1/32"}]}));
    assert_eq!(node.bad("CHECK", "c1", &pod.path(), &other).0, 102);
    let host = "pp000000000001";
    // Damage, what CHECK says of it, repair.
    for (in_pod, damage, says, repair) in [
        (true, "ip route del default", "route to 0.0.0.0/0", "ip route add default via 169.254.1.1 dev eth0"),
        (
            true,
            "ip neigh del 169.254.1.1 dev eth0",
            "neighbour 169.254.1.1",
            "ip neigh add 169.254.1.1 lladdr 02:50:50:00:00:01 dev eth0",
        ),
        (true, "ip link set eth0 mtu 1400", "MTU 1400", "ip link set eth0 mtu 1450"),
        (
            true,
            "ip link set eth0 address 02:00:00:00:00:aa",
            "Ethernet address",
            "ip link set eth0 address 02:00:00:00:00:01",
        ),
        (false, &format!("nft delete chain netdev podplane drop-{host}"), "ingress drop", ""),
    ] {
        let space = if in_pod { &pod } else { &node.space };
        space.sh(damage);
        let (code, message) = node.bad("CHECK", "c1", &pod.path(), &config);
        assert!(code == 102 && message.contains(says), "{damage}: {message}");
        space.sh(repair);
    }
    pod.sh("ip addr del 10.90.0.3/32 dev eth0");
    node.space.sh(&format!("nft 'add chain netdev podplane drop-{host} {{ type filter hook ingress device {host} priority -550; policy drop; }}'"));
    let (code, message) = node.bad("CHECK", "c1", &pod.path(), &config);
    assert!(code == 102 && message.contains("10.90.0.3"), "{message}");
    node.space.sh(&format!("ip link del {host}"));
    let (code, message) = node.bad("CHECK", "c1", &pod.path(), &config);
    assert!(code == 102 && message.contains(host), "{message}");
}

#[test]
fn gc_and_status() {
    let mut node = Node::new();
    let (keep, drop) = (Space::new("pod"), Space::new("pod"));
    let config = node.config("1.1.0");
    node.good("ADD", "keep", &keep.path(), &config);
    node.good("ADD", "drop", &drop.path(), &config);
    let valid = json!([{"containerID": "keep", "ifname": "eth0"}]);
    node.good("GC", "", "", &with(config.clone(), "cni.dev/valid-attachments", valid.clone()));
    let left = node.space.sh("ip -o link; nft list ruleset");
    assert!(left.contains("pp000000000001") && !left.contains("pp000000000002"), "{left}");
    assert!(keep.sh("ip -o link").contains("eth0") && !drop.sh("ip -o link").contains("eth0"));

    node.good("STATUS", "", "", &config);
    node.state.lock().unwrap().fail_status = Some("no Node object yet".into());
    let (code, message) = node.bad("STATUS", "", "", &config);
    assert!(code == 50 && message.contains("no Node object yet"), "{message}");
    node.agent = None;
    let (code, message) = node.bad("STATUS", "", "", &config);
    assert!(code == 50 && message.contains("podplane-agent"), "{message}");
    // Where policy was enforced once, an agent that is away takes no node down.
    podplane_api::enforced::mark(std::path::Path::new(config["agentSocket"].as_str().unwrap()).parent().unwrap())
        .unwrap();
    node.good("STATUS", "", "", &config);
    assert_eq!(node.bad("GC", "", "", &with(config, "cni.dev/valid-attachments", valid)).0, 11);
}

#[test]
fn a_chain_keeps_its_earlier_result_and_a_v4_pod_has_no_ipv6() {
    let node = Node::new();
    node.state.lock().unwrap().v6 = false;
    let pod = Space::new("pod");
    let earlier = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "first"}], "ips": [], "dns": {"domain": "d"}});
    let result = node.good("ADD", "c1", &pod.path(), &with(node.config("1.0.0"), "prevResult", earlier));
    assert_eq!(result["interfaces"][0]["name"], "first");
    assert_eq!((&result["ips"][0]["interface"], &result["dns"]["domain"]), (&json!(2), &json!("d")));
    assert_eq!(result["ips"].as_array().unwrap().len(), 1);
    assert_eq!(pod.sh("ip -6 addr show dev eth0"), "");
}
