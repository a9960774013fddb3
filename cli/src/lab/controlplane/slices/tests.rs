use serde_json::{Value, json};

use super::super::testing::{service, yaml};
use super::*;

const WEB: &str = "type: ClusterIP, selector: {app: web}, ipFamilies: [IPv4, IPv6], \
                   ports: [{name: http, protocol: TCP, port: 80, targetPort: web}]";

/// A ready pod of node 1 that listens on a named port.
fn pod(n: usize, port: u16) -> Value {
    yaml(&format!(
        "{{metadata: {{name: p{n}, namespace: default, uid: u{n}, labels: {{app: web}}}},
           spec: {{nodeName: node1, containers: [{{ports: [{{name: web, containerPort: {port}}}]}}]}},
           status: {{phase: Running, podIPs: [{{ip: 10.244.{}.{}}}, {{ip: 'fd00::{n:x}'}}],
                     conditions: [{{type: Ready, status: 'True'}}]}}}}",
        n / 250,
        n % 250 + 1
    ))
}

fn nodes() -> Vec<Value> {
    vec![yaml("{metadata: {name: node1, labels: {topology.kubernetes.io/zone: a}}}")]
}

fn of_family<'s>(slices: &'s [Value], family: &str) -> Vec<&'s Value> {
    slices.iter().filter(|slice| slice["addressType"] == family).collect()
}

fn conditions(service: &Value, pod: Value) -> Value {
    derive(service, &[pod], &nodes(), &[])[0]["endpoints"][0]["conditions"].clone()
}

#[test]
fn a_ready_pod_is_an_endpoint_in_both_families() {
    let slices = derive(&service(WEB), &[pod(1, 8080)], &nodes(), &[]);
    assert_eq!(slices.len(), 2);
    let v4 = of_family(&slices, "IPv4")[0];
    assert_eq!(v4["ports"], json!([{ "name": "http", "protocol": "TCP", "port": 8080 }]));
    assert_eq!(
        v4["endpoints"],
        json!([{
            "addresses": ["10.244.0.2"], "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": "node1", "zone": "a",
            "targetRef": { "kind": "Pod", "namespace": "default", "name": "p1", "uid": "u1" },
        }])
    );
    assert_eq!(v4["metadata"]["labels"][SERVICE_NAME], "web");
    assert!(is_derived(v4));
    assert_eq!(of_family(&slices, "IPv6")[0]["endpoints"][0]["addresses"], json!(["fd00::1"]));
}

#[test]
fn conditions_follow_readiness_termination_and_publication() {
    let (mut unready, mut dying) = (pod(1, 80), pod(1, 80));
    unready["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
    dying["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let said = |ready: bool, serving: bool, terminating: bool| json!({ "ready": ready, "serving": serving, "terminating": terminating });
    let web = service(WEB);
    assert_eq!(conditions(&web, unready.clone()), said(false, false, false));
    assert_eq!(conditions(&web, dying.clone()), said(false, true, true));
    let always = service(&format!("{WEB}, publishNotReadyAddresses: true"));
    assert_eq!(conditions(&always, unready), said(true, false, false));
    assert_eq!(conditions(&always, dying), said(true, true, true));
}

#[test]
fn who_is_finished_elsewhere_or_not_selected_is_no_endpoint() {
    let (mut done, mut other, mut far) = (pod(1, 80), pod(2, 80), pod(3, 80));
    done["status"]["phase"] = json!("Succeeded");
    other["metadata"]["labels"] = json!({ "app": "db" });
    far["metadata"]["namespace"] = json!("far");
    let slices = derive(&service(WEB), &[done, other, far], &nodes(), &[]);
    assert_eq!(slices.len(), 2, "one placeholder for each family");
    assert!(slices.iter().all(|slice| slice["endpoints"] == json!([]) && slice["ports"] == json!([])));
    assert_eq!(derive(&service("type: ClusterIP, ipFamilies: [IPv4]"), &[pod(1, 80)], &nodes(), &[]), [] as [Value; 0]);
}

#[test]
fn pods_with_other_ports_are_in_other_slices() {
    let slices = derive(&service(WEB), &[pod(1, 80), pod(2, 81), pod(3, 80)], &nodes(), &[]);
    let sizes: Vec<_> = of_family(&slices, "IPv4").iter().map(|s| s["endpoints"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2, 1]);
}

#[test]
fn slices_hold_a_hundred_and_endpoints_stay_where_they_are() {
    let pods: Vec<_> = (1..=250).map(|n| pod(n, 80)).collect();
    let first = derive(&service(WEB), &pods, &nodes(), &[]);
    let sizes: Vec<_> = of_family(&first, "IPv4").iter().map(|s| s["endpoints"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let existing: Vec<_> = first.iter().collect();
    assert_eq!(derive(&service(WEB), &pods, &nodes(), &existing), first, "nothing changed");
    let mut fewer = pods.clone();
    fewer.remove(0);
    fewer.push(pod(251, 80));
    let second = derive(&service(WEB), &fewer, &nodes(), &existing);
    let changed = first.iter().zip(&second).filter(|(before, after)| before != after).count();
    assert_eq!((second.len(), changed), (first.len(), 2), "one slice of each family changed");
    let rest = derive(&service(WEB), &pods[200..], &nodes(), &existing);
    assert_eq!(of_family(&rest, "IPv4").len(), 1, "empty slices go");
}

#[test]
fn hints_are_what_the_distribution_asks_for() {
    let hints = |distribution: &str, mut pod: Value, ready: bool| {
        if !ready {
            pod["status"]["conditions"] = json!([]);
        }
        let web = service(&format!("{WEB}, trafficDistribution: {distribution}"));
        derive(&web, &[pod], &nodes(), &[])[0]["endpoints"][0]["hints"].clone()
    };
    let zone = json!({ "forZones": [{ "name": "a" }] });
    assert_eq!(hints("PreferSameZone", pod(1, 80), true), zone);
    assert_eq!(hints("PreferClose", pod(1, 80), true), zone);
    assert_eq!(
        hints("PreferSameNode", pod(1, 80), true),
        json!({ "forZones": [{ "name": "a" }], "forNodes": [{ "name": "node1" }] })
    );
    assert_eq!(hints("PreferSameNode", pod(1, 80), false), Value::Null);
}

#[test]
fn slices_of_people_are_checked() {
    let slice = |rest: &str| {
        yaml(&format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s}}, {rest}}}"))
    };
    let good =
        admit(&slice("addressType: IPv4, endpoints: [{addresses: [192.0.2.1]}], ports: [{port: 80}]"), None).unwrap();
    assert_eq!(good["ports"], json!([{ "name": "", "protocol": "TCP", "port": 80 }]));
    assert_eq!(good["endpoints"][0]["conditions"], json!({}), "what nobody said stays unsaid");
    let refused = |rest: &str| admit(&slice(rest), Some(&good)).unwrap_err().to_string();
    assert!(refused("endpoints: []").contains("addressType: Required value"));
    assert!(
        refused("addressType: IPv6, endpoints: []")
            .contains("addressType: Invalid value: \"IPv6\": field is immutable")
    );
    for (address, why) in
        [("127.0.0.1", "loopback"), ("169.254.1.1", "link-local"), ("fd00::1", "valid IPv4"), ("x", "valid IPv4")]
    {
        let words = refused(&format!("addressType: IPv4, endpoints: [{{addresses: ['{address}']}}]"));
        assert!(words.contains(why), "{words}");
    }
    assert!(
        refused("addressType: IPv4, endpoints: [], ports: [{port: 65536}]")
            .contains("ports[0].port: Invalid value: 65536")
    );
}
