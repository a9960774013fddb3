//! ServiceCIDRs: the ranges of ClusterIPs (`networking.k8s.io/v1`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Invalid;
use super::allocate::is_usable;
use super::invalid::Errors;
use super::types::{Family, decode, text};

/// What a lab starts with.
pub const DEFAULT: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// The object that an API server makes of its `--service-cluster-ip-range`.
pub fn default_object() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": DEFAULT }, "status": { "conditions": [ready()] },
    })
}

fn ready() -> Value {
    json!({ "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready" })
}

/// The ranges of all objects, those of `kubernetes` first.
pub fn ranges(objects: &[Value]) -> Vec<IpNet> {
    let (first, others): (Vec<_>, Vec<_>) = objects.iter().partition(|o| text(o, "/metadata/name") == "kubernetes");
    let cidrs = first.into_iter().chain(others).flat_map(cidrs);
    cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
}

fn cidrs(object: &Value) -> Vec<String> {
    let spec: serde_json::Map<String, Value> = decode(object, "spec").unwrap_or_default();
    let list = spec.get("cidrs").and_then(Value::as_array).into_iter().flatten();
    list.map(|cidr| cidr.as_str().unwrap_or_default().to_owned()).collect()
}

/// A range as it is stored.
pub fn admit(new: &Value, old: Option<&Value>) -> Result<Value, Invalid> {
    let mut errors = Errors::default();
    let texts = cidrs(new);
    match texts.len() {
        0 => errors.required("spec.cidrs", "at least one CIDR required"),
        1 | 2 => {}
        _ => errors.invalid("spec.cidrs", &texts, "may only hold up to 2 values"),
    }
    let mut families = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let field = format!("spec.cidrs[{i}]");
        match text.parse::<IpNet>() {
            Ok(range) if range.trunc() == range => families.push(Family::of(range.network())),
            Ok(range) => {
                let why = format!("must not have bits set beyond the prefix length; use {}", range.trunc());
                errors.invalid(field, text, why);
            }
            Err(_) => errors.invalid(field, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        }
    }
    if families.len() == 2 && families[0] == families[1] {
        errors.invalid(
            "spec.cidrs",
            &texts,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
    if old.is_some_and(|old| cidrs(old) != texts) {
        errors.invalid("spec.cidrs", &texts, "field is immutable");
    }
    errors.check(new)?;
    let mut stored = new.clone();
    stored["status"] = json!({ "conditions": [ready()] });
    Ok(stored)
}

/// The Service that keeps a ServiceCIDR from being deleted: its address lies in no other range.
pub fn holder<'s>(object: &Value, all: &[Value], services: &'s [Value]) -> Option<&'s Value> {
    let others: Vec<Value> =
        all.iter().filter(|o| o["metadata"]["name"] != object["metadata"]["name"]).cloned().collect();
    let (gone, rest) = (ranges(std::slice::from_ref(object)), ranges(&others));
    services.iter().find(|service| {
        let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
        let mut ips = ips.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
        let inside = |ranges: &[IpNet], ip: IpAddr| ranges.iter().any(|range| is_usable(*range, ip));
        ips.any(|ip| inside(&gone, ip) && !inside(&rest, ip))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::controlplane::testing::{service, yaml};

    fn object(name: &str, cidrs: &str) -> Value {
        yaml(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: {name}}}, spec: {{cidrs: {cidrs}}}}}"
        ))
    }

    #[test]
    fn ranges_are_checked_and_do_not_change() {
        let good = admit(&object("more", "[10.97.0.0/24]"), None).unwrap();
        assert_eq!(good["status"]["conditions"][0]["type"], "Ready");
        let refused = |cidrs: &str, old: Option<&Value>| admit(&object("more", cidrs), old).unwrap_err().to_string();
        assert!(refused("[]", None).ends_with("spec.cidrs: Required value: at least one CIDR required"));
        assert!(refused("[10.97.0.1/24]", None).contains("must not have bits set"));
        assert!(refused("[10.97.0.0/24, 10.98.0.0/24]", None).contains("no more than one IP for each IP family"));
        assert!(refused("[10.98.0.0/24]", Some(&good)).ends_with("field is immutable"));
    }

    #[test]
    fn a_range_in_use_is_held() {
        let all = [object("more", "[10.97.0.0/24]"), default_object()];
        assert_eq!(ranges(&all)[0].to_string(), DEFAULT[0]);
        let inside = [service("clusterIPs: [10.97.0.5]")];
        assert!(holder(&all[0], &all, &inside).is_some());
        assert!(holder(&all[1], &all, &inside).is_none());
    }
}
