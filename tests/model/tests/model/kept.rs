//! Histories that failed once.

use std::net::{IpAddr, SocketAddr};

use podplane_model::objects::{Cluster, Endpoint, Port, Protocol, Service, Slice};

use crate::history::World;
use crate::random::ranges;
use crate::wire::{ACK, FIN, Place, SYN, node, nodes};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `web`: UDP and TCP port 80 of 10.96.0.1, node port 30080.
fn web() -> Service {
    let port = |name: &str, protocol| Port { name: name.into(), protocol, port: 80, node_port: Some(30_080) };
    Service {
        created: 0,
        kind: "NodePort",
        headless: false,
        label: None,
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![port("b", Protocol::Udp), port("a", Protocol::Tcp)],
        affinity: None,
        internal_local: false,
        external_local: false,
        ingress: Vec::new(),
        ranges: Vec::new(),
        external_ips: Vec::new(),
    }
}

/// A cluster whose Service `web` has these backends, at port 8080.
fn cluster(backends: &[IpAddr]) -> Cluster {
    let endpoint = |address: &IpAddr| Endpoint {
        address: *address,
        node: None,
        ready: None,
        serving: None,
        terminating: None,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
    };
    let slice = Slice {
        service: "web".into(),
        v6: false,
        ports: vec![("b".into(), Protocol::Udp, 8080), ("a".into(), Protocol::Tcp, 8080)],
        endpoints: backends.iter().map(endpoint).collect(),
    };
    Cluster {
        nodes: nodes([None, None]),
        services: [("web".to_owned(), web())].into(),
        slices: [("slice".to_owned(), slice)].into(),
        host_ports: Vec::new(),
        service_cidrs: ranges(false),
        external_ips: false,
    }
}

/// The world with that cluster, with one, two and four workers.
fn everywhere(backends: &[IpAddr], test: impl Fn(&mut World) -> Result<(), String>) {
    for workers in [1, 2, 4] {
        let mut w = World::new(workers, cluster(backends));
        test(&mut w).unwrap_or_else(|e| panic!("{workers} workers: {e}\n{:#?}", w.log));
    }
}

const VIP: &str = "10.96.0.1:80";

fn to(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// It passed to the node's own stack, as what was a frontend elsewhere does.
#[test]
fn a_cluster_ip_that_is_given_up_is_silent_to_the_world_outside() {
    everywhere(&[ip("10.244.1.10")], |w| {
        w.send(Place::Wire(0), 1, to(VIP), Protocol::Udp, 0, 0)?;
        w.truth.services.clear();
        w.follow(0);
        w.send(Place::Wire(0), 1, to(VIP), Protocol::Udp, 0, 0)?;
        w.send(Place::Wire(0), 1, to(VIP), Protocol::Udp, 1, 0)
    });
}

/// The translation was held to be none, for the address stays as it is.
#[test]
fn a_node_port_that_is_gone_no_longer_leads_to_another_port_of_the_node() {
    everywhere(&[node(false, 0)], |w| {
        let dst = SocketAddr::new(node(false, 0), 30_080);
        w.send(Place::Pod(0), 0, dst, Protocol::Udp, 0, 0)?;
        w.truth.services.clear();
        w.follow(0);
        w.send(Place::Pod(0), 0, dst, Protocol::Udp, 0, 0)
    });
}

/// Ports are used again while the connection before is not forgotten.
#[test]
fn a_connection_is_opened_again_toward_its_only_backend() {
    for backend in ["10.244.1.10", "10.244.1.11", "10.244.2.10", "192.0.2.1", "192.0.2.2", "198.51.100.80"] {
        everywhere(&[ip(backend)], |w| {
            for from in [Place::Pod(0), Place::Host(0), Place::Wire(0), Place::Pod(2), Place::Host(1)] {
                let dst = if from.node() == 0 { to(VIP) } else { SocketAddr::new(node(false, 0), 30_080) };
                for flags in [SYN, ACK, FIN | ACK, SYN, ACK] {
                    w.send(from, 1, dst, Protocol::Tcp, 0, flags)?;
                    w.answer(0, ACK)?;
                }
            }
            Ok(())
        });
    }
}
