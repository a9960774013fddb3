//! Processes are killed under live connections through Services, and none of the connections breaks.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;

use podplane_tests::Lab;
use podplane_tests::services::{Client, fetch, idler, server, service};

/// Connections that echo all the time through the same Service, each side of the family.
const FLOWS: usize = 500;
/// The longest silence that a restarted dataplane may cause, in milliseconds.
const GAP: u64 = 1000;
/// What one round of several may take on a machine that is busy with other things: TCP's own waiting comes on top.
const WORST: u64 = 4000;

fn lab(name: &str) -> (Lab, [String; 2]) {
    let lab = Lab::up(name, &["--nodes", "2", "--workers", "2"]);
    lab.apply(
        &[
            server("a", 1, "web", "", ""),
            server("b", 2, "web", "", ""),
            idler("client", 1, ""),
            service("web", "web", "type: NodePort,"),
        ]
        .concat(),
    );
    let addresses = lab.cluster_ips("default/web");
    for address in &addresses {
        lab.until_answers(&Client::pod("client"), address, 80);
    }
    (lab, addresses)
}

/// Connections of one client.
struct Flows(Child, BufReader<std::process::ChildStdout>);

impl Flows {
    /// Opens them, and answers once all are open.
    fn open(lab: &Lab, address: &str, seconds: u64) -> Flows {
        let args = ["flows", address, "81", &FLOWS.to_string(), &seconds.to_string()];
        let mut child = lab.start_client(&Client::pod("client"), &args);
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the client says something");
        assert_eq!(line.trim(), "open");
        Flows(child, output)
    }

    /// How many broke, and the longest silence in milliseconds.
    fn finish(mut self) -> (u64, u64) {
        let mut said = String::new();
        self.1.read_to_string(&mut said).expect("text");
        assert!(self.0.wait().expect("our own child").success(), "{said}");
        let words: Vec<_> = said.split_whitespace().collect();
        (words[1].parse().expect("a count"), words[3].parse().expect("milliseconds"))
    }
}

#[test]
fn killed_agents_cost_nothing() {
    let (lab, addresses) = lab("t-svcagent");
    let flows = addresses.each_ref().map(|address| Flows::open(&lab, address, 12));
    for node in [1, 2, 1] {
        lab.kill(node, "agent");
        // New connections go on without it.
        for address in &addresses {
            fetch(&lab, &Client::pod("client"), address, 80, 4).expect("answers without an agent");
        }
        lab.restart(node, "agent");
    }
    for flows in flows {
        let (lost, gap) = flows.finish();
        assert_eq!(lost, 0, "connections broke");
        assert!(gap < GAP, "a silence of {gap} ms");
    }
}

#[test]
fn a_killed_dataplane_resumes_its_flows_within_a_second() {
    let (lab, addresses) = lab("t-svckill");
    let mut gaps = Vec::new();
    for round in 0..5 {
        let address = &addresses[round % 2];
        let flows = Flows::open(&lab, address, 8);
        // The one of the client, then the one of a backend.
        let node = if round < 3 { 1 } else { 2 };
        lab.kill(node, "dataplane");
        lab.restart(node, "dataplane");
        let (lost, gap) = flows.finish();
        assert_eq!(lost, 0, "round {round}: connections broke");
        assert!(gap <= WORST, "round {round}: a silence of {gap} ms");
        gaps.push(gap);
    }
    gaps.sort_unstable();
    assert!(gaps[2] <= GAP, "silences of {gaps:?} ms: the median is too long");
}
