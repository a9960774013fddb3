//! Podplane's packet path: the graph, its nodes and every drop reason; knows no device.
//!
//! [`engine::Engine`] is one worker's whole packet path over bursts of packets, judged by an immutable
//! [`snapshot::Snapshot`]; [`env::Env`] is all that it asks of the world.
#![forbid(unsafe_code)]

pub mod counters;
pub mod drop;
pub mod engine;
pub mod env;
pub mod halves;
pub mod pass;
pub mod snapshot;

pub use drop::DropReason;
pub use engine::{Engine, EngineConfig};
pub use env::{BURST, Env, Millis};
pub use halves::HalfMsg;
pub use pass::Pass;
pub use snapshot::Snapshot;
