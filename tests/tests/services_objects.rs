//! The lab's control plane: what is applied is admitted, what follows is derived, and what cannot be is refused.

use podplane_tests::services::{idler, service};
use podplane_tests::{Lab, succeed, text};

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
