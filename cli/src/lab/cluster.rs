//! Building the lab and taking it down.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::args::UpArgs;
use super::controlplane::{balancer, cidr};
use super::net::{add_netns, delete_netns, ip_batch, netns_with_prefix, plug, sysctl};
use super::state::{Lab, Shape};
use super::{apply, dns, node, objects, process};

/// Addresses of the host beside the cluster.
pub const OUTSIDE: [&str; 2] = ["10.77.0.1/24", "fd00:10:77::1/64"];

/// Addresses of the same host that lie behind it, so that nodes need their default routes for them.
pub const FAR: [&str; 2] = ["203.0.113.1/32", "2001:db8:203::1/128"];

/// Builds a lab; what was built is taken down again when a step fails.
pub fn up(name: &str, args: &UpArgs) -> Result<()> {
    check_machine(name, args)?;
    let shape = Shape {
        nodes: args.nodes,
        uplink: args.uplink,
        workers: args.workers,
        mtu: args.mtu,
        underlay: args.underlay,
        memory: args.memory,
        no_huge: args.no_huge,
        busy_poll: args.busy_poll,
        zones: args.zones.clone(),
        agent_args: args.agent_arg.clone(),
        dataplane_args: args.dataplane_arg.clone(),
    };
    let lab = Lab::create(name, shape)?;
    match build(&lab, args) {
        Ok(()) => Ok(()),
        Err(error) => {
            take_down(lab).context("taking down what was built so far")?;
            Err(error)
        }
    }
}

/// What can be known before anything is made.
fn check_machine(name: &str, args: &UpArgs) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: it makes network namespaces");
    }
    Lab::is_new(name)?;
    if let Some(folder) = &args.manifests {
        std::fs::read_dir(folder).with_context(|| format!("reading the folder of manifests {}", folder.display()))?;
    }
    for program in ["podplane-dataplane", "podplane-agent", "podplane-cni"] {
        node::binary(program)?;
    }
    if args.dns {
        dns::program()?;
    }
    if args.no_huge {
        return Ok(());
    }
    let need = u64::from(args.nodes) * u64::from(args.memory);
    let free = free_hugepages_mib();
    if free < need {
        bail!(
            "{need} MiB of free hugepages are needed for {} nodes with {} MiB each, {free} MiB are free: run \
             `podplane-hugepages setup --memory {need}`, or use --no-huge",
            args.nodes,
            args.memory
        );
    }
    Ok(())
}

/// Free memory in the default hugepage pool, in MiB.
fn free_hugepages_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    field("HugePages_Free:").unwrap_or(0) * field("Hugepagesize:").unwrap_or(0) / 1024
}

/// How long a node may take to be ready after its start.
const PATIENCE: Duration = Duration::from_secs(120);

fn build(lab: &Lab, args: &UpArgs) -> Result<()> {
    build_fabric(lab)?;
    apply::ensure_namespace(lab, "default")?;
    objects::store(lab, cidr::default_object())?;
    for n in lab.nodes() {
        node::wire(lab, n)?;
        objects::store(lab, node::object(lab, n))?;
    }
    // All first, then wait: the start of a dataplane takes a second or two.
    for n in lab.nodes() {
        node::start_dataplane(lab, n)?;
    }
    for n in lab.nodes() {
        node::wait_dataplane(lab, n)?;
        node::start_agent(lab, n)?;
    }
    for n in lab.nodes() {
        node::wait_agent(lab, n, PATIENCE)?;
    }
    for n in lab.nodes() {
        node::wait_peers(lab, n, PATIENCE)?;
    }
    if args.dns {
        dns::start(lab)?;
    }
    if let Some(folder) = &args.manifests {
        apply::apply(lab, folder, false)?;
    }
    Ok(())
}

fn build_fabric(lab: &Lab) -> Result<()> {
    let (fabric, outside) = (lab.netns("fabric"), lab.netns("outside"));
    let mtu = lab.shape.mtu;
    add_netns(&fabric)?;
    // The bridge is a wire: it must not speak itself.
    sysctl(&fabric, "net.ipv6.conf.default.disable_ipv6", "1")?;
    ip_batch(
        &fabric,
        &[format!("link add br0 mtu {mtu} type bridge stp_state 0 forward_delay 0"), "link set br0 up".to_owned()],
    )?;
    add_netns(&outside)?;
    plug(&fabric, "outside", &outside, "eth0", mtu)?;
    let [v4, v6] = OUTSIDE;
    let [far4, far6] = FAR;
    let mut lines = vec![
        "link set eth0 up".to_owned(),
        format!("addr add {v4} dev eth0"),
        format!("addr add {v6} dev eth0 nodad"),
        format!("addr add {far4} dev lo"),
        format!("addr add {far6} dev lo"),
    ];
    // What a balancer's router would learn by ARP or BGP: load-balancer addresses lead to a node.
    let first = node::bare_addresses(1);
    lines.extend(balancer::POOLS.iter().zip(&first).map(|(pool, node)| format!("route add {pool} via {node}")));
    ip_batch(&outside, &lines)
}

/// Takes a lab down, complete or not; one that is not there is no error.
pub fn down(name: &str) -> Result<()> {
    match Lab::open_rest(name)? {
        Some(lab) => take_down(lab),
        None => Ok(()),
    }
}

fn take_down(lab: Lab) -> Result<()> {
    // Commands in pods first, so that nothing speaks any more; then agents, so that none restores an uplink that its
    // dataplane is about to restore; the plugin is not called: the namespaces take all devices with them.
    for prefix in ["pod-", "agent-", "dataplane-"] {
        process::stop(&lab, &process::names(&lab, prefix))?;
    }
    for netns in netns_with_prefix(&format!("{}-", lab.name)) {
        delete_netns(&netns)?;
    }
    lab.remove()
}
