//! Rules from the agent to packets: judged, counted, explained, and changed under running connections.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use podplane_config::introspect::{
    Behind, Direction, Drop as Dropped, Explained, Imaginary, Policies, Question, Verdict,
};
use podplane_config::v1::{
    Address, Endpoint, EndpointPolicy, FromDataplane, Key, Object, Peers, PortRange, Protocol, Rule, RuleAction,
    RuleSet, Tier,
};

use super::{endpoint, local};
use crate::node::{Agent, Node};

const PORT: u16 = 8080;
/// The selector of clients.
const CLIENTS: u32 = 7;

fn owner(i: u8, selectors: &[u32]) -> [Object; 2] {
    [format!("10.244.1.{i}"), format!("fd00:244:1::{i}")].map(|address| {
        let (owner, name) = (format!("uid-{i}"), format!("default/pod{i}"));
        Object::Address(Address { address: address.parse().unwrap(), owner, name, selectors: selectors.to_vec() })
    })
}

fn rules() -> Vec<Object> {
    let rule = |id, name: &str, action, peers, ports| {
        let (name, tier, named) = (name.to_owned(), Tier::NetworkPolicy, None);
        Object::Rule(Rule { id, name, tier, action, peers, named, ports })
    };
    let clients = Peers::Of { selectors: vec![CLIENTS], nets: Vec::new() };
    let tcp = vec![PortRange { protocol: Protocol::Tcp, first: PORT, last: PORT }];
    vec![
        rule(1, "NetworkPolicy default/web ingress[0]", RuleAction::Accept, clients, Some(tcp)),
        rule(2, "NetworkPolicy isolation", RuleAction::Deny, Peers::Any, None),
        Object::RuleSet(RuleSet { id: 1, rules: vec![1, 2] }),
    ]
}

fn guarded(i: u8, mac: [u8; 6]) -> Object {
    let Object::Endpoint(plain) = endpoint(i, mac) else { unreachable!("it is one") };
    Object::Endpoint(Endpoint { policy: EndpointPolicy { ingress: Some(1), egress: None }, ..plain })
}

fn connects(node: &Node, from: u8, to: &str) -> Result<TcpStream, ErrorKind> {
    let to = format!("{to}:{PORT}").parse().unwrap();
    node.in_pod(from, || TcpStream::connect_timeout(&to, Duration::from_secs(2))).map_err(|e| e.kind())
}

fn hits(node: &Node, rule: u32) -> u64 {
    let policies: Policies = node.ask(Question::Policies);
    policies.rules.iter().find(|known| known.id == rule).map_or(0, |known| known.hits)
}

fn explained(node: &Node, from: &str, to: &str, protocol: &str) -> Explained {
    let (from, to, protocol) = (from.to_owned(), to.to_owned(), protocol.to_owned());
    let port = if protocol == "ICMP" { 0 } else { PORT };
    node.ask(Question::Explain { packet: Imaginary { from, to, protocol, port, ipv6: false } })
}

fn denied(node: &Node, pod: &str) -> u64 {
    let drops: Vec<Dropped> = node.ask(Question::Drops);
    drops.iter().filter(|drop| drop.reason == "policy-ingress" && drop.pod == pod).map(|drop| drop.packets).sum()
}

#[test]
fn rules_are_in_force_counted_explained_and_changed() {
    let mut node = Node::new("policy");
    let (mac2, mac3, mac4) = (node.add_pod(2), node.add_pod(3), node.add_pod(4));
    node.start(&["--workers", "2"]);
    let mut agent = Agent::connect(&node);
    let mut all = vec![local(), endpoint(2, mac2), guarded(3, mac3), endpoint(4, mac4)];
    all.extend(rules());
    all.extend([owner(2, &[CLIENTS]), owner(3, &[]), owner(4, &[])].concat());
    assert!(matches!(agent.commit(1, true, all), FromDataplane::Applied { generation: 1, .. }));
    let server = node.in_pod(3, || TcpListener::bind(("::", PORT)).unwrap());

    let stream = connects(&node, 2, "10.244.1.3").expect("a client is let in");
    connects(&node, 2, "[fd00:244:1::3]").expect("by IPv6 too");
    assert_eq!(connects(&node, 4, "10.244.1.3").unwrap_err(), ErrorKind::TimedOut, "silence");
    assert!(!node.pod_pings(2, "10.244.1.3"), "a rule with ports does not accept echo");
    assert!(node.pod_pings(3, "10.244.1.4"), "replies to the isolated pod pass");
    assert_eq!(hits(&node, 1), 2);
    assert!(hits(&node, 2) >= 2 && denied(&node, "default/pod3") >= 2);
    assert_eq!(denied(&node, "default/pod4"), 0, "counted at the pod whose rules forbid it");

    let policies: Policies = node.ask(Question::Policies);
    let of_3 = policies.endpoints.iter().find(|endpoint| endpoint.pod == "default/pod3").unwrap();
    assert_eq!((of_3.ingress, of_3.egress, policies.endpoints.len()), (Some(1), None, 3));
    assert_eq!((policies.addresses, policies.classes, &policies.sets[0].rules), (6, 2, &vec![1, 2]));

    let before = (hits(&node, 1), hits(&node, 2));
    let good = explained(&node, "default/pod2", "default/pod3", "TCP");
    assert_eq!(good.verdict, Verdict::Accept, "{good:?}");
    assert_eq!(
        good.leaves.as_ref().map(|leaves| (leaves.to, leaves.name.as_str())),
        Some((Behind::Pod, "default/pod3"))
    );
    let ingress = |e: &Explained| {
        let judged = e.judged.iter().find(|judgement| judgement.direction == Direction::Ingress).cloned().unwrap();
        (judged.accept, judged.rule.map(|rule| rule.name))
    };
    assert_eq!(ingress(&good), (true, Some("NetworkPolicy default/web ingress[0]".to_owned())));
    let bad = explained(&node, "10.244.1.4", "default/pod3", "TCP");
    assert_eq!(
        (bad.verdict, bad.reason.as_str(), bad.from.name.as_str()),
        (Verdict::Drop, "policy-ingress", "default/pod4")
    );
    assert_eq!(ingress(&bad), (false, Some("NetworkPolicy isolation".to_owned())));
    assert_eq!(explained(&node, "default/pod2", "default/pod3", "ICMP").verdict, Verdict::Drop);
    assert_eq!(explained(&node, "node/node1", "default/pod3", "ICMP").verdict, Verdict::Accept, "its own node");
    assert_eq!((hits(&node, 1), hits(&node, 2)), before, "nothing was counted");
    let nobody = r#"{"get":"explain","packet":{"from":"a/b","to":"::1","protocol":"TCP","port":80}}"#;
    assert!(node.try_ask_raw(nobody).unwrap_err().contains("nobody known here is named \"a/b\""));

    // Another label: the class of the addresses changes, and the running connection ends.
    assert!(matches!(agent.commit(2, false, owner(2, &[]).to_vec()), FromDataplane::Applied { .. }));
    assert_eq!(connects(&node, 2, "10.244.1.3").unwrap_err(), ErrorKind::TimedOut);
    let drops = denied(&node, "default/pod3");
    std::io::Write::write_all(&mut &stream, b"more").unwrap();
    node.until("its packets are dropped", |node| denied(node, "default/pod3") > drops);
    assert!(matches!(agent.commit(3, false, owner(2, &[CLIENTS]).to_vec()), FromDataplane::Applied { .. }));
    connects(&node, 2, "10.244.1.3").expect("let in again");

    // What is still named stays; what is not known is refused.
    let FromDataplane::Refused { reason, .. } = agent.delete(4, Key::Rule(1)) else { panic!("applied") };
    assert!(reason.contains("rule set 1: its rule 1 is not there"), "{reason}");
    connects(&node, 2, "10.244.1.3").expect("the former configuration is in force");
    assert!(matches!(agent.commit(5, false, vec![endpoint(3, mac3)]), FromDataplane::Applied { .. }));
    connects(&node, 4, "10.244.1.3").expect("no policy applies any more");
    drop(server);
}
