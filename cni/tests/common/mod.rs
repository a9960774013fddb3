//! A node's namespace, pods' namespaces, a fake agent on a Unix socket, and calls of the real binary.
#![allow(dead_code, missing_docs, reason = "shared by several test programs, none of which uses all of it")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use podplane_api::{
    AddReply, AddRequest, AttachmentId, CheckRequest, DelRequest, GcRequest, ReadyRequest, Released, path,
};
use podplane_hostnet::Netns;
use serde_json::{Value, json};

#[derive(Default)]
pub struct AgentState {
    pub leases: BTreeMap<AttachmentId, AddReply>,
    pub ready: Vec<AttachmentId>,
    pub adds: Vec<AddRequest>,
    pub next: u32,
    /// Answer of `ready` and of CNI STATUS instead of success: message and whether to retry.
    pub fail_ready: Option<(String, bool)>,
    pub fail_status: Option<String>,
    /// What goes into every lease instead of the default.
    pub v6: bool,
    pub host_ifname: Option<String>,
}

pub struct Agent {
    pub state: Arc<Mutex<AgentState>>,
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub fn start(socket: &Path, state: Arc<Mutex<AgentState>>) -> Agent {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (state2, stop2) = (state.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop2.load(Ordering::Relaxed) {
                    return;
                }
                // A plugin that was killed in the middle of a call is the rule here.
                let _ = serve(stream.unwrap(), &state2);
            }
        });
        Agent { state, socket: socket.into(), stop, thread: Some(thread) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.socket);
        let _ = self.thread.take().unwrap().join();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(stream: UnixStream, state: &Mutex<AgentState>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let target = first.split_whitespace().nth(1).unwrap_or_default();
    let (status, answer) = answer(target, &body, &mut state.lock().unwrap());
    let text = answer.to_string();
    write!(
        &stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn answer(target: &str, body: &[u8], state: &mut AgentState) -> (u16, Value) {
    let error = |status, message: &str, retry: bool| (status, json!({"message": message, "retry": retry}));
    match target {
        path::ADD => {
            let request: AddRequest = serde_json::from_slice(body).unwrap();
            state.adds.push(request.clone());
            let lease = lease_for(&request.attachment, state);
            let lease = AddReply { host_ports: request.host_ports, ..lease };
            state.leases.insert(request.attachment, lease.clone());
            (200, json!(lease))
        }
        path::READY => {
            let request: ReadyRequest = serde_json::from_slice(body).unwrap();
            if let Some((message, retry)) = &state.fail_ready {
                return error(503, message, *retry);
            }
            if !state.leases.contains_key(&request.attachment) {
                return error(404, "unknown attachment", false);
            }
            state.ready.push(request.attachment);
            (200, Value::Null)
        }
        path::DEL => {
            let request: DelRequest = serde_json::from_slice(body).unwrap();
            let lease = state.leases.remove(&request.attachment);
            state.ready.retain(|id| *id != request.attachment);
            (200, json!(Released { host_ifnames: lease.into_iter().map(|l| l.host_ifname).collect() }))
        }
        path::CHECK => {
            let request: CheckRequest = serde_json::from_slice(body).unwrap();
            match state.leases.get(&request.attachment) {
                Some(lease) => (200, json!(lease)),
                None => error(404, "unknown attachment", false),
            }
        }
        path::GC => {
            let request: GcRequest = serde_json::from_slice(body).unwrap();
            let (keep, gone) =
                std::mem::take(&mut state.leases).into_iter().partition(|(id, _)| request.valid.contains(id));
            state.leases = keep;
            let gone: BTreeMap<AttachmentId, AddReply> = gone;
            (200, json!(Released { host_ifnames: gone.into_values().map(|l| l.host_ifname).collect() }))
        }
        path::CNI_STATUS => match &state.fail_status {
            Some(message) => error(503, message, true),
            None => (200, Value::Null),
        },
        _ => error(404, "no such path", false),
    }
}

fn lease_for(id: &AttachmentId, state: &mut AgentState) -> AddReply {
    if let Some(lease) = state.leases.get(id) {
        return lease.clone();
    }
    state.next += 1;
    let n = state.next;
    let mut addresses = vec![format!("10.90.{}.{}", n / 250, n % 250 + 2).parse().unwrap()];
    let mut gateways = vec!["169.254.1.1".parse().unwrap()];
    if state.v6 {
        addresses.push(format!("fd90::{n:x}").parse().unwrap());
        gateways.push("fe80::1".parse().unwrap());
    }
    let lease = AddReply {
        host_ifname: state.host_ifname.clone().unwrap_or(format!("pp{n:012x}")),
        mac: format!("02:00:00:00:{:02x}:{:02x}", n / 256, n % 256),
        addresses,
        gateways,
        gateway_mac: "02:50:50:00:00:01".into(),
        mtu: 1450,
        host_ports: Vec::new(),
    };
    state.leases.insert(id.clone(), lease.clone());
    lease
}

/// A namespace that goes with its owner.
pub struct Space {
    pub name: String,
    pub netns: Netns,
}

impl Space {
    pub fn new(what: &str) -> Space {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pp-cni-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let netns = Netns::create(&name).expect("create a namespace (these tests need root)");
        Space { name, netns }
    }

    pub fn path(&self) -> String {
        self.netns.path().display().to_string()
    }

    pub fn sh(&self, command: &str) -> String {
        let run = || Command::new("sh").args(["-ec", command]).stdin(Stdio::null()).output().unwrap();
        let output = self.netns.run(run).unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.name);
    }
}

pub struct Node {
    // First: it is dropped while its socket's folder still exists.
    pub agent: Option<Agent>,
    pub space: Space,
    pub folder: tempfile::TempDir,
    pub state: Arc<Mutex<AgentState>>,
}

pub struct Done {
    pub ok: bool,
    pub out: Value,
    pub stderr: String,
}

impl Node {
    pub fn new() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(AgentState { v6: true, ..AgentState::default() }));
        let mut node = Node { space: Space::new("node"), folder, state, agent: None };
        node.start_agent();
        node
    }

    pub fn start_agent(&mut self) {
        self.agent = Some(Agent::start(&self.folder.path().join("agent.sock"), self.state.clone()));
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "podplane", "type": "podplane-cni", "someday": {"x": 1},
            "agentSocket": self.folder.path().join("agent.sock"), "stateDir": self.state_dir(),
        })
    }

    pub fn start(&self, verb: &str, id: &str, netns: &str, config: &Value) -> Child {
        let spawn = || {
            Command::new(env!("CARGO_BIN_EXE_podplane-cni"))
                .env_clear()
                .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", netns)])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut child = self.space.netns.run(spawn).unwrap();
        // A plugin that needs no input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
        child
    }

    pub fn call(&self, verb: &str, id: &str, netns: &str, config: &Value) -> Done {
        let output = self.start(verb, id, netns, config).wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let out = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        assert_eq!(output.status.success(), stderr.is_empty(), "{text} {stderr}");
        Done { ok: output.status.success(), out, stderr }
    }

    /// A call that must succeed; its result.
    pub fn good(&self, verb: &str, id: &str, netns: &str, config: &Value) -> Value {
        let done = self.call(verb, id, netns, config);
        assert!(done.ok, "{verb}: {} {}", done.out, done.stderr);
        done.out
    }

    /// A call that must fail; its code and message.
    pub fn bad(&self, verb: &str, id: &str, netns: &str, config: &Value) -> (u64, String) {
        let done = self.call(verb, id, netns, config);
        assert!(!done.ok, "{verb}: {}", done.out);
        let message = format!("{} {}", done.out["msg"], done.out["details"]);
        (done.out["code"].as_u64().unwrap(), message)
    }

    /// What a failed or finished pod must not leave on the node.
    pub fn assert_clean(&self, when: &str) {
        let left = self.space.sh("ip -o link | grep -v ' lo:' || true; nft list ruleset; ip rule | grep proto || true");
        assert_eq!(left, "", "{when}");
    }

    pub fn notes(&self) -> usize {
        std::fs::read_dir(self.state_dir().join("pending-del")).map_or(0, |entries| entries.count())
    }
}
