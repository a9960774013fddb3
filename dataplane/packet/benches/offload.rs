//! Bytes per second of cutting a GSO frame and of merging its segments again; both sum each byte of payload.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use podplane_packet::buf::{Csum, Gso, Meta, PacketBuf};
use podplane_packet::gro::{Merge, Segment};
use podplane_packet::gso::{MAX_HEADERS, Segmenter};
use podplane_packet::id::Mac;
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf, segments};

/// Payload of a segment and segments of a frame, as TCP makes them at an MTU of 1,450.
const SIZE: u16 = 1398;
const SEGMENTS: usize = 46;

fn frame() -> VecBuf {
    let spec = FrameSpec {
        dst_mac: Mac::GATEWAY,
        src_mac: Mac([2, 0, 0, 0, 0, 9]),
        vlan: None,
        tos: 0,
        ttl: 64,
        ip: Ip::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), id: 1, df: true, options: vec![] },
        l4: Transport::Tcp { sport: 1, dport: 2, seq: 3, ack: 4, flags: 0x10, window: 5, options: vec![1; 12] },
        payload: vec![7; SEGMENTS * usize::from(SIZE)],
    };
    let meta = Meta { csum: Csum::Good, gso: Gso::Tcp4 { size: SIZE }, ..Meta::default() };
    VecBuf::new(&spec.build()).with_meta(meta)
}

fn cutting(c: &mut Criterion) {
    let frame = frame();
    let mut g = c.benchmark_group("gso");
    g.throughput(Throughput::Bytes(frame.len() as u64));
    g.bench_function("46 segments", |b| {
        let mut out = [0; MAX_HEADERS];
        b.iter(|| {
            let s = Segmenter::new(black_box(&frame)).expect("can be cut");
            (0..s.segments()).filter(|&i| s.segment(&frame, i, &mut out).is_some()).count()
        });
    });
    g.finish();
}

fn merging(c: &mut Criterion) {
    let frame = frame();
    let pieces: Vec<VecBuf> = segments(&frame).iter().map(|f| VecBuf::new(f)).collect();
    let mut g = c.benchmark_group("gro");
    g.throughput(Throughput::Bytes(frame.len() as u64));
    g.bench_function("46 segments, verified", |b| {
        b.iter(|| {
            let first = Segment::read(black_box(&pieces[0])).expect("TCP");
            let mut merge = Merge::start(pieces[0].head(), &first).expect("starts");
            for next in &pieces[1..] {
                let segment = Segment::read(next).expect("TCP");
                assert_eq!(merge.push(&pieces[0], next, &segment), Ok(()));
            }
            merge
        });
    });
    g.finish();
}

criterion_group!(benches, cutting, merging);
criterion_main!(benches);
