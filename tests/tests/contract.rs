//! What programs may rely on: the JSON of the operator's command, versions, and errors that say what to do.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use podplane_tests::{Lab, bin_dir, eventually, podplane, succeed, text};
use serde_json::Value;

/// The names of an object's fields, those below as "field.name", those of a list's first element as "field[].name".
fn fields(value: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, below) in object {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                into.insert(name.clone());
                fields(below, &name, into);
            }
        }
        Value::Array(list) => {
            for element in list {
                fields(element, &format!("{prefix}[]"), into);
            }
        }
        _ => {}
    }
}

/// Every field of the contract is there. Fields may be added, none may go or be renamed.
#[track_caller]
fn has(answer: &Value, contract: &[&str]) {
    let mut there = BTreeSet::new();
    fields(answer, "", &mut there);
    let missing: Vec<_> = contract.iter().filter(|field| !there.contains(**field)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in {answer:#}");
}

#[test]
fn json_is_a_contract() {
    let lab = Lab::up("t-json", &["--nodes", "2"]);
    let (_, b) = (lab.pod("default/a", 1), lab.pod("default/b", 2));
    lab.ping("default/a", &b);
    // Something to be dropped.
    let _ = lab.exec("default/a", &["ping", "-c", "1", "-W", "1", "10.244.99.99"]).output();
    let status = eventually("the peer's next hop is known", || {
        let status = lab.ask(1, "status");
        status["dataplane"]["peers"][0]["next_hop"].is_string().then_some(status)
    });
    has(
        &status,
        &[
            "dataplane.version",
            "dataplane.dpdk",
            "dataplane.pid",
            "dataplane.uptime_seconds",
            "dataplane.uplink.spec",
            "dataplane.uplink.name",
            "dataplane.uplink.mac",
            "dataplane.uplink.mtu",
            "dataplane.uplink.link",
            "dataplane.host_ifname",
            "dataplane.generation",
            "dataplane.agent.connected",
            "dataplane.agent.applied",
            "dataplane.agent.refused",
            "dataplane.node.name",
            "dataplane.node.vtep",
            "dataplane.node.vni",
            "dataplane.node.pod_mtu",
            "dataplane.peers[].name",
            "dataplane.peers[].vtep",
            "dataplane.peers[].via",
            "dataplane.peers[].next_hop",
            "dataplane.endpoints",
            "dataplane.failed",
            "dataplane.workers[].id",
            "dataplane.workers[].cpu",
            "dataplane.workers[].busy",
            "dataplane.workers[].loops",
            "dataplane.workers[].sleeps",
            "dataplane.workers[].rx_packets",
            "dataplane.workers[].tx_packets",
            "dataplane.workers[].flows",
            "dataplane.workers[].flow_capacity",
            "dataplane.buffers[].name",
            "dataplane.buffers[].in_use",
            "dataplane.buffers[].capacity",
            "dataplane.hugepages",
            "dataplane.warnings",
            "dataplane.flows.halves",
            "dataplane.flows.capacity",
            "dataplane.flows.pressure",
            "dataplane.dropped",
            "agent.version",
            "agent.node",
            "agent.ready",
            "agent.conditions",
            "agent.dataplane_connected",
            "agent.generation.sent",
            "agent.generation.applied",
            "agent.refused",
            "agent.addresses[].cidr",
            "agent.addresses[].used",
            "agent.addresses[].size",
            "agent.attachments[].id.container_id",
            "agent.attachments[].id.ifname",
            "agent.attachments[].pod.namespace",
            "agent.attachments[].pod.name",
            "agent.attachments[].pod.uid",
            "agent.attachments[].addresses",
            "agent.attachments[].host_ifname",
            "agent.attachments[].ready",
            "problems",
        ],
    );
    assert_eq!(status["dataplane"]["endpoints"], 1);
    assert_eq!(status["agent"]["attachments"][0]["pod"]["name"], "a");
    // Without hugepages the node works, and says what it lacks and what to do.
    let problems = status["problems"].to_string();
    assert!(problems.contains("without hugepages") && problems.contains("podplane-hugepages"), "{problems}");

    let ports = lab.ask(1, "ports");
    let port = ["id", "kind", "name", "endpoint", "pod", "home", "mac", "addresses", "mtu", "link"];
    let counters = ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "drops", "rx_overruns"];
    let names: Vec<_> = port.iter().chain(&counters).map(|name| format!("ports[].{name}")).collect();
    has(&ports, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let kinds: Vec<_> = ports["ports"].as_array().expect("ports").iter().map(|p| p["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("uplink"), Some("host"), Some("pod")]);

    let drops = eventually("the drop is counted", || {
        let drops = lab.ask(1, "drops");
        drops["drops"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(drops)
    });
    let drop = ["reason", "explanation", "port", "name", "pod", "worker", "packets"];
    has(&drops, &drop.map(|name| format!("drops[].{name}")).iter().map(String::as_str).collect::<Vec<_>>());

    // Nobody there: null, a problem that says what to do, and exit status 1.
    let out = podplane(&["--run-dir", "/nonexistent", "status", "-o", "json"]).output().expect("it starts");
    assert_eq!(out.status.code(), Some(1));
    let nobody: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert!(nobody["dataplane"].is_null() && nobody["agent"].is_null(), "{nobody}");
    let problems = nobody["problems"].to_string();
    assert!(
        problems.contains("does podplane-dataplane run") && problems.contains("start podplane-agent"),
        "{problems}"
    );
    assert_eq!(problems.matches("No such file").count(), 2, "each cause is said once: {problems}");
    for verb in ["ports", "drops"] {
        let out = podplane(&["--run-dir", "/nonexistent", verb]).output().expect("it starts");
        assert!(!out.status.success() && text(&out).contains("does podplane-dataplane run"), "{}", text(&out));
    }
    logs_are_plain_text(&lab);
}

/// A log file is read by programs and pagers: no colours.
fn logs_are_plain_text(lab: &Lab) {
    for process in ["dataplane-1", "agent-1"] {
        let log = std::fs::read(format!("/run/podplane-lab/{}/logs/{process}.log", lab.name())).expect("a log");
        assert!(!log.is_empty() && !log.contains(&0x1b), "{process}: {}", String::from_utf8_lossy(&log));
    }
}

#[test]
fn every_program_names_its_version() {
    for program in
        ["podplane", "podplane-agent", "podplane-cni", "podplane-dataplane", "podplane-hugepages", "podplane-perf"]
    {
        let said = succeed(Command::new(bin_dir().join(program)).arg("--version"));
        let start = format!("{program} {} (git ", env!("CARGO_PKG_VERSION"));
        assert!(said.starts_with(&start) && said.contains("DPDK "), "{said}");
    }
}

#[test]
fn the_lab_says_what_is_wrong() {
    let lab = Lab::up("t-usage", &["--nodes", "1"]);
    lab.pod("default/a", 1);
    let refused = |out: Output, says: &[&str]| {
        let said = text(&out);
        assert!(!out.status.success() && says.iter().all(|part| said.contains(part)), "not {says:?}: {said}");
    };
    let no = |args: &[&str], says: &[&str]| refused(lab.command(args).output().expect("it starts"), says);
    no(&["exec", "default/none", "--", "true"], &["there is no pod default/none in lab t-usage"]);
    no(&["pod", "delete", "default/none"], &["there is no pod default/none"]);
    no(&["node-exec", "7", "--", "true"], &["there is no node 7", "1 to 1"]);
    no(&["pod", "add", "default/x", "--node", "7"], &["there is no node 7", "1 to 1"]);
    no(&["pod", "add", "default/a", "--node", "1"], &["exists already on node 1"]);
    no(&["pod", "add", "nonsense", "--node", "1"], &["NAMESPACE/NAME"]);
    no(&["pod", "add", "default/x", "--node", "1", "--label", "x"], &["KEY=VALUE"]);
    no(&["restart", "agent", "--node", "7"], &["there is no node 7"]);
    no(&["up"], &["there is a lab named t-usage already", "down"]);
    no(&["apply", "-f", "/nonexistent.yaml"], &["/nonexistent.yaml", "No such file"]);

    let folder = std::env::temp_dir().join("t-usage");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("broken.yaml");
    for (content, says) in [
        ("kind: [\n", "line 1"),
        ("kind: Pod\nmetadata: {name: k}\n", "apiVersion"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: ../k}\n", "no name of an object"),
    ] {
        std::fs::write(&file, content).expect("writable");
        no(&["apply", "-f", file.to_str().expect("a path")], &[says]);
    }
    std::fs::remove_dir_all(&folder).expect("it is there");
    assert_eq!(lab.status()["pods"].as_array().map(Vec::len), Some(1), "a refused command left a pod");

    // Names that no lab has, and one that could leave its folder.
    let none =
        |args: &[&str]| podplane(&[&["lab", "--name", "t-usage-none"], args].concat()).output().expect("it starts");
    refused(none(&["status"]), &["there is no lab named t-usage-none", "lab up"]);
    assert!(none(&["down"]).status.success() && none(&["down"]).status.success(), "down is idempotent");
    refused(none(&["up", "--memory", "16000000"]), &["hugepages", "podplane-hugepages setup --memory", "--no-huge"]);
    refused(none(&["up", "--no-huge", "--manifests", "/nonexistent"]), &["/nonexistent"]);
    refused(podplane(&["lab", "--name", "../x", "down"]).output().expect("it starts"), &["lower-case letters"]);
    let netns = succeed(Command::new("ip").args(["netns", "list"]));
    assert!(!netns.contains("t-usage-none"), "{netns}");
}
