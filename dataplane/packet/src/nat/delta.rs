//! What changes in words under a checksum come to.

use crate::checksum::fold;

/// The ones' complement sum of what 16-bit words became, less what they were (RFC 1624 equation 3: `~m + m'`).
///
/// Taken over words as they lie in memory: the sum does not depend on the byte order in which it is taken but for the
/// order of its own bytes (RFC 1071 section 2 B), so nothing is swapped. Holds up to 2^32 words of 32 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta(u64);

impl Delta {
    /// Adds four bytes that lie at an even distance from where the checksum's coverage starts.
    #[inline(always)]
    #[must_use]
    pub(super) fn four(self, old: [u8; 4], new: [u8; 4]) -> Delta {
        Delta(self.0 + u64::from(!u32::from_ne_bytes(old)) + u64::from(u32::from_ne_bytes(new)))
    }

    /// Adds sixteen bytes.
    #[inline(always)]
    #[must_use]
    pub(super) fn sixteen(self, old: [u8; 16], new: [u8; 16]) -> Delta {
        let (old, new) = (u128::from_ne_bytes(old), u128::from_ne_bytes(new));
        let half = |sum: u64, at: u32| {
            let (old, new) = (!(old >> at) as u32, (new >> at) as u32);
            sum + u64::from(old) + u64::from(new)
        };
        Delta(half(half(half(half(self.0, 0), 32), 64), 96))
    }

    /// Adds two bytes.
    #[inline(always)]
    #[must_use]
    pub(super) fn two(self, old: [u8; 2], new: [u8; 2]) -> Delta {
        Delta(self.0 + u64::from(!u16::from_ne_bytes(old)) + u64::from(u16::from_ne_bytes(new)))
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub(super) fn and(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }

    /// The sum in 16 bits. Zero only if nothing was added.
    #[inline(always)]
    fn folded(self) -> u32 {
        let s = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let s = (s & 0xffff) + (s >> 16);
        u32::from(fold(s as u32))
    }

    /// A checksum field after the changes.
    #[inline(always)]
    #[must_use]
    pub(super) fn applied(self, field: [u8; 2]) -> [u8; 2] {
        (!fold(u32::from(!u16::from_ne_bytes(field)) + self.folded())).to_ne_bytes()
    }

    /// A field with an uncomplemented sum after the changes.
    #[inline(always)]
    #[must_use]
    pub(super) fn applied_partial(self, field: [u8; 2]) -> [u8; 2] {
        fold(u32::from(u16::from_ne_bytes(field)) + self.folded()).to_ne_bytes()
    }
}
