//! A single-producer single-consumer ring of byte records over a sealed memfd.
//!
//! Layers, innermost first: [`map`] owns the mapping and is the only unsafe code; [`ring`] is the protocol over
//! atomic words, checked by loom and against a model; [`channel`] puts two rings and a bell together, one
//! ring for each direction, and hands them to another process.
//!
//! The peer may write anything at any time. Each side keeps its own cursor in private memory and only publishes it;
//! the peer's cursor and each record's length are checked before use, and a record is copied out before anybody
//! looks at it. The seals make sure that the peer cannot shrink the file under the mapping (SIGBUS).

pub mod channel;
pub mod map;
pub mod ring;

/// Atomics of the standard library, or of the model checker.
mod sync {
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
    #[cfg(not(loom))]
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}
