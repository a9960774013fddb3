//! Mapped memory of our own, cache-line prefetch, the SIMD tag match and a round of AES: the only `unsafe` of this
//! crate.
#![allow(unsafe_code)]

mod aes;

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

use crate::flow::{Addr, Entry, Line};

pub use aes::{Aes, Block};

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

/// What memory is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Pages of the base size.
    #[default]
    Base,
    /// Hugepages of 2 MiB where enough are free, else base pages.
    Huge,
}

/// What memory was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A memfd of 2 MiB hugepages.
    Huge,
    /// A memfd of base pages.
    Memfd,
    /// An anonymous mapping: no memfd was to be had, so nobody can read it after a crash.
    Anonymous,
}

const HUGE: usize = 2 << 20;
const BASE: usize = 4096;

/// A fixed array in zeroed, populated, page-aligned memory of our own. Behind a memfd others may map it for reading:
/// the size and, for all later mappings, the contents are sealed.
#[derive(Debug)]
pub struct Array<T: Pod> {
    ptr: NonNull<T>,
    len: usize,
    mapped: usize,
    backing: Backing,
    fd: Option<OwnedFd>,
    _owns: PhantomData<T>,
}

// SAFETY: the mapping is owned like a Box<[T]> and T: Send + Sync (Pod demands it).
unsafe impl<T: Pod> Send for Array<T> {}
// SAFETY: as above; shared access hands out &T only.
unsafe impl<T: Pod> Sync for Array<T> {}

impl<T: Pod> Array<T> {
    /// Maps `len` zeroed elements: hugepages if wanted and free, a memfd of base pages else, anonymous memory last.
    ///
    /// # Errors
    /// The last failure: usually ENOMEM, when the memory is not there at all.
    pub fn new(len: usize, want: Want) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .filter(|&b| b <= isize::MAX as usize - HUGE)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?
            .max(1);
        if want == Want::Huge
            && let Ok(array) = Self::memfd(len, bytes.next_multiple_of(HUGE), Backing::Huge)
        {
            return Ok(array);
        }
        let bytes = bytes.next_multiple_of(BASE);
        // Base pages are given until the OOM killer comes, so a shortage has to be seen before.
        if bytes as u64 > available() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Self::memfd(len, bytes, Backing::Memfd).or_else(|_| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            Self::map(len, bytes, flags, None, Backing::Anonymous)
        })
    }

    fn memfd(len: usize, bytes: usize, backing: Backing) -> io::Result<Self> {
        let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        if backing == Backing::Huge {
            flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
        }
        // SAFETY: the name is a NUL-terminated literal; the call has no other pointer.
        let raw = check(unsafe { libc::memfd_create(c"podplane-tables".as_ptr(), flags) })?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let file = unsafe { File::from_raw_fd(raw) };
        file.set_len(bytes as u64)?;
        // Allocated now, so that a shortage is an error here and not a SIGBUS in the packet path.
        // SAFETY: no pointers; the descriptor is open.
        check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) })?;
        let fd = OwnedFd::from(file);
        let array = Self::map(len, bytes, libc::MAP_SHARED | libc::MAP_POPULATE, Some(fd), backing)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;
        if let Some(fd) = &array.fd {
            // SAFETY: no pointers; the descriptor is open.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        }
        Ok(array)
    }

    fn map(len: usize, bytes: usize, flags: i32, fd: Option<OwnedFd>, backing: Backing) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= BASE && size_of::<T>() > 0) };
        let raw = fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing object.
        let addr = unsafe { libc::mmap(ptr::null_mut(), bytes, prot, flags, raw, 0) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(ptr) = NonNull::new(addr.cast::<T>()) else {
            return Err(io::Error::other("mapped at address 0"));
        };
        Ok(Array { ptr, len, mapped: bytes, backing, fd, _owns: PhantomData })
    }

    /// What memory it is.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Bytes mapped.
    pub fn mapped(&self) -> usize {
        self.mapped
    }

    /// The memfd, for whoever shall keep the memory beyond our end. `None` for anonymous memory.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

impl<T: Pod> Deref for Array<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `map` made a mapping of at least len * size_of::<T>() bytes, page-aligned, zeroed (valid for Pod),
        // that lives until drop; no other process can map it writable (F_SEAL_FUTURE_WRITE) or shrink it.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Array<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; &mut self makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Pod> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; no reference into it outlives self.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.mapped) };
    }
}

/// Bytes that can be had without swapping (MemAvailable); unlimited if the kernel does not say.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
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

    #[test]
    fn arrays_are_zeroed_writable_and_sealed() {
        for want in [Want::Base, Want::Huge] {
            let mut array = Array::<u64>::new(1000, want).unwrap();
            assert!(array.iter().all(|&w| w == 0));
            array[999] = 7;
            assert_eq!(array[999], 7);
            let fd = array.fd().expect("memfd works on every kernel we support").try_clone_to_owned().unwrap();
            let file = File::from(fd);
            assert!(file.set_len(0).is_err(), "shrinking would be a SIGBUS");
            use std::os::unix::fs::FileExt;
            assert!(file.write_at(&[1], 0).is_err(), "nobody else writes");
            let mut word = [0; 8];
            file.read_exact_at(&mut word, 999 * 8).unwrap();
            assert_eq!(u64::from_ne_bytes(word), 7, "but others may read");
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        assert!(Array::<u64>::new(usize::MAX / 4, Want::Base).is_err());
        let (beyond, memory) = (1 << 50, available());
        assert!((1 << 20..beyond).contains(&memory), "{memory}: /proc/meminfo was not understood");
        assert!(Array::<u64>::new(beyond as usize, Want::Huge).is_err());
    }
}
