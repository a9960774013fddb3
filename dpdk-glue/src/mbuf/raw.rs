//! DPDK's `struct rte_mbuf`, field for field; checked against the installed headers when this is compiled.

use std::any::TypeId;
use std::sync::atomic::AtomicU16;

use dpdk_sys::shim_mbuf_layout as layout;

/// One buffer as DPDK lays it out. bindgen's field paths change between DPDK releases, these offsets do not.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct RawMbuf {
    pub(super) buf_addr: *mut u8,
    /// The I/O address, or `next` in builds without physical addresses.
    word1: *mut RawMbuf,
    pub(super) data_off: u16,
    pub(super) refcnt: AtomicU16,
    pub(super) nb_segs: u16,
    pub(super) port: u16,
    pub(super) ol_flags: u64,
    pub(super) packet_type: u32,
    pub(super) pkt_len: u32,
    pub(super) data_len: u16,
    pub(super) vlan_tci: u16,
    pub(super) rss: u32,
    hash_hi: u32,
    vlan_tci_outer: u16,
    pub(super) buf_len: u16,
    pool: *mut dpdk_sys::rte_mempool,
    /// `next`, or a dynamic field in builds without physical addresses.
    line1: *mut RawMbuf,
    pub(super) tx_offload: u64,
    shinfo: *mut u8,
    priv_size: u16,
    timesync: u16,
    dynfield1: [u32; 9],
}

macro_rules! same_offset {
    ($($field:ident = $shim:ident),* $(,)?) => {
        $(const _: () = assert!(
            std::mem::offset_of!(RawMbuf, $field) == layout::$shim as usize,
            concat!("rte_mbuf.", stringify!($field), " lies elsewhere in the installed DPDK: RawMbuf must be adapted"),
        );)*
    };
}

same_offset! {
    buf_addr = SHIM_MBUF_BUF_ADDR, data_off = SHIM_MBUF_DATA_OFF, refcnt = SHIM_MBUF_REFCNT,
    nb_segs = SHIM_MBUF_NB_SEGS, port = SHIM_MBUF_PORT, ol_flags = SHIM_MBUF_OL_FLAGS,
    packet_type = SHIM_MBUF_PACKET_TYPE, pkt_len = SHIM_MBUF_PKT_LEN, data_len = SHIM_MBUF_DATA_LEN,
    vlan_tci = SHIM_MBUF_VLAN_TCI, rss = SHIM_MBUF_HASH_RSS, vlan_tci_outer = SHIM_MBUF_VLAN_TCI_OUTER,
    buf_len = SHIM_MBUF_BUF_LEN, pool = SHIM_MBUF_POOL, tx_offload = SHIM_MBUF_TX_OFFLOAD,
    shinfo = SHIM_MBUF_SHINFO, priv_size = SHIM_MBUF_PRIV_SIZE, dynfield1 = SHIM_MBUF_DYNFIELD1,
}
const _: () = assert!(size_of::<RawMbuf>() == layout::SHIM_MBUF_SIZE as usize, "rte_mbuf has another size");
const _: () = assert!(
    layout::SHIM_MBUF_NEXT as usize == std::mem::offset_of!(RawMbuf, word1)
        || layout::SHIM_MBUF_NEXT as usize == std::mem::offset_of!(RawMbuf, line1),
    "rte_mbuf.next lies elsewhere in the installed DPDK: RawMbuf must be adapted"
);

impl RawMbuf {
    /// Whether this DPDK keeps `next` in the first cache line.
    const NEXT_FIRST: bool = layout::SHIM_MBUF_NEXT as usize == std::mem::offset_of!(RawMbuf, word1);

    #[inline(always)]
    pub(super) fn next(&self) -> *mut RawMbuf {
        if Self::NEXT_FIRST { self.word1 } else { self.line1 }
    }

    #[inline(always)]
    pub(super) fn set_next(&mut self, next: *mut RawMbuf) {
        if Self::NEXT_FIRST {
            self.word1 = next;
        } else {
            self.line1 = next;
        }
    }

    /// The first data byte.
    #[inline(always)]
    pub(super) fn data(&self) -> *mut u8 {
        // SAFETY: DPDK keeps data_off + data_len within the buffer.
        unsafe { self.buf_addr.add(usize::from(self.data_off)) }
    }

    /// Bytes behind the data.
    #[inline(always)]
    pub(super) fn tailroom(&self) -> u16 {
        self.buf_len.saturating_sub(self.data_off).saturating_sub(self.data_len)
    }

    /// The private area behind a buffer's header.
    #[inline(always)]
    pub(crate) fn private_area<T>(this: *mut RawMbuf) -> *mut PrivateArea<T> {
        this.wrapping_add(1).cast()
    }
}

/// A buffer's private area: its type beside its value, so that each access can be checked.
#[repr(C, align(16))]
pub(crate) struct PrivateArea<T> {
    pub(crate) tag: TypeId,
    pub(crate) value: T,
}

impl<T> PrivateArea<T> {
    /// Bytes, as the pool is told. Checked at compile time to be one that fits the field.
    pub(crate) const SIZE: u16 = {
        assert!(size_of::<Self>() <= 1024, "private data is larger than 1 KiB");
        size_of::<Self>() as u16
    };
}
