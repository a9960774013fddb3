//! TCP (RFC 9293).

use super::WireError;

/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;

/// The control bits of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: TcpFlags = TcpFlags(1);
    /// Opens a connection.
    pub const SYN: TcpFlags = TcpFlags(1 << 1);
    /// Resets the connection.
    pub const RST: TcpFlags = TcpFlags(1 << 2);
    /// Push.
    pub const PSH: TcpFlags = TcpFlags(1 << 3);
    /// The acknowledgement number means something.
    pub const ACK: TcpFlags = TcpFlags(1 << 4);
    /// The urgent pointer means something.
    pub const URG: TcpFlags = TcpFlags(1 << 5);
    /// ECN echo (RFC 3168).
    pub const ECE: TcpFlags = TcpFlags(1 << 6);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: TcpFlags = TcpFlags(1 << 7);

    /// Whether all of `other` are set.
    #[inline]
    pub const fn has(self, other: TcpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those of `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 | other.0)
    }

    /// These less those of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 & !other.0)
    }
}

view! {
    /// A TCP segment.
    Tcp
}

fields! { Tcp {
    /// Source port.
    src_port / set_src_port: u16 @ 0;
    /// Destination port.
    dst_port / set_dst_port: u16 @ 2;
    /// Sequence number.
    seq / set_seq: u32 @ 4;
    /// Acknowledgement number.
    ack / set_ack: u32 @ 8;
    /// Data offset in 32-bit words (4 bits), reserved bits.
    offset_reserved / set_offset_reserved: u8 @ 12;
    /// The control bits as a number.
    flags_raw / set_flags_raw: u8 @ 13;
    /// Window, unscaled.
    window / set_window: u16 @ 14;
    /// Checksum as it stands in the packet.
    checksum / set_checksum: u16 @ 16;
    /// Urgent pointer.
    urgent / set_urgent: u16 @ 18;
} }

impl<T: AsRef<[u8]>> Tcp<T> {
    /// The segment in `bytes`.
    ///
    /// # Errors
    /// [`WireError::Truncated`] where the header with its options is longer than `bytes`, [`WireError::HeaderLength`]
    /// where the data offset is below 5.
    #[inline]
    pub fn new(bytes: T) -> Result<Self, WireError> {
        let b = bytes.as_ref();
        if b.len() < TCP_LEN {
            return Err(WireError::Truncated);
        }
        let header = usize::from(b[12] >> 4) * 4;
        if header < TCP_LEN {
            return Err(WireError::HeaderLength);
        }
        if header > b.len() {
            return Err(WireError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// Bytes of the header with its options, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.b()[12] >> 4) * 4
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.flags_raw())
    }

    /// The options' bytes, padding included.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.b()[TCP_LEN..self.header_len()]
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.b()[self.header_len()..]
    }
}
