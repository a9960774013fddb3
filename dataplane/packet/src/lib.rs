//! Header views, identities, checksums and the packet buffer trait of the packet path.
//!
//! This crate knows no device, no allocator and no operating system: everything above it (tables, pipeline)
//! is therefore tested, fuzzed and measured without DPDK.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

pub mod buf;
pub mod build;
pub mod checksum;
pub mod gro;
pub mod gso;
pub mod id;
pub mod nat;
pub mod parse;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;
