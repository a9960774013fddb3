use serde_json::{Value, json};

use super::super::testing::{named_service, service as object};
use super::*;

fn ranges() -> Vec<IpNet> {
    super::super::cidr::DEFAULT.iter().map(|cidr| cidr.parse().unwrap()).collect()
}

fn admit(spec: &str) -> Result<Value, Invalid> {
    service(&object(spec), None, &Taken::of(&[], ranges(), ("default", "web")))
}

fn update(old: &Value, spec: &str) -> Result<Value, Invalid> {
    service(&object(spec), Some(old), &Taken::of(std::slice::from_ref(old), ranges(), ("default", "web")))
}

const PORT: &str = "ports: [{port: 80}]";

#[test]
fn a_plain_service_is_defaulted_and_gets_an_address() {
    let stored = admit("selector: {app: web}, ports: [{port: 80}]").unwrap();
    assert_eq!(
        stored["spec"],
        json!({
            "type": "ClusterIP", "selector": { "app": "web" }, "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None", "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }],
        })
    );
    assert_eq!(stored["status"], json!({ "loadBalancer": {} }));
}

#[test]
fn families_follow_policy_and_wishes() {
    let cases = [
        ("ipFamilyPolicy: PreferDualStack", &["IPv4", "IPv6"][..]),
        ("ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]", &["IPv6", "IPv4"]),
        ("ipFamilies: [IPv6]", &["IPv6"]),
        ("ipFamilies: [IPv6, IPv4]", &["IPv6", "IPv4"]),
        ("clusterIP: 'fd00:10:96::7'", &["IPv6"]),
        ("clusterIP: 10.96.0.10, ipFamilyPolicy: PreferDualStack", &["IPv4", "IPv6"]),
    ];
    for (spec, families) in cases {
        let stored = admit(&format!("{PORT}, {spec}")).unwrap();
        assert_eq!(stored["spec"]["ipFamilies"], json!(families), "{spec}");
        let ips: Vec<IpAddr> =
            decode::<ServiceSpec>(&stored, "spec").unwrap().cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let got: Vec<_> = ips.iter().map(|ip| Family::of(*ip).to_string()).collect();
        assert_eq!(got, families, "{spec}");
    }
    let single = Taken::of(&[], vec!["10.96.0.0/16".parse().unwrap()], ("", ""));
    let prefer =
        service(&object("ports: [{port: 80}], selector: {a: b}, ipFamilyPolicy: PreferDualStack"), None, &single);
    assert_eq!(prefer.unwrap()["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
    let require =
        service(&object("ports: [{port: 80}], selector: {a: b}, ipFamilyPolicy: RequireDualStack"), None, &single);
    assert!(require.unwrap_err().to_string().contains("not configured for dual-stack"));
    let headless = admit("clusterIP: None").unwrap();
    assert_eq!(
        headless["spec"]["ipFamilyPolicy"], "RequireDualStack",
        "headless without a selector takes all families"
    );
}

#[test]
fn node_ports_are_shared_by_protocols_and_kept() {
    let ports = "type: NodePort, ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53}, {name: c, port: 80}]";
    let stored = admit(ports).unwrap();
    let numbers = |stored: &Value| [0, 1, 2].map(|i| stored["spec"]["ports"][i]["nodePort"].as_i64().unwrap());
    assert_eq!(numbers(&stored), [30_086, 30_086, 30_087]);
    assert_eq!(numbers(&update(&stored, ports).unwrap()), numbers(&stored), "an apply changes none");
    let other = service(
        &named_service("b", ports),
        None,
        &Taken::of(std::slice::from_ref(&stored), ranges(), ("default", "b")),
    )
    .unwrap();
    assert_eq!(numbers(&other), [30_088, 30_088, 30_089]);
    let back = update(&stored, "ports: [{port: 80}]").unwrap();
    assert!(back["spec"]["ports"][0].get("nodePort").is_none(), "{back}");
    assert_eq!(back["spec"]["clusterIP"], stored["spec"]["clusterIP"]);
}

#[test]
fn balancers_with_local_policy_get_a_health_check_port() {
    let stored = admit("type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]").unwrap();
    assert_eq!(stored["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(stored["spec"]["healthCheckNodePort"], 30_087);
    let without = admit("type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]").unwrap();
    assert!(
        without["spec"]["ports"][0].get("nodePort").is_none() && without["spec"].get("healthCheckNodePort").is_none()
    );
    assert_eq!(without["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn a_second_family_comes_and_goes() {
    let stored = admit("ports: [{port: 80}]").unwrap();
    let both = update(&stored, "ports: [{port: 80}], ipFamilyPolicy: PreferDualStack").unwrap();
    assert_eq!(both["spec"]["clusterIPs"], json!(["10.96.1.1", "fd00:10:96::101"]));
    let one = update(&both, "ports: [{port: 80}], ipFamilyPolicy: SingleStack").unwrap();
    assert_eq!(one["spec"]["clusterIPs"], json!(["10.96.1.1"]));
}

#[test]
fn external_names_have_no_address() {
    let stored = admit("type: ExternalName, externalName: example.com").unwrap();
    assert_eq!(
        stored["spec"],
        json!({ "type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None" })
    );
}

#[test]
fn client_ip_affinity_lasts_three_hours_unless_said_otherwise() {
    let seconds = |spec: &str| {
        let stored = admit(&format!("{PORT}, sessionAffinity: ClientIP{spec}")).unwrap();
        stored["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64().unwrap()
    };
    assert_eq!(seconds(""), 10_800);
    assert_eq!(seconds(", sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}"), 7);
}

/// What is refused, and how the answer ends.
#[test]
fn refusals_are_in_the_words_of_an_api_server() {
    let cases = [
        ("selector: {a: b}", "spec.ports: Required value"),
        (
            "ports: [{port: 0, targetPort: 80}]",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "ports: [{port: 65536, targetPort: 80}]",
            "spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            "ports: [{port: 80, targetPort: 65536}]",
            "spec.ports[0].targetPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            "ports: [{port: 80, targetPort: Web}]",
            "spec.ports[0].targetPort: Invalid value: \"Web\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            "ports: [{port: 80, protocol: ICMP}]",
            "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        ("ports: [{port: 80, name: a}, {port: 81}]", "spec.ports[1].name: Required value"),
        ("ports: [{port: 80, name: a}, {port: 81, name: a}]", "spec.ports[1].name: Duplicate value: \"a\""),
        (
            "ports: [{port: 80, name: a}, {port: 80, name: b}]",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ),
        (
            "ports: [{port: 80, nodePort: 30080}]",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            "type: NodePort, ports: [{port: 80, nodePort: 80}]",
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            "type: NodePort, clusterIP: None, ports: [{port: 80}]",
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (
            "type: Proxy, ports: [{port: 80}]",
            "spec.type: Unsupported value: \"Proxy\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        ("type: ExternalName", "spec.externalName: Required value"),
        (
            "ports: [{port: 80}], sessionAffinity: Cookie",
            "spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\"",
        ),
        (
            "ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ),
        (
            "ports: [{port: 80}], externalTrafficPolicy: Local",
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (
            "ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0/8]",
            "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            "type: LoadBalancer, ports: [{port: 80}], loadBalancerSourceRanges: [10.0.0.0]",
            "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            "type: LoadBalancer, ports: [{port: 10250}]",
            "spec.ports[0].port: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
        ),
        (
            "ports: [{port: 80}], externalIPs: [127.0.0.1]",
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            "ports: [{port: 80}], clusterIP: 10.97.0.1",
            "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16, fd00:10:96::/112",
        ),
        (
            "ports: [{port: 80}], clusterIP: 10.96.0.5, clusterIPs: [10.96.0.6]",
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: first value must match `clusterIP`",
        ),
        ("ports: [{port: 80}], ipFamilies: [IPv4, IPv4]", "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
        (
            "ports: [{port: 80}], ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6]",
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified",
        ),
        (
            "ports: [{port: 80}], ipFamilies: [IPv6], clusterIP: 10.96.0.5",
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.5\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            "ports: [{port: 80}], trafficDistribution: Near",
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
        ),
        (
            "ports: [{port: 80}], internalTrafficPolicy: Node",
            "spec.internalTrafficPolicy: Unsupported value: \"Node\": supported values: \"Cluster\", \"Local\"",
        ),
        (
            "ports: [{port: 80}], healthCheckNodePort: 30000",
            "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
    ];
    for (spec, words) in cases {
        let refused = admit(spec).expect_err(spec).to_string();
        assert_eq!(refused, format!("The Service \"web\" is invalid: {words}"), "{spec}");
    }
    assert!(admit("ports: [{port: 80}], colour: red").unwrap_err().to_string().contains("unknown field `colour`"));
}

#[test]
fn what_others_have_or_was_given_once_is_refused() {
    let stored = admit("type: NodePort, ports: [{port: 80, nodePort: 30080}], clusterIP: 10.96.0.5").unwrap();
    let taken = Taken::of(std::slice::from_ref(&stored), ranges(), ("default", "b"));
    let other = |spec: &str| service(&named_service("b", spec), None, &taken).unwrap_err().to_string();
    assert!(
        other("type: NodePort, ports: [{port: 80, nodePort: 30080}]")
            .ends_with("30080: provided port is already allocated")
    );
    assert!(
        other("ports: [{port: 80}], clusterIP: 10.96.0.5").ends_with("IP 10.96.0.5: provided IP is already allocated")
    );
    let change = update(&stored, "ports: [{port: 80}], clusterIP: 10.96.0.6").unwrap_err().to_string();
    assert!(change.ends_with("[\"10.96.0.6\"]: may not change once set"), "{change}");
}
