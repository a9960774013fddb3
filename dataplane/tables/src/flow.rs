//! The flow table: one direction of a connection per entry, with the complete cached verdict.
//!
//! One [`FlowTable`] belongs to one worker and one address family. Lines of 64 bytes hold twelve tags and twelve entry
//! indices; an entry lies in the first line from its home on that had room, and each line that it passed by counts it,
//! so that a lookup stops at the first line that nobody passed by (usually the home line). Therefore an insertion
//! fails only when the pool of entries is exhausted, and nothing is ever moved or evicted.

mod config;
mod entry;
mod hash;
mod key;
mod memory;
mod names;
mod old;
mod table;
mod verdict;

pub use config::{FlowConfig, FlowError, InsertError, LineStats};
pub use entry::{Entry, EntryState, Half, HalfRef, Slot};
pub use hash::{FlowHash, FlowKeys, siphash13};
pub use key::{Addr, Key, V4, V6};
pub use memory::{FlowMemory, MemoryConfig};
pub use names::{Identity, Names};
pub use old::{Adopted, OldFlows, Pair, Present, Rejected, Renumber, ResumeError};
pub use table::FlowTable;
pub(crate) use table::Line;
pub use verdict::{Action, Flags, Rewrite, TimeoutClass, Timeouts, Verdict};
