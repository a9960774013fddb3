//! Software segmentation of TCP and UDP GSO frames, plain or behind VXLAN outer headers.
//!
//! [`Segmenter`] is made once per frame and then writes the headers of any segment into the caller's buffer; the payload stays
//! where it is, and the caller gathers or copies it, summing on the way. For a device that cuts UDP itself (UDP GSO) it
//! writes the tunnelled frame of each segment alone, and one set of outer headers for several. As Linux does it (Documentation/networking/segmentation-offloads):
//! sequence numbers and lengths advance, IPv4 identifications count up, CWR stays on the first segment, FIN and PSH on
//! the last, and every checksum is complete.

mod outer;

use core::num::NonZeroU16;

use crate::buf::{Csum, Gso, PacketBuf};
use crate::checksum::{fold, not_zero, sum, sum_chain};
use crate::parse::{L4, ParseError, Parsed, parse_at};
use crate::wire::tcp::TcpFlags;
use crate::wire::vxlan::VXLAN_LEN;
use crate::wire::{be16, be32, ipv6, proto};
pub use outer::Outer;

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
    /// Sums of the IPv4 header, and of the transport header with its pseudo-header, without what differs between segments:
    /// reading back bytes that were just written piecemeal would cost more than all the rest.
    ip_sum: u32,
    l4_sum: u32,
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
        let (ip_sum, l4_sum) = fixed_sums(head, &p);
        Ok(Segmenter { outer, p, size, count, no_checksum, ip_sum, l4_sum })
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

    /// Payload bytes of every segment but the last, which may have fewer.
    #[inline]
    pub fn size(&self) -> usize {
        usize::from(self.size.get()).min(self.p.payload_len())
    }

    /// Bytes of outer headers; 0: none.
    #[inline]
    pub fn tunnel(&self) -> usize {
        self.outer.as_ref().map_or(0, Outer::len)
    }

    /// Where the payload of segment `i`, one of those that there are, lies in the frame: offset and bytes.
    #[inline]
    pub fn payload(&self, i: usize) -> (usize, usize) {
        let start = i * usize::from(self.size.get());
        let len = self.p.payload_len().saturating_sub(start).min(usize::from(self.size.get()));
        (self.header_len() + start, len)
    }

    /// Writes the headers of segment `i` to the front of `out` and says where its payload is. `buf` is the frame that this was
    /// made of, unchanged. `None`: there is no such segment, or `out` is shorter than [`header_len`](Self::header_len).
    pub fn segment<B: PacketBuf + ?Sized>(&self, buf: &B, i: usize, out: &mut [u8]) -> Option<Segment> {
        if i >= self.count {
            return None;
        }
        let (payload_off, payload_len) = self.payload(i);
        let payload = sum_chain(buf, payload_off, payload_len)?;
        self.write(buf.head(), i, payload, out)?;
        Some(Segment { header_len: self.header_len(), payload_off, payload_len })
    }

    /// Writes the headers of segment `i` to the front of `out`. `head` is that of the frame that this was made of, unchanged;
    /// `payload` the [sum](crate::checksum::sum) of this segment's payload, folded. `None`: there is no such segment, or
    /// `out` is shorter than [`header_len`](Self::header_len).
    #[inline]
    pub fn write(&self, head: &[u8], i: usize, payload: u16, out: &mut [u8]) -> Option<()> {
        let out = out.get_mut(..self.header_len())?;
        self.write_inner(head, i, payload, 0, out)?;
        if let Some(outer) = &self.outer {
            outer.write(out, i, self.payload(i).1, payload);
        }
        Some(())
    }

    /// Bytes of the VXLAN header and the inner headers of a tunnelled frame's segments.
    #[inline]
    pub fn datagram_headers(&self) -> usize {
        self.header_len() - self.tunnel().saturating_sub(VXLAN_LEN)
    }

    /// As [`write`](Self::write), from the VXLAN header on: what a device that cuts UDP puts outer headers in front of.
    /// `out` is [`datagram_headers`](Self::datagram_headers) long.
    #[inline]
    pub fn write_datagram(&self, head: &[u8], i: usize, payload: u16, out: &mut [u8]) -> Option<()> {
        self.write_inner(
            head,
            i,
            payload,
            self.tunnel().saturating_sub(VXLAN_LEN),
            out.get_mut(..self.datagram_headers())?,
        )
    }

    /// Writes the outer headers up to the VXLAN header to the front of `out`, with lengths for `bytes` bytes behind the UDP header
    /// and the UDP checksum in its partial form: those of one UDP GSO frame of several datagrams. Answers where the UDP
    /// header starts. `None`: not tunnelled, or `out` or the lengths' fields are too short.
    pub fn write_udp_gso(&self, head: &[u8], bytes: usize, out: &mut [u8]) -> Option<usize> {
        let outer = self.outer.as_ref()?;
        let out = out.get_mut(..outer.vxlan())?;
        out.copy_from_slice(head.get(..out.len())?);
        outer.write_partial(out, bytes)
    }

    /// Copies the headers from byte `from` of the frame on, and makes the inner ones those of segment `i`.
    #[inline]
    fn write_inner(&self, head: &[u8], i: usize, payload: u16, from: usize, out: &mut [u8]) -> Option<()> {
        if i >= self.count {
            return None;
        }
        out.copy_from_slice(head.get(from..self.header_len())?);
        let payload_len = self.payload(i).1;
        let (l3, l4) = (usize::from(self.p.l3_off) - from, usize::from(self.p.l4_off) - from);
        let len = out.len() - l3 + payload_len;
        self.network(&mut out[l3..l4], head, len, i);
        self.transport(&mut out[l4..], head, i, payload_len, payload);
        Some(())
    }

    /// Length, and for IPv4 identification and checksum. `head` is the frame's, to read from.
    #[inline]
    fn network(&self, out: &mut [u8], head: &[u8], len: usize, i: usize) {
        if self.p.addrs.is_v6() {
            out[4..6].copy_from_slice(&((len - ipv6::IPV6_LEN) as u16).to_be_bytes());
            return;
        }
        let id = be16(head, usize::from(self.p.l3_off) + 4).wrapping_add(i as u16);
        let checksum = !fold(self.ip_sum + len as u32 + u32::from(id));
        out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    #[inline]
    fn transport(&self, out: &mut [u8], head: &[u8], i: usize, payload_len: usize, payload: u16) {
        let p = &self.p;
        let l4 = &head[usize::from(p.l4_off)..];
        let len = (out.len() + payload_len) as u32;
        let mut sum = self.l4_sum + len + u32::from(payload);
        if p.proto == proto::TCP {
            let seq = be32(l4, 4).wrapping_add((i * usize::from(self.size.get())) as u32);
            let mut flags = l4[13];
            if i != 0 {
                flags &= !TcpFlags::CWR.0;
            }
            if i + 1 != self.count {
                flags &= !(TcpFlags::FIN.0 | TcpFlags::PSH.0);
            }
            out[4..8].copy_from_slice(&seq.to_be_bytes());
            out[13] = flags;
            sum += (seq >> 16) + (seq & 0xffff) + u32::from(u16::from_be_bytes([l4[12], flags]));
        } else {
            out[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            sum += len;
        }
        if self.no_checksum {
            return;
        }
        let field = if p.proto == proto::UDP { not_zero(!fold(sum)) } else { !fold(sum) };
        let at = csum_at(p);
        out[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
}

/// The sum over an IPv4 header (0 for IPv6) without length, identification and checksum, and over a transport header and its
/// pseudo-header without lengths, checksum and, for TCP, sequence number and control bits.
fn fixed_sums(head: &[u8], p: &Parsed) -> (u32, u32) {
    let (l3, l4) = (usize::from(p.l3_off), usize::from(p.l4_off));
    // Taking a word out of a sum is adding its complement (RFC 1624 section 2).
    let without = |at: usize, words: &[usize]| words.iter().map(|w| u32::from(!be16(head, at + w))).sum::<u32>();
    let ip = if p.addrs.is_v6() { 0 } else { sum(&head[l3..l4]) + without(l3, &[2, 4, 10]) };
    let varying: &[usize] = if p.proto == proto::TCP { &[4, 6, 12, 16] } else { &[4, 6] };
    let transport = sum(&head[l4..usize::from(p.payload_off)]) + without(l4, varying) + p.pseudo_sum(0);
    (u32::from(fold(ip)), u32::from(fold(transport)))
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
pub(crate) const fn csum_at(p: &Parsed) -> usize {
    if p.proto == proto::TCP { 16 } else { 6 }
}

/// Writes the length of an IP header (`header`, with options or extension headers) and, for IPv4, its identification
/// and checksum. `len` is that of the whole IP packet.
pub(crate) fn write_ip(header: &mut [u8], v6: bool, len: usize, i: usize) {
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

/// Whether a frame is what its GSO type says and may be cut: the family and protocol; whole; neither SYN nor RST, which no
/// sender segments and which would open as many connections as there are segments; not source-routed; a UDP datagram
/// that fills its packet. `head` starts with the frame that `p` describes.
///
/// # Errors
/// [`GsoError::NotGso`], [`GsoError::Mismatch`].
pub fn check_kind(head: &[u8], p: &Parsed, gso: Gso) -> Result<(), GsoError> {
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
#[inline]
pub(crate) fn behind(pseudo: u32, headers: &[u8], payload: u16) -> u16 {
    fold(pseudo + sum(headers) + u32::from(payload))
}

#[cfg(test)]
mod tests;
