//! `podplane-agent`: reads the cluster's objects, gives pods their addresses, tells the dataplane.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use podplane_agent::check_api::ApiFlags;
use podplane_agent::cleanup::Cleanup;
use podplane_agent::flags::{ProbeFlags, ServiceFlags, SourceFlags};
use podplane_agent::host::Kernel;
use podplane_agent::run::{Options, agent};
use podplane_index::{Family, Settings};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Reads the cluster's objects, gives pods their addresses, answers the CNI plugin and configures the dataplane.
#[derive(Parser)]
#[command(name = "podplane-agent", version = podplane_version::line(), args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Removes what the agent keeps on the node, and gives the uplink back. For uninstalling: stop agent and dataplane
    /// first.
    Cleanup(Cleanup),
    /// Asks the API server for its version and its clock, and prints what came of it as JSON.
    CheckApi(ApiFlags),
    /// Does nothing until it is told to stop: for a pod whose work its init containers did.
    Pause,
}

#[derive(Args)]
struct Run {
    /// Name of this node's Node object; the host's name by default.
    #[arg(long, env = "NODE_NAME")]
    node: Option<String>,
    #[command(flatten)]
    source: SourceFlags,
    /// Directory of sockets.
    #[arg(long, default_value = "/run/podplane")]
    run_dir: PathBuf,
    /// Directory of what outlives the process: leases, the take-over record.
    #[arg(long, default_value = "/var/lib/podplane")]
    state_dir: PathBuf,
    /// Family of the addresses between nodes, ipv4 or ipv6; the same in the whole cluster.
    #[arg(long, default_value_t = Family::Ipv4)]
    underlay: Family,
    /// VXLAN network of the cluster, the same on all nodes; the next one is used as well.
    #[arg(long, default_value_t = 20560, value_parser = clap::value_parser!(u32).range(1..=16_777_214))]
    vni: u32,
    #[command(flatten)]
    services: ServiceFlags,
    #[command(flatten)]
    probes: ProbeFlags,
    /// Seconds that an address rests before another pod gets it.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    cool_down: u64,
    /// What to log: a level, or filters such as info,podplane_agent::publish=debug.
    #[arg(long, default_value = "info", env = "PODPLANE_LOG")]
    log: String,
    /// How to log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Cleanup(cleanup)) => clean_up(&cleanup),
        Some(Command::CheckApi(flags)) => check_api(&flags),
        Some(Command::Pause) => pause(),
        None => run(cli.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, also where RUST_BACKTRACE is set: the cause and the cure, not our call stack.
            eprintln!("podplane-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Run) -> anyhow::Result<()> {
    start_log(&args)?;
    let node = match args.node {
        Some(node) => node,
        None => {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            name.context("cannot read the host's name; name the node with --node")?.trim().to_owned()
        }
    };
    let source = args.source.options();
    tracing::info!(node, ?source, version = podplane_version::line(), "podplane-agent");
    let options = Options {
        settings: args.services.apply(Settings::new(node, args.underlay, args.vni))?,
        source,
        run_dir: args.run_dir,
        state_dir: args.state_dir,
        cool_down: Duration::from_secs(args.cool_down),
        duties: true,
        probes: args.probes.options(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping; pods keep their network");
            say(NotifyState::Stopping);
        };
        agent(options, Arc::new(Kernel), || say(NotifyState::Ready), stop).await
    });
    // A handshake that waits for a dataplane must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// Tells systemd, where it asked to be told.
fn say(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::debug!(reason = %e, "systemd was not told");
    }
}

fn start_log(args: &Run) -> anyhow::Result<()> {
    // The client's library logs what we say ourselves, at each attempt; whoever names it gets it.
    let said =
        if args.log.contains("kube_client") { args.log.clone() } else { format!("{},kube_client=off", args.log) };
    let filter = EnvFilter::try_new(said).with_context(|| format!("--log {:?} is no filter", args.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

fn clean_up(cleanup: &Cleanup) -> anyhow::Result<()> {
    println!("{}", cleanup.run()?);
    if let Some(done) = small_runtime()?.block_on(cleanup.leave_the_cluster())? {
        println!("{done}");
    }
    Ok(())
}

fn check_api(flags: &ApiFlags) -> anyhow::Result<()> {
    let answer = small_runtime()?.block_on(podplane_agent::check_api::check(flags));
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn pause() -> anyhow::Result<()> {
    small_runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        terminate.recv().await;
        Ok(())
    })
}
