//! Whose address a backend sees: every row of the table in docs/services.md, there and back.

use podplane_pipeline::snapshot::services::Protocol;

use crate::world::{Place, World, client, everywhere, gateway, ip, node, pod, service, vip};

/// What the source must be.
enum Who {
    Client,
    Gateway(usize),
    /// A node, with a masquerade port.
    Node(usize),
}

#[test]
fn every_row_of_the_table() {
    everywhere(|workers, v6| {
        let w = World::new(workers);
        let p = w.pods.clone();
        let far = ip(v6, "203.0.113.80", "2001:db8:113::80");
        let at = |i: usize| Place::Pod(p[i]);
        let a = |i: usize| pod(v6, p[i]);
        let outside = client(v6, 9);
        // Who asks, by which address, of which frontend; which backend, where that is, and whom it sees.
        let cluster_ip = (vip(v6), 80);
        let node_port = (node(v6, 0), 30_080);
        let rows = [
            ("pod -> pod here", at(0), a(0), cluster_ip, a(1), at(1), Who::Client),
            ("pod -> pod there", at(0), a(0), cluster_ip, a(2), at(2), Who::Client),
            ("pod -> host network here", at(0), a(0), cluster_ip, node(v6, 0), Place::Host(0), Who::Client),
            ("pod -> host network there", at(0), a(0), cluster_ip, node(v6, 1), Place::Host(1), Who::Client),
            ("pod -> endpoint outside", at(0), a(0), cluster_ip, far, Place::Wire(0), Who::Node(0)),
            ("pod -> itself", at(0), a(0), cluster_ip, a(0), at(0), Who::Gateway(0)),
            ("node -> pod here", Place::Host(0), node(v6, 0), cluster_ip, a(0), at(0), Who::Client),
            ("node -> pod there", Place::Host(0), node(v6, 0), cluster_ip, a(2), at(2), Who::Client),
            ("node -> its own node port", Place::Host(0), node(v6, 0), node_port, a(2), at(2), Who::Client),
            (
                "node -> its own network",
                Place::Host(0),
                node(v6, 0),
                cluster_ip,
                node(v6, 0),
                Place::Host(0),
                Who::Gateway(0),
            ),
            (
                "node -> host network there",
                Place::Host(0),
                node(v6, 0),
                cluster_ip,
                node(v6, 1),
                Place::Host(1),
                Who::Node(0),
            ),
            ("node -> endpoint outside", Place::Host(0), node(v6, 0), cluster_ip, far, Place::Wire(0), Who::Node(0)),
            ("outside -> pod here", Place::Wire(0), outside, node_port, a(0), at(0), Who::Client),
            ("outside -> pod there", Place::Wire(0), outside, node_port, a(2), at(2), Who::Client),
            (
                "outside -> host network here",
                Place::Wire(0),
                outside,
                node_port,
                node(v6, 0),
                Place::Host(0),
                Who::Client,
            ),
            (
                "outside -> host network there",
                Place::Wire(0),
                outside,
                node_port,
                node(v6, 1),
                Place::Host(1),
                Who::Node(0),
            ),
            ("outside -> endpoint outside", Place::Wire(0), outside, node_port, far, Place::Wire(0), Who::Node(0)),
            ("pod there -> node port -> pod there", at(2), a(2), node_port, a(3), at(3), Who::Node(0)),
            ("pod there -> node port -> pod here", at(2), a(2), node_port, a(0), at(0), Who::Client),
        ];
        for (name, from, src, to, backend, there, who) in rows {
            let mut w = World::new(workers);
            w.serve(1, &service(Protocol::Udp, &[cluster_ip], &[(backend, 8080)]));
            w.serve_at(0, 2, &service(Protocol::Udp, &[node_port], &[(backend, 8080)]));
            let (seen, back) = w.converse(from, src, to, there, 4000);
            let name = format!("{name}, {workers} workers, v6: {v6}");
            assert_eq!((seen.dst, seen.dport), (backend, 8080), "{name}");
            match who {
                Who::Client => assert_eq!((seen.src, seen.sport), (src, 4000), "{name}"),
                Who::Gateway(n) => assert_eq!((seen.src, seen.sport), (gateway(v6, n), 4000), "{name}"),
                Who::Node(n) => {
                    assert_eq!(seen.src, node(v6, n), "{name}");
                    assert!((50_000..51_000).contains(&seen.sport), "{name}: {}", seen.sport);
                }
            }
            assert_eq!(back.ends(), (to.0, to.1, src, 4000), "{name}: the answer");
            // The second packet takes the flow's entry and nothing else.
            let again = w.pass(from, src, to.0, crate::world::udp(4000, to.1), there);
            assert_eq!(again.ends(), seen.ends(), "{name}: again");
            let hits: u64 =
                w.sim.nodes.iter().flat_map(|n| n.snapshot.frontends().collect::<Vec<_>>()).map(|f| f.hits).sum();
            assert_eq!(hits, 1, "{name}: one flow");
        }
    });
}

#[test]
fn a_node_that_is_a_client_of_another_nodes_node_port() {
    everywhere(|workers, v6| {
        for backend in [1usize, 2, 3] {
            let mut w = World::new(workers);
            let p = w.pods[backend];
            w.serve(1, &service(Protocol::Udp, &[(node(v6, 0), 30_080)], &[(pod(v6, p), 53)]));
            // Node 1 sends plain to node 0, as its kernel does.
            let seen = w.pass(Place::Wire(0), node(v6, 1), node(v6, 0), crate::world::udp(999, 30_080), Place::Pod(p));
            let own = p.node == 0;
            assert_eq!(
                seen.src,
                if own { node(v6, 1) } else { node(v6, 0) },
                "node 1 would be answered by another way"
            );
            // The answer goes plain from node 0 to node 1, whose stack gets it as it came.
            let back = w.pass_answer(Place::Pod(p), &seen, Place::Host(1));
            assert_eq!(back.ends(), (node(v6, 0), 30_080, node(v6, 1), 999));
        }
    });
}

#[test]
fn a_host_port_of_the_loopback_address() {
    for workers in [1, 2, 4] {
        let mut w = World::new(workers);
        let (local, p) = (ip(false, "127.0.0.1", ""), w.pods[1]);
        w.serve(1, &service(Protocol::Udp, &[(local, 8080)], &[(pod(false, p), 80)]));
        let (seen, back) = w.converse(Place::Host(0), local, (local, 8080), Place::Pod(p), 77);
        assert_eq!((seen.src, seen.sport), (gateway(false, 0), 77));
        assert_eq!(back.ends(), (local, 8080, local, 77));
        // Nobody else may speak of 127.0.0.1.
        assert!(w.send(Place::Pod(p), pod(false, p), local, crate::world::udp(1, 8080), Place::Pod(p)).is_empty());
        assert_eq!(w.drops(), [("martian", 1)]);
    }
}

#[test]
fn what_the_node_says_to_itself_comes_back() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let seen = w.pass(Place::Host(0), node(v6, 0), node(v6, 0), crate::world::udp(1, 30_999), Place::Host(0));
        assert_eq!(seen.ends(), (node(v6, 0), 1, node(v6, 0), 30_999));
        assert_eq!(seen.parsed.ttl, 64, "no hop was taken");
        assert_eq!(w.sim.flows(), 0);
    });
}
