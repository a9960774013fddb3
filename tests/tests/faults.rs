//! Processes are killed, and the network goes on or comes back.

use std::process::{Child, Stdio};
use std::time::Duration;

use podplane_tests::{Lab, eventually, rounds, succeed, text};

/// Pings without end until it is asked for its counts.
struct Pinger(Child);

impl Pinger {
    fn start(lab: &Lab, from: &str, to: &str) -> Pinger {
        Pinger(lab.exec(from, &["ping", "-i", "0.05", to]).stdout(Stdio::piped()).spawn().expect("ping starts"))
    }

    /// Packets sent and answered.
    fn finish(self) -> (u64, u64) {
        // The command became ping itself, so the interrupt reaches it.
        succeed(std::process::Command::new("kill").args(["-INT", &self.0.id().to_string()]));
        let out = self.0.wait_with_output().expect("our own child");
        let report = text(&out);
        let line = report.lines().find(|l| l.contains("packets transmitted")).expect("a summary").to_owned();
        let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        (numbers.next().expect("sent"), numbers.next().expect("answered"))
    }
}

/// `PODPLANE_KILLS=1000` for the long run.
#[test]
fn packets_go_on_while_agents_are_killed() {
    let lab = Lab::up("t-agent", &["--nodes", "2"]);
    let (_, b) = (lab.pod("default/a", 1), lab.pod("default/b", 2));
    let pinger = Pinger::start(&lab, "default/a", &b[0]);
    for round in 0..rounds("PODPLANE_KILLS", 20) {
        let node = (round % 2 + 1) as u8;
        lab.kill(node, "agent");
        succeed(&mut lab.command(&["restart", "agent", "--node", &node.to_string()]));
        // The next one is killed at work, not only while it starts; and a fast machine must see packets, too.
        std::thread::sleep(Duration::from_millis(200));
    }
    let (sent, answered) = pinger.finish();
    assert!(sent > 50, "only {sent} packets were sent");
    // One may be under way when the pinger is interrupted.
    assert!(answered + 1 >= sent, "{} of {sent} packets were lost while agents restarted", sent - answered);
    let c = lab.pod("default/c", 1);
    lab.ping("default/b", &c);
}

#[test]
fn a_killed_dataplane_gives_the_node_back_and_the_next_one_brings_pods_back() {
    let lab = Lab::up("t-crash", &["--nodes", "2"]);
    let (a, b) = (lab.pod("default/a", 1), lab.pod("default/b", 2));
    lab.ping("default/a", &b);
    lab.kill(1, "dataplane");
    let ping_node = || {
        let out = lab.exec("@outside", &["ping", "-c", "1", "-W", "1", "10.77.0.11"]).output().unwrap();
        out.status.success().then_some(())
    };
    eventually("the node's address answers without a dataplane", ping_node);
    succeed(&mut lab.command(&["restart", "dataplane", "--node", "1"]));
    eventually("the pods' network is back", || {
        let out = lab.exec("default/a", &["ping", "-c", "1", "-W", "1", &b[0]]).output().unwrap();
        out.status.success().then_some(())
    });
    lab.ping("default/b", &a);
    ping_node().expect("the node answers through the new dataplane");
    lab.pod("default/late", 1);
    lab.ping("default/late", &b);
}

#[test]
fn agent_and_dataplane_killed_together_come_back() {
    let lab = Lab::up("t-both", &["--nodes", "1"]);
    let (a, b) = (lab.pod("default/a", 1), lab.pod("default/b", 1));
    lab.kill(1, "agent");
    lab.kill(1, "dataplane");
    succeed(&mut lab.command(&["restart", "dataplane", "--node", "1"]));
    succeed(&mut lab.command(&["restart", "agent", "--node", "1"]));
    lab.ping("default/a", &b);
    lab.ping("default/b", &a);
}

#[test]
fn a_pod_deleted_while_the_agent_is_down_gives_its_address_back() {
    let lab = Lab::up("t-del", &["--nodes", "1"]);
    lab.pod("default/a", 1);
    lab.kill(1, "agent");
    succeed(&mut lab.command(&["pod", "delete", "default/a"]));
    succeed(&mut lab.command(&["restart", "agent", "--node", "1"]));
    eventually("the attachment is released", || {
        let status = lab.ask(1, "status");
        (status["agent"]["attachments"].as_array().expect("attachments").is_empty()).then_some(())
    });
}

#[test]
fn everything_is_given_back_on_down() {
    let before = host_state("t-rest");
    {
        let lab = Lab::up("t-rest", &["--nodes", "2"]);
        lab.pod("default/a", 1);
        assert_ne!(host_state("t-rest"), before, "this test would not see what a lab makes");
    }
    assert_eq!(host_state("t-rest"), before, "the lab left something behind");
}

/// What a lab of that name could leave in the machine's own namespace; other labs may come and go meanwhile.
fn host_state(name: &str) -> [String; 5] {
    let run = |program: &str, args: &[&str]| succeed(std::process::Command::new(program).args(args));
    let named = |text: String| text.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join("\n");
    [
        named(run("ip", &["netns", "list"])),
        named(std::fs::read_to_string("/proc/mounts").expect("mounts")),
        named(run("ps", &["-eo", "args"])),
        run("ip", &["rule"]),
        run("nft", &["list", "tables"]),
    ]
}
