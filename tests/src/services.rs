//! Services in a lab: manifests, servers that say whom they saw, and clients of every kind.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

use crate::{Lab, eventually, succeed, text};

/// The port that test servers listen on; the next one echoes.
pub const PORT: u16 = 8080;

/// A program of the tests, as the command that starts it.
pub fn program(name: &str) -> [String; 2] {
    ["python3".to_owned(), format!("{}/src/programs/{name}", env!("CARGO_MANIFEST_DIR"))]
}

/// The manifest of a pod that serves on [`PORT`] with this label `app`; `more` are further fields of its spec, `ports`
/// of its container. It is ready once it answers.
pub fn server(name: &str, node: u8, app: &str, more: &str, ports: &str) -> String {
    server_on(name, node, app, PORT, more, ports)
}

/// The same on another port: pods on the host network share their node's.
pub fn server_on(name: &str, node: u8, app: &str, port: u16, more: &str, ports: &str) -> String {
    let [python, script] = program("serve.py");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: node{node}, {more} containers: [{{name: main, image: lab, \
         command: [{python}, {script}, {name}, '{port}'], ports: [{ports}], \
         readinessProbe: {{tcpSocket: {{port: {port}}}}}}}]}}\n---\n"
    )
}

/// The manifest of a pod that does nothing by itself.
pub fn idler(name: &str, node: u8, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{nodeName: node{node}, {more} containers: [{{name: main, image: lab}}]}}\n---\n"
    )
}

/// The manifest of a dual-stack Service of the servers with label `app`: port 80 TCP and UDP, and 81 that echoes.
pub fn service(name: &str, app: &str, more: &str) -> String {
    service_to(name, app, PORT, more)
}

/// The same for servers on another port.
pub fn service_to(name: &str, app: &str, port: u16, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{selector: {{app: {app}}}, ipFamilyPolicy: RequireDualStack, {more} ports: [\
         {{name: http, port: 80, targetPort: {port}}}, {{name: dns, port: 80, protocol: UDP, targetPort: {port}}}, \
         {{name: echo, port: 81, targetPort: {}}}]}}\n---\n",
        port + 1
    )
}

/// Where a client runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// In a pod, or in `@outside`.
    In(String),
    /// A process on a node.
    Node(u8),
}

impl Client {
    /// In a pod of namespace `default`.
    pub fn pod(name: &str) -> Client {
        Client::In(format!("default/{name}"))
    }

    /// On the host beside the cluster.
    pub fn outside() -> Client {
        Client::In("@outside".to_owned())
    }

    /// Runs a command there.
    pub fn command(&self, lab: &Lab, command: &[&str]) -> Command {
        match self {
            Client::In(target) => lab.exec(target, command),
            Client::Node(node) => lab.node_exec(*node, command),
        }
    }

    /// Runs `client.py` there.
    pub fn client(&self, lab: &Lab, args: &[&str]) -> Command {
        let [python, script] = program("client.py");
        self.command(lab, &[&[python.as_str(), script.as_str()], args].concat())
    }
}

/// Who answered, and which address it saw.
pub type Answer = (String, String);

/// An address as it stands in a URL.
pub fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Asks over HTTP `times` times, each over a new connection.
pub fn fetch(lab: &Lab, client: &Client, address: &str, port: u16, times: usize) -> Result<Vec<Answer>, String> {
    let url = format!("http://{}:{port}/", bracketed(address));
    // What is asked is who answers, not how soon: a lost SYN is sent again after 1, 3, 7, 15 and 31 seconds.
    let mut words = vec!["curl", "-sS", "--fail-early", "--max-time", "60", "--connect-timeout", "40"];
    words.extend(std::iter::repeat_n(url.as_str(), times));
    let out = client.command(lab, &words).output().map_err(|e| e.to_string())?;
    answers(&out, times)
}

/// Asks by `times` datagrams of one socket, each of them again if it or its answer is lost.
pub fn datagrams(lab: &Lab, client: &Client, address: &str, port: u16, times: usize) -> Result<Vec<Answer>, String> {
    let out = client.client(lab, &["udp", address, &port.to_string(), &times.to_string(), "0.1", "20"]).output();
    answers(&out.map_err(|e| e.to_string())?, times)
}

fn answers(out: &Output, times: usize) -> Result<Vec<Answer>, String> {
    let printed = String::from_utf8_lossy(&out.stdout);
    let pairs = printed.lines().filter_map(|line| line.split_once(' '));
    let answers: Vec<_> = pairs.map(|(name, seen)| (name.to_owned(), seen.to_owned())).collect();
    if out.status.success() && answers.len() == times { Ok(answers) } else { Err(text(out).trim().to_owned()) }
}

/// What becomes of a connection within a moment: `open`, `refused` or `silence`. On a busy machine silence may only mean
/// that the answer is late: [`Lab::meets`] waits for one.
pub fn connect(lab: &Lab, client: &Client, address: &str, port: u16) -> String {
    outcome(lab, client, address, port, "1.5")
}

fn outcome(lab: &Lab, client: &Client, address: &str, port: u16, seconds: &str) -> String {
    succeed(&mut client.client(lab, &["tcp", address, &port.to_string(), seconds])).trim().to_owned()
}

/// A client that runs in the background, and is talked to.
#[derive(Debug)]
pub struct Talker(Child, BufReader<ChildStdout>);

impl Talker {
    /// Starts `client.py` with these words.
    #[track_caller]
    pub fn start(lab: &Lab, client: &Client, args: &[&str]) -> Talker {
        let mut child = lab.start_client(client, args);
        let output = child.stdout.take().expect("piped");
        Talker(child, BufReader::new(output))
    }

    /// The next line that it prints.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }

    /// Gives it the line that it waits for.
    #[track_caller]
    pub fn say(&mut self) {
        self.0.stdin.as_mut().expect("piped").write_all(b"\n").expect("it listens");
    }

    /// The rest of what it prints, once it ended well.
    #[track_caller]
    pub fn finish(mut self) -> String {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.1.read_to_string(&mut said).expect("text");
        assert!(self.0.wait().expect("our own child").success(), "{said}");
        said.trim().to_owned()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks of which all are made before any failure is reported: a matrix shows its pattern.
#[derive(Debug, Default)]
pub struct Checks {
    made: usize,
    failed: Vec<String>,
}

impl Checks {
    /// Notes what came of a check.
    pub fn note(&mut self, what: &str, outcome: Result<(), String>) {
        self.made += 1;
        if let Err(why) = outcome {
            eprintln!("FAILED {what}: {why}");
            self.failed.push(format!("{what}: {why}"));
        }
    }

    /// A Service's address must answer by one of `backends` at a time, and by each of them, who all see `source`.
    #[expect(clippy::too_many_arguments, reason = "each is one column of the table of cases")]
    pub fn answers(
        &mut self,
        lab: &Lab,
        what: &str,
        client: &Client,
        address: &str,
        port: u16,
        backends: &[&str],
        source: &dyn Fn(&str) -> String,
    ) {
        // Of two backends each is missed by all of 16 connections once in 30,000 runs.
        let times = if backends.len() > 1 { 16 } else { 2 };
        let tcp = fetch(lab, client, address, port, times).and_then(|answers| judge(&answers, backends, source, true));
        self.note(&format!("{what}, {client:?} -> {address}:{port}/TCP"), tcp);
        let udp = datagrams(lab, client, address, port, 2).and_then(|answers| judge(&answers, backends, source, false));
        self.note(&format!("{what}, {client:?} -> {address}:{port}/UDP"), udp);
    }

    /// Panics with all that failed.
    #[track_caller]
    pub fn done(self) {
        assert!(self.made > 0, "nothing was checked");
        let (failed, made) = (self.failed.len(), self.made);
        assert!(self.failed.is_empty(), "{failed} of {made} checks failed:\n{}", self.failed.join("\n"));
    }
}

fn judge(answers: &[Answer], backends: &[&str], source: &dyn Fn(&str) -> String, all: bool) -> Result<(), String> {
    if let Some((name, _)) = answers.iter().find(|(name, _)| !backends.contains(&name.as_str())) {
        return Err(format!("{name} answered, which is none of {backends:?}"));
    }
    if let Some((name, seen)) = answers.iter().find(|(name, seen)| *seen != source(name)) {
        return Err(format!("{name} saw {seen} in place of {}", source(name)));
    }
    let missing = backends.iter().find(|backend| answers.iter().all(|(name, _)| name != **backend));
    match missing.filter(|_| all) {
        Some(missing) => Err(format!("{missing} never answered")),
        None => Ok(()),
    }
}

impl Lab {
    /// Applies manifests.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        let out = self.feed(&["apply", "-f", "-"], manifests);
        assert!(out.status.success(), "apply failed:\n{}", text(&out));
    }

    /// Deletes what manifests name.
    #[track_caller]
    pub fn delete(&self, manifests: &str) {
        let out = self.feed(&["delete", "-f", "-"], manifests);
        assert!(out.status.success(), "delete failed:\n{}", text(&out));
    }

    /// Runs a verb of the lab with standard input.
    #[track_caller]
    pub fn feed(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("podplane starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("podplane reads");
        child.wait_with_output().expect("our own child")
    }

    /// A stored object.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&succeed(&mut self.command(&["get", kind, name]))).expect("JSON")
    }

    /// A Service's cluster addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn cluster_ips(&self, service: &str) -> [String; 2] {
        let service = self.get("Service", service);
        [0, 1].map(|i| service["spec"]["clusterIPs"][i].as_str().expect("both families").to_owned())
    }

    /// A Service's load-balancer addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn balancer_ips(&self, service: &str) -> [String; 2] {
        let service = self.get("Service", service);
        [0, 1].map(|i| service["status"]["loadBalancer"]["ingress"][i]["ip"].as_str().expect("an address").to_owned())
    }

    /// The node port of a Service's first port.
    #[track_caller]
    pub fn node_port(&self, service: &str) -> u16 {
        let port = self.get("Service", service)["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
        u16::try_from(port).expect("a port")
    }

    /// Starts `client.py` in the background, to be talked to.
    #[track_caller]
    pub fn start_client(&self, client: &Client, args: &[&str]) -> Child {
        let mut command = client.client(self, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client starts")
    }

    /// A connection must be `open`, `refused` or met by `silence`; for an answer there is time.
    #[track_caller]
    pub fn meets(&self, client: &Client, address: &str, port: u16, expected: &str, what: &str) {
        let seconds = if expected == "silence" { "1.5" } else { "40" };
        assert_eq!(outcome(self, client, address, port, seconds), expected, "{client:?} -> {address}:{port}, {what}");
    }

    /// Waits until a Service's address answers.
    #[track_caller]
    pub fn until_answers(&self, client: &Client, address: &str, port: u16) -> Vec<Answer> {
        eventually(&format!("{address}:{port} answers {client:?}"), || fetch(self, client, address, port, 1).ok())
    }
}
