//! One round of AES as an instruction, where the CPU has it.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_xor_si128};

/// 16 bytes in a vector register.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Block(__m128i);

/// 16 bytes; never worked with where there is no [`Aes`].
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy, Debug)]
pub struct Block([u64; 2]);

#[cfg(target_arch = "x86_64")]
impl Block {
    /// A block from its two halves, the low one first.
    #[inline(always)]
    pub fn new(halves: [u64; 2]) -> Block {
        // SAFETY: SSE2 belongs to the x86-64 baseline.
        Block(unsafe { _mm_set_epi64x(halves[1] as i64, halves[0] as i64) })
    }

    /// The low half.
    #[inline(always)]
    pub fn low(self) -> u64 {
        // SAFETY: SSE2 belongs to the x86-64 baseline.
        unsafe { _mm_cvtsi128_si64(self.0) as u64 }
    }

    /// Bitwise exclusive or.
    #[inline(always)]
    #[must_use]
    pub fn xor(self, other: Block) -> Block {
        // SAFETY: SSE2 belongs to the x86-64 baseline.
        Block(unsafe { _mm_xor_si128(self.0, other.0) })
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Block {
    /// A block from its two halves, the low one first.
    pub fn new(halves: [u64; 2]) -> Block {
        Block(halves)
    }

    /// The low half.
    pub fn low(self) -> u64 {
        self.0[0]
    }

    /// Bitwise exclusive or.
    #[must_use]
    pub fn xor(self, other: Block) -> Block {
        Block([self.0[0] ^ other.0[0], self.0[1] ^ other.0[1]])
    }
}

/// Proof that the CPU has the instruction. It is part of no x86-64 baseline that DPDK asks for, but of nearly all
/// CPUs since 2010.
#[derive(Clone, Copy, Debug)]
pub struct Aes(());

#[cfg(target_arch = "x86_64")]
impl Aes {
    /// Asks the CPU.
    pub fn detect() -> Option<Aes> {
        std::arch::is_x86_feature_detected!("aes").then_some(Aes(()))
    }

    /// One full round (SubBytes, ShiftRows, MixColumns, AddRoundKey: FIPS 197).
    #[inline(always)]
    #[must_use]
    pub fn round(self, mut block: Block, key: Block) -> Block {
        // As an intrinsic it would be a call, for its callers are compiled for a baseline without it.
        #[cfg(target_feature = "avx")]
        // SAFETY: self proves that the instruction exists; it touches its operands alone.
        unsafe {
            std::arch::asm!("vaesenc {0}, {0}, {1}", inout(xmm_reg) block.0, in(xmm_reg) key.0,
                options(pure, nomem, nostack, preserves_flags));
        }
        #[cfg(not(target_feature = "avx"))]
        // SAFETY: self proves that the instruction exists; it touches its operands alone.
        unsafe {
            std::arch::asm!("aesenc {0}, {1}", inout(xmm_reg) block.0, in(xmm_reg) key.0,
                options(pure, nomem, nostack, preserves_flags));
        }
        block
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Aes {
    /// Never, on this architecture.
    pub fn detect() -> Option<Aes> {
        None
    }

    /// Nobody has an `Aes` to call it with.
    #[must_use]
    pub fn round(self, block: Block, _key: Block) -> Block {
        block
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn equals_fips_197() {
        let Some(aes) = Aes::detect() else { return };
        // Appendix B, round 1: the state at its start, the round key, and the state at the start of round 2.
        let block = |bytes: u128| {
            let [low, high] = [bytes.swap_bytes() as u64, (bytes.swap_bytes() >> 64) as u64];
            Block::new([low, high])
        };
        let start = block(0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808);
        let key = block(0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605);
        let next = block(0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049);
        let got = aes.round(start, key);
        assert_eq!(got.low(), next.low());
        assert_eq!(got.xor(next).low(), 0);
    }
}
