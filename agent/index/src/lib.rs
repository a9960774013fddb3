//! Pure index: Kubernetes objects in, dataplane configuration out, no I/O.
//!
//! [`manifest`] reads objects from text, [`files`] decides which file's word counts for which object, and [`Index`]
//! turns objects and this node's endpoints into the set of [`podplane_config::v1::Object`]s that should be in force.
//!
//! What the index answers depends on what each object said, never on the order in which different objects came: two
//! nodes that claim the same range are told apart by age, not by who was read first, so every agent of a cluster
//! decides alike.
#![forbid(unsafe_code)]

pub mod files;
mod index;
pub mod k8s;
pub mod manifest;
mod node;
mod nodes;
mod policy;
mod services;
mod settings;
mod stated;
mod surroundings;
mod told;

pub use index::{Index, Withheld};
pub use k8s::{Kind, Object, ObjectKey};
pub use node::{Family, NodeFacts, OwnNode};
pub use policy::{PodIdentity, PodPolicyReport, PolicyReport, RuleReport, RulesReport};
pub use services::{EndpointReport, FrontendReport, HealthCheck, PortReport, ServiceReport};
pub use settings::{NodeTraffic, Settings};
pub use surroundings::NodePortAddresses;
pub use told::Changes;
