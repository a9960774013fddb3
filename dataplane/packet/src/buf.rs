//! What the packet path asks of a buffer, and the metadata that travels with a packet from port to port.

use crate::id::PortId;

/// A packet in a buffer that may be a chain of segments. All headers lie in the first segment (`head`);
/// a port driver that receives a packet whose headers do not must linearise or drop it.
///
/// Lengths are in bytes; `head().len() <= len()`.
pub trait PacketBuf {
    /// The bytes of the first segment.
    fn head(&self) -> &[u8];
    /// The bytes of the first segment, to be rewritten.
    fn head_mut(&mut self) -> &mut [u8];
    /// The length of the whole packet over all segments.
    fn len(&self) -> usize;
    /// Whether the packet has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Grows the packet at the front by `n` bytes of the headroom and returns the new head. `None`: no room; unchanged.
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]>;
    /// Cuts `n` bytes off the front. `false`: the first segment is not longer than `n`; unchanged.
    fn adj(&mut self, n: usize) -> bool;
    /// Shortens the packet to `len` bytes, releasing segments that become empty. Longer than the packet: unchanged.
    fn truncate(&mut self, len: usize);
    /// Appends a copy of `bytes` behind the last byte, within the tailroom of the last segment. `false`: no room; unchanged.
    fn append(&mut self, bytes: &[u8]) -> bool;
    /// Copies `dst.len()` bytes from `offset` on, across segments. `false`: the packet ends before; `dst` is unspecified.
    fn copy_to(&self, offset: usize, dst: &mut [u8]) -> bool;
    /// Calls `f` with each contiguous run of bytes of `offset .. offset + len`, in order. `false`: the packet ends before.
    fn for_each_slice(&self, offset: usize, len: usize, f: &mut dyn FnMut(&[u8])) -> bool;
    /// The metadata.
    fn meta(&self) -> &Meta;
    /// The metadata, to be changed.
    fn meta_mut(&mut self) -> &mut Meta;
}

/// What is known of the transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Csum {
    /// Nobody looked: the bytes in the packet are what the sender wrote.
    #[default]
    Unknown,
    /// Verified by the device, or known to have been right when the packet was made.
    Good,
    /// The field holds the uncomplemented pseudo-header sum; whoever sends the packet where it cannot be said so
    /// (a NIC without offload, inside a tunnel) completes it from `start` on and stores it at `start + offset`.
    Partial {
        /// Where the transport header starts, from the first byte of the frame (grows and shrinks with
        /// `prepend` and `adj` done through [`Meta::shift`]).
        start: u16,
        /// Where the checksum field lies, from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// How a packet that is longer than the MTU is to be cut (generic segmentation offload).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// One packet as it will be on the wire.
    #[default]
    None,
    /// TCP over IPv4: cut into segments of `size` payload bytes.
    Tcp4 {
        /// Payload bytes of each segment.
        size: u16,
    },
    /// TCP over IPv6: cut into segments of `size` payload bytes.
    Tcp6 {
        /// Payload bytes of each segment.
        size: u16,
    },
    /// UDP datagrams of one flow with `size` payload bytes each (Linux `UDP_SEGMENT`, virtio `GSO_UDP_L4`).
    Udp {
        /// Payload bytes of each datagram.
        size: u16,
    },
}

impl Gso {
    /// Payload bytes of each segment; 0 for a plain packet.
    #[inline]
    pub const fn size(self) -> u16 {
        match self {
            Gso::None => 0,
            Gso::Tcp4 { size } | Gso::Tcp6 { size } | Gso::Udp { size } => size,
        }
    }
}

/// What travels with a packet beside its bytes. Plain data, 24 bytes at most: it lives in a buffer's private area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The port that the packet came in on. Written by the port's receive function.
    pub port: PortId,
    /// The transport checksum's state.
    pub csum: Csum,
    /// Segmentation. Inside a tunnel it describes the inner packet.
    pub gso: Gso,
    /// Bytes of outer headers (Ethernet, IP, UDP, VXLAN) that were prepended in front of the inner Ethernet
    /// header; 0: not tunnelled. Written by the encapsulation node, read by the egress port; and by an uplink that
    /// merged inner segments behind one set of outer headers, read by the decapsulation node.
    pub tunnel: u8,
    /// The 802.1Q tag control information that the device stripped, host byte order.
    pub vlan: Option<u16>,
    /// A fragment that was handed over by the worker that gathers its packet's fragments to the one that owns the flow.
    pub gathered: bool,
}

impl Meta {
    /// Tells the metadata that `by` bytes were prepended (positive) or cut off the front (negative).
    #[inline]
    pub fn shift(&mut self, by: i32) {
        if let Csum::Partial { start, .. } = &mut self.csum {
            *start = (i32::from(*start) + by) as u16;
        }
    }
}
