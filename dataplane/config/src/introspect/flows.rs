//! Flows, and which of them are asked for.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which flows are asked for: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// One side is this pod, "namespace/name".
    pub pod: Option<String>,
    /// They go through this Service, "namespace/name".
    pub service: Option<String>,
    /// The other side is behind this node.
    pub peer: Option<String>,
    /// The client, the address that it called or the backend is this.
    pub address: Option<IpAddr>,
    /// Their [`Flow::state`].
    pub state: Option<String>,
    /// The most flows to answer with; 10,000 where not given.
    pub limit: Option<usize>,
}

/// One flow, both directions together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, or the protocol's number.
    pub protocol: String,
    /// As the initiator sees it.
    pub original: Tuple,
    /// As the responder sees it; the same where nothing is translated.
    pub translated: Tuple,
    /// Where it came in: a port's name.
    pub from: String,
    /// Where it goes: a port's name.
    pub to: String,
    /// The local pods of both sides, "namespace/name"; empty where there is none.
    pub pods: [String; 2],
    /// The Service that it goes through, "namespace/name"; empty if none.
    pub service: String,
    /// The other node of the tunnel; empty if there is none.
    pub peer: String,
    /// Its state, or class of timeout: `syn`, `established`, `udp` and the like, `denied`.
    pub state: String,
    /// Milliseconds since its last packet in either direction.
    pub idle_ms: u64,
    /// The worker of the initiator's direction.
    pub worker: u8,
}

/// Addresses and ports of a packet. For ICMP the port is the echo id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub destination_port: u16,
}
