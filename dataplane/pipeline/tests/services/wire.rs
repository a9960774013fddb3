//! What leaves the cluster and comes back, and clients by several entry nodes.

use std::collections::HashSet;
use std::net::IpAddr;

use podplane_packet::id::{Mac, PortId};
use podplane_packet::parse::L4;
use podplane_packet::testing::Transport;
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::SimConfig;
use podplane_pipeline::snapshot::services::Protocol;

use crate::world::{ACK, PORTS, Place, ROUTER, SYN, World, client, everywhere, ip, node, pod, service, tcp, udp, vip};

fn server(v6: bool) -> IpAddr {
    ip(v6, "203.0.113.80", "2001:db8:113::80")
}

fn echo(v6: bool, request: bool, id: u16) -> Transport {
    let kind = match (v6, request) {
        (false, true) => 8,
        (false, false) => 0,
        (true, true) => 128,
        (true, false) => 129,
    };
    Transport::Icmp { kind, code: 0, rest: [(id >> 8) as u8, id as u8, 0, 1] }
}

#[test]
fn what_leaves_is_masqueraded_and_answers_find_their_pod() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let wire = Place::Wire(0);
        let mut ports = HashSet::new();
        for (i, from) in w.pods.clone().into_iter().filter(|p| p.node == 0).enumerate() {
            for sport in 100..140 {
                let place = Place::Pod(from);
                let (seen, back) = w.converse(place, pod(v6, from), (server(v6), 53), wire, sport);
                assert_eq!((seen.src, seen.dst, seen.dport), (node(v6, 0), server(v6), 53));
                assert_eq!(seen.bytes[..6], ROUTER.0, "by the router");
                assert!((PORTS.0..=PORTS.1).contains(&seen.sport) && ports.insert(seen.sport), "pod {i}: {seen:?}");
                assert_eq!(back.ends(), (server(v6), 53, pod(v6, from), sport));
                // One segment of TCP and an echo.
                let t = w.pass(place, pod(v6, from), server(v6), tcp(sport, 80, SYN), wire);
                let r = w.pass(wire, server(v6), t.src, tcp(80, t.sport, SYN | ACK), place);
                assert_eq!(r.ends(), (server(v6), 80, pod(v6, from), sport));
                let e = w.pass(place, pod(v6, from), server(v6), echo(v6, true, sport), wire);
                assert!((PORTS.0..=PORTS.1).contains(&e.sport) && e.src == node(v6, 0));
                let r = w.pass(wire, server(v6), node(v6, 0), echo(v6, false, e.sport), place);
                assert_eq!(r.ends(), (server(v6), sport, pod(v6, from), sport));
            }
        }
        // In random order (RFC 6056): not all ascending.
        let a = w.pods[0];
        let sent: Vec<u16> =
            (200..220).map(|p| w.pass(Place::Pod(a), pod(v6, a), server(v6), udp(p, 1), wire).sport).collect();
        assert!(!sent.is_sorted(), "{sent:?}");
        // Where pods are known by their own addresses, they keep them, and are reached by them.
        let known = ip(v6, "172.16.3.4", "2001:db8:16::4");
        let (seen, back) = w.converse(Place::Pod(a), pod(v6, a), (known, 53), wire, 7);
        assert_eq!((seen.src, seen.sport), (pod(v6, a), 7));
        assert_eq!(back.ends(), (known, 53, pod(v6, a), 7));
        let (seen, back) = w.converse(wire, known, (pod(v6, a), 8), Place::Pod(a), 9);
        assert_eq!(seen.src, known);
        assert_eq!(back.ends(), (pod(v6, a), 8, known, 9));
        assert_eq!(w.drops(), []);
    });
}

#[test]
fn what_belongs_to_no_flow_passes_to_the_node() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        w.serve(1, &service(Protocol::Tcp, &[(node(v6, 0), 30_080)], &[(node(v6, 0), 8080)]));
        let (wire, host) = (Place::Wire(0), Place::Host(0));
        for l4 in [udp(53, PORTS.0 + 3), tcp(80, PORTS.1, ACK), echo(v6, false, PORTS.0), echo(v6, true, 7), udp(1, 22)]
        {
            let seen = w.pass(wire, server(v6), node(v6, 0), l4, host);
            assert_eq!((seen.src, seen.parsed.ttl), (server(v6), 64), "unchanged");
        }
        // And back: the node's own stack speaks to the router by itself.
        for sport in [22, 8080] {
            let mut frame = w.frame(host, node(v6, 0), server(v6), tcp(sport, 80, ACK), b"");
            frame.dst_mac = ROUTER;
            w.inject(host, &frame.build());
            w.sim.settle();
            assert_eq!(w.take(wire)[0].bytes, frame.build());
        }
        assert_eq!(w.sim.flows(), 0);
        // What goes to pods never passes: it would come back as the node's own.
        assert!(w.send(wire, server(v6), pod(v6, w.pods[0]), udp(1, 2), host).is_empty());
        assert_eq!(w.take(Place::Pod(w.pods[0])).len(), 1);
    });
}

#[test]
fn ports_run_out_per_remote_and_are_named() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let local = w.sim.nodes[0].config.local.as_mut().expect("configured");
        local.masquerade.as_mut().expect("masquerades").ports = (60_000, 60_000 + 4 * u16::from(workers) - 1);
        w.sim.nodes[0].publish();
        let (a, wire) = (w.pods[0], Place::Wire(0));
        let try_all = |w: &mut World, to: IpAddr| {
            (0..10).filter(|i| !w.send(Place::Pod(a), pod(v6, a), to, udp(100 + i, 53), wire).is_empty()).count()
        };
        assert_eq!(try_all(&mut w, server(v6)), 4, "the ports of one worker");
        assert_eq!(w.drops(), [("no-masquerade-port", 6)]);
        assert_eq!(try_all(&mut w, client(v6, 1)), 4, "the same ports toward another remote");
        w.sim.advance(40_000);
        assert_eq!(try_all(&mut w, server(v6)), 4, "and again once they are free");
    });
}

/// The remote may remember a connection that ended: its port is not given to another one soon while there are others.
#[test]
fn ports_rest_before_they_are_used_again() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (a, wire) = (w.pods[0], Place::Wire(0));
        let mut seen = HashSet::new();
        // A third of the ports of one worker.
        let some = (PORTS.1 - PORTS.0) / u16::from(workers) / 6;
        for round in 0..2 {
            for sport in 1000..1000 + some {
                let s = w.pass(Place::Pod(a), pod(v6, a), server(v6), udp(sport, 53), wire);
                assert!(seen.insert(s.sport), "round {round}: {} again", s.sport);
            }
            // The flows are over, the remote may not have noticed.
            w.sim.advance(40_000);
            assert_eq!(w.sim.flows(), 0);
        }
        assert_eq!(w.drops(), []);
    });
}

#[test]
fn packets_wait_for_their_neighbour() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (a, wire, near) = (w.pods[0], Place::Wire(0), ip(v6, "192.0.2.99", "2001:db8::63"));
        for port in 1..4 {
            assert!(w.send(Place::Pod(a), pod(v6, a), near, udp(port, 53), wire).is_empty());
        }
        assert_eq!(w.sim.nodes[0].asked, [near], "asked once");
        assert_eq!((w.sim.flows(), w.drops()), (0, vec![]));
        let mac = Mac([2, 0, 0, 0, 0, 0x99]);
        w.sim.nodes[0].config.outside.neighbours.push((near, Some(mac)));
        w.sim.nodes[0].publish();
        w.sim.settle();
        w.sim.advance(250);
        let got = w.take(wire);
        assert_eq!(got.len(), 3, "{:?}", w.drops());
        assert!(got.iter().all(|s| s.bytes[..6] == mac.0 && s.src == node(v6, 0)));
        // Known by name but not by MAC: what is established waits too.
        w.sim.nodes[0].config.outside.neighbours.last_mut().expect("one").1 = None;
        w.sim.nodes[0].publish();
        assert!(w.send(Place::Pod(a), pod(v6, a), near, udp(1, 53), wire).is_empty());
        assert_eq!(w.sim.conserved(), Ok(()));
        w.sim.advance(2000);
        assert_eq!(w.drops(), [("neighbour-unresolved", 1)]);
        for port in 0..40 {
            let _ = w.send(Place::Pod(a), pod(v6, a), near, udp(port, 54), wire);
        }
        assert_eq!(w.sim.drops(DropReason::NeighbourQueueFull), 24, "sixteen wait");
        w.sim.advance(2000);
        assert_eq!(w.sim.conserved(), Ok(()));
    });
}

#[test]
fn a_flow_moves_with_its_clients_entry_node() {
    everywhere(|workers, v6| {
        let mut w = World::with(SimConfig { nodes: 3, workers, ..SimConfig::default() });
        let e = w.pods[4];
        let to = (ip(v6, "203.0.113.1", "2001:db8:113::1"), 80);
        w.serve(1, &service(Protocol::Tcp, &[to], &[(pod(v6, e), 8080)]));
        let (c, at) = (client(v6, 1), Place::Pod(e));
        let answer = |w: &mut World, by: usize, flags| {
            let seen = w.pass(at, pod(v6, e), c, tcp(8080, 5, flags), Place::Wire(by));
            assert_eq!(seen.ends(), (to.0, 80, c, 5));
        };
        let seen = w.pass(Place::Wire(0), c, to.0, tcp(5, 80, SYN), at);
        assert_eq!(seen.ends(), (c, 5, pod(v6, e), 8080), "the client's own address");
        answer(&mut w, 0, SYN | ACK);
        w.pass(Place::Wire(0), c, to.0, tcp(5, 80, ACK), at);
        // The network sends the client by another node.
        w.pass(Place::Wire(1), c, to.0, tcp(5, 80, ACK), at);
        answer(&mut w, 1, ACK);
        // A new connection with the same tuple by a third way is refused while this one lives.
        assert!(w.send(Place::Wire(0), c, to.0, tcp(5, 80, SYN), at).is_empty() || workers == 0);
        assert_eq!(w.sim.drops(DropReason::EntryConflict), 1, "{:?}", w.drops());
        answer(&mut w, 1, ACK);
        assert_eq!(w.sim.conserved(), Ok(()));
    });
}

#[test]
fn nobody_outside_speaks_for_pods_or_the_node_nor_flooded_frames_for_us() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (to, a) = ((node(v6, 0), 30_080), w.pods[0]);
        w.serve(1, &service(Protocol::Udp, &[to], &[(pod(v6, a), 80)]));
        let (wire, at) = (Place::Wire(0), Place::Pod(a));
        for src in [pod(v6, w.pods[1]), pod(v6, w.pods[2]), node(v6, 0)] {
            assert!(w.send(wire, src, to.0, udp(5, to.1), at).is_empty());
        }
        assert_eq!(w.drops(), [("spoofed-from-uplink", 3)]);
        let mut flooded = w.frame(wire, client(v6, 1), to.0, udp(5, to.1), b"");
        flooded.dst_mac = Mac([2, 0, 0, 0, 0xaa, 0x77]);
        w.inject(wire, &flooded.build());
        w.sim.settle();
        assert!(w.take(at).is_empty());
        assert_eq!(w.take(Place::Host(0)).len(), 1, "left to the node's own stack");
        assert_eq!(w.sim.flows(), 0);
    });
}

#[test]
fn the_entry_network_is_for_clients_outside_alone() {
    // Node 1 speaks in the entry network in the name of one of node 0's own pods, of node 0, or of the third node.
    for claimed in ["10.244.1.10", "192.0.2.1", "192.0.2.3", "10.244.3.10"] {
        let mut w = World::with(SimConfig { nodes: 3, ..SimConfig::default() });
        let a = w.pods[0];
        let to = (ip(false, "203.0.113.1", ""), 80);
        w.serve(1, &service(Protocol::Udp, &[to], &[(pod(false, a), 80)]));
        let bytes = w.frame(Place::Wire(1), client(false, 1), to.0, udp(1, 80), b"x").build();
        // Caught on node 1's wire, with another inner source.
        w.sim.nodes[1].config.peers[0].next_hop = Some(Mac([2, 0xff, 0, 0, 0, 1]));
        w.sim.nodes[1].publish();
        w.inject(Place::Wire(1), &bytes);
        w.sim.settle();
        let mut wire = w.sim.take(1, PortId::UPLINK).remove(0).bytes();
        let IpAddr::V4(src) = claimed.parse().expect("an address") else { panic!("IPv4") };
        assert_eq!(wire[46..49], [0, 0x10, 0x93], "VNI + 1");
        wire[76..80].copy_from_slice(&src.octets());
        wire[74..76].fill(0);
        let sum = !podplane_packet::testing::naive_sum(&wire[64..84]);
        wire[74..76].copy_from_slice(&sum.to_be_bytes());
        w.inject(Place::Wire(0), &wire);
        w.sim.settle();
        assert_eq!(w.drops(), [("vxlan-inner-source", 1)], "{claimed}");
    }
}

#[test]
fn icmp_errors_go_both_ways_through_translation() {
    everywhere(|workers, v6| {
        for backend in [0usize, 2] {
            let mut w = World::new(workers);
            let p = w.pods[backend];
            let (at, wire, c) = (Place::Pod(p), Place::Wire(0), client(v6, 1));
            let to = (node(v6, 0), 30_080);
            w.serve(1, &service(Protocol::Udp, &[to, (vip(v6), 80)], &[(pod(v6, p), 53)]));
            let (seen, back) = w.converse(wire, c, to, at, 4000);
            let (unreachable, too_big) =
                if v6 { ((1, 4, [0; 4]), (2, 0, [0, 0, 5, 0])) } else { ((3, 3, [0; 4]), (3, 4, [0, 0, 5, 0])) };
            let error = |(kind, code, rest)| Transport::Icmp { kind, code, rest };
            // A router outside about the answer: the backend must hear of its own packet.
            let quote = &back.bytes[14..];
            let spec = w.frame(wire, client(v6, 99), to.0, error(too_big), quote);
            w.inject(wire, &spec.build());
            w.sim.settle();
            let heard = w.take(at);
            assert_eq!(heard.len(), 1, "{:?}", w.drops());
            quotes(&heard[0], (pod(v6, p), 53, c, 4000));
            assert_eq!((heard[0].src, heard[0].dst), (client(v6, 99), pod(v6, p)));
            // The backend about the question.
            let spec = w.frame(at, pod(v6, p), c, error(unreachable), &seen.bytes[14..]);
            w.inject(at, &spec.build());
            w.sim.settle();
            let heard = w.take(wire);
            assert_eq!(heard.len(), 1, "{:?}", w.drops());
            quotes(&heard[0], (c, 4000, to.0, to.1));
            assert_eq!((heard[0].src, heard[0].dst), (to.0, c), "the frontend complains");
            // A router about what was masqueraded.
            let a = w.pods[1];
            let seen = w.pass(Place::Pod(a), pod(v6, a), server(v6), udp(9, 99), wire);
            let spec = w.frame(wire, client(v6, 98), node(v6, 0), error(too_big), &seen.bytes[14..]);
            w.inject(wire, &spec.build());
            w.sim.settle();
            let heard = w.take(Place::Pod(a));
            assert_eq!(heard.len(), 1, "{:?}", w.drops());
            quotes(&heard[0], (pod(v6, a), 9, server(v6), 99));
            // Ours about a packet to a Service quotes it as it was sent.
            let spec = w.frame(Place::Pod(a), pod(v6, a), vip(v6), udp(9, 80), &[0; 1420]);
            if backend == 2 {
                w.inject(Place::Pod(a), &spec.build());
                w.sim.settle();
                let heard = w.take(Place::Pod(a));
                assert_eq!(heard.len(), 1, "{:?}", w.drops());
                quotes(&heard[0], (pod(v6, a), 9, vip(v6), 80));
            }
            // About nothing that we know: the node's own stack hears it.
            let stray = w.frame(wire, to.0, client(v6, 50), udp(22, 1), b"").build();
            let spec = w.frame(wire, client(v6, 99), to.0, error(too_big), &stray[14..]);
            w.inject(wire, &spec.build());
            w.sim.settle();
            assert_eq!(w.take(Place::Host(0)).len(), 1);
            assert_eq!(w.sim.conserved(), Ok(()));
        }
    });
}

/// Checks which packet an error quotes.
fn quotes(error: &crate::world::Seen, want: (IpAddr, u16, IpAddr, u16)) {
    assert!(matches!(error.parsed.l4, L4::IcmpError { .. }), "{error:?}");
    let quote = error.parsed.embedded(&error.bytes).expect("it quotes a packet");
    let L4::Ports { src, dst } = quote.l4 else { panic!("{quote:?}") };
    assert_eq!((quote.addrs.src().expect("IP"), src, quote.addrs.dst().expect("IP"), dst), want);
}
