//! Identities of the packet path as newtypes: a port is never mistaken for a worker, nor a VNI for an index.

/// A port of this node's dataplane: index into the port table, given by control, reused after removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// The uplink: the port that leads to the other nodes.
    pub const UPLINK: PortId = PortId(0);
    /// The host port: the veth that leads to the node's own network stack.
    pub const HOST: PortId = PortId(1);
    /// The first index that pods get.
    pub const FIRST_POD: PortId = PortId(2);
    /// How many ports a node can have, uplink and host port included.
    pub const MAX: usize = 1026;

    /// The index as the port table wants it.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A worker (one per lcore that forwards packets), numbered from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// How many workers a dataplane can have.
    pub const MAX: usize = 64;

    /// The index as per-worker tables want it.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A VXLAN network identifier (RFC 7348 section 5): 24 bits, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that does not fit the 24 bits of a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniTooLarge(pub u32);

impl core::fmt::Display for VniTooLarge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "VNI {} does not fit 24 bits (0 to 16777215)", self.0)
    }
}

impl core::error::Error for VniTooLarge {}

impl TryFrom<u32> for Vni {
    type Error = VniTooLarge;

    fn try_from(value: u32) -> Result<Self, VniTooLarge> {
        if value < 1 << 24 { Ok(Vni(value)) } else { Err(VniTooLarge(value)) }
    }
}

impl Vni {
    /// The identifier in three bytes as they stand in a packet; none can be too large.
    #[inline]
    pub const fn from_be_bytes(b: [u8; 3]) -> Vni {
        Vni(u32::from_be_bytes([0, b[0], b[1], b[2]]))
    }

    /// The number, host byte order.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// An Ethernet address, in transmission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// The address that every Podplane gateway answers with, on every pod port and the host port of every node.
    /// Locally administered; equal everywhere, so that a pod that moves keeps its neighbour entry.
    pub const GATEWAY: Mac = Mac([0x02, 0x50, 0x50, 0x00, 0x00, 0x01]);
    /// The same gateway on the host port of every node, for what the node's kernel forwards: the node's routes give what
    /// it sends itself to [`Mac::GATEWAY`], and all else to this one.
    pub const GATEWAY_FORWARDED: Mac = Mac([0x02, 0x50, 0x50, 0x00, 0x00, 0x02]);

    /// Whether the group bit is set (multicast and broadcast).
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}
