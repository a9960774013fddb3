//! Bodies of requests and answers, version 1.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which pod a CNI call is for, from `K8S_POD_*` in `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty where the runtime gave none.
    pub uid: String,
}

/// The longest container ID in bytes that plugin and agent accept: it must fit into an interface alias (255 bytes in
/// Linux) together with the interface's name. The specification sets no limit; runtimes use 64.
pub const MAX_CONTAINER_ID: usize = 200;

/// The longest name of an interface in bytes (Linux: IFNAMSIZ less the final zero).
pub const MAX_IFNAME: usize = 15;

/// What identifies an attachment in every call: one interface of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// `POST /v1/cni/add`: reserves addresses and a MAC. Called again for the same attachment it answers the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRequest {
    /// The attachment.
    pub attachment: AttachmentId,
    /// `CNI_NETNS`, so that the agent can tell live sandboxes from dead ones.
    pub netns: String,
    /// The pod, where the runtime names one.
    pub pod: Option<PodRef>,
    /// Ports of the node that should lead to it (capability `portMappings`).
    #[serde(default)]
    pub host_ports: Vec<PortMapping>,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address at which it is served; `None` (and the unspecified addresses): at all of the node's, and 127.0.0.1.
    pub host_ip: Option<IpAddr>,
    /// The port there.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// Answer to [`AddRequest`]: all that the plugin needs to wire the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddReply {
    /// Name that the host end of the veth pair must get.
    pub host_ifname: String,
    /// The pod's Ethernet address, "aa:bb:cc:dd:ee:ff".
    pub mac: String,
    /// The pod's addresses, at most one of each family; the prefix is /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// Link-local gateways, one for each family in `addresses`.
    pub gateways: Vec<IpAddr>,
    /// The gateways' Ethernet address, for permanent neighbours.
    pub gateway_mac: String,
    /// MTU of the pod's interface in bytes.
    pub mtu: u16,
    /// Ports of the node that lead to it, each once, sorted.
    #[serde(default)]
    pub host_ports: Vec<PortMapping>,
}

/// `POST /v1/cni/ready`: the devices exist; answers 200 once every worker forwards for the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyRequest {
    /// The attachment, added before.
    pub attachment: AttachmentId,
}

/// `POST /v1/cni/del`: gives everything back; an unknown attachment is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelRequest {
    /// The attachment.
    pub attachment: AttachmentId,
}

/// `POST /v1/cni/check`: 200 with the lease where the attachment exists and is in force, else 404.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The attachment.
    pub attachment: AttachmentId,
}

/// `POST /v1/cni/gc`: every attachment that is not listed is given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// `cni.dev/valid-attachments`.
    pub valid: Vec<AttachmentId>,
}

/// Answer to `del` and `gc`: host interfaces that no longer belong to anybody; the plugin removes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Names of the host ends.
    pub host_ifnames: Vec<String>,
}

/// Any error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What was wrong and what to do.
    pub message: String,
    /// Whether the same call may succeed later (CNI error code 11).
    pub retry: bool,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version line of the agent.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// Whether a first configuration is in force (CNI STATUS).
    pub ready: bool,
    /// Why not, or what is wrong although it is.
    pub conditions: Vec<String>,
    /// Whether the dataplane is connected.
    pub dataplane_connected: bool,
    /// The last generation sent and the last one in force.
    pub generation: Generations,
    /// Objects that were refused: file, line and reason.
    pub refused: Vec<RefusedObject>,
    /// Leases by family: in use and the range's size.
    pub addresses: Vec<PoolUse>,
    /// Live attachments.
    pub attachments: Vec<Attachment>,
    /// The node's conditions as they should stand on its Node object.
    #[serde(default)]
    pub node_conditions: Vec<NodeCondition>,
    /// The last events, oldest first.
    #[serde(default)]
    pub events: Vec<NodeEvent>,
}

/// A condition of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// One word, stable.
    pub reason: String,
    /// What is so and what to do.
    pub message: String,
    /// Since when the status is what it is, RFC 3339.
    pub since: String,
}

/// Something that happened, for a person to act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When, RFC 3339.
    pub at: String,
    /// `Normal` or `Warning`.
    pub severity: String,
    /// One word, stable.
    pub reason: String,
    /// Whom it is about: "Pod default/web".
    pub about: String,
    /// What happened and what to do.
    pub note: String,
}

/// Progress of configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Last one sent.
    pub sent: u64,
    /// Last one that every worker forwards by.
    pub applied: u64,
}

/// An object that could not be used; the last good one of that name stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedObject {
    /// File and line, "path:line".
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Use of an address range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUse {
    /// The range.
    pub cidr: String,
    /// Addresses in use.
    pub used: u64,
    /// Addresses that can be given out.
    pub size: u64,
}

/// An attachment as the agent keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its identity.
    pub id: AttachmentId,
    /// Its pod.
    pub pod: Option<PodRef>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The host end.
    pub host_ifname: String,
    /// Whether every worker forwards for it.
    pub ready: bool,
}
