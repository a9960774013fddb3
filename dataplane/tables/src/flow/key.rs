//! What identifies one direction of a connection.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Entry;
use super::hash::{FlowHash, FlowKeys};
use crate::mem::Pod;

/// An IPv4 address in transmission order.
pub type V4 = [u8; 4];
/// An IPv6 address in transmission order.
pub type V6 = [u8; 16];

/// An address family: [`V4`] or [`V6`].
pub trait Addr: Copy + Eq + Ord + Hash + Debug + Default + Send + Sync + 'static + private::Sealed {
    /// Whether it is IPv6.
    const V6: bool;
    /// The address as the standard library has it.
    fn ip(self) -> IpAddr;
    #[doc(hidden)]
    fn flow_hash(key: &Key<Self>, keys: &FlowKeys) -> FlowHash;
    #[doc(hidden)]
    fn same(a: &Key<Self>, b: &Key<Self>) -> bool;
}

mod private {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// Source, destination, ports, protocol and zone: 16 bytes for IPv4, 40 for IPv6. Ports in host byte order; for ICMP
/// echo the identifier stands in both ports, for protocols without ports 0. The zone keeps apart packets whose equal
/// headers mean different flows (ingress class, VNI).
#[derive(Clone, Copy, Debug, Default, Hash)]
// Equality is that of all fields, only faster than the derived one; the padding is always 0.
#[allow(clippy::derived_hash_with_manual_eq)]
#[repr(C)]
pub struct Key<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, host byte order.
    pub sport: u16,
    /// Destination port, host byte order.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Ingress class.
    pub zone: u8,
    pad: u16,
}

impl<A: Addr> Key<A> {
    /// A key from its parts.
    #[inline]
    pub fn new(src: A, dst: A, sport: u16, dport: u16, proto: u8, zone: u8) -> Self {
        Key { src, dst, sport, dport, proto, zone, pad: 0 }
    }

    /// The key of the other direction in the given zone.
    #[inline]
    #[must_use]
    pub fn reversed(&self, zone: u8) -> Self {
        Key::new(self.dst, self.src, self.dport, self.sport, self.proto, zone)
    }
}

impl Key<V4> {
    /// A key from the standard library's addresses.
    pub fn v4(src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16, proto: u8, zone: u8) -> Self {
        Key::new(src.octets(), dst.octets(), sport, dport, proto, zone)
    }

    #[inline(always)]
    fn words(&self) -> [u64; 2] {
        let addresses = u64::from(u32::from_ne_bytes(self.src)) | u64::from(u32::from_ne_bytes(self.dst)) << 32;
        [addresses, tail(self.sport, self.dport, self.proto, self.zone)]
    }
}

impl Key<V6> {
    /// A key from the standard library's addresses.
    pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, sport: u16, dport: u16, proto: u8, zone: u8) -> Self {
        Key::new(src.octets(), dst.octets(), sport, dport, proto, zone)
    }

    #[inline(always)]
    fn words(&self) -> [u64; 5] {
        let (src, dst) = (u128::from_ne_bytes(self.src), u128::from_ne_bytes(self.dst));
        [
            src as u64,
            (src >> 64) as u64,
            dst as u64,
            (dst >> 64) as u64,
            tail(self.sport, self.dport, self.proto, self.zone),
        ]
    }
}

#[inline(always)]
fn tail(sport: u16, dport: u16, proto: u8, zone: u8) -> u64 {
    u64::from(sport) | u64::from(dport) << 16 | u64::from(proto) << 32 | u64::from(zone) << 40
}

impl<A: Addr> PartialEq for Key<A> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        A::same(self, other)
    }
}

impl<A: Addr> Eq for Key<A> {}

impl Addr for V4 {
    const V6: bool = false;

    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }

    #[inline(always)]
    fn flow_hash(key: &Key<V4>, keys: &FlowKeys) -> FlowHash {
        keys.short(&key.words())
    }

    #[inline(always)]
    fn same(a: &Key<V4>, b: &Key<V4>) -> bool {
        differ(&a.words(), &b.words()) == 0
    }
}

impl Addr for V6 {
    const V6: bool = true;

    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }

    #[inline(always)]
    fn flow_hash(key: &Key<V6>, keys: &FlowKeys) -> FlowHash {
        keys.long(&key.words())
    }

    #[inline(always)]
    fn same(a: &Key<V6>, b: &Key<V6>) -> bool {
        differ(&a.words(), &b.words()) == 0
    }
}

/// One branch for the whole key instead of one per field.
#[inline(always)]
fn differ<const N: usize>(a: &[u64; N], b: &[u64; N]) -> u64 {
    let mut bits = 0;
    for i in 0..N {
        bits |= a[i] ^ b[i];
    }
    bits
}

const _: () = assert!(size_of::<Key<V4>>() == 16 && size_of::<Key<V6>>() == 40);
const _: () = assert!(size_of::<Entry<V4>>() == 64 && size_of::<Entry<V6>>() == 128);
const fn is_pod<T: Pod>() {}
const _: () = {
    is_pod::<Entry<V4>>();
    is_pod::<Entry<V6>>();
};
