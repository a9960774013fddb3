//! What an agent keeps for the dataplane while that is gone: the file of its flow memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The flow memory of the dataplane before and of the one that is connected.
///
/// The former one is kept until the dataplane has put a configuration in force, for only then has it taken the flows
/// over: one that dies before leaves them to the next.
#[derive(Debug, Default)]
pub struct Keeper {
    kept: Option<OwnedFd>,
    offered: Option<OwnedFd>,
}

impl Keeper {
    /// Nothing kept yet.
    pub fn new() -> Keeper {
        Keeper::default()
    }

    /// The dataplane has put a configuration in force: what it offered is what the next one needs.
    pub fn applied(&mut self) {
        if let Some(offered) = self.offered.take() {
            self.kept = Some(offered);
        }
    }

    /// What the next dataplane is given.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.kept.as_ref().map(AsFd::as_fd)
    }

    /// What a dataplane asks to be kept.
    pub(super) fn offer(&mut self, file: Option<OwnedFd>) {
        self.offered = file;
    }
}
