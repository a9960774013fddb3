//! Integration tests: real namespaces, real programs, through the `podplane lab` command.
//!
//! [`Lab`] is a lab that is taken down when it goes out of scope, also when a test fails. The tests need root, as the
//! lab does; `make test` says so. Programs come from the folder that the tests were built into.
#![forbid(unsafe_code)]

pub mod cni;
pub mod policy;
pub mod services;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Labs run one at a time: two cores carry one cluster, not five.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The folder with the programs under test.
pub fn bin_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/NAME-HASH -> target/debug
    test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}

/// The operator's command.
pub fn podplane(args: &[&str]) -> Command {
    let program = bin_dir().join("podplane");
    assert!(program.exists(), "{} is missing: `make test` builds it first", program.display());
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// What a command that must end well printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let out = command.output().expect("the program starts");
    assert!(out.status.success(), "{command:?} failed:\n{}", text(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All that a command printed.
pub fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A lab of this test.
#[derive(Debug)]
pub struct Lab {
    name: String,
    _turn: std::sync::MutexGuard<'static, ()>,
}

impl Lab {
    /// Brings one up; `name` is the test's own.
    #[track_caller]
    pub fn up(name: &str, args: &[&str]) -> Lab {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // What an earlier run that was killed left.
        succeed(&mut podplane(&["lab", "--name", name, "down"]));
        let lab = Lab { name: name.to_owned(), _turn: turn };
        succeed(lab.command(&["up", "--no-huge"]).args(args));
        lab
    }

    /// The lab's name, with which its namespaces start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills a node's `dataplane` or `agent`, as a crash would.
    #[track_caller]
    pub fn kill(&self, node: u8, process: &str) {
        let pid = self.node(node, &format!("{process}_pid")).as_i64().expect("it runs");
        succeed(Command::new("kill").args(["-9", &pid.to_string()]));
    }

    /// Starts a node's `dataplane` or `agent` again and waits until it works.
    #[track_caller]
    pub fn restart(&self, node: u8, process: &str) {
        succeed(&mut self.command(&["restart", process, "--node", &node.to_string()]));
    }

    /// `podplane lab ARGS` on this lab.
    pub fn command(&self, args: &[&str]) -> Command {
        podplane(&[&["lab", "--name", &self.name], args].concat())
    }

    /// Runs a command in a pod, or in `@outside`.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Command {
        self.command(&[&["exec", pod, "--"], command].concat())
    }

    /// Runs a command on a node.
    pub fn node_exec(&self, node: u8, command: &[&str]) -> Command {
        self.command(&[&["node-exec", &node.to_string(), "--"], command].concat())
    }

    /// Adds a pod and answers its addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn pod(&self, pod: &str, node: u8) -> [String; 2] {
        succeed(&mut self.command(&["pod", "add", pod, "--node", &node.to_string()]));
        self.addresses(pod)
    }

    /// A pod's addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn addresses(&self, pod: &str) -> [String; 2] {
        let status = self.status();
        let pods = status["pods"].as_array().expect("pods");
        let full = |p: &Value| format!("{}/{}", p["namespace"].as_str().unwrap(), p["name"].as_str().unwrap());
        let pod = pods.iter().find(|p| full(p) == pod).unwrap_or_else(|| panic!("no pod {pod} in {status}"));
        [0, 1].map(|i| pod["addresses"][i].as_str().expect("both families").to_owned())
    }

    /// `podplane lab status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&succeed(&mut self.command(&["status", "-o", "json"]))).expect("status is JSON")
    }

    /// A field of a node's status.
    #[track_caller]
    pub fn node(&self, node: u8, field: &str) -> Value {
        self.status()["nodes"][usize::from(node) - 1][field].clone()
    }

    /// What the operator's command says of a node's dataplane.
    #[track_caller]
    pub fn ask(&self, node: u8, verb: &str) -> Value {
        let run_dir = self.node(node, "run_dir");
        let out = succeed(&mut podplane(&["--run-dir", run_dir.as_str().expect("a folder"), verb, "-o", "json"]));
        serde_json::from_str(&out).expect("the answer is JSON")
    }

    /// One echo and its answer, both families; `from` is a pod.
    #[track_caller]
    pub fn ping(&self, from: &str, to: &[String; 2]) {
        for address in to {
            succeed(&mut self.exec(from, &["ping", "-c", "2", "-i", "0.2", "-W", "20", address]));
        }
    }
}

impl Lab {
    /// Shows what would help to understand a failure: it all goes with the lab.
    fn show(&self) {
        let dir = PathBuf::from("/run/podplane-lab").join(&self.name);
        for entry in std::fs::read_dir(dir.join("logs")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- {}\n{}", entry.path().display(), lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        for run_dir in (1..=9).map(|node| dir.join(format!("node{node}/run"))).filter(|run_dir| run_dir.exists()) {
            if let Ok(out) = podplane(&["--run-dir", &run_dir.to_string_lossy(), "drops"]).output() {
                eprintln!("--- drops, {}\n{}", run_dir.display(), text(&out));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        let out = podplane(&["lab", "--name", &self.name, "down"]).output();
        if !std::thread::panicking() {
            let out = out.expect("the program starts");
            assert!(out.status.success(), "down failed: {}", text(&out));
        }
    }
}

/// How long a test waits for what must come: as long as a machine may take that has much other work. What comes at once
/// costs no time, and what never comes fails all the same.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `ready` answers something; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How often a test repeats itself: `usual`, or what the environment asks for where a test is run for longer once.
pub fn rounds(variable: &str, usual: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) => usual,
    }
}
