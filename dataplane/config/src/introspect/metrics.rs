//! What is counted and measured, for a scrape: few numbers, and none that goes back while the process lives.

use serde::{Deserialize, Serialize};

use super::{BufferPool, PortKind, Worker};

/// The dataplane's counters and gauges. What is called `total` counts from the start of the process, ports that are
/// gone included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Seconds since its start.
    pub uptime_seconds: f64,
    /// The generation of the snapshot that the workers forward by.
    pub generation: u32,
    /// Whether buffers lie in hugepages.
    pub hugepages: bool,
    /// Whether they should.
    pub hugepages_wanted: bool,
    /// What the operator should know, each with its cure.
    pub warnings: Vec<String>,
    /// Packets dropped, each reason once, also those that never happened.
    pub drops: Vec<DropTotal>,
    /// What passed through ports, each kind once.
    pub traffic: Vec<Traffic>,
    /// The workers.
    pub workers: Vec<WorkerTotal>,
    /// The pools of packet buffers.
    pub buffers: Vec<BufferPool>,
    /// How full tables are.
    pub tables: Vec<Table>,
    /// Pods' ports that are connected.
    pub endpoints: u64,
    /// Endpoints that are configured but not connected.
    pub endpoints_failed: u64,
    /// Seconds that compiling the last change of policy took.
    pub policy_compile_seconds: f64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropTotal {
    /// The stable name of the reason.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// What passed through all ports of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The kind.
    pub kind: PortKind,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that were lost before we could receive them; of ports that are there now.
    pub rx_overruns: u64,
}

/// A worker, with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerTotal {
    /// What is shown of it otherwise.
    #[serde(flatten)]
    pub worker: Worker,
    /// Seconds of turns that found work, since the start.
    pub busy_seconds: f64,
}

/// How full a table is, all workers' parts of it together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its stable name.
    pub name: String,
    /// Entries (of those whose name ends in `-bytes`: bytes).
    pub used: u64,
    /// The most that it takes.
    pub capacity: u64,
    /// The load of its fullest part, 0 to 1: where each worker has a part of its own, one can be full before the others.
    pub pressure: f64,
}
