//! The forwarding table: longest-prefix match for both families, built by control, immutable, shared by all workers.
//!
//! Two parts: **hosts**, exact addresses that change often (this node's pods), in a small hash table that is rebuilt
//! by itself; and **prefixes** (other nodes' ranges and addresses), in a trie shared by [`Arc`] with the previous
//! table. A host is the longest match there is, so it is asked first.

mod hosts;
mod trie;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podplane_packet::id::PortId;
use thiserror::Error;

use crate::VtepIndex;
use hosts::Hosts;
use trie::Trie;

/// Index of a next hop outside the cluster, given by control; reused after the neighbour is gone (see
/// [`crate::changed`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighbourIndex(pub u16);

impl NeighbourIndex {
    /// How many neighbours a node can have.
    pub const MAX: usize = 16 * 1024;

    /// The index as tables want it.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// A pod of this node.
    Local(PortId),
    /// A pod of a peer node.
    Vtep(VtepIndex),
    /// A peer node itself.
    Node(VtepIndex),
    /// The gateway address itself, which answers echo.
    Gateway,
    /// The node's own network stack.
    Host,
    /// Nobody: ours to answer for, but not in use.
    Blackhole,
    /// The world outside the cluster, by a gateway.
    Outside(NeighbourIndex),
    /// The world outside the cluster, on the uplink's own network: the destination is the neighbour.
    OnLink,
}

impl NextHop {
    /// The peer node that a pod's or a node's address belongs to.
    #[inline]
    pub const fn peer(self) -> Option<VtepIndex> {
        match self {
            NextHop::Vtep(vtep) | NextHop::Node(vtep) => Some(vtep),
            _ => None,
        }
    }
}

/// Why a forwarding table cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FibError {
    /// A prefix longer than the address.
    #[error("prefix {0}/{1} is longer than the address: at most 32 bits in IPv4, 128 in IPv6")]
    Length(IpAddr, u8),
    /// The same prefix with two next hops.
    #[error("prefix {0}/{1} is given twice, to {2:?} and to {3:?}")]
    Twice(IpAddr, u8, NextHop, NextHop),
}

/// A next hop in 32 bits: kind above, index below; 0 is "none". Bits 30 and 31 belong to the trie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Code(u32);

impl Code {
    const NONE: Code = Code(0);

    const fn from_hop(hop: NextHop) -> Code {
        Code(match hop {
            NextHop::Local(port) => 1 << 16 | port.0 as u32,
            NextHop::Vtep(vtep) => 2 << 16 | vtep.0 as u32,
            NextHop::Gateway => 3 << 16,
            NextHop::Host => 4 << 16,
            NextHop::Blackhole => 5 << 16,
            NextHop::Node(vtep) => 6 << 16 | vtep.0 as u32,
            NextHop::Outside(neighbour) => 7 << 16 | neighbour.0 as u32,
            NextHop::OnLink => 8 << 16,
        })
    }

    #[inline(always)]
    const fn hop(self) -> Option<NextHop> {
        match self.0 >> 16 {
            1 => Some(NextHop::Local(PortId(self.0 as u16))),
            2 => Some(NextHop::Vtep(VtepIndex(self.0 as u16))),
            3 => Some(NextHop::Gateway),
            4 => Some(NextHop::Host),
            5 => Some(NextHop::Blackhole),
            6 => Some(NextHop::Node(VtepIndex(self.0 as u16))),
            7 => Some(NextHop::Outside(NeighbourIndex(self.0 as u16))),
            8 => Some(NextHop::OnLink),
            _ => None,
        }
    }
}

/// A route to build a table from. Host bits of the address are ignored.
pub type Route = (IpAddr, u8, NextHop);

/// The forwarding table of both families.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    hosts4: Arc<Hosts<u32>>,
    hosts6: Arc<Hosts<u128>>,
    trie4: Arc<Trie<u32>>,
    trie6: Arc<Trie<u128>>,
}

impl Fib {
    /// Builds the trie from `prefixes` and the hash from `hosts`. The order does not matter; the same prefix may be
    /// given twice if the next hop is the same.
    ///
    /// # Errors
    /// [`FibError`].
    pub fn build(
        prefixes: impl IntoIterator<Item = Route>,
        hosts: impl IntoIterator<Item = (IpAddr, NextHop)>,
    ) -> Result<Fib, FibError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (addr, len, hop) in prefixes {
            match addr {
                IpAddr::V4(a) if len <= 32 => v4.push((u32::from(a), len, Code::from_hop(hop))),
                IpAddr::V6(a) if len <= 128 => v6.push((u128::from(a), len, Code::from_hop(hop))),
                _ => return Err(FibError::Length(addr, len)),
            }
        }
        let fib = Fib { trie4: Arc::new(Trie::build(v4)?), trie6: Arc::new(Trie::build(v6)?), ..Fib::default() };
        fib.with_hosts(hosts)
    }

    /// The same prefixes with other hosts. Costs as much as there are hosts; the trie is shared.
    ///
    /// # Errors
    /// [`FibError::Twice`].
    pub fn with_hosts(&self, hosts: impl IntoIterator<Item = (IpAddr, NextHop)>) -> Result<Fib, FibError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (addr, hop) in hosts {
            match addr {
                IpAddr::V4(a) => v4.push((u32::from(a), Code::from_hop(hop))),
                IpAddr::V6(a) => v6.push((u128::from(a), Code::from_hop(hop))),
            }
        }
        Ok(Fib {
            hosts4: Arc::new(Hosts::build(&v4)?),
            hosts6: Arc::new(Hosts::build(&v6)?),
            trie4: Arc::clone(&self.trie4),
            trie6: Arc::clone(&self.trie6),
        })
    }

    /// The longest match of an IPv4 address.
    #[inline]
    pub fn lookup4(&self, addr: Ipv4Addr) -> Option<NextHop> {
        let addr = u32::from(addr);
        self.hosts4.get(addr).unwrap_or_else(|| self.trie4.get(addr)).hop()
    }

    /// The longest match of an IPv6 address.
    #[inline]
    pub fn lookup6(&self, addr: Ipv6Addr) -> Option<NextHop> {
        let addr = u128::from(addr);
        self.hosts6.get(addr).unwrap_or_else(|| self.trie6.get(addr)).hop()
    }

    /// The longest match.
    #[inline]
    pub fn lookup(&self, addr: IpAddr) -> Option<NextHop> {
        match addr {
            IpAddr::V4(a) => self.lookup4(a),
            IpAddr::V6(a) => self.lookup6(a),
        }
    }

    /// Looks several addresses up; the lookups do not depend on each other, so the CPU overlaps their misses.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn lookup4_bulk(&self, addrs: &[Ipv4Addr], hops: &mut [Option<NextHop>]) {
        assert_eq!(addrs.len(), hops.len());
        for (addr, hop) in addrs.iter().zip(hops) {
            *hop = self.lookup4(*addr);
        }
    }

    /// [`Fib::lookup4_bulk`] for IPv6.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn lookup6_bulk(&self, addrs: &[Ipv6Addr], hops: &mut [Option<NextHop>]) {
        assert_eq!(addrs.len(), hops.len());
        for (addr, hop) in addrs.iter().zip(hops) {
            *hop = self.lookup6(*addr);
        }
    }

    /// Bytes of the tables.
    pub fn memory(&self) -> usize {
        self.hosts4.memory() + self.hosts6.memory() + self.trie4.memory() + self.trie6.memory()
    }
}

/// An address as an integer whose top bit is the first on the wire.
trait Bits:
    Copy + Eq + Ord + std::fmt::Debug + Default + std::ops::BitAnd<Output = Self> + std::ops::BitXor<Output = Self>
{
    const WIDTH: u32;
    /// The mask of a prefix of `len` bits.
    fn mask(len: u32) -> Self;
    /// The byte `depth` from the left.
    fn byte(self, depth: u32) -> usize;
    fn leading_zeros(self) -> u32;
    fn fold(self) -> u64;
    fn ip(self) -> IpAddr;
}

impl Bits for u32 {
    const WIDTH: u32 = 32;
    fn mask(len: u32) -> u32 {
        u32::MAX.checked_shl(32 - len).unwrap_or(0)
    }
    #[inline(always)]
    fn byte(self, depth: u32) -> usize {
        (self >> (24 - 8 * depth)) as usize & 0xff
    }
    fn leading_zeros(self) -> u32 {
        u32::leading_zeros(self)
    }
    #[inline(always)]
    fn fold(self) -> u64 {
        u64::from(self)
    }
    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl Bits for u128 {
    const WIDTH: u32 = 128;
    fn mask(len: u32) -> u128 {
        u128::MAX.checked_shl(128 - len).unwrap_or(0)
    }
    #[inline(always)]
    fn byte(self, depth: u32) -> usize {
        (self >> (120 - 8 * depth)) as usize & 0xff
    }
    fn leading_zeros(self) -> u32 {
        u128::leading_zeros(self)
    }
    #[inline(always)]
    fn fold(self) -> u64 {
        (self as u64).rotate_left(29) ^ (self >> 64) as u64
    }
    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

#[cfg(test)]
mod tests;
