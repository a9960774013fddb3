//! The part of a cluster's control plane that Services and policies need: pure functions, objects in, objects out.
//!
//! [`admit`] is the API server (defaults, validation in its words, allocation of addresses and ports), [`slices`] the
//! EndpointSlice controller, [`balancer`] a cloud that gives load-balancer addresses, [`policy`] and [`selector`] the API
//! server's way with policies, namespaces and labels. What Kubernetes 1.36 does is the
//! model; where the lab knows less (webhooks, quotas, the `Endpoints` kind) it does nothing.

pub mod admit;
mod allocate;
pub mod balancer;
pub mod cidr;
mod defaults;
mod invalid;
pub mod names;
pub mod policy;
pub mod selector;
pub mod slices;
#[cfg(test)]
mod testing;
pub mod types;
mod validate;

pub use invalid::Invalid;
