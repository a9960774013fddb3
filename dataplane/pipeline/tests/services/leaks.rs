//! What must not get through, whoever tries: neighbours that change under a flow, and addresses that mean this node.

use std::net::IpAddr;

use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::testing::{Ip, Transport, VecBuf};
use podplane_pipeline::sim::SimConfig;
use podplane_pipeline::snapshot::services::Protocol;

use crate::world::{ACK, Place, SYN, World, client, everywhere, ip, node, pod, service, tcp, udp};

/// Hosts on the uplinks' network.
fn near(v6: bool, n: u8) -> (IpAddr, Mac) {
    let address = if v6 { format!("2001:db8::{:x}", 0x60 + n) } else { format!("192.0.2.{}", 96 + n) };
    (address.parse().expect("an address"), Mac([2, 0, 0, 0, 0xcc, n]))
}

/// Puts a neighbour at an index of a node's table; `None` empties it.
fn neighbour(w: &mut World, at: usize, who: Option<(IpAddr, Mac)>) {
    let node = &mut w.sim.nodes[0];
    let table = &mut node.config.outside.neighbours;
    let free = (ip(false, "0.0.0.0", ""), None);
    if table.len() <= at {
        table.resize(at + 1, free);
    }
    table[at] = who.map_or(free, |(address, mac)| (address, Some(mac)));
    node.publish();
}

#[test]
fn a_flow_to_a_neighbour_that_was_forgotten_goes_to_it_or_nowhere() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (a, host, other) = (w.pods[0], near(v6, 1), near(v6, 2));
        let at = w.sim.nodes[0].config.outside.neighbours.len();
        neighbour(&mut w, at, Some(host));
        let syn = w.pass(Place::Pod(a), pod(v6, a), host.0, tcp(9, 80, SYN), Place::Wire(0));
        assert_eq!(syn.bytes[..6], host.1.0);
        // It does not answer for a while, and its index is another's then.
        neighbour(&mut w, at, None);
        neighbour(&mut w, at, Some(other));
        let lost = w.send(Place::Pod(a), pod(v6, a), host.0, tcp(9, 80, ACK), Place::Wire(0));
        assert!(lost.iter().all(|p| p.bytes[..6] != other.1.0), "sent to another host");
        assert!(lost.is_empty(), "{lost:?}");
        assert!(w.sim.nodes[0].asked.contains(&host.0), "nobody asks for it");
        // It is back, and the connection goes on with the packet that waited.
        neighbour(&mut w, at + 1, Some(host));
        w.sim.settle();
        let freed = w.take(Place::Wire(0));
        assert_eq!(freed.len(), 1, "{:?}", w.drops());
        let ack = w.pass(Place::Pod(a), pod(v6, a), host.0, tcp(9, 80, ACK), Place::Wire(0));
        for seen in [&freed[0], &ack] {
            assert_eq!((&seen.bytes[..6], seen.ends()), (&host.1.0[..], syn.ends()));
        }
        let answer = w.pass(Place::Wire(0), host.0, syn.src, tcp(80, syn.sport, ACK), Place::Pod(a));
        assert_eq!(answer.ends(), (host.0, 80, pod(v6, a), 9));
        assert_eq!(w.sim.conserved(), Ok(()));
    });
}

#[test]
fn a_pod_that_scans_the_network_keeps_nobody_waiting() {
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let (a, b) = (w.pods[0], w.pods[1]);
        let host = |n: u32| -> IpAddr {
            if v6 { format!("2001:db8::1:{n:x}") } else { format!("192.0.2.{}", n % 90 + 150) }
                .parse()
                .expect("an address")
        };
        for n in 0..2000 {
            w.send(Place::Pod(a), pod(v6, a), host(n % 90), udp(n as u16, 53), Place::Wire(0));
        }
        assert!(w.sim.nodes[0].asked.len() <= 32, "{} questions for control", w.sim.nodes[0].asked.len());
        let wanted = near(v6, 3).0;
        w.send(Place::Pod(b), pod(v6, b), wanted, udp(1, 53), Place::Wire(0));
        assert!(w.sim.nodes[0].asked.contains(&wanted), "{:?}", w.drops());
        let at = w.sim.nodes[0].config.outside.neighbours.len();
        neighbour(&mut w, at, Some(near(v6, 3)));
        w.sim.settle();
        assert_eq!(w.take(Place::Wire(0)).len(), 1, "{:?}", w.drops());
        w.sim.advance(2000);
        assert!(w.drops().iter().all(|(name, _)| name.starts_with("neighbour-")), "{:?}", w.drops());
        assert_eq!(w.sim.conserved(), Ok(()));
    });
}

#[test]
fn a_flood_from_outside_leaves_pods_their_reserve() {
    everywhere(|workers, v6| {
        for backend in ["pod", "host"] {
            let mut w = World::with(SimConfig { workers, flow_capacity: 256, port_quota: 64, ..SimConfig::default() });
            let (a, b, far) = (w.pods[0], w.pods[1], w.pods[2]);
            let (to, own) = ((node(v6, 0), 30_080), node(v6, 0));
            let behind = if backend == "pod" { pod(v6, far) } else { own };
            w.serve_at(0, 1, &service(Protocol::Tcp, &[to], &[(behind, 80)]));
            for n in 0..4000u32 {
                let (client, port) = (client(v6, (n % 200) as u8 + 1), 1000 + (n / 200) as u16);
                let bytes = w.frame(Place::Wire(0), client, to.0, tcp(port, to.1, SYN), b"").build();
                w.inject(Place::Wire(0), &bytes);
                w.sim.settle();
            }
            let full = w.drops();
            assert!(full.iter().any(|(name, _)| name.starts_with("flow-")), "{backend}: no flood: {full:?}");
            w.pass(Place::Pod(a), pod(v6, a), pod(v6, b), tcp(5, 80, SYN), Place::Pod(b));
        }
    });
}

#[test]
fn nobody_on_the_wire_speaks_to_or_as_this_node_itself() {
    // The host port has route_localnet and accept_local, so the node's own stack would believe it.
    for workers in [1, 2] {
        for configured in [true, false] {
            let mut w = World::new(workers);
            if !configured {
                w.sim.nodes[0].config.local = None;
                w.sim.nodes[0].config.peers.clear();
                w.sim.nodes[0].config.ports.truncate(2);
                w.sim.nodes[0].publish();
            }
            let (local, c) = (ip(false, "127.0.0.1", ""), client(false, 1));
            let got = w.send(Place::Wire(0), c, local, tcp(9, 10_248, SYN), Place::Host(0));
            assert!(got.is_empty(), "to the loopback address: {got:?}");
            let got = w.send(Place::Wire(0), local, node(false, 0), tcp(9, 10_248, SYN), Place::Host(0));
            assert!(got.is_empty(), "from the loopback address: {got:?}");
            assert_eq!(w.drops(), [("martian", 2)]);
        }
    }
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let a = w.pods[0];
        for (to, at) in [(node(v6, 0), Place::Host(0)), (pod(v6, a), Place::Host(0))] {
            let got = w.send(Place::Wire(0), node(v6, 0), to, tcp(9, 22, SYN), at);
            assert!(got.is_empty(), "from the node's own address: {got:?}");
        }
        assert_eq!(w.drops(), [("spoofed-from-uplink", 2)]);
    });
}

#[test]
fn a_service_sends_no_vxlan_to_nodes() {
    // Its payload would be what the client wants another node to believe of this one.
    everywhere(|workers, v6| {
        let mut w = World::new(workers);
        let peer = (node(v6, 1), 4789);
        let other = w.pods[2];
        let to = (node(v6, 0), 30_080);
        w.serve_at(0, 1, &service(Protocol::Udp, &[to], &[peer]));
        let got = w.send(Place::Wire(0), client(v6, 1), to.0, udp(9, to.1), Place::Host(1));
        let by_host = w.send(Place::Host(0), node(v6, 0), to.0, udp(9, to.1), Place::Host(1));
        let by_peer = w.send(Place::Pod(other), pod(v6, other), to.0, udp(9, to.1), Place::Host(1));
        // The underlay is IPv4: to the peer's other addresses it is UDP as any.
        if v6 {
            assert_eq!((got.len() + by_host.len() + by_peer.len(), w.drops()), (3, vec![]));
        } else {
            assert_eq!(w.drops(), [("vxlan-from-host", 3)], "dropped where it starts");
        }
    });
}

#[test]
fn fragments_of_the_nodes_own_link_pass() {
    // OSPFv3, DHCPv6 and their like speak link-local, in fragments too.
    for workers in [1, 2] {
        let mut w = World::new(workers);
        w.serve(1, &service(Protocol::Udp, &[(node(true, 0), 30_053)], &[(node(true, 0), 53)]));
        let (own, next) = (ip(true, "", "fe80::a"), ip(true, "", "fe80::b"));
        let mut spec = w.frame(Place::Host(0), own, next, Transport::Udp { sport: 9, dport: 9 }, &[7; 64]);
        spec.dst_mac = crate::world::ROUTER;
        assert!(matches!(spec.ip, Ip::V6 { .. }));
        let whole = spec.build();
        // The first and only other piece: next header 44, offset and more.
        let piece = |field: u16, bytes: &[u8]| {
            let header = [&[whole[20], 0], &field.to_be_bytes()[..], &[0, 0, 0, 77]].concat();
            let mut b = [&whole[..54], &header, bytes].concat();
            b[18..20].copy_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
            b[20] = 44;
            b
        };
        for bytes in [piece(1, &whole[54..86]), piece(32, &whole[86..])] {
            w.sim.inject(0, PortId::HOST, WorkerId(0), VecBuf::new(&bytes));
        }
        w.sim.settle();
        assert_eq!((w.sim.take(0, PortId::UPLINK).len(), w.drops()), (2, vec![]));
    }
}
