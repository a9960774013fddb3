//! How flows end that policy forbids, told step by step.

use podplane_packet::id::{PortId, WorkerId};
use podplane_packet::testing::{Transport, VecBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::{Sim, SimConfig};
use podplane_pipeline::snapshot::PortPolicy;
use podplane_tables::policy::{Action, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, Tier};

use crate::common::{ACK, End, SYN, echo, frame, send, tcp};

/// Two pods of one node, on two workers if there are two.
pub fn pods(config: SimConfig) -> (Sim, End, End) {
    let mut sim = Sim::new(SimConfig { nodes: 1, ..config });
    let [a, b] = [0; 2].map(|node| End::Pod(sim.add_pod(node)));
    (sim, a, b)
}

/// Only these TCP ports of a pod are open; `None`: all.
pub fn open(sim: &mut Sim, pod: End, ports: Option<u16>) {
    let config = &mut sim.nodes[0].config;
    let all = |port| Ports { protocol: 6, first: port, last: port };
    let accept = RuleSpec {
        tier: Tier::NetworkPolicy,
        action: Action::Accept,
        peers: PeersSpec::Any,
        named: None,
        ports: ports.map(|p| [all(p)].into()),
    };
    let deny = RuleSpec { action: Action::Deny, ports: None, ..accept.clone() };
    config.policy.rules.insert(RuleId(1), accept.into());
    config.policy.rules.insert(RuleId(2), deny.into());
    config.policy.sets.insert(RuleSetId(1), [RuleId(1), RuleId(2)].into());
    give(sim, pod, PortPolicy { ingress: Some(RuleSetId(1)), egress: None });
}

fn give(sim: &mut Sim, pod: End, policy: PortPolicy) {
    let entry = sim.nodes[0].config.ports.iter_mut().find(|(id, _)| *id == pod.port());
    entry.expect("the pod's port").1.policy = policy;
    sim.nodes[0].publish();
}

/// Sends a packet and says whether it arrived.
pub fn passes(sim: &mut Sim, from: End, to: End, l4: Transport) -> bool {
    let spec = frame(sim, from, to.ip(false), l4, b"x");
    send(sim, from, &spec);
    assert_eq!(sim.conserved(), Ok(()));
    !sim.take(0, to.port()).is_empty()
}

/// Lets time pass at once, but not its housekeeping.
fn leap(sim: &mut Sim, millis: u32) {
    sim.now += millis;
    sim.settle();
}

#[test]
fn an_ended_connection_stays_ended_while_its_server_goes_on_and_an_hour_longer() {
    for workers in [1, 2] {
        let (mut sim, client, server) = pods(SimConfig { workers, ..SimConfig::default() });
        assert!(passes(&mut sim, client, server, tcp(40_000, 80, SYN)));
        assert!(passes(&mut sim, server, client, tcp(80, 40_000, SYN | ACK)));
        open(&mut sim, server, Some(443));
        for _ in 0..5 {
            assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
            assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
            for _ in 0..50 {
                leap(&mut sim, 60_000);
            }
        }
        assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
        for _ in 0..61 {
            leap(&mut sim, 60_000);
        }
        assert_eq!(sim.flows(), 0, "nothing is left after an hour of silence");
        assert!(passes(&mut sim, server, client, tcp(80, 40_000, ACK)), "what comes then is the server's own");
    }
}

/// As long as an answered flow that falls silent, and no longer, whatever the server sends.
#[test]
fn what_has_no_sign_of_a_beginning_is_barred_for_the_time_that_its_flow_would_have_had() {
    let udp = |sport, dport| Transport::Udp { sport, dport };
    let sctp = |sport, dport| Transport::Sctp { sport, dport };
    type Kind<'a> = (&'a dyn Fn(u16, u16) -> Transport, [u16; 2], u32);
    let kinds: [Kind<'_>; 3] = [
        (&udp, [4000, 53], 180_000),
        (&sctp, [3868, 3868], 210_000),
        (&|from, _| echo(false, from == 1, 7), [1, 2], 30_000),
    ];
    for workers in [1, 2] {
        for (l4, [there, back], lasts) in kinds {
            let (mut sim, client, server) = pods(SimConfig { workers, ..SimConfig::default() });
            assert!(passes(&mut sim, client, server, l4(there, back)));
            assert!(passes(&mut sim, server, client, l4(back, there)));
            open(&mut sim, server, Some(443));
            assert!(!passes(&mut sim, client, server, l4(there, back)));
            for _ in 0..lasts / 10_000 - 1 {
                leap(&mut sim, 10_000);
                assert!(!passes(&mut sim, server, client, l4(back, there)), "{lasts}");
            }
            leap(&mut sim, 11_000);
            leap(&mut sim, 1_000);
            assert!(passes(&mut sim, server, client, l4(back, there)), "what comes then is the server's own: {lasts}");
        }
    }
}

/// Whoever is heard first once a connection is allowed again: it is the client's still, so a rule about the client ends
/// it again.
#[test]
fn a_connection_that_is_allowed_again_goes_the_way_round_that_it_went() {
    for workers in [1, 2] {
        for client_first in [false, true] {
            let (mut sim, client, server) = pods(SimConfig { workers, ..SimConfig::default() });
            assert!(passes(&mut sim, client, server, tcp(40_000, 80, SYN)));
            assert!(passes(&mut sim, server, client, tcp(80, 40_000, SYN | ACK)));
            for _ in 0..3 {
                open(&mut sim, server, Some(443));
                assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
                assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
                give(&mut sim, server, PortPolicy::default());
                if client_first {
                    assert!(passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
                }
                assert!(passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
                open(&mut sim, server, Some(443));
                assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
                give(&mut sim, server, PortPolicy::default());
                for _ in 0..2 {
                    assert!(passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
                    assert!(passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
                }
            }
        }
    }
}

#[test]
fn the_servers_packet_ends_both_halves() {
    for workers in [1, 2] {
        let (mut sim, client, server) = pods(SimConfig { workers, ..SimConfig::default() });
        for udp in [false, true] {
            let there = |syn| if udp { Transport::Udp { sport: 4, dport: 5 } } else { tcp(4, 5, syn) };
            let back = if udp { Transport::Udp { sport: 5, dport: 4 } } else { tcp(5, 4, SYN | ACK) };
            open(&mut sim, server, None);
            give(&mut sim, server, PortPolicy::default());
            assert!(passes(&mut sim, client, server, there(SYN)));
            assert!(passes(&mut sim, server, client, back.clone()));
            open(&mut sim, server, Some(443));
            assert!(!passes(&mut sim, server, client, back));
            sim.advance(3000);
            assert_eq!(sim.flows(), 1 + usize::from(udp), "what bars the replies alone is left");
        }
    }
}

#[test]
fn a_worker_that_is_behind_does_not_let_the_connection_go_on_the_other_way_round() {
    // Ports 2 and 3 live on workers 0 and 1.
    let (mut sim, client, server) = pods(SimConfig { workers: 2, ..SimConfig::default() });
    assert!(passes(&mut sim, client, server, tcp(40_000, 80, SYN)));
    assert!(passes(&mut sim, server, client, tcp(80, 40_000, SYN | ACK)));
    // One that changes nothing, so that the flow was judged under an older one than the worker keeps.
    sim.nodes[0].publish();
    let before = sim.nodes[0].snapshot.clone();
    open(&mut sim, server, Some(443));
    let home = sim.nodes[0].snapshot.port(server.port()).expect("the server's port").home;
    sim.nodes[0].behind[home.index()] = Some(before);
    // The client's worker ends it; the server's hears of that before it has the snapshot that forbids it.
    assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
    sim.nodes[0].behind[home.index()] = None;
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
    assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
}

#[test]
fn the_other_half_learns_of_the_end_although_the_news_was_lost() {
    let (mut sim, client, server) = pods(SimConfig { workers: 2, ..SimConfig::default() });
    assert!(passes(&mut sim, client, server, tcp(40_000, 80, SYN)));
    assert!(passes(&mut sim, server, client, tcp(80, 40_000, SYN | ACK)));
    open(&mut sim, server, Some(443));
    sim.config.half_queue = 0;
    assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)), "the bar for the replies is lost");
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)), "they are judged by themselves");
    sim.config.half_queue = 64;
    sim.advance(5000);
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
    for _ in 0..70 {
        leap(&mut sim, 60_000);
    }
    assert_eq!(sim.flows(), 0);
}

#[test]
fn a_flood_of_denied_packets_leaves_room_for_what_is_allowed() {
    let (mut sim, client, server) = pods(SimConfig { workers: 1, port_quota: 40, ..SimConfig::default() });
    open(&mut sim, server, Some(80));
    for port in 1..200 {
        assert!(!passes(&mut sim, client, server, tcp(40_000, port + 1000, SYN)));
    }
    assert_eq!(sim.flows(), 20, "half of what the client may have");
    for port in 0..10 {
        assert!(passes(&mut sim, client, server, tcp(50_000 + port, 80, SYN)));
    }
    let counters = &sim.nodes[0].counters[0];
    assert_eq!(counters.port(server.port()).drops(DropReason::PolicyIngress), 199, "each is counted at the server");
    assert_eq!(counters.port(PortId::UPLINK).drops(DropReason::PolicyIngress), 0);
    // A denial is forgotten after its two seconds, even while packets come.
    for _ in 0..12 {
        sim.advance(500);
        passes(&mut sim, client, server, tcp(40_000, 1001, SYN));
    }
    assert!(sim.flows() <= 21);
}

#[test]
fn the_place_of_an_ended_flow_is_not_taken_for_that_of_another_of_the_same_burst() {
    let (mut sim, a, b) = pods(SimConfig { workers: 2, ..SimConfig::default() });
    let node = End::Node(0);
    let udp = |port| Transport::Udp { sport: 1000, dport: port };
    open(&mut sim, b, Some(443));
    assert!(!passes(&mut sim, a, b, udp(53)), "its denial is remembered");
    give(&mut sim, b, PortPolicy::default());
    // The denial ends, its place is free, for the other worker takes no halves; a flow to the node takes it.
    sim.config.half_queue = 0;
    for (to, port) in [(b, 53), (node, 53), (b, 53)] {
        let spec = frame(&sim, a, to.ip(false), udp(port), b"x");
        sim.inject(0, a.port(), WorkerId(0), VecBuf::new(&spec.build()));
    }
    sim.settle();
    assert_eq!(sim.take(0, node.port()).len(), 1, "what was for the node, and nothing else");
    assert!(sim.take(0, b.port()).is_empty());
    assert_eq!(sim.drops(DropReason::HalfQueueFull), 2);
}
