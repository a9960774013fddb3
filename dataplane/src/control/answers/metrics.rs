//! Counters and gauges for a scrape. Ports that went count on: what is added up over all indices never goes back.

use std::sync::atomic::Ordering::Relaxed;

use podplane_config::introspect::{DropTotal, Metrics, PortKind, Table, Traffic, WorkerTotal};
use podplane_config::valid::{MAX_ADDRESSES, MAX_ENDPOINTS, MAX_FRONTENDS, MAX_PEERS};
use podplane_packet::id::PortId;
use podplane_pipeline::DropReason;

use super::Answers;
use crate::control::view::View;
use crate::worker::shared::Fill;

impl Answers {
    /// All of them.
    pub(super) fn metrics(&self) -> Metrics {
        let view = self.view.load_full();
        let drop =
            |reason: &DropReason| DropTotal { reason: reason.name().to_owned(), packets: self.total_drops(*reason) };
        let workers = self.workers().into_iter().zip(self.busy_nanos());
        Metrics {
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            generation: self.shared.snapshots.load().generation(),
            hugepages: self.constants.hugepages,
            hugepages_wanted: self.constants.hugepages_wanted,
            warnings: self.constants.warnings.clone(),
            drops: DropReason::ALL.iter().map(drop).collect(),
            traffic: [PortKind::Uplink, PortKind::Host, PortKind::Pod].map(|kind| self.traffic(kind, &view)).into(),
            workers: workers.map(|(worker, nanos)| WorkerTotal { worker, busy_seconds: nanos as f64 / 1e9 }).collect(),
            buffers: self.buffers(),
            tables: self.tables(&view),
            endpoints: view.ports.iter().filter(|port| port.id >= PortId::FIRST_POD).count() as u64,
            endpoints_failed: view.failed.len() as u64,
            policy_compile_seconds: view.policy_compiled.as_secs_f64(),
        }
    }

    fn traffic(&self, kind: PortKind, view: &View) -> Traffic {
        let first = PortId::FIRST_POD.index();
        let indices = match kind {
            PortKind::Uplink => PortId::UPLINK.index()..PortId::UPLINK.index() + 1,
            PortKind::Host => PortId::HOST.index()..PortId::HOST.index() + 1,
            PortKind::Pod => first..PortId::MAX,
        };
        let mut traffic = Traffic { kind, rx_packets: 0, rx_bytes: 0, tx_packets: 0, tx_bytes: 0, rx_overruns: 0 };
        for seat in &self.shared.seats {
            for port in indices.clone() {
                let port = seat.counters.port(PortId(port as u16));
                let ((rx_packets, rx_bytes), (tx_packets, tx_bytes)) = (port.rx(), port.tx());
                traffic.rx_packets += rx_packets;
                traffic.rx_bytes += rx_bytes;
                traffic.tx_packets += tx_packets;
                traffic.tx_bytes += tx_bytes;
            }
        }
        let present = view.ports.iter().filter(|port| indices.contains(&port.id.index()));
        traffic.rx_overruns = present.map(|port| port.monitor.receive_overruns()).sum();
        traffic
    }

    fn tables(&self, view: &View) -> Vec<Table> {
        let snapshot = self.snapshot();
        let fills = |fill: fn(&crate::worker::shared::WorkerStats) -> &Fill| -> Vec<(u64, u64)> {
            self.shared.seats.iter().map(|seat| fill(&seat.stats).load()).collect()
        };
        let each = self.constants.flow_capacity as u64;
        let flow_parts = self.shared.seats.iter().map(|seat| (seat.stats.flows.load(Relaxed), each)).collect();
        let one = |used: usize, capacity: usize| vec![(used as u64, capacity as u64)];
        vec![
            table("flows", flow_parts),
            table("fragments", fills(|stats| &stats.fragments)),
            table("affinities", fills(|stats| &stats.affinities)),
            table("peers", one(view.peers.len(), MAX_PEERS)),
            table("endpoints", one(view.ports.iter().filter(|p| p.id >= PortId::FIRST_POD).count(), MAX_ENDPOINTS)),
            table("frontends", one(snapshot.frontends().count(), MAX_FRONTENDS)),
            table("service-bytes", one(snapshot.service_table_bytes(), self.constants.service_table_limit)),
            table("policy-addresses", one(snapshot.policies().addresses(), MAX_ADDRESSES)),
        ]
    }
}

/// A table of these parts: entries, and how many fit.
fn table(name: &str, parts: Vec<(u64, u64)>) -> Table {
    let load = |(used, capacity): &(u64, u64)| *used as f64 / (*capacity).max(1) as f64;
    Table {
        name: name.to_owned(),
        used: parts.iter().map(|(used, _)| used).sum(),
        capacity: parts.iter().map(|(_, capacity)| capacity).sum(),
        pressure: parts.iter().map(load).fold(0.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_part_is_the_pressure() {
        let table = table("flows", vec![(1, 10), (9, 10), (0, 0)]);
        assert_eq!((table.used, table.capacity), (10, 20));
        assert!((table.pressure - 0.9).abs() < 1e-9, "{table:?}");
    }
}
