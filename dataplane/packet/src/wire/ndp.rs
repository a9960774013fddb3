//! Neighbour discovery (RFC 4861): messages and their options. The bytes start at the ICMPv6 header.

use super::WireError;
use super::icmp::Icmpv6Type;
use crate::id::Mac;

/// Bytes of a neighbour solicitation or advertisement without options.
pub const NEIGHBOUR_LEN: usize = 24;
/// Bytes of a router advertisement without options.
pub const ROUTER_ADVERTISEMENT_LEN: usize = 16;
/// Bytes of a router solicitation without options.
pub const ROUTER_SOLICITATION_LEN: usize = 8;

view! {
    /// A neighbour solicitation or advertisement: they differ in the type and the flags.
    Neighbour
}

fields! { Neighbour {
    /// ICMPv6 type.
    kind / set_kind: u8 @ 0;
    /// ICMPv6 code, always 0.
    code / set_code: u8 @ 1;
    /// Checksum as it stands in the packet.
    checksum / set_checksum: u16 @ 2;
    /// Of an advertisement: router (bit 31), solicited (30), override (29); else reserved.
    flags / set_flags: u32 @ 4;
    /// The address that is asked for or announced.
    target / set_target: ip6 @ 8;
} }

impl<T: AsRef<[u8]>> Neighbour<T> {
    /// Flag: the sender is a router.
    pub const ROUTER: u32 = 1 << 31;
    /// Flag: answers a solicitation.
    pub const SOLICITED: u32 = 1 << 30;
    /// Flag: replaces a cached address.
    pub const OVERRIDE: u32 = 1 << 29;

    /// The message in `bytes`, checked as RFC 4861 sections 7.1.1 and 7.1.2 ask as far as the message alone tells: type,
    /// code, length, target no group, options with non-zero lengths.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Kind`], [`WireError::Option`].
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        if b.len() < NEIGHBOUR_LEN {
            return Err(WireError::Truncated);
        }
        let is_neighbour =
            matches!(Icmpv6Type(b[0]), Icmpv6Type::NEIGHBOUR_SOLICITATION | Icmpv6Type::NEIGHBOUR_ADVERTISEMENT);
        if !is_neighbour || b[1] != 0 || b[8] == 0xff {
            return Err(WireError::Kind);
        }
        check_options(&b[NEIGHBOUR_LEN..])?;
        Ok(Self(bytes))
    }

    /// Whether this is a solicitation.
    #[inline]
    pub fn is_solicitation(&self) -> bool {
        Icmpv6Type(self.kind()) == Icmpv6Type::NEIGHBOUR_SOLICITATION
    }

    /// The options' bytes; see [`options`].
    #[inline]
    pub fn option_bytes(&self) -> &[u8] {
        &self.b()[NEIGHBOUR_LEN..]
    }
}

view! {
    /// A router solicitation.
    RouterSolicitation
}

impl<T: AsRef<[u8]>> RouterSolicitation<T> {
    /// The message in `bytes` (RFC 4861 section 6.1.1).
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Kind`], [`WireError::Option`].
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        check_router(b, Icmpv6Type::ROUTER_SOLICITATION, ROUTER_SOLICITATION_LEN)?;
        Ok(Self(bytes))
    }

    /// The options' bytes; see [`options`].
    #[inline]
    pub fn option_bytes(&self) -> &[u8] {
        &self.b()[ROUTER_SOLICITATION_LEN..]
    }
}

view! {
    /// A router advertisement.
    RouterAdvertisement
}

fields! { RouterAdvertisement {
    /// The hop limit that hosts should use; 0: not said.
    hop_limit / set_hop_limit: u8 @ 4;
    /// Managed (bit 7) and other configuration (bit 6).
    flags / set_flags: u8 @ 5;
    /// Seconds for which the sender is a default router; 0: it is none.
    lifetime / set_lifetime: u16 @ 6;
    /// Milliseconds for which a neighbour counts as reachable; 0: not said.
    reachable_time / set_reachable_time: u32 @ 8;
    /// Milliseconds between solicitations; 0: not said.
    retrans_timer / set_retrans_timer: u32 @ 12;
} }

impl<T: AsRef<[u8]>> RouterAdvertisement<T> {
    /// The message in `bytes` (RFC 4861 section 6.1.2).
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Kind`], [`WireError::Option`].
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        check_router(b, Icmpv6Type::ROUTER_ADVERTISEMENT, ROUTER_ADVERTISEMENT_LEN)?;
        Ok(Self(bytes))
    }

    /// The options' bytes; see [`options`].
    #[inline]
    pub fn option_bytes(&self) -> &[u8] {
        &self.b()[ROUTER_ADVERTISEMENT_LEN..]
    }
}

fn check_router(b: &[u8], kind: Icmpv6Type, len: usize) -> Result<(), WireError> {
    if b.len() < len {
        return Err(WireError::Truncated);
    }
    if Icmpv6Type(b[0]) != kind || b[1] != 0 {
        return Err(WireError::Kind);
    }
    check_options(&b[len..])
}

fn check_options(bytes: &[u8]) -> Result<(), WireError> {
    options(bytes).try_for_each(|o| o.map(|_| ()))
}

/// An option of a neighbour discovery message (RFC 4861 section 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdOption<'a> {
    /// The sender's link-layer address.
    SourceLinkLayer(Mac),
    /// The target's link-layer address.
    TargetLinkLayer(Mac),
    /// The link's MTU.
    Mtu(u32),
    /// Another, or one of the above with an unusual length: the kind and the data without kind and length.
    Other(u8, &'a [u8]),
}

/// The options in `bytes`. A malformed one (length 0 or beyond the bytes) is an error and the last item.
pub fn options(bytes: &[u8]) -> impl Iterator<Item = Result<NdOption<'_>, WireError>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = rest.get(1).map_or(0, |&l| usize::from(l) * 8);
        let Some((option, next)) = rest.split_at_checked(len).filter(|_| len != 0) else {
            rest = &[];
            return Some(Err(WireError::Option));
        };
        rest = next;
        Some(Ok(match *option {
            [1, 1, a, b, c, d, e, f] => NdOption::SourceLinkLayer(Mac([a, b, c, d, e, f])),
            [2, 1, a, b, c, d, e, f] => NdOption::TargetLinkLayer(Mac([a, b, c, d, e, f])),
            [5, 1, _, _, a, b, c, d] => NdOption::Mtu(u32::from_be_bytes([a, b, c, d])),
            _ => NdOption::Other(option[0], &option[2..]),
        }))
    })
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub const fn solicited_node(target: core::net::Ipv6Addr) -> core::net::Ipv6Addr {
    let o = target.octets();
    core::net::Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}
