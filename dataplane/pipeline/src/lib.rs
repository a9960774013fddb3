//! Podplane's packet path: the graph, its nodes and every drop reason; knows no device.
//!
//! [`engine::Engine`] is one worker's whole packet path over bursts of packets, judged by an immutable
//! [`snapshot::Snapshot`]; [`env::Env`] is all that it asks of the world.
#![forbid(unsafe_code)]

pub mod counters;
pub mod drop;
pub mod dump;
mod ecn;
pub mod engine;
pub mod env;
pub mod explain;
mod flows;
mod forbid;
pub mod graph;
pub mod halves;
mod headers;
mod judge;
mod limiter;
mod nodes;
mod owner;
pub mod pass;
mod pending;
mod pmtu;
pub mod resume;
mod revalidate;
#[cfg(feature = "testing")]
pub mod sim;
pub mod snapshot;
mod timeouts;
mod world;

pub use drop::DropReason;
pub use dump::{Arrives, Cursor, FlowView};
pub use engine::{Engine, EngineConfig};
pub use env::{BURST, Env, Millis};
pub use halves::HalfMsg;
pub use judge::{Direction, Judgement, Origin};
pub use pass::Pass;
pub use snapshot::Snapshot;
pub use timeouts::TIMEOUTS;
