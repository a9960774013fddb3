//! What an API server refuses of a Service, after `validation.go` of Kubernetes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use super::defaults::{is_external, is_headless, needs_health_check};
use super::invalid::Errors;
use super::types::{Family, IntOrString, ServicePort, ServiceSpec};

/// What a port's number must be.
pub const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const MAY_NOT_CHANGE: &str = "may not change once set";

/// Everything about a defaulted spec by itself.
pub fn spec(errors: &mut Errors, name: &str, spec: &ServiceSpec) {
    if !is_label(name) {
        errors.invalid("metadata.name", name, LABEL);
    }
    errors.supported("spec.type", &spec.kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    ports(errors, spec);
    by_type(errors, spec);
    affinity(errors, spec);
    if spec.kind == "ExternalName" {
        return;
    }
    families(errors, spec);
    cluster_ips(errors, spec);
    external(errors, spec);
    let policies = ["Cluster", "Local"];
    for (field, policy) in [
        ("internalTrafficPolicy", &spec.internal_traffic_policy),
        ("externalTrafficPolicy", &spec.external_traffic_policy),
    ] {
        if let Some(policy) = policy {
            errors.supported(format!("spec.{field}"), policy, &policies);
        }
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        errors.supported("spec.trafficDistribution", distribution, &supported);
    }
}

fn ports(errors: &mut Errors, spec: &ServiceSpec) {
    if spec.ports.is_empty() && !is_headless(spec) && spec.kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in spec.ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        one_port(errors, &field, port, spec.ports.len() > 1);
        if !port.name.is_empty() && !names.insert(&port.name) {
            errors.duplicate(format!("{field}.name"), &port.name);
        }
        if !numbers.insert((&port.protocol, port.port)) {
            errors.duplicate(&field, json!({ "protocol": port.protocol, "port": port.port }));
        }
        if port.node_port == 0 {
            continue;
        }
        if spec.kind == "ClusterIP" {
            errors.forbidden(format!("{field}.nodePort"), "may not be used when `type` is 'ClusterIP'");
        } else if !node_ports.insert((&port.protocol, port.node_port)) {
            errors.duplicate(format!("{field}.nodePort"), port.node_port);
        }
    }
}

fn one_port(errors: &mut Errors, field: &str, port: &ServicePort, needs_name: bool) {
    if port.name.is_empty() && needs_name {
        errors.required(format!("{field}.name"), "");
    } else if !port.name.is_empty() && !is_label(&port.name) {
        errors.invalid(format!("{field}.name"), &port.name, LABEL);
    }
    if !is_port(port.port) {
        errors.invalid(format!("{field}.port"), port.port, PORT_RANGE);
    }
    errors.supported(format!("{field}.protocol"), &port.protocol, &["SCTP", "TCP", "UDP"]);
    match &port.target_port {
        Some(IntOrString::Int(number)) if !is_port(*number) => {
            errors.invalid(format!("{field}.targetPort"), number, PORT_RANGE);
        }
        Some(IntOrString::String(name)) => {
            if let Some(why) = port_name_fault(name) {
                errors.invalid(format!("{field}.targetPort"), name, why);
            }
        }
        _ => {}
    }
    // The range of node ports is checked where they are allocated.
}

fn by_type(errors: &mut Errors, spec: &ServiceSpec) {
    match spec.kind.as_str() {
        "LoadBalancer" => {
            for (i, _) in spec.ports.iter().enumerate().filter(|(_, port)| port.port == 10250) {
                let why = "may not expose port 10250 externally since it is used by kubelet";
                errors.invalid(format!("spec.ports[{i}].port"), 10250, why);
            }
            no_headless(errors, spec);
        }
        "NodePort" => no_headless(errors, spec),
        "ExternalName" => {
            if spec.cluster_ip.as_ref().is_some_and(|ip| !ip.is_empty()) || !spec.cluster_ips.is_empty() {
                errors.forbidden("spec.clusterIPs", "may not be set for ExternalName services");
            }
            if !spec.ip_families.is_empty() {
                errors.forbidden("spec.ipFamilies", "may not be set for ExternalName services");
            }
            if spec.ip_family_policy.is_some() {
                errors.forbidden("spec.ipFamilyPolicy", "may not be set for ExternalName services");
            }
            match spec.external_name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name)) {
                None | Some("") => errors.required("spec.externalName", ""),
                Some(name) if name.len() > 253 || !name.split('.').all(is_label) => {
                    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                               '.', and must start and end with an alphanumeric character";
                    errors.invalid("spec.externalName", name, why);
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
    if spec.kind != "LoadBalancer" {
        let only = "may only be used when `type` is 'LoadBalancer'";
        let fields = [
            ("loadBalancerSourceRanges", !spec.load_balancer_source_ranges.is_empty()),
            ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports.is_some()),
            ("loadBalancerClass", spec.load_balancer_class.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            errors.forbidden(format!("spec.{field}"), only);
        }
    }
}

fn no_headless(errors: &mut Errors, spec: &ServiceSpec) {
    if is_headless(spec) {
        let why = format!("may not be set to 'None' for {} services", spec.kind);
        errors.invalid("spec.clusterIPs[0]", "None", why);
    }
}

fn affinity(errors: &mut Errors, spec: &ServiceSpec) {
    errors.supported("spec.sessionAffinity", &spec.session_affinity, &["ClientIP", "None"]);
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = client_ip.and_then(|client_ip| client_ip.timeout_seconds)
        && !(1..=86_400).contains(&seconds)
    {
        let why = "must be greater than 0 and less than 86400";
        errors.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why);
    }
}

fn families(errors: &mut Errors, spec: &ServiceSpec) {
    if spec.ip_families.len() > 2 {
        errors.invalid("spec.ipFamilies", &spec.ip_families, "may only hold up to 2 values");
    }
    for (i, family) in spec.ip_families.iter().enumerate() {
        errors.supported(format!("spec.ipFamilies[{i}]"), family, &["IPv4", "IPv6"]);
        if spec.ip_families[..i].contains(family) {
            errors.duplicate(format!("spec.ipFamilies[{i}]"), family);
        }
    }
    let Some(policy) = &spec.ip_family_policy else { return };
    errors.supported("spec.ipFamilyPolicy", policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    if policy == "SingleStack" {
        for (field, len) in [("ipFamilies", spec.ip_families.len()), ("clusterIPs", spec.cluster_ips.len())] {
            if len > 1 {
                let why = format!("must be RequireDualStack or PreferDualStack when multiple '{field}' are specified");
                errors.invalid("spec.ipFamilyPolicy", policy, why);
            }
        }
    }
}

fn cluster_ips(errors: &mut Errors, spec: &ServiceSpec) {
    let field = "spec.clusterIPs";
    match (spec.cluster_ip.as_deref(), spec.cluster_ips.first()) {
        (None | Some(""), Some(_)) => {
            errors.invalid(field, &spec.cluster_ips, "must be empty when `clusterIP` is not specified");
            return;
        }
        (Some(one), Some(first)) if one != first => {
            errors.invalid(format!("{field}[0]"), &spec.cluster_ips, "first value must match `clusterIP`");
            return;
        }
        _ => {}
    }
    if is_headless(spec) {
        if spec.cluster_ips.len() > 1 {
            errors.invalid(format!("{field}[0]"), "None", "'None' must be the first and only value");
        }
        return;
    }
    if spec.cluster_ips.len() > 2 {
        errors.invalid(field, &spec.cluster_ips, "may only hold up to 2 values");
    }
    let mut seen = Vec::new();
    for (i, text) in spec.cluster_ips.iter().enumerate() {
        let Ok(address) = text.parse::<IpAddr>() else {
            errors.invalid(format!("{field}[{i}]"), text, NOT_AN_IP);
            continue;
        };
        let family = Family::of(address);
        if seen.contains(&family) {
            errors.invalid(field, &spec.cluster_ips, "may specify no more than one IP for each IP family");
        }
        seen.push(family);
        if let Some(wanted) = spec.ip_families.get(i).filter(|wanted| **wanted != family.to_string()) {
            let why = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(format!("{field}[{i}]"), text, why);
        }
    }
}

fn external(errors: &mut Errors, spec: &ServiceSpec) {
    for (i, text) in spec.external_ips.iter().enumerate() {
        let field = format!("spec.externalIPs[{i}]");
        match text.parse::<IpAddr>() {
            Err(_) => errors.invalid(field, text, NOT_AN_IP),
            Ok(address) => {
                if let Some(why) = special(address) {
                    errors.invalid(field, text, why);
                }
            }
        }
    }
    for (i, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        if text.trim().parse::<IpNet>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(format!("spec.loadBalancerSourceRanges[{i}]"), text, why);
        }
    }
    if let Some(policy) = spec.external_traffic_policy.as_ref().filter(|_| !is_external(spec)) {
        errors.invalid("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services");
    }
    if spec.health_check_node_port != 0 && !needs_health_check(spec) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", spec.health_check_node_port, why);
    }
}

/// Why an address cannot be an endpoint's or an external one.
pub fn special(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    };
    if address.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}

/// What may not change from one spec to the next.
pub fn update(errors: &mut Errors, new: &ServiceSpec, old: &ServiceSpec) {
    if new.kind == "ExternalName" || old.kind == "ExternalName" {
        return;
    }
    if let (Some(before), Some(after)) = (old.cluster_ips.first(), new.cluster_ips.first())
        && before != after
    {
        errors.invalid("spec.clusterIPs[0]", &new.cluster_ips, MAY_NOT_CHANGE);
    }
    if let (Some(before), Some(after)) = (old.cluster_ips.get(1), new.cluster_ips.get(1))
        && before != after
    {
        errors.invalid("spec.clusterIPs[1]", &new.cluster_ips, MAY_NOT_CHANGE);
    }
    if let (Some(before), Some(after)) = (old.ip_families.first(), new.ip_families.first())
        && before != after
    {
        errors.invalid("spec.ipFamilies[0]", &new.ip_families, MAY_NOT_CHANGE);
    }
    if needs_health_check(new) && needs_health_check(old) && new.health_check_node_port != old.health_check_node_port {
        errors.invalid("spec.healthCheckNodePort", new.health_check_node_port, "field is immutable");
    }
    if new.kind == "LoadBalancer" && old.kind == "LoadBalancer" && new.load_balancer_class != old.load_balancer_class {
        errors.invalid("spec.loadBalancerClass", &new.load_balancer_class, MAY_NOT_CHANGE);
    }
}

pub fn is_port(number: i64) -> bool {
    (1..=65_535).contains(&number)
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 6335, section 5.1.
pub fn port_name_fault(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("must be no more than 15 characters")
    } else if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    } else if !name.chars().any(|c| c.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else if name.contains("--") {
        Some("must not contain consecutive hyphens")
    } else if name.starts_with('-') || name.ends_with('-') {
        Some("must not begin or end with a hyphen")
    } else {
        None
    }
}
