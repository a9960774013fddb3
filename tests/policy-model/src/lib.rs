//! What Kubernetes' two APIs of network policy mean, written down slowly and without a look at how the agent or the
//! dataplane do it: `networking.k8s.io/v1` NetworkPolicy and `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
//!
//! [`api`] has the types as the API's text has them, [`objects`] is a cluster as plain data with its objects as an API
//! server would return them, [`oracle`] says whether a pod may open a connection, and
//! [`faults`] what is in force in place of a policy that makes no sense. The tests of this crate hold the
//! real chain (index, configuration, compilation, packet path) against it: with random clusters and updates, with
//! cyclonus' generated cases, and with the upstream conformance cases of ClusterNetworkPolicy.
#![forbid(unsafe_code)]

pub mod api;
pub mod faults;
pub mod objects;
pub mod oracle;
