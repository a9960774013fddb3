//! Offload flags and fields.

use dpdk_sys::shim_tx_offload_bits as bits;

/// `ol_flags` of a packet: what the device found on receipt (`RX_*`), what it shall do on transmission (`TX_*`).
pub mod flags {
    /// `vlan_tci` holds the tag.
    pub const RX_VLAN: u64 = dpdk_sys::SHIM_MBUF_F_RX_VLAN;
    /// The tag was taken out of the bytes.
    pub const RX_VLAN_STRIPPED: u64 = dpdk_sys::SHIM_MBUF_F_RX_VLAN_STRIPPED;
    /// `rss_hash` is valid.
    pub const RX_RSS_HASH: u64 = dpdk_sys::SHIM_MBUF_F_RX_RSS_HASH;
    /// Mask of the IPv4 header checksum's state; 0: unknown.
    pub const RX_IP_CKSUM_MASK: u64 = dpdk_sys::SHIM_MBUF_F_RX_IP_CKSUM_MASK;
    /// The IPv4 header checksum is right.
    pub const RX_IP_CKSUM_GOOD: u64 = dpdk_sys::SHIM_MBUF_F_RX_IP_CKSUM_GOOD;
    /// The IPv4 header checksum is wrong.
    pub const RX_IP_CKSUM_BAD: u64 = dpdk_sys::SHIM_MBUF_F_RX_IP_CKSUM_BAD;
    /// Mask of the transport checksum's state; 0: unknown.
    pub const RX_L4_CKSUM_MASK: u64 = dpdk_sys::SHIM_MBUF_F_RX_L4_CKSUM_MASK;
    /// The transport checksum is right.
    pub const RX_L4_CKSUM_GOOD: u64 = dpdk_sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD;
    /// The transport checksum is wrong.
    pub const RX_L4_CKSUM_BAD: u64 = dpdk_sys::SHIM_MBUF_F_RX_L4_CKSUM_BAD;
    /// The transport checksum is not in the packet, but its data are intact (a partial checksum). Both mask bits.
    pub const RX_L4_CKSUM_NONE: u64 = dpdk_sys::SHIM_MBUF_F_RX_L4_CKSUM_NONE;
    /// Several packets merged; `tso_segsz` holds the segment size.
    pub const RX_LRO: u64 = dpdk_sys::SHIM_MBUF_F_RX_LRO;
    /// Insert `vlan_tci`.
    pub const TX_VLAN: u64 = dpdk_sys::SHIM_MBUF_F_TX_VLAN;
    /// The (inner) packet is IPv4.
    pub const TX_IPV4: u64 = dpdk_sys::SHIM_MBUF_F_TX_IPV4;
    /// The (inner) packet is IPv6.
    pub const TX_IPV6: u64 = dpdk_sys::SHIM_MBUF_F_TX_IPV6;
    /// Fill in the IPv4 header checksum (of the inner packet), whose field is 0.
    pub const TX_IP_CKSUM: u64 = dpdk_sys::SHIM_MBUF_F_TX_IP_CKSUM;
    /// Mask of the transport checksum to be filled in.
    pub const TX_L4_MASK: u64 = dpdk_sys::SHIM_MBUF_F_TX_L4_MASK;
    /// Fill in the TCP checksum, whose field holds the pseudo-header sum.
    pub const TX_TCP_CKSUM: u64 = dpdk_sys::SHIM_MBUF_F_TX_TCP_CKSUM;
    /// Fill in the UDP checksum, whose field holds the pseudo-header sum.
    pub const TX_UDP_CKSUM: u64 = dpdk_sys::SHIM_MBUF_F_TX_UDP_CKSUM;
    /// Fill in the SCTP checksum.
    pub const TX_SCTP_CKSUM: u64 = dpdk_sys::SHIM_MBUF_F_TX_SCTP_CKSUM;
    /// Cut TCP into segments of `tso_segsz`; implies the TCP checksum.
    pub const TX_TCP_SEG: u64 = dpdk_sys::SHIM_MBUF_F_TX_TCP_SEG;
    /// Cut UDP into datagrams of `tso_segsz`.
    pub const TX_UDP_SEG: u64 = dpdk_sys::SHIM_MBUF_F_TX_UDP_SEG;
    /// The outer packet is IPv4.
    pub const TX_OUTER_IPV4: u64 = dpdk_sys::SHIM_MBUF_F_TX_OUTER_IPV4;
    /// The outer packet is IPv6.
    pub const TX_OUTER_IPV6: u64 = dpdk_sys::SHIM_MBUF_F_TX_OUTER_IPV6;
    /// Fill in the outer IPv4 header checksum.
    pub const TX_OUTER_IP_CKSUM: u64 = dpdk_sys::SHIM_MBUF_F_TX_OUTER_IP_CKSUM;
    /// The tunnel is VXLAN.
    pub const TX_TUNNEL_VXLAN: u64 = dpdk_sys::SHIM_MBUF_F_TX_TUNNEL_VXLAN;

    /// Who owns the buffer's memory: DPDK's own bookkeeping, never the caller's.
    pub(crate) const ATTACHED: u64 = dpdk_sys::SHIM_MBUF_F_INDIRECT | dpdk_sys::SHIM_MBUF_F_EXTERNAL;
}

/// `packet_type` of a received packet: a small number in each layer's field.
pub mod ptype {
    /// The link layer's field.
    pub const L2_MASK: u32 = dpdk_sys::RTE_PTYPE_L2_MASK;
    /// The network layer's field.
    pub const L3_MASK: u32 = dpdk_sys::RTE_PTYPE_L3_MASK;
    /// The transport layer's field.
    pub const L4_MASK: u32 = dpdk_sys::RTE_PTYPE_L4_MASK;
    /// TCP, in the transport field.
    pub const L4_TCP: u32 = dpdk_sys::RTE_PTYPE_L4_TCP;
    /// UDP, in the transport field.
    pub const L4_UDP: u32 = dpdk_sys::RTE_PTYPE_L4_UDP;
    /// SCTP, in the transport field.
    pub const L4_SCTP: u32 = dpdk_sys::RTE_PTYPE_L4_SCTP;
    /// A fragment, in the transport field.
    pub const L4_FRAG: u32 = dpdk_sys::RTE_PTYPE_L4_FRAG;
    /// The tunnel's field.
    pub const TUNNEL_MASK: u32 = dpdk_sys::RTE_PTYPE_TUNNEL_MASK;
}

/// The header lengths that transmit offloads need, in bytes. With a tunnel, `l2_len` covers everything from the outer
/// transport header to the end of the inner Ethernet header, as DPDK defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Link layer (or outer transport, tunnel and inner link layer): below 128.
    pub l2_len: u16,
    /// Network layer, with options or extensions: below 512.
    pub l3_len: u16,
    /// Transport layer: below 256.
    pub l4_len: u16,
    /// Payload bytes of each segment.
    pub tso_segsz: u16,
    /// Outer network layer: below 512.
    pub outer_l3_len: u16,
    /// Outer link layer: below 128.
    pub outer_l2_len: u16,
}

/// Where each field starts in the word: bit fields fill it from the low end on the machines that DPDK supports.
const L3: u32 = bits::SHIM_L2_LEN_BITS;
const L4: u32 = L3 + bits::SHIM_L3_LEN_BITS;
const SEGSZ: u32 = L4 + bits::SHIM_L4_LEN_BITS;
const OUTER_L3: u32 = SEGSZ + bits::SHIM_TSO_SEGSZ_BITS;
const OUTER_L2: u32 = OUTER_L3 + bits::SHIM_OUTL3_LEN_BITS;
const _: () = assert!(cfg!(target_endian = "little"), "the order of bit fields is only known for little endian");

impl TxOffload {
    /// The word in the mbuf; `None`: a length does not fit its field.
    #[inline]
    pub(super) const fn pack(&self) -> Option<u64> {
        if self.l2_len as u32 >> bits::SHIM_L2_LEN_BITS != 0
            || self.l3_len as u32 >> bits::SHIM_L3_LEN_BITS != 0
            || self.l4_len as u32 >> bits::SHIM_L4_LEN_BITS != 0
            || self.outer_l3_len as u32 >> bits::SHIM_OUTL3_LEN_BITS != 0
            || self.outer_l2_len as u32 >> bits::SHIM_OUTL2_LEN_BITS != 0
        {
            return None;
        }
        Some(
            self.l2_len as u64
                | (self.l3_len as u64) << L3
                | (self.l4_len as u64) << L4
                | (self.tso_segsz as u64) << SEGSZ
                | (self.outer_l3_len as u64) << OUTER_L3
                | (self.outer_l2_len as u64) << OUTER_L2,
        )
    }

    /// The fields of the word.
    #[inline]
    pub(super) const fn unpack(word: u64) -> Self {
        const fn field(word: u64, at: u32, bits: u32) -> u16 {
            ((word >> at) & ((1 << bits) - 1)) as u16
        }
        Self {
            l2_len: field(word, 0, bits::SHIM_L2_LEN_BITS),
            l3_len: field(word, L3, bits::SHIM_L3_LEN_BITS),
            l4_len: field(word, L4, bits::SHIM_L4_LEN_BITS),
            tso_segsz: field(word, SEGSZ, bits::SHIM_TSO_SEGSZ_BITS),
            outer_l3_len: field(word, OUTER_L3, bits::SHIM_OUTL3_LEN_BITS),
            outer_l2_len: field(word, OUTER_L2, bits::SHIM_OUTL2_LEN_BITS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_one_of_dpdks_bit_fields() {
        let ours =
            TxOffload { l2_len: 30, l3_len: 40, l4_len: 20, tso_segsz: 1400, outer_l3_len: 20, outer_l2_len: 14 };
        let word = ours.pack().unwrap();
        assert_eq!(TxOffload::unpack(word), ours);
        // SAFETY: an mbuf is plain data, for which all zeroes is a value; the union's fields share the word.
        let theirs = unsafe {
            let mut mbuf: dpdk_sys::rte_mbuf = std::mem::zeroed();
            let base = (&raw mut mbuf).cast::<u8>();
            base.add(dpdk_sys::shim_mbuf_layout::SHIM_MBUF_TX_OFFLOAD as usize).cast::<u64>().write(word);
            dpdk_sys::shim_tso_fields(&mbuf)
        };
        assert_eq!(theirs, 30 << 48 | 40 << 32 | 20 << 16 | 1400);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert!(TxOffload { l2_len: 127, l3_len: 511, l4_len: 255, ..Default::default() }.pack().is_some());
        assert!(TxOffload { l2_len: 128, ..Default::default() }.pack().is_none());
        assert!(TxOffload { l3_len: 512, ..Default::default() }.pack().is_none());
        assert!(TxOffload { l4_len: 256, ..Default::default() }.pack().is_none());
        assert!(TxOffload { outer_l3_len: 512, ..Default::default() }.pack().is_none());
        assert!(TxOffload { outer_l2_len: 128, ..Default::default() }.pack().is_none());
    }
}
