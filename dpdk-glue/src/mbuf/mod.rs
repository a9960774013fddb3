//! Packets: chains of DPDK's buffers, owned.

mod chain;
mod offload;
mod raw;
mod share;

pub use chain::Segments;
pub use offload::{TxOffload, flags, ptype};
pub use raw::RawMbuf;
pub use share::{AttachError, Frozen};

pub(crate) use raw::PrivateArea;

use std::any::TypeId;
use std::ffi::c_uint;
use std::fmt;
use std::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::mempool::Private;

/// A packet: a buffer, or a chain of them, that belongs to this value and goes back to its pool when it is dropped.
///
/// The first segment is never shared with another packet, so it may be rewritten; later ones may be
/// ([`attach`](Self::attach)), so they can only be read.
#[repr(transparent)]
pub struct Mbuf(NonNull<RawMbuf>);

// SAFETY: a packet owns its buffers; they may be freed on any thread, and private areas hold Send values.
unsafe impl Send for Mbuf {}
// SAFETY: shared access only reads; private areas hold Sync values.
unsafe impl Sync for Mbuf {}

/// A type that is an [`Mbuf`] under another name, so that bursts can hold it.
///
/// # Safety
/// The implementor must be `#[repr(transparent)]` over [`Mbuf`], or over a type that is.
pub unsafe trait MbufRepr {}

// SAFETY: it is itself.
unsafe impl MbufRepr for Mbuf {}

impl Mbuf {
    /// Bytes of headroom in a fresh buffer.
    pub const DEFAULT_HEADROOM: u16 = dpdk_sys::RTE_PKTMBUF_HEADROOM as u16;

    /// Takes over a buffer; `None` for null.
    ///
    /// # Safety
    /// `raw` is null, or the head of a well-formed chain of buffers from a [`crate::Mempool`] that nobody else frees or
    /// uses from now on, and whose first segment is not shared.
    #[inline(always)]
    pub unsafe fn from_raw(raw: *mut RawMbuf) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    /// Gives the buffer away; it is not freed.
    #[inline(always)]
    pub fn into_raw(self) -> *mut RawMbuf {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }

    #[inline(always)]
    fn raw(&self) -> &RawMbuf {
        // SAFETY: the buffer belongs to this value, and lives as long.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn raw_mut(&mut self) -> &mut RawMbuf {
        // SAFETY: the buffer belongs to this value alone.
        unsafe { self.0.as_mut() }
    }

    /// The bytes of the first segment.
    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        let m = self.raw();
        // SAFETY: data_off + data_len lie within the buffer, whose memory EAL mapped (so it is initialised).
        unsafe { std::slice::from_raw_parts(m.data(), usize::from(m.data_len)) }
    }

    /// The bytes of the first segment, to be rewritten.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let m = self.raw_mut();
        // SAFETY: as in data(), and the first segment is not shared.
        unsafe { std::slice::from_raw_parts_mut(m.data(), usize::from(m.data_len)) }
    }

    /// Bytes of the whole packet.
    #[inline(always)]
    pub fn pkt_len(&self) -> usize {
        self.raw().pkt_len as usize
    }

    /// Bytes of the first segment.
    #[inline(always)]
    pub fn data_len(&self) -> usize {
        usize::from(self.raw().data_len)
    }

    /// Segments of the chain, at least 1.
    #[inline(always)]
    pub fn segment_count(&self) -> usize {
        usize::from(self.raw().nb_segs)
    }

    /// Free bytes in front of the data.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        usize::from(self.raw().data_off)
    }

    /// Grows the packet at the front and returns its new first segment; the new bytes hold anything. `None`: the
    /// headroom is smaller than `n`; unchanged.
    #[inline(always)]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let m = self.raw_mut();
        let data_len = usize::from(m.data_len) + n;
        if n > usize::from(m.data_off) || data_len > usize::from(u16::MAX) {
            return None;
        }
        m.data_off -= n as u16;
        m.data_len = data_len as u16;
        m.pkt_len += n as u32;
        Some(self.data_mut())
    }

    /// Cuts `n` bytes off the front. `false`: the first segment is not longer than `n`; unchanged.
    #[inline(always)]
    pub fn adj(&mut self, n: usize) -> bool {
        let m = self.raw_mut();
        if n >= usize::from(m.data_len) {
            return n == 0;
        }
        m.data_off += n as u16;
        m.data_len -= n as u16;
        m.pkt_len -= n as u32;
        true
    }

    /// Where a driver may write a packet into this buffer, and how many bytes: from the first data byte to the end of
    /// the first segment's buffer. Valid as long as the packet and its start do not change; write through it only while
    /// this is borrowed mutably. [`set_len`](Self::set_len) then says what was written.
    #[inline(always)]
    pub fn room(&mut self) -> (*mut u8, usize) {
        let m = self.raw();
        (m.data(), usize::from(m.buf_len.saturating_sub(m.data_off)))
    }

    /// Makes the packet `len` bytes long. `false`: it has several segments, or no room for that; unchanged. What was
    /// not written holds bytes of earlier packets.
    #[inline(always)]
    pub fn set_len(&mut self, len: usize) -> bool {
        let m = self.raw_mut();
        if m.nb_segs != 1 || len > usize::from(m.buf_len.saturating_sub(m.data_off)) {
            return false;
        }
        m.data_len = len as u16;
        m.pkt_len = len as u32;
        true
    }

    /// Makes an empty packet of one segment start behind `n` bytes of headroom. `false`: it is not empty, or the buffer
    /// is smaller; unchanged.
    #[inline]
    pub fn set_headroom(&mut self, n: usize) -> bool {
        let m = self.raw_mut();
        if m.pkt_len != 0 || m.nb_segs != 1 || n > usize::from(m.buf_len) {
            return false;
        }
        m.data_off = n as u16;
        true
    }

    /// What travels beside the bytes: the `T` of the pool. Keeps its value when the buffer is freed and taken again.
    ///
    /// # Panics
    /// If the buffer's pool was made with another type.
    #[inline(always)]
    pub fn private<T: Private>(&self) -> &T {
        let area = RawMbuf::private_area::<T>(self.0.as_ptr());
        // SAFETY: every pool of this crate has an area that starts with a type; the value is read only if it is T's.
        unsafe {
            assert!((*area).tag == TypeId::of::<T>(), "the mbuf's pool has private data of another type");
            &(*area).value
        }
    }

    /// As [`private`](Self::private), to be changed.
    ///
    /// # Panics
    /// If the buffer's pool was made with another type.
    #[inline(always)]
    pub fn private_mut<T: Private>(&mut self) -> &mut T {
        let area = RawMbuf::private_area::<T>(self.0.as_ptr());
        // SAFETY: as in private(), and the buffer belongs to this value alone.
        unsafe {
            assert!((*area).tag == TypeId::of::<T>(), "the mbuf's pool has private data of another type");
            &mut (*area).value
        }
    }

    /// The offload flags, see [`flags`].
    #[inline(always)]
    pub fn flags(&self) -> u64 {
        self.raw().ol_flags & !flags::ATTACHED
    }

    /// Replaces the offload flags.
    #[inline(always)]
    pub fn set_flags(&mut self, new: u64) {
        let m = self.raw_mut();
        m.ol_flags = (m.ol_flags & flags::ATTACHED) | (new & !flags::ATTACHED);
    }

    /// The header lengths and segment size for transmit offloads; of a received packet with [`flags::RX_LRO`], the
    /// segment size.
    #[inline]
    pub fn tx_offload(&self) -> TxOffload {
        TxOffload::unpack(self.raw().tx_offload)
    }

    /// Sets the header lengths and the segment size. `false`: one does not fit its field; unchanged.
    #[inline]
    pub fn set_tx_offload(&mut self, offload: &TxOffload) -> bool {
        let Some(word) = offload.pack() else { return false };
        self.raw_mut().tx_offload = word;
        true
    }

    /// The 802.1Q tag, host byte order; valid with [`flags::RX_VLAN`].
    #[inline(always)]
    pub fn vlan_tci(&self) -> u16 {
        self.raw().vlan_tci
    }

    /// Sets the tag that [`flags::TX_VLAN`] inserts, host byte order.
    #[inline(always)]
    pub fn set_vlan_tci(&mut self, tci: u16) {
        self.raw_mut().vlan_tci = tci;
    }

    /// What the device says the headers are, see [`ptype`]; 0: nothing.
    #[inline(always)]
    pub fn packet_type(&self) -> u32 {
        self.raw().packet_type
    }

    /// The device's receive hash; valid with [`flags::RX_RSS_HASH`].
    #[inline(always)]
    pub fn rss_hash(&self) -> u32 {
        self.raw().rss
    }

    /// The ethdev that the packet came in by; 65535: none.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        self.raw().port
    }

    /// Frees all packets of a burst at once, which is cheaper than one by one.
    #[inline]
    pub fn free_all<P: MbufRepr, const N: usize>(packets: &mut ArrayVec<P, N>) {
        let n = packets.len();
        // SAFETY: a P is a pointer to an mbuf that this burst owns (MbufRepr); set_len(0) gives them up first, so they
        // are freed once.
        unsafe {
            packets.set_len(0);
            dpdk_sys::rte_pktmbuf_free_bulk(packets.as_mut_ptr().cast(), n as c_uint);
        }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the chain belongs to this value and is not used again.
        unsafe { dpdk_sys::shim_pktmbuf_free(self.0.as_ptr().cast()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("pkt_len", &self.pkt_len())
            .field("segments", &self.segment_count())
            .field("flags", &format_args!("{:#x}", self.flags()))
            .field("data", &self.data())
            .finish()
    }
}
