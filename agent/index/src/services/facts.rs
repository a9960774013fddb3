//! What a Service says that matters here, checked by itself.

use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1::Protocol;

use crate::k8s::{Metadata, Service, SpecPort};
use crate::node::{Family, is_unicast};

/// Another proxy's Services (and slices): the label names it.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Services (and slices) that no proxy serves.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i64 = 10_800;
/// Its limit.
const MAX_AFFINITY_SECONDS: i64 = 86_400;
/// The longest name, in bytes (a DNS subdomain, RFC 1123).
const MAX_NAME: usize = 253;

/// Whether the labels say that the object is no business of this proxy: the reason.
pub(super) fn is_left_to_others(metadata: &Metadata) -> Option<String> {
    let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name));
    if let Some(proxy) = label(PROXY_NAME) {
        return Some(format!("left to the proxy \"{proxy}\" (label {PROXY_NAME})"));
    }
    label(HEADLESS).map(|_| format!("headless (label {HEADLESS})"))
}

/// What a Service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    /// Who keeps what two Services claim: the older one (RFC 3339 text; later than all where it is not stated).
    pub(super) created: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    pub(super) kind: String,
    /// Why it is not served at all; then the rest is empty.
    pub(super) skipped: Option<String>,
    /// At most one of each family.
    pub(super) cluster_ips: Vec<IpAddr>,
    pub(super) ports: Vec<PortFacts>,
    pub(super) affinity_seconds: Option<u32>,
    pub(super) external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that packets come with.
    pub(super) vips: Vec<IpAddr>,
    /// Who may use `vips`, of both families.
    pub(super) source_ranges: Vec<IpNet>,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    pub(super) health_check_node_port: Option<u16>,
}

/// One of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortFacts {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
}

impl ServiceFacts {
    /// Checks a Service by itself; the error says what is wrong with it.
    pub(super) fn of(service: &Service) -> Result<ServiceFacts, String> {
        let spec = &service.spec;
        check_name("metadata.namespace", service.metadata.namespace.as_deref().unwrap_or("default"))?;
        check_name("metadata.name", &service.metadata.name)?;
        let kind = spec.kind.clone().unwrap_or_else(|| "ClusterIP".into());
        if let Some(reason) = skip_reason(service, &kind) {
            return Ok(ServiceFacts::skipped(service, kind, reason));
        }
        let external_ips = addresses("spec.externalIPs", spec.external_ips.iter().flatten())?;
        // As kube-proxy's ExternalPolicyLocal: the word counts only where something comes from outside.
        let is_exposed = matches!(&*kind, "NodePort" | "LoadBalancer") || !external_ips.is_empty();
        let external_local = policy("external", spec.external_traffic_policy.as_ref())? && is_exposed;
        let health = spec.health_check_node_port.filter(|port| *port != 0);
        let health = health.map(|number| port("spec.healthCheckNodePort", number)).transpose()?;
        Ok(ServiceFacts {
            created: created(&service.metadata),
            skipped: None,
            cluster_ips: cluster_ips(service)?,
            ports: ports(spec.ports.as_deref().unwrap_or_default())?,
            affinity_seconds: affinity(service)?,
            external_ips,
            vips: vips(service)?,
            source_ranges: source_ranges(spec.load_balancer_source_ranges.as_deref().unwrap_or_default())?,
            internal_local: policy("internal", spec.internal_traffic_policy.as_ref())?,
            external_local,
            health_check_node_port: health.filter(|_| external_local && kind == "LoadBalancer"),
            kind,
        })
    }

    fn skipped(service: &Service, kind: String, reason: String) -> ServiceFacts {
        ServiceFacts {
            created: created(&service.metadata),
            skipped: Some(reason),
            kind,
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            affinity_seconds: None,
            external_ips: Vec::new(),
            vips: Vec::new(),
            source_ranges: Vec::new(),
            internal_local: false,
            external_local: false,
            health_check_node_port: None,
        }
    }

    /// Its address of a family.
    pub(super) fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|address| family.has(*address))
    }
}

/// The dataplane would refuse a whole transaction for a name that is none.
fn check_name(field: &str, name: &str) -> Result<(), String> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if name.len() > MAX_NAME || name.chars().any(bad) {
        return Err(format!("{field}: {name:?} is no name"));
    }
    Ok(())
}

/// Why a Service is not served at all.
fn skip_reason(service: &Service, kind: &str) -> Option<String> {
    let spec = &service.spec;
    let stated = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).find(|text| !text.is_empty());
    match stated.map(String::as_str) {
        _ if kind == "ExternalName" => Some("type ExternalName: only a name, which DNS answers".into()),
        Some("None") => Some("headless: clients reach its endpoints directly".into()),
        None => Some("it has no ClusterIP yet".into()),
        _ => is_left_to_others(&service.metadata),
    }
}

/// RFC 3339 text; "~" sorts behind every digit.
pub(super) fn created(metadata: &Metadata) -> String {
    metadata.creation_timestamp.clone().unwrap_or_else(|| "~".into())
}

fn cluster_ips(service: &Service) -> Result<Vec<IpAddr>, String> {
    let listed = service.spec.cluster_ips.as_deref().unwrap_or_default();
    // `clusterIP` is the first of `clusterIPs`, and all there is in objects of before 1.20.
    let listed = if listed.is_empty() { service.spec.cluster_ip.as_slice() } else { listed };
    let addresses = addresses("spec.clusterIPs", listed)?;
    match addresses.as_slice() {
        [a, b] if a.is_ipv4() == b.is_ipv4() => Err(format!("spec.clusterIPs: {a} and {b} are of the same family")),
        [] | [_] | [_, _] => Ok(addresses),
        _ => Err(format!("spec.clusterIPs: {} addresses: one of each family is the most", addresses.len())),
    }
}

fn addresses<'a>(field: &str, listed: impl IntoIterator<Item = &'a String>) -> Result<Vec<IpAddr>, String> {
    let parse = |text: &String| {
        let address: IpAddr = text.trim().parse().map_err(|_| format!("{field}: \"{text}\" is no IP address"))?;
        if is_unicast(address) { Ok(address) } else { Err(format!("{field}: {address} is no address of a host")) }
    };
    listed.into_iter().filter(|text| !text.trim().is_empty()).map(parse).collect()
}

pub(super) fn port(field: &str, number: i64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{field}: {number} is no port: 1 to 65535"))
}

pub(super) fn protocol(field: &str, text: Option<&String>) -> Result<Protocol, String> {
    match text.map_or("TCP", String::as_str) {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(format!("{field}: \"{other}\" is no protocol: TCP, UDP or SCTP")),
    }
}

fn ports(listed: &[SpecPort]) -> Result<Vec<PortFacts>, String> {
    let mut ports: Vec<PortFacts> = Vec::with_capacity(listed.len());
    for raw in listed {
        check_name("spec.ports.name", raw.name.as_deref().unwrap_or_default())?;
        let new = PortFacts {
            name: raw.name.clone().unwrap_or_default(),
            protocol: protocol("spec.ports.protocol", raw.protocol.as_ref())?,
            port: port("spec.ports.port", raw.port)?,
            node_port: raw.node_port.filter(|n| *n != 0).map(|n| port("spec.ports.nodePort", n)).transpose()?,
        };
        for other in &ports {
            if other.name == new.name {
                return Err(format!("spec.ports: two are named \"{}\"", new.name));
            }
            if (other.protocol, other.port) == (new.protocol, new.port) {
                return Err(format!("spec.ports: {} {} stands there twice", new.port, new.protocol));
            }
            if other.protocol == new.protocol && other.node_port.is_some() && other.node_port == new.node_port {
                return Err(format!("spec.ports: two have node port {} {}", raw.node_port.unwrap_or(0), new.protocol));
            }
        }
        ports.push(new);
    }
    Ok(ports)
}

fn affinity(service: &Service) -> Result<Option<u32>, String> {
    match service.spec.session_affinity.as_deref() {
        None | Some("None" | "") => Ok(None),
        Some("ClientIP") => {
            let client_ip = service.spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
            let seconds = client_ip.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
            match u32::try_from(seconds) {
                Ok(n) if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Ok(Some(n)),
                _ => Err(format!("spec.sessionAffinityConfig: {seconds} seconds: 1 to {MAX_AFFINITY_SECONDS}")),
            }
        }
        Some(other) => Err(format!("spec.sessionAffinity: \"{other}\" is none: None or ClientIP")),
    }
}

/// Whether the policy is `Local`.
fn policy(which: &str, text: Option<&String>) -> Result<bool, String> {
    match text.map_or("Cluster", String::as_str) {
        "Local" => Ok(true),
        "Cluster" | "" => Ok(false),
        other => Err(format!("spec.{which}TrafficPolicy: \"{other}\" is none: Cluster or Local")),
    }
}

fn vips(service: &Service) -> Result<Vec<IpAddr>, String> {
    let ingress = service.status.load_balancer.iter().flat_map(|lb| lb.ingress.iter().flatten());
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
    addresses("status.loadBalancer.ingress", vips.filter_map(|ingress| ingress.ip.as_ref()))
}

fn source_ranges(listed: &[String]) -> Result<Vec<IpNet>, String> {
    // The API server lets blanks around a range pass.
    let stated = listed.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let parse = |text: &str| text.parse::<IpNet>().map(|net| net.trunc());
    let mut nets = Vec::with_capacity(listed.len());
    for text in stated {
        nets.push(parse(text).map_err(|_| format!("spec.loadBalancerSourceRanges: \"{text}\" is no range"))?);
    }
    nets.sort_unstable();
    nets.dedup();
    Ok(nets)
}
