//! The kernel's side of Services: pods behind veths that one namespace routes between, with or without a ruleset as
//! kube-proxy's nftables mode writes it.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench::Family;
use crate::cpu::Threads;
use crate::netns::{Netns, in_netns, ip, run};
use crate::node::{POD_MTU, mac_text, pod_addresses, pod_end};
use crate::services;

/// Ethernet address of every pod's gateway, the node's end of its veth.
const GATEWAY: &str = "02:00:00:00:00:01";
/// How long the kernel may take to load the ruleset of a comparison.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that the kernel is, and its pods, numbered from 1.
#[derive(Debug)]
pub struct Routed {
    pods: Vec<Netns>,
    node: Netns,
    /// Starts the names of the pods' host ends: no two nodes at a time have the same.
    tag: &'static str,
}

impl Routed {
    /// Without any rules: what it forwards it only routes.
    pub fn plain(prefix: &str, pods: u8) -> Result<Routed> {
        Routed::wired(prefix, "bkp", pods)
    }

    fn wired(prefix: &str, tag: &'static str, pods: u8) -> Result<Routed> {
        let node = Netns::new(prefix)?;
        let n = node.name();
        let forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
        run("ip", &[&["netns", "exec", n, "sysctl", "-qw"], &forwarding[..]].concat())?;
        let pods = (1..=pods).map(|i| wire(&node, tag, i, prefix)).collect::<Result<_>>()?;
        Ok(Routed { pods, node, tag })
    }

    /// With the ten thousand Services of a family.
    pub fn with_services(prefix: &str, pods: u8, family: Family) -> Result<Routed> {
        let routed = Routed::wired(prefix, "bks", pods)?;
        match load(&routed.node, &services::rules(family), PATIENCE)? {
            Some(_) => Ok(routed),
            None => bail!("the kernel has not loaded the rules within {PATIENCE:?}"),
        }
    }

    /// The namespace of pod `i`.
    pub fn pod(&self, i: u8) -> Result<&Netns> {
        self.pods.get(usize::from(i) - 1).with_context(|| format!("there is no pod {i}"))
    }

    /// Binds all forwarding to threads of its own, one for each pod: threaded NAPI on the host ends, and no segmentation
    /// offload in the pods, whose packets would pass by NAPI in the sender's time.
    pub fn in_threads(&self) -> Result<Threads> {
        let mut names = Vec::new();
        for (i, pod) in (1..).zip(&self.pods) {
            run_in(pod, "ethtool", &["-K", "eth0", "tso", "off", "gso", "off"])?;
            let host = format!("{}{i}", self.tag);
            run_in(&self.node, "ethtool", &["-K", &host, "gro", "on"])?;
            // `ip netns exec`: it mounts the namespace's sysfs.
            let switch = format!("echo 1 > /sys/class/net/{host}/threaded");
            run("ip", &["netns", "exec", self.node.name(), "sh", "-c", &switch])?;
            names.push(format!("napi/{host}-"));
        }
        Threads::of_kernel(&names)
    }

    /// Connections that the measured Service's chain has sent to its endpoint.
    pub fn hits(&self, family: Family) -> Result<u64> {
        let [table, name, counter] = services::counter(family);
        let args = ["netns", "exec", self.node.name(), "nft", "-j", "list", "counter", table, name, counter];
        let listed: Value = serde_json::from_str(&run("ip", &args)?)?;
        let counters = listed["nftables"].as_array().context("nft lists nothing")?;
        let packets = counters.iter().find_map(|object| object["counter"]["packets"].as_u64());
        packets.context("nft lists no counter")
    }
}

fn run_in(netns: &Netns, program: &str, args: &[&str]) -> Result<()> {
    let out = in_netns(netns.name(), program, args).output().with_context(|| format!("running {program}"))?;
    if !out.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// As the ptp plugin wires pods: a route to each, its neighbour known.
fn wire(node: &Netns, tag: &str, i: u8, prefix: &str) -> Result<Netns> {
    let pod = Netns::new(&format!("{prefix}-p{i}"))?;
    let (n, p, mac) = (node.name(), pod.name(), mac_text(i));
    let far = format!("peer name eth0 address {mac} mtu {POD_MTU} netns {p}");
    ip(&format!("-n {n} link add {tag}{i} address {GATEWAY} mtu {POD_MTU} type veth {far}"))?;
    ip(&format!("-n {n} link set {tag}{i} up"))?;
    pod_end(&pod, i, GATEWAY)?;
    for address in pod_addresses(i) {
        ip(&format!("-n {n} route add {address} dev {tag}{i}"))?;
        ip(&format!("-n {n} neigh replace {address} lladdr {mac} nud permanent dev {tag}{i}"))?;
    }
    Ok(pod)
}

/// Loads a ruleset in one transaction, as kube-proxy does; how long that took. `None`: not done `within` that time, and
/// given up.
pub fn load(node: &Netns, rules: &str, within: Duration) -> Result<Option<Duration>> {
    let mut file = tempfile::NamedTempFile::new().context("making a file for the rules")?;
    file.write_all(rules.as_bytes())?;
    let began = Instant::now();
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", node.name(), "nft", "-f"]).arg(file.path());
    let mut nft = nft.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("starting nft")?;
    let done = ended(&mut nft, began + within)?;
    let took = began.elapsed();
    if !done {
        nft.kill()?;
    }
    let out = nft.wait_with_output()?;
    match (done, out.status.success()) {
        (false, _) => Ok(None),
        (true, true) => Ok(Some(took)),
        (true, false) => bail!("nft: {}", String::from_utf8_lossy(&out.stderr).trim()),
    }
}

fn ended(child: &mut Child, deadline: Instant) -> Result<bool> {
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}
