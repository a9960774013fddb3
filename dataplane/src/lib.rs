//! Podplane's dataplane process.

pub mod ports;
