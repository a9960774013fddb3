//! Memory of our own that others can keep: one memfd, divided once among its users.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::Pod;

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

/// One mapping of zeroed, populated memory. Behind a memfd others may map it for reading: the size and, for all later
/// mappings, the contents are sealed.
#[derive(Debug)]
struct Region {
    ptr: NonNull<u8>,
    mapped: usize,
    backing: Backing,
    fd: Option<OwnedFd>,
}

// SAFETY: the mapping is plain memory owned like a Box<[u8]>; whoever gets a part of it is Send and Sync by its type.
unsafe impl Send for Region {}
// SAFETY: as above; a shared Region hands out no access to its memory.
unsafe impl Sync for Region {}

impl Region {
    /// Maps zeroed bytes: hugepages if wanted and free, a memfd of base pages else, anonymous memory last.
    fn new(bytes: usize, want: Want) -> io::Result<Region> {
        if bytes > isize::MAX as usize - HUGE {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let bytes = bytes.max(1);
        if want == Want::Huge
            && let Ok(region) = Self::memfd(bytes.next_multiple_of(HUGE), Backing::Huge)
        {
            return Ok(region);
        }
        let bytes = bytes.next_multiple_of(BASE);
        // Base pages are given until the OOM killer comes, so a shortage has to be seen before.
        if bytes as u64 > available() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Self::memfd(bytes, Backing::Memfd).or_else(|_| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            Self::map(bytes, flags, None, Backing::Anonymous)
        })
    }

    fn memfd(bytes: usize, backing: Backing) -> io::Result<Region> {
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
        let region = Self::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, Some(fd), backing)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;
        if let Some(fd) = &region.fd {
            // SAFETY: no pointers; the descriptor is open.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        }
        Ok(region)
    }

    fn map(bytes: usize, flags: i32, fd: Option<OwnedFd>, backing: Backing) -> io::Result<Region> {
        let raw = fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing object.
        let addr = unsafe { libc::mmap(ptr::null_mut(), bytes, prot, flags, raw, 0) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(ptr) = NonNull::new(addr.cast::<u8>()) else {
            return Err(io::Error::other("mapped at address 0"));
        };
        Ok(Region { ptr, mapped: bytes, backing, fd })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; every Array in it holds the Region, so none is left.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.mapped) };
    }
}

/// Whether a file is memory whose size nobody can change any more: such as a [`Carver`] makes, and no device, pipe or
/// file system of a stranger that could make a reader wait.
pub fn is_sealed_memory(file: BorrowedFd<'_>) -> bool {
    let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: no pointers; the descriptor is open.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & wanted == wanted
}

/// Divides one mapping into arrays, from its start to its end, each part once.
#[derive(Debug)]
pub struct Carver {
    region: Arc<Region>,
    at: usize,
}

impl Carver {
    /// Maps zeroed bytes: hugepages if wanted and free, a memfd of base pages else, anonymous memory last.
    ///
    /// # Errors
    /// The last failure: usually ENOMEM, when the memory is not there at all.
    pub fn new(bytes: usize, want: Want) -> io::Result<Carver> {
        Ok(Carver { region: Arc::new(Region::new(bytes, want)?), at: 0 })
    }

    /// Where an array of `len` elements would end that begins at `at` or at the next base page: for computing sizes.
    /// `None` if that is beyond all memory.
    pub fn end_of<T: Pod>(at: usize, len: usize) -> Option<usize> {
        at.checked_next_multiple_of(BASE)?.checked_add(len.checked_mul(size_of::<T>())?)
    }

    /// The next array, which begins at a base page. `None`: so much is not left.
    pub fn carve<T: Pod>(&mut self, len: usize) -> Option<Array<T>> {
        const { assert!(align_of::<T>() <= BASE && size_of::<T>() > 0) };
        let end = Self::end_of::<T>(self.at, len).filter(|&end| end <= self.region.mapped)?;
        let start = self.at.next_multiple_of(BASE);
        self.at = end;
        // SAFETY: start <= end <= mapped, so the pointer stays in the mapping or just behind it.
        let ptr = unsafe { self.region.ptr.add(start) }.cast();
        Some(Array { ptr, len, region: Arc::clone(&self.region), _owns: PhantomData })
    }

    /// The memfd, for whoever shall keep the memory beyond our end. `None` for anonymous memory.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.region.fd.as_ref().map(AsFd::as_fd)
    }

    /// What memory it is.
    pub fn backing(&self) -> Backing {
        self.region.backing
    }
}

/// A fixed array in zeroed, populated, page-aligned memory of our own.
#[derive(Debug)]
pub struct Array<T: Pod> {
    ptr: NonNull<T>,
    len: usize,
    region: Arc<Region>,
    _owns: PhantomData<T>,
}

// SAFETY: the array owns its part of the mapping like a Box<[T]> and T: Send + Sync (Pod demands it).
unsafe impl<T: Pod> Send for Array<T> {}
// SAFETY: as above; shared access hands out &T only.
unsafe impl<T: Pod> Sync for Array<T> {}

impl<T: Pod> Array<T> {
    /// Maps `len` zeroed elements in memory of their own, as [`Carver::new`] does.
    ///
    /// # Errors
    /// The last failure: usually ENOMEM, when the memory is not there at all.
    pub fn new(len: usize, want: Want) -> io::Result<Self> {
        let bytes = Carver::end_of::<T>(0, len).ok_or(io::ErrorKind::OutOfMemory)?;
        Carver::new(bytes, want)?.carve(len).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// What memory it is.
    pub fn backing(&self) -> Backing {
        self.region.backing
    }

    /// Bytes of memory that it takes, to the end of its last base page.
    pub fn mapped(&self) -> usize {
        size_of_val(&**self).next_multiple_of(BASE)
    }

    /// The memfd, for whoever shall keep the memory beyond our end. `None` for anonymous memory.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.region.fd.as_ref().map(AsFd::as_fd)
    }
}

impl<T: Pod> Deref for Array<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `carve` gave this array alone len * size_of::<T>() bytes of the mapping, page-aligned, zeroed (valid
        // for Pod); the mapping lives as long as `region`. No other process can map it writable (F_SEAL_FUTURE_WRITE)
        // or shrink it.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Array<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; &mut self makes the access exclusive, for no other array has this part.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn parts_of_one_region_do_not_overlap() {
        let bytes = Carver::end_of::<u64>(Carver::end_of::<u32>(0, 5).unwrap(), 3).unwrap();
        let mut carver = Carver::new(bytes, Want::Base).unwrap();
        let (mut a, mut b) = (carver.carve::<u32>(5).unwrap(), carver.carve::<u64>(3).unwrap());
        assert!(carver.carve::<u64>(1000).is_none(), "nothing is given twice");
        a.fill(u32::MAX);
        assert!(b.iter().all(|&w| w == 0));
        b.fill(1);
        assert!(is_sealed_memory(carver.fd().unwrap()));
        assert!(!is_sealed_memory(File::open("/dev/zero").unwrap().as_fd()));
        drop(carver);
        assert!(a.iter().all(|&w| w == u32::MAX) && b.iter().all(|&w| w == 1));
        assert!(Carver::end_of::<u64>(usize::MAX - 1, 1).is_none());
    }

    #[test]
    fn absurd_sizes_are_errors() {
        assert!(Array::<u64>::new(usize::MAX / 4, Want::Base).is_err());
        let (beyond, memory) = (1 << 50, available());
        assert!((1 << 20..beyond).contains(&memory), "{memory}: /proc/meminfo was not understood");
        assert!(Array::<u64>::new(beyond as usize, Want::Huge).is_err());
    }
}
