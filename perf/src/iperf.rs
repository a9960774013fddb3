//! One TCP stream by iperf3.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cpu::Machine;
use crate::netns::in_netns;

/// A running server; ended when it goes out of scope.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts one in a namespace, pinned to `cpu`.
    pub fn start(netns: &str, cpu: usize) -> Result<Server> {
        let mut child = in_netns(netns, "taskset", &["-c", &cpu.to_string(), "iperf3", "-s"])
            .stdout(Stdio::null())
            .spawn()
            .context("starting iperf3 (Debian: apt-get install iperf3)")?;
        std::thread::sleep(Duration::from_millis(300));
        match child.try_wait()? {
            Some(status) => bail!("the iperf3 server ended at once: {status}"),
            None => Ok(Server(child)),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run gave.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Gbit/s as the receiver counted.
    pub gbits: f64,
    /// Gbit for each CPU-second of the whole machine.
    pub gbits_per_cpu: f64,
}

/// One stream from `netns` to `server` for `seconds`, pinned to `cpu`. The congestion control is pinned to cubic: hosts
/// that default to BBR pace, and would measure their pacing.
pub fn stream(netns: &str, server: &str, cpu: usize, seconds: u32) -> Result<Throughput> {
    let before = Machine::now()?;
    let args = ["-c", &cpu.to_string(), "iperf3", "-c", server, "-t", &seconds.to_string(), "-C", "cubic", "-J"];
    let out = in_netns(netns, "taskset", &args).output().context("running iperf3")?;
    let busy = Machine::now()?.busy_since(&before);
    let report: Value = serde_json::from_slice(&out.stdout).context("iperf3's report is no JSON")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let sum = &report["end"]["sum_received"];
    let gbits = sum["bits_per_second"].as_f64().context("iperf3 reports no rate")? / 1e9;
    let bytes = sum["bytes"].as_f64().context("iperf3 reports no bytes")?;
    Ok(Throughput { gbits, gbits_per_cpu: bytes * 8e-9 / busy.max(0.01) })
}
