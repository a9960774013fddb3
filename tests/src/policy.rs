//! Policies in a lab: pods that serve, programs in pods that try, flood and hold connections, and counters of all that a
//! pod's kernel was handed since its network was made.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::json;

use crate::services::{Client, program};
use crate::{Lab, succeed};

/// The manifest of a pod that serves TCP 80 and 81 and UDP 53, under these names.
pub fn server(namespace: &str, name: &str, node: u8, labels: &str, names: [&str; 3]) -> String {
    let [python, script] = program("policy.py");
    let [http, other, dns] = names;
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: node{node}, containers: [{{name: main, image: lab, \
         command: [{python}, {script}, serve, '80,81', '53'], \
         ports: [{{name: {http}, containerPort: 80}}, {{name: {other}, containerPort: 81}}, \
         {{name: {dns}, containerPort: 53, protocol: UDP}}], readinessProbe: {{tcpSocket: {{port: 80}}}}}}]}}\n---\n"
    )
}

/// A NetworkPolicy's manifest.
pub fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {spec}\n---\n"
    )
}

/// A program in a pod or on a node that answers a line with a line. It ends when this does.
#[derive(Debug)]
pub struct Program(Child, ChildStdin, BufReader<ChildStdout>);

impl Program {
    /// Starts `policy.py ARGS`.
    #[track_caller]
    pub fn start(lab: &Lab, at: &Client, args: &[&str]) -> Program {
        let [python, script] = program("policy.py");
        let mut command = at.command(lab, &[&[python.as_str(), script.as_str()], args].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Program(child, input, BufReader::new(output))
    }

    /// Says a line, without waiting for the answer.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        writeln!(self.1, "{line}").and_then(|()| self.1.flush()).expect("the program reads");
    }

    /// Reads a line.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.2.read_line(&mut line).expect("the program answers");
        assert!(!line.is_empty(), "the program ended");
        line.trim().to_owned()
    }

    /// Says a line and reads the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // `lab exec` has become the program itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somewhere to try: protocol (`tcp`, `udp`), address, port.
pub type Target = (&'static str, String, u16);

/// Tries all targets from all places at once; answers which connected within `window` seconds.
#[track_caller]
pub fn try_all(probers: &mut [(Program, Vec<Target>)], window: f64) -> Vec<Vec<bool>> {
    for (prober, targets) in &mut *probers {
        prober.say(&json!({"window": window, "targets": targets}).to_string());
    }
    let hear = |(prober, _): &mut (Program, Vec<Target>)| serde_json::from_str(&prober.hear()).expect("a list");
    probers.iter_mut().map(hear).collect()
}

/// What a pod's kernel was handed since its network was made, before its interface was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// IPv4 packets of every kind.
    pub v4: u64,
    /// IPv6 packets but for ICMPv6: neighbour discovery is no policy's business.
    pub v6: u64,
    /// Datagrams and segments of both families.
    pub transport: u64,
}

/// Reads a pod's counters.
#[track_caller]
pub fn received(lab: &Lab, pod: &str) -> Received {
    let text = succeed(&mut lab.exec(pod, &["cat", "/proc/net/snmp", "/proc/net/snmp6"]));
    // IPv4: a line of names, then one of numbers.
    let old = |proto: &str, name: &str| -> u64 {
        let mut lines = text.lines().filter_map(|l| l.strip_prefix(proto)?.strip_prefix(": "));
        let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
        let at = names.split(' ').position(|n| n == name).expect("a counter");
        numbers.split(' ').nth(at).expect("a number").parse().expect("a number")
    };
    let new = |name: &str| -> u64 {
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(name)).expect("a counter");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    };
    // NoPorts counts what found no socket; InErrors and checksum errors never passed either.
    let datagrams = old("Udp", "InDatagrams") + old("Udp", "NoPorts") + new("Udp6InDatagrams") + new("Udp6NoPorts");
    Received {
        v4: old("Ip", "InReceives"),
        v6: new("Ip6InReceives").saturating_sub(new("Icmp6InMsgs")),
        // TCP counts both families together.
        transport: datagrams + old("Tcp", "InSegs"),
    }
}

/// A count of a node's drops by name.
#[track_caller]
pub fn drops(lab: &Lab, node: u8, name: &str) -> u64 {
    let said = lab.ask(node, "drops");
    let all = said["drops"].as_array().expect("drops");
    all.iter().filter(|drop| drop["reason"] == name).map(|drop| drop["packets"].as_u64().expect("a count")).sum()
}
