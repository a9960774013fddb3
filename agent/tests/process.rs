//! The agent as a process: start, kill, restart, stop, a second one, cleanup.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podplane_api::{AgentClient, AgentStatus};

const BINARY: &str = env!("CARGO_BIN_EXE_podplane-agent");

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Node {
        let node = Node(tempfile::tempdir().unwrap());
        std::fs::create_dir(node.path("objects")).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["--node", "n1", "--underlay", "ipv6"]);
        command.args(["--healthz-address", "none", "--status-address", "none"]);
        for (flag, name) in [("--source", "objects"), ("--run-dir", "run"), ("--state-dir", "state")] {
            command.arg(flag).arg(self.path(name));
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn status(&self) -> AgentStatus {
        let client = AgentClient::new(self.path("run/agent.sock"));
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match client.status() {
                Ok(status) => return status,
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn run(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

#[test]
fn killed_restarted_and_stopped() {
    let node = Node::new();
    let mut first = Process(node.command().spawn().unwrap());
    let status = node.status();
    assert_eq!((status.node.as_str(), status.ready), ("n1", false));
    assert!(status.conditions[0].contains("no Node object \"n1\""), "{status:?}");
    first.0.kill().unwrap();
    assert_eq!(first.0.wait().unwrap().signal(), Some(9));

    // Its socket and its store are still there.
    let notify = node.path("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut second = Process(node.command().env("NOTIFY_SOCKET", &notify).spawn().unwrap());
    let mut said = [0; 64];
    let n = systemd.recv(&mut said).unwrap();
    assert_eq!(&said[..n], b"READY=1\n".as_slice().get(..n).unwrap());
    node.status();

    let other = run(&mut node.command());
    let error = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && error.contains("another agent"), "{error}");

    let [run_dir, state_dir] = ["run", "state"].map(|folder| node.path(folder));
    let cleanup = run(Command::new(BINARY).arg("cleanup").args([
        "--run-dir".as_ref(),
        run_dir.as_os_str(),
        "--state-dir".as_ref(),
        state_dir.as_os_str(),
    ]));
    let error = String::from_utf8_lossy(&cleanup.stderr).into_owned();
    assert!(
        !cleanup.status.success() && error.contains("an agent still listens") && error.contains("stop it"),
        "{error}"
    );

    kill(Pid::from_raw(second.0.id() as i32), Signal::SIGTERM).unwrap();
    let ended = second.0.wait().unwrap();
    let mut log = String::new();
    second.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(ended.success(), "{ended}: {log}");
    assert!(log.contains("pods keep their network"), "{log}");
    assert!(!node.path("run/agent.sock").exists());
}

/// Status and body of a page; `None`: nobody answers.
fn page(place: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(place).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {place}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A place that is free now; another process may be quicker, then the agent says so.
fn free_place() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn what_probes_and_tests_expect_of_a_proxy() {
    let node = Node::new();
    let (healthz, status) = (free_place(), free_place());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap().to_string(), taken);
    let mut command = Command::new(BINARY);
    command.args(["--node", "n1", "--healthz-address", &healthz, "--status-address", &status]);
    command.args(["--metrics-address", &taken.0]);
    for (flag, name) in [("--source", "objects"), ("--run-dir", "run"), ("--state-dir", "state")] {
        command.arg(flag).arg(node.path(name));
    }
    let _agent = Process(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // A port that is in use is a trouble that names port and flag; the agent goes on.
    let deadline = Instant::now() + Duration::from_secs(60);
    let says = |agent: &AgentStatus| {
        agent.conditions.iter().any(|it| it.contains(&taken.0) && it.contains("--metrics-address"))
    };
    while !says(&node.status()) {
        assert!(Instant::now() < deadline, "{:?}", node.status());
        std::thread::sleep(Duration::from_millis(20));
    }

    // There is no Node object, and nothing is enforced.
    let (code, body) = page(&healthz, "/healthz").unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["nodeEligible"], &body["healthy"]), (503, &false.into(), &false.into()), "{body}");
    assert!(body["lastUpdated"].is_string() && body["currentTime"].is_string(), "{body}");
    let (code, body) = page(&healthz, "/livez").unwrap();
    assert!(code == 200 && body.contains("\"healthy\":true") && !body.contains("nodeEligible"), "{body}");
    assert_eq!(page(&status, "/proxyMode"), Some((200, "podplane".to_owned())));
    let (code, metrics) = page(&status, "/metrics").unwrap();
    assert_eq!(code, 200);
    for line in ["podplane_dataplane_up 0", "podplane_source_connected{source=\"folder\"} 1", "# EOF"] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }

    // A Node that is about to go, and one that is not: by its word alone.
    let object = |taints: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: n1}}, spec: {{podCIDRs: [10.0.1.0/24]{taints}}}, status: \
             {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}}}"
        );
        std::fs::write(node.path("objects/.draft"), text).unwrap();
        std::fs::rename(node.path("objects/.draft"), node.path("objects/node.yaml")).unwrap();
    };
    let until = |eligible: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !page(&healthz, "/healthz").is_some_and(|(_, body)| body.contains(eligible)) {
            assert!(Instant::now() < deadline, "not {eligible}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    object("");
    until("\"nodeEligible\":true");
    object(", taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]");
    until("\"nodeEligible\":false");
}

#[test]
fn version_and_bad_arguments() {
    let version = run(Command::new(BINARY).arg("--version"));
    let text = String::from_utf8(version.stdout).unwrap();
    assert!(text.starts_with("podplane-agent 0.") && text.contains("DPDK"), "{text}");
    for (arguments, reason) in [
        (["--underlay", "ipv5"], "ipv4 or ipv6"),
        (["--vni", "16777215"], "1..=16777214"),
        (["--log", "a=b=c"], "is no filter"),
        (["--healthz-address", "10256"], "no address with a port"),
    ] {
        let output = run(Command::new(BINARY).args(arguments));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(reason), "{error}");
    }
}
