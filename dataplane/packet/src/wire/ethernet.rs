//! Ethernet II and 802.1Q.

use super::WireError;

/// Values of the EtherType field (IEEE registration authority), host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP.
    pub const ARP: EtherType = EtherType(0x0806);
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: EtherType = EtherType(0x8100);
    /// A service VLAN tag (802.1ad).
    pub const QINQ: EtherType = EtherType(0x88a8);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
}

view! {
    /// An Ethernet II frame.
    Ethernet
}

fields! { Ethernet {
    /// Destination address.
    dst / set_dst: mac @ 0;
    /// Source address.
    src / set_src: mac @ 6;
    /// EtherType as a number.
    ethertype_raw / set_ethertype_raw: u16 @ 12;
} }

/// Bytes of an Ethernet II header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of one 802.1Q tag.
pub const VLAN_LEN: usize = 4;

impl<T: AsRef<[u8]>> Ethernet<T> {
    /// The frame in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 14 bytes.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        if bytes.as_ref().len() < ETHERNET_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// The EtherType; [`EtherType::VLAN`] and [`EtherType::QINQ`] announce a [`Vlan`] tag in the payload.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(self.ethertype_raw())
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[ETHERNET_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ethernet<T> {
    /// What follows the header, to be rewritten.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.0.as_mut()[ETHERNET_LEN..]
    }
}

view! {
    /// An 802.1Q tag: what follows the EtherType 0x8100 or 0x88a8.
    Vlan
}

fields! { Vlan {
    /// Tag control information: priority (3 bits), drop eligible (1), VLAN identifier (12).
    tci / set_tci: u16 @ 0;
    /// The EtherType of what follows.
    ethertype_raw / set_ethertype_raw: u16 @ 2;
} }

impl<T: AsRef<[u8]>> Vlan<T> {
    /// The tag in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 4 bytes.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        if bytes.as_ref().len() < VLAN_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// VLAN identifier, 0 to 4095; 0: priority only.
    #[inline]
    pub fn id(&self) -> u16 {
        self.tci() & 0xfff
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub fn priority(&self) -> u8 {
        (self.tci() >> 13) as u8
    }

    /// The EtherType of what follows.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(self.ethertype_raw())
    }

    /// What follows the tag.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[VLAN_LEN..]
    }
}
