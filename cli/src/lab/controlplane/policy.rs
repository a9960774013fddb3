//! An API server's way with NetworkPolicy (`pkg/apis/networking`) and ClusterNetworkPolicy (its CRD's schema).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Invalid;
use super::invalid::Errors;
use super::selector::{self, LabelSelector, is_dns};
use super::types::{IntOrString, decode, encode, text};
use super::validate::{PORT_RANGE, is_port, port_name_fault};

/// `spec` of a NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Spec {
    pod_selector: LabelSelector,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policy_types: Vec<String>,
}

/// A rule; of `from` and `to` only that of its direction may be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from: Vec<Peer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to: Vec<Peer>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Port {
    #[serde(skip_serializing_if = "String::is_empty")]
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<IntOrString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_port: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Peer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_block: Option<IpBlock>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IpBlock {
    cidr: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
}

/// A NetworkPolicy as it is stored.
pub fn network_policy(new: &Value) -> Result<Value, Invalid> {
    let mut spec: Spec = decode(new, "spec")?;
    if spec.policy_types.is_empty() {
        spec.policy_types.push("Ingress".into());
        spec.policy_types.extend((!spec.egress.is_empty()).then(|| "Egress".into()));
    }
    for port in spec.ingress.iter_mut().chain(&mut spec.egress).flat_map(|rule| &mut rule.ports) {
        if port.protocol.is_empty() {
            port.protocol = "TCP".into();
        }
    }
    let mut errors = Errors::default();
    check_name(&mut errors, new);
    selector::check(&mut errors, "spec.podSelector", &spec.pod_selector);
    for (i, rule) in spec.ingress.iter().enumerate() {
        check_rule(&mut errors, &format!("spec.ingress[{i}]"), rule, "from");
    }
    for (i, rule) in spec.egress.iter().enumerate() {
        check_rule(&mut errors, &format!("spec.egress[{i}]"), rule, "to");
    }
    if spec.policy_types.len() > 2 {
        errors.invalid("spec.policyTypes", &spec.policy_types, "may not specify more than two policyTypes");
    }
    for (i, kind) in spec.policy_types.iter().enumerate() {
        errors.supported(format!("spec.policyTypes[{i}]"), kind, &["Egress", "Ingress"]);
    }
    errors.check(new)?;
    let mut stored = new.clone();
    stored["spec"] = encode(&spec);
    Ok(stored)
}

fn check_name(errors: &mut Errors, object: &Value) {
    let name = text(object, "/metadata/name");
    if !is_dns(name) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                   start and end with an alphanumeric character";
        errors.invalid("metadata.name", name, why);
    }
}

fn check_rule(errors: &mut Errors, field: &str, rule: &Rule, direction: &str) {
    for (i, port) in rule.ports.iter().enumerate() {
        check_port(errors, &format!("{field}.ports[{i}]"), port);
    }
    let (peers, other) = if direction == "from" { (&rule.from, &rule.to) } else { (&rule.to, &rule.from) };
    if !other.is_empty() {
        let wrong = if direction == "from" { "to" } else { "from" };
        errors.forbidden(
            format!("{field}.{wrong}"),
            format!("unknown field: peers of this direction are in `{direction}`"),
        );
    }
    for (i, peer) in peers.iter().enumerate() {
        check_peer(errors, &format!("{field}.{direction}[{i}]"), peer);
    }
}

fn check_port(errors: &mut Errors, field: &str, port: &Port) {
    errors.supported(format!("{field}.protocol"), &port.protocol, &["SCTP", "TCP", "UDP"]);
    let (end_field, field) = (format!("{field}.endPort"), format!("{field}.port"));
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(first)), end) => {
            if !is_port(*first) {
                errors.invalid(&field, first, PORT_RANGE);
            }
            if let Some(end) = end.filter(|end| end < first) {
                errors.invalid(&end_field, end, "must be greater than or equal to `port`");
            }
            if let Some(end) = end.filter(|end| !is_port(*end)) {
                errors.invalid(&end_field, end, PORT_RANGE);
            }
        }
        (Some(IntOrString::String(name)), end) => {
            if let Some(end) = end {
                errors.invalid(&end_field, end, "may not be specified when `port` is non-numeric");
            }
            if let Some(why) = port_name_fault(name) {
                errors.invalid(&field, name, why);
            }
        }
        (None, Some(end)) => errors.invalid(&end_field, end, "may not be specified when `port` is not specified"),
        (None, None) => {}
    }
}

fn check_peer(errors: &mut Errors, field: &str, peer: &Peer) {
    let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
    let there: Vec<_> = selectors.into_iter().filter_map(|(name, s)| Some((name, s.as_ref()?))).collect();
    for (name, selector) in &there {
        selector::check(errors, &format!("{field}.{name}"), selector);
    }
    match &peer.ip_block {
        Some(_) if !there.is_empty() => errors.forbidden(field, "may not specify both ipBlock and another peer"),
        Some(block) => check_block(errors, &format!("{field}.ipBlock"), block),
        None if there.is_empty() => errors.required(field, "must specify a peer"),
        None => {}
    }
}

fn check_block(errors: &mut Errors, field: &str, block: &IpBlock) {
    let cidr = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let net = block.cidr.parse::<IpNet>().ok();
    match net {
        None if block.cidr.is_empty() => errors.required(format!("{field}.cidr"), ""),
        None => errors.invalid(format!("{field}.cidr"), &block.cidr, cidr),
        Some(_) => {}
    }
    for (i, text) in block.except.iter().enumerate() {
        let field = format!("{field}.except[{i}]");
        match (text.parse::<IpNet>(), net) {
            (Err(_), _) => errors.invalid(field, text, cidr),
            (Ok(except), Some(net)) if !net.contains(&except) || net.prefix_len() >= except.prefix_len() => {
                errors.invalid(field, text, "must be a strict subset of `cidr`");
            }
            _ => {}
        }
    }
}

/// A ClusterNetworkPolicy as it is stored: what the schema of its CRD demands of the parts that decide who is meant.
pub fn cluster_network_policy(new: &Value) -> Result<Value, Invalid> {
    let mut errors = Errors::default();
    check_name(&mut errors, new);
    let spec = new.get("spec").cloned().unwrap_or_default();
    match text(&spec, "/tier") {
        "" => errors.required("spec.tier", ""),
        tier => errors.supported("spec.tier", tier, &["Admin", "Baseline"]),
    }
    match spec.get("priority").map(|priority| (priority, priority.as_i64())) {
        None => errors.required("spec.priority", ""),
        Some((_, Some(0..=1000))) => {}
        Some((shown, _)) => errors.invalid("spec.priority", shown, "must be a number from 0 to 1000"),
    }
    check_one_of(&mut errors, "spec.subject", &spec["subject"], &["namespaces", "pods"]);
    for (direction, peers, kinds) in [
        ("ingress", "from", &["namespaces", "pods"][..]),
        ("egress", "to", &["domainNames", "namespaces", "networks", "nodes", "pods"][..]),
    ] {
        let rules = spec[direction].as_array().map(Vec::as_slice).unwrap_or_default();
        if rules.len() > 100 {
            errors.invalid(format!("spec.{direction}"), rules.len(), "must have at most 100 items");
        }
        for (i, rule) in rules.iter().enumerate() {
            let field = format!("spec.{direction}[{i}]");
            match text(rule, "/action") {
                "" => errors.required(format!("{field}.action"), ""),
                action => errors.supported(format!("{field}.action"), action, &["Accept", "Deny", "Pass"]),
            }
            let peers_field = format!("{field}.{peers}");
            match rule[peers].as_array().map(Vec::as_slice) {
                None | Some([]) => errors.required(&peers_field, "at least one peer"),
                Some(all) => {
                    for (j, peer) in all.iter().enumerate() {
                        check_one_of(&mut errors, &format!("{peers_field}[{j}]"), peer, kinds);
                    }
                }
            }
        }
    }
    errors.check(new)?;
    Ok(new.clone())
}

fn check_one_of(errors: &mut Errors, field: &str, part: &Value, kinds: &[&str]) {
    let there = kinds.iter().filter(|kind| part.get(**kind).is_some_and(|value| !value.is_null())).count();
    if there != 1 {
        errors.invalid(field, part, format!("exactly one of {} must be set", kinds.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::controlplane::testing::yaml;
    use serde_json::json;

    fn policy(spec: &str) -> Value {
        yaml(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: default, name: web}}, \
             spec: {{{spec}}}}}"
        ))
    }

    fn refused(spec: &str) -> String {
        network_policy(&policy(spec)).unwrap_err().to_string()
    }

    #[test]
    fn types_and_protocols_are_filled_in() {
        let stored = |spec: &str| network_policy(&policy(spec)).unwrap()["spec"].clone();
        assert_eq!(stored("podSelector: {}"), json!({ "podSelector": {}, "policyTypes": ["Ingress"] }));
        assert_eq!(stored("podSelector: {}, egress: [{}]")["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(stored("podSelector: {}, egress: []")["policyTypes"], json!(["Ingress"]));
        assert_eq!(stored("podSelector: {}, egress: [{}], policyTypes: [Egress]")["policyTypes"], json!(["Egress"]));
        let ports = stored("podSelector: {}, ingress: [{ports: [{port: 80}, {port: dns, protocol: UDP}]}]");
        assert_eq!(
            ports["ingress"][0]["ports"],
            json!([{ "protocol": "TCP", "port": 80 }, { "protocol": "UDP", "port": "dns" }])
        );
        let empty = stored("podSelector: {}, ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]");
        assert_eq!(empty["ingress"][0]["from"], json!([{ "podSelector": {}, "namespaceSelector": {} }]));
    }

    #[test]
    fn what_an_api_server_refuses_is_refused_in_its_words() {
        let from = |peer: &str| refused(&format!("ingress: [{{from: [{{{peer}}}]}}]"));
        assert!(from("").ends_with("spec.ingress[0].from[0]: Required value: must specify a peer"));
        assert!(from("podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}").contains("both ipBlock and another peer"));
        assert!(from("ipBlock: {cidr: 10.0.0.0/33}").contains("must be a valid CIDR value"));
        assert!(from("ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}").contains("except[0]: Invalid value"));
        assert!(from("ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}").contains("strict subset of `cidr`"));
        let operator = from("podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}");
        assert!(
            operator.contains("matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator")
        );
        assert!(from("podSelector: {matchExpressions: [{key: a, operator: In}]}").contains("values: Required value"));
        assert!(
            from("podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}").contains("Forbidden")
        );
        let port = |port: &str| refused(&format!("egress: [{{ports: [{{{port}}}]}}]"));
        assert!(port("port: 80, endPort: 79").contains("endPort: Invalid value: 79: must be greater than or equal"));
        assert!(port("port: web, endPort: 80").contains("when `port` is non-numeric"));
        assert!(port("endPort: 80").contains("when `port` is not specified"));
        assert!(port("port: 65536").contains("between 1 and 65535"));
        assert!(port("port: 80, protocol: ICMP").contains("supported values: \"SCTP\", \"TCP\", \"UDP\""));
        assert!(refused("policyTypes: [Both]").contains("spec.policyTypes[0]: Unsupported value: \"Both\""));
        assert!(refused("podSelectors: {}").contains("strict decoding error"));
        assert!(refused("ingress: [{to: [{podSelector: {}}]}]").contains("spec.ingress[0].to: Forbidden"));
    }

    #[test]
    fn a_cluster_policy_says_who_when_and_what() {
        let object =
            |spec: &str| yaml(&format!("{{kind: ClusterNetworkPolicy, metadata: {{name: all}}, spec: {{{spec}}}}}"));
        let good = "tier: Admin, priority: 5, subject: {namespaces: {}}, \
                    ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Pass, to: [{networks: [0.0.0.0/0]}]}]";
        assert_eq!(cluster_network_policy(&object(good)).unwrap(), object(good), "nothing is added");
        let refused = |spec: &str| cluster_network_policy(&object(spec)).unwrap_err().to_string();
        assert!(refused(&good.replace("Admin", "Root")).contains("supported values: \"Admin\", \"Baseline\""));
        assert!(refused(&good.replace("5", "1001")).contains("from 0 to 1000"));
        assert!(refused(&good.replace("Deny", "Drop")).contains("spec.ingress[0].action: Unsupported value"));
        assert!(refused("tier: Admin, priority: 1, subject: {}").contains("exactly one of namespaces, pods"));
        assert!(refused(&good.replace("from: [{namespaces: {}}]", "from: []")).contains("from: Required value"));
    }
}
