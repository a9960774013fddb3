//! What the agent knows of itself at the time of a scrape.

use std::fmt::Error;

use podplane_api::PoolUse;

use super::page::{Labels, Page};

/// The agent's gauges.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Whether nothing keeps pods from being added.
    pub(super) ready: bool,
    /// Where objects come from, and whether they do now.
    pub(super) source: (&'static str, bool),
    /// Objects that are not, or not wholly, in force.
    pub(super) refused: u64,
    pub(super) connected: bool,
    pub(super) sent: u64,
    pub(super) applied: u64,
    /// Since when the oldest change that is not in force waits, in seconds.
    pub(super) lag: f64,
    /// Attachments that are in force, and those that are not.
    pub(super) attachments: (u64, u64),
    pub(super) pools: Vec<PoolUse>,
    /// The process' time on CPUs in seconds, and its memory in bytes.
    pub(super) process: Option<(f64, u64)>,
}

pub(super) fn write(page: &mut Page<'_>, sample: &Sample) -> Result<(), Error> {
    let version = vec![("version", podplane_version::line().to_owned())];
    page.gauges("podplane_build_info", "The agent's version; always 1", [(version, 1u64)])?;
    page.gauge("podplane_ready", "Whether policy is enforced and pods can be added", u64::from(sample.ready))?;
    let source = vec![("source", sample.source.0.to_owned())];
    page.gauges(
        "podplane_source_connected",
        "Whether the source of objects (folder or cluster) can be followed",
        [(source, u64::from(sample.source.1))],
    )?;
    page.gauge("podplane_objects_refused", "Objects that are not, or not wholly, in force", sample.refused)?;
    page.gauge(
        "podplane_dataplane_connected",
        "Whether the agent is connected to the dataplane",
        u64::from(sample.connected),
    )?;
    page.gauge("podplane_generation_sent", "The last generation sent to the dataplane", sample.sent)?;
    page.gauge("podplane_generation_applied", "The last generation that every worker forwards by", sample.applied)?;
    page.gauge(
        "podplane_ring_lag_generations",
        "Generations sent and not in force",
        sample.sent.saturating_sub(sample.applied),
    )?;
    page.gauge(
        "podplane_ring_lag_seconds",
        "Age of the oldest change that is not in force; 0 without one",
        sample.lag,
    )?;
    let attachments = [("ready", sample.attachments.0), ("pending", sample.attachments.1)];
    page.gauges(
        "podplane_attachments",
        "Pods' interfaces, by whether they are in force",
        attachments.map(|(state, count)| (vec![("state", state.to_owned())], count)),
    )?;
    let range = |pool: &PoolUse| -> Labels { vec![("range", pool.cidr.clone())] };
    let used = sample.pools.iter().map(|pool| (range(pool), pool.used));
    page.gauges("podplane_ipam_addresses_used", "Addresses of this node's pod ranges in use", used)?;
    let size = sample.pools.iter().map(|pool| (range(pool), pool.size));
    page.gauges("podplane_ipam_addresses", "Addresses of this node's pod ranges that can be given out", size)?;
    let Some((cpu, memory)) = sample.process else { return Ok(()) };
    page.total("podplane_agent_cpu_seconds", "The agent's time on CPUs", cpu)?;
    page.gauge("podplane_agent_memory_bytes", "The agent's resident memory", memory)
}

/// The process' time on CPUs in seconds and its resident bytes, from /proc.
pub(super) fn process() -> Option<(f64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    read(&stat, ticks as f64, page as u64)
}

/// proc(5): behind the name in brackets, `utime` is the 12th field, `stime` the 13th, `rss` the 22nd.
fn read(stat: &str, ticks: f64, page: u64) -> Option<(f64, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    Some(((number(11)? + number(12)?) as f64 / ticks, number(21)? * page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_itself() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 19 20 3 22";
        assert_eq!(read(stat, 100.0, 4096), Some((2.0, 3 * 4096)));
        let (_, memory) = process().unwrap();
        assert!(memory > 100_000, "{memory}");
    }
}
