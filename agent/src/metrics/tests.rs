//! The page against docs/metrics.md, and against a dataplane that answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use podplane_api::PoolUse;
use podplane_config::introspect::{BufferPool, DropTotal, Metrics, PortKind, Table, Traffic, Worker, WorkerTotal};

use super::*;

/// The value of the first line with this name (labels included, if it is to be one with labels).
pub(crate) fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// A dataplane's answer with a value of everything.
fn everything() -> Metrics {
    let worker = Worker {
        id: 0,
        cpu: None,
        busy: 0.25,
        loops: 4,
        sleeps: 5,
        generation: 6,
        ports: 1,
        rx_packets: 7,
        tx_packets: 8,
        flows: 9,
        flow_capacity: 10,
    };
    Metrics {
        uptime_seconds: 1.5,
        generation: 7,
        hugepages: true,
        hugepages_wanted: true,
        warnings: Vec::new(),
        drops: vec![DropTotal { reason: "no-route".into(), packets: 11 }],
        traffic: vec![Traffic {
            kind: PortKind::Uplink,
            rx_packets: 1,
            rx_bytes: 2,
            tx_packets: 3,
            tx_bytes: 4,
            rx_overruns: 5,
        }],
        workers: vec![WorkerTotal { worker, busy_seconds: 0.5 }],
        buffers: vec![BufferPool { name: "small".into(), in_use: 1, capacity: 2 }],
        tables: vec![Table { name: "flows".into(), used: 1, capacity: 4, pressure: 0.25 }],
        endpoints: 1,
        endpoints_failed: 2,
        policy_compile_seconds: 0.001,
    }
}

fn page() -> String {
    let (programming, calls, writes) = (Programming::default(), CniCalls::default(), Writes::default());
    programming.changed(1, vec![std::time::SystemTime::now()]);
    programming.applied(1);
    calls.done("add", Duration::from_millis(20), Outcome::Ok);
    writes.count("condition", "ok");
    let sample = agent::Sample {
        source: ("folder", true),
        sent: 5,
        applied: 3,
        pools: vec![PoolUse { cidr: "10.0.0.0/24".into(), used: 1, size: 2 }],
        process: Some((1.0, 2)),
        ..agent::Sample::default()
    };
    let sampled = Arc::new(Sampled((sample, Some(everything())).into()));
    let mut text = String::new();
    encode(&mut text, &registry(&programming, &calls, &writes, &sampled)).unwrap();
    text
}

/// Name, type, labels and meaning of each metric on a page.
fn described(page: &str) -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>, String)> = BTreeMap::new();
    let mut family = String::new();
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                family = name.to_owned();
                found.entry(family.clone()).or_default().2 = help.trim_end_matches('.').to_owned();
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, family);
                found.entry(family.clone()).or_default().0 = kind.to_owned();
            }
            ["#", ..] => {}
            _ => {
                let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |it| it.0);
                let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
                found.entry(family.clone()).or_default().1.extend(names.filter(|name| name != "le"));
            }
        }
    }
    let total = |(name, it): (String, (String, BTreeSet<String>, String))| match it.0.as_str() {
        "counter" => (format!("{name}_total"), it),
        _ => (name, it),
    };
    found.into_iter().map(total).collect()
}

/// One row of the table for each metric: name, type, labels and meaning as the code has them. Where they differ, the
/// rows that the code wants are printed.
#[test]
fn the_table_in_docs_is_what_is_served() {
    let described = described(&page());
    let row = |(name, (kind, labels, help)): (&String, &(String, BTreeSet<String>, String))| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
    };
    let wanted: Vec<String> = described.iter().map(row).collect();
    let docs = include_str!("../../../docs/metrics.md");
    let there: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `podplane_")).collect();
    let there: BTreeSet<&str> = there.into_iter().collect();
    let differs = wanted.iter().any(|row| !there.contains(row.as_str())) || wanted.len() != there.len();
    assert!(!differs, "docs/metrics.md and the code differ; the code's rows are:\n{}", wanted.join("\n"));
}

#[test]
fn names_and_units_are_as_promised() {
    for (name, (kind, ..)) in described(&page()) {
        assert!(name.starts_with("podplane_"), "{name}");
        assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name}: {kind}");
        let other = ["ms", "us", "milliseconds", "percent", "kib", "mib", "minutes"];
        let base = !name.split('_').any(|part| other.contains(&part));
        assert!(base, "{name} is not in base units");
    }
    let page = page();
    assert_eq!(value(&page, "podplane_drops_total{reason=\"no-route\"}"), 11.0);
    assert_eq!(value(&page, "podplane_worker_generations_behind{worker=\"0\"}"), 1.0);
    assert_eq!(value(&page, "podplane_ring_lag_generations"), 2.0);
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn without_a_dataplane_its_metrics_are_missing_and_one_says_so() {
    let sampled = Arc::<Sampled>::default();
    let mut text = String::new();
    let registry = registry(&Programming::default(), &CniCalls::default(), &Writes::default(), &sampled);
    encode(&mut text, &registry).unwrap();
    assert_eq!(value(&text, "podplane_dataplane_up"), 0.0);
    assert!(!text.contains("podplane_drops"), "{text}");
}
