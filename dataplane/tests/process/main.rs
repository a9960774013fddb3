//! The dataplane's process, started as it is on a node: in a network namespace of its own, with a neighbour on its
//! uplink, pods, and a test that plays the agent. Needs root, no hugepages.
#![allow(missing_docs)]

mod backlog;
mod node;
mod policies;
mod restart;
mod uplink;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use node::{Agent, Node};
use podplane_config::introspect::{Drop as Dropped, Metrics, Port, PortKind as Kind, Question, Status, Traffic};
use podplane_config::trouble::StartTrouble;
use podplane_config::v1::{Endpoint, FromDataplane, Key, LocalNode, Object, Peer, PortKind};

#[test]
fn everything_passes_at_l2_and_is_given_back() {
    let mut node = Node::new("l2");
    let before = (node.addresses("eth0"), node.routes());
    node.start(&["--workers", "3"]);
    assert!(node.addresses("eth0").is_empty(), "the uplink has no addresses");
    assert_eq!(node.addresses("podplane0"), before.0);
    assert!(node.neighbour_pings("10.9.0.1") && node.neighbour_pings("fd00:9::1"));
    let status: Status = node.ask(Question::Status);
    assert_eq!((status.workers.len(), status.node, status.agent.connected), (3, None, false));
    let ports: Vec<Port> = node.ask(Question::Ports);
    assert!(ports.iter().all(|port| port.rx_packets > 0 && port.tx_packets > 0), "{ports:?}");
    assert!(node.try_ask_raw(r#"{"get":"secrets"}"#).unwrap_err().contains("no such question"));

    node.stop();
    assert_eq!((node.addresses("eth0"), node.routes()), before);
    assert!(!node.ok("ip link show podplane0"), "the host port is gone");
    assert!(node.neighbour_pings("10.9.0.1"));
}

#[test]
fn a_killed_dataplane_is_followed_by_one_that_adopts_and_restores() {
    let mut node = Node::new("kill");
    let before = (node.addresses("eth0"), node.routes());
    node.start(&[]);
    node.kill();
    assert!(node.addresses("eth0").is_empty(), "nobody has given it back yet");
    node.start(&[]);
    assert!(node.neighbour_pings("10.9.0.1"));
    node.stop();
    assert_eq!((node.addresses("eth0"), node.routes()), before);
}

#[test]
fn errors_at_the_start_name_the_cure_and_leave_nothing_behind() {
    let mut node = Node::new("error");
    let before = (node.addresses("eth0"), node.routes());
    for (options, cause) in [
        (&["--uplink", "iface:eth7"][..], "there is no interface eth7"),
        (&["--uplink", "ethdev:net_nonsense0"], "net_nonsense0"),
        (&["--uplink", "iface:eth0", "--mtu", "9000"], "raise the device's MTU"),
        (&["--uplink", "iface:eth0", "--lcores", "1023"], "cannot be bound to CPU 1023"),
        (&["--uplink", "iface:eth0", "--host-address", "10.0.0.1/8"], "brings its own addresses"),
    ] {
        let log = node.fails(options);
        assert!(log.contains(cause), "{options:?}: {log}");
        assert_eq!((node.addresses("eth0"), node.routes()), before, "{options:?}");
    }
    node.start(&[]);
    assert!(node.fails(&["--uplink", "iface:eth0"]).contains("is the dataplane of this network namespace already"));
    assert!(node.neighbour_pings("10.9.0.1"), "the first goes on");
}

/// Whoever starts it sees one process that goes on, and the agent finds out why it does not forward.
#[test]
fn a_start_that_fails_is_tried_again_by_the_same_process() {
    let mut node = Node::new("retry");
    let run_dir = node.socket().parent().unwrap().to_owned();
    // The interface comes after the first attempts.
    node.sh("(sleep 4; ip link set eth0 down; ip link set eth0 name eth7; ip link set eth7 up) >/dev/null 2>&1 &");
    let seen = std::thread::spawn({
        let run_dir = run_dir.clone();
        move || {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                if let Some(trouble) = StartTrouble::read(&run_dir) {
                    return trouble;
                }
                assert!(Instant::now() < deadline, "no word of the trouble");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    node.start_on("iface:eth7", &["--retry-start", "1"]);
    let trouble = seen.join().unwrap();
    assert!(trouble.message.contains("there is no interface eth7"), "{trouble:?}");
    assert_eq!(StartTrouble::read(&run_dir), None, "it forwards, and takes its word back");
    node.stop();
}

fn local() -> Object {
    Object::Local(LocalNode {
        name: "node1".into(),
        vtep: "10.9.0.1".parse().unwrap(),
        addresses: vec!["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:244:1::/64".parse().unwrap()],
        vni: 77,
        pod_mtu: 1450,
        service_cidrs: Vec::new(),
        no_masquerade: Vec::new(),
        masquerade: None,
        cluster_seed: [1, 2],
    })
}

fn endpoint(i: u8, mac: [u8; 6]) -> Object {
    Object::Endpoint(Endpoint {
        id: format!("container{i}/eth0"),
        pod: format!("default/pod{i}"),
        port: PortKind::Veth { host_ifname: format!("pp{i:012x}") },
        mac,
        addresses: vec![format!("10.244.1.{i}").parse().unwrap(), format!("fd00:244:1::{i}").parse().unwrap()],
        host_ports: Vec::new(),
        policy: Default::default(),
    })
}

#[test]
fn an_agent_brings_pods_and_its_death_changes_nothing() {
    let mut node = Node::new("agent");
    let (mac2, mac3) = (node.add_pod(2), node.add_pod(3));
    node.start(&["--workers", "4"]);
    let mut agent = Agent::connect(&node);
    assert!(matches!(agent.commit(1, false, vec![local()]), FromDataplane::Refused { generation: 1, .. }));
    let all = vec![local(), endpoint(2, mac2), endpoint(3, mac3), endpoint(4, [2, 0, 0, 0, 0, 4])];
    let FromDataplane::Applied { generation: 2, failed } = agent.commit(2, true, all) else { panic!("refused") };
    assert_eq!(failed.len(), 1, "pod 4 has no device");
    assert_eq!(failed[0].id, "container4/eth0");
    assert!(failed[0].reason.contains("does not exist"), "{}", failed[0].reason);
    for to in ["10.244.1.3", "fd00:244:1::3", "169.254.1.1", "10.244.1.1"] {
        assert!(node.pod_pings(2, to), "{to}: {:?}", node.ask::<Vec<Dropped>>(Question::Drops));
    }
    // The device appears later, as when the plugin is slower than the agent.
    let mac4 = node.add_pod(4);
    assert_eq!(agent.answer(2), FromDataplane::Applied { generation: 2, failed: vec![] }, "it is told");
    let applied = agent.commit(3, false, vec![endpoint(4, mac4)]);
    assert_eq!(applied, FromDataplane::Applied { generation: 3, failed: vec![] });
    assert!(node.pod_pings(4, "10.244.1.2"));

    drop(agent);
    assert!(node.pod_pings(2, "10.244.1.3"), "packets go on without an agent");
    let homes = |node: &Node| -> Vec<(u16, Option<u8>)> {
        node.ask::<Vec<Port>>(Question::Ports).iter().map(|port| (port.id, port.home)).collect()
    };
    let before = homes(&node);
    let mut agent = Agent::connect(&node);
    let all = vec![local(), endpoint(2, mac2), endpoint(3, mac3), endpoint(4, mac4)];
    assert!(matches!(agent.commit(1, true, all), FromDataplane::Applied { generation: 1, .. }));
    assert_eq!(homes(&node), before, "a full synchronisation moves nobody");

    let pods = |node: &Node| -> Traffic {
        let metrics: Metrics = node.ask(Question::Metrics);
        assert_eq!((metrics.drops.len(), metrics.workers.len()), (podplane_pipeline::DropReason::COUNT, 4));
        assert!(metrics.tables.iter().all(|table| table.used <= table.capacity), "{:?}", metrics.tables);
        metrics.traffic.into_iter().find(|it| it.kind == Kind::Pod).unwrap()
    };
    let counted = pods(&node);
    assert!(counted.rx_packets > 0 && counted.tx_bytes > 0, "{counted:?}");
    assert!(matches!(agent.delete(2, Key::Endpoint("container3/eth0".into())), FromDataplane::Applied { .. }));
    let after = pods(&node);
    assert!(after.rx_packets >= counted.rx_packets && after.tx_bytes >= counted.tx_bytes, "totals outlive ports");
    assert!(node.pod_pings_in_vain(2, "10.244.1.3"));
    assert!(node.pod_pings(2, "10.244.1.4"));
    let status: Status = node.ask(Question::Status);
    assert_eq!((status.endpoints, status.agent.applied), (2, Some(2)));
}

/// A peer on the link is its own next hop, one behind a router has the router's; both follow the kernel's routes.
#[test]
fn next_hops_of_peers_follow_the_kernel() {
    let mut node = Node::new("hops");
    node.start(&[]);
    let router = node.neighbour_mac();
    let mut agent = Agent::connect(&node);
    let peer = |name: &str, vtep: &str, range: &str| {
        let vtep = vtep.parse().unwrap();
        let pod_cidrs = vec![range.parse().unwrap()];
        Object::Peer(Peer { name: name.into(), vtep, addresses: vec![vtep], pod_cidrs })
    };
    let near = peer("near", "10.9.0.2", "10.244.2.0/24");
    let far = peer("far", "172.20.0.9", "10.244.3.0/24");
    let dead = peer("dead", "10.9.0.66", "10.244.4.0/24");
    assert!(matches!(agent.commit(1, true, vec![local(), near, far, dead]), FromDataplane::Applied { .. }));
    let hop = |node: &Node, name: &str| {
        let peers = node.ask::<Status>(Question::Status).peers;
        let peer = peers.into_iter().find(|peer| peer.name == name).unwrap();
        (peer.via.map(|via| via.to_string()), peer.next_hop)
    };
    let resolved = (Some("10.9.0.2".to_owned()), Some(router));
    node.until("the peer on the link is resolved", |node| hop(node, "near") == resolved);
    node.until("so is the one behind the router", |node| hop(node, "far") == resolved);
    assert_eq!(hop(&node, "dead"), (Some("10.9.0.66".to_owned()), None));
    let generation = node.ask::<Status>(Question::Status).generation;
    node.sh("ip route add 172.20.0.0/16 via 10.9.0.77");
    node.until("the new route is followed", |node| hop(node, "far").0.as_deref() == Some("10.9.0.77"));
    node.until("the workers have it", |node| node.ask::<Status>(Question::Status).generation > generation);
}

/// A pod opens flows as fast as it can: it gets its quota of the table, the others open theirs.
#[test]
fn one_pods_flood_of_flows_leaves_the_others_their_share() {
    let mut node = Node::new("quota");
    let macs: Vec<_> = (2..6).map(|i| (i, node.add_pod(i))).collect();
    node.start(&[]);
    let mut agent = Agent::connect(&node);
    let all = std::iter::once(local()).chain(macs.iter().map(|(i, mac)| endpoint(*i, *mac))).collect();
    assert!(matches!(agent.commit(1, true, all), FromDataplane::Applied { generation: 1, .. }));
    let flooder = node.in_pod(2, || UdpSocket::bind("0.0.0.0:0").unwrap());
    let refused = |node: &Node| {
        let drops: Vec<Dropped> = node.ask(Question::Drops);
        let mut of = drops.iter().filter(|drop| drop.reason == "flow-quota" || drop.reason == "flow-table-full");
        assert!(of.clone().all(|drop| drop.port == 2 && drop.reason == "flow-quota"), "{drops:?}");
        of.next().map_or(0, |drop| drop.packets)
    };
    for i in 0..40_000u32 {
        // Refused: nobody listens there, or our own device is full for a moment.
        let _ = flooder.send_to(&[0], (format!("10.244.1.{}", 3 + i % 3), 1024 + (i / 3) as u16));
        if i % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    node.until("the flood is refused", |node| refused(node) > 1000);
    let worker = &node.ask::<Status>(Question::Status).workers[0];
    assert!(worker.flows < worker.flow_capacity / 4, "{} of {}", worker.flows, worker.flow_capacity);
    for (from, to) in [(3, "10.244.1.4"), (4, "10.244.1.5"), (5, "fd00:244:1::3")] {
        assert!(node.pod_pings(from, to), "{from} to {to}");
    }
    refused(&node);
}

#[test]
fn a_pods_device_that_goes_and_comes_back_is_connected_again() {
    let mut node = Node::new("device");
    let (mac2, mac3) = (node.add_pod(2), node.add_pod(3));
    node.start(&["--workers", "2"]);
    let mut agent = Agent::connect(&node);
    agent.commit(1, true, vec![local(), endpoint(2, mac2), endpoint(3, mac3)]);
    assert!(node.pod_pings(2, "10.244.1.3"));
    node.remove_pod(3);
    node.until("its end is noticed", |node| node.ask::<Status>(Question::Status).failed.len() == 1);
    assert!(node.pod_pings(2, "169.254.1.1"), "the others do not notice");
    node.add_pod_with(3, mac3);
    node.until("it is connected again", |node| node.ask::<Status>(Question::Status).failed.is_empty());
    assert!(node.pod_pings(2, "10.244.1.3"));
}

/// The uplink's fanout, four homes and the hand-over between them: a flow's packets keep their order.
#[test]
fn packets_of_a_flow_keep_their_order_across_workers() {
    const PACKETS: u32 = 5_000;
    let mut node = Node::new("order");
    let macs: Vec<_> = (2..6).map(|i| (i, node.add_pod(i))).collect();
    node.start(&["--workers", "4"]);
    let mut agent = Agent::connect(&node);
    let all = std::iter::once(local()).chain(macs.iter().map(|(i, mac)| endpoint(*i, *mac))).collect();
    assert!(matches!(agent.commit(1, true, all), FromDataplane::Applied { generation: 1, .. }));
    std::thread::scope(|scope| {
        for (from, to) in [(2, 3), (3, 4), (4, 5), (5, 2)] {
            let node = &node;
            scope.spawn(move || {
                let receiver = node.in_pod(to, || UdpSocket::bind(("0.0.0.0", 7000)).unwrap());
                receiver.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
                let sender = node.in_pod(from, || UdpSocket::bind("0.0.0.0:0").unwrap());
                sender.connect((format!("10.244.1.{to}"), 7000)).unwrap();
                let (mut next, mut got) = (0u32, 0u32);
                for number in 0..PACKETS {
                    sender.send(&number.to_be_bytes()).unwrap();
                    if number % 64 == 63 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                let mut bytes = [0; 4];
                while let Ok(4) = receiver.recv(&mut bytes) {
                    let number = u32::from_be_bytes(bytes);
                    assert!(number >= next, "pod {from} to {to}: {number} after {next}");
                    (next, got) = (number + 1, got + 1);
                    if next == PACKETS {
                        break;
                    }
                }
                // The sockets' buffers are the kernel's; order is what counts, but silence would prove nothing.
                assert!(got > PACKETS / 50, "pod {from} to {to}: {got} arrived");
            });
        }
    });
    // With four homes some of these flows cross workers; each still answers at once after a pause.
    let quick = (0..20).any(|_| {
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        assert!(node.pod_pings(2, "10.244.1.5"));
        began.elapsed() < Duration::from_secs(1)
    });
    assert!(quick, "an idle node never answers within a second");
}
