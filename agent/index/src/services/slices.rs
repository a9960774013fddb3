//! What an EndpointSlice says that matters here.

use std::net::IpAddr;

use podplane_config::v1::Protocol;

use super::facts::{is_left_to_others, port, protocol};
use crate::k8s::{EndpointSlice, Named, SliceEndpoint};
use crate::node::{Family, is_unicast};

/// Whose a slice is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Who looks after a slice, and Kubernetes' own controller's name.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// What an EndpointSlice says. One that is no business of ours is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceFacts {
    /// "namespace/name" of its Service.
    pub(super) service: String,
    pub(super) family: Family,
    pub(super) ports: Vec<SlicePortFacts>,
    pub(super) endpoints: Vec<EndpointFacts>,
    /// What of it is not used, and why.
    pub(super) problems: Vec<String>,
    /// Whether Kubernetes' own controller made it: it comes and goes with its Service, a moment later.
    pub(super) derived: bool,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePortFacts {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointFacts {
    pub(super) address: IpAddr,
    /// "namespace/name" of its pod; empty if it is none.
    pub(super) pod: String,
    /// Its node; empty where it is not stated.
    pub(super) node: String,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) for_zones: Vec<String>,
    pub(super) for_nodes: Vec<String>,
}

impl SliceFacts {
    /// Reads a slice; `Ok(None)`: it is not for this proxy. The error says what is wrong with the whole of it; what is
    /// wrong with a part is in `problems`.
    pub(super) fn of(slice: &EndpointSlice) -> Result<Option<SliceFacts>, String> {
        if is_left_to_others(&slice.metadata).is_some() {
            return Ok(None);
        }
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::Ipv4,
            "IPv6" => Family::Ipv6,
            // Names are for other consumers.
            "FQDN" => return Ok(None),
            other => return Err(format!("addressType: \"{other}\" is none: IPv4, IPv6 or FQDN")),
        };
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(format!("it has no label {SERVICE_NAME}: nobody knows whose endpoints these are"));
        };
        let namespace = slice.metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let mut problems = Vec::new();
        let ports = ports(slice, &mut problems);
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for raw in &slice.endpoints {
            match endpoint(raw, family) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(problem) => problems.push(problem),
            }
        }
        let maker = slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
        let derived = maker.is_some_and(|maker| maker == CONTROLLER);
        Ok(Some(SliceFacts { service: format!("{namespace}/{name}"), family, ports, endpoints, problems, derived }))
    }
}

fn ports(slice: &EndpointSlice, problems: &mut Vec<String>) -> Vec<SlicePortFacts> {
    let mut ports = Vec::with_capacity(slice.ports.len());
    for raw in &slice.ports {
        // As kube-proxy: a port without a name field, or without a number ("all ports"), is used by nobody.
        let (Some(name), Some(number)) = (&raw.name, raw.port) else { continue };
        let protocol = protocol("ports.protocol", raw.protocol.as_ref());
        match protocol.and_then(|protocol| Ok((protocol, port("ports.port", number)?))) {
            Ok((protocol, port)) => ports.push(SlicePortFacts { name: name.clone(), protocol, port }),
            Err(problem) => problems.push(problem),
        }
    }
    ports
}

fn endpoint(raw: &SliceEndpoint, family: Family) -> Result<EndpointFacts, String> {
    // The first address counts, says the API since 1.21: the others are not used by anybody.
    let Some(text) = raw.addresses.iter().flatten().next() else {
        return Err("an endpoint without an address".into());
    };
    let address: IpAddr = text.parse().map_err(|_| format!("endpoint \"{text}\" is no IP address"))?;
    if !family.has(address) {
        return Err(format!("endpoint {address} is not of the slice's addressType"));
    }
    if !is_unicast(address) {
        return Err(format!(
            "endpoint {address} is loopback, link-local or no address of a host: not used (CVE-2021-25740)"
        ));
    }
    let conditions = raw.conditions.unwrap_or_default();
    let names = |named: Option<&Vec<Named>>| named.into_iter().flatten().map(|named| named.name.clone()).collect();
    let hints = raw.hints.as_ref();
    let target = raw.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = target.and_then(|t| Some(format!("{}/{}", t.namespace.as_ref()?, t.name.as_ref()?)));
    Ok(EndpointFacts {
        address,
        pod: pod.unwrap_or_default(),
        node: raw.node_name.clone().unwrap_or_default(),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        for_zones: names(hints.and_then(|hints| hints.for_zones.as_ref())),
        for_nodes: names(hints.and_then(|hints| hints.for_nodes.as_ref())),
    })
}
