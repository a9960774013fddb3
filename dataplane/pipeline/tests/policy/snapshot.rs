//! What compiling refuses, shares and stamps.

use std::net::IpAddr;
use std::sync::Arc;

use crate::common::{ACK, End, addresses, frame, tcp};
use podplane_packet::id::PortId;
use podplane_pipeline::sim::{Sim, SimConfig, SimPod};
use podplane_pipeline::snapshot::{PortPolicy, Prefix, Snapshot, SnapshotError};
use podplane_pipeline::{Direction, DropReason, Origin};
use podplane_tables::policy::{Action, PeersSpec, RuleId, RuleSetId, RuleSpec, SelectorId, Tier};

fn rule(action: Action, selectors: &[u32]) -> Arc<RuleSpec> {
    let peers = match selectors {
        [] => PeersSpec::Any,
        all => PeersSpec::Of { selectors: all.iter().map(|s| SelectorId(*s)).collect(), nets: Box::default() },
    };
    Arc::new(RuleSpec { tier: Tier::NetworkPolicy, action, peers, named: None, ports: None })
}

/// A node with three pods, of which the first is isolated but for owners with selector 1.
fn isolated() -> (Sim, [SimPod; 3]) {
    let mut sim = Sim::new(SimConfig { nodes: 1, ..SimConfig::default() });
    let pods = [0; 3].map(|node| sim.add_pod(node));
    let config = &mut sim.nodes[0].config;
    config.policy.rules.insert(RuleId(1), rule(Action::Accept, &[1]));
    config.policy.rules.insert(RuleId(2), rule(Action::Deny, &[]));
    config.policy.sets.insert(RuleSetId(9), [RuleId(1), RuleId(2)].into());
    give(&mut sim, pods[0], PortPolicy { ingress: Some(RuleSetId(9)), egress: None });
    sim.nodes[0].publish();
    (sim, pods)
}

fn give(sim: &mut Sim, pod: SimPod, policy: PortPolicy) {
    let entry = sim.nodes[0].config.ports.iter_mut().find(|(id, _)| *id == pod.port);
    entry.expect("the pod's port").1.policy = policy;
}

/// The generation that stamped the port and both addresses of a pod last.
fn stamps(sim: &Sim, pod: SimPod) -> [u32; 3] {
    let cells = sim.nodes[0].snapshot.changed();
    [cells.port(pod.port), cells.address(pod.v4), cells.address(pod.v6)]
}

#[test]
fn a_port_whose_rules_are_not_known_is_refused() {
    let (mut sim, [a, ..]) = isolated();
    let before = Arc::clone(&sim.nodes[0].snapshot);
    give(&mut sim, a, PortPolicy { ingress: Some(RuleSetId(9)), egress: Some(RuleSetId(10)) });
    let refused = Snapshot::compile(&sim.nodes[0].config, Some(&before)).map(|_| ());
    assert_eq!(refused, Err(SnapshotError::RuleSet(a.port, 10)));
    give(&mut sim, a, PortPolicy::default());
    let config = &mut sim.nodes[0].config;
    config.ports[1].1.policy.ingress = Some(RuleSetId(9));
    let refused = Snapshot::compile(config, Some(&before)).map(|_| ());
    assert_eq!(refused, Err(SnapshotError::PortPolicy(PortId::HOST)));
    config.ports[1].1.policy = PortPolicy::default();
    config.policy.rules.remove(&RuleId(2));
    let refused = Snapshot::compile(config, Some(&before)).map(|_| ());
    assert!(matches!(&refused, Err(SnapshotError::Policy(why)) if why.contains("rule 2")), "{refused:?}");
}

#[test]
fn what_decides_otherwise_is_stamped_and_nothing_else() {
    let (mut sim, [a, b, c]) = isolated();
    let (quiet, other) = (stamps(&sim, b), stamps(&sim, c));
    let node = &mut sim.nodes[0];
    // An address of another class.
    node.config.policy.addresses.insert(b.v4.into(), [SelectorId(1)].into());
    node.publish();
    let now = sim.nodes[0].snapshot.generation();
    assert_eq!(stamps(&sim, b), [quiet[0], now, quiet[2]]);
    assert_ne!(stamps(&sim, a), [now; 3]);
    // The same selectors again are no change.
    let node = &mut sim.nodes[0];
    node.config.policy.addresses.insert(b.v4.into(), [SelectorId(1)].into());
    node.publish();
    assert_eq!(stamps(&sim, b), [quiet[0], now, quiet[2]]);
    // Another content of a rule of its set.
    let node = &mut sim.nodes[0];
    node.config.policy.rules.insert(RuleId(1), rule(Action::Accept, &[1, 2]));
    node.publish();
    let now = sim.nodes[0].snapshot.generation();
    assert_eq!(stamps(&sim, a), [now; 3]);
    // Another set.
    give(&mut sim, a, PortPolicy::default());
    sim.nodes[0].publish();
    let now = sim.nodes[0].snapshot.generation();
    assert_eq!(stamps(&sim, a), [now; 3]);
    assert_eq!(stamps(&sim, c), other, "its neighbour was never concerned");
}

#[test]
fn imagined_connections_are_explained_as_real_ones_are_judged() {
    let (mut sim, [a, b, _]) = isolated();
    let node = &mut sim.nodes[0];
    node.config.policy.addresses.insert(b.v4.into(), [SelectorId(1)].into());
    node.publish();
    let snap = &sim.nodes[0].snapshot;
    let of = |from, client: IpAddr, server: IpAddr| -> Vec<_> {
        snap.explain_policy(from, client, server, 6, 80)
            .map(|j| (j.direction, j.port, j.decision.map(|d| (d.accept, d.rule.map(|r| r.0)))))
            .collect()
    };
    let (to, stray) = (IpAddr::from(a.v4), IpAddr::from([198, 51, 100, 7]));
    let ingress = |decision| (Direction::Ingress, a.port, Some(decision));
    assert_eq!(
        of(Origin::Pod, b.v4.into(), to),
        [(Direction::Egress, b.port, None), ingress((true, Some(1)))],
        "no rules of the client's, one of the server's"
    );
    assert_eq!(of(Origin::Elsewhere, stray, to), [ingress((false, Some(2)))]);
    assert_eq!(of(Origin::Node, [192, 0, 2, 1].into(), to), [], "its own node is exempt");
    assert_eq!(of(Origin::Node, stray, to), [ingress((false, Some(2)))], "but not what that forwards");
    assert_eq!(of(Origin::Pod, to, [192, 0, 2, 1].into()), []);
    let hits: Vec<_> = [1, 2].map(|r| snap.policies().hits(RuleId(r))).into();
    assert_eq!(hits, [0, 0], "nobody asked for real");
}

#[test]
fn the_source_of_a_flow_is_looked_at_again() {
    let mut sim = Sim::new(SimConfig { nodes: 2, ..SimConfig::default() });
    let server = End::Pod(sim.add_pod(0));
    let stranger: IpAddr = "203.0.113.7".parse().expect("an address");
    let send = |sim: &mut Sim, from: End, (src, dst): (IpAddr, IpAddr), l4| {
        let mut spec = frame(sim, from, dst, l4, b"x");
        spec.ip = addresses(src, dst);
        crate::common::send(sim, from, &spec);
        assert_eq!(sim.conserved(), Ok(()));
        let port = if from == server { End::Node(0).port() } else { server.port() };
        sim.take(0, port).len()
    };
    // Somebody behind the node, who is answered that way.
    let there = |sim: &mut Sim| send(sim, End::Node(0), (stranger, server.ip(false)), tcp(4000, 80, ACK));
    let back = |sim: &mut Sim| send(sim, server, (server.ip(false), stranger), tcp(80, 4000, ACK));
    assert_eq!((there(&mut sim), back(&mut sim)), (1, 1));
    // A pod's, by now: another node's range.
    sim.nodes[0].config.peers[0].pod_cidrs.push(Prefix { addr: "203.0.113.0".parse().expect("an address"), len: 24 });
    sim.nodes[0].publish();
    assert_eq!(there(&mut sim), 0);
    assert_eq!(sim.drops(DropReason::SpoofedFromHost), 1);
}

#[test]
fn another_rule_set_of_a_port_leaves_the_routes_as_they_are() {
    let (mut sim, [a, b, _]) = isolated();
    let routes = |sim: &Sim| [a, b].map(|pod| sim.nodes[0].snapshot.route(pod.v4.into()));
    let (before, stamped) = (routes(&sim), [stamps(&sim, a), stamps(&sim, b)]);
    give(&mut sim, b, PortPolicy { ingress: Some(RuleSetId(9)), egress: None });
    sim.nodes[0].publish();
    assert_eq!(routes(&sim), before);
    assert_eq!(stamps(&sim, a), stamped[0]);
    assert!(stamps(&sim, b).iter().all(|s| *s == sim.nodes[0].snapshot.generation()), "its flows are judged again");
    let judged: Vec<_> = sim.nodes[0]
        .snapshot
        .explain_policy(Origin::Pod, a.v4.into(), b.v4.into(), 6, 80)
        .map(|j| j.accepts())
        .collect();
    assert!(judged.contains(&false), "{judged:?}");
    // One that is not known is refused this way, too.
    give(&mut sim, b, PortPolicy { ingress: Some(RuleSetId(10)), egress: None });
    let refused = Snapshot::compile(&sim.nodes[0].config, Some(&sim.nodes[0].snapshot)).map(|_| ());
    assert_eq!(refused, Err(SnapshotError::RuleSet(b.port, 10)));
}
