//! Packets that share bytes: a payload is cut into several packets without a copy.

use std::ptr::NonNull;

use super::{Mbuf, RawMbuf};
use crate::mempool::Mempool;

/// A packet that can only be read, so that others may [attach](Mbuf::attach) parts of it. Its buffers go back to their
/// pool when it and all that attached to it are gone.
#[derive(Debug)]
pub struct Frozen(Mbuf);

impl Frozen {
    /// The packet.
    pub fn get(&self) -> &Mbuf {
        &self.0
    }
}

impl From<Mbuf> for Frozen {
    fn from(packet: Mbuf) -> Self {
        Self(packet)
    }
}

/// Why a part was not attached. The packet is then unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The frozen packet ends before the part does.
    #[error("the part reaches beyond the packet's end")]
    Range,
    /// The pool has no buffer for another segment.
    #[error("the pool for attached segments is empty; make it larger")]
    NoBuffer,
    /// The chain would have too many segments or bytes.
    #[error("the packet would have too many segments")]
    TooLong,
}

impl Mbuf {
    /// Appends the bytes `offset .. offset + len` of `source` without copying them, in segments from `pool` (whose
    /// `data_room` may be 0).
    pub fn attach(&mut self, source: &Frozen, offset: usize, len: usize, pool: &Mempool) -> Result<(), AttachError> {
        if offset.checked_add(len).is_none_or(|end| end > source.0.pkt_len()) {
            return Err(AttachError::Range);
        }
        let (mut skip, mut left) = (offset, len);
        let mut tail: Option<Mbuf> = None;
        let mut segment = source.0.0;
        while left > 0 {
            // SAFETY: a segment of source; there is one, for it holds the bytes that are left.
            let have = usize::from(unsafe { segment.as_ref() }.data_len);
            if skip < have {
                let run = left.min(have - skip);
                let part = attach_one(segment, skip, run, pool).ok_or(AttachError::NoBuffer)?;
                match &mut tail {
                    None => tail = Some(part),
                    Some(tail) => tail.chain(part).map_err(|_| AttachError::TooLong)?,
                }
                left -= run;
            }
            skip = skip.saturating_sub(have);
            if left > 0 {
                // SAFETY: as above.
                segment = NonNull::new(unsafe { segment.as_ref() }.next()).ok_or(AttachError::Range)?;
            }
        }
        match tail {
            Some(tail) => self.chain(tail).map_err(|_| AttachError::TooLong),
            None => Ok(()),
        }
    }
}

/// A packet of one segment that shows `len` bytes of another's segment, from `offset` on. Only ever a later segment of
/// a chain, for it must not be written to.
fn attach_one(segment: NonNull<RawMbuf>, offset: usize, len: usize, pool: &Mempool) -> Option<Mbuf> {
    let mut part = pool.alloc()?;
    // SAFETY: part is fresh and direct. DPDK changes only the reference count of the segment (atomically; the Frozen
    // that owns it gives no other access but reading), and copies the rest.
    unsafe { dpdk_sys::shim_pktmbuf_attach(part.0.as_ptr().cast(), segment.as_ptr().cast()) };
    let m = part.raw_mut();
    m.data_off += offset as u16;
    m.data_len = len as u16;
    m.pkt_len = len as u32;
    Some(part)
}
