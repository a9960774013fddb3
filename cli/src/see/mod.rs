//! `podplane status`, `ports`, `drops`, `flows`, `services`, `policies` and `explain`: what the node's two processes say
//! of themselves.

mod explain;
mod flows;
mod policies;
mod services;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use podplane_api::{AgentClient, AgentStatus};
use podplane_config::introspect::{Drop, Link, Port, PortKind, Question, Status};
use podplane_config::link;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::output::{self, Format};

pub use explain::{ExplainArgs, explain};
pub use flows::{FlowsArgs, flows};
pub use policies::{PoliciesArgs, policies};
pub use services::{ServicesArgs, services};

/// Where to ask and how to print.
#[derive(Debug, clap::Args)]
pub struct SeeArgs {
    /// How to print.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// What `podplane status -o json` prints; a tested contract. A process that does not answer is null.
#[derive(Debug, Serialize)]
struct NodeStatus {
    dataplane: Option<Status>,
    agent: Option<AgentStatus>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Ports {
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
struct Drops {
    drops: Vec<Drop>,
}

fn ask<T: DeserializeOwned>(run_dir: &Path, question: Question) -> Result<T> {
    let socket = run_dir.join("dataplane.sock");
    link::ask(&socket, &question).with_context(|| {
        format!("asking the dataplane at {}: does podplane-dataplane run, and with this --run-dir?", socket.display())
    })
}

/// `podplane status`: exit status 1 where something is wrong.
pub fn status(run_dir: &Path, args: &SeeArgs) -> Result<bool> {
    let mut problems = Vec::new();
    let dataplane: Option<Status> = ask(run_dir, Question::Status).map_err(|e| problems.push(format!("{e:#}"))).ok();
    let agent = agent_status(run_dir.join("agent.sock")).map_err(|e| problems.push(format!("{e:#}"))).ok();
    if let Some(dataplane) = &dataplane {
        problems.extend(dataplane.warnings.iter().cloned());
        problems.extend(dataplane.failed.iter().map(|f| format!("endpoint {} ({}): {}", f.id, f.pod, f.reason)));
        problems.extend(dataplane.agent.refused.iter().map(|reason| format!("configuration refused: {reason}")));
    }
    if let Some(agent) = &agent {
        problems.extend(agent.conditions.iter().cloned());
        problems.extend(agent.refused.iter().map(|r| format!("{}: {}", r.place, r.reason)));
    }
    let works = dataplane.is_some() && agent.as_ref().is_some_and(|agent| agent.ready);
    let status = NodeStatus { dataplane, agent, problems };
    match args.output {
        Format::Json => output::json(&status)?,
        Format::Table | Format::Wide => print_status(&status),
    }
    Ok(works)
}

fn agent_status(socket: PathBuf) -> Result<AgentStatus> {
    AgentClient::new(socket).status().context("asking the agent")
}

fn print_status(status: &NodeStatus) {
    if let Some(dataplane) = &status.dataplane {
        print_dataplane(dataplane);
    }
    if let Some(agent) = &status.agent {
        let generation = agent.generation;
        println!("agent      {}, node {}", agent.version, agent.node);
        println!(
            "           ready: {}, generation {} of {} in force",
            agent.ready, generation.applied, generation.sent
        );
        for pool in &agent.addresses {
            println!("addresses  {}: {} of {} in use", pool.cidr, pool.used, pool.size);
        }
        for it in &agent.node_conditions {
            println!("condition  {} {} since {}: {}: {}", it.kind, it.status, it.since, it.reason, it.message);
        }
        for it in &agent.events {
            println!("event      {} {} {} ({}): {}", it.at, it.severity, it.reason, it.about, it.note);
        }
    }
    for problem in &status.problems {
        println!("problem    {problem}");
    }
}

fn print_dataplane(status: &Status) {
    let Status { uplink, flows, .. } = status;
    println!(
        "dataplane  {}, running with {}, pid {}, up {} s",
        status.version, status.dpdk, status.pid, status.uptime_seconds
    );
    println!("uplink     {} ({}), {}, MTU {}, {:?}", uplink.spec, uplink.name, uplink.mac, uplink.mtu, uplink.link);
    if let Some(node) = &status.node {
        println!("node       {}, VTEP {}, VNI {}, pods' MTU {}", node.name, node.vtep, node.vni, node.pod_mtu);
    }
    for peer in &status.peers {
        let next_hop = peer.next_hop.as_deref().unwrap_or("unresolved");
        println!("peer       {}, VTEP {}, next hop {next_hop}", peer.name, peer.vtep);
    }
    println!("endpoints  {} connected, {} packets dropped", status.endpoints, status.dropped);
    println!("flows      {} of {} half-entries, pressure {}", flows.halves, flows.capacity, percent(flows.pressure));
    for pool in &status.buffers {
        let pressure = percent(f64::from(pool.in_use) / f64::from(pool.capacity.max(1)));
        println!("buffers    {}: {} of {} in use, pressure {pressure}", pool.name, pool.in_use, pool.capacity);
    }
    output::table(
        &["WORKER", "CPU", "BUSY", "PORTS", "RX", "TX", "SLEEPS", "FLOWS", "PRESSURE"],
        status.workers.iter().map(|w| {
            let cpu = w.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
            let numbers = [w.ports as u64, w.rx_packets, w.tx_packets, w.sleeps, w.flows].map(|n| n.to_string());
            let [ports, rx, tx, sleeps, flows] = numbers;
            let pressure = w.flows as f64 / w.flow_capacity.max(1) as f64;
            [w.id.to_string(), cpu, percent(w.busy), ports, rx, tx, sleeps, flows, percent(pressure)]
        }),
    );
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// `podplane ports`.
pub fn ports(run_dir: &Path, args: &SeeArgs) -> Result<()> {
    let ports: Vec<Port> = ask(run_dir, Question::Ports)?;
    if args.output == Format::Json {
        return output::json(&Ports { ports });
    }
    output::table(
        &["PORT", "KIND", "DEVICE", "POD", "ADDRESSES", "HOME", "LINK", "RX", "TX", "DROPS", "OVERRUNS"],
        ports.iter().map(|p| {
            let kind = match p.kind {
                PortKind::Uplink => "uplink",
                PortKind::Host => "host",
                PortKind::Pod => "pod",
            };
            let addresses = p.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let home = p.home.map_or_else(|| "all".to_owned(), |home| home.to_string());
            let [rx, tx, drops, overruns] = [p.rx_packets, p.tx_packets, p.drops, p.rx_overruns].map(|n| n.to_string());
            let (pod, device) = (p.pod.clone(), p.name.clone());
            [
                p.id.to_string(),
                kind.into(),
                device,
                pod,
                addresses,
                home,
                link_name(p.link).into(),
                rx,
                tx,
                drops,
                overruns,
            ]
        }),
    );
    Ok(())
}

fn link_name(link: Link) -> &'static str {
    match link {
        Link::Up => "up",
        Link::Down => "down",
        Link::Gone => "gone",
    }
}

/// `podplane drops`.
pub fn drops(run_dir: &Path, args: &SeeArgs) -> Result<()> {
    let mut drops: Vec<Drop> = ask(run_dir, Question::Drops)?;
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    if args.output == Format::Json {
        return output::json(&Drops { drops });
    }
    output::table(
        &["PACKETS", "REASON", "PORT", "POD", "WORKER", "MEANING"],
        drops.iter().map(|d| {
            let (reason, name, pod) = (d.reason.clone(), d.name.clone(), d.pod.clone());
            [d.packets.to_string(), reason, name, pod, d.worker.to_string(), d.explanation.clone()]
        }),
    );
    Ok(())
}
