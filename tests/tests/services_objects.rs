//! The lab's control plane: what is applied is admitted, what follows is derived, and what cannot be is refused.

use podplane_tests::services::{Client, fetch, idler, server, service};
use podplane_tests::{Lab, eventually, podplane, succeed, text};
use serde_json::Value;

fn pod(lab: &Lab, verb: &str, name: &str) {
    succeed(&mut lab.command(&["pod", verb, &format!("default/{name}")]));
}

/// Conditions of the only endpoint: ready, serving, terminating.
fn conditions(lab: &Lab) -> [bool; 3] {
    let slice = lab.get("EndpointSlice", "default/web-ipv4-1");
    let endpoints = slice["endpoints"].as_array().expect("endpoints");
    assert_eq!(endpoints.len(), 1, "{slice}");
    ["ready", "serving", "terminating"].map(|c| endpoints[0]["conditions"][c].as_bool().expect("a condition"))
}

#[test]
fn services_are_admitted_and_their_endpoints_follow_the_pods() {
    let lab = Lab::up("t-objects", &["--nodes", "1"]);
    lab.apply(&service("web", "web", "type: LoadBalancer,"));
    assert!(lab.cluster_ips("default/web")[1].starts_with("fd00:10:96::"));
    assert!(lab.balancer_ips("default/web")[0].starts_with("198.51.100."));
    assert!(lab.get("EndpointSlice", "default/web-ipv4-1")["endpoints"].as_array().expect("a list").is_empty());
    lab.apply(&idler("a", 1, "").replace("namespace: default}", "namespace: default, labels: {app: web}}"));
    assert_eq!(conditions(&lab), [true, true, false]);
    pod(&lab, "unready", "a");
    assert_eq!(conditions(&lab), [false, false, false]);
    pod(&lab, "ready", "a");
    pod(&lab, "terminate", "a");
    assert_eq!(conditions(&lab), [false, true, true]);
    pod(&lab, "delete", "a");
    assert!(lab.get("EndpointSlice", "default/web-ipv4-1")["endpoints"].as_array().expect("a list").is_empty());

    // What an API server refuses is refused one by one, and the rest works.
    let (node_port, ip) = (lab.node_port("default/web"), &lab.cluster_ips("default/web")[0]);
    let bad = [
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: x}}, spec: {{type: NodePort, ports: [{{port: 80, nodePort: {node_port}}}]}}}}"
        ),
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: w}}, spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}"
        ),
        "{apiVersion: v1, kind: Service, metadata: {name: z}, spec: {ports: [{port: 65536}]}}".to_owned(),
        "{apiVersion: v1, kind: Service, metadata: {name: good}, spec: {ports: [{port: 80}]}}".to_owned(),
    ];
    let out = lab.feed(&["apply", "-f", "-"], &bad.join("\n---\n"));
    let said = text(&out);
    assert!(!out.status.success(), "{said}");
    for words in
        ["provided port is already allocated", "provided IP is already allocated", "must be between 1 and 65535"]
    {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    lab.get("Service", "default/good");

    // Ranges come at run time, and stay while they are used.
    let range =
        "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, spec: {cidrs: [10.97.0.0/24]}}";
    let inside =
        "{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {clusterIP: 10.97.0.9, ports: [{port: 80}]}}";
    assert!(text(&lab.feed(&["apply", "-f", "-"], inside)).contains("not in the valid range"));
    lab.apply(range);
    lab.apply(inside);
    let held = lab.feed(&["delete", "-f", "-"], range);
    assert!(!held.status.success() && text(&held).contains("in use by service default/far"), "{}", text(&held));
    lab.delete(inside);
    lab.delete(range);
}

/// What `podplane services` and `podplane flows` print as JSON is a contract.
#[test]
fn services_and_flows_are_shown() {
    let lab = Lab::up("t-shown", &["--nodes", "1"]);
    lab.apply(
        &[server("a", 1, "web", "", ""), idler("client", 1, ""), service("web", "web", "type: NodePort,")].concat(),
    );
    let address = &lab.cluster_ips("default/web")[0];
    lab.until_answers(&Client::pod("client"), address, 80);
    fetch(&lab, &Client::pod("client"), address, 80, 3).expect("answers");

    let run_dir = lab.node(1, "run_dir").as_str().expect("a folder").to_owned();
    let show = |args: &[&str]| -> Value {
        let out = succeed(&mut podplane(&[&["--run-dir", &run_dir], args, &["-o", "json"]].concat()));
        serde_json::from_str(&out).expect("JSON")
    };
    let web = |shown: &Value| shown["services"].as_array().expect("services")[0].clone();
    let shown = show(&["services", "default/web"]);
    assert_eq!(shown["problems"], serde_json::json!([]));
    let is_it = |f: &&Value| f["address"] == **address && f["frontend_port"] == 80 && f["protocol"] == "TCP";
    let frontend = shown["frontends"].as_array().expect("frontends").iter().find(is_it).expect("the ClusterIP").clone();
    assert_eq!((&frontend["kind"], &frontend["inside"]), (&"cluster-ip".into(), &1.into()));
    assert!(frontend["hits"].as_u64().expect("a count") >= 4, "{frontend}");
    let service = web(&shown);
    assert_eq!((&service["type"], &service["name"]), (&"NodePort".into(), &"web".into()));
    let endpoint = &service["ports"][0]["endpoints"][0];
    assert_eq!((&endpoint["pod"], &endpoint["unused"]), (&"default/a".into(), &Value::Null), "{service}");

    let flows = |args: &[&str]| show(&[&["flows"], args].concat())["flows"].as_array().expect("flows").clone();
    let through = flows(&["--service", "default/web", "--pod", "default/client"]);
    assert!(through.len() >= 4, "{through:?}");
    for flow in &through {
        assert_eq!(flow["pods"], serde_json::json!(["default/client", "default/a"]));
        assert_eq!(
            (&flow["original"]["destination"], &flow["original"]["destination_port"]),
            (&(**address).into(), &80.into())
        );
        assert_eq!(flow["translated"]["destination_port"], 8080);
    }
    assert_eq!(flows(&["--service", "default/web", "--limit", "2"]).len(), 2);
    assert_eq!(flows(&["--pod", "default/nobody"]), [] as [Value; 0]);
    assert_eq!(flows(&["--service", "default/web", "--state", "denied"]), [] as [Value; 0]);

    pod(&lab, "unready", "a");
    let reason = eventually("the reason is shown", || {
        let service = web(&show(&["services"]));
        service["ports"][0]["endpoints"][0]["unused"].as_str().map(str::to_owned)
    });
    assert!(reason.contains("ready"), "{reason}");
    // Without the agent the dataplane still says what it has.
    lab.kill(1, "agent");
    let alone = show(&["services"]);
    assert_eq!(alone["services"], Value::Null);
    assert!(!alone["frontends"].as_array().expect("frontends").is_empty());
    assert_eq!(alone["problems"].as_array().expect("problems").len(), 1);
}
