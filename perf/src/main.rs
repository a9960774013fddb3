//! `podplane-perf`: measurements with their peers.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use podplane_perf::bench::tcp::{self, How};
use podplane_perf::bench::through::{self, Passed, Traffic};
use podplane_perf::bench::{Family, change, cni, latency, load, policy, trips};
use podplane_perf::cpu;
use podplane_perf::node::Start;
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
    /// Length of each TCP stream and flood of datagrams.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Pods that `cni-add` adds.
    #[arg(long, default_value_t = 250)]
    pods: usize,
    /// Changes that `service-change` makes, and `policy-change` of each kind.
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// Seconds for which `service-load` waits for nftables.
    #[arg(long, default_value_t = 120)]
    nft_seconds: u64,
    /// Memory of the dataplanes of the Services' and policies' measurements, in MiB; `service-change` takes 1024 at least.
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// Do without hugepages.
    #[arg(long)]
    no_huge: bool,
    /// Run although others load this machine, to see that the measurements work: no figure is a result.
    #[arg(long)]
    loaded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    TcpLocal,
    TcpRemote,
    TcpRemoteAfPacket,
    LatencyLocal,
    LatencyRemote,
    CniAdd,
    ServiceTcp,
    ServiceTcp6,
    ServicePackets,
    ServiceRr,
    ServiceLoad,
    ServiceChange,
    PolicyLoad,
    PolicyChange,
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
            Name::ServiceTcp => "one TCP stream through one of 10,000 Services, IPv4, against nftables' verdict map",
            Name::ServiceTcp6 => "the same, IPv6",
            Name::ServicePackets => "small datagrams through a Service, and what it costs beside the same without it",
            Name::ServiceRr => "round trips through a Service: a byte, and a connection opened and closed for it",
            Name::ServiceLoad => "10,000 Services with 100,000 endpoints from the first message until in force",
            Name::ServiceChange => "one endpoint changed until its first packet, while 65,536 flows run",
            Name::PolicyLoad => {
                "10,000 addresses, 2,000 policies, 200 pods' rule sets from the first message until in force"
            }
            Name::PolicyChange => {
                "one address or rule changed among 10,000 until in force, against nftables' interval map"
            }
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
            let failed = names.iter().filter(|name| attempt(**name, &args).is_err()).count();
            // The other rows stand: half an hour of measurements is not lost to one of them.
            if failed > 0 { bail!("{failed} of {} rows have no result", names.len()) } else { Ok(()) }
        }
        Verb::RrServer => rr::serve(),
        Verb::RrClient { server, protocol, count } => rr::ask(server, protocol, count),
    }
}

/// One row, once the machine is quiet; says why where there is no result.
fn attempt(name: Name, args: &RunArgs) -> Result<()> {
    let quiet = if args.loaded {
        println!("NO RESULT, others may load this machine:");
        Ok(())
    } else {
        cpu::wait_quiet(Duration::from_secs(60))
    };
    quiet.and_then(|()| measure(name, args)).inspect_err(|error| eprintln!("{}: {error:#}", name.describe()))
}

fn measure(name: Name, args: &RunArgs) -> Result<()> {
    let plan = Plan { starts: args.starts, rounds: args.rounds };
    let lab: &[&str] = if args.no_huge { &["--no-huge"] } else { &[] };
    let how = [Family::V4, Family::V6].map(|family| How { family, seconds: args.seconds });
    let start = Start { memory: args.memory, no_huge: args.no_huge };
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
        Name::ServiceTcp => passed(through_service(Family::V4, Traffic::Stream, plan, args)?),
        Name::ServiceTcp6 => passed(through_service(Family::V6, Traffic::Stream, plan, args)?),
        Name::ServicePackets => passed(through_service(Family::V4, Traffic::Datagrams, plan, args)?),
        Name::ServiceRr => {
            for protocol in [Protocol::Tcp, Protocol::Connect] {
                print(&trips::through_service(Family::V4, protocol, plan, start)?, "goal <= 1.0");
            }
        }
        Name::ServiceLoad => loaded(&load::load(args.starts, Duration::from_secs(args.nft_seconds), start)?),
        Name::ServiceChange => changed(&change::change(args.changes, start)?),
        Name::PolicyLoad => policies_loaded(&policy::load(args.starts, start)?),
        Name::PolicyChange => policies_changed(&policy::change(args.changes, start)?),
    }
    Ok(())
}

fn through_service(family: Family, traffic: Traffic, plan: Plan, args: &RunArgs) -> Result<(Traffic, Passed)> {
    let how = through::How { family, traffic, seconds: args.seconds };
    let start = Start { memory: args.memory, no_huge: args.no_huge };
    Ok((traffic, through::through(how, plan, start)?))
}

fn passed((traffic, result): (Traffic, Passed)) {
    // A datagram's way through threaded NAPI is the cheapest to account for, not the kernel's fastest.
    print(&result.rate, if traffic == Traffic::Stream { "goal >= 1.0" } else { "no goal" });
    let line = |of: &Summary| format!("{:.0} [{:.0}..{:.0}]", of.median, of.low, of.high);
    let ([ours, kernel], [our_part, kernel_part]) = (&result.cost, &result.own_part);
    println!("    {}: {} and {}", traffic.each(), line(ours), line(kernel));
    println!("    the Service's part of it: ours {}", line(our_part));
    let parts =
        [("traffic without the Service", Some(kernel_part)), ("routing without rules", result.over_plain.as_ref())];
    for (over, part) in parts {
        let Some(part) = part else { continue };
        let ratio = match result.ratio_to(part) {
            Some([ratio, error]) => format!("ratio {ratio:.2} +- {error:.2}"),
            None => "NO RESULT: lost in the spread".to_owned(),
        };
        println!("        nftables' over {over} {}, {ratio} (goal <= 0.1)", line(part));
    }
}

fn loaded(result: &load::Loaded) {
    let Summary { median, low, high, count } = result.seconds;
    println!(
        "10,000 Services with 100,000 endpoints in force after {median:.3} s [{low:.3}..{high:.3}] of {count} starts (goal <= 1 s)"
    );
    for (services, took) in &result.nftables {
        match took {
            Some(took) => println!("    nftables, {services} Services, one chain each: {:.1} s", took.as_secs_f64()),
            None => println!("    nftables, {services} Services, one chain each: given up"),
        }
    }
}

fn changed(result: &change::Changed) {
    let ([median, p99], [said, said99]) = (result.to_first_packet_ms, result.to_applied_ms);
    println!(
        "one endpoint changed to its first packet: median {median:.2} ms, p99 {p99:.2} ms of {} changes (goal p99 <= 5 ms)",
        result.changes
    );
    println!("    to the dataplane's word that it is in force: median {said:.2} ms, p99 {said99:.2} ms");
    println!(
        "    {} flows in the table; {} round trips on connections from before, none broken or moved",
        result.flows, result.established_trips
    );
}

fn policies_loaded(result: &policy::Loaded) {
    let Summary { median, low, high, count } = result.seconds;
    let ([before, after], [tables, compiled]) = (result.memory, result.tables);
    println!(
        "10,000 addresses, 2,000 policies, 200 pods' rule sets in force after {median:.3} s [{low:.3}..{high:.3}] of {count} starts (goal <= 2 s)"
    );
    println!(
        "    {compiled:.3} s of it to compile them; resident memory {:.0} MiB before and {:.0} after, the tables {tables:.0} of it",
        before.median, after.median
    );
}

fn policies_changed(result: &policy::Changed) {
    println!("policies of 10,000 rules, {} changes of each kind, to the word that it is in force:", result.changes);
    let line = |what: &str, [median, p99]: [f64; 2], goal: &str| {
        println!("    {what}: median {median:.2} ms, p99 {p99:.2} ms{goal}");
    };
    line("an address comes that 1,000 rules select", result.address, " (goal <= 1 ms)");
    line("a rule gets other ports", result.ports, " (goal <= 5 ms)");
    line("a rule gets another selector", result.selector, " (goal <= 5 ms)");
    let kernel = &result.kernel;
    println!("whole runs of nft -f, {} for one element:", kernel.changes);
    line("an empty file", kernel.nothing, "");
    for (i, of) in ["addresses", "addresses and ports"].into_iter().enumerate() {
        line(&format!("one of 10,000 ranges of {of}"), kernel.one[i], "");
        line("all of them", kernel.all[i], "");
    }
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
