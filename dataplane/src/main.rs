//! Podplane's dataplane process.

use std::cell::Cell;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use podplane_dataplane::signals::Stop;
use podplane_dataplane::{args::Args, retry, start};
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
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            tracing::error!("hearing signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let started = Cell::new(false);
    let Err(error) = start::run(&args, Arc::clone(&stop), &started) else { return ExitCode::SUCCESS };
    tracing::error!("{error:#}");
    if started.get() {
        return ExitCode::FAILURE;
    }
    retry::leave(&args.run_dir, &error);
    if args.retry_start == 0 {
        return ExitCode::FAILURE;
    }
    match retry::again(Duration::from_secs(args.retry_start.into()), &stop) {
        None => ExitCode::SUCCESS,
        Some(error) => {
            tracing::error!("starting anew: {error}");
            ExitCode::FAILURE
        }
    }
}
