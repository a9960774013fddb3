//! What an API server fills in before it looks.

use super::types::{ClientIpConfig, IntOrString, ServiceSpec, SessionAffinityConfig};

/// Three hours.
const CLIENT_IP_TIMEOUT: i64 = 10_800;

/// Defaults that depend on nothing but the spec.
pub fn fill(spec: &mut ServiceSpec) {
    if spec.kind.is_empty() {
        spec.kind = "ClusterIP".into();
    }
    if spec.session_affinity.is_empty() {
        spec.session_affinity = "None".into();
    }
    match spec.session_affinity.as_str() {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client_ip = config.client_ip.get_or_insert_with(ClientIpConfig::default);
            client_ip.timeout_seconds.get_or_insert(CLIENT_IP_TIMEOUT);
        }
        _ => {}
    }
    for port in &mut spec.ports {
        if port.protocol.is_empty() {
            port.protocol = "TCP".into();
        }
        if matches!(&port.target_port, None | Some(IntOrString::Int(0))) {
            port.target_port = Some(IntOrString::Int(port.port));
        }
        if port.target_port == Some(IntOrString::String(String::new())) {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if spec.kind != "ExternalName" {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".into());
    }
    if is_external(spec) {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".into());
    }
    if spec.kind == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// Whether packets come to it from outside of the cluster.
pub fn is_external(spec: &ServiceSpec) -> bool {
    matches!(spec.kind.as_str(), "NodePort" | "LoadBalancer")
        || (spec.kind == "ClusterIP" && !spec.external_ips.is_empty())
}

/// Whether it has a health check of its own on every node.
pub fn needs_health_check(spec: &ServiceSpec) -> bool {
    spec.kind == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Whether its ports get node ports.
pub fn needs_node_ports(spec: &ServiceSpec) -> bool {
    spec.kind == "NodePort" || (spec.kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false))
}

/// Whether it was asked to have no address.
pub fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None") || spec.cluster_ips.first().is_some_and(|ip| ip == "None")
}
