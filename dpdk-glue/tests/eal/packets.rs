//! Packets, case by case.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dpdk_glue::{AttachError, Eal, Frozen, Mbuf, TxOffload, flags};

use crate::pool;

pub(crate) fn private_data(eal: &Eal) {
    let pool = pool(eal, "private", 1, 64);
    let mut m = pool.alloc().unwrap();
    assert_eq!(*m.private::<u64>(), 0, "a fresh pool holds defaults");
    *m.private_mut::<u64>() = 0x0123_4567_89ab_cdef;
    m.append(64).unwrap().fill(0xff);
    m.prepend(128).unwrap().fill(0xff);
    assert_eq!(*m.private::<u64>(), 0x0123_4567_89ab_cdef, "bytes and private data overlap");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let wrong = catch_unwind(AssertUnwindSafe(|| *m.private::<i64>()));
    std::panic::set_hook(hook);
    assert!(wrong.is_err(), "private data was read as another type");
}

pub(crate) fn flags_and_fields(eal: &Eal) {
    let pool = pool(eal, "flags", 1, 64);
    let mut m = pool.alloc().unwrap();
    assert_eq!((m.flags(), m.port()), (0, u16::MAX));
    m.set_flags(u64::MAX);
    assert_eq!(m.flags() & dpdk_sys::SHIM_MBUF_F_INDIRECT, 0, "a caller can make DPDK believe in a shared buffer");
    assert_eq!(m.flags() & dpdk_sys::SHIM_MBUF_F_EXTERNAL, 0);
    m.set_flags(flags::TX_TCP_CKSUM | flags::TX_IPV4);
    let offload = TxOffload { l2_len: 14, l3_len: 20, l4_len: 32, tso_segsz: 1448, ..TxOffload::default() };
    assert!(m.set_tx_offload(&offload) && !m.set_tx_offload(&TxOffload { l2_len: 128, ..offload }));
    m.set_vlan_tci(0x2064);
    assert_eq!((m.tx_offload(), m.vlan_tci()), (offload, 0x2064));
    drop(m);
    let m = pool.alloc().unwrap();
    assert_eq!((m.flags(), m.tx_offload(), m.vlan_tci()), (0, TxOffload::default(), 0), "a buffer is not fresh");
}

pub(crate) fn room(eal: &Eal) {
    let pool = pool(eal, "room", 1, 64);
    let mut m = pool.alloc().unwrap();
    assert!(m.set_headroom(160) && m.headroom() == 160);
    let (at, len) = m.room();
    assert_eq!(len, 32);
    // SAFETY: the room is 32 bytes, and nothing else uses the packet.
    unsafe { at.write_bytes(9, 32) };
    assert!(!m.set_len(33) && m.set_len(32));
    assert_eq!(m.data(), [9; 32]);
    assert!(!m.set_headroom(0), "the packet is not empty");
    m.truncate(0);
    assert!(m.set_headroom(0) && !m.set_headroom(193) && m.set_headroom(192) && m.room().1 == 0);
}

pub(crate) fn shared_payload(eal: &Eal) {
    let (pool, views) = (pool(eal, "payload", 7, 256), pool(eal, "views", 3, 0));
    let bytes = |range: std::ops::Range<u8>| range.collect::<Vec<u8>>();
    let fill = |range| {
        let mut m = pool.alloc().unwrap();
        let bytes = bytes(range);
        m.append(bytes.len()).unwrap().copy_from_slice(&bytes);
        m
    };
    let mut payload = fill(0..100);
    payload.chain(fill(100..200)).unwrap();
    let payload = Frozen::from(payload);

    let mut first = fill(200..203);
    first.attach(&payload, 50, 100, &views).unwrap();
    assert_eq!((first.pkt_len(), first.segment_count(), views.in_use()), (103, 3, 2));
    assert!(first.tailroom() == 0 && first.append(1).is_none(), "writing would change the shared payload");

    // Refused: unchanged, and the buffers taken on the way are back.
    let mut second = fill(203..206);
    assert_eq!(second.attach(&payload, 50, 100, &views), Err(AttachError::NoBuffer));
    assert_eq!(second.attach(&payload, 101, 100, &views), Err(AttachError::Range));
    assert_eq!(second.attach(&payload, usize::MAX, 2, &views), Err(AttachError::Range));
    assert_eq!((second.pkt_len(), second.segment_count(), views.in_use()), (3, 1, 2));
    second.attach(&payload, 0, 10, &views).unwrap();
    second.attach(&payload, 200, 0, &views).unwrap();
    assert_eq!(all(&second), [bytes(203..206), bytes(0..10)].concat());

    // The payload lives as long as its last view.
    drop(payload);
    assert_eq!(pool.in_use(), 4);
    assert_eq!(all(&first), [bytes(200..203), bytes(50..150)].concat());
    drop(first);
    assert_eq!(pool.in_use(), 2, "the first payload segment is still seen by the second packet");
    assert_eq!(all(&second), [bytes(203..206), bytes(0..10)].concat());
    drop(second);
    assert_eq!((pool.in_use(), views.in_use()), (0, 0));
}

/// The packet's bytes.
pub(crate) fn all(m: &Mbuf) -> Vec<u8> {
    m.segments().collect::<Vec<_>>().concat()
}
