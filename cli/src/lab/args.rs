//! The command line of `podplane lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::output::Format;

/// Bring up a cluster of namespaces on this machine.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// The lab's name; several run side by side. Its namespaces start with it.
    #[arg(long, global = true, default_value = "lab", value_parser = lab_name)]
    pub name: String,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do with it.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build the lab and wait until every node forwards.
    Up(UpArgs),
    /// Take everything down: processes, namespaces, files. Also what a killed `up` left.
    Down,
    /// Show nodes and pods.
    Status {
        /// How to print.
        #[arg(short, long, default_value = "table")]
        output: Format,
    },
    /// Add or delete pods.
    #[command(subcommand)]
    Pod(PodVerb),
    /// Run a command in a pod's network, or in `@outside`, the host beside the cluster.
    Exec {
        /// NAMESPACE/NAME or @outside.
        target: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command in a node's network.
    NodeExec {
        /// The node's number, from 1.
        node: u8,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start a node's process again, ending it first where it still runs.
    Restart {
        /// Which.
        process: NodeProcess,
        /// The node's number, from 1.
        #[arg(long)]
        node: u8,
    },
    /// Print stored objects of a kind as JSON, as `kubectl get -o json` would.
    Get {
        /// Pod, Service, EndpointSlice, Node, …
        kind: String,
        /// NAMESPACE/NAME, or NAME of what has no namespace; all if absent.
        object: Option<String>,
    },
    /// Create or replace the objects of a file or a folder, as `kubectl apply` would.
    Apply {
        /// YAML or JSON; a folder of such files; - for standard input.
        #[arg(short)]
        file: PathBuf,
        /// Store policies as they are: no defaults, no checks. An API server would refuse what is wrong with them.
        #[arg(long)]
        unchecked: bool,
    },
    /// Delete the objects of a file or a folder.
    Delete {
        /// YAML or JSON; a folder of such files; - for standard input.
        #[arg(short)]
        file: PathBuf,
    },
}

/// The processes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NodeProcess {
    /// podplane-dataplane.
    Dataplane,
    /// podplane-agent.
    Agent,
}

/// What to do with pods.
#[derive(Debug, Subcommand)]
pub enum PodVerb {
    /// Make a pod's sandbox, call the plugin, start its containers' commands.
    Add(PodAddArgs),
    /// Say that a pod is ready, as its kubelet would.
    Ready {
        /// NAMESPACE/NAME.
        pod: String,
    },
    /// Say that a pod is not ready.
    Unready {
        /// NAMESPACE/NAME.
        pod: String,
    },
    /// Mark a pod for deletion, as `kubectl delete` does at first; it lives on until `delete`.
    Terminate {
        /// NAMESPACE/NAME.
        pod: String,
    },
    /// Change a pod's labels, as `kubectl label --overwrite` does.
    Label {
        /// NAMESPACE/NAME.
        pod: String,
        /// KEY=VALUE sets a label, KEY- removes it.
        #[arg(required = true, allow_hyphen_values = true)]
        labels: Vec<String>,
    },
    /// Stop it, call the plugin, remove the sandbox.
    Delete {
        /// NAMESPACE/NAME.
        pod: String,
    },
}

/// A new pod.
#[derive(Debug, Args)]
pub struct PodAddArgs {
    /// NAMESPACE/NAME.
    #[arg(required_unless_present = "file")]
    pub pod: Option<String>,
    /// A Pod manifest in place of a name: ports, host network, annotations, commands.
    #[arg(short, long, conflicts_with_all = ["pod", "label"])]
    pub file: Option<PathBuf>,
    /// The node's number, from 1; needed unless the manifest names one.
    #[arg(long)]
    pub node: Option<u8>,
    /// A label, KEY=VALUE; may be repeated.
    #[arg(long)]
    pub label: Vec<String>,
    /// The sandbox's identity as the plugin sees it; made up if absent.
    #[arg(long)]
    pub container_id: Option<String>,
}

/// The shape of a lab.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// What the nodes' uplink is.
    #[arg(long, default_value = "iface")]
    pub uplink: Uplink,
    /// Workers of each dataplane.
    #[arg(long, default_value_t = 1)]
    pub workers: u8,
    /// MTU of the network that joins the nodes, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1400..=9000))]
    pub mtu: u16,
    /// A folder of objects to apply at once.
    #[arg(long)]
    pub manifests: Option<PathBuf>,
    /// The family of the network between the nodes.
    #[arg(long, default_value = "ipv4")]
    pub underlay: Underlay,
    /// Memory of each dataplane in MiB.
    #[arg(long, default_value_t = 256)]
    pub memory: u32,
    /// Do without hugepages: slower, but nothing needs to be reserved.
    #[arg(long)]
    pub no_huge: bool,
    /// Workers never sleep.
    #[arg(long)]
    pub busy_poll: bool,
    /// Zones of the nodes, dealt out in turn; without it each node has one of its own.
    #[arg(long, value_delimiter = ',')]
    pub zones: Vec<String>,
    /// Serve the Services' names with CoreDNS, which must be installed; `exec` in pods then uses them.
    #[arg(long)]
    pub dns: bool,
    /// An option for every agent; may be repeated.
    #[arg(long, allow_hyphen_values = true, value_name = "OPTION")]
    pub agent_arg: Vec<String>,
    /// An option for every dataplane; may be repeated.
    #[arg(long, allow_hyphen_values = true, value_name = "OPTION")]
    pub dataplane_arg: Vec<String>,
}

/// The kinds of uplink that virtual devices can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Uplink {
    /// A kernel interface through Podplane's own AF_PACKET driver.
    Iface,
    /// DPDK's net_af_packet on a kernel interface.
    AfPacket,
    /// DPDK's net_tap.
    Tap,
}

/// The family of VTEPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Underlay {
    /// VXLAN over IPv4.
    Ipv4,
    /// VXLAN over IPv6.
    Ipv6,
}

impl Underlay {
    /// As the agent's `--underlay` wants it.
    pub fn as_str(self) -> &'static str {
        match self {
            Underlay::Ipv4 => "ipv4",
            Underlay::Ipv6 => "ipv6",
        }
    }
}

/// A name that can start a namespace's and be a folder's.
fn lab_name(text: &str) -> Result<String, String> {
    let fits = (1..=20).contains(&text.len());
    if fits && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        Ok(text.to_owned())
    } else {
        Err("1 to 20 lower-case letters, digits and dashes".to_owned())
    }
}
