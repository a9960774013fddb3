//! `podplane-perf`: measurements with their peers.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use podplane_perf::bench::tcp::{self, Family, How};
use podplane_perf::bench::{cni, latency};
use podplane_perf::cpu;
use podplane_perf::rr::{self, Protocol};
use podplane_perf::stats::Summary;
use podplane_perf::versus::{Comparison, Plan};

/// Measure Podplane beside its peers.
#[derive(Debug, Parser)]
#[command(name = "podplane-perf", version = podplane_version::line())]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Name the measurements.
    List,
    /// Run measurements; all where none is named.
    Run(RunArgs),
    /// The server of round trips, inside of a namespace.
    #[command(hide = true)]
    RrServer,
    /// The client of round trips, inside of a namespace.
    #[command(hide = true)]
    RrClient { server: IpAddr, protocol: Protocol, count: usize },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which; see `list`.
    names: Vec<Name>,
    /// Fresh starts of both sides.
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Rounds of A B B A in each start.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Length of each TCP stream.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Pods that `cni-add` adds.
    #[arg(long, default_value_t = 250)]
    pods: usize,
    /// Do without hugepages.
    #[arg(long)]
    no_huge: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    TcpLocal,
    TcpRemote,
    TcpRemoteAfPacket,
    LatencyLocal,
    LatencyRemote,
    CniAdd,
}

impl Name {
    fn describe(self) -> &'static str {
        match self {
            Name::TcpLocal => "one TCP stream between pods of a node, against veth and a kernel bridge",
            Name::TcpRemote => "one TCP stream between nodes over iface, against the kernel's VXLAN",
            Name::TcpRemoteAfPacket => "the same over DPDK's net_af_packet",
            Name::LatencyLocal => "round trips of one byte on one node, TCP and UDP, against the kernel bridge",
            Name::LatencyRemote => "the same across nodes, against the kernel's VXLAN",
            Name::CniAdd => "CNI ADD to first packet with 250 pods on a node",
        }
    }
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::List => {
            for name in Name::value_variants() {
                let value = name.to_possible_value();
                println!("{:22}{}", value.as_ref().map_or("", |v| v.get_name()), name.describe());
            }
            Ok(())
        }
        Verb::Run(args) => {
            let names = if args.names.is_empty() { Name::value_variants() } else { &args.names };
            for name in names {
                cpu::wait_quiet(Duration::from_secs(30))?;
                measure(*name, &args)?;
            }
            Ok(())
        }
        Verb::RrServer => rr::serve(),
        Verb::RrClient { server, protocol, count } => rr::ask(server, protocol, count),
    }
}

fn measure(name: Name, args: &RunArgs) -> Result<()> {
    let plan = Plan { starts: args.starts, rounds: args.rounds };
    let lab: &[&str] = if args.no_huge { &["--no-huge"] } else { &[] };
    let how = [Family::V4, Family::V6].map(|family| How { family, seconds: args.seconds });
    match name {
        Name::TcpLocal => {
            for how in how {
                streams(&tcp::local(how, plan, lab)?, 0.9);
            }
        }
        Name::TcpRemote => {
            for how in how {
                streams(&tcp::remote(how, "iface", plan, lab)?, 0.5);
            }
        }
        Name::TcpRemoteAfPacket => {
            for how in how {
                streams(&tcp::remote(how, "af_packet", plan, lab)?, 0.15);
            }
        }
        Name::LatencyLocal | Name::LatencyRemote => {
            let (nodes, limit) = if name == Name::LatencyLocal { (1, 1.5) } else { (2, 3.0) };
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                print(&latency::round_trip(nodes, protocol, plan, lab)?, &format!("goal <= {limit}"));
            }
        }
        Name::CniAdd => {
            let added = cni::add(args.pods, lab)?;
            let [median, p99] = added.to_first_packet_ms;
            println!("{} pods added in sequence in {:.1} s (goal for 250: < 30 s)", added.pods, added.seconds);
            println!("CNI ADD to first packet: median {median:.0} ms, p99 {p99:.0} ms (goal p99 <= 100 ms)");
        }
    }
    Ok(())
}

fn streams(result: &tcp::Streams, goal: f64) {
    print(&result.wall, &format!("goal >= {goal}"));
    let [ours, peer] = result.per_cpu;
    println!("    per CPU-second of the machine: {ours:.2} and {peer:.2} Gbit, ratio {:.2}", ours / peer);
}

fn print(comparison: &Comparison, goal: &str) {
    let Summary { median, low, high, count } = comparison.ratio;
    let verdict = if comparison.believable() { "" } else { "  NO RESULT: the spread is over 10 %" };
    println!(
        "{}: {:.2} and {:.2} {}, ratio {median:.2} [{low:.2}..{high:.2}] of {count} starts ({goal}){verdict}",
        comparison.name, comparison.ours.median, comparison.peer.median, comparison.unit,
    );
}
