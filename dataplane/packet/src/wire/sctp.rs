//! The common header of SCTP (RFC 9260 section 3.1).

use super::WireError;

/// Bytes of the common header.
pub const SCTP_LEN: usize = 12;

view! {
    /// An SCTP packet.
    Sctp
}

fields! { Sctp {
    /// Source port.
    src_port / set_src_port: u16 @ 0;
    /// Destination port.
    dst_port / set_dst_port: u16 @ 2;
    /// Verification tag.
    tag / set_tag: u32 @ 4;
    /// CRC32c, as it stands in the packet.
    checksum / set_checksum: u32 @ 8;
} }

impl<T: AsRef<[u8]>> Sctp<T> {
    /// The packet in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 12 bytes.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        if bytes.as_ref().len() < SCTP_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// The chunks.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[SCTP_LEN..]
    }
}
