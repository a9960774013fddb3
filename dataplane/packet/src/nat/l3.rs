//! Addresses in IP headers.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::NatError;
use super::delta::Delta;
use crate::wire::ipv4::IPV4_LEN;
use crate::wire::ipv6::{IPV6_LEN, walk};
use crate::wire::{array, be16};

/// What the IP header tells the transport.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// Of the addresses.
    pub(super) delta: Delta,
    /// Bytes of the whole IP packet by its own field.
    pub(super) len: usize,
    /// The pseudo-header of ICMP exists only over IPv6.
    pub(super) v6: bool,
}

/// An IPv4 header, options included or not.
#[derive(Debug)]
pub(super) struct V4<'a>(&'a mut [u8; IPV4_LEN]);

impl<'a> V4<'a> {
    /// The header that `bytes` start with.
    #[inline(always)]
    pub(super) fn of(bytes: &'a mut [u8]) -> Result<V4<'a>, NatError> {
        if bytes.first().is_some_and(|b| b >> 4 != 4) {
            return Err(NatError::Family);
        }
        bytes.first_chunk_mut().map(V4).ok_or(NatError::Headers)
    }

    /// The source.
    pub(super) fn src(&self) -> Ipv4Addr {
        array::<4>(self.0, 12).into()
    }

    /// The destination.
    pub(super) fn dst(&self) -> Ipv4Addr {
        array::<4>(self.0, 16).into()
    }

    /// Bytes of the whole packet by its own field.
    pub(super) fn len(&self) -> usize {
        usize::from(be16(self.0, 2))
    }

    /// What these addresses would change.
    #[inline(always)]
    pub(super) fn change(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Change {
        let h = &*self.0;
        let delta = Delta::default()
            .four([h[12], h[13], h[14], h[15]], src.octets())
            .four([h[16], h[17], h[18], h[19]], dst.octets());
        Change { delta, len: self.len(), v6: false }
    }

    /// Writes the addresses and the header's checksum. Returns how that changed.
    #[inline(always)]
    pub(super) fn write(self, change: &Change, src: Ipv4Addr, dst: Ipv4Addr) -> Delta {
        let h = self.0;
        let old = [h[10], h[11]];
        let sum = change.delta.applied(old);
        h[10..12].copy_from_slice(&sum);
        h[12..16].copy_from_slice(&src.octets());
        h[16..20].copy_from_slice(&dst.octets());
        Delta::default().two(old, sum)
    }
}

/// An IPv6 header that no routing header overrules.
#[derive(Debug)]
pub(super) struct V6<'a>(&'a mut [u8; IPV6_LEN]);

impl<'a> V6<'a> {
    /// The header of `bytes`, which end where the transport header starts.
    #[inline(always)]
    pub(super) fn of(bytes: &'a mut [u8]) -> Result<V6<'a>, NatError> {
        if bytes.first().is_some_and(|b| b >> 4 != 6) {
            return Err(NatError::Family);
        }
        let (h, extensions) = bytes.split_first_chunk_mut::<IPV6_LEN>().ok_or(NatError::Headers)?;
        if !extensions.is_empty() {
            at_its_end(h[6], extensions)?;
        }
        Ok(V6(h))
    }

    /// The source.
    pub(super) fn src(&self) -> Ipv6Addr {
        array::<16>(self.0, 8).into()
    }

    /// The destination.
    pub(super) fn dst(&self) -> Ipv6Addr {
        array::<16>(self.0, 24).into()
    }

    /// Bytes of the whole packet by its own field.
    pub(super) fn len(&self) -> usize {
        IPV6_LEN + usize::from(be16(self.0, 4))
    }

    /// What these addresses would change.
    #[inline(always)]
    pub(super) fn change(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Change {
        let delta = Delta::default().sixteen(array(self.0, 8), src.octets()).sixteen(array(self.0, 24), dst.octets());
        Change { delta, len: self.len(), v6: true }
    }

    /// Writes the addresses.
    #[inline(always)]
    pub(super) fn write(self, src: Ipv6Addr, dst: Ipv6Addr) {
        self.0[8..24].copy_from_slice(&src.octets());
        self.0[24..].copy_from_slice(&dst.octets());
    }
}

/// Refuses a packet that a routing header sends on from the destination that it names.
#[cold]
fn at_its_end(first: u8, extensions: &[u8]) -> Result<(), NatError> {
    let chain = walk(first, extensions).map_err(|_| NatError::Headers)?;
    if chain.routed { Err(NatError::Routed) } else { Ok(()) }
}
