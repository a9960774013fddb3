//! The node agent: Kubernetes objects in, dataplane configuration out; IPAM and the CNI server.
//!
//! [`source`] feeds objects to the index in [`desired`], [`attachments`] feeds it this node's endpoints, [`publish`]
//! tells the dataplane, [`server`] answers the CNI plugin, [`duties`] keeps the node's own routes and rules, [`outward`] starts what
//! others are shown: [`probes`], [`metrics`], [`node_life`].
#![forbid(unsafe_code)]

pub mod attachments;
pub mod check_api;
pub mod cleanup;
pub mod cluster;
pub mod desired;
pub mod duties;
pub mod flags;
pub mod health;
pub mod host;
pub mod host_ports;
pub mod ipam;
pub mod metrics;
pub mod node_life;
pub mod outward;
pub mod pending;
pub mod policies;
pub mod probes;
pub mod publish;
pub mod run;
pub mod server;
pub mod services;
pub mod source;
pub mod status;
#[cfg(test)]
mod testing;
