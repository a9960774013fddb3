//! Pools and the threads that use them.

use arrayvec::ArrayVec;
use dpdk_glue::{Eal, Lcore, LcoreError, Mbuf, Mempool, PoolConfig, PoolError};

use crate::pool;

pub(crate) fn exhaustion(eal: &Eal) {
    let pool = pool(eal, "exhaustion", 63, 2048);
    assert_eq!((pool.capacity(), pool.in_use()), (63, 0));
    let mut some: ArrayVec<Mbuf, 40> = ArrayVec::new();
    assert!(pool.alloc_fill(&mut some));
    assert_eq!((some.len(), pool.in_use()), (40, 40));

    // All or nothing: 23 are left.
    let mut more: ArrayVec<Mbuf, 24> = ArrayVec::new();
    assert!(!pool.alloc_fill(&mut more) && more.is_empty());
    assert!(pool.alloc_bulk(23, &mut more) && more.len() == 23);
    assert!(!pool.alloc_bulk(2, &mut more), "there is no room for two");
    assert!(pool.alloc().is_none());

    Mbuf::free_all(&mut more);
    assert_eq!((more.len(), pool.in_use()), (0, 40));
    assert!(pool.alloc().is_some_and(|m| m.pkt_len() == 0 && m.headroom() == 128 && m.segment_count() == 1));
    drop(some);
    assert_eq!(pool.in_use(), 0);
}

pub(crate) fn refusals(eal: &Eal) {
    let good = PoolConfig { name: "refusals".to_owned(), count: 255, cache: 32, data_room: 256, socket: None };
    let make = |config: PoolConfig| Mempool::create::<()>(eal, &config);
    let _pool = make(good.clone()).unwrap();
    assert!(matches!(make(good.clone()), Err(PoolError::Exists(_))));
    assert!(matches!(make(PoolConfig { name: "x".repeat(26), ..good.clone() }), Err(PoolError::Name(_))));
    assert!(matches!(make(PoolConfig { name: "a\0b".to_owned(), ..good.clone() }), Err(PoolError::Name(_))));
    assert!(matches!(make(PoolConfig { count: 0, ..good.clone() }), Err(PoolError::Sizes { .. })));
    assert!(matches!(make(PoolConfig { cache: 171, ..good.clone() }), Err(PoolError::Sizes { .. })));
    assert!(matches!(make(PoolConfig { data_room: u16::MAX, ..good.clone() }), Err(PoolError::Sizes { .. })));
    let huge = make(PoolConfig { name: "huge".to_owned(), count: 1 << 20, ..good });
    assert!(matches!(huge, Err(PoolError::NoMemory { mib: 768.., .. })), "{huge:?}");
}

pub(crate) fn large_buffers(eal: &Eal) {
    let pool = pool(eal, "large", 127, 16 * 1024);
    let mut m = pool.alloc().unwrap();
    assert_eq!(m.room().1, 16 * 1024);
    m.append(16 * 1024).unwrap().fill(7);
    assert!(m.data().iter().all(|b| *b == 7) && m.append(1).is_none());
}

pub(crate) fn buffer_outlives_handles(eal: &Eal) {
    let make = || PoolConfig { name: "orphans".to_owned(), count: 15, cache: 0, data_room: 64, socket: None };
    let pool = Mempool::create::<()>(eal, &make()).unwrap();
    let clone = pool.clone();
    let mut m = pool.alloc().unwrap();
    drop(pool);
    m.append(4).unwrap().copy_from_slice(b"here");
    assert_eq!(m.data(), b"here");
    drop(m);
    drop(clone);
    // The name is free again: the pool was given back once nothing of it was left.
    Mempool::create::<()>(eal, &make()).unwrap();
}

pub(crate) fn lcore_caches(eal: &Eal) {
    assert_eq!(Lcore::current(), Some(0), "the thread that started EAL is its main lcore");
    assert!(matches!(Lcore::register(eal), Err(LcoreError::Already(0))));
    let config = PoolConfig { name: "caches".to_owned(), count: 255, cache: 64, data_room: 64, socket: None };
    let pool = Mempool::create::<()>(eal, &config).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(Lcore::register_on(eal, 1 << 20), Err(LcoreError::Affinity { .. })));
            let lcore = Lcore::register(eal).unwrap();
            assert_eq!(Lcore::current(), Some(lcore.id()));
            assert_ne!(lcore.id(), 0);
            // Fills this lcore's cache with more than what is out.
            drop(pool.alloc().unwrap());
            drop(lcore);
            assert_eq!(Lcore::current(), None);
        });
    });
    // Had they stayed in the other thread's cache, they would be out of reach here.
    let mut all: ArrayVec<Mbuf, 255> = ArrayVec::new();
    assert!(pool.alloc_fill(&mut all));
}
