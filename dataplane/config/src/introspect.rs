//! Questions to the dataplane's introspection role and its answers, as JSON.
//!
//! A question is `{"get":"status"}` and the like; [`Question`] says which answer belongs to which. Fields are only
//! ever added, so that an older or newer operator's command still reads what it knows. Numbers count from the start
//! of the dataplane unless said otherwise; Ethernet addresses are written `02:50:50:00:00:01`.

mod flows;
mod metrics;
mod policy;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use flows::{Flow, FlowFilter, Tuple};
pub use metrics::{DropTotal, Metrics, Table, Traffic, WorkerTotal};
pub use policy::{
    Behind, Direction, EndpointPolicy, Explained, Imaginary, Judgement, Leaves, Party, Policies, RuleHits, RuleSet,
    ServiceChoice, Verdict,
};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "kebab-case")]
pub enum Question {
    /// Answer: [`Status`].
    Status,
    /// Answer: a list of [`Port`].
    Ports,
    /// Answer: a list of [`Drop`], those that happened.
    Drops,
    /// Answer: a list of [`Worker`].
    Workers,
    /// Answer: [`FlowsSummary`].
    FlowsSummary,
    /// Answer: [`Metrics`].
    Metrics,
    /// Answer: a list of [`ServiceHits`], one for each frontend and host port.
    Services,
    /// Answer: [`Policies`].
    Policies,
    /// Answer: [`Explained`].
    Explain {
        /// The packet.
        packet: Imaginary,
    },
    /// Answer: a list of [`Flow`], those that the filter lets through.
    Flows {
        /// Which flows.
        #[serde(default)]
        filter: FlowFilter,
    },
}

/// The dataplane at one glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version, git revision, and the DPDK that it was built with.
    pub version: String,
    /// The DPDK that it runs with.
    pub dpdk: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// The device to the other nodes.
    pub uplink: Uplink,
    /// The node's side of the host port.
    pub host_ifname: String,
    /// The generation of the snapshot that the workers forward by.
    pub generation: u32,
    /// The agent and what it said last.
    pub agent: Agent,
    /// This node as the agent described it; `None` before it did: everything passes between uplink and host at L2.
    pub node: Option<Node>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Pods' ports that are connected.
    pub endpoints: usize,
    /// Endpoints that are configured but not connected, with the reason.
    pub failed: Vec<Failure>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The pools of packet buffers.
    pub buffers: Vec<BufferPool>,
    /// Whether buffers lie in hugepages.
    pub hugepages: bool,
    /// What the operator should know, each with its cure.
    pub warnings: Vec<String>,
    /// The flow tables' load.
    pub flows: FlowsSummary,
    /// Packets dropped, for all reasons together.
    pub dropped: u64,
}

/// The device to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// As given to `--uplink`.
    pub spec: String,
    /// The device's name.
    pub name: String,
    /// The node's Ethernet address on it.
    pub mac: String,
    /// Longest IP packet in bytes.
    pub mtu: u16,
    /// Whether it can carry packets.
    pub link: Link,
}

/// Whether a device can carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// As far as is known it can.
    Up,
    /// Administratively down.
    Down,
    /// Removed.
    Gone,
}

/// The agent and what it said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Whether one is connected now.
    pub connected: bool,
    /// The generation of its last transaction that is in force.
    pub applied: Option<u64>,
    /// Why its last transaction was refused, if it was.
    pub refused: Option<String>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// The VXLAN network.
    pub vni: u32,
    /// The pods' MTU in bytes.
    pub pod_mtu: u16,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// The next hop towards it: the VTEP itself or a router. `None`: the node has no route to it by the host port.
    pub via: Option<IpAddr>,
    /// The next hop's Ethernet address. `None`: it has not answered; packets to the node are dropped as
    /// `next-hop-unresolved`.
    pub next_hop: Option<String>,
}

/// An endpoint that is not connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its identity.
    pub id: String,
    /// Its pod, "namespace/name"; may be empty.
    pub pod: String,
    /// The cause and the cure.
    pub reason: String,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub id: u8,
    /// The CPU that it is bound to, if it is.
    pub cpu: Option<usize>,
    /// The part of its time that it had packets to work on, 0 to 1, over the last seconds.
    pub busy: f64,
    /// Turns of its loop.
    pub loops: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
    /// The generation that it forwards by.
    pub generation: u32,
    /// Ports that have it as their home.
    pub ports: usize,
    /// Packets that it received.
    pub rx_packets: u64,
    /// Packets that it sent.
    pub tx_packets: u64,
    /// Half-entries in its flow tables.
    pub flows: u64,
    /// Half-entries that fit.
    pub flow_capacity: u64,
}

/// A pool of packet buffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferPool {
    /// Its name.
    pub name: String,
    /// Buffers in use; those that wait in a worker for the next packet included.
    pub in_use: u32,
    /// Buffers in all.
    pub capacity: u32,
}

/// The flow tables of all workers together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsSummary {
    /// Half-entries: two for each connection.
    pub halves: u64,
    /// How many fit.
    pub capacity: u64,
    /// The load of the fullest worker's table, 0 to 1.
    pub pressure: f64,
}

/// One port, its counters summed over the workers since it was attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its index.
    pub id: u16,
    /// What it leads to.
    pub kind: PortKind,
    /// The device's name.
    pub name: String,
    /// The endpoint's identity; empty for uplink and host.
    pub endpoint: String,
    /// "namespace/name" of the pod; may be empty.
    pub pod: String,
    /// The worker that receives from it; `None`: all do.
    pub home: Option<u8>,
    /// The Ethernet address behind it.
    pub mac: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Longest IP packet in bytes.
    pub mtu: u16,
    /// Whether the device can carry packets.
    pub link: Link,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets that came in and were dropped, for all reasons together.
    pub drops: u64,
    /// Frames that were lost before we could receive them: the socket's buffer or the device's queue was full.
    pub rx_overruns: u64,
}

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// The other nodes.
    Uplink,
    /// The node itself.
    Host,
    /// A pod.
    Pod,
}

/// Packets that came in by one port and were dropped by one worker for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The stable name of the reason.
    pub reason: String,
    /// The reason in one sentence.
    pub explanation: String,
    /// Index of the port where they came in.
    pub port: u16,
    /// Its device's name; empty if the port is gone.
    pub name: String,
    /// Its pod, "namespace/name"; may be empty.
    pub pod: String,
    /// The worker.
    pub worker: u8,
    /// How many.
    pub packets: u64,
}

/// One address and port at which a Service's port or a host port is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHits {
    /// "namespace/name" of the Service; of a host port, of its pod.
    pub service: String,
    /// The port's name; may be empty.
    pub port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// What made it.
    pub kind: FrontendKind,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub frontend_port: u16,
    /// New flows that were sent to a backend, by all workers, since the frontend is there.
    pub hits: u64,
    /// Backends for traffic from inside; `None`: it is refused or dropped.
    pub inside: Option<usize>,
    /// Backends for traffic from outside; `None`: it is refused or dropped.
    pub outside: Option<usize>,
}

/// What made a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendKind {
    /// A ClusterIP.
    ClusterIp,
    /// A node port.
    NodePort,
    /// A load balancer's address.
    LoadBalancer,
    /// An external address.
    ExternalIp,
    /// A pod's host port.
    HostPort,
}

impl From<crate::v1::FrontendKind> for FrontendKind {
    fn from(kind: crate::v1::FrontendKind) -> FrontendKind {
        match kind {
            crate::v1::FrontendKind::ClusterIp => FrontendKind::ClusterIp,
            crate::v1::FrontendKind::NodePort => FrontendKind::NodePort,
            crate::v1::FrontendKind::LoadBalancer => FrontendKind::LoadBalancer,
            crate::v1::FrontendKind::ExternalIp => FrontendKind::ExternalIp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_what_the_documentation_says() {
        let ask = |text: &str| serde_json::from_str::<Question>(text).ok();
        assert_eq!(ask(r#"{"get":"status"}"#), Some(Question::Status));
        assert_eq!(ask(r#"{"get":"ports"}"#), Some(Question::Ports));
        assert_eq!(ask(r#"{"get":"drops"}"#), Some(Question::Drops));
        assert_eq!(ask(r#"{"get":"workers"}"#), Some(Question::Workers));
        assert_eq!(ask(r#"{"get":"flows-summary"}"#), Some(Question::FlowsSummary));
        assert_eq!(ask(r#"{"get":"metrics"}"#), Some(Question::Metrics));
        assert_eq!(ask(r#"{"get":"services"}"#), Some(Question::Services));
        assert_eq!(ask(r#"{"get":"policies"}"#), Some(Question::Policies));
        let packet = Imaginary { from: "a/b".into(), to: "::1".into(), protocol: "TCP".into(), port: 7, ipv6: false };
        let explain = r#"{"get":"explain","packet":{"from":"a/b","to":"::1","protocol":"TCP","port":7}}"#;
        assert_eq!(ask(explain), Some(Question::Explain { packet }));
        assert_eq!(ask(r#"{"get":"flows"}"#), Some(Question::Flows { filter: FlowFilter::default() }));
        let filter = FlowFilter { pod: Some("a/b".into()), limit: Some(7), ..FlowFilter::default() };
        assert_eq!(ask(r#"{"get":"flows","filter":{"pod":"a/b","limit":7}}"#), Some(Question::Flows { filter }));
        assert_eq!(ask(r#"{"get":"flows","filter":{"pot":"a/b"}}"#), None, "a filter misspelt would show all");
        assert_eq!(ask(r#"{"get":"secrets"}"#), None);
    }
}
