//! The IPv6 header and its extension headers.

use super::{Addrs, Fragment, Kind, ParseError, Parsed, transport};
use crate::wire::ipv6::{ChainError, FRAGMENT_LEN, IPV6_LEN, is_extension, walk};
use crate::wire::{array, be16};

#[inline(always)]
pub(super) fn parse(head: &[u8], p: &mut Parsed) -> Result<(), ParseError> {
    let l3 = usize::from(p.l3_off);
    let room = p.l3_len as usize;
    let bytes = &head[l3..];
    let Some(h) = bytes.first_chunk::<IPV6_LEN>() else {
        return Err(if room > bytes.len() { ParseError::HeadersSplit } else { ParseError::Ipv6Truncated });
    };
    if h[0] >> 4 != 6 {
        return Err(ParseError::Ipv6BadVersion);
    }
    let total = IPV6_LEN + usize::from(be16(h, 4));
    if total > room {
        return Err(ParseError::Ipv6ExceedsFrame);
    }
    p.kind = Kind::Ipv6;
    p.l3_len = total as u32;
    p.l4_off = (l3 + IPV6_LEN) as u16;
    p.payload_off = p.l4_off;
    p.proto = h[6];
    p.tos = h[0] << 4 | h[1] >> 4;
    p.ttl = h[7];
    p.df = true;
    p.addrs = Addrs::V6 { src: array::<16>(h, 8).into(), dst: array::<16>(h, 24).into() };
    if is_extension(p.proto) {
        (p.l4_off, p.proto, p.fragment) = extensions(head, l3 + IPV6_LEN, l3 + total, p.proto)?;
        p.payload_off = p.l4_off;
        if p.fragment.is_some_and(|f| !f.is_first()) {
            return Ok(());
        }
    }
    transport(head, p)
}

/// Where the transport header starts behind the headers from `start` on, its protocol, and a fragment's place.
#[cold]
fn extensions(head: &[u8], start: usize, end: usize, first: u8) -> Result<(u16, u8, Option<Fragment>), ParseError> {
    let chain = walk(first, &head[start..end.min(head.len())]).map_err(|e| match e {
        ChainError::Truncated { .. } if end > head.len() => ParseError::HeadersSplit,
        ChainError::Truncated { in_fragment: true } => ParseError::FragmentSplitsTransport,
        ChainError::Truncated { in_fragment: false } => ParseError::Ipv6ExtensionTruncated,
        ChainError::TooMany => ParseError::Ipv6TooManyExtensions,
        ChainError::Misplaced => ParseError::Ipv6ExtensionMisplaced,
    })?;
    if chain.source_routed {
        return Err(ParseError::Ipv6SourceRoute);
    }
    // At most MAX_EXTENSIONS + 1 headers of 2,048 bytes: within 16 bits.
    let l4_off = (start + chain.offset) as u16;
    let mut fragment = None;
    if let Some(f) = chain.fragment.filter(|f| !f.is_atomic()) {
        let data_off = start + f.at + FRAGMENT_LEN;
        let len = end - data_off;
        // What the whole packet's payload length would be (RFC 8200 section 4.5).
        let whole = f.at + usize::from(f.offset) + len;
        if len == 0 || f.more && !len.is_multiple_of(8) || whole > 65535 {
            return Err(ParseError::FragmentMalformed);
        }
        fragment = Some(Fragment { offset: f.offset, more: f.more, id: f.id, data_off: data_off as u16 });
    }
    Ok((l4_off, chain.protocol, fragment))
}
