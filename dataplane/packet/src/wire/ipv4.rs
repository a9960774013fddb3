//! IPv4 (RFC 791).

use super::WireError;
use crate::checksum;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// In [`Ipv4::flags_offset`]: do not fragment.
pub const DF: u16 = 0x4000;
/// In [`Ipv4::flags_offset`]: more fragments follow.
pub const MF: u16 = 0x2000;
/// In [`Ipv4::flags_offset`]: the fragment's offset in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

view! {
    /// An IPv4 packet.
    Ipv4
}

fields! { Ipv4 {
    /// Version and header length in 32-bit words, 4 bits each.
    version_ihl / set_version_ihl: u8 @ 0;
    /// DSCP (6 bits) and ECN (2 bits).
    tos / set_tos: u8 @ 1;
    /// Bytes of header and payload together.
    total_len / set_total_len: u16 @ 2;
    /// Identification of a packet's fragments.
    id / set_id: u16 @ 4;
    /// The flags ([`DF`], [`MF`]) and the fragment offset ([`OFFSET_MASK`]).
    flags_offset / set_flags_offset: u16 @ 6;
    /// Time to live.
    ttl / set_ttl: u8 @ 8;
    /// Protocol of the payload.
    protocol / set_protocol: u8 @ 9;
    /// Header checksum as it stands in the packet.
    checksum / set_checksum: u16 @ 10;
    /// Source address.
    src / set_src: ip4 @ 12;
    /// Destination address.
    dst / set_dst: ip4 @ 16;
} }

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// The packet in `bytes`; bytes beyond the total length are padding.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Version`], [`WireError::HeaderLength`], and [`WireError::Length`] where the
    /// total length is below the header or beyond `bytes`. The checksum is not verified.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let v = Self::new_header(bytes)?;
        if usize::from(v.total_len()) < v.header_len() || usize::from(v.total_len()) > v.b().len() {
            return Err(WireError::Length);
        }
        Ok(v)
    }

    /// As [`Ipv4::new`], but `bytes` may end before the total length: the quotation in an ICMP error, or the first
    /// segment of a chain.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Version`], [`WireError::HeaderLength`].
    #[inline]
    pub fn new_header(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        if b.len() < IPV4_LEN {
            return Err(WireError::Truncated);
        }
        if b[0] >> 4 != 4 {
            return Err(WireError::Version);
        }
        let header = usize::from(b[0] & 15) * 4;
        if header < IPV4_LEN {
            return Err(WireError::HeaderLength);
        }
        if header > b.len() {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// Bytes of the header with its options, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.b()[0] & 15) * 4
    }

    /// The options' bytes, padding included.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.b()[IPV4_LEN..self.header_len()]
    }

    /// What follows the header, up to the total length or the end of the bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let end = usize::from(self.total_len()).clamp(self.header_len(), self.b().len());
        &self.b()[self.header_len()..end]
    }

    /// Whether this is a fragment (the first included).
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_offset() & (MF | OFFSET_MASK) != 0
    }

    /// Whether the header checksum is right (RFC 791 section 3.1).
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        checksum::fold(checksum::sum(&self.b()[..self.header_len()])) == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Computes and writes the header checksum.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let sum = !checksum::fold(checksum::sum(&self.b()[..self.header_len()]));
        self.set_checksum(sum);
    }

    /// What follows the header, to be rewritten.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let start = self.header_len();
        let end = usize::from(self.total_len()).clamp(start, self.b().len());
        &mut self.0.as_mut()[start..end]
    }
}

/// One option of an IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Option<'a> {
    /// Copied flag, class and number.
    pub kind: u8,
    /// The option's data, without type and length.
    pub data: &'a [u8],
}

impl Ipv4Option<'_> {
    /// Loose source and record route.
    pub const LSRR: u8 = 131;
    /// Strict source and record route.
    pub const SSRR: u8 = 137;

    /// Whether every fragment must carry the option (RFC 791 section 3.1, copied flag).
    #[inline]
    pub const fn copied(&self) -> bool {
        self.kind & 0x80 != 0
    }
}

/// The options in `bytes` (see [`Ipv4::options`]) up to the end-of-list option, no-operations left out. A malformed one is
/// an error and the last item.
pub fn options(bytes: &[u8]) -> impl Iterator<Item = Result<Ipv4Option<'_>, WireError>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        loop {
            match *rest {
                [] | [0, ..] => return None,
                [1, ref next @ ..] => rest = next,
                [kind, len, ..] if len >= 2 && usize::from(len) <= rest.len() => {
                    let data = &rest[2..usize::from(len)];
                    rest = &rest[usize::from(len)..];
                    return Some(Ok(Ipv4Option { kind, data }));
                }
                _ => {
                    rest = &[];
                    return Some(Err(WireError::Option));
                }
            }
        }
    })
}
