//! What is foretold of packets is what becomes of them.

use std::sync::Arc;

use podplane_packet::buf::PacketBuf;
use podplane_packet::testing::VecBuf;
use podplane_packet::wire::proto;
use podplane_tables::policy::{Action as Rule, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, SelectorId, Tier};

use super::*;
use crate::sim::{Sim, SimConfig, SimPod, gateway_v4, node_v4, node_v6};
use crate::snapshot::services::{Backend, Choice, FrontendConfig, FrontendKind, Protocol, ServiceConfig};
use crate::snapshot::{PortPolicy, Prefix};

const CLIENTS: SelectorId = SelectorId(1);

/// Two pods and a third on the other node; two Services, one of them without endpoints.
fn cluster() -> (Sim, [SimPod; 3]) {
    let mut sim = Sim::new(SimConfig::default());
    let pods = [0, 0, 1].map(|node| sim.add_pod(node));
    let node = &mut sim.nodes[0];
    let local = node.config.local.as_mut().unwrap();
    local.service_cidrs = vec![Prefix { addr: vip(0), len: 24 }];
    let place = |pod: &SimPod| Backend { address: pod.v4.into(), port: 8080 };
    let mut both = vec![place(&pods[1]), place(&pods[2])];
    both.sort_unstable();
    for (n, sets, inside) in [(1, vec![both], Choice::Set(0)), (2, Vec::new(), Choice::Reject)] {
        let (kind, address, sources) = (FrontendKind::ClusterIp, vip(n), None);
        let frontend = FrontendConfig { kind, address, port: 80, inside, outside: Choice::Drop, sources };
        let (protocol, frontends) = (Protocol::Tcp, vec![frontend]);
        let service = ServiceConfig { protocol, affinity_seconds: None, sets, frontends };
        node.config.services.insert(ServiceId(n.into()), Arc::new(service));
    }
    sim.nodes[0].publish();
    (sim, pods)
}

fn vip(n: u8) -> IpAddr {
    [10, 96, 0, n].into()
}

fn spec(action: Rule, peers: PeersSpec, ports: Option<Box<[Ports]>>) -> Arc<RuleSpec> {
    Arc::new(RuleSpec { tier: Tier::NetworkPolicy, action, peers, named: None, ports })
}

/// Pod 1 serves TCP to the pods of class [`CLIENTS`], and nothing else to anybody; pod 0, which is one, opens TCP only.
fn protect(sim: &mut Sim, pods: &[SimPod; 3]) {
    let tcp = || Some(vec![Ports { protocol: proto::TCP, first: 1, last: 65_535 }].into());
    let clients = PeersSpec::Of { selectors: vec![CLIENTS].into(), nets: Box::default() };
    let config = &mut sim.nodes[0].config;
    config.policy.rules.insert(RuleId(1), spec(Rule::Accept, clients, tcp()));
    config.policy.rules.insert(RuleId(2), spec(Rule::Deny, PeersSpec::Any, None));
    config.policy.rules.insert(RuleId(3), spec(Rule::Accept, PeersSpec::Any, tcp()));
    config.policy.sets.insert(RuleSetId(1), vec![RuleId(1), RuleId(2)].into());
    config.policy.sets.insert(RuleSetId(2), vec![RuleId(3), RuleId(2)].into());
    for address in [IpAddr::V4(pods[0].v4), IpAddr::V6(pods[0].v6)] {
        config.policy.addresses.insert(address, vec![CLIENTS].into());
    }
    for (port, entry) in &mut config.ports {
        let set = |is: bool, set| is.then_some(RuleSetId(set));
        entry.policy = PortPolicy { ingress: set(*port == pods[1].port, 1), egress: set(*port == pods[0].port, 2) };
    }
    sim.nodes[0].publish();
}

/// Sends the packet, and holds what becomes of it against what was foretold.
fn compare(sim: &mut Sim, imagined: &Imagined) -> Fate {
    let snapshot = Arc::clone(&sim.nodes[0].snapshot);
    let fate = explain(&snapshot, imagined).unwrap();
    let entry = snapshot.port(fate.enters).unwrap();
    let frame = imagined.frame(fate.enters, Mac::GATEWAY, entry.mac);
    let before = sim.all_drops();
    sim.inject(0, fate.enters, entry.home, VecBuf::new(frame.head()).with_meta(*frame.meta()));
    sim.settle();
    let delivered: Vec<(usize, PortId, VecBuf)> = sim
        .nodes
        .iter_mut()
        .enumerate()
        .flat_map(|(n, node)| node.delivered.drain(..).map(move |(port, buf)| (n, port, buf)).collect::<Vec<_>>())
        .collect();
    let [(node, port, buf)] = &delivered[..] else {
        assert!(delivered.is_empty(), "{imagined:?}: {delivered:?}");
        let End::Dropped(reason) = fate.end else { panic!("{imagined:?}: {:?} was foretold", fate.end) };
        let count = |all: &[(&str, u64)]| all.iter().find(|(name, _)| *name == reason.name()).map_or(0, |(_, n)| *n);
        assert_eq!(count(&sim.all_drops()), count(&before) + 1, "{imagined:?}: {:?}", sim.all_drops());
        return fate;
    };
    let (head, v6) = (buf.head(), imagined.source.is_ipv6());
    let addresses = if v6 { (&head[22..38], &head[38..54]) } else { (&head[26..30], &head[30..34]) };
    let octets = |a: IpAddr| match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    match fate.end {
        End::Leaves(Action::Forward(to)) => assert_eq!((*node, *port), (0, to), "{imagined:?}"),
        End::Leaves(Action::Encap(_)) => assert_eq!(*node, 1, "{imagined:?}"),
        End::Answered(_) => return fate,
        other => panic!("{imagined:?}: {other:?} was foretold, it came out at {port:?} of {node}"),
    }
    assert_eq!(addresses, (&octets(fate.tuple.src)[..], &octets(fate.tuple.dst)[..]), "{imagined:?}");
    fate
}

#[test]
fn what_is_foretold_is_what_happens() {
    let (mut sim, pods) = cluster();
    let mut ends = std::collections::BTreeMap::<String, u32>::new();
    for protected in [false, true] {
        if protected {
            protect(&mut sim, &pods);
            // What was allowed before is remembered.
            sim.advance(200_000_000);
        }
        let [a, b, c] = pods;
        let nobody = IpAddr::from([10, 244, 0, 250]);
        let v4 = [a.v4.into(), b.v4.into(), c.v4.into(), vip(1), vip(2), vip(3), node_v4(0).into(), node_v4(1).into()];
        let v6: [IpAddr; 5] = [a.v6.into(), b.v6.into(), c.v6.into(), node_v6(0).into(), node_v6(1).into()];
        let all = |mut list: Vec<IpAddr>, more: IpAddr| {
            list.push(more);
            list
        };
        let places = [(a.v4.into(), b.v4.into(), all(v4.into(), nobody)), (a.v6.into(), b.v6.into(), v6.into())];
        for (first, second, destinations) in places {
            let own = if first == IpAddr::V4(a.v4) { node_v4(0).into() } else { node_v6(0).into() };
            for source in [first, second, own] {
                for destination in destinations.iter().copied().filter(|d| *d != source) {
                    for protocol in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP] {
                        let fate = compare(&mut sim, &Imagined { source, destination, protocol, port: 80 });
                        *ends.entry(format!("{:?}", std::mem::discriminant(&fate.end))).or_default() += 1;
                    }
                }
            }
        }
    }
    assert!(ends.len() >= 3 && ends.values().all(|n| *n > 2), "some leave, some are dropped, some answered: {ends:?}");
}

#[test]
fn the_rule_is_named_and_nothing_is_counted() {
    let (mut sim, pods) = cluster();
    protect(&mut sim, &pods);
    let snapshot = Arc::clone(&sim.nodes[0].snapshot);
    let ask = |source: IpAddr, destination: IpAddr, protocol| {
        explain(&snapshot, &Imagined { source, destination, protocol, port: 80 }).unwrap()
    };
    let rules = |fate: &Fate| fate.judged.iter().map(|j| j.decision.and_then(|d| d.rule)).collect::<Vec<_>>();
    let good = ask(pods[0].v4.into(), pods[1].v4.into(), proto::TCP);
    assert_eq!(good.end, End::Leaves(Action::Forward(pods[1].port)));
    assert_eq!(rules(&good), [Some(RuleId(3)), Some(RuleId(1))]);
    let denied = ask(pods[0].v4.into(), pods[1].v4.into(), proto::UDP);
    assert_eq!((denied.end, rules(&denied)[0]), (End::Dropped(DropReason::PolicyEgress), Some(RuleId(2))));
    // From the other node, where its own egress was judged.
    let far = ask(pods[2].v6.into(), pods[1].v6.into(), proto::TCP);
    assert_eq!((far.end, far.enters), (End::Dropped(DropReason::PolicyIngress), PortId::UPLINK));
    assert!(far.tunnel.is_some());
    let service = ask(pods[0].v4.into(), vip(1), proto::TCP);
    assert_eq!(service.service, Some((ServiceId(1), 2)));
    let refused = ask(pods[0].v4.into(), vip(2), proto::TCP);
    assert_eq!((refused.end, refused.service), (End::Answered(NodeId::Refuse), Some((ServiceId(2), 0))));
    let gateway = ask(pods[0].v4.into(), gateway_v4(0).into(), proto::ICMP);
    assert_eq!(gateway.end, End::Answered(NodeId::Gateway));
    assert!([1, 2, 3].iter().all(|rule| snapshot.policies().hits(RuleId(*rule)) == 0));
    assert!(snapshot.frontends().all(|frontend| frontend.hits == 0));
    assert_eq!((sim.flows(), sim.all_drops().len()), (0, 0));
}
