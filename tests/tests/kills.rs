//! The plugin, the agent and the dataplane are killed in the middle of a call: nothing leaks, and the next call works.

use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use podplane_tests::cni::{Sandbox, traces};
use podplane_tests::{Lab, PATIENCE, eventually, succeed, text};

/// A moment in `0..span`, another each time, the same in each run.
struct Moments(u64);

impl Moments {
    fn next(&mut self, span: Duration) -> Duration {
        // Knuth's MMIX generator; its upper bits are good enough to choose moments.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        span.mul_f64((self.0 >> 40) as f64 / f64::from(1 << 24))
    }
}

/// Kills a call after a while, as a runtime that loses patience or a machine that runs out of memory does.
fn kill_after(mut call: Child, when: Duration) {
    sleep(when);
    // The command became the plugin itself.
    let _ = call.kill();
    call.wait().expect("our own child");
}

fn ping(netns: &str, to: &[String; 2]) {
    for address in to {
        let command = ["netns", "exec", netns, "ping", "-c", "1", "-W", "20", address];
        succeed(Command::new("ip").args(command));
    }
}

#[track_caller]
fn nothing_but(lab: &Lab, before: &[Vec<String>; 3]) {
    let mut now = before.clone();
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        now = traces(lab, 1);
        if now == *before {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    assert_eq!(&now, before, "leases, host ends, chains");
}

#[test]
fn a_plugin_killed_at_any_moment_leaves_nothing_and_the_pod_works_next_time() {
    let lab = Lab::up("t-kill-cni", &["--nodes", "1"]);
    let peer = lab.pod("default/peer", 1);
    let before = traces(&lab, 1);
    let sandbox = Sandbox::new(&lab, 1, "victim");
    let measure = |verb: &str| {
        let start = Instant::now();
        sandbox.must(verb);
        start.elapsed()
    };
    let (add, del) = (measure("ADD"), measure("DEL"));
    let mut moments = Moments(7);
    for round in 0..20 {
        kill_after(sandbox.start("ADD"), moments.next(add));
        if round % 4 == 3 {
            // A runtime that gives up: one DEL, perhaps without the namespace.
            sandbox.must("DEL");
            nothing_but(&lab, &before);
            continue;
        }
        sandbox.must("DEL");
        let result = sandbox.must("ADD");
        assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
        ping(&sandbox.netns, &peer);
        kill_after(sandbox.start("DEL"), moments.next(del));
        sandbox.must("DEL");
        nothing_but(&lab, &before);
    }
}

#[test]
fn an_agent_killed_in_the_middle_of_add_leaves_nothing_and_the_pod_works_next_time() {
    let lab = Lab::up("t-kill-agent", &["--nodes", "1"]);
    let peer = lab.pod("default/peer", 1);
    let before = traces(&lab, 1);
    let sandbox = Sandbox::new(&lab, 1, "victim");
    let mut moments = Moments(11);
    for _ in 0..6 {
        let call = sandbox.start("ADD");
        sleep(moments.next(Duration::from_millis(40)));
        lab.kill(1, "agent");
        let out = call.wait_with_output().expect("our own child");
        let added = out.status.success();
        assert!(added || text(&out).contains("\"code\":11"), "a runtime may try again: {}", text(&out));
        // With the agent down.
        sandbox.must("DEL");
        lab.restart(1, "agent");
        nothing_but(&lab, &before);
        sandbox.must("ADD");
        ping(&sandbox.netns, &peer);
        sandbox.must("DEL");
        nothing_but(&lab, &before);
    }
}

#[test]
fn a_dataplane_killed_in_the_middle_of_add_leaves_nothing_and_the_pod_works_next_time() {
    let lab = Lab::up("t-kill-dp", &["--nodes", "1"]);
    let peer = lab.pod("default/peer", 1);
    let before = traces(&lab, 1);
    let sandbox = Sandbox::new(&lab, 1, "victim");
    let mut moments = Moments(13);
    for _ in 0..4 {
        let call = sandbox.start("ADD");
        sleep(moments.next(Duration::from_millis(40)));
        lab.kill(1, "dataplane");
        lab.restart(1, "dataplane");
        let out = call.wait_with_output().expect("our own child");
        if !out.status.success() {
            assert!(text(&out).contains("\"code\":11"), "a runtime may try again: {}", text(&out));
            sandbox.must("DEL");
            nothing_but(&lab, &before);
            eventually("a pod can be added", || sandbox.call("ADD").status.success().then_some(()));
        }
        eventually("the new pod talks", || {
            let ping = ["netns", "exec", &sandbox.netns, "ping", "-c", "1", "-W", "1", &peer[0]];
            Command::new("ip").args(ping).output().expect("ip runs").status.success().then_some(())
        });
        ping(&sandbox.netns, &peer);
        sandbox.must("DEL");
        nothing_but(&lab, &before);
    }
}

#[test]
fn pods_whose_namespace_went_while_the_agent_was_down_are_released() {
    let lab = Lab::up("t-kill-ns", &["--nodes", "1"]);
    let peer = lab.pod("default/peer", 1);
    let before = traces(&lab, 1);
    let gone = Sandbox::new(&lab, 1, "gone");
    gone.must("ADD");
    lab.kill(1, "agent");
    drop(gone);
    lab.restart(1, "agent");
    nothing_but(&lab, &before);
    let next = Sandbox::new(&lab, 1, "next");
    next.must("ADD");
    ping(&next.netns, &peer);
}
