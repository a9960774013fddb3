//! Fragments through translation: both families, any order, whoever receives them.

use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{PortId, WorkerId};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf, naive_sum};
use podplane_pipeline::snapshot::services::Protocol;

use crate::world::{Place, World, client, everywhere, ip, node, pod, service, udp};

/// Cuts a datagram into pieces of `size` payload bytes.
fn cut(spec: &FrameSpec, size: usize) -> Vec<Vec<u8>> {
    let whole = spec.build();
    let start = match spec.ip {
        Ip::V4 { .. } => 34,
        Ip::V6 { .. } => 54,
    };
    let payload = &whole[start..];
    let count = payload.len().div_ceil(size);
    let piece = |(i, chunk): (usize, &[u8])| {
        let (at, more) = (i * size, i + 1 < count);
        if start == 34 {
            let mut b = [&whole[..34], chunk].concat();
            b[16..18].copy_from_slice(&(20 + chunk.len() as u16).to_be_bytes());
            let field = (at / 8) as u16 | if more { 0x2000 } else { 0 };
            b[20..22].copy_from_slice(&field.to_be_bytes());
            b[24..26].fill(0);
            let sum = !naive_sum(&b[14..34]);
            b[24..26].copy_from_slice(&sum.to_be_bytes());
            return b;
        }
        let field = (at as u16) | u16::from(more);
        let header = [&[whole[20], 0], &field.to_be_bytes()[..], &[0, 0, 0, 77]].concat();
        let mut b = [&whole[..54], &header, chunk].concat();
        b[18..20].copy_from_slice(&(8 + chunk.len() as u16).to_be_bytes());
        b[20] = 44;
        b
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// Puts pieces together again and checks the checksum; returns source, destination and the ports.
fn join(v6: bool, pieces: &[VecBuf]) -> (IpAddr, u16, IpAddr, u16, usize) {
    let mut all: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut ends = None;
    for piece in pieces {
        let b = piece.bytes();
        let (at, from, addresses): (usize, usize, (IpAddr, IpAddr)) = if v6 {
            let a = |i: usize| IpAddr::from(<[u8; 16]>::try_from(&b[i..i + 16]).expect("16 bytes"));
            (usize::from(u16::from_be_bytes([b[56], b[57]]) & !7), 62, (a(22), a(38)))
        } else {
            assert_eq!(naive_sum(&b[14..34]), 0xffff, "header checksum");
            let a = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&b[i..i + 4]).expect("4 bytes"));
            (8 * usize::from(u16::from_be_bytes([b[20], b[21]]) & 0x1fff), 34, (a(26), a(30)))
        };
        assert!(ends.is_none_or(|e| e == addresses), "all pieces are translated alike");
        ends = Some(addresses);
        all.push((at, b[from..].to_vec()));
    }
    all.sort();
    let bytes: Vec<u8> = all.into_iter().flat_map(|(_, b)| b).collect();
    let (src, dst) = ends.expect("pieces");
    let octets = |a: IpAddr| match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let pseudo = [octets(src), octets(dst), vec![0, 17], (bytes.len() as u16).to_be_bytes().to_vec()].concat();
    assert_eq!(naive_sum(&[pseudo, bytes.clone()].concat()), 0xffff, "UDP checksum of the whole");
    let port = |i: usize| u16::from_be_bytes([bytes[i], bytes[i + 1]]);
    (src, port(0), dst, port(2), bytes.len())
}

fn big(w: &World, from: Place, src: IpAddr, dst: IpAddr, l4: Transport) -> FrameSpec {
    let payload: Vec<u8> = (0..900u32).map(|i| (i * 7) as u8).collect();
    let mut spec = w.frame(from, src, dst, l4, &payload);
    if let Ip::V4 { df, .. } = &mut spec.ip {
        *df = false;
    }
    spec
}

const ORDERS: [[usize; 4]; 4] = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]];

/// Sends pieces in some order, each received by another worker.
fn send(w: &mut World, at: (usize, PortId), pieces: &[Vec<u8>], order: [usize; 4]) {
    assert_eq!(pieces.len(), 4);
    for (n, i) in order.into_iter().enumerate() {
        let worker = WorkerId((n % usize::from(w.sim.config.workers)) as u8);
        w.sim.inject(at.0, at.1, worker, VecBuf::new(&pieces[i]));
        if n % 2 == 1 {
            w.sim.settle();
        }
    }
    w.sim.settle();
}

#[test]
fn to_a_service_from_outside_and_back() {
    everywhere(|workers, v6| {
        for (backend, order) in [0usize, 2].into_iter().flat_map(|b| ORDERS.map(|o| (b, o))) {
            let mut w = World::new(workers);
            let p = w.pods[backend];
            let (to, c) = ((node(v6, 0), 30_053), client(v6, 1));
            w.serve(1, &service(Protocol::Udp, &[to], &[(pod(v6, p), 53)]));
            let pieces = cut(&big(&w, Place::Wire(0), c, to.0, udp(9, to.1)), 240);
            send(&mut w, (0, PortId::UPLINK), &pieces, order);
            let got = w.sim.take(p.node, p.port);
            assert_eq!(got.len(), 4, "{order:?}, {workers} workers: {:?}", w.drops());
            assert_eq!(join(v6, &got), (c, 9, pod(v6, p), 53, 908));
            let pieces = cut(&big(&w, Place::Pod(p), pod(v6, p), c, udp(53, 9)), 240);
            send(&mut w, (p.node, p.port), &pieces, order);
            let got = w.sim.take(0, PortId::UPLINK);
            assert_eq!(got.len(), 4, "{order:?}, {workers} workers: {:?}", w.drops());
            assert_eq!(join(v6, &got), (to.0, to.1, c, 9, 908));
            assert_eq!(w.sim.conserved(), Ok(()));
            assert_eq!(w.drops(), []);
        }
    });
}

#[test]
fn of_answers_to_what_was_masqueraded() {
    everywhere(|workers, v6| {
        for order in ORDERS {
            let mut w = World::new(workers);
            let (a, far) = (w.pods[0], ip(v6, "203.0.113.80", "2001:db8:113::80"));
            let pieces = cut(&big(&w, Place::Pod(a), pod(v6, a), far, udp(9, 53)), 240);
            send(&mut w, (0, a.port), &pieces, order);
            let got = w.sim.take(0, PortId::UPLINK);
            let (src, port, dst, _, _) = join(v6, &got);
            assert_eq!((src, dst), (node(v6, 0), far));
            let pieces = cut(&big(&w, Place::Wire(0), far, src, udp(53, port)), 240);
            send(&mut w, (0, PortId::UPLINK), &pieces, order);
            let got = w.sim.take(0, a.port);
            assert_eq!(got.len(), 4, "{order:?}, {workers} workers: {:?}", w.drops());
            assert_eq!(join(v6, &got), (far, 53, pod(v6, a), 9, 908));
            assert_eq!(w.sim.conserved(), Ok(()));
        }
    });
}

#[test]
fn of_the_nodes_own_traffic_pass_in_order() {
    everywhere(|workers, v6| {
        for order in ORDERS {
            let mut w = World::new(workers);
            w.serve(1, &service(Protocol::Udp, &[(node(v6, 0), 30_053)], &[(node(v6, 0), 53)]));
            let pieces = cut(&big(&w, Place::Wire(0), client(v6, 1), node(v6, 0), udp(9, 2049)), 240);
            send(&mut w, (0, PortId::UPLINK), &pieces, order);
            let got = w.sim.take(0, PortId::HOST);
            assert_eq!(got.len(), 4, "{:?}", w.drops());
            assert_eq!(join(v6, &got), (client(v6, 1), 9, node(v6, 0), 2049, 908));
            // And what it sends; of these the answers of the backend are ours.
            let question = w.pass(Place::Wire(0), client(v6, 1), node(v6, 0), udp(9, 30_053), Place::Host(0));
            assert_eq!(question.dport, 53);
            for (sport, seen) in [(2049, 2049), (53, 30_053)] {
                let mut spec = big(&w, Place::Host(0), node(v6, 0), client(v6, 1), udp(sport, 9));
                spec.dst_mac = crate::world::ROUTER;
                send(&mut w, (0, PortId::HOST), &cut(&spec, 240), order);
                let got = w.sim.take(0, PortId::UPLINK);
                assert_eq!(got.len(), 4, "{:?}", w.drops());
                assert_eq!(join(v6, &got), (node(v6, 0), seen, client(v6, 1), 9, 908));
                assert!(got.iter().all(|b| b.head().starts_with(&crate::world::ROUTER.0)));
            }
            assert_eq!(w.sim.conserved(), Ok(()));
        }
    });
}
