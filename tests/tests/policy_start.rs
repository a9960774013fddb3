//! Pods start under a default deny while others flood them: nothing that is forbidden ever reaches the inside of one, and
//! neither does it while agents and dataplanes are killed.

use podplane_tests::policy::{Program, drops, policy, received, server};
use podplane_tests::services::{Client, idler};
use podplane_tests::{Lab, eventually, rounds, succeed};

/// Where the flood goes to.
const PORT: &str = "9999";

/// All addresses that the next so many pods of node 1 get.
fn places(pods: u32) -> Vec<String> {
    (2..(20 + pods).min(254)).flat_map(|n| [format!("10.244.1.{n}"), format!("fd00:10:244:1::{n:x}")]).collect()
}

/// A lab with a default deny in namespace `shut`, and floods from a pod of each node against all of node 1's addresses.
fn flooded(name: &str, pods: u32) -> (Lab, Vec<Program>) {
    let lab = Lab::up(name, &["--nodes", "2", "--workers", "2"]);
    lab.apply(
        &[
            policy("shut", "deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
            idler("near", 1, ""),
            idler("far", 2, ""),
            server("default", "open", 1, "app: open", ["web", "alt", "dns"]),
        ]
        .concat(),
    );
    let places = places(pods);
    let args: Vec<&str> = ["flood", PORT].into_iter().chain(places.iter().map(String::as_str)).collect();
    let floods = ["near", "far"].map(|pod| Program::start(&lab, &Client::pod(pod), &args)).into();
    (lab, floods)
}

/// How many datagrams all floods have sent.
fn sent(floods: &mut [Program]) -> Vec<u64> {
    floods.iter_mut().map(|flood| flood.ask("").parse().expect("a count")).collect()
}

/// Lets all floods reach every address a few times.
fn let_pass(floods: &mut [Program], pods: u32) {
    let rounds = 3 * places(pods).len() as u64;
    let before = sent(floods);
    eventually("the floods go on", || {
        sent(floods).iter().zip(&before).all(|(now, before)| now - before > rounds).then_some(())
    });
}

/// What a pod's kernel was handed that it must not have been: IPv4 of any kind, IPv6 but for neighbour discovery.
fn forbidden(lab: &Lab, pod: &str) -> u64 {
    let received = received(lab, pod);
    received.v4 + received.v6 + received.transport
}

/// `PODPLANE_STARTS=200` for the long run.
#[test]
fn nothing_forbidden_reaches_a_pod_that_starts() {
    let starts = rounds("PODPLANE_STARTS", 20);
    let (lab, mut floods) = flooded("t-polstart", starts);
    // The flood is one: it reaches a pod that nothing protects.
    eventually("the flood reaches an open pod", || (received(&lab, "default/open").transport > 100).then_some(()));
    let before = drops(&lab, 1, "policy-ingress");
    for n in 0..starts {
        let pod = format!("shut/p{n}");
        succeed(&mut lab.command(&["pod", "add", &pod, "--node", "1"]));
        let_pass(&mut floods, starts);
        assert_eq!(forbidden(&lab, &pod), 0, "start {n}: {:?}", received(&lab, &pod));
        succeed(&mut lab.command(&["pod", "delete", &pod]));
    }
    // Most of it ends in cached denials, but each packet is counted.
    let dropped = drops(&lab, 1, "policy-ingress") - before;
    assert!(dropped > u64::from(starts) * 2, "only {dropped} packets were dropped in {starts} starts");
    println!("{starts} starts, {dropped} packets dropped, none passed");
}

#[test]
fn restarts_keep_shut_what_is_shut() {
    let (lab, mut floods) = flooded("t-polkill", 2);
    for pod in ["shut/a", "shut/b"] {
        succeed(&mut lab.command(&["pod", "add", pod, "--node", "1"]));
    }
    let shut = |what: &str, floods: &mut [Program]| {
        let_pass(floods, 2);
        for pod in ["shut/a", "shut/b"] {
            assert_eq!(forbidden(&lab, pod), 0, "{what}: {:?}", received(&lab, pod));
        }
    };
    shut("before", &mut floods);
    for round in 0..2 {
        lab.kill(1, "agent");
        shut("without an agent", &mut floods);
        lab.restart(1, "agent");
        shut("a new agent", &mut floods);
        lab.kill(1, "dataplane");
        shut("without a dataplane", &mut floods);
        lab.restart(1, "dataplane");
        shut("a new dataplane", &mut floods);
        lab.kill(1, "agent");
        lab.kill(1, "dataplane");
        shut("without both", &mut floods);
        lab.restart(1, "dataplane");
        shut("a new dataplane without an agent", &mut floods);
        lab.restart(1, "agent");
        shut(&format!("both anew, round {round}"), &mut floods);
    }
    // And it is policy that keeps them shut.
    lab.apply(&policy(
        "shut",
        "allow",
        &format!("{{podSelector: {{}}, ingress: [{{ports: [{{protocol: UDP, port: {PORT}}}]}}]}}"),
    ));
    eventually("the flood is let in", || {
        (received(&lab, "shut/a").transport > 100 && received(&lab, "shut/b").transport > 100).then_some(())
    });
}
