//! A node: its namespace, its two processes and its Node object.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use podplane_api::AgentClient;
use podplane_config::introspect::{Question, Status};
use podplane_config::link;
use serde_json::{Value, json};

use super::args::{NodeProcess, Uplink};
use super::cluster::OUTSIDE;
use super::net::{add_netns, ip_batch, plug, sysctl};
use super::state::Lab;
use super::{objects, process};

/// How long a dataplane may take to start: EAL, memory, the take-over.
const START: Duration = Duration::from_secs(120);

/// Addresses of a node with their prefixes, IPv4 and IPv6.
pub fn addresses(node: u8) -> [String; 2] {
    [format!("10.77.0.{}/24", 10 + node), format!("fd00:10:77::1{node}/64")]
}

/// Addresses of a node without prefixes.
pub fn bare_addresses(node: u8) -> [String; 2] {
    addresses(node).map(|address| bare(&address).to_owned())
}

/// The node's name as an object.
pub fn name(node: u8) -> String {
    format!("node{node}")
}

/// A program of ours: it lies beside this one.
pub fn binary(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("finding this program")?.with_file_name(program);
    if !path.exists() {
        bail!("{} is missing: build it with `make build`", path.display());
    }
    Ok(path)
}

/// The Node object with fixed ranges for its pods.
pub fn object(lab: &Lab, node: u8) -> Value {
    let ranges = [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")];
    let [v4, v6] = bare_addresses(node);
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name(node), "labels": {
            "kubernetes.io/hostname": name(node), "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": zone(lab, node),
        } },
        "spec": { "podCIDR": ranges[0], "podCIDRs": ranges },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": v4 },
                { "type": "InternalIP", "address": v6 },
                { "type": "Hostname", "address": name(node) },
            ],
            "conditions": [
                { "type": "Ready", "status": "True", "reason": "LabNode", "lastTransitionTime": objects::now() },
            ],
        },
    })
}

fn zone(lab: &Lab, node: u8) -> String {
    let zones = &lab.shape.zones;
    let turn = usize::from(node - 1).checked_rem(zones.len());
    turn.map_or_else(|| format!("{}-zone{node}", lab.name), |i| zones[i].clone())
}

/// Makes the node's namespace and joins it to the fabric.
pub fn wire(lab: &Lab, node: u8) -> Result<()> {
    let netns = lab.node_netns(node)?;
    add_netns(&netns)?;
    plug(&lab.netns("fabric"), &name(node), &netns, "eth0", lab.shape.mtu)?;
    if lab.shape.uplink == Uplink::Tap {
        // The tap device is the node's NIC, and a bridge in the node's namespace its cable to the fabric. The node's
        // addresses are on the host port from the start. The cable must not answer ARP for them: the kernel would.
        sysctl(&netns, "net.ipv6.conf.eth0.disable_ipv6", "1")?;
        sysctl(&netns, "net.ipv6.conf.default.disable_ipv6", "1")?;
        let bridge = format!("link add cable mtu {} type bridge stp_state 0 forward_delay 0", lab.shape.mtu);
        ip_batch(&netns, &[bridge, "link set eth0 master cable up".into(), "link set cable arp off up".into()])?;
        return sysctl(&netns, "net.ipv6.conf.default.disable_ipv6", "0");
    }
    let [v4, v6] = addresses(node);
    let mut lines =
        vec!["link set eth0 up".into(), format!("addr add {v4} dev eth0"), format!("addr add {v6} dev eth0 nodad")];
    lines.extend(default_routes());
    ip_batch(&netns, &lines)
}

/// Everything else lies behind the host beside the cluster.
fn default_routes() -> [String; 2] {
    OUTSIDE.map(|address| format!("route replace default via {}", bare(address)))
}

fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

fn dataplane(node: u8) -> String {
    format!("dataplane-{node}")
}

fn agent(node: u8) -> String {
    format!("agent-{node}")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Starts the node's dataplane without waiting for it.
pub fn start_dataplane(lab: &Lab, node: u8) -> Result<()> {
    let shape = &lab.shape;
    let mut command = vec![text(&binary("podplane-dataplane")?)];
    let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
    option("--run-dir", text(&lab.run_dir(node)?));
    option("--state-dir", text(&lab.state_dir(node)?));
    option("--workers", shape.workers.to_string());
    option("--memory", shape.memory.to_string());
    match shape.uplink {
        Uplink::Iface => option("--uplink", "iface:eth0".into()),
        Uplink::AfPacket => option("--uplink", "ethdev:net_af_packet0,iface=eth0".into()),
        Uplink::Tap => {
            option("--uplink", "ethdev:net_tap0,iface=dtap0".into());
            option("--mtu", shape.mtu.to_string());
            for address in addresses(node) {
                option("--host-address", address);
            }
        }
    }
    if shape.no_huge {
        command.push("--no-huge".into());
    }
    if shape.busy_poll {
        command.push("--busy-poll".into());
    }
    command.extend(shape.dataplane_args.iter().cloned());
    process::start(lab, &dataplane(node), &lab.node_netns(node)?, &command)
}

/// Waits until the dataplane answers questions, and plugs in the devices that it made.
pub fn wait_dataplane(lab: &Lab, node: u8) -> Result<()> {
    let socket = lab.run_dir(node)?.join("dataplane.sock");
    let question = json!({ "get": "status" });
    process::wait_ready(lab, &dataplane(node), START, || link::ask::<_, Value>(&socket, &question).is_ok())?;
    if lab.shape.uplink == Uplink::Tap {
        let netns = lab.node_netns(node)?;
        sysctl(&netns, "net.ipv6.conf.dtap0.disable_ipv6", "1")?;
        ip_batch(&netns, &["link set dtap0 master cable up".into()])?;
        ip_batch(&netns, &default_routes())?;
    }
    Ok(())
}

/// Starts the node's agent without waiting for it.
pub fn start_agent(lab: &Lab, node: u8) -> Result<()> {
    let mut command = vec![
        text(&binary("podplane-agent")?),
        "--node".into(),
        name(node),
        "--source".into(),
        text(&lab.manifests()),
        "--run-dir".into(),
        text(&lab.run_dir(node)?),
        "--state-dir".into(),
        text(&lab.state_dir(node)?),
        "--underlay".into(),
        lab.shape.underlay.as_str().into(),
    ];
    command.extend(lab.shape.agent_args.iter().cloned());
    process::start(lab, &agent(node), &lab.node_netns(node)?, &command)
}

/// Waits until the node's first configuration is in force.
pub fn wait_agent(lab: &Lab, node: u8, within: Duration) -> Result<()> {
    let client = AgentClient::new(lab.run_dir(node)?.join("agent.sock"));
    process::wait_ready(lab, &agent(node), within, || client.status().is_ok_and(|status| status.ready))
}

/// Waits until the node knows the next hop to each other node: a cluster in which the first packets between nodes are
/// dropped would be up in name only.
pub fn wait_peers(lab: &Lab, node: u8, within: Duration) -> Result<()> {
    let socket = lab.run_dir(node)?.join("dataplane.sock");
    let peers = usize::from(lab.shape.nodes) - 1;
    process::wait_ready(lab, &dataplane(node), within, || {
        let status = link::ask::<_, Status>(&socket, &Question::Status);
        status.is_ok_and(|s| s.peers.len() == peers && s.peers.iter().all(|peer| peer.next_hop.is_some()))
    })
}

/// Starts one of the node's processes again and waits until it works.
pub fn restart(lab: &Lab, node: u8, which: NodeProcess) -> Result<()> {
    match which {
        NodeProcess::Dataplane => {
            process::stop(lab, &[dataplane(node)])?;
            start_dataplane(lab, node)?;
            wait_dataplane(lab, node)
        }
        NodeProcess::Agent => {
            process::stop(lab, &[agent(node)])?;
            start_agent(lab, node)?;
            wait_agent(lab, node, START)
        }
    }
}

/// Whether the node's first configuration is in force.
pub fn ready(lab: &Lab, node: u8) -> Result<bool> {
    let client = AgentClient::new(lab.run_dir(node)?.join("agent.sock"));
    Ok(client.status().is_ok_and(|status| status.ready && status.dataplane_connected))
}

/// Ids of the node's dataplane and agent, where they run.
pub fn pids(lab: &Lab, node: u8) -> (Option<i32>, Option<i32>) {
    (process::pid(lab, &dataplane(node)), process::pid(lab, &agent(node)))
}
