//! What Kubernetes' Service API means, written down slowly and without a look at how the agent or the dataplane do it.
//!
//! [`objects`] is a small cluster as plain data, with its text as an API server would return it. [`oracle`] says what a
//! packet's sender gets for an address: the set of all outcomes that the API allows. The tests of this crate run random
//! clusters, updates and packets through the real chain (index, configuration, compilation, packet path) against it.
#![forbid(unsafe_code)]

pub mod objects;
pub mod oracle;
