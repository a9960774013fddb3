//! VXLAN (RFC 7348).

use super::WireError;
use crate::id::Vni;

/// Bytes of a VXLAN header.
pub const VXLAN_LEN: usize = 8;
/// The UDP port that IANA assigned.
pub const VXLAN_PORT: u16 = 4789;
/// The I flag: the VNI is valid.
const FLAG_I: u8 = 0x08;

view! {
    /// A VXLAN header and the Ethernet frame behind it.
    Vxlan
}

impl<T: AsRef<[u8]>> Vxlan<T> {
    /// The header in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 8 bytes; [`WireError::Kind`] without the I flag (RFC 7348 section 5: all other
    /// flags and the reserved fields are ignored on receipt).
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        if b.len() < VXLAN_LEN {
            return Err(WireError::Truncated);
        }
        if b[0] & FLAG_I == 0 {
            return Err(WireError::Kind);
        }
        Ok(Self(bytes))
    }

    /// The network identifier.
    #[inline]
    pub fn vni(&self) -> Vni {
        let b = self.b();
        Vni::from_be_bytes([b[4], b[5], b[6]])
    }

    /// The tunnelled frame.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[VXLAN_LEN..]
    }
}

/// The eight bytes of a VXLAN header for `vni`.
#[inline]
pub const fn header(vni: Vni) -> [u8; VXLAN_LEN] {
    let v = vni.get().to_be_bytes();
    [FLAG_I, 0, 0, 0, v[1], v[2], v[3], 0]
}
