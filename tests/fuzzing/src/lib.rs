//! What the fuzz targets of `tests/fuzz` do with their input, so that ordinary tests replay the inputs that are kept.
//!
//! A target is a function of bytes that panics when a promise is broken. Targets keep their world from one input to the
//! next, for building it costs more than most inputs; each leaves it as it found it and asserts that it did, so an input
//! fails alone or not at all. The packet crate's own targets (`parse`, `gso`, `gro`) live there, in `testing::fuzz`.
#![forbid(unsafe_code)]

mod cni;
mod config;
mod input;
mod pipeline;
mod reassembly;
mod ring;

pub use cni::cni;
pub use config::config;
pub use pipeline::pipeline;
pub use reassembly::reassembly;
pub use ring::ring;

/// A target.
pub type Target = fn(&[u8]);

/// All targets of this crate by the names of their seeds' folders.
pub const TARGETS: [(&str, Target); 5] =
    [("pipeline", pipeline), ("ring", ring), ("config", config), ("reassembly", reassembly), ("cni", cni)];

#[cfg(test)]
mod tests;
