//! What concerns more than the first segment.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{Mbuf, RawMbuf, flags};

/// The byte runs of a packet, in order; empty segments give empty runs.
#[derive(Debug)]
pub struct Segments<'a> {
    next: *const RawMbuf,
    left: usize,
    _packet: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: a segment of a packet that is borrowed for 'a; its data lie within its buffer.
        unsafe {
            let m = &*self.next;
            self.next = m.next();
            self.left = self.left.saturating_sub(1);
            Some(std::slice::from_raw_parts(m.data(), usize::from(m.data_len)))
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, None)
    }
}

impl Mbuf {
    /// The bytes of each segment.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: self.0.as_ptr(), left: self.segment_count(), _packet: PhantomData }
    }

    /// Appends another packet's segments. Its flags and private data are lost. `Err` gives it back: the chain would
    /// have too many segments or bytes.
    #[inline]
    pub fn chain(&mut self, tail: Mbuf) -> Result<(), Mbuf> {
        let segments = self.segment_count() + tail.segment_count();
        let Some(pkt_len) = self.raw().pkt_len.checked_add(tail.raw().pkt_len) else { return Err(tail) };
        let Ok(segments) = u16::try_from(segments) else { return Err(tail) };
        let mut last = self.last();
        // SAFETY: last is a segment of this packet, which is borrowed mutably; its header belongs to this packet alone.
        unsafe { last.as_mut().set_next(tail.into_raw()) };
        let m = self.raw_mut();
        m.pkt_len = pkt_len;
        m.nb_segs = segments;
        Ok(())
    }

    /// Free bytes behind the last byte; 0 if the last segment is shared with another packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        // SAFETY: last is a segment of this packet.
        let m = unsafe { self.last().as_ref() };
        if is_shared(m) { 0 } else { usize::from(m.tailroom()) }
    }

    /// Grows the packet at the end, in the last segment, and returns the new bytes, which hold anything. `None`: the
    /// tailroom is smaller than `n`; unchanged.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() || self.raw().pkt_len.checked_add(n as u32).is_none() {
            return None;
        }
        let last = self.last().as_ptr();
        self.raw_mut().pkt_len += n as u32;
        // SAFETY: last is a segment of this packet, not shared, with n bytes free behind its data.
        unsafe {
            let old = usize::from((*last).data_len);
            (*last).data_len += n as u16;
            Some(std::slice::from_raw_parts_mut((*last).data().add(old), n))
        }
    }

    /// Shortens the packet to `len` bytes and frees the segments that become empty. Longer than it is: unchanged.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.pkt_len() {
            return;
        }
        let (mut segment, mut left, mut kept) = (self.0.as_ptr(), len, 1u16);
        // SAFETY: walks the segments of this packet, whose headers belong to it alone. The walk ends before null,
        // because the segments hold more than len bytes.
        unsafe {
            while left > usize::from((*segment).data_len) {
                left -= usize::from((*segment).data_len);
                segment = (*segment).next();
                kept += 1;
            }
            (*segment).data_len = left as u16;
            let rest = (*segment).next();
            (*segment).set_next(std::ptr::null_mut());
            free_rest(rest);
        }
        let m = self.raw_mut();
        m.pkt_len = len as u32;
        m.nb_segs = kept;
    }

    /// Cuts `n` bytes off the end. `false`: the packet is shorter; unchanged.
    #[inline]
    pub fn trim(&mut self, n: usize) -> bool {
        let Some(len) = self.pkt_len().checked_sub(n) else { return false };
        self.truncate(len);
        true
    }

    /// Copies `dst.len()` bytes from `offset` on, across segments. `false`: the packet ends before; `dst` is unchanged.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) -> bool {
        let mut at = 0;
        self.for_each_slice(offset, dst.len(), |run| {
            dst[at..at + run.len()].copy_from_slice(run);
            at += run.len();
        })
    }

    /// Calls `f` with each contiguous run of the bytes `offset .. offset + len`, in order. `false`: the packet ends
    /// before; `f` was not called.
    #[inline]
    pub fn for_each_slice(&self, mut offset: usize, mut len: usize, mut f: impl FnMut(&[u8])) -> bool {
        if offset.checked_add(len).is_none_or(|end| end > self.pkt_len()) {
            return false;
        }
        for segment in self.segments() {
            if len == 0 {
                break;
            }
            let Some(rest) = segment.get(offset..).filter(|rest| !rest.is_empty()) else {
                offset -= segment.len();
                continue;
            };
            let run = &rest[..rest.len().min(len)];
            f(run);
            len -= run.len();
            offset = 0;
        }
        true
    }

    /// Makes the first `n` bytes lie in the first segment, by moving bytes of later segments into its tailroom.
    /// `false`: the packet is shorter, or the first segment has no room; unchanged.
    pub fn pull_up(&mut self, n: usize) -> bool {
        let have = self.data_len();
        if n <= have {
            return true;
        }
        let missing = n - have;
        if n > self.pkt_len() || missing > usize::from(self.raw().tailroom()) {
            return false;
        }
        // SAFETY: the first segment is not shared and has `missing` bytes free behind its data; no run of the rest
        // overlaps them, for the rest lies in other segments.
        let free = unsafe { std::slice::from_raw_parts_mut(self.raw().data().add(have), missing) };
        let copied = self.copy_to(have, free);
        debug_assert!(copied);
        self.raw_mut().data_len = n as u16;
        self.drop_front_of_rest(missing);
        true
    }

    /// Cuts `n` bytes off the front of the second segment and those behind it, freeing those that become empty.
    /// The packet's length stays.
    fn drop_front_of_rest(&mut self, mut n: usize) {
        let mut freed = 0;
        let mut next = self.raw().next();
        // SAFETY: walks the segments of this packet, whose headers belong to it alone; one that is freed was
        // unlinked before.
        unsafe {
            while !next.is_null() && n >= usize::from((*next).data_len) {
                n -= usize::from((*next).data_len);
                let after = (*next).next();
                (*next).set_next(std::ptr::null_mut());
                free_rest(next);
                next = after;
                freed += 1;
            }
            if !next.is_null() {
                (*next).data_off += n as u16;
                (*next).data_len -= n as u16;
            }
        }
        let m = self.raw_mut();
        m.set_next(next);
        m.nb_segs -= freed;
    }

    /// The last segment.
    #[inline(always)]
    pub(super) fn last(&self) -> NonNull<RawMbuf> {
        let mut last = self.0;
        // SAFETY: walks the segments of this packet.
        while let Some(next) = NonNull::new(unsafe { last.as_ref() }.next()) {
            last = next;
        }
        last
    }
}

/// Whether a segment's bytes may be seen through another one.
#[inline(always)]
pub(super) fn is_shared(m: &RawMbuf) -> bool {
    m.ol_flags & flags::ATTACHED != 0 || m.refcnt.load(Ordering::Relaxed) != 1
}

/// Frees segments that were cut off a chain; null: none.
///
/// # Safety
/// The segments are linked from nowhere else.
unsafe fn free_rest(rest: *mut RawMbuf) {
    if !rest.is_null() {
        // SAFETY: the caller's; rte_pktmbuf_free follows `next` and does not look at the head's count of segments.
        unsafe { dpdk_sys::shim_pktmbuf_free(rest.cast()) };
    }
}
