//! The packet that an ICMP error quotes.

use super::{Addrs, L4, ParseError, Parsed};
use crate::wire::ipv6::{IPV6_LEN, walk};
use crate::wire::{Icmpv4Type, Icmpv6Type, Ipv4, Ipv6, be16, ipv4, proto};

/// The headers of a quoted packet: as its sender sent it, so a flow's tuple, not the reply's. Offsets are from the first
/// byte of the frame that quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Where its IP header starts.
    pub l3_off: u16,
    /// Where its transport header starts.
    pub l4_off: u16,
    /// Its transport protocol.
    pub proto: u8,
    /// Its source and destination.
    pub addrs: Addrs,
    /// [`L4::Ports`] or [`L4::Echo`]; [`L4::None`] for other protocols and later fragments.
    pub l4: L4,
}

impl Parsed {
    /// The packet that an ICMP error quotes. `head` is what was parsed.
    ///
    /// # Errors
    /// [`ParseError::IcmpQuoteMalformed`]: this is no ICMP error (or a fragment of one), or it quotes less than an IP
    /// header and eight bytes of what follows (RFC 792), or an ICMP error itself.
    pub fn embedded(&self, head: &[u8]) -> Result<Embedded, ParseError> {
        const BAD: ParseError = ParseError::IcmpQuoteMalformed;
        if !matches!(self.l4, L4::IcmpError { .. }) || self.fragment.is_some() {
            return Err(BAD);
        }
        let l3 = usize::from(self.payload_off);
        let quote = head.get(l3..self.frame_len().min(head.len())).ok_or(BAD)?;
        let (at, protocol, addrs, later) = if self.addrs.is_v6() { quote_v6(quote)? } else { quote_v4(quote)? };
        let l4 = if later { L4::None } else { tuple(protocol, &quote[at..], addrs.is_v6())? };
        Ok(Embedded { l3_off: l3 as u16, l4_off: (l3 + at) as u16, proto: protocol, addrs, l4 })
    }
}

/// Offset of the transport header, protocol, addresses, and whether it is a later fragment.
type Quote = (usize, u8, Addrs, bool);

fn quote_v4(quote: &[u8]) -> Result<Quote, ParseError> {
    let ip = Ipv4::new_header(quote).map_err(|_| ParseError::IcmpQuoteMalformed)?;
    let later = ip.flags_offset() & ipv4::OFFSET_MASK != 0;
    Ok((ip.header_len(), ip.protocol(), Addrs::V4 { src: ip.src(), dst: ip.dst() }, later))
}

fn quote_v6(quote: &[u8]) -> Result<Quote, ParseError> {
    let ip = Ipv6::new_header(quote).map_err(|_| ParseError::IcmpQuoteMalformed)?;
    let chain = walk(ip.next_header(), &quote[IPV6_LEN..]).map_err(|_| ParseError::IcmpQuoteMalformed)?;
    let later = chain.fragment.is_some_and(|f| f.offset != 0);
    Ok((IPV6_LEN + chain.offset, chain.protocol, Addrs::V6 { src: ip.src(), dst: ip.dst() }, later))
}

fn tuple(protocol: u8, l4: &[u8], v6: bool) -> Result<L4, ParseError> {
    const BAD: ParseError = ParseError::IcmpQuoteMalformed;
    let h: &[u8; 8] = match protocol {
        proto::TCP | proto::UDP | proto::SCTP | proto::ICMP | proto::ICMPV6 => l4.first_chunk().ok_or(BAD)?,
        _ => return Ok(L4::None),
    };
    match (protocol, v6) {
        (proto::ICMP, false) => match Icmpv4Type(h[0]) {
            Icmpv4Type::ECHO_REQUEST => Ok(L4::Echo { request: true, id: be16(h, 4) }),
            Icmpv4Type::ECHO_REPLY => Ok(L4::Echo { request: false, id: be16(h, 4) }),
            // RFC 1122 section 3.2.2: no error about an error.
            t if t.is_error() => Err(BAD),
            Icmpv4Type(kind) => Ok(L4::Icmp { kind, code: h[1] }),
        },
        (proto::ICMPV6, true) => match Icmpv6Type(h[0]) {
            Icmpv6Type::ECHO_REQUEST => Ok(L4::Echo { request: true, id: be16(h, 4) }),
            Icmpv6Type::ECHO_REPLY => Ok(L4::Echo { request: false, id: be16(h, 4) }),
            t if t.is_error() => Err(BAD),
            Icmpv6Type(kind) => Ok(L4::Icmp { kind, code: h[1] }),
        },
        (proto::ICMP | proto::ICMPV6, _) => Ok(L4::None),
        _ => Ok(L4::Ports { src: be16(h, 0), dst: be16(h, 2) }),
    }
}
