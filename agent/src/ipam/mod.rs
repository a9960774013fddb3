//! Addresses: who has which, kept in an embedded transactional store.
//!
//! Each call is one transaction that is on the disk when it returns: whatever moment a crash hits, a lease either is
//! there or is not. An address that was given back is not given out again until a cool-down has passed, so that peers
//! that still talk to the old pod do not reach a new one.

mod names;
mod range;
mod store;

use std::net::IpAddr;

use ipnet::IpNet;
use podplane_api::{AttachmentId, PodRef};
use podplane_config::v1::HostPort;
use serde::{Deserialize, Serialize};

pub use store::Store;

/// Milliseconds since the epoch: leases outlive processes.
pub type Moment = u64;

/// The present.
pub fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What an attachment has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub id: AttachmentId,
    /// The path of its network namespace, as the runtime gave it.
    pub netns: String,
    /// Its pod, where the runtime named one.
    pub pod: Option<PodRef>,
    /// One address of each family that the node had a range of.
    pub addresses: Vec<IpAddr>,
    /// The pod's Ethernet address.
    pub mac: [u8; 6],
    /// The name of the host end.
    pub host_ifname: String,
    /// The MTU that the pod was given, in bytes.
    pub mtu: u16,
    /// Ports of the node that lead to it.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Whether its devices were there and the dataplane had connected them: then it is connected again after restarts.
    pub ready: bool,
}

/// What is asked of [`Store::reserve`].
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// For whom.
    pub id: &'a AttachmentId,
    /// The path of its network namespace.
    pub netns: &'a str,
    /// Its pod.
    pub pod: Option<&'a PodRef>,
    /// This node's ranges now.
    pub ranges: &'a [IpNet],
    /// The pods' MTU now, in bytes.
    pub mtu: u16,
    /// Ports of the node that shall lead to it.
    pub host_ports: &'a [HostPort],
}

/// The answer of [`Store::reserve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The lease.
    pub lease: Lease,
    /// Addresses that were given out before their cool-down had passed, because the range had no other.
    pub reused_early: Vec<IpAddr>,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The node has no range.
    #[error("this node has no pods' range (spec.podCIDRs of its Node object is empty)")]
    NoRange,
    /// Every address is in use.
    #[error("all {size} addresses of {range} are in use: delete pods, or give the node a wider range")]
    Exhausted {
        /// The range.
        range: IpNet,
        /// How many addresses it has.
        size: u64,
    },
    /// Something that cannot identify an attachment.
    #[error("{0:?} cannot identify an attachment: 1 to 128 characters without '/', white space or control characters")]
    Identity(String),
    /// The store failed.
    #[error("{path}: {cause}{}", cure(.cause))]
    Store {
        /// The store's file.
        path: String,
        /// Its error.
        cause: Box<redb::Error>,
    },
    /// The store holds something that this version cannot read.
    #[error("{path}: {reason}")]
    Content {
        /// The store's file.
        path: String,
        /// What it was.
        reason: String,
    },
}

fn cure(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::DatabaseAlreadyOpen => " (another agent runs with this state directory: stop it)",
        redb::Error::Corrupted(_) => {
            " (drain the node, stop the agent, remove the file; the leases of running pods are lost with it)"
        }
        _ => "",
    }
}

impl IpamError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn retry(&self) -> bool {
        matches!(self, IpamError::NoRange | IpamError::Exhausted { .. } | IpamError::Store { .. })
    }
}

#[cfg(test)]
mod tests;
