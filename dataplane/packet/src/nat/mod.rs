//! Network address translation in place: addresses and ports of a packet, and of the packet that an ICMP error quotes.
//!
//! Checksums are updated incrementally (RFC 1624), SCTP's CRC too, so nothing costs more with a longer packet, later
//! segments of a chain are never touched, and a packet whose checksum was wrong keeps a wrong one: what was damaged on its
//! way is not declared sound.
//!
//! | protocol | ports | checksum |
//! |---|---|---|
//! | TCP, UDP | both | pseudo-header and ports; none (0) stays none for UDP |
//! | SCTP | both | CRC32c, for ports only; none (0, RFC 9653) stays none |
//! | ICMP echo | the identifier | identifier |
//! | ICMPv6 | the identifier of an echo | pseudo-header and identifier |
//! | UDP-Lite, DCCP | none | pseudo-header |
//! | others, later fragments | none | none |
//!
//! A partial checksum ([`Csum::Partial`]) is the uncomplemented sum over the pseudo-header: only addresses change it.
//! What [`crate::buf::Meta`] says of the packet stays true, so it is left alone. An authentication header (RFC 4302) covers
//! the addresses and cannot be made right by anybody between the ends.

mod crc;
mod delta;
mod error;
mod l3;
mod l4;

pub use error::translate_error;

use core::net::IpAddr;

use crate::buf::{Csum, PacketBuf};
use crate::parse::{Fragment, Parsed};

/// What a packet's addresses and ports become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the source's family.
    pub dst: IpAddr,
    /// Source port, host byte order; the identifier of an ICMP echo message, request or reply.
    pub sport: u16,
    /// Destination port, host byte order; the identifier once more, as in flow keys.
    pub dport: u16,
}

impl Tuple {
    /// The tuple of a packet in the other direction.
    #[must_use]
    #[inline]
    pub const fn reversed(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

/// How much of a packet this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// Its first fragment: the transport header, but not all that its checksum covers.
    First,
    /// Another fragment: no transport header.
    Later,
}

impl From<Option<Fragment>> for Part {
    #[inline]
    fn from(f: Option<Fragment>) -> Part {
        match f {
            None => Part::Whole,
            Some(f) if f.is_first() => Part::First,
            Some(_) => Part::Later,
        }
    }
}

/// Where the headers of a packet lie, as its parser found them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Where the IP header starts, in bytes from the start of the buffer.
    pub l3: usize,
    /// Where the transport header starts, likewise.
    pub l4: usize,
    /// The transport protocol, behind all extension headers.
    pub proto: u8,
    /// How much of the packet this is.
    pub part: Part,
}

impl From<&Parsed> for Place {
    fn from(p: &Parsed) -> Place {
        Place { l3: p.l3_off.into(), l4: p.l4_off.into(), proto: p.proto, part: p.fragment.into() }
    }
}

/// Why a packet cannot be translated. The packet is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NatError {
    /// The packet's family is not that of the new addresses, or they differ among themselves.
    #[error("the new addresses are not of the packet's family")]
    Family,
    /// The headers do not lie where they were said to, or not in the first segment.
    #[error("the packet's headers do not lie where they were said to")]
    Headers,
    /// The metadata speaks of a partial checksum elsewhere than in this transport header, in a fragment or in SCTP.
    #[error("the partial checksum is not that of the packet's transport header")]
    Partial,
    /// The first fragment of an SCTP packet whose ports change: its CRC covers bytes that are not here, and how much it
    /// changes depends on how many they are.
    #[error("a fragment of SCTP cannot be given other ports: its CRC covers the whole packet")]
    SctpFragment,
    /// A routing header with segments left: the checksum covers another destination than the header names (RFC 8200
    /// section 8.1), and the packet is not at its end.
    #[error("a packet with segments left in its routing header cannot be translated")]
    Routed,
    /// An ICMP error without a whole IP header in its quotation, or a message that quotes nothing.
    #[error("the ICMP error does not quote a packet")]
    Quote,
}

/// Translates a packet whose headers lie at `at`, in place: whole, a fragment, or longer than the MTU (GSO).
///
/// # Errors
/// [`NatError`]; the packet is unchanged.
#[inline]
pub fn translate<B: PacketBuf + ?Sized>(buf: &mut B, at: &Place, new: &Tuple) -> Result<(), NatError> {
    let csum = buf.meta().csum;
    let head = buf.head_mut();
    if at.l3 > at.l4 || at.l4 > head.len() {
        return Err(NatError::Headers);
    }
    let (network, transport) = head.split_at_mut(at.l4);
    let network = &mut network[at.l3..];
    let partial = match csum {
        Csum::Partial { start, offset } if at.part != Part::Later => {
            if usize::from(start) != at.l4 || at.part != Part::Whole {
                return Err(NatError::Partial);
            }
            Some(usize::from(offset))
        }
        _ => None,
    };
    match (new.src, new.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = l3::V4::of(network)?;
            let change = header.change(src, dst);
            l4::translate(transport, at, new, partial, &change)?;
            header.write(&change, src, dst);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = l3::V6::of(network)?;
            let change = header.change(src, dst);
            l4::translate(transport, at, new, partial, &change)?;
            header.write(src, dst);
        }
        _ => return Err(NatError::Family),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
