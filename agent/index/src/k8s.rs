//! The Kubernetes objects that this agent reads, slim: fields that nothing uses are not kept.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

mod service;

pub use service::{
    ClientIpConfig, Conditions, EndpointSlice, Hints, IngressIp, LoadBalancerStatus, Named, Service, ServiceCidr,
    ServiceCidrSpec, ServiceSpec, ServiceStatus, SessionAffinityConfig, SliceEndpoint, SlicePort, SpecPort, TargetRef,
};

/// The kinds that the index keeps. Later kinds (NetworkPolicy) join here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// The kind of `apiVersion` and `kind` as an object states them; `None`: one that this agent does not use.
    pub fn of(api_version: &str, kind: &str) -> Option<Kind> {
        match (api_version, kind) {
            ("v1", "Node") => Some(Kind::Node),
            ("v1", "Namespace") => Some(Kind::Namespace),
            ("v1", "Pod") => Some(Kind::Pod),
            ("v1", "Service") => Some(Kind::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Kind::EndpointSlice),
            ("networking.k8s.io/v1", "ServiceCIDR") => Some(Kind::ServiceCidr),
            _ => None,
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::Pod | Kind::Service | Kind::EndpointSlice)
    }
}

/// What identifies an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// "namespace/name", or only the name where the kind has no namespace.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.path())
    }
}

/// `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; `default` is meant where a namespaced object states none.
    pub namespace: Option<String>,
    /// UID.
    pub uid: Option<String>,
    /// RFC 3339, UTC: the API server's form, which sorts as text.
    pub creation_timestamp: Option<String>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its `spec`.
    pub spec: NodeSpec,
    /// Its `status`.
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// The older field: the first range.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// The ranges of its pods, at most one of each family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Addresses of all types.
    pub addresses: Option<Vec<NodeAddress>>,
}

/// One of `status.addresses`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The address, or a name.
    pub address: String,
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its metadata: policy will select by its labels.
    pub metadata: Metadata,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its metadata: policy will select by its labels.
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

/// An object of a kind that the index keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Node.
    Node(Node),
    /// A Namespace.
    Namespace(Namespace),
    /// A Pod.
    Pod(Pod),
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::Namespace(_) => Kind::Namespace,
            Object::Pod(_) => Kind::Pod,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Object::Node(node) => &node.metadata,
            Object::Namespace(namespace) => &namespace.metadata,
            Object::Pod(pod) => &pod.metadata,
            Object::Service(service) => &service.metadata,
            Object::EndpointSlice(slice) => &slice.metadata,
            Object::ServiceCidr(cidr) => &cidr.metadata,
        }
    }

    /// What identifies it.
    pub fn key(&self) -> ObjectKey {
        let (kind, metadata) = (self.kind(), self.metadata());
        let namespace = match &metadata.namespace {
            _ if !kind.is_namespaced() => String::new(),
            Some(namespace) if !namespace.is_empty() => namespace.clone(),
            _ => "default".into(),
        };
        ObjectKey { kind, namespace, name: metadata.name.clone() }
    }
}
