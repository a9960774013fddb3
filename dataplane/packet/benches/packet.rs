//! Nanoseconds per packet of the parser and of translation, and bytes per second of the checksum.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use podplane_packet::buf::PacketBuf;
use podplane_packet::checksum;
use podplane_packet::id::Mac;
use podplane_packet::nat::{Place, Tuple, translate};
use podplane_packet::parse::parse;
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};

fn tcp(ip: Ip) -> Vec<u8> {
    spec(ip).build()
}

fn spec(ip: Ip) -> FrameSpec {
    FrameSpec {
        dst_mac: Mac::GATEWAY,
        src_mac: Mac([2, 0, 0, 0, 0, 9]),
        vlan: None,
        tos: 0,
        ttl: 64,
        ip,
        l4: Transport::Tcp { sport: 1, dport: 2, seq: 3, ack: 4, flags: 0x10, window: 5, options: vec![1; 12] },
        payload: vec![7; 64],
    }
}

fn parser(c: &mut Criterion) {
    let v4 = tcp(Ip::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), id: 1, df: true, options: vec![] });
    let v6 = tcp(Ip::V6 { src: 1.into(), dst: 2.into(), label: 3, extensions: vec![] });
    let ext = tcp(Ip::V6 { src: 1.into(), dst: 2.into(), label: 3, extensions: vec![(60, vec![0; 6])] });
    let mut g = c.benchmark_group("parse");
    g.throughput(Throughput::Elements(1));
    for (name, frame) in [("tcp over IPv4", v4), ("tcp over IPv6", v6), ("tcp over IPv6 with options", ext)] {
        g.bench_function(name, |b| b.iter(|| parse(black_box(&frame), frame.len())));
    }
    g.finish();
}

fn sums(c: &mut Criterion) {
    let mut g = c.benchmark_group("checksum");
    for len in [20usize, 64, 1448, 65_000] {
        let bytes = vec![0x5a; len];
        g.throughput(Throughput::Bytes(len as u64));
        g.bench_function(format!("{len} bytes"), |b| b.iter(|| checksum::sum(black_box(&bytes))));
    }
    g.finish();
}

fn translation(c: &mut Criterion) {
    let v4 = Ip::V4 { src: [10, 0, 0, 1].into(), dst: [10, 96, 0, 1].into(), id: 1, df: true, options: vec![] };
    let v6 = Ip::V6 { src: 1.into(), dst: 2.into(), label: 3, extensions: vec![] };
    let sctp = |payload| {
        let mut s = spec(v4.clone());
        (s.l4, s.payload) = (Transport::Sctp { sport: 1, dport: 2 }, vec![7; payload]);
        s
    };
    let four = |port| Tuple { src: [10, 0, 0, 1].into(), dst: [10, 244, 2, port as u8].into(), sport: 1, dport: port };
    let six = |port| Tuple { src: [5; 16].into(), dst: [6; 16].into(), sport: 1, dport: port };
    let mut g = c.benchmark_group("translate");
    g.throughput(Throughput::Elements(1));
    for (name, s, new) in [
        ("tcp over IPv4", spec(v4.clone()), [four(8080), four(80)]),
        ("tcp over IPv6", spec(v6), [six(8080), six(80)]),
        ("sctp, 64 bytes", sctp(64), [four(8080), four(80)]),
        ("sctp, 1400 bytes", sctp(1400), [four(8080), four(80)]),
    ] {
        let mut buf = VecBuf::new(&s.build());
        let at = Place::from(&parse(buf.head(), buf.len()).expect("sound"));
        let mut turn = 0;
        g.bench_function(name, |b| {
            b.iter(|| {
                turn ^= 1;
                translate(black_box(&mut buf), black_box(&at), black_box(&new[turn]))
            });
        });
    }
    g.finish();
}

criterion_group!(benches, parser, sums, translation);
criterion_main!(benches);
