//! Devices that take nothing, or take it slowly: who pays for it.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use podplane_config::introspect::{Drop as Dropped, Port, Question, Status};
use podplane_config::v1::FromDataplane;

use crate::node::{Agent, Node};
use crate::{endpoint, local};

/// So many requests of an existing flow show whether it loses any.
const ENOUGH: u32 = 500;
/// Pods whose devices take next to nothing.
const STUCK: std::ops::RangeInclusive<u8> = 101..=200;

/// Ends the threads of a test also when it fails: the scope waits for them.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn drops(node: &Node, reason: &str) -> u64 {
    let all: Vec<Dropped> = node.ask(Question::Drops);
    all.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum()
}

/// A hundred pods' devices refuse nearly everything. An existing flow between two other pods loses nothing, a new one
/// gets through, and the pools are never empty. (How many buffers such queues may hold: `worker::backlog`.)
#[test]
fn a_hundred_pods_that_refuse_their_packets_cost_nobody_else_anything() {
    let mut node = Node::new("stuck");
    let mut all = vec![local()];
    for i in 2..=5 {
        all.push(endpoint(i, node.add_pod(i)));
    }
    all.extend(node.add_slow_pods(STUCK, 1, 0.01).into_iter().map(|(i, mac)| endpoint(i, mac)));
    node.start(&[]);
    let mut agent = Agent::connect(&node);
    let applied = agent.commit(1, true, all);
    assert_eq!(applied, FromDataplane::Applied { generation: 1, failed: vec![] });

    let (over, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let fullest = std::thread::scope(|scope| {
        let (node, over, asked) = (&node, &over, &asked);
        let ends = Over(over);
        let (server, client) = (
            node.in_pod(3, || UdpSocket::bind("0.0.0.0:7000").unwrap()),
            node.in_pod(4, || UdpSocket::bind("0.0.0.0:0").unwrap()),
        );
        let flow = scope.spawn(move || echo(&server, &client, "10.244.1.3:7000", over, asked));
        let flood = scope.spawn(move || {
            let sender = node.in_pod(2, || UdpSocket::bind("0.0.0.0:0").unwrap());
            let payload = [0; 1200];
            while !over.load(Ordering::Relaxed) {
                for to in STUCK {
                    // Refused: our own device is full for a moment.
                    let _ = sender.send_to(&payload, (format!("10.244.1.{to}"), 9));
                }
            }
        });
        let began = Instant::now();
        let mut fullest = 0f64;
        let mut stuck_at = None;
        // On a busy machine requests take their time.
        let is_short = |at: Instant| at.elapsed() < Duration::from_secs(2) || asked.load(Ordering::Relaxed) <= ENOUGH;
        while stuck_at.is_none_or(is_short) {
            let asked = asked.load(Ordering::Relaxed);
            assert!(began.elapsed() < Duration::from_secs(120), "full: {stuck_at:?}; {asked} requests");
            let status: Status = node.ask(Question::Status);
            for pool in &status.buffers {
                fullest = fullest.max(f64::from(pool.in_use) / f64::from(pool.capacity));
            }
            if stuck_at.is_none() && drops(node, "tx-queue-full") + drops(node, "tx-device") > 20_000 {
                stuck_at = Some(Instant::now());
                assert!(node.pod_pings(5, "10.244.1.3"), "a new flow gets through");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(ends);
        flood.join().unwrap();
        let (sent, answered) = flow.join().unwrap();
        assert!(sent > ENOUGH, "{sent} requests in {:?} prove nothing", began.elapsed());
        assert_eq!(sent - answered, 0, "of {sent} requests");
        fullest
    });
    assert_eq!(drops(&node, "no-buffers"), 0);
    assert!(fullest < 0.9, "a pool was {fullest} full");
}

/// A request at a time, so that one that is lost is missed; the socket's buffer is not what is tested. `asked` counts
/// them.
fn echo(server: &UdpSocket, client: &UdpSocket, to: &str, over: &AtomicBool, asked: &AtomicU32) -> (u32, u32) {
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 4];
            while !over.load(Ordering::Relaxed) {
                if let Ok((4, from)) = server.recv_from(&mut bytes) {
                    server.send_to(&bytes, from).unwrap();
                }
            }
        });
        let (mut sent, mut answered) = (0u32, 0);
        while !over.load(Ordering::Relaxed) {
            let mut bytes = [0; 4];
            client.send_to(&sent.to_be_bytes(), to).unwrap();
            match client.recv(&mut bytes) {
                Ok(4) => answered += u32::from(bytes == sent.to_be_bytes()),
                // The server stopped first.
                _ if over.load(Ordering::Relaxed) => break,
                _ => {}
            }
            sent += 1;
            asked.store(sent, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        (sent, answered)
    })
}

/// A pod sends faster than the uplink takes it, and to nobody else: it is not read on, so its socket's buffer takes
/// what the queue cannot.
#[test]
fn a_pod_that_sends_to_a_slow_uplink_waits_instead_of_losing_packets() {
    const PACKETS: u32 = 3500;
    let mut node = Node::new("slow");
    let all = vec![local(), endpoint(2, node.add_pod(2)), endpoint(3, node.add_pod(3))];
    node.slow_taps(vec!["slow0".into()], 20, 0.005);
    node.sh("ip addr flush dev eth0; ip link set slow0 mtu 1500; ip addr add 10.9.0.1/24 dev slow0");
    node.start_on("iface:slow0", &[]);
    let mut agent = Agent::connect(&node);
    assert!(matches!(agent.commit(1, true, all), FromDataplane::Applied { generation: 1, .. }));
    let peer = podplane_config::v1::Object::Peer(podplane_config::v1::Peer {
        name: "peer".into(),
        vtep: "10.9.0.2".parse().unwrap(),
        addresses: vec!["10.9.0.2".parse().unwrap()],
        pod_cidrs: vec!["10.244.2.0/24".parse().unwrap()],
    });
    assert!(matches!(agent.commit(2, false, vec![peer]), FromDataplane::Applied { .. }));
    node.sh("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:77 nud permanent dev podplane0");
    node.until("the peer is resolved", |node| {
        node.ask::<Status>(Question::Status).peers.iter().all(|peer| peer.next_hop.is_some())
    });
    let sender = node.in_pod(2, || UdpSocket::bind("0.0.0.0:0").unwrap());
    for _ in 0..PACKETS {
        sender.send_to(&[0; 1200], "10.244.2.9:9").unwrap();
    }
    // Meanwhile another pod is served, and so is this one by the gateway once its packets are through.
    assert!(node.pod_pings(3, "169.254.1.1"));
    let uplink = |node: &Node| {
        let ports: Vec<Port> = node.ask(Question::Ports);
        (ports[0].tx_packets, ports.iter().map(|port| port.rx_overruns).sum::<u64>())
    };
    node.until("all were sent or lost", |node| {
        uplink(node).0 + uplink(node).1 + drops(node, "tx-queue-full") >= u64::from(PACKETS)
    });
    assert!(node.pod_pings(2, "169.254.1.1"));
    let all: Vec<Dropped> = node.ask(Question::Drops);
    assert_eq!((drops(&node, "tx-queue-full"), uplink(&node).1), (0, 0), "{all:?}");
}
