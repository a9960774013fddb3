//! One function for each verb of `podplane lab`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{LabArgs, PodVerb, Verb};
use super::controlplane::types::text;
use super::state::Lab;
use super::{apply, cluster, dns, node, objects, pod};
use crate::output::{self, Format};

/// Runs the verb.
pub fn run(args: &LabArgs) -> Result<()> {
    let open = || Lab::open(&args.name);
    match &args.verb {
        Verb::Up(up) => cluster::up(&args.name, up),
        Verb::Down => cluster::down(&args.name),
        Verb::Status { output } => status(&open()?, *output),
        Verb::Pod(PodVerb::Add(add)) => pod::add_from_args(&open()?, add),
        Verb::Pod(PodVerb::Delete { pod }) => {
            let lab = open()?;
            pod::existing(&lab, pod)?;
            pod::remove(&lab, pod)
        }
        Verb::Pod(PodVerb::Ready { pod }) => pod::set_ready(&open()?, pod, true),
        Verb::Pod(PodVerb::Unready { pod }) => pod::set_ready(&open()?, pod, false),
        Verb::Pod(PodVerb::Label { pod, labels }) => pod::label(&open()?, pod, labels),
        Verb::Pod(PodVerb::Terminate { pod }) => pod::terminate(&open()?, pod),
        Verb::Exec { target, command } => {
            let (netns, resolver) = exec_target(&open()?, target)?;
            exec(&netns, resolver.as_deref(), command)
        }
        Verb::NodeExec { node, command } => {
            let netns = open()?.node_netns(*node)?;
            exec(&netns, None, command)
        }
        Verb::Restart { process, node } => node::restart(&open()?, *node, *process),
        Verb::Get { kind, object } => get(&open()?, kind, object.as_deref()),
        Verb::Apply { file, unchecked } => apply::apply(&open()?, file, *unchecked),
        Verb::Delete { file } => apply::delete_all(&open()?, file),
    }
}

/// The network of a pod or of the host beside the cluster, and the pod's resolver configuration if the lab has names.
fn exec_target(lab: &Lab, target: &str) -> Result<(String, Option<PathBuf>)> {
    let netns = if target == "@outside" { lab.netns("outside") } else { pod::existing(lab, target)?.netns };
    Ok((netns, dns::resolv_conf(lab, target)?))
}

/// Becomes `command` inside of a network namespace. The lab's lock was let go before: commands may run for long.
fn exec(netns: &str, resolver: Option<&Path>, command: &[String]) -> Result<()> {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net=/run/netns/{netns}")).arg("--");
    if let Some(file) = resolver {
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        nsenter.args(["unshare", "--mount", "sh", "-c", mount]).arg(file);
    }
    Err(nsenter.args(command).exec()).context("running nsenter (Debian: apt-get install util-linux)")
}

fn get(lab: &Lab, kind: &str, name: Option<&str>) -> Result<()> {
    let objects = objects::list(lab, kind);
    let Some(name) = name else {
        return output::json(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }));
    };
    let is_it = |object: &&Value| objects::ObjectRef::of(object).is_ok_and(|which| which.full_name() == name);
    let object =
        objects.iter().find(is_it).with_context(|| format!("there is no {kind} {name} in lab {}", lab.name))?;
    output::json(object)
}

/// What `lab status -o json` prints; a tested contract.
#[derive(Debug, Serialize)]
struct Status {
    name: String,
    nodes: Vec<NodeStatus>,
    pods: Vec<PodStatus>,
    services: Vec<ServiceStatus>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    addresses: [String; 2],
    netns: String,
    run_dir: String,
    dataplane_pid: Option<i32>,
    agent_pid: Option<i32>,
    ready: bool,
}

#[derive(Debug, Serialize)]
struct PodStatus {
    namespace: String,
    name: String,
    node: String,
    addresses: Vec<String>,
    netns: String,
    container_id: String,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    namespace: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    cluster_ips: Vec<String>,
    external_ips: Vec<String>,
    /// As kubectl writes them: 80:30080/TCP.
    ports: Vec<String>,
}

fn status(lab: &Lab, format: Format) -> Result<()> {
    let status = Status {
        name: lab.name.clone(),
        nodes: lab.nodes().map(|n| node_status(lab, n)).collect::<Result<_>>()?,
        pods: lab.pods()?.iter().map(|record| pod_status(lab, record)).collect(),
        services: objects::list(lab, "Service").iter().map(service_status).collect(),
    };
    if format == Format::Json {
        return output::json(&status);
    }
    let yes = |pid: Option<i32>| pid.map_or_else(|| "down".to_owned(), |pid| format!("pid {pid}"));
    output::table(
        &["NODE", "ADDRESSES", "READY", "DATAPLANE", "AGENT", "RUN DIR"],
        status.nodes.iter().map(|n| {
            let ready = if n.ready { "yes" } else { "no" };
            let addresses = n.addresses.join(", ");
            [n.name.clone(), addresses, ready.into(), yes(n.dataplane_pid), yes(n.agent_pid), n.run_dir.clone()]
        }),
    );
    output::table(
        &["POD", "NODE", "ADDRESSES", "NETNS"],
        status
            .pods
            .iter()
            .map(|p| [format!("{}/{}", p.namespace, p.name), p.node.clone(), p.addresses.join(", "), p.netns.clone()]),
    );
    if !status.services.is_empty() {
        output::table(
            &["SERVICE", "TYPE", "CLUSTER-IPS", "EXTERNAL-IPS", "PORTS"],
            status.services.iter().map(|s| {
                let name = format!("{}/{}", s.namespace, s.name);
                let [cluster, external, ports] =
                    [&s.cluster_ips, &s.external_ips, &s.ports].map(|list| list.join(", "));
                [name, s.kind.clone(), cluster, external, ports]
            }),
        );
    }
    Ok(())
}

fn node_status(lab: &Lab, n: u8) -> Result<NodeStatus> {
    let (dataplane_pid, agent_pid) = node::pids(lab, n);
    Ok(NodeStatus {
        name: node::name(n),
        addresses: node::bare_addresses(n),
        netns: lab.node_netns(n)?,
        run_dir: lab.run_dir(n)?.display().to_string(),
        dataplane_pid,
        agent_pid,
        ready: node::ready(lab, n)?,
    })
}

fn pod_status(lab: &Lab, record: &super::state::PodRecord) -> PodStatus {
    let object = objects::get(lab, &pod::reference(record)).unwrap_or(Value::Null);
    let ips = object.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    PodStatus {
        namespace: record.namespace.clone(),
        name: record.name.clone(),
        node: node::name(record.node),
        addresses: ips.filter_map(|ip| ip["ip"].as_str().map(str::to_owned)).collect(),
        netns: record.netns.clone(),
        container_id: record.container_id.clone(),
    }
}

fn service_status(service: &Value) -> ServiceStatus {
    let list = |pointer: &str| service.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let texts = |pointer: &str| list(pointer).filter_map(|v| v.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let mut external_ips = texts("/spec/externalIPs");
    external_ips.extend(list("/status/loadBalancer/ingress").filter_map(|i| i["ip"].as_str().map(str::to_owned)));
    let port = |port: &Value| {
        let node_port = port["nodePort"].as_u64().map(|n| format!(":{n}")).unwrap_or_default();
        format!("{}{node_port}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"))
    };
    ServiceStatus {
        namespace: text(service, "/metadata/namespace").to_owned(),
        name: text(service, "/metadata/name").to_owned(),
        kind: text(service, "/spec/type").to_owned(),
        cluster_ips: texts("/spec/clusterIPs"),
        external_ips,
        ports: list("/spec/ports").map(port).collect(),
    }
}
