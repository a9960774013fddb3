//! Namespaces and wires for the kernel's side of a comparison, removed when they go out of scope.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end; its complaints become the error.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let out =
        Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| format!("running {program}"))?;
    if !out.status.success() {
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        bail!("{program} {}: {}{}", args.join(" "), stdout.trim(), stderr.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs `ip` with words separated by spaces.
pub fn ip(words: &str) -> Result<()> {
    run("ip", &words.split(' ').collect::<Vec<_>>()).map(drop)
}

/// A network namespace of ours.
#[derive(Debug)]
pub struct Netns(String);

impl Netns {
    /// A new one; one of that name that an earlier run left is replaced.
    pub fn new(name: &str) -> Result<Netns> {
        let _ = ip(&format!("netns delete {name}"));
        ip(&format!("netns add {name}"))?;
        let netns = Netns(name.to_owned());
        ip(&format!("-n {name} link set lo up"))?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// A handle of it.
    pub fn open(&self) -> Result<podplane_hostnet::Netns> {
        let path = Path::new(podplane_hostnet::netns::RUN_DIR).join(&self.0);
        podplane_hostnet::Netns::open(&path).with_context(|| format!("opening {}", path.display()))
    }

    /// Runs a closure inside of it: sockets that it makes stay there, processes that it starts, too.
    pub fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.open()?.run(what)?)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&format!("netns delete {}", self.0));
    }
}

/// A command inside of a namespace by name.
pub fn in_netns(netns: &str, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(program).args(args).stdin(Stdio::null());
    command
}

/// Addresses of the server's end in every kernel topology, IPv4 and IPv6.
pub const SERVER: [&str; 2] = ["10.99.0.2", "fd00:99::2"];

/// Two "pods" that the kernel joins; `a` is the client's namespace, `b` the server's.
#[derive(Debug)]
pub struct Kernel {
    /// The client's.
    pub a: Netns,
    /// The server's.
    pub b: Netns,
    _between: Vec<Netns>,
}

impl Kernel {
    /// Joined by veths and one bridge in a namespace of its own, with `mtu` on all devices.
    pub fn bridge(prefix: &str, mtu: u16) -> Result<Kernel> {
        let middle = bridge(&format!("{prefix}-br"), mtu)?;
        let (a, b) = (Netns::new(&format!("{prefix}-a"))?, Netns::new(&format!("{prefix}-b"))?);
        for (i, end) in [(1, &a), (2, &b)] {
            plug(&middle, &format!("p{i}"), end, mtu)?;
            address(end, i)?;
        }
        Ok(Kernel { a, b, _between: vec![middle] })
    }

    /// On two "nodes" that the kernel's VXLAN joins, over the same kind of veths and bridge as a lab's nodes; `mtu` is
    /// the underlay's.
    pub fn vxlan(prefix: &str, mtu: u16) -> Result<Kernel> {
        let fabric = bridge(&format!("{prefix}-fab"), mtu)?;
        let (n1, a) = vxlan_node(prefix, 1, &fabric, mtu)?;
        let (n2, b) = vxlan_node(prefix, 2, &fabric, mtu)?;
        Ok(Kernel { a, b, _between: vec![n1, n2, fabric] })
    }
}

fn vxlan_node(prefix: &str, i: u8, fabric: &Netns, mtu: u16) -> Result<(Netns, Netns)> {
    let inner = mtu - 50;
    let node = bridge(&format!("{prefix}-n{i}"), inner)?;
    let pod = Netns::new(&format!("{prefix}-p{i}"))?;
    plug(fabric, &format!("n{i}"), &node, mtu)?;
    let n = node.name();
    ip(&format!("-n {n} link set eth0 up"))?;
    ip(&format!("-n {n} addr add 10.98.0.{i}/24 dev eth0"))?;
    let ends = format!("local 10.98.0.{i} remote 10.98.0.{}", 3 - i);
    ip(&format!("-n {n} link add vx0 mtu {inner} type vxlan id 99 {ends} dstport 4789"))?;
    ip(&format!("-n {n} link set vx0 master br0 up"))?;
    plug(&node, "p0", &pod, inner)?;
    address(&pod, i)?;
    Ok((node, pod))
}

/// A namespace with a bridge `br0`.
fn bridge(name: &str, mtu: u16) -> Result<Netns> {
    let netns = Netns::new(name)?;
    ip(&format!("-n {name} link add br0 mtu {mtu} type bridge stp_state 0 forward_delay 0"))?;
    ip(&format!("-n {name} link set br0 up"))?;
    Ok(netns)
}

fn plug(bridge: &Netns, port: &str, end: &Netns, mtu: u16) -> Result<()> {
    let (bridge, end) = (bridge.name(), end.name());
    ip(&format!("-n {bridge} link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {end}"))?;
    ip(&format!("-n {bridge} link set {port} master br0 up"))
}

fn address(end: &Netns, last: u8) -> Result<()> {
    let end = end.name();
    ip(&format!("-n {end} link set eth0 up"))?;
    ip(&format!("-n {end} addr add 10.99.0.{last}/24 dev eth0"))?;
    ip(&format!("-n {end} addr add fd00:99::{last}/64 dev eth0 nodad"))
}
