//! The uplink's life: its interface goes and comes back, and its MTU changes.

use podplane_config::introspect::{Link, Question, Status};
use podplane_config::link;
use podplane_config::v1::{FromDataplane, Object, Peer};

use crate::node::{Agent, Node};
use crate::{endpoint, local};

fn uplink_mtu(node: &Node) -> u16 {
    node.ask::<Status>(Question::Status).uplink.mtu
}

#[test]
fn an_uplink_that_comes_back_is_taken_over_again() {
    let mut node = Node::new("back");
    let addresses = node.addresses("eth0");
    node.start(&["--workers", "2"]);
    assert!(node.neighbour_pings("10.9.0.1"));
    for _ in 0..2 {
        node.sh("ip link del eth0");
        node.until("its end is noticed", |node| node.ask::<Status>(Question::Status).uplink.link == Link::Gone);
        node.add_uplink();
        node.until("it is open again", |node| node.ask::<Status>(Question::Status).uplink.link == Link::Up);
        assert!(node.neighbour_pings("10.9.0.1") && node.neighbour_pings("fd00:9::1"));
        assert!(node.addresses("eth0").is_empty());
    }
    node.stop();
    assert_eq!(node.addresses("eth0"), addresses);
}

#[test]
fn a_smaller_mtu_is_followed_at_once_and_told_to_the_agent() {
    let mut node = Node::new("mtu");
    let mac = node.add_pod(2);
    node.start(&[]);
    let mut agent = Agent::connect(&node);
    let peer = Peer {
        name: "peer".into(),
        vtep: "10.9.0.2".parse().unwrap(),
        addresses: vec!["10.9.0.2".parse().unwrap()],
        pod_cidrs: vec!["10.244.2.0/24".parse().unwrap()],
    };
    let all = vec![local(), endpoint(2, mac), Object::Peer(peer)];
    assert!(matches!(agent.commit(1, true, all), FromDataplane::Applied { generation: 1, .. }));
    // 1428 bytes fit through the tunnel over 1500 and not over 1400.
    let ping = |node: &Node| node.pod_says(2, "ping -c 1 -W 1 -M do -s 1400 10.244.2.9");
    assert!(!ping(&node).contains("1350"));
    node.sh("ip link set eth0 mtu 1400");
    node.until("it is followed", |node| uplink_mtu(node) == 1400);
    let said = ping(&node);
    assert!(said.contains("mtu = 1350") || said.contains("mtu=1350"), "{said}");
    assert!(node.sh("ip -o link show podplane0").contains(" mtu 1400 "));
    node.until("the agent is let go", |node| !node.ask::<Status>(Question::Status).agent.connected);
    let (_link, facts) = link::connect(&node.socket()).unwrap();
    assert_eq!(facts.uplink_mtu, 1400, "and hears of it when it comes again");

    node.sh("ip link set eth0 mtu 1500");
    node.until("a larger one is followed too", |node| uplink_mtu(node) == 1500);
}

#[test]
fn the_agent_is_told_which_devices_went_and_came_back() {
    let mut node = Node::new("news");
    let mac = node.add_pod(2);
    node.start(&[]);
    let mut agent = Agent::connect(&node);
    let applied = |failed| FromDataplane::Applied { generation: 1, failed };
    assert_eq!(agent.commit(1, true, vec![local(), endpoint(2, mac)]), applied(vec![]));
    node.remove_pod(2);
    let FromDataplane::Applied { generation: 1, failed } = agent.answer(1) else { panic!("refused") };
    assert_eq!(failed.iter().map(|failure| failure.id.as_str()).collect::<Vec<_>>(), ["container2/eth0"]);
    node.add_pod_with(2, mac);
    assert_eq!(agent.answer(1), applied(vec![]));
}
