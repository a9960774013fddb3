//! CRC32c of SCTP (RFC 9260 appendix A), changed without reading what it covers.
//!
//! A CRC is linear: the CRCs of two packets of one length differ by the remainder of their difference alone (preset and
//! final complement cancel out). Translation changes the first four bytes, so the difference is a polynomial of 32 bits,
//! times x^(8 n) for the n bytes of the packet: the four themselves and those behind. That takes a few multiplications
//! modulo the polynomial, fewer than the CRC of a packet of 1,500 bytes would cost, and needs no table but 128 words.

/// Castagnoli's polynomial, bits reversed: bit 31 is x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0.
const ONE: u32 = 1 << 31;

/// `a * b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        // Masks, not branches: the bits are as good as random.
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
    }
    product
}

/// `POWERS[i][d]` is x^(8 * d * 16^i): what `d * 16^i` further bytes multiply by.
const POWERS: [[u32; 16]; 4] = {
    let mut table = [[ONE; 16]; 4];
    // x^8: bit 31 - 8.
    let mut base = ONE >> 8;
    let mut i = 0;
    while i < 4 {
        let mut d = 1;
        while d < 16 {
            table[i][d] = multiply(table[i][d - 1], base);
            d += 1;
        }
        base = multiply(table[i][15], base);
        i += 1;
    }
    table
};

/// The field after the first four bytes of an SCTP packet of `len` bytes changed from `old` to `new`.
pub(super) fn update(field: [u8; 4], len: u16, old: [u8; 4], new: [u8; 4]) -> [u8; 4] {
    // Bytes go into a reversed CRC from its low end, the first first.
    let mut change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    for (i, powers) in POWERS.iter().enumerate() {
        let digit = usize::from(len >> (4 * i) & 15);
        if digit != 0 {
            change = multiply(change, powers[digit]);
        }
    }
    (u32::from_le_bytes(field) ^ change).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::naive_crc32c;

    #[test]
    fn the_oracle_is_castagnolis() {
        // RFC 3720 appendix B.4: thirty-two zeros, and ones, bytes in the order of transmission.
        assert_eq!(naive_crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(naive_crc32c(&[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
    }

    /// Packets, now and then as long as they can be.
    fn packet() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![9 => 12usize..2000, 1 => 60_000usize..65_536];
        len.prop_flat_map(|n| prop::collection::vec(any::<u8>(), n))
    }

    proptest! {
        #[test]
        fn as_if_taken_anew(mut bytes in packet(), new: [u8; 4]) {
            let old = [bytes[0], bytes[1], bytes[2], bytes[3]];
            let before = naive_crc32c(&bytes).to_le_bytes();
            bytes[..4].copy_from_slice(&new);
            let after = update(before, bytes.len() as u16, old, new);
            prop_assert_eq!(after, naive_crc32c(&bytes).to_le_bytes());
        }
    }
}
