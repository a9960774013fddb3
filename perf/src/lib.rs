//! The measuring harness: one for every `make bench`.
//!
//! A figure is a ratio against a peer, measured in the same run: both sides are started afresh several times, and within
//! each start they take turns in the order A B B A, so that what drifts (clocks, caches, neighbours) touches both. The
//! ratio is the median of the per-start medians; its spread is the interquartile range of those. A run on a machine that
//! others load is refused, for its figures would be theirs.
//!
//! [`stats`] computes, [`cpu`] accounts, [`versus`] interleaves, [`iperf`], [`rr`] and [`flood`] make traffic, [`netns`] and
//! [`routed`] are the kernel's side and [`node`] is ours without an agent, [`services`] and [`policies`] are what both are told,
//! [`bench`] holds the measurements of whole paths. What needs no devices is measured by criterion in
//! the crate that it belongs to.
#![forbid(unsafe_code)]

pub mod bench;
pub mod cpu;
pub mod flood;
pub mod iperf;
pub mod netns;
pub mod node;
pub mod policies;
pub mod routed;
pub mod rr;
pub mod services;
pub mod stats;
pub mod versus;
