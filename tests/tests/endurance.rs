//! The same again and again: nothing grows.

use std::path::PathBuf;

use podplane_tests::cni::{Sandbox, traces};
use podplane_tests::{Lab, eventually, rounds};

/// What a process may not collect: open files and mappings exactly, memory roughly.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    files: usize,
    mappings: usize,
    kilobytes: u64,
}

fn holdings(lab: &Lab, process: &str) -> Holdings {
    let pid = lab.node(1, &format!("{process}_pid")).as_i64().expect("it runs");
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).expect("it runs");
    let status = read("status");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    Holdings {
        files: std::fs::read_dir(dir.join("fd")).expect("it runs").count(),
        mappings: read("maps").lines().count(),
        kilobytes: rss.trim().trim_end_matches(" kB").parse().expect("a number"),
    }
}

/// Packet buffers that are in use.
fn buffers(lab: &Lab) -> u64 {
    let status = lab.ask(1, "status");
    let pools = status["dataplane"]["buffers"].as_array().expect("pools").clone();
    pools.iter().map(|pool| pool["in_use"].as_u64().expect("a number")).sum()
}

/// `PODPLANE_CYCLES=10000` for the long run.
#[test]
fn attachments_that_come_and_go_leave_nothing() {
    const PROCESSES: [&str; 2] = ["agent", "dataplane"];
    /// A process that grows by more than this has a leak; what grows by less is an allocator's habit.
    const KILOBYTES: u64 = 16 * 1024;
    let cycles = rounds("PODPLANE_CYCLES", 100);
    let lab = Lab::up("t-cycles", &["--nodes", "1"]);
    lab.pod("default/stays", 1);
    let before = traces(&lab, 1);
    let sandbox = Sandbox::new(&lab, 1, "comes-and-goes");
    let cycle = || {
        sandbox.must("ADD");
        sandbox.must("DEL");
    };
    // Once everything has been used, nothing more is needed.
    (0..20).for_each(|_| cycle());
    let at_first = PROCESSES.map(|process| holdings(&lab, process));
    let buffers_at_first = buffers(&lab);
    (0..cycles).for_each(|_| cycle());
    assert_eq!(traces(&lab, 1), before, "leases, host ends, chains");
    for (process, first) in PROCESSES.into_iter().zip(at_first) {
        // Closed by other threads, so perhaps a moment later; a few come and go with the questions that are asked here.
        let now = eventually("files and mappings are given back", || {
            let now = holdings(&lab, process);
            (now.files <= first.files + 2 && now.mappings <= first.mappings + 16).then_some(now)
        });
        println!("{process} after {cycles} cycles: {first:?} -> {now:?}");
        assert!(now.kilobytes < first.kilobytes + KILOBYTES, "{process}: {first:?} -> {now:?}");
    }
    eventually("packet buffers are given back", || (buffers(&lab) <= buffers_at_first + 256).then_some(()));
}
