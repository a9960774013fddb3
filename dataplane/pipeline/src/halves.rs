//! Messages between workers about the two half-entries of a connection.

/// One message, opaque to whoever carries it. Plain data, `Send`, about two cache lines long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfMsg {
    pub(crate) from: podplane_packet::id::WorkerId,
}

impl HalfMsg {
    /// Who sent it.
    pub fn from(&self) -> podplane_packet::id::WorkerId {
        self.from
    }
}
