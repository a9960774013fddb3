//! What is asked of a device, and what it grants.

use std::ops::BitOr;

use crate::mempool::Mempool;

macro_rules! offloads {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $flag:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(u64);

        impl $name {
            /// Nothing.
            pub const NONE: Self = Self(0);
            $($(#[$item])* pub const $flag: Self = Self($value);)*
            /// All that this crate knows; devices may have more.
            const KNOWN: u64 = 0 $(| $value)*;

            /// Those of DPDK's bits that are known here.
            pub(crate) const fn from_bits(bits: u64) -> Self {
                Self(bits & Self::KNOWN)
            }

            /// DPDK's bits.
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// Whether all of `other` are in this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Those in both sets.
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// The names of the members.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$((stringify!($flag), $value)),*].into_iter().filter(move |(_, v)| self.0 & v == *v).map(|(n, _)| n)
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

offloads! {
    /// What a device can do on receipt.
    RxOffloads {
        /// Takes 802.1Q tags out of the bytes.
        VLAN_STRIP = dpdk_sys::SHIM_ETH_RX_OFFLOAD_VLAN_STRIP;
        /// Verifies IPv4 header checksums.
        IPV4_CKSUM = dpdk_sys::SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM;
        /// Verifies UDP checksums.
        UDP_CKSUM = dpdk_sys::SHIM_ETH_RX_OFFLOAD_UDP_CKSUM;
        /// Verifies TCP checksums.
        TCP_CKSUM = dpdk_sys::SHIM_ETH_RX_OFFLOAD_TCP_CKSUM;
        /// Merges TCP segments.
        TCP_LRO = dpdk_sys::SHIM_ETH_RX_OFFLOAD_TCP_LRO;
        /// Receives packets into several segments.
        SCATTER = dpdk_sys::SHIM_ETH_RX_OFFLOAD_SCATTER;
        /// Delivers the receive hash.
        RSS_HASH = dpdk_sys::SHIM_ETH_RX_OFFLOAD_RSS_HASH;
    }
}

offloads! {
    /// What a device can do on transmission. (MBUF_FAST_FREE is left out on purpose: it frees to the wrong pool when
    /// several are in use.)
    TxOffloads {
        /// Inserts 802.1Q tags.
        VLAN_INSERT = dpdk_sys::SHIM_ETH_TX_OFFLOAD_VLAN_INSERT;
        /// Fills in IPv4 header checksums.
        IPV4_CKSUM = dpdk_sys::SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM;
        /// Fills in UDP checksums.
        UDP_CKSUM = dpdk_sys::SHIM_ETH_TX_OFFLOAD_UDP_CKSUM;
        /// Fills in TCP checksums.
        TCP_CKSUM = dpdk_sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM;
        /// Fills in SCTP checksums.
        SCTP_CKSUM = dpdk_sys::SHIM_ETH_TX_OFFLOAD_SCTP_CKSUM;
        /// Cuts TCP into segments.
        TCP_TSO = dpdk_sys::SHIM_ETH_TX_OFFLOAD_TCP_TSO;
        /// Cuts UDP into datagrams.
        UDP_TSO = dpdk_sys::SHIM_ETH_TX_OFFLOAD_UDP_TSO;
        /// Fills in outer IPv4 header checksums.
        OUTER_IPV4_CKSUM = dpdk_sys::SHIM_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM;
        /// Cuts TCP inside VXLAN.
        VXLAN_TNL_TSO = dpdk_sys::SHIM_ETH_TX_OFFLOAD_VXLAN_TNL_TSO;
        /// Sends packets of several segments.
        MULTI_SEGS = dpdk_sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS;
    }
}

/// What is asked of a device. Offloads are wishes: what the device cannot do is left out, see [`Granted`].
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// The pool of each receive queue; as many queues as pools (`net_tap` wants as many as transmit queues).
    pub rx_pools: Vec<Mempool>,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of a receive queue; adjusted to the device's limits.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue; adjusted to the device's limits.
    pub tx_descriptors: u16,
    /// Wished receive offloads.
    pub rx_offloads: RxOffloads,
    /// Wished transmit offloads.
    pub tx_offloads: TxOffloads,
    /// Largest layer 3 packet in bytes; `None`: as the device is.
    pub mtu: Option<u16>,
    /// Spread received flows over the queues by hash, where the device can and there are several.
    pub rss: bool,
    /// Prepare receive interrupts ([`super::RxQueue::interrupt_fd`]).
    pub rx_interrupts: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_pools: Vec::new(),
            tx_queues: 1,
            rx_descriptors: 512,
            tx_descriptors: 512,
            rx_offloads: RxOffloads::NONE,
            tx_offloads: TxOffloads::NONE,
            mtu: None,
            rss: true,
            rx_interrupts: false,
        }
    }
}

/// What the device granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Receive offloads that are on.
    pub rx_offloads: RxOffloads,
    /// Transmit offloads that are on.
    pub tx_offloads: TxOffloads,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// Whether flows are spread by hash.
    pub rss: bool,
    /// The MTU in force.
    pub mtu: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_masked_and_named() {
        let wish = TxOffloads::TCP_CKSUM | TxOffloads::MULTI_SEGS;
        let granted = wish.and(TxOffloads::MULTI_SEGS | TxOffloads::TCP_TSO);
        assert_eq!(granted, TxOffloads::MULTI_SEGS);
        assert!(wish.contains(granted) && !granted.contains(wish));
        assert_eq!(wish.names().collect::<Vec<_>>(), ["TCP_CKSUM", "MULTI_SEGS"]);
        // Freeing to the wrong pool must not be possible, whatever the device says.
        assert_eq!(TxOffloads::from_bits(dpdk_sys::SHIM_ETH_TX_OFFLOAD_MBUF_FAST_FREE), TxOffloads::NONE);
    }
}
