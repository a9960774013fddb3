//! What becomes short in a dataplane that forwards: buffers, hugepages, flow tables.

use std::path::PathBuf;
use std::time::Duration;

use podplane_config::introspect::{Metrics, Question};
use podplane_config::link;
use tokio::time::Instant;

/// How often the dataplane is asked.
const PERIOD: Duration = Duration::from_secs(5);
/// For how long something is short after it was seen to be.
const HOLD: Duration = Duration::from_secs(60);
/// From which load on a table is nearly full.
const NEARLY: f64 = 0.95;
/// The drops that tell of buffers that were wanted and not there.
const NO_BUFFERS: &str = "no-buffers";

/// Follows the dataplane's gauges.
pub(super) struct Watched {
    socket: PathBuf,
    asked: Option<Instant>,
    no_buffers: Option<u64>,
    short: Option<(&'static str, String, Instant)>,
}

impl Watched {
    pub(super) fn new(socket: PathBuf) -> Watched {
        Watched { socket, asked: None, no_buffers: None, short: None }
    }

    /// Asks the dataplane, if it is time.
    pub(super) async fn look(&mut self) {
        if self.asked.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        self.asked = Some(Instant::now());
        let socket = self.socket.clone();
        let answer = tokio::task::spawn_blocking(move || link::ask(&socket, &Question::Metrics).ok()).await;
        if let Some(metrics) = answer.ok().flatten() {
            self.take(&metrics, Instant::now());
        }
    }

    fn take(&mut self, metrics: &Metrics, now: Instant) {
        let drops = metrics.drops.iter().find(|drop| drop.reason == NO_BUFFERS).map_or(0, |drop| drop.packets);
        // A dataplane that was started anew counts from zero.
        let lacked = self.no_buffers.replace(drops).map_or(0, |before| drops.saturating_sub(before));
        if let Some((reason, message)) = short(metrics, lacked) {
            self.short = Some((reason, message, now));
        } else {
            self.short.take_if(|(.., since)| now.saturating_duration_since(*since) >= HOLD);
        }
    }

    /// What is short: a reason, and what and how much.
    pub(super) fn degraded(&self) -> Option<(&'static str, String)> {
        self.short.as_ref().map(|(reason, message, _)| (*reason, message.clone()))
    }
}

/// What is short, the worst first. `lacked`: packets that were dropped for want of buffers since the last look.
fn short(metrics: &Metrics, lacked: u64) -> Option<(&'static str, String)> {
    let full = |used: u64, all: u64| all > 0 && used as f64 >= NEARLY * all as f64;
    if lacked > 0 || metrics.buffers.iter().any(|pool| full(pool.in_use.into(), pool.capacity.into())) {
        let pools: Vec<String> =
            metrics.buffers.iter().map(|pool| format!("{} {} of {}", pool.name, pool.in_use, pool.capacity)).collect();
        let message = format!(
            "packet buffers are short: in use are {}; give the dataplane more --memory, and hugepages for it",
            pools.join(", ")
        );
        return Some(("BuffersShort", message));
    }
    if let Some(table) = metrics.tables.iter().find(|table| table.name == "flows" && table.pressure >= NEARLY) {
        let message = format!(
            "flow tables are nearly full: {} of {} entries, a worker's part by {:.0} %; give the dataplane more --memory, \
             or shorter --timeout",
            table.used,
            table.capacity,
            table.pressure * 100.0
        );
        return Some(("FlowsShort", message));
    }
    let wanted = metrics.hugepages_wanted && !metrics.hugepages;
    wanted.then(|| ("HugepagesShort", metrics.warnings.first().cloned().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use podplane_config::introspect::{BufferPool, DropTotal, Table};

    use super::*;

    fn metrics(in_use: u32, dropped: u64, pressure: f64, hugepages: bool) -> Metrics {
        Metrics {
            hugepages,
            hugepages_wanted: true,
            warnings: vec!["3 MiB of hugepages are free, 896 MiB are wanted".into()],
            drops: vec![DropTotal { reason: NO_BUFFERS.into(), packets: dropped }],
            buffers: vec![BufferPool { name: "small".into(), in_use, capacity: 100 }],
            tables: vec![Table { name: "flows".into(), used: 1, capacity: 2, pressure }],
            ..Metrics::default()
        }
    }

    #[test]
    fn what_is_short_is_said_with_numbers_for_a_while() {
        let (mut watched, start) = (Watched::new("/".into()), Instant::now());
        let says = |watched: &Watched, reason: &str, text: &str| {
            let short = watched.degraded().unwrap_or_default();
            assert!(short.0 == reason && short.1.contains(text), "{short:?}");
        };
        watched.take(&metrics(1, 7, 0.0, true), start);
        assert_eq!(watched.degraded(), None, "what was dropped before is no news");
        watched.take(&metrics(1, 8, 0.0, true), start);
        says(&watched, "BuffersShort", "small 1 of 100");
        watched.take(&metrics(1, 8, 0.0, true), start + PERIOD);
        says(&watched, "BuffersShort", "small 1 of 100");
        watched.take(&metrics(1, 8, 0.0, true), start + HOLD);
        assert_eq!(watched.degraded(), None);
        watched.take(&metrics(95, 8, 0.0, true), start + HOLD);
        says(&watched, "BuffersShort", "small 95 of 100");
        watched.take(&metrics(1, 8, 0.96, true), start + HOLD);
        says(&watched, "FlowsShort", "96 %");
        watched.take(&metrics(1, 0, 0.0, false), start + HOLD);
        says(&watched, "HugepagesShort", "896 MiB are wanted");
    }
}
