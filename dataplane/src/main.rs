//! Podplane's dataplane process.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use podplane_dataplane::{args::Args, start};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("podplane-dataplane: --log {:?} is no filter: {error}", args.log);
            return ExitCode::from(2);
        }
    };
    // Colours are for people: a journal or a log file gets plain text.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match start::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
