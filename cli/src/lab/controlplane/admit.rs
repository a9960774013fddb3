//! An API server's way with a Service: decode, keep what was allocated, default, validate, allocate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Invalid;
use super::allocate::{self, NODE_PORTS};
use super::defaults::{fill, is_headless, needs_health_check, needs_node_ports};
use super::invalid::Errors;
use super::types::{Family, ServiceSpec, decode, encode, text};
use super::validate;

/// What other objects have taken.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Ranges of ClusterIPs, the default first.
    ranges: Vec<IpNet>,
    addresses: BTreeSet<IpAddr>,
    node_ports: BTreeSet<(String, u16)>,
}

impl Taken {
    /// By all `services` but the one of that namespace and name, in these ranges.
    pub fn of(services: &[Value], ranges: Vec<IpNet>, but: (&str, &str)) -> Taken {
        let mut taken = Taken { ranges, ..Taken::default() };
        let others = services.iter().filter(|s| (text(s, "/metadata/namespace"), text(s, "/metadata/name")) != but);
        for spec in others.filter_map(|service| decode::<ServiceSpec>(service, "spec").ok()) {
            taken.addresses.extend(spec.cluster_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
            let ports = spec.ports.iter().map(|port| (port.protocol.clone(), port.node_port));
            let health = ("TCP".to_owned(), spec.health_check_node_port);
            let ports =
                ports.chain([health]).filter_map(|(protocol, port)| Some((protocol, u16::try_from(port).ok()?)));
            taken.node_ports.extend(ports.filter(|(_, port)| *port != 0));
        }
        taken
    }

    fn families(&self) -> Vec<Family> {
        let mut families = Vec::new();
        for family in self.ranges.iter().map(|range| Family::of(range.network())) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }
}

/// The Service as it is stored: `new` as it was applied, `old` as it was stored before.
pub fn service(new: &Value, old: Option<&Value>, taken: &Taken) -> Result<Value, Invalid> {
    let mut spec: ServiceSpec = decode(new, "spec")?;
    let old: Option<ServiceSpec> = old.map(|old| decode(old, "spec")).transpose()?;
    // A downgrade to one family gives the other one up only if the user did not name two.
    let named_two = spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1;
    if let Some(old) = &old {
        keep_allocated(&mut spec, old);
        if spec.ip_family_policy.as_deref() == Some("SingleStack") && !named_two {
            spec.cluster_ips.truncate(1);
            spec.ip_families.truncate(1);
        }
    }
    fill(&mut spec);
    // Either of the two fields stands for both where the other is absent, the list only together with the first.
    if let (Some(one), true) = (spec.cluster_ip.clone().filter(|ip| !ip.is_empty()), spec.cluster_ips.is_empty()) {
        spec.cluster_ips = vec![one];
    }
    let mut errors = Errors::default();
    validate::spec(&mut errors, text(new, "/metadata/name"), &spec);
    if let Some(old) = &old {
        validate::update(&mut errors, &spec, old);
    }
    errors.check(new)?;

    let mut errors = Errors::default();
    if spec.kind == "ExternalName" {
        spec.ports.iter_mut().for_each(|port| port.node_port = 0);
    } else {
        give_families(&mut errors, &mut spec, &taken.families());
        give_addresses(&mut errors, &mut spec, taken);
        give_node_ports(&mut errors, &mut spec, taken);
    }
    errors.check(new)?;
    let mut stored = new.clone();
    stored["spec"] = encode(&spec);
    if stored.get("status").is_none() && old.is_none() {
        stored["status"] = json!({ "loadBalancer": {} });
    }
    Ok(stored)
}

/// What an apply that does not name it leaves as it was.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if new.kind == "ExternalName" || old.kind == "ExternalName" {
        return;
    }
    if new.cluster_ip.as_ref().is_none_or(String::is_empty) {
        new.cluster_ip = old.cluster_ip.clone();
    }
    if new.cluster_ips.is_empty() && new.cluster_ip == old.cluster_ip {
        new.cluster_ips = old.cluster_ips.clone();
    }
    if new.ip_families.is_empty() {
        new.ip_families = old.ip_families.clone();
    }
    if new.ip_family_policy.is_none() {
        new.ip_family_policy = old.ip_family_policy.clone();
    }
    let filled = |spec: &ServiceSpec| {
        let mut spec = spec.clone();
        fill(&mut spec);
        spec
    };
    let defaulted = filled(new);
    if needs_node_ports(&defaulted) && needs_node_ports(old) {
        let before: BTreeMap<_, _> =
            old.ports.iter().map(|port| ((port.protocol.as_str(), port.port), port.node_port)).collect();
        let used: BTreeSet<_> = new.ports.iter().map(|port| port.node_port).filter(|port| *port != 0).collect();
        for (port, filled) in new.ports.iter_mut().zip(&defaulted.ports).filter(|(port, _)| port.node_port == 0) {
            let kept = before.get(&(filled.protocol.as_str(), filled.port)).copied().unwrap_or(0);
            port.node_port = if used.contains(&kept) { 0 } else { kept };
        }
    }
    if needs_health_check(&defaulted) && needs_health_check(old) && new.health_check_node_port == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// Settles which families a Service has, and under which policy (KEP-563).
fn give_families(errors: &mut Errors, spec: &mut ServiceSpec, cluster: &[Family]) {
    let policy = spec.ip_family_policy.get_or_insert_with(|| {
        let two = spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1;
        // Headless ones without a selector take every family, for nobody knows their endpoints'.
        let unknown = spec.cluster_ips.first().is_some_and(|ip| ip == "None") && spec.selector.is_empty();
        if two || unknown { "RequireDualStack".into() } else { "SingleStack".into() }
    });
    if policy == "RequireDualStack" && cluster.len() < 2 && !spec.selector.is_empty() {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid("spec.ipFamilyPolicy", &*policy, why);
        return;
    }
    let wanted = if policy == "SingleStack" { 1 } else { cluster.len().min(2) };
    // Addresses that were chosen say their family.
    for address in spec.cluster_ips.iter().skip(spec.ip_families.len()).filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        spec.ip_families.push(Family::of(address).to_string());
    }
    for (i, family) in spec.ip_families.iter().enumerate() {
        if !cluster.iter().any(|known| known.to_string() == *family) {
            let why = "not configured on this cluster";
            errors.invalid(format!("spec.ipFamilies[{i}]"), family, why);
        }
    }
    for family in cluster.iter().map(Family::to_string) {
        if spec.ip_families.len() < wanted && !spec.ip_families.contains(&family) {
            spec.ip_families.push(family);
        }
    }
}

fn give_addresses(errors: &mut Errors, spec: &mut ServiceSpec, taken: &Taken) {
    if is_headless(spec) {
        (spec.cluster_ip, spec.cluster_ips) = (Some("None".into()), vec!["None".into()]);
        return;
    }
    for ip in spec.cluster_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        let why = if taken.addresses.contains(&ip) {
            "provided IP is already allocated".to_owned()
        } else if taken.ranges.iter().any(|range| allocate::is_usable(*range, ip)) {
            continue;
        } else {
            let ranges = taken.ranges.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ");
            format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {ranges}")
        };
        errors.invalid("spec.clusterIPs", &spec.cluster_ips, format!("failed to allocate IP {ip}: {why}"));
    }
    for family in spec.ip_families.iter().skip(spec.cluster_ips.len()).cloned().collect::<Vec<_>>() {
        let mut ranges = taken.ranges.iter().filter(|range| Family::of(range.network()).to_string() == family);
        match ranges.find_map(|range| allocate::address(*range, &taken.addresses)) {
            Some(address) => spec.cluster_ips.push(address.to_string()),
            None => {
                errors.invalid("spec.clusterIPs", &spec.cluster_ips, "failed to allocate a serviceIP: range is full")
            }
        }
    }
    spec.cluster_ip = spec.cluster_ips.first().cloned();
}

fn give_node_ports(errors: &mut Errors, spec: &mut ServiceSpec, taken: &Taken) {
    let mut used = taken.node_ports.clone();
    let mut claim = |errors: &mut Errors, field: String, protocol: &str, port: i64| match u16::try_from(port) {
        Ok(number) if NODE_PORTS.contains(&number) => {
            if !used.insert((protocol.to_owned(), number)) {
                errors.invalid(field, port, "provided port is already allocated");
            }
        }
        _ => {
            let (first, last) = (NODE_PORTS.start(), NODE_PORTS.end());
            let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
            errors.invalid(field, port, why);
        }
    };
    if spec.kind == "NodePort" || spec.kind == "LoadBalancer" {
        for (i, port) in spec.ports.iter().enumerate().filter(|(_, port)| port.node_port != 0) {
            claim(errors, format!("spec.ports[{i}].nodePort"), &port.protocol, port.node_port);
        }
    }
    if spec.health_check_node_port != 0 {
        claim(errors, "spec.healthCheckNodePort".into(), "TCP", spec.health_check_node_port);
    }
    let mut numbers: BTreeSet<u16> = used.iter().map(|(_, port)| *port).collect();
    let mut given: BTreeMap<i64, (BTreeSet<String>, u16)> = BTreeMap::new();
    let needs = needs_node_ports(spec);
    for (i, port) in spec.ports.iter_mut().enumerate().filter(|(_, port)| needs && port.node_port == 0) {
        // The same port of several protocols gets one node port, as an API server tries to.
        if let Some((protocols, number)) = given.get_mut(&port.port)
            && protocols.insert(port.protocol.clone())
        {
            port.node_port = (*number).into();
            continue;
        }
        let Some(number) = allocate::node_port(&numbers) else {
            errors.invalid(format!("spec.ports[{i}].nodePort"), 0, "failed to allocate a nodePort: range is full");
            return;
        };
        numbers.insert(number);
        port.node_port = number.into();
        given.insert(port.port, ([port.protocol.clone()].into(), number));
    }
    if needs_health_check(spec) && spec.health_check_node_port == 0 {
        match allocate::node_port(&numbers) {
            Some(number) => spec.health_check_node_port = number.into(),
            None => errors.invalid("spec.healthCheckNodePort", 0, "failed to allocate a nodePort: range is full"),
        }
    }
}

#[cfg(test)]
mod tests;
