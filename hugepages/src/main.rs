//! `podplane-hugepages`: checks and prepares a node's hugepages, and says what a NIC needs.
#![forbid(unsafe_code)]

mod nic;
mod plan;
mod pools;
mod record;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::plan::{Need, Verdict};
use crate::pools::{PageSize, Pools, Sysfs};
use crate::record::Record;

/// Check, reserve and give back the hugepages that Podplane's dataplane works in.
#[derive(Debug, Parser)]
#[command(name = "podplane-hugepages", version = podplane_version::line())]
struct Cli {
    /// Where sysfs is mounted.
    #[arg(long, global = true, default_value = "/sys", hide = true)]
    sysfs: PathBuf,
    /// Where the reservations of `setup` are remembered, for `release`.
    #[arg(long, global = true, default_value = "/run/podplane/hugepages.json")]
    record: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what is there and what is short; exit status 1 if something is.
    Check {
        #[command(flatten)]
        want: Want,
        /// A NIC by PCI address that a dataplane is to drive; may be repeated.
        #[arg(long)]
        nic: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reserve what is short, and remember it.
    Setup {
        #[command(flatten)]
        want: Want,
    },
    /// Give back what `setup` reserved, and no more.
    Release,
}

#[derive(Debug, Args)]
struct Want {
    /// Free memory that must be there, in MiB, over all NUMA nodes that are named.
    #[arg(long, default_value_t = 1024)]
    memory: u64,
    /// Size of the pages.
    #[arg(long, default_value = "2M")]
    size: PageSize,
    /// A NUMA node to take it from; may be repeated. All by default, in equal parts.
    #[arg(long)]
    numa: Vec<u32>,
}

impl Want {
    fn need(&self) -> Need {
        Need { mib: self.memory, size: self.size, numa: self.numa.clone() }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("podplane-hugepages: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let sysfs = Sysfs::new(&cli.sysfs);
    match &cli.verb {
        Verb::Check { want, nic, json } => check(&sysfs, &want.need(), nic, *json),
        Verb::Setup { want } => setup(&sysfs, &want.need(), &cli.record).map(|()| true),
        Verb::Release => release(&sysfs, &cli.record).map(|()| true),
    }
}

fn check(sysfs: &Sysfs, need: &Need, nics: &[String], json: bool) -> Result<bool> {
    let verdicts = plan::judge(&sysfs.pools()?, need)?;
    let nics = nics.iter().map(|address| nic::look(sysfs.root(), address)).collect::<Vec<_>>();
    let good = verdicts.iter().all(|v| v.short == 0) && nics.iter().all(|nic| nic.problems.is_empty());
    if json {
        let report = serde_json::json!({ "ok": good, "hugepages": verdicts, "nics": nics });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(good);
    }
    for verdict in &verdicts {
        println!("{}", describe(verdict, need));
    }
    for nic in &nics {
        println!("nic {}: driver {}", nic.address, nic.driver.as_deref().unwrap_or("none"));
        for problem in &nic.problems {
            println!("  {}\n    fix: {}", problem.what, problem.fix);
        }
    }
    Ok(good)
}

fn describe(verdict: &Verdict, need: &Need) -> String {
    let Verdict { numa, total, free, wanted, short, .. } = verdict;
    let size = need.size;
    let line = format!("numa {numa}, {size} pages: {total} reserved, {free} free, {wanted} wanted");
    if *short == 0 {
        return format!("{line}: enough");
    }
    let mib = short * size.mib();
    format!(
        "{line}: {short} short ({mib} MiB)\n    fix: podplane-hugepages setup --memory {} --size {size}{}",
        need.mib,
        need.numa.iter().map(|n| format!(" --numa {n}")).collect::<String>()
    )
}

fn setup(kernel: &impl Pools, need: &Need, record_path: &std::path::Path) -> Result<()> {
    let mut record = Record::read(record_path)?;
    for verdict in plan::judge(&kernel.pools()?, need)?.into_iter().filter(|v| v.short > 0) {
        // Remembered before it is done: a setup that is killed in between is given back too.
        record.add(verdict.numa, need.size, verdict.short);
        record.write(record_path)?;
        let got = kernel.set_total(verdict.numa, need.size, verdict.total + verdict.short)?;
        let missing = (verdict.total + verdict.short).saturating_sub(got);
        if missing > 0 {
            record.take(verdict.numa, need.size, missing);
            record.write(record_path)?;
            release(kernel, record_path).context("giving back what could be reserved")?;
            bail!(
                "the kernel gave numa {} {missing} fewer {} pages than asked ({} MiB short): its memory is in use or \
                 fragmented. Free memory, run `echo 1 > /proc/sys/vm/compact_memory` and try again, or reserve at boot \
                 with the kernel parameters hugepagesz={} hugepages={}",
                verdict.numa,
                need.size,
                missing * need.size.mib(),
                need.size,
                verdict.total + verdict.short,
            );
        }
    }
    Ok(())
}

fn release(kernel: &impl Pools, record_path: &std::path::Path) -> Result<()> {
    let record = Record::read(record_path)?;
    let pools = kernel.pools()?;
    for entry in record.entries() {
        let pool = pools.iter().find(|pool| pool.numa == entry.numa && pool.size == entry.size);
        let Some(pool) = pool else { continue };
        let total = pool.total.saturating_sub(entry.pages);
        let left = kernel.set_total(entry.numa, entry.size, total)?;
        if left > total {
            bail!(
                "{} {} pages of numa {} are still in use: stop the dataplane that uses them, then run this again",
                left - total,
                entry.size,
                entry.numa
            );
        }
    }
    Record::remove(record_path)
}

#[cfg(test)]
mod tests;
