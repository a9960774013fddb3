//! Pools of packet buffers.

use std::any::TypeId;
use std::ffi::{CString, c_uint, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_sys::rte_mempool;

use crate::eal::Eal;
use crate::errno::Errno;
use crate::lcore;
use crate::mbuf::{Mbuf, MbufRepr, PrivateArea, RawMbuf};

/// The backend: a ring whose producers and consumers tolerate preemption of one another (relaxed tail sync).
const OPS: &std::ffi::CStr = c"ring_mt_rts";

/// What can live in a buffer's private area: plain data.
pub trait Private: Copy + Default + Send + Sync + 'static {}
impl<T: Copy + Default + Send + Sync + 'static> Private for T {}

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Unique in the process, at most 25 characters.
    pub name: String,
    /// Buffers. A power of two less one uses the ring's memory best.
    pub count: u32,
    /// Buffers that each lcore may keep for itself, at most 512 and two thirds of `count`; 0: no caches.
    /// (A pool with caches costs 1 MiB more.)
    pub cache: u32,
    /// Bytes of packet data that a buffer holds behind the default headroom of [`Mbuf::DEFAULT_HEADROOM`]; 0: a pool
    /// for [attached](Mbuf::attach) segments only.
    pub data_room: u16,
    /// The NUMA socket of the memory; `None`: any.
    pub socket: Option<u32>,
}

/// Why a pool was not made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The name cannot be used.
    #[error("pool name {0:?} is too long (25 characters at most) or holds a zero byte; choose another")]
    Name(String),
    /// The name is taken.
    #[error("a pool named {0:?} exists already; choose another name")]
    Exists(String),
    /// The sizes do not fit each other.
    #[error("pool {name:?}: {reason}")]
    Sizes {
        /// The pool.
        name: String,
        /// Which ones, and what would.
        reason: &'static str,
    },
    /// Too little memory.
    #[error("no memory for pool {name:?} (about {mib} MiB); raise the memory given to EAL, or make the pool smaller")]
    NoMemory {
        /// The pool.
        name: String,
        /// What it needs, roughly.
        mib: u64,
    },
    /// Something else.
    #[error("pool {name:?} cannot be made: {errno}; see EAL's messages on standard error")]
    Other {
        /// The pool.
        name: String,
        /// DPDK's reason.
        errno: Errno,
    },
}

/// A pool of buffers. Cheap to clone; any thread may allocate and free, lcores by their cache. The last handle gives
/// the memory back if all buffers are in the pool and, of a pool with caches, no other thread is an lcore any more;
/// otherwise the pool stays until the process ends.
#[derive(Clone, Debug)]
pub struct Mempool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: NonNull<rte_mempool>,
    capacity: u32,
    /// Lcores have caches.
    cached: bool,
    _eal: Eal,
}

// SAFETY: the pool's operations are safe from any thread (multi-producer, multi-consumer ring; caches per lcore).
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool whose buffers carry a `T`, initially its default, beside their bytes.
    pub fn create<T: Private>(eal: &Eal, config: &PoolConfig) -> Result<Self, PoolError> {
        const { assert!(align_of::<T>() <= 16, "private data of a higher alignment does not fit behind an mbuf") };
        let name = config.check()?;
        let private = PrivateArea::<T>::SIZE;
        let room = config.data_room + if config.data_room == 0 { 0 } else { Mbuf::DEFAULT_HEADROOM };
        let socket = config.socket.map_or(-1, |s| s as i32);
        // SAFETY: EAL runs; both strings end with a zero and are copied.
        let pool = unsafe {
            let (count, cache) = (config.count, config.cache);
            dpdk_sys::rte_pktmbuf_pool_create_by_ops(name.as_ptr(), count, cache, private, room, socket, OPS.as_ptr())
        };
        let Some(pool) = NonNull::new(pool) else { return Err(config.error(Errno::last())) };
        // SAFETY: the pool was just made with private areas of this size, and no buffer of it is in use.
        unsafe { dpdk_sys::rte_mempool_obj_iter(pool.as_ptr(), Some(init_private::<T>), std::ptr::null_mut()) };
        Ok(Self(Arc::new(Inner { pool, capacity: config.count, cached: config.cache != 0, _eal: eal.clone() })))
    }

    /// Takes one empty buffer, with the default headroom. `None`: the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as this handle; what it returns is a reset buffer that nobody else has.
        unsafe { Mbuf::from_raw(dpdk_sys::shim_pktmbuf_alloc(self.as_ptr()).cast()) }
    }

    /// Fills `out` to its capacity with empty buffers. `false`: not so many are left; `out` is unchanged.
    #[inline]
    pub fn alloc_fill<P: MbufRepr, const N: usize>(&self, out: &mut ArrayVec<P, N>) -> bool {
        let n = out.remaining_capacity();
        self.alloc_bulk(n, out)
    }

    /// Appends `n` empty buffers to `out`. `false`: there is no room, or not so many are left; `out` is unchanged.
    #[inline]
    pub fn alloc_bulk<P: MbufRepr, const N: usize>(&self, n: usize, out: &mut ArrayVec<P, N>) -> bool {
        let len = out.len();
        if n > N - len {
            return false;
        }
        // SAFETY: there is room for n pointers behind len, and a P is such a pointer (MbufRepr). On success all n are
        // written, and each is a buffer that nobody else has.
        unsafe {
            let spare = out.as_mut_ptr().add(len).cast();
            if dpdk_sys::shim_pktmbuf_alloc_bulk(self.as_ptr(), spare, n as c_uint) != 0 {
                return false;
            }
            out.set_len(len + n);
        }
        true
    }

    /// Buffers that are allocated now. Walks the caches: for housekeeping, not per packet.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives; the counts are read racily, which at worst gives a number of a moment ago.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.as_ptr()) }
    }

    /// All buffers of the pool.
    pub fn capacity(&self) -> u32 {
        self.0.capacity
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.0.pool.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // DPDK counts a buffer as back in a cache before it has written it there, so another lcore may still be at it
        // (the ring counts it last). It cannot begin anew: that would take a buffer or a handle.
        let settled = !self.cached || !lcore::others();
        // SAFETY: the pool lives. With no buffer in use, none on its way and no handle left, nothing can reach it.
        unsafe {
            if settled && dpdk_sys::rte_mempool_in_use_count(self.pool.as_ptr()) == 0 {
                dpdk_sys::rte_mempool_free(self.pool.as_ptr());
            } else {
                // A buffer outside would come back to freed memory: keep the pool, and EAL with it.
                std::mem::forget(self._eal.clone());
            }
        }
    }
}

impl PoolConfig {
    fn check(&self) -> Result<CString, PoolError> {
        let sizes = |reason| Err(PoolError::Sizes { name: self.name.clone(), reason });
        if self.count == 0 {
            return sizes("it has no buffers; count must be at least 1");
        }
        if self.cache > dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE || u64::from(self.cache) * 3 > u64::from(self.count) * 2 {
            return sizes("the cache must be at most 512 and two thirds of the count");
        }
        if self.data_room > u16::MAX - Mbuf::DEFAULT_HEADROOM {
            return sizes("data_room and headroom together must be below 65536");
        }
        match CString::new(self.name.as_str()) {
            Ok(name) if !self.name.is_empty() && self.name.len() <= 25 => Ok(name),
            _ => Err(PoolError::Name(self.name.clone())),
        }
    }

    fn error(&self, errno: Errno) -> PoolError {
        let name = self.name.clone();
        match errno.number() {
            libc::EEXIST => PoolError::Exists(name),
            libc::ENOMEM => {
                let each = u64::from(self.data_room) + 512;
                PoolError::NoMemory { name, mib: (each * u64::from(self.count)).div_ceil(1 << 20) + 1 }
            }
            _ => PoolError::Other { name, errno },
        }
    }
}

/// Writes the type and the default into one buffer's private area.
unsafe extern "C" fn init_private<T: Private>(_: *mut rte_mempool, _: *mut c_void, obj: *mut c_void, _: c_uint) {
    let area = PrivateArea { tag: TypeId::of::<T>(), value: T::default() };
    // SAFETY: each object of the pool is an mbuf with an area of this size and alignment behind it.
    unsafe { RawMbuf::private_area::<T>(obj.cast()).write(area) };
}
