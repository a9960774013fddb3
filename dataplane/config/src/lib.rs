//! The contract between agent and dataplane.
//!
//! [`v1`] is what crosses the ring: raw, believed by nobody. [`valid`] is what the dataplane works with: made from
//! raw messages by checks that name what is wrong. [`link`] is how the two processes meet: the Unix socket, the
//! version handshake and the rings. [`introspect`] is what the operator's command asks the dataplane.
//! [`trouble`] is what a dataplane leaves behind that does not start.
#![forbid(unsafe_code)]

pub mod introspect;
pub mod link;
pub mod trouble;
pub mod v1;
pub mod valid;
