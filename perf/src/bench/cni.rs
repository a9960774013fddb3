//! How long a pod waits for its network. No peer: the goals are absolute times.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

use super::Lab;
use crate::netns::in_netns;
use crate::stats::quantile;

/// What adding pods took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Added {
    /// Pods that were added in sequence.
    pub pods: usize,
    /// Seconds for all of them; making the sandboxes and starting the lab's command are part of it.
    pub seconds: f64,
    /// From the start of `lab pod add` to the first packet answered, in milliseconds: median and 99th percentile of the
    /// pods that found at least 100 on their node (all, where fewer are added).
    pub to_first_packet_ms: [f64; 2],
}

/// Adds `pods` pods to one node in sequence; each pings the first one as soon as it is added.
pub fn add(pods: usize, args: &[&str]) -> Result<Added> {
    let lab = Lab::up("bench", &[&["--nodes", "1"], args].concat())?;
    let target = lab.pod("default/target", 1)?;
    let counted_from = if pods > 100 { 100 } else { 1 };
    let (mut times, mut seconds) = (Vec::new(), 0.0);
    for i in 1..pods {
        let id = format!("{i:012x}");
        let start = Instant::now();
        lab.podplane(&["pod", "add", &format!("default/p{i}"), "--node", "1", "--container-id", &id])?;
        seconds += start.elapsed().as_secs_f64();
        let netns = format!("bench-pod-{id}");
        let mut ping = in_netns(&netns, "ping", &["-c", "1", "-W", "1", &target.addresses[0]]);
        if !ping.stdout(Stdio::null()).status()?.success() {
            bail!("the first packet of pod {i} was not answered");
        }
        if i >= counted_from {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(Added { pods, seconds, to_first_packet_ms: [quantile(&times, 0.5), quantile(&times, 0.99)] })
}
