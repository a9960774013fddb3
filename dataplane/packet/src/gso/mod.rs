//! Software segmentation of TCP and UDP GSO frames, plain or behind VXLAN outer headers.
//!
//! [`Segmenter`] is made once per frame and then writes the headers of any segment into the caller's buffer; the payload stays
//! where it is, and the caller gathers or copies it. As Linux does it (Documentation/networking/segmentation-offloads):
//! sequence numbers and lengths advance, IPv4 identifications count up, CWR stays on the first segment, FIN and PSH on
//! the last, and every checksum is complete.

mod outer;

use core::num::NonZeroU16;

use crate::buf::{Csum, Gso, PacketBuf};
use crate::checksum::{fold, not_zero, pseudo_v4, pseudo_v6, sum, sum_chain};
use crate::parse::{Addrs, L4, ParseError, Parsed, parse_at};
use crate::wire::tcp::TcpFlags;
use crate::wire::{be16, be32, ipv6, proto};
use outer::Outer;

/// Most bytes of headers in front of a segment's payload, outer ones included.
pub const MAX_HEADERS: usize = 256;
/// Most segments that one frame may make: 64 KiB at 32 bytes each. More is an attack on the one who cuts.
pub const MAX_SEGMENTS: usize = 2048;

/// Why a frame cannot be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GsoError {
    /// The metadata asks for no segmentation, or for segments of 0 bytes.
    #[error("no segment size")]
    NotGso,
    /// The (inner) frame does not parse.
    #[error("the frame does not parse: {0}")]
    Parse(#[from] ParseError),
    /// The frame is not what the metadata says: another family or protocol, a fragment, SYN or RST, source-routed.
    #[error("the frame is not what its GSO type says")]
    Mismatch,
    /// The outer headers are not Ethernet, IPv4 or IPv6, UDP and VXLAN of the stated length, or are over a UDP frame.
    #[error("the outer headers are not VXLAN's")]
    BadTunnel,
    /// The checksum is neither partial, at this frame's transport header, nor known to be good: completing it would hide damage.
    #[error("the checksum's state does not allow segmentation")]
    Checksum,
    /// More than [`MAX_HEADERS`] bytes of headers, or they are not all in the first segment.
    #[error("too many header bytes")]
    HeadersTooLong,
    /// More than [`MAX_SEGMENTS`].
    #[error("too many segments")]
    TooMany,
}

/// Where a segment's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Bytes that were written to the header buffer.
    pub header_len: usize,
    /// Where its payload starts in the source frame.
    pub payload_off: usize,
    /// Bytes of payload.
    pub payload_len: usize,
}

/// A frame's segmentation, worked out.
#[derive(Clone, Copy, Debug)]
pub struct Segmenter {
    outer: Option<Outer>,
    p: Parsed,
    size: NonZeroU16,
    count: usize,
    /// The UDP checksum field was zero on purpose (IPv4 only: RFC 8200 section 8.1).
    no_checksum: bool,
}

impl Segmenter {
    /// Works out how to cut `buf` by its metadata (`gso`, `csum`, `tunnel`). The headers, outer and inner, must lie in its head.
    ///
    /// # Errors
    /// [`GsoError`]
    pub fn new<B: PacketBuf + ?Sized>(buf: &B) -> Result<Segmenter, GsoError> {
        let meta = buf.meta();
        let head = buf.head();
        let size = NonZeroU16::new(meta.gso.size()).ok_or(GsoError::NotGso)?;
        let tunnel = usize::from(meta.tunnel);
        let outer = if tunnel == 0 { None } else { Some(Outer::new(head, tunnel)?) };
        let p = parse_at(head, tunnel, buf.len())?;
        check_kind(head, &p, meta.gso)?;
        check_csum(&p, meta.csum)?;
        if usize::from(p.payload_off) > MAX_HEADERS.min(head.len()) {
            return Err(GsoError::HeadersTooLong);
        }
        let count = p.payload_len().div_ceil(usize::from(size.get())).max(1);
        if count > MAX_SEGMENTS {
            return Err(GsoError::TooMany);
        }
        let field = be16(head, usize::from(p.l4_off) + csum_at(&p));
        let no_checksum =
            p.proto == proto::UDP && field == 0 && !p.addrs.is_v6() && !matches!(meta.csum, Csum::Partial { .. });
        Ok(Segmenter { outer, p, size, count, no_checksum })
    }

    /// How many segments there are; at least 1.
    #[inline]
    pub const fn segments(&self) -> usize {
        self.count
    }

    /// Bytes of headers of every segment, outer ones included.
    #[inline]
    pub const fn header_len(&self) -> usize {
        self.p.payload_off as usize
    }

    /// The (inner) frame's headers.
    #[inline]
    pub const fn parsed(&self) -> &Parsed {
        &self.p
    }

    /// Writes the headers of segment `i` to the front of `out` and says where its payload is. `buf` is the frame that this was
    /// made of, unchanged. `None`: there is no such segment, or `out` is shorter than [`header_len`](Self::header_len).
    pub fn segment<B: PacketBuf + ?Sized>(&self, buf: &B, i: usize, out: &mut [u8]) -> Option<Segment> {
        if i >= self.count {
            return None;
        }
        let header_len = self.header_len();
        let out = out.get_mut(..header_len)?;
        out.copy_from_slice(buf.head().get(..header_len)?);
        let start = i * usize::from(self.size.get());
        let payload_len = (self.p.payload_len() - start).min(usize::from(self.size.get()));
        let payload_off = header_len + start;
        let payload = sum_chain(buf, payload_off, payload_len)?;
        self.network(out, i, payload_len);
        self.transport(out, i, payload_len, payload);
        if let Some(outer) = &self.outer {
            outer.write(out, i, payload_len, payload);
        }
        Some(Segment { header_len, payload_off, payload_len })
    }

    /// Lengths, identification and header checksum.
    fn network(&self, out: &mut [u8], i: usize, payload_len: usize) {
        let l3 = usize::from(self.p.l3_off);
        let len = out.len() - l3 + payload_len;
        write_ip(&mut out[l3..usize::from(self.p.l4_off)], self.p.addrs.is_v6(), len, i);
    }

    fn transport(&self, out: &mut [u8], i: usize, payload_len: usize, payload: u16) {
        let p = &self.p;
        let l4 = &mut out[usize::from(p.l4_off)..];
        let len = l4.len() + payload_len;
        if p.proto == proto::TCP {
            let seq = be32(l4, 4).wrapping_add((i * usize::from(self.size.get())) as u32);
            l4[4..8].copy_from_slice(&seq.to_be_bytes());
            if i != 0 {
                l4[13] &= !TcpFlags::CWR.0;
            }
            if i + 1 != self.count {
                l4[13] &= !(TcpFlags::FIN.0 | TcpFlags::PSH.0);
            }
        } else {
            l4[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        }
        if self.no_checksum {
            return;
        }
        let pseudo = match p.addrs {
            Addrs::V4 { src, dst } => pseudo_v4(src, dst, p.proto, len as u32),
            Addrs::V6 { src, dst } => pseudo_v6(src, dst, p.proto, len as u32),
            Addrs::None => 0,
        };
        let at = csum_at(p);
        l4[at..at + 2].fill(0);
        let field = !behind(pseudo, l4, payload);
        let field = if p.proto == proto::UDP { not_zero(field) } else { field };
        l4[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
}

/// Bytes of the longest layer 3 packet that a frame makes on the wire: what counts against an MTU.
#[inline]
pub const fn wire_l3_len(p: &Parsed, gso: Gso) -> usize {
    let size = gso.size() as usize;
    if size == 0 || p.payload_len() <= size {
        return p.l3_len as usize;
    }
    (p.payload_off - p.l3_off) as usize + size
}

/// Where the checksum lies in the transport header.
#[inline]
const fn csum_at(p: &Parsed) -> usize {
    if p.proto == proto::TCP { 16 } else { 6 }
}

/// Writes the length of an IP header (`header`, with options or extension headers) and, for IPv4, its identification
/// and checksum. `len` is that of the whole IP packet.
fn write_ip(header: &mut [u8], v6: bool, len: usize, i: usize) {
    if v6 {
        header[4..6].copy_from_slice(&((len - ipv6::IPV6_LEN) as u16).to_be_bytes());
        return;
    }
    header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    let id = be16(header, 4).wrapping_add(i as u16);
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[10..12].fill(0);
    let checksum = !fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn check_kind(head: &[u8], p: &Parsed, gso: Gso) -> Result<(), GsoError> {
    let fits = match gso {
        Gso::None => return Err(GsoError::NotGso),
        Gso::Tcp4 { .. } => p.proto == proto::TCP && !p.addrs.is_v6(),
        Gso::Tcp6 { .. } => p.proto == proto::TCP && p.addrs.is_v6(),
        Gso::Udp { .. } => p.proto == proto::UDP,
    };
    let opens_or_resets = p.tcp_flags.0 & (TcpFlags::SYN.0 | TcpFlags::RST.0) != 0;
    if !fits || p.fragment.is_some() || opens_or_resets || !matches!(p.l4, L4::Ports { .. }) {
        return Err(GsoError::Mismatch);
    }
    // With segments left in a routing header the pseudo-header has another destination (RFC 8200 section 8.1). A
    // fragment header (atomic) cannot stand in several packets with one identification.
    let (l3, l4) = (usize::from(p.l3_off), usize::from(p.l4_off));
    if p.addrs.is_v6() && l4 - l3 > ipv6::IPV6_LEN {
        let chain = ipv6::walk(head[l3 + 6], &head[l3 + ipv6::IPV6_LEN..l4]).map_err(|_| GsoError::Mismatch)?;
        if chain.routed || chain.fragment.is_some() {
            return Err(GsoError::Mismatch);
        }
    }
    // Bytes behind a UDP datagram shorter than its packet belong to no datagram.
    if p.proto == proto::UDP && usize::from(be16(head, l4 + 4)) != p.l4_len() {
        return Err(GsoError::Mismatch);
    }
    Ok(())
}

fn check_csum(p: &Parsed, csum: Csum) -> Result<(), GsoError> {
    match csum {
        Csum::Good => Ok(()),
        Csum::Partial { start, offset } if start == p.l4_off && usize::from(offset) == csum_at(p) => Ok(()),
        Csum::Partial { .. } | Csum::Unknown => Err(GsoError::Checksum),
    }
}

/// The sum over a pseudo-header, headers of even length, and the payload behind them whose own sum is known.
fn behind(pseudo: u32, headers: &[u8], payload: u16) -> u16 {
    fold(pseudo + sum(headers) + u32::from(payload))
}

#[cfg(test)]
mod tests;
