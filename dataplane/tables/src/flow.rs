//! The flow table: one direction of a connection per entry, with the complete cached verdict.
//!
//! One [`FlowTable`] belongs to one worker and one address family. Lines of 64 bytes hold twelve tags and twelve entry
//! indices; an entry lies in the first line from its home on that had room, and each line that it passed by counts it,
//! so that a lookup stops at the first line that nobody passed by (usually the home line). Therefore an insertion
//! fails only when the pool of entries is exhausted, and nothing is ever moved or evicted.

mod entry;
mod hash;
mod key;
mod table;
mod verdict;

pub use entry::{Entry, EntryState, Half, HalfRef, Slot};
pub use hash::{FlowHash, FlowKeys, siphash13};
pub use key::{Addr, Key, V4, V6};
pub(crate) use table::Line;
pub use table::{FlowConfig, FlowError, FlowTable, InsertError, LineStats};
pub use verdict::{Action, Flags, Rewrite, TimeoutClass, Timeouts, Verdict};
