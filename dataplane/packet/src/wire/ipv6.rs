//! IPv6 and its extension headers (RFC 8200).

use super::{WireError, be16, be32, proto};

/// Bytes of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of a fragment header.
pub const FRAGMENT_LEN: usize = 8;
/// How many extension headers a packet may have; real ones have up to four.
pub const MAX_EXTENSIONS: usize = 8;

view! {
    /// An IPv6 packet.
    Ipv6
}

fields! { Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    version_class_label / set_version_class_label: u32 @ 0;
    /// Bytes behind the fixed header, extension headers included.
    payload_len / set_payload_len: u16 @ 4;
    /// Protocol of what follows the fixed header; see [`walk`].
    next_header / set_next_header: u8 @ 6;
    /// Hop limit.
    hop_limit / set_hop_limit: u8 @ 7;
    /// Source address.
    src / set_src: ip6 @ 8;
    /// Destination address.
    dst / set_dst: ip6 @ 24;
} }

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// The packet in `bytes`; bytes beyond the payload length are padding.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Version`], [`WireError::Length`] where the payload length is beyond `bytes`.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let v = Self::new_header(bytes)?;
        if IPV6_LEN + usize::from(v.payload_len()) > v.b().len() {
            return Err(WireError::Length);
        }
        Ok(v)
    }

    /// As [`Ipv6::new`], but `bytes` may end before the payload does.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::Version`].
    #[inline]
    pub fn new_header(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        if b.len() < IPV6_LEN {
            return Err(WireError::Truncated);
        }
        if b[0] >> 4 != 6 {
            return Err(WireError::Version);
        }
        Ok(Self(bytes))
    }

    /// Traffic class: DSCP (6 bits) and ECN (2 bits).
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label() >> 20) as u8
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_label() & 0xf_ffff
    }

    /// What follows the fixed header, up to the payload length or the end of the bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let end = (IPV6_LEN + usize::from(self.payload_len())).min(self.b().len());
        &self.b()[IPV6_LEN..end]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Writes the traffic class; version and flow label stay.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let word = self.version_class_label() & !(0xff << 20) | u32::from(class) << 20;
        self.set_version_class_label(word);
    }

    /// What follows the fixed header, to be rewritten.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = (IPV6_LEN + usize::from(self.payload_len())).min(self.b().len());
        &mut self.0.as_mut()[IPV6_LEN..end]
    }
}

/// The content of a fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Where the header lies in the walked bytes.
    pub at: usize,
    /// Where the fragment's data belongs in the fragmentable part, in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Identification of a packet's fragments.
    pub id: u32,
}

impl FragmentHeader {
    /// Whether it is the only fragment of its packet, to be treated as if whole (RFC 6946).
    #[inline]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Where a chain of extension headers led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The first protocol that is no extension header; in later fragments, that of the fragmentable part.
    pub protocol: u8,
    /// Where it starts, from the first byte behind the fixed header.
    pub offset: usize,
    /// The fragment header, if there is one.
    pub fragment: Option<FragmentHeader>,
    /// Segments are left in a routing header of type 0, which RFC 5095 forbids.
    pub source_routed: bool,
    /// Segments are left in a routing header of any type: the packet's destination is not its last one.
    pub routed: bool,
    /// Where the value of the next header field that names `protocol` lies: `None`, in the fixed header; else an offset
    /// from the first byte behind it.
    pub named_at: Option<usize>,
}

/// Why a chain of extension headers could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It goes on beyond the bytes.
    #[error("the chain of extension headers is cut short")]
    Truncated {
        /// A fragment header was met before: the first fragment lacks the rest of the chain (RFC 7112 section 5).
        in_fragment: bool,
    },
    /// More than [`MAX_EXTENSIONS`].
    #[error("too many extension headers")]
    TooMany,
    /// Hop-by-hop options behind another header (RFC 8200 section 4.1), or a second fragment header.
    #[error("extension header where it may not be")]
    Misplaced,
}

/// Follows the extension headers in `bytes`, which start behind the fixed header, from protocol `first` on. Stops at the
/// first protocol that is none (ESP included), and at the data of a later fragment.
///
/// # Errors
/// [`ChainError`].
#[inline]
pub fn walk(first: u8, bytes: &[u8]) -> Result<Chain, ChainError> {
    let mut chain =
        Chain { protocol: first, offset: 0, fragment: None, source_routed: false, routed: false, named_at: None };
    if !is_extension(first) {
        return Ok(chain);
    }
    for _ in 0..=MAX_EXTENSIONS {
        if !is_extension(chain.protocol) {
            return Ok(chain);
        }
        let truncated = ChainError::Truncated { in_fragment: chain.fragment.is_some() };
        let h = bytes.get(chain.offset..).filter(|h| h.len() >= 8).ok_or(truncated)?;
        let len = match chain.protocol {
            proto::FRAGMENT => {
                if chain.fragment.is_some() {
                    return Err(ChainError::Misplaced);
                }
                let word = be16(h, 2);
                let at = chain.offset;
                chain.fragment = Some(FragmentHeader { at, offset: word & !7, more: word & 1 != 0, id: be32(h, 4) });
                FRAGMENT_LEN
            }
            // RFC 4302 section 2.2: in units of 4 bytes, less 2.
            proto::AH => (usize::from(h[1]) + 2) * 4,
            proto::HOP_BY_HOP if chain.offset != 0 => return Err(ChainError::Misplaced),
            p => {
                let routed = p == proto::ROUTING && h[3] != 0;
                chain.routed |= routed;
                chain.source_routed |= routed && h[2] == 0;
                (usize::from(h[1]) + 1) * 8
            }
        };
        if h.len() < len {
            return Err(truncated);
        }
        chain.named_at = Some(chain.offset);
        chain.protocol = h[0];
        chain.offset += len;
        if chain.fragment.is_some_and(|f| f.offset != 0) {
            return Ok(chain);
        }
    }
    Err(ChainError::TooMany)
}

/// Whether a protocol number is an extension header that [`walk`] steps over.
#[inline]
pub const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, proto::HOP_BY_HOP | proto::ROUTING | proto::FRAGMENT | proto::AH | proto::DEST_OPTS)
}
