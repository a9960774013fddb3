//! Histories that chance came to, or hardly ever comes to: each is compared as the random ones are.

use podplane_policy_model::api::*;
use podplane_policy_model::objects::{Container, ContainerPort};

use crate::random::{Op, PodPlan, history};

fn labels(app: &str) -> Labels {
    Labels::from([("app".to_owned(), app.to_owned())])
}

fn pod(node: usize, app: &str, place: usize) -> PodPlan {
    let ports = vec![ContainerPort { name: "web".into(), protocol: None, number: 53, of: Container::Main }];
    PodPlan { node, labels: labels(app), ports, families: &[false, true], host_network: false, place }
}

/// Pods of the first namespace may be reached by those of `app` alone.
fn only(app: &str) -> NetworkPolicySpec {
    let selector = LabelSelector { match_labels: labels(app), ..LabelSelector::default() };
    let from = vec![Peer {
        pod_selector: Some(selector),
        namespace_selector: Some(LabelSelector::default()),
        ..Peer::default()
    }];
    NetworkPolicySpec { ingress: vec![IngressRule { from, ports: Vec::new() }], ..NetworkPolicySpec::default() }
}

fn spaces() -> Vec<Op> {
    (0..3).map(|n| Op::Namespace(n, Labels::new())).collect()
}

fn heard() -> [Op; 2] {
    [Op::Deliver(0, 16, 7), Op::Deliver(1, 16, 7)]
}

fn agrees(beginning: Vec<Op>, ops: Vec<Op>) {
    for workers in [1, 2] {
        if let Err((error, log)) = history(workers, &beginning, &ops) {
            panic!("{error}\n{log:#?}");
        }
    }
}

/// An address that nobody is known to own may be whoever a Deny is about, and call its ports as others do.
#[test]
fn a_deny_by_a_ports_name_holds_for_pods_that_are_not_known() {
    let to = vec![ClusterPeer { namespaces: Some(LabelSelector::default()), ..ClusterPeer::default() }];
    let protocols = vec![ClusterProtocol { destination_named_port: Some("web".into()), ..ClusterProtocol::default() }];
    let deny = ClusterNetworkPolicySpec {
        tier: "Admin".into(),
        subject: Subject { namespaces: Some(LabelSelector::default()), pods: None },
        egress: vec![ClusterEgressRule { name: String::new(), action: "Deny".into(), to, protocols }],
        ..ClusterNetworkPolicySpec::default()
    };
    agrees([spaces(), vec![Op::ClusterPolicy(0, deny), Op::Pod(0, pod(0, "a", 0))]].concat(), heard().to_vec());
}

/// Two pods claim an address on a node that neither is on: who is about to end does not have it, whatever is heard first.
#[test]
fn an_address_is_used_again_before_everybody_has_said_goodbye() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        for ends in [true, false] {
            // Slots 1 and 4 are of the second namespace, slot 0 is the server on the other node.
            let beginning = vec![Op::Policy(0, 0, only("a")), Op::Pod(0, pod(0, "c", 0)), Op::Pod(4, pod(1, first, 2))];
            let ops = vec![Op::Unplug(4, ends), Op::Pod(1, pod(1, second, 2))];
            let late = vec![Op::Delete(4, false)];
            agrees([spaces(), beginning].concat(), [ops, heard().to_vec(), late, heard().to_vec()].concat());
        }
    }
}

/// The names of the two are the other way round: the last to come has it, not the last by name.
#[test]
fn of_two_that_claim_an_address_the_last_to_come_has_it() {
    for (first, second) in [(1, 4), (4, 1)] {
        let beginning = vec![Op::Policy(0, 0, only("a")), Op::Pod(0, pod(0, "c", 0)), Op::Pod(first, pod(1, "a", 2))];
        let ops = vec![Op::Unplug(first, false), Op::Pod(second, pod(1, "b", 2))];
        agrees([spaces(), beginning].concat(), [ops, heard().to_vec()].concat());
    }
}

/// Its object goes before its network: nobody's address, and still under its policy, also one that comes later.
#[test]
fn a_pod_without_an_object_stays_under_policy() {
    let beginning = vec![Op::Pod(0, pod(0, "a", 0)), Op::Pod(3, pod(1, "a", 1)), Op::Pod(6, pod(0, "b", 1))];
    let ops = vec![Op::Delete(0, true), Op::Policy(0, 0, only("b"))];
    let more = vec![Op::Restart(0), Op::NoPolicy(0, 0)];
    agrees([spaces(), beginning].concat(), [ops, heard().to_vec(), more, heard().to_vec()].concat());
}
