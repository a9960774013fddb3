//! What segmentation makes of a frame, written out.

use super::VecBuf;
use crate::buf::{Gso, PacketBuf};
use crate::gso::{MAX_HEADERS, Segmenter};

/// Segment `i` of a frame, and its payload's offset and length in the frame.
///
/// # Panics
/// There is no such segment.
pub fn segment(s: &Segmenter, buf: &VecBuf, i: usize) -> (Vec<u8>, (usize, usize)) {
    let mut header = [0; MAX_HEADERS];
    let seg = s.segment(buf, i, &mut header).expect("within");
    let mut payload = vec![0; seg.payload_len];
    assert!(buf.copy_to(seg.payload_off, &mut payload));
    ([&header[..seg.header_len], &payload].concat(), (seg.payload_off, seg.payload_len))
}

/// The frames that a frame makes on the wire: itself if it is no GSO frame.
///
/// # Panics
/// The frame cannot be segmented.
pub fn segments(buf: &VecBuf) -> Vec<Vec<u8>> {
    if buf.meta().gso == Gso::None {
        return vec![buf.bytes()];
    }
    let s = Segmenter::new(buf).expect("can be segmented");
    (0..s.segments()).map(|i| segment(&s, buf, i).0).collect()
}
