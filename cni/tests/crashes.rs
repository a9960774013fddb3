//! Plugins killed at any moment, and many calls: nothing is left.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Node, Space};

/// Enough randomness to hit different moments (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// Waits until the kernel has taken a removed namespace's devices down.
fn gone(node: &Node) {
    let start = Instant::now();
    while node.space.sh("ip -o link").contains("pp0") {
        assert!(start.elapsed() < Duration::from_secs(60), "the device outlives its peer's namespace");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killed_anywhere_then_deleted() {
    let mut node = Node::new();
    let config = node.config("1.0.0");
    // How long an undisturbed ADD takes here.
    let pod = Space::new("pod");
    let start = Instant::now();
    node.good("ADD", "first", &pod.path(), &config);
    let whole = start.elapsed();
    node.good("DEL", "first", &pod.path(), &config);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut unfinished, mut half) = (0, 0);
    // Follows what this machine makes of it now: calls that are over when they are to be killed test nothing, nor do
    // those that have not begun.
    let mut span = whole.as_micros() as u64 * 5 / 4;
    for round in 0..60 {
        let (id, pod) = (format!("k{round}"), Space::new("pod"));
        let mut child = node.start("ADD", &id, &pod.path(), &config);
        std::thread::sleep(Duration::from_micros(random.below(span)));
        let _ = child.kill();
        let finished = child.wait().unwrap().success();
        let devices = node.space.sh("ip -o link").contains("pp0");
        unfinished += u32::from(!finished);
        half += u32::from(devices);
        span = match (finished, devices) {
            (true, _) => span * 4 / 5 + 1,
            (false, true) => span,
            (false, false) => span * 8 / 7 + 1,
        };
        // By turns: with everything, with no agent, with no namespace to look into.
        match round % 3 {
            0 => {}
            1 => node.agent = None,
            _ => {}
        }
        let netns = if round % 3 == 2 { String::new() } else { pod.path() };
        // DEL itself is killed, too; the runtime repeats it.
        let mut child = node.start("DEL", &id, &netns, &config);
        std::thread::sleep(Duration::from_micros(random.below(whole.as_micros() as u64)));
        let _ = child.kill();
        let _ = child.wait();
        node.good("DEL", &id, &netns, &config);
        if netns.is_empty() && node.space.sh("ip -o link").contains("pp0") {
            // Killed before it was marked, and then the DEL after the agent had forgotten the lease: nobody knows whose
            // it is, and it goes with the pod's namespace, which a runtime has removed when it names none.
            drop(pod);
            gone(&node);
            node.good("DEL", &id, &netns, &config);
        } else {
            assert!(!pod.sh("ip -o link").contains("eth0"), "round {round}");
        }
        node.assert_clean(&format!("round {round}"));
        if node.agent.is_none() {
            assert!(node.notes() > 0);
            node.start_agent();
            node.good("DEL", &id, "", &config);
        }
        assert!(node.state.lock().unwrap().leases.is_empty(), "round {round}");
    }
    assert!(unfinished > 10 && half > 5, "killed before the end {unfinished} times, with devices {half} times");
}

#[test]
fn a_killed_add_can_be_repeated() {
    let node = Node::new();
    let config = node.config("1.0.0");
    let pod = Space::new("pod");
    node.good("ADD", "c1", &pod.path(), &config);
    // As if the first had been killed between the devices and the answer, and the sandbox had been made anew.
    let again = Space::new("pod");
    node.good("ADD", "c1", &again.path(), &config);
    assert!(again.sh("ip -o link").contains("eth0") && !pod.sh("ip -o link").contains("eth0"));
    node.good("DEL", "c1", &again.path(), &config);
    node.assert_clean("after all");
}

#[test]
fn a_hundred_pods_leak_nothing() {
    let node = Node::new();
    let config = node.config("1.1.0");
    let pod = Space::new("pod");
    // ADD leaves `lo` up; nothing else may differ.
    pod.sh("ip link set lo up");
    let look = "ip addr; ip route show table all; ip -6 route show table all; ip neigh; ip -6 neigh";
    let before = pod.sh(look);
    for round in 0..100 {
        let id = format!("c{round}");
        node.good("ADD", &id, &pod.path(), &config);
        node.good("DEL", &id, &pod.path(), &config);
    }
    node.assert_clean("after a hundred");
    assert_eq!(pod.sh(look), before);
    assert_eq!(node.notes(), 0);
}
