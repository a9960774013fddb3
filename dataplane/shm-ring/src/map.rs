//! The shared mapping: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::ring::Words;
use crate::sync::AtomicU64;

/// Why memory could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The kernel refused.
    #[error("{what}: {source}")]
    System {
        /// The call.
        what: &'static str,
        /// Its error.
        source: std::io::Error,
    },
    /// The peer's file could change its size while it is mapped.
    #[error("the peer's memory file lacks the seals against shrinking and growing")]
    NotSealed,
    /// The peer's file has another size than was agreed.
    #[error("the peer's memory file has {got} bytes, {want} were agreed")]
    WrongSize {
        /// Its size.
        got: u64,
        /// The agreed size.
        want: u64,
    },
}

fn system(what: &'static str) -> impl Fn(nix::Error) -> MapError {
    move |e| MapError::System { what, source: e.into() }
}

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A mapped memfd. Unmapped when the last clone goes.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is plain memory that is only reached as `AtomicU64`, which any thread may do at any time.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Makes a file of `words` words, sealed against any change of its size, and maps it.
    pub fn create(words: usize) -> Result<Map, MapError> {
        let fd = memfd_create("podplane-ring", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(system("memfd_create"))?;
        nix::unistd::ftruncate(&fd, (words * 8) as i64).map_err(system("ftruncate of the ring's memory"))?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).map_err(system("sealing the ring's memory"))?;
        Map::new(fd, words)
    }

    /// Maps a file that a peer made, after making sure that the peer cannot change its size any more.
    pub fn attach(fd: OwnedFd, words: usize) -> Result<Map, MapError> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(system("reading the seals of the peer's memory"))?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(MapError::NotSealed);
        }
        let file = File::from(fd);
        let got =
            file.metadata().map_err(|e| MapError::System { what: "fstat of the ring's memory", source: e })?.len();
        let want = (words * 8) as u64;
        if got != want {
            return Err(MapError::WrongSize { got, want });
        }
        Map::new(file.into(), words)
    }

    fn new(fd: OwnedFd, words: usize) -> Result<Map, MapError> {
        let length = NonZeroUsize::new(words * 8).ok_or(MapError::WrongSize { got: 0, want: 8 })?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &fd, 0) }
                .map_err(system("mapping the ring's memory"))?;
        Ok(Map { fd, base: base.cast(), words })
    }

    /// The file, to be handed to the peer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `words` words, is page-aligned, lives as long as `self`, cannot lose pages (the file
        // is sealed against shrinking), and atomics may be written by another process at any time.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `base` and the length are those of our own mmap, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.words * 8) };
        debug_assert!(unmapped.is_ok());
    }
}

/// A part of a mapping: one ring.
#[derive(Clone, Debug)]
pub struct Part {
    map: Arc<Map>,
    first: usize,
    words: usize,
}

impl Part {
    /// The words `first .. first + words` of `map`, which must lie inside it.
    pub fn new(map: Arc<Map>, first: usize, words: usize) -> Part {
        assert!(first.checked_add(words).is_some_and(|end| end <= map.words), "part beyond the mapping");
        Part { map, first, words }
    }
}

impl Words for Part {
    fn words(&self) -> &[AtomicU64] {
        &self.map.all()[self.first..self.first + self.words]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_unsealed_file_is_refused() {
        let fd = memfd_create("test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&fd, 4096).unwrap();
        assert!(matches!(Map::attach(fd, 512), Err(MapError::NotSealed)));
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        let map = Map::create(512).unwrap();
        let fd = map.fd().try_clone_to_owned().unwrap();
        assert!(matches!(Map::attach(fd, 513), Err(MapError::WrongSize { got: 4096, want: 4104 })));
    }

    #[test]
    fn the_peer_cannot_shrink_what_is_mapped() {
        let map = Map::create(512).unwrap();
        assert!(nix::unistd::ftruncate(map.fd(), 0).is_err());
    }
}
