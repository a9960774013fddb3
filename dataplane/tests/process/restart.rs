//! Killed with SIGKILL under live connections, the dataplane goes on with them when it is back: the agent has kept its
//! flow memory.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use podplane_config::link::Keeper;
use podplane_config::v1::{
    Backend, Choice, FromDataplane, Frontend, FrontendKind, LocalNode, Masquerade, Object, Protocol, Service,
    ServicePort,
};

use super::node::{Agent, Node};
use super::{endpoint, local};

/// Answers every line with its own name, in front of what it was told.
const SERVER: &str = "
import socket, sys, threading
name, port = sys.argv[1].encode(), int(sys.argv[2])
def serve(c):
    with c, c.makefile('rwb') as f:
        for line in f:
            f.write(name + b' ' + line); f.flush()
s = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
print('open', flush=True)
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

/// Talks over many connections by turns until it is told to stop; says how many answered as they did at first, how many
/// broke, and the longest time in which nobody answered, in milliseconds.
const CLIENT: &str = "
import select, socket, sys, time
conns = []
for target in sys.argv[2:]:
    address, port = target.rsplit(',', 1)
    for _ in range(int(sys.argv[1])):
        c = socket.create_connection((address, int(port)), 60)
        c.sendall(b'?\\n')
        conns.append([c, c.recv(64).split()[0]])
print(' '.join(sorted({n.decode() for _, n in conns})), flush=True)
broken, last, gap, turn = set(), time.time(), 0, 0
def ask(i, wait):
    global last, gap
    c, name = conns[i]
    try:
        c.settimeout(wait)
        c.sendall(b'x\\n')
        got = c.recv(64)
        if got.split()[:1] != [name]: raise OSError(f'{name} became {got}')
        now = time.time()
        if now - last > 0.5: print(f'{name} was silent for {int(1000 * (now - last))} ms', file=sys.stderr)
        gap, last = max(gap, now - last), now
    except OSError as e:
        print(i, name, repr(e), file=sys.stderr)
        broken.add(i)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    turn = (turn + 1) % len(conns)
    if turn not in broken: ask(turn, 60)
for i in range(len(conns)):
    if i not in broken: ask(i, 60)
print(len(conns) - len(broken), len(broken), int(gap * 1000), flush=True)
";

const EACH: usize = 20;

/// A helper process and what it prints.
struct Talker(Child, BufReader<ChildStdout>);

impl Talker {
    fn new(mut child: Child) -> Talker {
        let output = child.stdout.take().unwrap();
        Talker(child, BufReader::new(output))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Tells the client to stop: how many connections live, how many broke, the longest silence.
    fn stop(mut self) -> (usize, usize, u64) {
        writeln!(self.0.stdin.take().unwrap()).unwrap();
        let said = self.line();
        let numbers: Vec<u64> = said.split(' ').map(|n| n.parse().unwrap()).collect();
        assert!(self.0.wait().unwrap().success());
        (numbers[0] as usize, numbers[1] as usize, numbers[2])
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One Service of both families, served by these pods.
fn service(pods: &[u8]) -> Object {
    let port = |address: &str, backend: fn(u8) -> String| {
        let backend = |i: &u8| Backend { address: backend(*i).parse::<IpAddr>().unwrap(), port: 8080 };
        ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            affinity_seconds: None,
            sets: vec![pods.iter().map(backend).collect()],
            frontends: vec![Frontend {
                kind: FrontendKind::ClusterIp,
                address: address.parse().unwrap(),
                port: 80,
                inside: Choice::Set(0),
                outside: Choice::Drop,
                sources: None,
            }],
        }
    };
    let ports =
        vec![port("10.96.0.10", |i| format!("10.244.1.{i}")), port("fd00:96::10", |i| format!("fd00:244:1::{i}"))];
    Object::Service(Service { name: "default/echo".into(), ports })
}

fn masquerading() -> Object {
    let Object::Local(local) = local() else { unreachable!("it is the local node") };
    Object::Local(LocalNode {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        masquerade: Some(Masquerade { addresses: vec!["10.9.0.1".parse().unwrap()], ports: (61_000, 61_999) }),
        ..local
    })
}

fn applied(answer: FromDataplane) {
    assert!(matches!(&answer, FromDataplane::Applied { failed, .. } if failed.is_empty()), "{answer:?}");
}

#[test]
fn connections_outlive_the_process() {
    let mut node = Node::new("restart");
    let macs: Vec<_> = [2u8, 3, 4].map(|i| (i, node.add_pod(i))).into();
    let endpoints = || macs.iter().map(|(i, mac)| endpoint(*i, *mac));
    node.start(&["--workers", "2"]);
    let mut keeper = Keeper::new();
    let mut agent = Agent::connect_keeping(&node, &mut keeper);
    applied(agent.commit(1, true, endpoints().chain([masquerading(), service(&[3, 4])]).collect()));
    keeper.applied();

    let mut servers = [3u8, 4].map(|i| Talker::new(node.python_in_pod(i, SERVER, &[&format!("pod{i}"), "8080"])));
    let mut outside = Talker::new(node.python_outside(SERVER, &["outside", "9000"]));
    servers.iter_mut().chain([&mut outside]).for_each(|server| assert_eq!(server.line(), "open"));
    let targets = ["10.96.0.10,80", "fd00:96::10,80", "10.9.0.2,9000"];
    let mut client = Talker::new(node.python_in_pod(2, CLIENT, &[&[EACH.to_string().as_str()], &targets[..]].concat()));
    assert_eq!(client.line(), "outside pod3 pod4", "both backends, and the world outside");

    for round in 0..2u64 {
        std::thread::sleep(Duration::from_millis(300));
        let killed = Instant::now();
        node.kill();
        drop(agent);
        node.start(&["--workers", "2"]);
        agent = Agent::connect_keeping(&node, &mut keeper);
        // Meanwhile pod 3 has left the Service, other indices are given, and the connections to it go on.
        let mut objects: Vec<_> = endpoints().chain([service(&[4]), masquerading()]).collect();
        objects.rotate_left(1 + round as usize);
        applied(agent.commit(1, true, objects));
        keeper.applied();
        println!("round {round}: in force {:?} after the kill", killed.elapsed());
        let log = node.log();
        let adopted = log.lines().find(|line| line.contains("flows of the former process go on"));
        println!("{}", adopted.unwrap_or_else(|| panic!("no flows go on: {log}")));
    }
    std::thread::sleep(Duration::from_millis(500));
    let (live, broken, gap) = client.stop();
    println!("{live} connections live, {broken} broke, the longest silence was {gap} ms");
    assert_eq!((live, broken), (3 * EACH, 0), "{}", node.log());
    // A loaded machine takes its time to start the process; the lab measures against the promise.
    assert!(gap < 20_000, "{gap} ms");
}

/// Other workers own other packets: such flows end, and new ones begin.
#[test]
fn another_number_of_workers_begins_anew() {
    let mut node = Node::new("anew");
    let macs: Vec<_> = [2u8, 3].map(|i| (i, node.add_pod(i))).into();
    let objects = || macs.iter().map(|(i, mac)| endpoint(*i, *mac)).chain([local()]).collect::<Vec<_>>();
    let mut keeper = Keeper::new();
    for (workers, says) in [("2", ""), ("1", "flows begin anew when --workers or --memory change")] {
        node.start(&["--workers", workers]);
        applied(Agent::connect_keeping(&node, &mut keeper).commit(1, true, objects()));
        keeper.applied();
        assert!(node.pod_pings(2, "10.244.1.3"));
        assert!(node.log().contains(says), "{}", node.log());
        node.kill();
    }
}
