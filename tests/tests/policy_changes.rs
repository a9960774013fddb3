//! Policies change under connections that run: what is forbidden stops, what stays allowed loses nothing, and what is
//! allowed again goes on.

use std::time::{Duration, Instant};

use podplane_tests::policy::{Program, policy, server};
use podplane_tests::services::{Client, idler};
use podplane_tests::{Lab, PATIENCE, eventually, rounds, succeed};

const NAMES: [&str; 3] = ["web", "alt", "dns"];

/// Servers and clients on both nodes; the servers `x/held` and `x/free` on node 2.
fn up(name: &str) -> Lab {
    let lab = Lab::up(name, &["--nodes", "2", "--workers", "2"]);
    lab.apply(
        &[
            server("x", "held", 2, "app: held", NAMES),
            server("x", "free", 2, "app: free", NAMES),
            idler("near", 2, ""),
            idler("far", 1, ""),
        ]
        .concat(),
    );
    lab
}

/// Connections from both clients to a pod, in both families.
fn hold(lab: &Lab, pod: &str) -> Vec<Program> {
    let addresses = lab.addresses(pod);
    let open = |client: &str, address: &String| {
        let mut program = Program::start(lab, &Client::pod(client), &["hold", address, "80"]);
        eventually("a connection echoes", || (said(&mut program)? > 0).then_some(()));
        program
    };
    ["near", "far"]
        .iter()
        .flat_map(|client| addresses.iter().map(move |a| (client, a)))
        .map(|(c, a)| open(c, a))
        .collect()
}

/// How many echoes came since the last question; nothing, if the connection broke.
fn said(program: &mut Program) -> Option<u64> {
    program.ask("").parse().ok()
}

#[test]
fn a_policy_that_forbids_a_connection_stops_it_and_no_other() {
    let lab = up("t-polchange");
    let (mut held, mut free) = (hold(&lab, "x/held"), hold(&lab, "x/free"));
    let deny = policy("x", "deny", "{podSelector: {matchLabels: {app: held}}}");
    let all = |programs: &mut [Program], wanted: &dyn Fn(u64) -> bool| {
        // Of all of them, also behind the first that is otherwise.
        let said: Vec<u64> = programs.iter_mut().map(|p| said(p).expect("the connection is whole")).collect();
        said.into_iter().all(wanted)
    };
    for _ in 0..2 {
        lab.apply(&deny);
        eventually("no echo of what is forbidden", || {
            all(&mut held, &|_| true);
            std::thread::sleep(Duration::from_millis(300));
            all(&mut held, &|echoes| echoes == 0).then_some(())
        });
        // What is allowed goes on.
        assert!(all(&mut free, &|echoes| echoes > 0), "an allowed connection stood still");
        lab.delete(&deny);
        // TCP tries again by and by.
        eventually("echoes of what is allowed again", || {
            std::thread::sleep(Duration::from_millis(300));
            all(&mut held, &|echoes| echoes > 0).then_some(())
        });
        // A label does the same as a policy that comes or goes.
        lab.apply(&policy("x", "other", "{podSelector: {matchLabels: {shut: 'yes'}}}"));
        succeed(&mut lab.command(&["pod", "label", "x/held", "shut=yes"]));
        eventually("no echo of what a label forbids", || {
            all(&mut held, &|_| true);
            std::thread::sleep(Duration::from_millis(300));
            all(&mut held, &|echoes| echoes == 0).then_some(())
        });
        succeed(&mut lab.command(&["pod", "label", "x/held", "shut-"]));
        eventually("echoes without the label", || {
            std::thread::sleep(Duration::from_millis(300));
            all(&mut held, &|echoes| echoes > 0).then_some(())
        });
    }
    assert!(all(&mut free, &|echoes| echoes > 0), "an allowed connection stood still");
}

/// While policies come and go that leave it allowed, a stream loses nothing. `PODPLANE_CHANGES=200` for the long run.
#[test]
fn changes_that_leave_a_stream_allowed_cost_it_nothing() {
    let lab = up("t-polstream");
    let target = lab.addresses("x/free");
    let mut streams: Vec<Program> = ["near", "far"]
        .iter()
        .flat_map(|client| target.iter().map(move |a| (client, a)))
        .map(|(client, address)| Program::start(&lab, &Client::pod(client), &["stream", address, "53"]))
        .collect();
    let counts = |streams: &mut [Program]| -> Vec<(u64, u64)> {
        let pair =
            |line: String| line.split_once(' ').map(|(a, b)| (a.parse().expect("sent"), b.parse().expect("echoed")));
        streams.iter_mut().map(|s| pair(s.ask("")).expect("two numbers")).collect()
    };
    eventually("all streams echo", || counts(&mut streams).iter().all(|(_, echoed)| *echoed > 50).then_some(()));
    let lost = |all: &[(u64, u64)]| all.iter().map(|(sent, echoed)| sent.saturating_sub(*echoed)).collect::<Vec<_>>();
    let before = lost(&counts(&mut streams));
    let one = policy("x", "one", "{podSelector: {matchLabels: {app: free}}, ingress: [{}]}");
    let two = policy("x", "two", "{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: dns}]}]}");
    for _ in 0..rounds("PODPLANE_CHANGES", 5) {
        lab.apply(&[one.as_str(), two.as_str()].concat());
        lab.delete(&one);
        succeed(&mut lab.command(&["pod", "label", "x/free", "more=labels"]));
        lab.apply(&one);
        lab.delete(&two);
        succeed(&mut lab.command(&["pod", "label", "x/free", "more-"]));
        lab.delete(&one);
    }
    // What is under way is no loss; a socket's buffer that overflows on a busy machine is not policy's doing, but then
    // it is few.
    let settled = eventually("the last echoes", || {
        let now = lost(&counts(&mut streams));
        now.iter().zip(&before).all(|(now, before)| *now <= before + 40).then_some(now)
    });
    let denied = podplane_tests::policy::drops(&lab, 2, "policy-ingress")
        + podplane_tests::policy::drops(&lab, 1, "policy-ingress");
    assert_eq!(denied, 0, "allowed packets were denied; lost {before:?} before, {settled:?} after");
    for node in [1, 2] {
        assert_eq!(podplane_tests::policy::drops(&lab, node, "policy-egress"), 0);
    }
}

/// How long it takes from a policy in the folder to its being in force, seen by a stream. The bound is loose, for a busy
/// machine; the numbers are printed. `PODPLANE_LATENCIES=200` for the long run.
#[test]
fn a_policy_is_in_force_soon() {
    let lab = up("t-pollate");
    let address = &lab.addresses("x/free")[0];
    let mut stream = Program::start(&lab, &Client::pod("near"), &["stream", address, "53"]);
    // Sent, and echoed.
    let mut counts = || -> (u64, u64) {
        let said = stream.ask("");
        let (sent, echoed) = said.split_once(' ').expect("two numbers");
        (sent.parse().expect("a number"), echoed.trim().parse().expect("a number"))
    };
    eventually("the stream echoes", || (counts().1 > 50).then_some(()));
    let folder = std::path::PathBuf::from("/run/podplane-lab").join(lab.name()).join("manifests");
    assert!(folder.is_dir(), "the lab keeps its objects elsewhere by now");
    let text = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "late", "namespace": "x", "uid": "late"},
        "spec": {"podSelector": {"matchLabels": {"app": "free"}}, "policyTypes": ["Ingress"]},
    });
    let (file, draft) = (folder.join("networkpolicy_x_late.json"), folder.join(".late"));
    let mut took = Vec::new();
    for _ in 0..rounds("PODPLANE_LATENCIES", 10) {
        std::fs::write(&draft, text.to_string()).expect("the lab's folder");
        let start = Instant::now();
        std::fs::rename(&draft, &file).expect("the lab's folder");
        // In force when the last echo came, which is known once so many datagrams more brought none, for so long: a
        // silence alone may be that of a machine that has other work.
        let (mut last, mut at) = (counts(), start.elapsed());
        loop {
            let now = counts();
            if now.1 != last.1 {
                (last, at) = (now, start.elapsed());
            }
            let silence = start.elapsed() - at;
            if now.0 >= last.0 + 100 && silence > Duration::from_millis(500) {
                break;
            }
            assert!(at < PATIENCE && silence < PATIENCE, "the stream does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        took.push(at);
        std::fs::remove_file(&file).expect("the policy is there");
        eventually("the stream goes on", || {
            let before = counts().1;
            std::thread::sleep(Duration::from_millis(20));
            (counts().1 > before + 2).then_some(())
        });
    }
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    println!(
        "in force after {:?} (median), {:?} (99 of 100), {:?} (worst of {})",
        at(50),
        at(99),
        took[took.len() - 1],
        took.len()
    );
    assert!(at(50) < Duration::from_secs(5), "{took:?}");
}
