//! `podplane`: the operator's command.
#![forbid(unsafe_code)]

mod doctor;
mod lab;
mod output;
mod see;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// See into Podplane, and bring up a lab.
#[derive(Debug, Parser)]
#[command(name = "podplane", version = podplane_version::line())]
struct Cli {
    /// The folder with the sockets of the node's processes.
    #[arg(long, global = true, default_value = "/run/podplane")]
    run_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the node at one glance; exit status 1 where it does not work.
    Status(see::SeeArgs),
    /// Show the ports and their counters.
    Ports(see::SeeArgs),
    /// Show which packets were dropped, where and why.
    Drops(see::SeeArgs),
    /// Show the connections that go through the node, both directions as one line.
    Flows(see::FlowsArgs),
    /// Show what Services' addresses lead to, how often they were used, and why an endpoint is not.
    Services(see::ServicesArgs),
    /// Show which policies apply to each pod, how often their rules decided, and what is refused; exit status 1 where
    /// something is.
    Policies(see::PoliciesArgs),
    /// Say what would become of a packet, by which rule, without sending one; exit status 1 where it does not go on.
    Explain(see::ExplainArgs),
    /// Say whether this host is fit for Podplane, and what to do where it is not; exit status 1 where it is not.
    Doctor(doctor::DoctorArgs),
    /// A cluster of namespaces on this machine, for demos, CI and tests.
    Lab(lab::LabArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Status(args) => see::status(&cli.run_dir, args),
        Command::Ports(args) => see::ports(&cli.run_dir, args).map(|()| true),
        Command::Drops(args) => see::drops(&cli.run_dir, args).map(|()| true),
        Command::Flows(args) => see::flows(&cli.run_dir, args).map(|()| true),
        Command::Services(args) => see::services(&cli.run_dir, args).map(|()| true),
        Command::Policies(args) => see::policies(&cli.run_dir, args),
        Command::Explain(args) => see::explain(&cli.run_dir, args),
        Command::Doctor(args) => doctor::doctor(&cli.run_dir, args),
        Command::Lab(args) => lab::run(args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("podplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
        let get = Cli::try_parse_from(["podplane", "lab", "get", "--name", "x", "Service", "default/web"]).unwrap();
        let Command::Lab(lab) = get.command else { panic!("{get:?}") };
        assert_eq!(lab.name, "x");
    }
}
