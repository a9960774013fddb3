//! ARP for IPv4 over Ethernet (RFC 826).

use super::WireError;

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const ARP_LEN: usize = 28;
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has the sender address.
pub const REPLY: u16 = 2;

view! {
    /// An ARP packet for IPv4 over Ethernet.
    Arp
}

fields! { Arp {
    /// Operation: [`REQUEST`] or [`REPLY`], others exist.
    operation / set_operation: u16 @ 6;
    /// The sender's Ethernet address.
    sender_mac / set_sender_mac: mac @ 8;
    /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227).
    sender_ip / set_sender_ip: ip4 @ 14;
    /// The target's Ethernet address; without meaning in a request.
    target_mac / set_target_mac: mac @ 18;
    /// The target's IPv4 address.
    target_ip / set_target_ip: ip4 @ 24;
} }

impl<T: AsRef<[u8]>> Arp<T> {
    /// The fixed part of an ARP packet for IPv4 over Ethernet: hardware 1, protocol 0x0800, lengths 6 and 4.
    pub const PREAMBLE: [u8; 6] = [0, 1, 8, 0, 6, 4];

    /// The packet in `bytes`; what follows its 28 bytes is padding.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 28 bytes, [`WireError::Kind`] for other hardware or protocols.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        if b.len() < ARP_LEN {
            return Err(WireError::Truncated);
        }
        if b[..6] != Self::PREAMBLE {
            return Err(WireError::Kind);
        }
        Ok(Self(bytes))
    }
}
