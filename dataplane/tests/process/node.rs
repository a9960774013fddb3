//! A node in namespaces: itself, a neighbour on its uplink, its pods, and its dataplane.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podplane_config::introspect::Question;
use podplane_config::link::{self, AgentLink, Keeper};
use podplane_config::v1::{FromDataplane, Key, Object, ToDataplane};
use podplane_hostnet::{Netns, ingress_drop};
use serde::de::DeserializeOwned;

const GATEWAY: &str = "02:50:50:00:00:01";

pub struct Node {
    name: String,
    netns: Netns,
    neighbour: Netns,
    pods: Vec<(u8, Netns)>,
    folder: tempfile::TempDir,
    process: Option<Child>,
    helpers: Vec<Child>,
}

impl Node {
    pub fn new(what: &str) -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pp-worker-{what}-{}-{number}", std::process::id());
        let netns = Netns::create(&name).expect("create a namespace (these tests need root)");
        let other = format!("{name}-out");
        let neighbour = Netns::create(&other).unwrap();
        let node = Node {
            name,
            netns,
            neighbour,
            pods: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            process: None,
            helpers: Vec::new(),
        };
        node.sh("ip link set lo up");
        node.sh(&format!(
            "ip link add eth0 type veth peer name eth0 netns {other}
             ip addr add 10.9.0.1/24 dev eth0; ip addr add fd00:9::1/64 dev eth0 nodad
             ip link set eth0 up; ip route add default via 10.9.0.2"
        ));
        run(
            &node.neighbour,
            "ip link set lo up; ip link set eth0 up
             ip addr add 10.9.0.2/24 dev eth0; ip addr add fd00:9::2/64 dev eth0 nodad",
        );
        node
    }

    /// Makes the uplink and the cable to the neighbour again, without addresses on the node's side.
    pub fn add_uplink(&self) {
        self.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}-out", self.name));
        run(
            &self.neighbour,
            "ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; ip addr add fd00:9::2/64 dev eth0 nodad",
        );
    }

    /// What a command in a pod prints, whether it succeeds or not.
    pub fn pod_says(&self, pod: u8, command: &str) -> String {
        run(self.pod(pod), &format!("{command} 2>&1 || true"))
    }

    pub fn sh(&self, command: &str) -> String {
        run(&self.netns, command)
    }

    pub fn ok(&self, command: &str) -> bool {
        succeeds(&self.netns, command)
    }

    /// Global addresses of an interface.
    pub fn addresses(&self, interface: &str) -> String {
        self.sh(&format!("ip -o addr show dev {interface} scope global | awk '{{print $4}}'"))
    }

    /// Routes without the name of the device.
    pub fn routes(&self) -> String {
        self.sh("ip -4 route | sed 's/dev [^ ]* //'")
    }

    pub fn neighbour_mac(&self) -> String {
        run(&self.neighbour, "ip -o link show eth0").split_once("link/ether ").unwrap().1[..17].to_owned()
    }

    pub fn neighbour_pings(&self, to: &str) -> bool {
        succeeds(&self.neighbour, &format!("ping -q -c 2 -i 0.1 -W 20 {to}"))
    }

    pub fn pod_pings(&self, pod: u8, to: &str) -> bool {
        succeeds(self.pod(pod), &format!("ping -q -c 2 -i 0.1 -W 20 {to}"))
    }

    /// Whether nobody answers a pod; a check of its own because it waits in vain for as long as the other does for late
    /// answers.
    pub fn pod_pings_in_vain(&self, pod: u8, to: &str) -> bool {
        !succeeds(self.pod(pod), &format!("ping -q -c 2 -i 0.1 -W 1 {to}"))
    }

    fn pod(&self, pod: u8) -> &Netns {
        &self.pods.iter().find(|(i, _)| *i == pod).unwrap().1
    }

    pub fn in_pod<T: Send>(&self, pod: u8, f: impl FnOnce() -> T + Send) -> T {
        self.pod(pod).run(f).unwrap()
    }

    /// A program in a pod, to be talked to.
    pub fn python_in_pod(&self, pod: u8, program: &str, args: &[&str]) -> Child {
        python(self.pod(pod), program, args)
    }

    /// A program at the neighbour on the uplink.
    pub fn python_outside(&self, program: &str, args: &[&str]) -> Child {
        python(&self.neighbour, program, args)
    }

    /// A pod wired as the plugin does it; its Ethernet address.
    pub fn add_pod(&mut self, i: u8) -> [u8; 6] {
        let mac = [0x0a, 0, 0, 0, 0, i];
        self.add_pod_with(i, mac);
        mac
    }

    pub fn add_pod_with(&mut self, i: u8, mac: [u8; 6]) {
        let name = format!("{}-p{i}", self.name);
        let pod = Netns::create(&name).unwrap();
        let (host, mac) = (format!("pp{i:012x}"), mac.map(|b| format!("{b:02x}")).join(":"));
        self.sh(&format!(
            "ip link add {host} mtu 1450 type veth peer name eth0 address {mac} mtu 1450 netns {name}
             sysctl -qw net.ipv6.conf.{host}.disable_ipv6=1"
        ));
        self.netns.run(|| ingress_drop::add(&host)).unwrap().unwrap();
        self.sh(&format!("ip link set {host} up"));
        run(
            &pod,
            &format!(
                "ip link set lo up; ip link set eth0 up
             ip addr add 10.244.1.{i}/32 dev eth0; ip addr add fd00:244:1::{i}/128 dev eth0 nodad
             ip neigh add 169.254.1.1 lladdr {GATEWAY} nud permanent dev eth0
             ip neigh add fe80::1 lladdr {GATEWAY} nud permanent dev eth0
             ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1
             ip -6 route add default via fe80::1 dev eth0"
            ),
        );
        self.pods.push((i, pod));
    }

    /// Pods behind taps that are read by `frames` frames every `pause` seconds: their devices refuse all others.
    pub fn add_slow_pods(&mut self, which: impl Iterator<Item = u8>, frames: u32, pause: f32) -> Vec<(u8, [u8; 6])> {
        let pods: Vec<_> = which.map(|i| (i, [0x0a, 0, 0, 0, 1, i])).collect();
        self.slow_taps(pods.iter().map(|(i, _)| format!("pp{i:012x}")).collect(), frames, pause);
        pods
    }

    /// Taps that are read slowly.
    pub fn slow_taps(&mut self, names: Vec<String>, frames: u32, pause: f32) {
        const READER: &str = "
import fcntl, os, struct, sys, time
frames, pause, taps = int(sys.argv[1]), float(sys.argv[2]), []
for name in sys.argv[3:]:
    fd = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH', name.encode(), 0x1002))
    taps.append(fd)
while True:
    time.sleep(pause)
    for fd in taps:
        try:
            for _ in range(frames): os.read(fd, 2048)
        except BlockingIOError: pass
        except OSError: sys.exit()
";
        let (last, mut batch) = (names.last().unwrap().clone(), String::new());
        let mut python = Command::new("python3");
        python.args(["-c", READER, &frames.to_string(), &pause.to_string()]).args(&names).stdin(Stdio::null());
        self.helpers.push(self.netns.run(|| python.spawn()).unwrap().unwrap());
        self.until("the taps are there", |node| node.ok(&format!("ip link show {last}")));
        for name in names {
            batch += &format!("link set {name} mtu 1450 txqueuelen 64 up\n");
        }
        self.sh(&format!("ip -batch - <<'END'\n{batch}END"));
    }

    pub fn remove_pod(&mut self, i: u8) {
        self.sh(&format!("ip link del pp{i:012x}"));
        self.pods.retain(|(pod, _)| *pod != i);
        Netns::delete(&format!("{}-p{i}", self.name)).unwrap();
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("dataplane.sock")
    }

    fn spawn(&self, options: &[&str]) -> Child {
        let log = File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_podplane-dataplane"));
        command.args(["--no-huge", "--memory", "96", "--log", "debug", "--run-dir"]).arg(self.run_dir());
        command.arg("--state-dir").arg(self.folder.path().join("state")).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.netns.run(|| command.spawn()).unwrap().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn start(&mut self, options: &[&str]) {
        self.start_on("iface:eth0", options);
    }

    pub fn start_on(&mut self, uplink: &str, options: &[&str]) {
        let uplink = ["--uplink", uplink];
        self.process = Some(self.spawn(&[&uplink, options].concat()));
        self.until("the dataplane starts", |node| {
            link::ask::<_, serde_json::Value>(&node.socket(), &Question::Workers).is_ok()
        });
    }

    /// Starts a dataplane that must give up; what it said.
    pub fn fails(&mut self, options: &[&str]) -> String {
        let mut process = self.spawn(options);
        let status = process.wait().unwrap();
        assert!(!status.success(), "{options:?} must fail");
        self.log()
    }

    pub fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM).unwrap();
        assert!(process.wait().unwrap().success(), "{}", self.log());
    }

    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn ask<A: DeserializeOwned>(&self, question: Question) -> A {
        link::ask(&self.socket(), &question).unwrap()
    }

    pub fn try_ask_raw(&self, question: &str) -> Result<serde_json::Value, String> {
        let question: serde_json::Value = serde_json::from_str(question).unwrap();
        link::ask(&self.socket(), &question).map_err(|e| e.to_string())
    }

    pub fn until(&self, what: &str, done: impl Fn(&Node) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mut process in self.process.take().into_iter().chain(self.helpers.drain(..)) {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let pods = self.pods.iter().map(|(i, _)| format!("{}-p{i}", self.name));
        for name in pods.chain(["-out", ""].map(|suffix| format!("{}{suffix}", self.name))) {
            let _ = Netns::delete(&name);
        }
    }
}

fn python(netns: &Netns, program: &str, args: &[&str]) -> Child {
    let mut python = Command::new("python3");
    python.args(["-c", program]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    netns.run(|| python.spawn()).unwrap().unwrap()
}

fn run(netns: &Netns, command: &str) -> String {
    let output =
        netns.run(|| Command::new("sh").args(["-ec", command]).stdin(Stdio::null()).output().unwrap()).unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn succeeds(netns: &Netns, command: &str) -> bool {
    let output = netns.run(|| Command::new("sh").args(["-ec", command]).stdin(Stdio::null()).output().unwrap());
    output.unwrap().status.success()
}

/// The test as an agent.
pub struct Agent(AgentLink);

impl Agent {
    pub fn connect(node: &Node) -> Agent {
        Agent::connect_keeping(node, &mut Keeper::new())
    }

    /// Connects with what was kept of a former dataplane.
    pub fn connect_keeping(node: &Node, keeper: &mut Keeper) -> Agent {
        let (link, facts) = link::connect_keeping(&node.socket(), keeper).unwrap();
        assert_eq!((facts.host_ifname.as_str(), facts.uplink_mtu), ("podplane0", 1500));
        Agent(link)
    }

    pub fn commit(&mut self, generation: u64, full: bool, objects: Vec<Object>) -> FromDataplane {
        self.0.send(&ToDataplane::Begin { generation, full }).unwrap();
        objects.into_iter().for_each(|object| self.0.send(&ToDataplane::Upsert(object)).unwrap());
        self.finish(generation)
    }

    pub fn delete(&mut self, generation: u64, key: Key) -> FromDataplane {
        self.0.send(&ToDataplane::Begin { generation, full: false }).unwrap();
        self.0.send(&ToDataplane::Delete(key)).unwrap();
        self.finish(generation)
    }

    fn finish(&mut self, generation: u64) -> FromDataplane {
        self.0.send(&ToDataplane::Commit { generation }).unwrap();
        self.answer(generation)
    }

    /// What the dataplane says next.
    pub fn answer(&mut self, generation: u64) -> FromDataplane {
        let began = Instant::now();
        loop {
            if let Some(answer) = self.0.receive().unwrap() {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no answer to transaction {generation}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
