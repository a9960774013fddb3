//! `GET /v1/services`: what this node makes of each Service, and why it does not use an endpoint.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A Service. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Why it is not served at all: headless, left to another proxy, ...
    pub skipped: Option<String>,
    /// What of it, or of its slices, is refused, and why.
    pub refused: Vec<String>,
    /// Its ports, one entry for each family.
    pub ports: Vec<ServicePortStatus>,
}

/// A port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePortStatus {
    /// Its name; may be empty.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Its number.
    pub port: u16,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Session affinity by client address, in seconds.
    pub affinity_seconds: Option<u32>,
    /// Where it is served.
    pub frontends: Vec<FrontendStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// Where a port is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// `cluster-ip`, `node-port`, `load-balancer`, `external-ip`.
    pub kind: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What traffic from pods and this node gets.
    pub inside: ChoiceStatus,
    /// What traffic from outside gets.
    pub outside: ChoiceStatus,
}

/// What traffic gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChoiceStatus {
    /// One of so many endpoints.
    Endpoints(usize),
    /// A refusal: nothing is usable anywhere.
    Reject,
    /// Silence: what is usable is not for this traffic.
    Drop,
}

/// An endpoint of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None`: its slice has no port of that name and protocol.
    pub port: Option<u16>,
    /// "namespace/name" of its pod; empty if it is none.
    pub pod: String,
    /// Its node; may be empty.
    pub node: String,
    /// Condition.
    pub ready: bool,
    /// Condition.
    pub serving: bool,
    /// Condition.
    pub terminating: bool,
    /// Why no traffic goes there from this node; `None`: some does.
    pub unused: Option<String>,
}
