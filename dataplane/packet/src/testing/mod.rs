//! For tests, here and above: a buffer over vectors, and frames made the slow and obvious way.

mod cut;
mod frames;
pub mod fuzz;
mod strategies;
mod vecbuf;

pub use cut::{segment, segments};
pub use frames::{FrameSpec, Ip, Transport, naive_crc32c, naive_sum, naive_transport_checksum};
pub use strategies::{any_bytes, frame_spec, gso_spec, mutated, segmented, spec_of};
pub use vecbuf::VecBuf;
