//! What a table is made of, and why it says no.

use std::io;

use thiserror::Error;

use super::{FlowTable, Slot};
use crate::mem::Want;

/// How a table is made.
#[derive(Clone, Copy, Debug)]
pub struct FlowConfig {
    /// How many half-entries it holds, 1 to 2^28.
    pub capacity: usize,
    /// Random key of the hash. Whoever knows it can make all flows meet in one line.
    pub seed: [u64; 2],
    /// What memory is wanted.
    pub memory: Want,
}

/// Why a table cannot be made.
#[derive(Debug, Error)]
pub enum FlowError {
    /// A capacity outside its range.
    #[error("a flow table of {0} entries: 1 to {max} are possible", max = FlowTable::<super::V4>::MAX_CAPACITY)]
    Capacity(usize),
    /// The memory is not there.
    #[error(
        "no memory for a flow table of {entries} entries ({bytes} bytes): {source}; lower the capacity or free memory"
    )]
    Memory {
        /// Entries wanted.
        entries: usize,
        /// Bytes wanted.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

impl FlowError {
    pub(super) fn memory(entries: usize, bytes: usize, source: io::Error) -> FlowError {
        FlowError::Memory { entries, bytes, source }
    }
}

pub(super) fn check_capacity(capacity: usize) -> Result<(), FlowError> {
    let possible = (1..=FlowTable::<super::V4>::MAX_CAPACITY).contains(&capacity);
    possible.then_some(()).ok_or(FlowError::Capacity(capacity))
}

/// Why a half-entry was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InsertError {
    /// All entries are in use. Nothing is evicted: established flows go on.
    #[error("the flow table is full")]
    Full,
    /// The local port has as many flows as it may.
    #[error("the port has as many flows as it may")]
    Quota,
    /// The key is there already.
    #[error("another entry holds the key")]
    Exists(Slot),
}

/// How well the entries lie, for a gauge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineStats {
    /// Lines in all.
    pub lines: usize,
    /// Lines that at least one entry passed by: a miss that comes to one reads another.
    pub passed_by: usize,
    /// Entries that do not lie in their home line.
    pub displaced: usize,
}
