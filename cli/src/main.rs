//! `podplane`: the operator's command.

mod lab;
mod output;

use clap::{Parser, Subcommand};

/// See into Podplane, and bring up a lab.
#[derive(Debug, Parser)]
#[command(name = "podplane", version = podplane_version::line())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A cluster of namespaces on this machine, for demos, CI and tests.
    Lab(lab::LabArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Lab(args) => lab::run(&args),
    }
}
