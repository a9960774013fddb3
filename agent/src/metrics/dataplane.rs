//! What the dataplane counts, as it answers it on its socket.

use std::fmt::Error;

use podplane_config::introspect::{Metrics, PortKind, Table, Traffic, WorkerTotal};

use super::page::{Labels, Page};

pub(super) fn write(page: &mut Page<'_>, metrics: Option<&Metrics>) -> Result<(), Error> {
    page.gauge(
        "podplane_dataplane_up",
        "Whether the dataplane answered this scrape; where it did not, its metrics are missing",
        u64::from(metrics.is_some()),
    )?;
    let Some(metrics) = metrics else { return Ok(()) };
    page.gauge("podplane_dataplane_uptime_seconds", "Time since the dataplane's start", metrics.uptime_seconds)?;
    page.gauge(
        "podplane_dataplane_generation",
        "The generation of the tables that workers forward by",
        metrics.generation,
    )?;
    page.gauge(
        "podplane_dataplane_hugepages",
        "Whether packet buffers lie in hugepages",
        u64::from(metrics.hugepages),
    )?;
    page.gauge("podplane_endpoints", "Pods' ports that are connected", metrics.endpoints)?;
    page.gauge(
        "podplane_endpoints_failed",
        "Endpoints that are configured but not connected",
        metrics.endpoints_failed,
    )?;
    page.gauge(
        "podplane_policy_compile_seconds",
        "Time that compiling the last change of policy took",
        metrics.policy_compile_seconds,
    )?;
    let drops = metrics.drops.iter().map(|drop| (vec![("reason", drop.reason.clone())], drop.packets));
    page.totals("podplane_drops", "Packets dropped, by the stable name of the reason (docs/graph.md)", drops)?;
    traffic(page, &metrics.traffic)?;
    workers(page, &metrics.workers, metrics.generation)?;
    tables(page, &metrics.tables)?;
    let pool = |name: &str| vec![("pool", name.to_owned())];
    let used = metrics.buffers.iter().map(|buffers| (pool(&buffers.name), buffers.in_use));
    page.gauges("podplane_buffers_used", "Packet buffers in use", used)?;
    let all = metrics.buffers.iter().map(|buffers| (pool(&buffers.name), buffers.capacity));
    page.gauges("podplane_buffers", "Packet buffers in all", all)
}

fn traffic(page: &mut Page<'_>, traffic: &[Traffic]) -> Result<(), Error> {
    let port = |kind: PortKind| match kind {
        PortKind::Uplink => "uplink",
        PortKind::Host => "host",
        PortKind::Pod => "pod",
    };
    let labels =
        |it: &Traffic, way: &str| -> Labels { vec![("port", port(it.kind).to_owned()), ("direction", way.to_owned())] };
    let packets = traffic.iter().flat_map(|it| [(labels(it, "rx"), it.rx_packets), (labels(it, "tx"), it.tx_packets)]);
    page.totals("podplane_packets", "Packets that came in and went out, by kind of port", packets)?;
    let bytes = traffic.iter().flat_map(|it| [(labels(it, "rx"), it.rx_bytes), (labels(it, "tx"), it.tx_bytes)]);
    page.totals("podplane_bytes", "Bytes that came in and went out, by kind of port", bytes)?;
    let overruns = traffic.iter().map(|it| (vec![("port", port(it.kind).to_owned())], it.rx_overruns));
    page.totals(
        "podplane_receive_overruns",
        "Frames lost before they could be received, of ports that are there now",
        overruns,
    )
}

fn workers(page: &mut Page<'_>, workers: &[WorkerTotal], newest: u32) -> Result<(), Error> {
    let of = |it: &WorkerTotal| -> Labels { vec![("worker", it.worker.id.to_string())] };
    let busy = workers.iter().map(|it| (of(it), it.worker.busy));
    page.gauges("podplane_worker_busy_ratio", "Part of its time that a worker had packets, over some seconds", busy)?;
    let busy = workers.iter().map(|it| (of(it), it.busy_seconds));
    page.totals("podplane_worker_busy_seconds", "Time that a worker had packets to work on", busy)?;
    page.totals(
        "podplane_worker_loops",
        "Turns of a worker's loop",
        workers.iter().map(|it| (of(it), it.worker.loops)),
    )?;
    let sleeps = workers.iter().map(|it| (of(it), it.worker.sleeps));
    page.totals("podplane_worker_sleeps", "How often a worker went to sleep", sleeps)?;
    let behind = workers.iter().map(|it| (of(it), newest.saturating_sub(it.worker.generation)));
    page.gauges("podplane_worker_generations_behind", "Generations that a worker does not forward by yet", behind)?;
    let flows = workers.iter().map(|it| (of(it), it.worker.flows));
    page.gauges("podplane_worker_flows", "Half-entries in a worker's flow tables: two for each connection", flows)
}

fn tables(page: &mut Page<'_>, tables: &[Table]) -> Result<(), Error> {
    let of = |it: &Table| -> Labels { vec![("table", it.name.clone())] };
    let used = tables.iter().map(|it| (of(it), it.used));
    page.gauges("podplane_table_entries", "Entries of a table (of service-bytes: bytes)", used)?;
    let capacity = tables.iter().map(|it| (of(it), it.capacity));
    page.gauges("podplane_table_capacity", "The most entries that a table takes", capacity)?;
    let pressure = tables.iter().map(|it| (of(it), it.pressure));
    page.gauges("podplane_table_pressure_ratio", "Load of a table's fullest part: 1 is full", pressure)
}
