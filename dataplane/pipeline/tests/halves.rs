//! Two halves of a flow on two workers: they come together, live together, and leave together.

mod common;

use common::{ACK, End, FIN, RST, SYN, expect, frame, send, tcp};
use podplane_packet::id::WorkerId;
use podplane_packet::testing::{Transport, VecBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::sim::{Sim, SimConfig};

/// Two pods of one node whose homes are two workers.
fn two_homes(config: SimConfig) -> (Sim, End, End) {
    let mut sim = Sim::new(SimConfig { nodes: 1, workers: 2, ..config });
    let (a, b) = (End::Pod(sim.add_pod(0)), End::Pod(sim.add_pod(0)));
    (sim, a, b)
}

fn udp(sport: u16) -> Transport {
    Transport::Udp { sport, dport: 53 }
}

fn talk(sim: &mut Sim, from: End, to: End, l4: Transport) {
    let spec = frame(sim, from, to.ip(false), l4, b"x");
    expect(sim, from, to, &spec);
}

#[test]
fn an_unanswered_flow_leaves_nothing_behind() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    talk(&mut sim, a, b, udp(1));
    assert_eq!(sim.flows(), 2, "a half on each worker");
    sim.advance(29_000);
    assert_eq!(sim.flows(), 2, "30 s are not over");
    sim.advance(4_000);
    assert_eq!(sim.flows(), 0);
}

#[test]
fn an_answer_prolongs_both_halves() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    talk(&mut sim, a, b, udp(1));
    sim.advance(20_000);
    talk(&mut sim, b, a, Transport::Udp { sport: 53, dport: 1 });
    assert_eq!(sim.flows(), 2, "the answer belongs to the flow");
    sim.advance(170_000);
    assert_eq!(sim.flows(), 2, "180 s since the answer are not over");
    sim.advance(15_000);
    assert_eq!(sim.flows(), 0);
}

#[test]
fn only_one_side_speaking_keeps_the_flow() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    talk(&mut sim, a, b, udp(1));
    for _ in 0..20 {
        talk(&mut sim, b, a, Transport::Udp { sport: 53, dport: 1 });
        sim.advance(25_000);
        assert_eq!(sim.flows(), 2, "what the other half sees counts");
    }
}

#[test]
fn tcp_lives_a_day_and_dies_when_closed() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    let open = |sim: &mut Sim, port| {
        talk(sim, a, b, tcp(port, 80, SYN));
        talk(sim, b, a, tcp(80, port, SYN | ACK));
        talk(sim, a, b, tcp(port, 80, ACK));
        talk(sim, b, a, tcp(80, port, ACK));
    };
    open(&mut sim, 1);
    open(&mut sim, 2);
    open(&mut sim, 3);
    sim.advance(3_600_000);
    assert_eq!(sim.flows(), 6, "an hour of silence is nothing to an established connection");
    talk(&mut sim, a, b, tcp(1, 80, FIN | ACK));
    talk(&mut sim, b, a, tcp(80, 1, FIN | ACK));
    // The other end resets: the half that owns the lifetime never sees it, and asks.
    talk(&mut sim, b, a, tcp(80, 2, RST));
    sim.advance(70_000);
    assert_eq!(sim.flows(), 4, "closed");
    sim.advance(330_000);
    assert_eq!(sim.flows(), 2, "reset");
}

#[test]
fn a_syn_alone_goes_after_a_minute() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    talk(&mut sim, a, b, tcp(1, 80, SYN));
    sim.advance(59_000);
    assert_eq!(sim.flows(), 2);
    sim.advance(4_000);
    assert_eq!(sim.flows(), 0);
}

#[test]
fn both_open_at_once_and_the_lower_worker_wins() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    let to_b = frame(&sim, a, b.ip(false), tcp(5, 6, SYN), b"");
    let to_a = frame(&sim, b, a.ip(false), tcp(6, 5, SYN), b"");
    sim.inject(0, a.port(), WorkerId(0), VecBuf::new(&to_b.build()));
    sim.inject(0, b.port(), WorkerId(0), VecBuf::new(&to_a.build()));
    // Neither worker has heard of the other's half when it takes its packet.
    sim.step_blind(0, 0);
    sim.step_blind(0, 1);
    sim.settle();
    assert_eq!(sim.take(0, a.port()).len(), 1);
    assert_eq!(sim.take(0, b.port()).len(), 1);
    assert_eq!(sim.flows(), 2, "one pair");
    talk(&mut sim, a, b, tcp(5, 6, ACK));
    talk(&mut sim, b, a, tcp(6, 5, ACK));
    assert_eq!(sim.flows(), 2);
    talk(&mut sim, b, a, tcp(6, 5, RST));
    sim.advance(400_000);
    assert_eq!(sim.flows(), 0, "{:?}", sim.all_drops());
}

#[test]
fn a_full_queue_drops_by_name_and_creates_nothing() {
    let (mut sim, a, b) = two_homes(SimConfig { half_queue: 0, ..SimConfig::default() });
    let spec = frame(&sim, a, b.ip(false), udp(1), b"x");
    send(&mut sim, a, &spec);
    assert_eq!(sim.all_drops(), [(DropReason::HalfQueueFull.name(), 1)]);
    assert_eq!(sim.flows(), 0);
    assert!(sim.take(0, b.port()).is_empty());
}

#[test]
fn established_flows_survive_a_full_table() {
    let (mut sim, a, b) = two_homes(SimConfig { flow_capacity: 4, ..SimConfig::default() });
    // The host port and A live on worker 0, B on worker 1: the node's flows to B fill both.
    let node = End::Node(0);
    for port in 0..4 {
        talk(&mut sim, node, b, udp(port));
    }
    assert_eq!(sim.flows(), 8);
    let spec = frame(&sim, a, b.ip(false), udp(9), b"x");
    send(&mut sim, a, &spec);
    assert_eq!(sim.drops(DropReason::FlowTableFull), 1);
    talk(&mut sim, node, b, udp(2));
    talk(&mut sim, b, node, Transport::Udp { sport: 53, dport: 2 });
}

#[test]
fn a_refusal_makes_the_creators_half_a_brief_drop() {
    let mut sim = Sim::new(SimConfig { nodes: 1, workers: 2, flow_capacity: 4, ..SimConfig::default() });
    let pods: Vec<End> = (0..4).map(|_| End::Pod(sim.add_pod(0))).collect();
    // Ports 2 and 4 live on worker 0, ports 3 and 5 on worker 1, which two local flows fill.
    let (a, b, c) = (pods[0], pods[1], pods[3]);
    talk(&mut sim, b, c, udp(1));
    talk(&mut sim, b, c, udp(2));
    let spec = frame(&sim, a, b.ip(false), udp(3), b"x");
    expect(&mut sim, a, b, &spec);
    // The first packet was gone when the refusal came; the next one meets the cached drop.
    send(&mut sim, a, &spec);
    assert_eq!(sim.drops(DropReason::FlowRefused), 1);
    assert!(sim.take(0, b.port()).is_empty());
    // Even while it is hit again and again, the drop is forgotten after its two seconds.
    for _ in 0..3 {
        sim.advance(1000);
        send(&mut sim, a, &spec);
    }
    assert!(sim.drops(DropReason::FlowRefused) <= 3);
    sim.take(0, b.port());
    sim.advance(400_000);
    assert_eq!(sim.flows(), 0, "nothing leaks");
}

#[test]
fn a_pods_quota_is_its_own() {
    let (mut sim, a, b) = two_homes(SimConfig { port_quota: 3, ..SimConfig::default() });
    for port in 0..3 {
        talk(&mut sim, a, b, udp(port));
    }
    let spec = frame(&sim, a, b.ip(false), udp(100), b"x");
    send(&mut sim, a, &spec);
    assert_eq!(sim.all_drops(), [(DropReason::FlowQuota.name(), 1)]);
    talk(&mut sim, a, b, udp(1));
    talk(&mut sim, b, a, udp(1));
}

#[test]
fn a_pod_that_goes_takes_its_flows_along() {
    let (mut sim, a, b) = two_homes(SimConfig::default());
    talk(&mut sim, a, b, udp(1));
    talk(&mut sim, b, a, Transport::Udp { sport: 53, dport: 1 });
    let End::Pod(pod) = b else { unreachable!("a pod") };
    sim.remove_pod(pod);
    let spec = frame(&sim, a, b.ip(false), udp(1), b"x");
    send(&mut sim, a, &spec);
    assert_eq!(sim.all_drops(), [(DropReason::NoSuchPod.name(), 1)]);
    // Another pod with the same port and address starts anew.
    let again = End::Pod(sim.add_pod(0));
    assert_eq!(again.ip(false), b.ip(false));
    sim.take(0, a.port());
    talk(&mut sim, a, again, udp(1));
    talk(&mut sim, again, a, Transport::Udp { sport: 53, dport: 1 });
    sim.advance(400_000);
    assert_eq!(sim.flows(), 0, "nothing leaks");
}

#[test]
fn flows_of_a_pod_that_is_gone_do_not_outlive_it_by_a_day() {
    for (workers, gone) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut sim = Sim::new(SimConfig { nodes: 1, workers, ..SimConfig::default() });
        let pods = [sim.add_pod(0), sim.add_pod(0)];
        let [a, b] = pods.map(End::Pod);
        for sport in 1..5 {
            talk(&mut sim, a, b, tcp(sport, 80, SYN));
            talk(&mut sim, b, a, tcp(80, sport, SYN | ACK));
            talk(&mut sim, a, b, tcp(sport, 80, ACK));
            talk(&mut sim, b, a, tcp(80, sport, ACK));
        }
        sim.advance(250_000);
        assert_eq!(sim.flows(), 8, "connections that were opened live on in silence");
        sim.remove_pod(pods[gone]);
        sim.advance(360_000);
        assert_eq!(sim.flows(), 0, "{workers} workers, pod {gone}");
    }
}
