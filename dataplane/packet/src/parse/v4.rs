//! The IPv4 header.

use super::{Addrs, Fragment, Kind, ParseError, Parsed, transport};
use crate::checksum::{fold, sum};
use crate::wire::ipv4::{DF, IPV4_LEN, Ipv4Option, MF, OFFSET_MASK, options};
use crate::wire::{array, be16, proto};

#[inline(always)]
pub(super) fn parse(head: &[u8], p: &mut Parsed) -> Result<(), ParseError> {
    let l3 = usize::from(p.l3_off);
    let room = p.l3_len as usize;
    let bytes = &head[l3..];
    let Some(h) = bytes.first_chunk::<IPV4_LEN>() else {
        return Err(if room > bytes.len() { ParseError::HeadersSplit } else { ParseError::Ipv4Truncated });
    };
    let mut header_len = IPV4_LEN;
    if h[0] == 0x45 {
        if header_sum(h) != 0xffff {
            return Err(ParseError::Ipv4BadChecksum);
        }
    } else {
        header_len = with_options(bytes, room)?;
    }
    let total = usize::from(be16(h, 2));
    if total < header_len {
        return Err(ParseError::Ipv4BadTotalLength);
    }
    if total > room {
        return Err(ParseError::Ipv4ExceedsFrame);
    }
    p.kind = Kind::Ipv4;
    p.l3_len = total as u32;
    p.l4_off = (l3 + header_len) as u16;
    p.payload_off = p.l4_off;
    p.proto = h[9];
    p.tos = h[1];
    p.ttl = h[8];
    p.addrs = Addrs::V4 { src: array::<4>(h, 12).into(), dst: array::<4>(h, 16).into() };
    let word = be16(h, 6);
    p.df = word & DF != 0;
    if word & (MF | OFFSET_MASK) != 0 {
        let f = fragment(word, be16(h, 4), l3, header_len, total, p.proto)?;
        p.fragment = Some(f);
        if !f.is_first() {
            return Ok(());
        }
    }
    transport(head, p)
}

/// The sum over a header without options, right if 0xffff.
#[inline(always)]
fn header_sum(h: &[u8; IPV4_LEN]) -> u16 {
    let mut s = 0u64;
    for w in h.chunks_exact(4) {
        s += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    }
    // At most 5 * (2^32 - 1): one addition folds it to 32 bits and a carry.
    fold(fold((s & 0xffff_ffff) as u32) as u32 + fold((s >> 32) as u32) as u32)
}

/// Anything but version 4 with five words: the header's length if it is sound.
#[cold]
fn with_options(bytes: &[u8], room: usize) -> Result<usize, ParseError> {
    if bytes[0] >> 4 != 4 {
        return Err(ParseError::Ipv4BadVersion);
    }
    let len = usize::from(bytes[0] & 15) * 4;
    if len < IPV4_LEN {
        return Err(ParseError::Ipv4BadHeaderLength);
    }
    let Some(header) = bytes.get(..len) else {
        return Err(if room >= len { ParseError::HeadersSplit } else { ParseError::Ipv4Truncated });
    };
    if fold(sum(header)) != 0xffff {
        return Err(ParseError::Ipv4BadChecksum);
    }
    for o in options(&header[IPV4_LEN..]) {
        match o.map_err(|_| ParseError::Ipv4BadOption)?.kind {
            Ipv4Option::LSRR | Ipv4Option::SSRR => return Err(ParseError::Ipv4SourceRoute),
            _ => {}
        }
    }
    Ok(len)
}

/// The place of a fragment whose header starts at `l3`. Takes values, for of what is passed by reference the compiler
/// keeps all in memory.
fn fragment(word: u16, id: u16, l3: usize, header: usize, total: usize, proto: u8) -> Result<Fragment, ParseError> {
    let data_off = (l3 + header) as u16;
    let f = Fragment { offset: (word & OFFSET_MASK) * 8, more: word & MF != 0, id: u32::from(id), data_off };
    let len = total - header;
    let impossible = len == 0 || f.more && !len.is_multiple_of(8) || header + usize::from(f.offset) + len > 65535;
    // RFC 1858 section 3.2.2: a TCP fragment at offset 1 can only be there to overwrite the flags.
    if impossible || proto == proto::TCP && f.offset == 8 {
        return Err(ParseError::FragmentMalformed);
    }
    Ok(f)
}
