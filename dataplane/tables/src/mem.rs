//! Mapped memory of our own, cache-line prefetch, the SIMD tag match, wide vectors and a round of AES: the only `unsafe`
//! of this crate.
#![allow(unsafe_code)]

mod aes;
mod region;

use std::ptr;
use std::sync::atomic::AtomicU64;

use crate::flow::{Addr, Entry, Line};

pub use aes::{Aes, Block};
pub use region::{Array, Backing, Carver, Want, is_sealed_memory};

/// Plain old data: every bit pattern, all zeroes included, is a valid value; nothing to drop.
///
/// # Safety
/// The type has no field for which some bit pattern is invalid (`bool`, enums, references, `NonZero`), no `Drop`, and
/// is `repr(C)`.
pub unsafe trait Pod: Send + Sync + 'static {}

// SAFETY: repr(C), integers and atomics only, given that `Addr` is sealed and implemented for byte arrays alone.
unsafe impl<A: Addr> Pod for Entry<A> {}
// SAFETY: repr(C), integer arrays only.
unsafe impl Pod for Line {}
// SAFETY: an integer.
unsafe impl Pod for u32 {}
// SAFETY: an integer.
unsafe impl Pod for u64 {}
// SAFETY: an integer.
unsafe impl Pod for AtomicU64 {}

/// The value that the bytes are; `None` if they are not exactly as many as it has.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as many bytes are read as there are, at no alignment, and every bit pattern is a value (Pod).
    (bytes.len() == size_of::<T>()).then(|| unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Asks for the cache line of `value` (its first line if it has several). Never faults.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; the address is that of a live reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Runs `work` compiled for the widest vectors that are worth it, where the CPU has them: what is inlined into it, and only
/// that, may use AVX2.
#[inline(always)]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
        fn wide<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt") {
            // SAFETY: the CPU has all the features that the function is compiled for.
            return unsafe { wide(work) };
        }
    }
    work()
}

/// Which of 16 bytes equal `tag`: bit i for byte i. SSE2 is part of every x86-64, so nothing is detected at run time.
#[inline(always)]
pub fn match_tags(bytes: &[u8; 16], tag: u8) -> u16 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 belongs to the x86-64 baseline; the unaligned load reads exactly the 16 bytes of the array.
    unsafe {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        let line = _mm_loadu_si128(bytes.as_ptr().cast());
        _mm_movemask_epi8(_mm_cmpeq_epi8(line, _mm_set1_epi8(tag as i8))) as u16
    }
    #[cfg(not(target_arch = "x86_64"))]
    match_tags_portable(bytes, tag)
}

/// [`match_tags`] without SIMD: the other architectures' version, and the oracle of the fast one.
#[inline]
pub fn match_tags_portable(bytes: &[u8; 16], tag: u8) -> u16 {
    bytes.iter().enumerate().fold(0, |mask, (i, &b)| mask | (u16::from(b == tag) << i))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn simd_equals_portable(bytes: [u8; 16], tag: u8, pick in 0usize..16) {
            prop_assert_eq!(match_tags(&bytes, tag), match_tags_portable(&bytes, tag));
            prop_assert!(match_tags(&bytes, bytes[pick]) & (1 << pick) != 0);
        }
    }
}
