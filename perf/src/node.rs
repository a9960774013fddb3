//! Our side without a cluster around it: one dataplane, its pods, and this program in the place of the agent, so that
//! ten thousand Services are told in the contract's own words and what is measured is the dataplane.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podplane_config::introspect::{Explained, FlowsSummary, Imaginary, Policies, Question, ServiceHits};
use podplane_config::link::{self, AgentLink, LinkError};
use podplane_config::v1::{self, Endpoint, FromDataplane, Key, LocalNode, Object, PortKind, ToDataplane};
use podplane_hostnet::ethtool::Ethtool;
use podplane_hostnet::ingress_drop;
use podplane_shm_ring::ring::PushError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::cpu::Threads;
use crate::netns::{Netns, ip, run};

/// MTU of pods in bytes: what a 1500-byte underlay leaves beside VXLAN.
pub const POD_MTU: u16 = 1450;
/// Ethernet address of pods' gateway.
const GATEWAY: &str = "02:50:50:00:00:01";
/// How long a dataplane may take to start, and to apply what it is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Addresses of pod `i`, IPv4 and IPv6; the same on the kernel's side. The first of the range is the node's.
pub fn pod_addresses(i: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 244, 1, i + 1).into(), Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, u16::from(i) + 1).into()]
}

/// How to start a dataplane.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// `--memory`, in MiB.
    pub memory: u32,
    /// `--no-huge`.
    pub no_huge: bool,
}

/// A node with a dataplane that this program configures; ended when it goes out of scope.
#[derive(Debug)]
pub struct Node {
    prefix: String,
    netns: Netns,
    _neighbour: Netns,
    pods: Vec<(u8, Netns)>,
    folder: TempDir,
    process: Option<Child>,
    link: Option<AgentLink>,
    generation: u64,
}

impl Node {
    /// Starts one with pods numbered from 1; they are connected by the first [`Node::commit`] that names them.
    pub fn up(prefix: &str, pods: u8, start: Start) -> Result<Node> {
        let (netns, neighbour) = (Netns::new(prefix)?, Netns::new(&format!("{prefix}-out"))?);
        let folder = tempfile::tempdir().context("making a folder for the dataplane")?;
        let prefix = prefix.to_owned();
        let mut node = Node {
            prefix,
            netns,
            _neighbour: neighbour,
            pods: Vec::new(),
            folder,
            process: None,
            link: None,
            generation: 0,
        };
        node.wire_uplink()?;
        for i in 1..=pods {
            node.wire_pod(i)?;
        }
        node.start(start)?;
        Ok(node)
    }

    fn wire_uplink(&self) -> Result<()> {
        let (n, out) = (self.netns.name(), self._neighbour.name());
        ip(&format!("-n {n} link add eth0 type veth peer name eth0 netns {out}"))?;
        ip(&format!("-n {n} addr add 10.9.0.1/24 dev eth0"))?;
        ip(&format!("-n {n} link set eth0 up"))?;
        ip(&format!("-n {out} link set eth0 up"))?;
        ip(&format!("-n {n} route add default via 10.9.0.2"))
    }

    /// As the plugin does it.
    fn wire_pod(&mut self, i: u8) -> Result<()> {
        let pod = Netns::new(&format!("{}-p{i}", self.prefix))?;
        let (n, p, host, mac) = (self.netns.name(), pod.name(), host_ifname(i), mac_text(i));
        let far = format!("peer name eth0 address {mac} mtu {POD_MTU} netns {p}");
        ip(&format!("-n {n} link add {host} mtu {POD_MTU} type veth {far}"))?;
        run("ip", &["netns", "exec", n, "sysctl", "-qw", &format!("net.ipv6.conf.{host}.disable_ipv6=1")])?;
        self.netns.enter(|| ingress_drop::add(&host))??;
        Ethtool::open_in(&pod.open()?)?.keep_to_virtio("eth0")?;
        ip(&format!("-n {n} link set {host} up"))?;
        pod_end(&pod, i, GATEWAY)?;
        self.pods.push((i, pod));
        Ok(())
    }

    fn start(&mut self, start: Start) -> Result<()> {
        let program = std::env::current_exe()?.with_file_name("podplane-dataplane");
        let log = File::create(self.folder.path().join("log"))?;
        let mut command = Command::new(&program);
        command.args(["--uplink", "iface:eth0", "--memory", &start.memory.to_string(), "--run-dir"]);
        command.arg(self.folder.path()).arg("--state-dir").arg(self.folder.path().join("state"));
        if start.no_huge {
            command.arg("--no-huge");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let spawned = self.netns.enter(move || command.spawn())?;
        self.process = Some(spawned.with_context(|| format!("starting {}", program.display()))?);
        let deadline = Instant::now() + PATIENCE;
        while link::ask::<_, serde_json::Value>(&self.socket(), &Question::Workers).is_err() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                bail!("the dataplane does not start:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.link = Some(link::connect(&self.socket())?.0);
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("dataplane.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The namespace of pod `i`.
    pub fn pod(&self, i: u8) -> Result<&Netns> {
        self.pods
            .iter()
            .find(|(pod, _)| *pod == i)
            .map(|(_, netns)| netns)
            .with_context(|| format!("there is no pod {i}"))
    }

    /// The node and its pods, as the agent would tell them.
    pub fn objects(&self) -> Vec<Object> {
        let mut objects = vec![local()];
        objects.extend(self.pods.iter().map(|(i, _)| endpoint(*i)));
        objects
    }

    /// Sends one transaction, `full` or not; how long it took from its first message until every worker forwards by it.
    pub fn commit(&mut self, full: bool, objects: Vec<Object>) -> Result<Duration> {
        let mut messages = Vec::with_capacity(objects.len());
        for object in objects {
            messages.extend(v1::upsert(object)?);
        }
        self.tell(full, &messages)
    }

    /// Removes objects in one transaction; how long it took as [`Node::commit`].
    pub fn remove(&mut self, keys: Vec<Key>) -> Result<Duration> {
        self.tell(false, &keys.into_iter().map(ToDataplane::Delete).collect::<Vec<_>>())
    }

    fn tell(&mut self, full: bool, messages: &[ToDataplane]) -> Result<Duration> {
        self.generation += 1;
        let generation = self.generation;
        let began = Instant::now();
        self.send(&ToDataplane::Begin { generation, full })?;
        for message in messages {
            self.send(message)?;
        }
        self.send(&ToDataplane::Commit { generation })?;
        self.applied(generation)?;
        Ok(began.elapsed())
    }

    fn link(&mut self) -> Result<&mut AgentLink> {
        self.link.as_mut().context("not connected to the dataplane")
    }

    fn send(&mut self, message: &ToDataplane) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.link()?.send(message) {
                Err(LinkError::Push(PushError::Full)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                sent => return Ok(sent?),
            }
        }
    }

    fn applied(&mut self, generation: u64) -> Result<()> {
        self.answered(generation).with_context(|| format!("telling the dataplane, which says:\n{}", self.log()))
    }

    fn answered(&mut self, generation: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let link = self.link()?;
            link.hush()?;
            while let Some(answer) = link.receive()? {
                match answer {
                    FromDataplane::Refused { reason, .. } => bail!("the dataplane refused the configuration: {reason}"),
                    FromDataplane::Applied { failed, .. } if !failed.is_empty() => bail!("not connected: {failed:?}"),
                    FromDataplane::Applied { generation: which, .. } if which == generation => return Ok(()),
                    FromDataplane::Applied { .. } => {}
                }
            }
            if Instant::now() > deadline {
                bail!("transaction {generation} is not applied after {PATIENCE:?}");
            }
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut [PollFd::new(&*link, PollFlags::IN)], Some(&second))?;
        }
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("no dataplane")?.id())
    }

    /// The dataplane's workers.
    pub fn threads(&self) -> Result<Threads> {
        Threads::of_process(self.pid()?, "worker-")
    }

    /// Resident memory of the dataplane in MiB, without hugepages.
    pub fn memory(&self) -> Result<f64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).context("the dataplane is gone")?;
        let words = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map(str::split_whitespace);
        let kib = words.and_then(|mut words| words.next()).and_then(|kib| kib.parse::<f64>().ok());
        Ok(kib.context("the status of a process has an unknown form")? / 1024.0)
    }

    /// New flows that a Service's frontends have sent to a backend.
    pub fn hits(&self, service: &str) -> Result<u64> {
        let all = self.services()?;
        Ok(all.iter().filter(|frontend| frontend.service == service).map(|frontend| frontend.hits).sum())
    }

    /// All frontends.
    pub fn services(&self) -> Result<Vec<ServiceHits>> {
        Ok(link::ask(&self.socket(), &Question::Services)?)
    }

    /// The policies in force.
    pub fn policies(&self) -> Result<Policies> {
        Ok(link::ask(&self.socket(), &Question::Policies)?)
    }

    /// What would become of a packet.
    pub fn explain(&self, packet: Imaginary) -> Result<Explained> {
        Ok(link::ask(&self.socket(), &Question::Explain { packet })?)
    }

    /// The load of the flow tables.
    pub fn flows(&self) -> Result<FlowsSummary> {
        Ok(link::ask(&self.socket(), &Question::FlowsSummary)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Before its namespaces go.
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Configures a pod's `eth0`: its addresses, and everything by a gateway of that Ethernet address.
pub fn pod_end(pod: &Netns, i: u8, gateway: &str) -> Result<()> {
    let (p, [v4, v6]) = (pod.name(), pod_addresses(i));
    ip(&format!("-n {p} link set eth0 up"))?;
    ip(&format!("-n {p} addr add {v4}/32 dev eth0"))?;
    ip(&format!("-n {p} addr add {v6}/128 dev eth0 nodad"))?;
    for address in ["169.254.1.1", "fe80::1"] {
        ip(&format!("-n {p} neigh add {address} lladdr {gateway} nud permanent dev eth0"))?;
    }
    ip(&format!("-n {p} route add 169.254.1.1 dev eth0 scope link"))?;
    ip(&format!("-n {p} route add default via 169.254.1.1"))?;
    ip(&format!("-n {p} -6 route add default via fe80::1 dev eth0"))
}

/// A pod's Ethernet address.
pub fn mac(i: u8) -> [u8; 6] {
    [0x0a, 0, 0, 0, 0, i]
}

/// The same as `ip` takes it.
pub fn mac_text(i: u8) -> String {
    mac(i).map(|byte| format!("{byte:02x}")).join(":")
}

fn host_ifname(i: u8) -> String {
    format!("pp{i:012x}")
}

fn local() -> Object {
    let net = |text: &str| text.parse().unwrap_or_else(|_| unreachable!("{text} is a network"));
    Object::Local(LocalNode {
        name: "node1".into(),
        vtep: Ipv4Addr::new(10, 9, 0, 1).into(),
        addresses: vec![Ipv4Addr::new(10, 9, 0, 1).into()],
        pod_cidrs: vec![net("10.244.1.0/24"), net("fd00:244:1::/64")],
        vni: 77,
        pod_mtu: POD_MTU,
        service_cidrs: vec![net("10.96.0.0/12"), net("fd00:96::/108")],
        no_masquerade: Vec::new(),
        masquerade: None,
        cluster_seed: [1, 2],
    })
}

fn endpoint(i: u8) -> Object {
    Object::Endpoint(Endpoint {
        id: format!("bench{i}/eth0"),
        pod: format!("bench/pod{i}"),
        port: PortKind::Veth { host_ifname: host_ifname(i) },
        mac: mac(i),
        addresses: pod_addresses(i).to_vec(),
        host_ports: Vec::new(),
        policy: Default::default(),
    })
}
