//! Ports, identifiers and checksums in transport headers.

use super::delta::Delta;
use super::l3::Change;
use super::{NatError, Part, Place, Tuple, crc};
use crate::wire::sctp::SCTP_LEN;
use crate::wire::{Icmpv4Type, Icmpv6Type, proto};

/// UDP-Lite (RFC 3828): the pseudo-header counts as in UDP.
const UDP_LITE: u8 = 136;
/// DCCP (RFC 4340 section 9.1).
const DCCP: u8 = 33;
/// Where TCP's checksum lies.
pub(super) const TCP_SUM: usize = 16;
/// Where the checksum of UDP, UDP-Lite and DCCP lies.
pub(super) const UDP_SUM: usize = 6;
/// Where ICMP's checksum lies.
pub(super) const ICMP_SUM: usize = 2;

/// The two ports as they stand in a header.
#[inline(always)]
pub(super) fn ports(new: &Tuple) -> [u8; 4] {
    let (s, d) = (new.sport.to_be_bytes(), new.dport.to_be_bytes());
    [s[0], s[1], d[0], d[1]]
}

/// Writes ports and checksum. `h` starts with the transport header; `partial`: where in it a partial checksum lies.
#[inline(always)]
pub(super) fn translate(
    h: &mut [u8],
    at: &Place,
    new: &Tuple,
    partial: Option<usize>,
    change: &Change,
) -> Result<(), NatError> {
    match at.proto {
        _ if at.part == Part::Later => Ok(()),
        proto::TCP => {
            let h = h.first_chunk_mut::<20>().ok_or(NatError::Headers)?;
            with_ports::<TCP_SUM, 20>(h, new, partial, change.delta, false)
        }
        proto::UDP => {
            let h = h.first_chunk_mut::<8>().ok_or(NatError::Headers)?;
            with_ports::<UDP_SUM, 8>(h, new, partial, change.delta, true)
        }
        _ => others(h, at, new, partial, change),
    }
}

#[inline(always)]
fn with_ports<const SUM: usize, const LEN: usize>(
    h: &mut [u8; LEN],
    new: &Tuple,
    partial: Option<usize>,
    addresses: Delta,
    optional: bool,
) -> Result<(), NatError> {
    let new = ports(new);
    let field = [h[SUM], h[SUM + 1]];
    let sum = match partial {
        None if optional && field == [0, 0] => field,
        None => {
            let sum = addresses.four([h[0], h[1], h[2], h[3]], new).applied(field);
            // Zero would say "no checksum" (RFC 768).
            if optional && sum == [0, 0] { [0xff, 0xff] } else { sum }
        }
        Some(offset) if offset == SUM => addresses.applied_partial(field),
        Some(_) => return Err(NatError::Partial),
    };
    h[..4].copy_from_slice(&new);
    h[SUM..SUM + 2].copy_from_slice(&sum);
    Ok(())
}

#[inline(never)]
fn others(h: &mut [u8], at: &Place, new: &Tuple, partial: Option<usize>, change: &Change) -> Result<(), NatError> {
    match (at.proto, change.v6) {
        (proto::SCTP, _) => sctp(h, at, new, partial, change),
        (proto::ICMP, false) | (proto::ICMPV6, true) => icmp(h, new, partial, change),
        (UDP_LITE | DCCP, _) => {
            let Some(h) = h.first_chunk_mut::<8>() else { return Ok(()) };
            sum_only::<UDP_SUM, 8>(h, partial, change.delta)
        }
        // What a driver was told to complete in a protocol that we do not know covers we do not know what.
        _ if partial.is_some() => Err(NatError::Partial),
        _ => Ok(()),
    }
}

/// A checksum over the pseudo-header in a header whose other fields stay.
fn sum_only<const SUM: usize, const LEN: usize>(
    h: &mut [u8; LEN],
    partial: Option<usize>,
    addresses: Delta,
) -> Result<(), NatError> {
    let field = [h[SUM], h[SUM + 1]];
    let sum = match partial {
        // UDP-Lite has no zero (RFC 3828 section 3.1); to DCCP both forms are the same.
        None => Some(addresses.applied(field)).filter(|sum| *sum != [0, 0]).unwrap_or([0xff, 0xff]),
        Some(offset) if offset == SUM => addresses.applied_partial(field),
        Some(_) => return Err(NatError::Partial),
    };
    h[SUM..SUM + 2].copy_from_slice(&sum);
    Ok(())
}

/// Whether a message of this type is an echo, whose identifier is at bytes 4 and 5.
pub(super) fn is_echo(kind: u8, v6: bool) -> bool {
    if v6 {
        matches!(Icmpv6Type(kind), Icmpv6Type::ECHO_REQUEST | Icmpv6Type::ECHO_REPLY)
    } else {
        matches!(Icmpv4Type(kind), Icmpv4Type::ECHO_REQUEST | Icmpv4Type::ECHO_REPLY)
    }
}

fn icmp(h: &mut [u8], new: &Tuple, partial: Option<usize>, change: &Change) -> Result<(), NatError> {
    let h = h.first_chunk_mut::<8>().ok_or(NatError::Headers)?;
    let addresses = if change.v6 { change.delta } else { Delta::default() };
    let field = [h[ICMP_SUM], h[ICMP_SUM + 1]];
    let (old, id) = ([h[4], h[5]], new.sport.to_be_bytes());
    let echo = is_echo(h[0], change.v6);
    let sum = match partial {
        None if echo => addresses.two(old, id).applied(field),
        None if !change.v6 => field,
        None => addresses.applied(field),
        Some(offset) if offset != ICMP_SUM => return Err(NatError::Partial),
        Some(_) if change.v6 => addresses.applied_partial(field),
        Some(_) => field,
    };
    if echo {
        h[4..6].copy_from_slice(&id);
    }
    h[ICMP_SUM..ICMP_SUM + 2].copy_from_slice(&sum);
    Ok(())
}

fn sctp(h: &mut [u8], at: &Place, new: &Tuple, partial: Option<usize>, change: &Change) -> Result<(), NatError> {
    let h = h.first_chunk_mut::<SCTP_LEN>().ok_or(NatError::Headers)?;
    if partial.is_some() {
        return Err(NatError::Partial);
    }
    let (old, new) = ([h[0], h[1], h[2], h[3]], ports(new));
    let field = [h[8], h[9], h[10], h[11]];
    // There is no pseudo-header, so addresses cost nothing. Zero: none was taken (RFC 9653).
    if old == new || field == [0; 4] {
        h[..4].copy_from_slice(&new);
        return Ok(());
    }
    if at.part != Part::Whole {
        return Err(NatError::SctpFragment);
    }
    let len = change.len.checked_sub(at.l4 - at.l3).ok_or(NatError::Headers)?;
    let sum = crc::update(field, u16::try_from(len).map_err(|_| NatError::Headers)?, old, new);
    h[..4].copy_from_slice(&new);
    h[8..].copy_from_slice(&sum);
    Ok(())
}
