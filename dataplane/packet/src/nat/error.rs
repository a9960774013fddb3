//! ICMP and ICMPv6 errors: the packet that they quote went the other way.

use core::net::IpAddr;

use super::delta::Delta;
use super::l4::{ICMP_SUM, TCP_SUM, UDP_SUM, is_echo, ports};
use super::{NatError, Part, Place, Tuple, l3};
use crate::buf::{Csum, PacketBuf};
use crate::wire::icmp::ICMP_LEN;
use crate::wire::ipv4::{IPV4_LEN, OFFSET_MASK};
use crate::wire::ipv6::{IPV6_LEN, walk};
use crate::wire::{Icmpv4Type, Icmpv6Type, be16, proto};

/// Translates an ICMP or ICMPv6 error whose own headers lie at `at`. `new` is what a packet that goes the error's way is
/// given; the packet that it quotes went the other way and is given [`Tuple::reversed`], so that its sender knows it.
///
/// The error's destination becomes `new.dst`. Its source becomes `new.src` if it is the quoted packet's destination, that
/// is, if the flow's other end complains; a router on the way keeps its own.
///
/// Of the quotation, the addresses and the header checksum are rewritten, and of its transport the ports or the echo
/// identifier and the checksum, each if it lies whole within the quotation, which may end anywhere behind the IP header.
/// The CRC of a quoted SCTP packet stays as it is: nobody can check it, for the quotation is hardly ever whole. What follows
/// (RFC 4884 extensions) is left alone.
///
/// # Errors
/// [`NatError::Quote`] if this is no whole error or does not quote an IP header; others as for
/// [`translate`](super::translate). The packet is unchanged.
pub fn translate_error<B: PacketBuf + ?Sized>(buf: &mut B, at: &Place, new: &Tuple) -> Result<(), NatError> {
    let partial = match buf.meta().csum {
        Csum::Partial { start, offset } if usize::from(start) == at.l4 && usize::from(offset) == ICMP_SUM => true,
        Csum::Partial { .. } => return Err(NatError::Partial),
        _ => false,
    };
    let head = buf.head_mut();
    if at.l3 > at.l4 || at.l4 > head.len() {
        return Err(NatError::Headers);
    }
    let v6 = new.dst.is_ipv6();
    let protocol = if v6 { proto::ICMPV6 } else { proto::ICMP };
    if at.part != Part::Whole || at.proto != protocol {
        return Err(NatError::Quote);
    }
    let (network, message) = head.split_at_mut(at.l4);
    let network = &mut network[at.l3..];
    match (new.src, new.dst) {
        (IpAddr::V4(_), IpAddr::V4(dst)) => {
            let header = l3::V4::of(network)?;
            let (icmp, quote) = split(message, at, header.len(), |kind| Icmpv4Type(kind).is_error())?;
            let (inner, said) = quote_v4(quote, new)?;
            let src = if header.src() == said { new.src } else { header.src().into() };
            let IpAddr::V4(src) = src else { return Err(NatError::Family) };
            let change = header.change(src, dst);
            // No pseudo-header, and what a partial checksum holds is none of the message.
            if !partial {
                seal(icmp, inner);
            }
            header.write(&change, src, dst);
        }
        (IpAddr::V6(_), IpAddr::V6(dst)) => {
            let header = l3::V6::of(network)?;
            let (icmp, quote) = split(message, at, header.len(), |kind| Icmpv6Type(kind).is_error())?;
            let (inner, said) = quote_v6(quote, new)?;
            let src = if header.src() == said { new.src } else { header.src().into() };
            let IpAddr::V6(src) = src else { return Err(NatError::Family) };
            let change = header.change(src, dst);
            if partial {
                let sum = change.delta.applied_partial([icmp[ICMP_SUM], icmp[ICMP_SUM + 1]]);
                icmp[ICMP_SUM..ICMP_SUM + 2].copy_from_slice(&sum);
            } else {
                seal(icmp, inner.and(change.delta));
            }
            header.write(src, dst);
        }
        _ => return Err(NatError::Family),
    }
    Ok(())
}

/// Brings the message's checksum up to date.
fn seal(icmp: &mut [u8; ICMP_LEN], change: Delta) {
    let sum = change.applied([icmp[ICMP_SUM], icmp[ICMP_SUM + 1]]);
    icmp[ICMP_SUM..ICMP_SUM + 2].copy_from_slice(&sum);
}

/// The ICMP header and what it quotes, up to the end of the packet, `len` bytes long by its own field.
fn split<'a>(
    message: &'a mut [u8],
    at: &Place,
    len: usize,
    is_error: fn(u8) -> bool,
) -> Result<(&'a mut [u8; ICMP_LEN], &'a mut [u8]), NatError> {
    let end = len.checked_sub(at.l4 - at.l3).ok_or(NatError::Headers)?.min(message.len());
    let (icmp, quote) = message[..end].split_first_chunk_mut::<ICMP_LEN>().ok_or(NatError::Quote)?;
    if is_error(icmp[0]) { Ok((icmp, quote)) } else { Err(NatError::Quote) }
}

/// Rewrites a quoted IPv4 packet. Returns how the sum over it changed, and whom it was sent to.
fn quote_v4(quote: &mut [u8], new: &Tuple) -> Result<(Delta, core::net::Ipv4Addr), NatError> {
    let quoted = new.reversed();
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (quoted.src, quoted.dst) else { return Err(NatError::Family) };
    let fixed = quote.first_chunk::<IPV4_LEN>().ok_or(NatError::Quote)?;
    let header_len = usize::from(fixed[0] & 15) * 4;
    if fixed[0] >> 4 != 4 || header_len < IPV4_LEN || header_len > quote.len() {
        return Err(NatError::Quote);
    }
    let (protocol, later) = (fixed[9], be16(fixed, 6) & OFFSET_MASK != 0);
    let (network, transport) = quote.split_at_mut(header_len);
    let header = l3::V4::of(network).map_err(|_| NatError::Quote)?;
    let said = header.dst();
    let change = header.change(src, dst);
    // The addresses and the header checksum, which makes up for them, are both part of what the ICMP checksum covers.
    let delta = header.write(&change, src, dst).and(change.delta);
    if later {
        return Ok((delta, said));
    }
    Ok((delta.and(transport_of(transport, protocol, &quoted, change.delta, false)), said))
}

/// Rewrites a quoted IPv6 packet.
fn quote_v6(quote: &mut [u8], new: &Tuple) -> Result<(Delta, core::net::Ipv6Addr), NatError> {
    let quoted = new.reversed();
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (quoted.src, quoted.dst) else { return Err(NatError::Family) };
    let (fixed, rest) = quote.split_first_chunk::<IPV6_LEN>().ok_or(NatError::Quote)?;
    // A chain that is cut short leads to no transport header, but the addresses are there.
    let chain = walk(fixed[6], rest).ok();
    if chain.is_some_and(|c| c.routed) {
        return Err(NatError::Routed);
    }
    let chain = chain.filter(|c| c.fragment.is_none_or(|f| f.offset == 0));
    let (network, rest) = quote.split_at_mut(IPV6_LEN);
    let header = l3::V6::of(network).map_err(|_| NatError::Quote)?;
    let said = header.dst();
    let delta = header.change(src, dst).delta;
    header.write(src, dst);
    let Some((chain, transport)) = chain.and_then(|c| Some((c, rest.get_mut(c.offset..)?))) else {
        return Ok((delta, said));
    };
    Ok((delta.and(transport_of(transport, chain.protocol, &quoted, delta, true)), said))
}

/// Rewrites what there is of a quoted transport header. Returns how the sum over it changed.
fn transport_of(h: &mut [u8], protocol: u8, new: &Tuple, addresses: Delta, v6: bool) -> Delta {
    let [s0, s1, d0, d1] = ports(new);
    let mut words = Words { h, delta: Delta::default() };
    match protocol {
        proto::TCP | proto::UDP => {
            words.set(0, [s0, s1]);
            words.set(2, [d0, d1]);
            let at = if protocol == proto::TCP { TCP_SUM } else { UDP_SUM };
            let under = words.delta.and(addresses);
            match words.get(at) {
                Some([0, 0]) if protocol == proto::UDP => {}
                Some(field) => {
                    let sum = under.applied(field);
                    let none = protocol == proto::UDP && sum == [0, 0];
                    words.set(at, if none { [0xff, 0xff] } else { sum });
                }
                None => {}
            }
        }
        proto::SCTP => {
            words.set(0, [s0, s1]);
            words.set(2, [d0, d1]);
        }
        proto::ICMP | proto::ICMPV6 if (protocol == proto::ICMPV6) == v6 => {
            if words.h.first().is_some_and(|kind| is_echo(*kind, v6)) {
                words.set(4, [s0, s1]);
            }
            let under = if v6 { words.delta.and(addresses) } else { words.delta };
            if let Some(field) = words.get(ICMP_SUM) {
                words.set(ICMP_SUM, under.applied(field));
            }
        }
        _ => {}
    }
    words.delta
}

/// What there is of a header, and how the sum over it changed.
struct Words<'a> {
    h: &'a mut [u8],
    delta: Delta,
}

impl Words<'_> {
    fn get(&self, at: usize) -> Option<[u8; 2]> {
        self.h.get(at..)?.first_chunk().copied()
    }

    /// Writes two bytes if both are there.
    fn set(&mut self, at: usize, new: [u8; 2]) {
        if let Some(word) = self.h.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
            self.delta = self.delta.two(*word, new);
            *word = new;
        }
    }
}
