//! Runs every file of `tests/scenarios/`: objects, packet in, packets out. `scenarios/README.md` says how to write one.
//!
//! Each scenario runs in both families, with one worker and with three.

#[path = "scenarios/cluster.rs"]
mod cluster;
mod common;
#[path = "scenarios/file.rs"]
mod file;
#[path = "scenarios/packet.rs"]
mod packet;
#[path = "scenarios/rules.rs"]
mod rules;

use std::collections::BTreeMap;

use cluster::Cluster;
use file::{File, Scenario, Step};
use packet::{Names, Variables, matches};

/// Runs one scenario.
///
/// # Errors
/// Which step did not come out, and what did.
fn run(file: &File, scenario: &Scenario, v6: bool, workers: u8) -> Result<(), String> {
    let names = Names::new(&file.addresses, v6);
    let mut services = file.services.clone();
    services.extend(scenario.services.clone());
    let mut cluster = Cluster::new(workers, v6, names);
    cluster.serve(&services)?;
    let mut owners: BTreeMap<_, _> = Cluster::owned().map(|name| (name.to_owned(), Vec::new())).collect();
    owners.extend(file.owners.clone());
    put(&mut owners, scenario.owners.as_ref());
    let mut policies = scenario.policies.clone();
    cluster.enforce(&owners, &policies, &file.nets)?;
    let mut variables = Variables::new();
    for (i, step) in scenario.steps.iter().enumerate() {
        if let Some(changes) = &step.services {
            put(&mut services, Some(changes));
            cluster.serve(&services)?;
        }
        if step.owners.is_some() || step.policies.is_some() {
            put(&mut owners, step.owners.as_ref());
            put(&mut policies, step.policies.as_ref());
            cluster.enforce(&owners, &policies, &file.nets)?;
        }
        take(&mut cluster, step, &mut variables).map_err(|e| format!("step {}: {e}", i + 1))?;
    }
    Ok(())
}

/// Changes what is named, and removes what has nothing behind its name.
fn put<T: Clone>(all: &mut BTreeMap<String, T>, changes: Option<&BTreeMap<String, Option<T>>>) {
    for (name, value) in changes.into_iter().flatten() {
        match value {
            Some(value) => all.insert(name.clone(), value.clone()),
            None => all.remove(name),
        };
    }
}

fn take(cluster: &mut Cluster, step: &Step, variables: &mut Variables) -> Result<(), String> {
    let before = cluster.drops();
    if let Some(name) = &step.resolves {
        cluster.resolve(name)?;
    }
    if let Some(millis) = step.wait {
        cluster.sim.advance(millis);
    }
    for (place, text) in &step.packet {
        cluster.send(place, &variables.put_in(text)?)?;
    }
    let got = cluster.received()?;
    let dropped: Vec<String> = cluster.drops().into_iter().filter(|d| !before.contains(d)).map(|d| d.0).collect();
    let seen = || format!("{got:?}, dropped: {dropped:?}");
    if dropped.as_slice() != step.drop.as_slice() {
        return Err(format!("expected the drops {:?}; came: {}", step.drop.as_slice(), seen()));
    }
    let mut left: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (place, packets) in &got {
        left.entry(place).or_default().extend(packets.iter().cloned());
    }
    for (place, patterns) in &step.out {
        for pattern in patterns.as_slice() {
            let mut places = left.iter_mut().filter(|(at, _)| place == "any" || place == *at);
            let taken = places.any(|(_, packets)| {
                let found = packets.iter().position(|p| matches(pattern, p, variables));
                found.map(|i| packets.remove(i)).is_some()
            });
            if !taken {
                return Err(format!("nothing like '{pattern}' came to {place} ({variables}); came: {}", seen()));
            }
        }
    }
    if left.values().any(|packets| !packets.is_empty()) {
        return Err(format!("more came than expected: {}", seen()));
    }
    cluster.sim.conserved()
}

#[test]
fn every_scenario_comes_out() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(dir).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "no scenarios in {dir}");
    // SCENARIO=part-of-a-name runs those alone.
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let (mut ran, mut failures) = (0, Vec::new());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a file");
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let file: File = match serde_saphyr::from_str(&text) {
            Ok(file) => file,
            Err(e) => panic!("{name}: {e}"),
        };
        for scenario in file.scenarios.iter().filter(|s| s.name.contains(&only)) {
            for v6 in [false, true].into_iter().filter(|v6| scenario.families.contains(&if *v6 { 6 } else { 4 })) {
                for workers in [1, 3] {
                    ran += 1;
                    let family = if v6 { "IPv6" } else { "IPv4" };
                    let came = match (run(&file, scenario, v6, workers), &scenario.unmet) {
                        (Ok(()), None) | (Err(_), Some(_)) => continue,
                        (Err(e), None) => e,
                        (Ok(()), Some(why)) => format!("comes out although unmet ({why}): take the word away"),
                    };
                    failures.push(format!("{name}: {}: {family}, {workers} workers: {came}", scenario.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {ran} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 0, "no scenario is called like '{only}'");
}
