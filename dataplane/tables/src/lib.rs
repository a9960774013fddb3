//! The packet path's tables: flows, FIB, Maglev, client affinity, policies, timers, change stamps, virtual reassembly,
//! quotas; each with a slow oracle.
//!
//! Everything here is private to one worker and single-threaded, except [`fib`], [`maglev`] and [`policy`] (immutable,
//! built by control) and [`changed`] (stamped by control alone, read by workers). Nothing allocates after construction unless its
//! documentation says so. `unsafe` lives in [`mem`] alone.

pub mod affinity;
pub mod changed;
pub mod fib;
pub mod flow;
pub mod maglev;
pub mod mem;
pub mod policy;
pub mod quota;
pub mod reasm;
pub mod wheel;

/// Milliseconds of a coarse monotonic clock; wraps after 49 days, so compare by wrapping difference only.
pub type Millis = u32;

/// Whether `deadline` has come at `now`, on the wrapping clock.
#[inline]
pub const fn reached(now: Millis, deadline: Millis) -> bool {
    now.wrapping_sub(deadline) as i32 >= 0
}

/// Index of a peer node's VTEP, given by control; reused after the peer is gone (see [`changed`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VtepIndex(pub u16);

impl VtepIndex {
    /// How many peers a node can have. `u16::MAX` is never an index.
    pub const MAX: usize = 16 * 1024;

    /// The index as tables want it.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
