//! Which backend a client gets, and who is refused.

use std::collections::HashMap;
use std::net::IpAddr;

use podplane_packet::parse::L4;
use podplane_packet::testing::Transport;
use podplane_pipeline::snapshot::Prefix;
use podplane_pipeline::snapshot::services::{Choice, Protocol};

use crate::world::{Place, RST, SYN, World, client, everywhere, ip, node, pod, service, tcp, udp, vip};

/// Sends from new source ports and tells which pod got each.
fn spread(w: &mut World, from: Place, src: IpAddr, to: (IpAddr, u16), ports: std::ops::Range<u16>) -> Vec<usize> {
    let pods = w.pods.clone();
    let mut got = Vec::new();
    for sport in ports {
        let bytes = w.frame(from, src, to.0, udp(sport, to.1), b"").build();
        w.inject(from, &bytes);
        w.sim.settle();
        let at: Vec<usize> = (0..pods.len()).filter(|i| !w.take(Place::Pod(pods[*i])).is_empty()).collect();
        assert_eq!(at.len(), 1, "port {sport}: {:?}", w.drops());
        got.extend(at);
    }
    got
}

fn all_pods(w: &World, v6: bool, port: u16) -> Vec<(IpAddr, u16)> {
    w.pods.iter().map(|p| (pod(v6, *p), port)).collect()
}

#[test]
fn flows_spread_over_the_backends_and_alike_on_all_nodes() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let to = (ip(v6, "203.0.113.1", "2001:db8:113::1"), 80);
        w.serve(1, &service(Protocol::Udp, &[to], &all_pods(&w, v6, 80)));
        let here = spread(&mut w, Place::Wire(0), client(v6, 1), to, 1000..1200);
        let mut shares: HashMap<usize, u32> = HashMap::new();
        here.iter().for_each(|i| *shares.entry(*i).or_default() += 1);
        assert!(shares.len() == 4 && shares.values().all(|n| (25..=80).contains(n)), "{shares:?}");
        let mut w = World::new(workers);
        w.serve(1, &service(Protocol::Udp, &[to], &all_pods(&w, v6, 80)));
        assert_eq!(spread(&mut w, Place::Wire(1), client(v6, 1), to, 1000..1200), here, "by the other entry node");
    });
}

#[test]
fn a_client_keeps_its_backend_for_as_long_as_it_was_promised() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (one, two) = ((vip(v6), 80), (node(v6, 0), 30_080));
        let mut s = service(Protocol::Udp, &[one, two], &all_pods(&w, v6, 80));
        s.affinity_seconds = Some(10);
        w.serve(1, &s);
        let a = w.pods[0];
        let first = spread(&mut w, Place::Pod(a), pod(v6, a), one, 1000..1020);
        assert!(first.iter().all(|i| *i == first[0]), "{first:?}");
        // By all the Service's addresses, also when the backends change around it.
        let mut fewer = s.clone();
        fewer.sets[0].retain(|b| b.address == pod(v6, w.pods[first[0]]) || b.address == pod(v6, w.pods[3]));
        w.serve(1, &fewer);
        assert_eq!(spread(&mut w, Place::Pod(a), pod(v6, a), two, 1000..1020), [first[0]; 20]);
        // Until the backend leaves.
        let mut without = s.clone();
        without.sets[0].retain(|b| b.address != pod(v6, w.pods[first[0]]));
        w.serve(1, &without);
        let other = spread(&mut w, Place::Pod(a), pod(v6, a), two, 1020..1040);
        assert!(other.iter().all(|i| *i == other[0] && *i != first[0]), "{other:?}");
        // Clients differ.
        let many: Vec<usize> = (1..40).flat_map(|n| spread(&mut w, Place::Wire(0), client(v6, n), two, 5..6)).collect();
        assert!(many.iter().any(|i| *i != many[0]));
    });
}

#[test]
fn who_is_refused_is_told() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (no_endpoints, unused) = ((vip(v6), 80), (vip(v6), 81));
        for (id, protocol) in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().enumerate() {
            w.serve(id as u32, &service(protocol, &[no_endpoints, (node(v6, 0), 30_080)], &[]));
        }
        let a = w.pods[0];
        let places = [
            (Place::Pod(a), pod(v6, a), no_endpoints),
            (Place::Pod(a), pod(v6, a), unused),
            (Place::Host(0), node(v6, 0), unused),
            (Place::Wire(0), client(v6, 1), (node(v6, 0), 30_080)),
            (Place::Wire(0), client(v6, 1), unused),
        ];
        for (place, src, to) in places {
            let reset = w.pass(place, src, to.0, tcp(5, to.1, SYN), place);
            assert_eq!(reset.ends(), (to.0, to.1, src, 5));
            assert!(reset.parsed.tcp_flags.0 & RST != 0);
            for l4 in [udp(5, to.1), Transport::Sctp { sport: 5, dport: to.1 }] {
                let told = w.pass(place, src, to.0, l4, place);
                let want = if v6 { (1, 4) } else { (3, 3) };
                assert!(matches!(told.parsed.l4, L4::IcmpError { kind, code } if (kind, code) == want), "{told:?}");
                assert_eq!(told.dst, src);
            }
        }
        assert_eq!(w.drops(), [("service-refused", 15)]);
        assert_eq!(w.sim.flows(), 0);
    });
}

#[test]
fn nothing_leaks_out_of_the_ranges_of_services() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        w.serve(1, &service(Protocol::Tcp, &[(vip(v6), 80)], &[(pod(v6, w.pods[0]), 80)]));
        let nobody = ip(v6, "10.96.7.7", "fd00:96::77");
        let a = w.pods[0];
        for (place, src) in
            [(Place::Pod(a), pod(v6, a)), (Place::Host(0), node(v6, 0)), (Place::Wire(0), client(v6, 1))]
        {
            assert!(w.send(place, src, nobody, tcp(5, 80, SYN), place).is_empty());
        }
        assert_eq!(w.drops(), [("service-unallocated", 3)]);
        assert!(w.take(Place::Wire(0)).is_empty() && w.take(Place::Host(0)).is_empty());
    });
}

#[test]
fn sources_and_local_only() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let to = (ip(v6, "203.0.113.1", "2001:db8:113::1"), 80);
        let mut s = service(Protocol::Udp, &[to], &[(pod(v6, w.pods[1]), 80)]);
        s.frontends[0].sources = Some(vec![Prefix { addr: client(v6, 0), len: if v6 { 125 } else { 29 } }]);
        w.serve(1, &s);
        let (a, b) = (w.pods[0], Place::Pod(w.pods[1]));
        assert_eq!(w.send(Place::Wire(0), client(v6, 7), to.0, udp(1, 80), b).len(), 1);
        assert!(w.send(Place::Wire(0), client(v6, 8), to.0, udp(1, 80), b).is_empty());
        assert!(w.send(Place::Pod(a), pod(v6, a), to.0, udp(1, 80), b).is_empty(), "pods too");
        assert_eq!(w.drops(), [("service-source", 2)]);
        let mut local = s.clone();
        local.frontends[0].sources = None;
        local.frontends[0].outside = Choice::Drop;
        w.serve(1, &local);
        assert!(w.send(Place::Wire(0), client(v6, 8), to.0, udp(1, 80), b).is_empty());
        assert_eq!(w.send(Place::Pod(a), pod(v6, a), to.0, udp(1, 80), b).len(), 1, "inside has the whole set");
        assert_eq!(w.drops(), [("service-no-local-endpoint", 1), ("service-source", 2)]);
    });
}
