//! Everybody reaches everybody: pods and nodes, on one node and across VXLAN, both families, any number of workers.

mod common;

use common::{ACK, End, FIN, SYN, echo, expect, frame, tcp};
use podplane_packet::testing::Transport;
use podplane_pipeline::sim::{Sim, SimConfig};

fn cluster(workers: u8, underlay_v6: bool) -> (Sim, Vec<End>) {
    let mut sim = Sim::new(SimConfig { workers, underlay_v6, ..SimConfig::default() });
    let mut ends: Vec<End> = [0, 0, 0, 1, 1].into_iter().map(|n| End::Pod(sim.add_pod(n))).collect();
    ends.extend([End::Node(0), End::Node(1)]);
    (sim, ends)
}

/// Pairs that the dataplane joins: all but nodes among themselves, whose packets never come to it.
fn pairs(ends: &[End]) -> Vec<(End, End)> {
    let all = ends.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b)));
    all.filter(|(a, b)| a != b && !matches!((a, b), (End::Node(_), End::Node(_)))).collect()
}

#[test]
fn ping_and_tcp_between_all_pairs() {
    for (workers, underlay_v6) in [(1, false), (2, false), (4, false), (2, true)] {
        let (mut sim, ends) = cluster(workers, underlay_v6);
        for (a, b) in pairs(&ends) {
            for v6 in [false, true] {
                let (to_b, to_a) = (b.ip(v6), a.ip(v6));
                for (from, to, dst, l4, payload) in [
                    (a, b, to_b, echo(v6, true, 77), &b"ping"[..]),
                    (b, a, to_a, echo(v6, false, 77), b"ping"),
                    (a, b, to_b, tcp(1234, 80, SYN), b""),
                    (b, a, to_a, tcp(80, 1234, SYN | ACK), b""),
                    (a, b, to_b, tcp(1234, 80, ACK), b"GET / HTTP/1.0\r\n\r\n"),
                    (b, a, to_a, tcp(80, 1234, FIN | ACK), b"hello"),
                    (a, b, to_b, Transport::Udp { sport: 5, dport: 53 }, b"question"),
                    (b, a, to_a, Transport::Udp { sport: 53, dport: 5 }, b"answer"),
                    (a, b, to_b, Transport::Sctp { sport: 9, dport: 10 }, b"chunks of eight."),
                    (a, b, to_b, Transport::Raw(253), b"experiment"),
                ] {
                    let spec = frame(&sim, from, dst, l4, payload);
                    expect(&mut sim, from, to, &spec);
                }
            }
        }
        assert_eq!(sim.all_drops(), Vec::new());
    }
}
