//! What becomes of flows when Services change, and of equal tuples.

use podplane_pipeline::sim::{SimConfig, SimPod};
use podplane_pipeline::snapshot::services::{Masquerade, Protocol};
use podplane_pipeline::{Arrives, DropReason};

use crate::world::{ACK, FIN, Place, SYN, Seen, World, client, everywhere, ip, node, pod, service, tcp, udp, vip};

/// Sends a TCP segment and tells at which of two pods it came out.
fn lands(
    w: &mut World,
    from: Place,
    src: std::net::IpAddr,
    to: (std::net::IpAddr, u16),
    l4: podplane_packet::testing::Transport,
    at: [SimPod; 2],
) -> Option<usize> {
    let bytes = w.frame(from, src, to.0, l4, b"").build();
    w.inject(from, &bytes);
    w.sim.settle();
    let got = at.map(|p| w.take(Place::Pod(p)).len());
    assert!(got[0] + got[1] <= 1);
    got.iter().position(|n| *n == 1)
}

#[test]
fn tcp_keeps_its_backend_and_udp_is_chosen_anew() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let p = w.pods.clone();
        let at = [p[1], p[2]];
        let backend = |i: usize| (pod(v6, at[i]), 80);
        let tos = [(vip(v6), 80), (node(v6, 0), 30_080)];
        let set = |w: &mut World, backends: &[usize]| {
            let backends: Vec<_> = backends.iter().map(|i| backend(*i)).collect();
            w.serve(1, &service(Protocol::Tcp, &tos, &backends));
            w.serve(2, &service(Protocol::Udp, &tos, &backends));
        };
        let froms = [
            (Place::Pod(p[0]), pod(v6, p[0]), tos[0]),
            (Place::Host(0), node(v6, 0), tos[0]),
            (Place::Wire(0), client(v6, 1), tos[1]),
        ];
        set(&mut w, &[0, 1]);
        let mut before = Vec::new();
        for (from, src, to) in froms {
            for port in 1..9 {
                let t = lands(&mut w, from, src, to, tcp(port, to.1, SYN), at);
                let u = lands(&mut w, from, src, to, udp(port, to.1), at);
                before.push((t.expect("served"), u.expect("served")));
            }
        }
        set(&mut w, &[1]);
        let mut was = before.iter();
        for (from, src, to) in froms {
            for port in 1..9 {
                let (t, u) = was.next().expect("as many");
                assert_eq!(lands(&mut w, from, src, to, tcp(port, to.1, ACK), at), Some(*t), "TCP keeps its backend");
                assert_eq!(lands(&mut w, from, src, to, udp(port, to.1), at), Some(1), "UDP moved, or stayed ({u})");
            }
        }
        // The Service goes: what is open goes on.
        w.withdraw(1);
        w.withdraw(2);
        let mut was = before.iter();
        for (from, src, to) in froms {
            for port in 1..9 {
                let (t, _) = was.next().expect("as many");
                assert_eq!(
                    lands(&mut w, from, src, to, tcp(port, to.1, ACK), at),
                    Some(*t),
                    "TCP outlives its Service"
                );
                assert_eq!(lands(&mut w, from, src, to, udp(port, to.1), at), None);
            }
        }
        // No answer of a backend that left goes untranslated: there were none, so all is as if nothing had been.
        assert_eq!(w.sim.conserved(), Ok(()));
        w.sim.advance(700_000);
        w.sim.advance(60_000);
        assert_eq!(w.sim.flows(), 0);
    });
}

#[test]
fn a_closed_connection_is_not_opened_again_toward_its_old_backend() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let p = w.pods.clone();
        let at = [p[1], p[2]];
        let (from, src, to) = (Place::Pod(p[0]), pod(v6, p[0]), (vip(v6), 80));
        w.serve(1, &service(Protocol::Tcp, &[to], &[(pod(v6, at[0]), 80)]));
        for flags in [SYN, ACK, FIN | ACK] {
            assert_eq!(lands(&mut w, from, src, to, tcp(5, 80, flags), at), Some(0));
        }
        w.serve(1, &service(Protocol::Tcp, &[to], &[(pod(v6, at[1]), 80)]));
        assert_eq!(lands(&mut w, from, src, to, tcp(5, 80, ACK), at), Some(0), "the last acknowledgement");
        assert_eq!(lands(&mut w, from, src, to, tcp(5, 80, SYN), at), Some(1), "another connection");
    });
}

#[test]
fn a_first_endpoint_and_a_new_frontend_are_seen() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let p = w.pods.clone();
        let (from, src) = (Place::Pod(p[0]), pod(v6, p[0]));
        let to = (node(v6, 1), 30_053);
        // To a node, plainly; then the port becomes a node port of all nodes.
        let seen = w.pass(from, src, to.0, udp(9, to.1), Place::Host(1));
        assert_eq!(seen.ends(), (src, 9, to.0, to.1));
        w.serve(1, &service(Protocol::Udp, &[to], &[]));
        let told = w.pass(from, src, to.0, udp(9, to.1), from);
        assert_eq!(told.dst, src, "nobody there");
        w.serve(1, &service(Protocol::Udp, &[to], &[(pod(v6, p[1]), 53)]));
        let seen = w.pass(from, src, to.0, udp(9, to.1), Place::Pod(p[1]));
        assert_eq!(seen.ends(), (src, 9, pod(v6, p[1]), 53));
    });
}

#[test]
fn one_endpoints_change_leaves_the_others_flows_alone() {
    let mut w = World::new(2);
    let p = w.pods.clone();
    let backends: Vec<_> = (0..4).map(|i| (pod(false, p[i]), 80)).collect();
    let to = (vip(false), 80);
    w.serve(1, &service(Protocol::Udp, &[to], &backends));
    let from = Place::Pod(p[0]);
    let land = |w: &mut World, port| {
        let bytes = w.frame(from, pod(false, p[0]), to.0, udp(port, 80), b"").build();
        w.inject(from, &bytes);
        w.sim.settle();
        (0..4).position(|i| !w.take(Place::Pod(p[i])).is_empty()).expect("served")
    };
    let before: Vec<usize> = (100..164).map(|port| land(&mut w, port)).collect();
    w.serve(1, &service(Protocol::Udp, &[to], &backends[..3]));
    let after: Vec<usize> = (100..164).map(|port| land(&mut w, port)).collect();
    for (b, a) in before.iter().zip(&after) {
        assert!(a == b || *b == 3, "{b} -> {a}");
        assert_ne!(*a, 3);
    }
}

#[test]
fn equal_reply_tuples_get_another_source_port() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let p = w.pods.clone();
        let (from, src, backend) = (Place::Pod(p[0]), pod(v6, p[0]), Place::Pod(p[1]));
        let b = (pod(v6, p[1]), 80);
        let tos = [(vip(v6), 80), (node(v6, 0), 30_080)];
        w.serve(1, &service(Protocol::Udp, &tos, &[b]));
        let first = w.pass(from, src, b.0, udp(4000, 80), backend);
        assert_eq!(first.ends(), (src, 4000, b.0, 80), "directly");
        let mut seen: Vec<Seen> = vec![first];
        for to in tos {
            // Where another worker owns the answers, it refuses, and the next packet tries another port.
            let _ = w.send(from, src, to.0, udp(4000, to.1), backend);
            let second = w.pass(from, src, to.0, udp(4000, to.1), backend);
            assert_eq!((second.src, second.dst, second.dport), (src, b.0, 80));
            assert!(seen.iter().all(|s| s.sport != second.sport), "{} again", second.sport);
            let back = w.pass_answer(backend, &second, from);
            assert_eq!(back.ends(), (to.0, to.1, src, 4000));
            seen.push(second);
        }
        let back = w.pass_answer(backend, &seen[0], from);
        assert_eq!(back.ends(), (b.0, 80, src, 4000));
    });
}

#[test]
fn a_full_table_keeps_what_is_established() {
    for workers in [1, 2, 4] {
        let mut w = World::with(SimConfig { workers, flow_capacity: 64, ..SimConfig::default() });
        let p = w.pods.clone();
        let to = (node(false, 0), 30_080);
        w.serve(1, &service(Protocol::Udp, &[to], &[(pod(false, p[0]), 80)]));
        let at = Place::Pod(p[0]);
        assert_eq!(w.send(Place::Wire(0), client(false, 1), to.0, udp(1, to.1), at).len(), 1);
        for port in 2..600 {
            let _ = w.send(Place::Wire(0), client(false, (port % 250) as u8), to.0, udp(port, to.1), at);
        }
        let refusals = [DropReason::FlowTableFull, DropReason::FlowRefused, DropReason::FlowQuota];
        let full: u64 = refusals.into_iter().map(|r| w.sim.drops(r)).sum();
        assert!(full > 0, "{:?}", w.drops());
        assert_eq!(w.send(Place::Wire(0), client(false, 1), to.0, udp(1, to.1), at).len(), 1, "goes on");
        assert_eq!(w.sim.conserved(), Ok(()));
    }
}

#[test]
fn flows_are_listed_with_both_directions() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let p = w.pods.clone();
        let to = (node(v6, 0), 30_080);
        w.serve(1, &service(Protocol::Udp, &[to], &[(pod(v6, p[2]), 80)]));
        for port in 0..50 {
            let (seen, _) = w.converse(Place::Wire(0), client(v6, 3), to, Place::Pod(p[2]), 1000 + port);
            assert_eq!(seen.src, client(v6, 3));
        }
        w.sim.now += 5000;
        for n in [0, 1] {
            let all = w.sim.dump(n);
            let opening: Vec<_> = all.iter().filter(|f| f.opens).collect();
            assert_eq!((all.len(), opening.len()), (100, 50), "node {n}");
            for flow in opening {
                let reply = all.iter().find(|f| !f.opens && f.creator == Some(flow.id)).expect("the other direction");
                assert_eq!(reply.tuple, flow.leaves.reversed());
                assert_eq!(reply.leaves, flow.tuple.reversed());
                assert_eq!((flow.idle, flow.arrives), (5000, if n == 0 { Arrives::Plain } else { Arrives::Entry }));
            }
        }
    });
}

#[test]
fn a_masquerade_port_or_address_that_is_given_up_ends_its_flows() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let a = w.pods[0];
        let (to, from) = (client(v6, 1), Place::Pod(a));
        let masquerade = |w: &mut World, change: &dyn Fn(&mut Masquerade)| {
            for node in &mut w.sim.nodes {
                change(node.config.local.as_mut().and_then(|l| l.masquerade.as_mut()).expect("a masquerade"));
                node.publish();
            }
        };
        let (t, u) = (tcp(9, 80, ACK), udp(9, 53));
        let before = [t.clone(), u.clone()].map(|l4| w.pass(from, pod(v6, a), to, l4, Place::Wire(0)));
        masquerade(&mut w, &|m| m.ports = (50_000, 60_000));
        let same = [t.clone(), u.clone()].map(|l4| w.pass(from, pod(v6, a), to, l4, Place::Wire(0)));
        assert_eq!(same.map(|p| p.ends()), before.map(|p| p.ends()), "its port is still one of ours");
        masquerade(&mut w, &|m| m.ports = (40_000, 41_000));
        for (l4, port) in [(t.clone(), 80), (u.clone(), 53)] {
            let after = w.pass(from, pod(v6, a), to, l4, Place::Wire(0));
            assert!((40_000..=41_000).contains(&after.sport), "{after:?}: its answers would not come to us");
            let answer = w.pass(Place::Wire(0), to, after.src, answer_of(&after, port), from);
            assert_eq!((answer.dst, answer.dport), (pod(v6, a), 9));
        }
        let other = ip(v6, "192.0.2.201", "2001:db8::c9");
        for node in &mut w.sim.nodes[..1] {
            node.config.local.as_mut().expect("configured").addresses.push(other);
        }
        w.sim.nodes[0].config.local.as_mut().and_then(|l| l.masquerade.as_mut()).expect("a masquerade").addresses =
            vec![other];
        w.sim.nodes[0].publish();
        assert_eq!(w.pass(from, pod(v6, a), to, t, Place::Wire(0)).src, other);
    });
}

/// The answer to a packet as it was seen outside, from port `port` there.
fn answer_of(seen: &Seen, port: u16) -> podplane_packet::testing::Transport {
    if port == 80 { tcp(port, seen.sport, ACK) } else { udp(port, seen.sport) }
}

#[test]
fn answers_to_a_flow_that_another_worker_refused_are_not_passed_on_untranslated() {
    for v6 in [false, true] {
        let config = SimConfig { workers: 2, flow_capacity: 256, port_quota: 1000, ..SimConfig::default() };
        let mut w = World::with(config);
        let a = w.pods[0];
        // Two pods whose home is not a's.
        let more: Vec<SimPod> = (0..4).map(|_| w.sim.add_pod(0)).collect();
        w.sim.nodes[0].publish();
        let home =
            |w: &World, p: SimPod| w.sim.nodes[0].config.ports.iter().find(|(id, _)| *id == p.port).map(|e| e.1.home);
        let away: Vec<SimPod> = more.into_iter().filter(|p| home(&w, *p) != home(&w, a)).collect();
        let (b, filler) = (away[0], away[1]);
        w.serve(1, &service(Protocol::Udp, &[(vip(v6), 53)], &[(pod(v6, b), 5353)]));
        // More than a's sure share of the other worker's table, and then so many others that there are few places left.
        for port in 1..=40 {
            w.pass(Place::Pod(a), pod(v6, a), pod(v6, b), udp(port, 9), Place::Pod(b));
        }
        for port in 1..=200 {
            w.send(Place::Pod(filler), pod(v6, filler), client(v6, 1), udp(port, 9), Place::Wire(0));
        }
        assert!(w.drops().iter().any(|(name, _)| *name == "flow-quota"), "{:?}", w.drops());
        w.pass(Place::Pod(a), pod(v6, a), pod(v6, b), udp(41, 9), Place::Pod(b));
        let seen = w.pass(Place::Pod(a), pod(v6, a), vip(v6), udp(7777, 53), Place::Pod(b));
        assert_eq!(seen.ends(), (pod(v6, a), 7777, pod(v6, b), 5353));
        let before = w.sim.flows();
        let got = w.send(Place::Pod(b), pod(v6, b), pod(v6, a), udp(5353, 7777), Place::Pod(a));
        assert!(got.is_empty(), "untranslated: {got:?}");
        assert!(w.drops().contains(&("flow-refused", 1)), "{:?}", w.drops());
        assert_eq!(w.sim.flows(), before);
        // Once it is forgotten, and there is room, the same client is served.
        w.sim.advance(240_000);
        let seen = w.pass(Place::Pod(a), pod(v6, a), vip(v6), udp(7777, 53), Place::Pod(b));
        let answer = w.pass(Place::Pod(b), seen.dst, seen.src, udp(5353, 7777), Place::Pod(a));
        assert_eq!(answer.ends(), (vip(v6), 53, pod(v6, a), 7777));
        assert_eq!(w.sim.conserved(), Ok(()));
    }
}
