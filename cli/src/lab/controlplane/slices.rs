//! The EndpointSlice controller: a Service and the Pods that it selects in, its EndpointSlices out; and an API
//! server's way with slices that people write themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Invalid;
use super::defaults::is_headless;
use super::invalid::Errors;
use super::types::{
    Conditions, Endpoint, EndpointPort, Family, Hints, IntOrString, Named, ServicePort, ServiceSpec, decode, encode,
    text,
};
use super::validate::{is_port, special};

/// The label by which slices are known as this controller's.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints that a slice may have.
const PER_SLICE: usize = 100;
/// Endpoints that a slice of other makers may have.
const MOST: usize = 1000;

/// Whether a slice is this controller's, of any Service.
pub fn is_derived(slice: &Value) -> bool {
    slice["metadata"]["labels"][MANAGED_BY] == CONTROLLER
}

/// The slices that a Service should have. `existing` are the derived ones that it has: endpoints stay in their slices,
/// so that a change touches as few of them as can be.
pub fn derive(service: &Value, pods: &[Value], nodes: &[Value], existing: &[&Value]) -> Vec<Value> {
    let Ok(spec) = decode::<ServiceSpec>(service, "spec") else { return Vec::new() };
    // Without a selector the slices are somebody else's.
    if spec.selector.is_empty() || spec.kind == "ExternalName" {
        return Vec::new();
    }
    let zones: BTreeMap<_, _> = nodes.iter().map(|node| (text(node, "/metadata/name"), zone(node))).collect();
    let selected: Vec<_> = pods.iter().filter(|pod| selects(service, &spec, pod)).collect();
    let mut slices = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        if !spec.ip_families.contains(&family.to_string()) {
            continue;
        }
        let mut groups: BTreeMap<Vec<EndpointPort>, Vec<Endpoint>> = BTreeMap::new();
        for pod in &selected {
            if let Some(endpoint) = endpoint(service, &spec, pod, family, &zones) {
                groups.entry(ports(&spec, pod)).or_default().push(endpoint);
            }
        }
        if groups.is_empty() {
            // One without endpoints says that the Service was looked at.
            groups.insert(Vec::new(), Vec::new());
        }
        let of_family: Vec<_> = existing.iter().filter(|s| text(s, "/addressType") == family.to_string()).collect();
        let packed: Vec<_> = groups
            .into_iter()
            .flat_map(|(ports, endpoints)| {
                let ports = encode(&ports);
                let same: Vec<_> = of_family.iter().filter(|s| s["ports"] == ports).map(|s| **s).collect();
                pack(endpoints, &same).into_iter().map(move |(name, endpoints)| (name, ports.clone(), endpoints))
            })
            .collect();
        let mut names: BTreeSet<String> = packed.iter().filter_map(|(name, ..)| name.clone()).collect();
        for (name, ports, endpoints) in packed {
            let name = name.unwrap_or_else(|| new_name(service, family, &mut names));
            slices.push(slice(service, &spec, family, &name, &ports, &endpoints));
        }
    }
    slices
}

/// Puts endpoints into slices: into the one where an endpoint was, then where there is room, then into new ones.
fn pack(endpoints: Vec<Endpoint>, existing: &[&Value]) -> Vec<(Option<String>, Vec<Endpoint>)> {
    let place =
        |endpoint: &Value| (endpoint["targetRef"]["uid"].clone().to_string(), endpoint["addresses"].to_string());
    let mut places = BTreeMap::new();
    let mut packed: Vec<(Option<String>, Vec<Endpoint>)> = Vec::new();
    for (i, slice) in existing.iter().enumerate() {
        packed.push((Some(text(slice, "/metadata/name").to_owned()), Vec::new()));
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            places.insert(place(endpoint), i);
        }
    }
    let mut others = Vec::new();
    for endpoint in endpoints {
        match places.get(&place(&encode(&endpoint))) {
            Some(&i) => packed[i].1.push(endpoint),
            None => others.push(endpoint),
        }
    }
    for endpoint in others {
        match packed.iter_mut().find(|(_, list)| list.len() < PER_SLICE) {
            Some((_, list)) => list.push(endpoint),
            None => packed.push((None, vec![endpoint])),
        }
    }
    if packed.is_empty() {
        packed.push((None, Vec::new()));
    }
    // Empty slices go, but for the last one.
    let (full, empty): (Vec<_>, Vec<_>) = packed.into_iter().partition(|(_, list)| !list.is_empty());
    if full.is_empty() { empty.into_iter().take(1).collect() } else { full }
}

fn new_name(service: &Value, family: Family, names: &mut BTreeSet<String>) -> String {
    let stem = format!("{}-{}", text(service, "/metadata/name"), family.to_string().to_lowercase());
    let mut numbered = (1u32..).map(|n| format!("{stem}-{n}"));
    let name = numbered.find(|name| !names.contains(name)).unwrap_or(stem);
    names.insert(name.clone());
    name
}

fn selects(service: &Value, spec: &ServiceSpec, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    text(service, "/metadata/namespace") == text(pod, "/metadata/namespace")
        && spec.selector.iter().all(|(key, value)| labels[key] == **value)
        && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn zone(node: &Value) -> &str {
    text(node, "/metadata/labels/topology.kubernetes.io~1zone")
}

/// Whether a condition of the Pod says yes.
pub fn pod_is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn endpoint(
    service: &Value,
    spec: &ServiceSpec,
    pod: &Value,
    family: Family,
    zones: &BTreeMap<&str, &str>,
) -> Option<Endpoint> {
    let ips = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    let mut ips = ips.filter_map(|ip| ip["ip"].as_str()?.parse::<IpAddr>().ok());
    let address = ips.find(|ip| Family::of(*ip) == family)?;
    let terminating = pod.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    let serving = pod_is_ready(pod);
    let ready = spec.publish_not_ready_addresses || (serving && !terminating);
    let node = text(pod, "/spec/nodeName");
    let zone = zones.get(node).filter(|zone| !zone.is_empty()).map(|zone| (*zone).to_owned());
    let hostname = Some(text(pod, "/spec/hostname")).filter(|h| !h.is_empty());
    let in_subdomain = text(pod, "/spec/subdomain") == text(service, "/metadata/name");
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Conditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        hostname: hostname.filter(|_| in_subdomain).map(str::to_owned),
        target_ref: Some(json!({
            "kind": "Pod", "namespace": text(pod, "/metadata/namespace"), "name": text(pod, "/metadata/name"),
            "uid": text(pod, "/metadata/uid"),
        })),
        deprecated_topology: None,
        node_name: Some(node.to_owned()).filter(|n| !n.is_empty()),
        hints: if ready { hints(spec, node, zone.as_deref()) } else { None },
        zone,
    })
}

/// What `trafficDistribution` means for one endpoint (KEP-4444, KEP-3015).
fn hints(spec: &ServiceSpec, node: &str, zone: Option<&str>) -> Option<Hints> {
    let named = |name: &str| vec![Named { name: name.to_owned() }];
    let for_zones = zone.map(named).unwrap_or_default();
    let for_nodes = match spec.traffic_distribution.as_deref()? {
        "PreferSameNode" if !node.is_empty() => named(node),
        _ => Vec::new(),
    };
    let hints = Hints { for_zones, for_nodes };
    (hints != Hints::default()).then_some(hints)
}

/// A Service's ports as this Pod has them. A named port that it lacks is left out.
fn ports(spec: &ServiceSpec, pod: &Value) -> Vec<EndpointPort> {
    if spec.ports.is_empty() && is_headless(spec) {
        return Vec::new();
    }
    let port = |port: &ServicePort| {
        let number = match port.target_port.as_ref()? {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => container_port(pod, name, &port.protocol)?,
        };
        Some(EndpointPort {
            name: port.name.clone(),
            protocol: port.protocol.clone(),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    };
    spec.ports.iter().filter_map(port).collect()
}

fn container_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let ports = list("/spec/containers").flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let mut fitting = ports.filter(|p| p["name"] == name && p["protocol"].as_str().unwrap_or("TCP") == protocol);
    fitting.find_map(|p| p["containerPort"].as_i64())
}

fn slice(
    service: &Value,
    spec: &ServiceSpec,
    family: Family,
    name: &str,
    ports: &Value,
    endpoints: &[Endpoint],
) -> Value {
    let mut labels = service.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), service["metadata"]["name"].clone());
    labels.insert(MANAGED_BY.into(), json!(CONTROLLER));
    labels.remove("service.kubernetes.io/headless");
    if is_headless(spec) {
        labels.insert("service.kubernetes.io/headless".into(), json!(""));
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": service["metadata"]["namespace"], "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service["metadata"]["name"],
                "uid": service["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family.to_string(), "endpoints": encode(&endpoints), "ports": ports,
    })
}

/// A slice that somebody wrote, as it is stored.
pub fn admit(new: &Value, old: Option<&Value>) -> Result<Value, Invalid> {
    let kind = text(new, "/addressType");
    let mut endpoints: Vec<Endpoint> = decode(new, "endpoints")?;
    let mut ports: Vec<EndpointPort> = decode(new, "ports")?;
    for port in ports.iter_mut().filter(|port| port.protocol.is_empty()) {
        port.protocol = "TCP".into();
    }
    for hints in endpoints.iter_mut().filter_map(|endpoint| endpoint.hints.as_mut()) {
        hints.for_zones.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let mut errors = Errors::default();
    match kind {
        "" => errors.required("addressType", ""),
        _ => errors.supported("addressType", kind, &["FQDN", "IPv4", "IPv6"]),
    }
    if old.is_some_and(|old| text(old, "/addressType") != kind) {
        errors.invalid("addressType", kind, "field is immutable");
    }
    if endpoints.len() > MOST {
        errors.invalid("endpoints", endpoints.len(), format!("must have at most {MOST} items"));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{i}].addresses");
        if endpoint.addresses.is_empty() {
            errors.required(&field, "must contain at least 1 address");
        }
        for (j, address) in endpoint.addresses.iter().enumerate().filter(|_| kind != "FQDN") {
            match address.parse::<IpAddr>() {
                Ok(ip) if Family::of(ip).to_string() == kind => {
                    if let Some(why) = special(ip) {
                        errors.invalid(format!("{field}[{j}]"), address, why);
                    }
                }
                _ => errors.invalid(format!("{field}[{j}]"), address, format!("must be a valid {kind} address")),
            }
        }
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        if !names.insert(&port.name) {
            errors.duplicate(format!("ports[{i}].name"), &port.name);
        }
        errors.supported(format!("ports[{i}].protocol"), &port.protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(number) = port.port.filter(|number| !is_port(*number)) {
            errors.invalid(format!("ports[{i}].port"), number, "must be between 1 and 65535, inclusive");
        }
    }
    errors.check(new)?;
    let mut stored = new.clone();
    stored["endpoints"] = encode(&endpoints);
    stored["ports"] = encode(&ports);
    Ok(stored)
}

#[cfg(test)]
mod tests;
