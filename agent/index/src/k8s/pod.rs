//! Pods.

use serde::Deserialize;

use super::Metadata;

/// The annotations that are used here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// Of a static pod's object: the UID by which its kubelet, and so the CNI call, knows it.
    #[serde(rename = "kubernetes.io/config.mirror")]
    pub mirror: Option<String>,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its metadata: policy selects by its labels.
    pub metadata: Metadata,
    /// Its `spec`.
    pub spec: PodSpec,
    /// Its `status`.
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node that it was scheduled to.
    pub node_name: Option<String>,
    /// Whether it lives in the node's own network namespace.
    pub host_network: Option<bool>,
    /// Its containers.
    pub containers: Option<Vec<Container>>,
    /// Those that run before, or as sidecars beside.
    pub init_containers: Option<Vec<Container>>,
}

/// A container: its ports have names that policies use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its ports.
    pub ports: Option<Vec<ContainerPort>>,
    /// `Always` makes a sidecar of an init container.
    pub restart_policy: Option<String>,
}

/// One of a container's `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number; read wider than it may be, as everywhere.
    pub container_port: i64,
    /// `TCP` (also where it is not stated), `UDP`, `SCTP`.
    pub protocol: Option<String>,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: Option<String>,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
}

/// One of `status.podIPs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}
