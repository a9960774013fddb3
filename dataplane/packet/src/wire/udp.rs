//! UDP (RFC 768).

use super::WireError;

/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

view! {
    /// A UDP datagram.
    Udp
}

fields! { Udp {
    /// Source port.
    src_port / set_src_port: u16 @ 0;
    /// Destination port.
    dst_port / set_dst_port: u16 @ 2;
    /// Bytes of header and payload together.
    length / set_length: u16 @ 4;
    /// Checksum as it stands in the packet; 0 over IPv4: none.
    checksum / set_checksum: u16 @ 6;
} }

impl<T: AsRef<[u8]>> Udp<T> {
    /// The datagram in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`]; [`WireError::Length`] where the length field is below 8 or beyond `bytes`.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let v = Self::new_header(bytes)?;
        if usize::from(v.length()) < UDP_LEN || usize::from(v.length()) > v.b().len() {
            return Err(WireError::Length);
        }
        Ok(v)
    }

    /// As [`Udp::new`], without a look at the length field: fragments, quotations, first segments of chains.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    #[inline]
    pub fn new_header(bytes: T) -> Result<Self, WireError> {
        if bytes.as_ref().len() < UDP_LEN {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// What follows the header, up to the length field or the end of the bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let end = usize::from(self.length()).clamp(UDP_LEN, self.b().len());
        &self.b()[UDP_LEN..end]
    }
}
