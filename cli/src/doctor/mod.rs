//! `podplane doctor`: whether a host is fit for Podplane, and what to do where it is not.
//!
//! [`facts`] reads, [`checks`] judges. Nothing is changed, and nothing needs Podplane to be installed.

mod checks;
mod facts;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use self::checks::{Check, Verdict, Want, judge};
use crate::output::{self, Format};

/// What the node is meant for, and how to print.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The device to the other nodes, as podplane-dataplane takes it: iface:NAME, pci:ADDRESS or ethdev:DEVARGS.
    #[arg(long, value_name = "DEVICE", env = "PODPLANE_UPLINK")]
    pub uplink: Option<String>,
    /// Memory in MiB that the dataplane is to have.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: u64,
    /// The dataplane is to run without hugepages.
    #[arg(long)]
    pub no_huge: bool,
    /// The API server's own address, to ask it.
    #[arg(long, value_name = "URL", env = "PODPLANE_API_SERVER")]
    pub api_server: Option<String>,
    /// A kubeconfig to ask it with.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A folder with token and ca.crt to ask it with.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub credentials: Option<PathBuf>,
    /// The runtime's folder of plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// The runtime's folder of network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the host's files are.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub root: PathBuf,
    /// How to print.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

#[cfg(test)]
impl DoctorArgs {
    fn example() -> DoctorArgs {
        DoctorArgs {
            uplink: None,
            memory: 1024,
            no_huge: false,
            api_server: None,
            kubeconfig: None,
            credentials: None,
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            root: "/".into(),
            output: Format::Table,
        }
    }
}

/// What `podplane doctor -o json` prints; a tested contract.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

/// Looks at the host and prints; `false` where a check failed.
///
/// # Errors
/// Standard output that cannot be written.
pub fn doctor(run_dir: &Path, args: &DoctorArgs) -> Result<bool> {
    let want = Want {
        memory_mib: args.memory,
        hugepages: !args.no_huge,
        conf_dir: args.cni_conf_dir.display().to_string(),
        bin_dir: args.cni_bin_dir.display().to_string(),
    };
    let report = report(judge(&facts::gather(run_dir, args), &want));
    match args.output {
        Format::Json => output::json(&report)?,
        Format::Table | Format::Wide => print(&report),
    }
    Ok(report.ok)
}

fn report(checks: Vec<Check>) -> Report {
    Report { ok: checks.iter().all(|check| check.verdict != Verdict::Fail), checks }
}

fn print(report: &Report) {
    for check in &report.checks {
        let verdict = match check.verdict {
            Verdict::Pass => "ok",
            Verdict::Warn => "warning",
            Verdict::Fail => "FAILED",
        };
        println!("{verdict:<8} {:<11} {}", check.name, check.found);
        if let Some(fix) = &check.fix {
            println!("{:<8} {:<11} fix: {fix}", "", "");
        }
    }
}
