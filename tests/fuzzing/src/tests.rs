//! The targets over the inputs that are kept, and over changed ones: what a fuzzer does, for a moment and reproducibly.

use super::*;

/// Changed inputs a seed: a second or so for all.
const CHANGED: u32 = 40;

/// Marsaglia's xorshift64: the same inputs in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % below.max(1)
    }

    /// Some bytes of it changed, left out or said again.
    fn change(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.roll(256) as u8),
                2 => bytes.extend_from_slice(&seed[at.min(seed.len())..]),
                _ if at < bytes.len() => bytes[at] = self.roll(256) as u8,
                _ => {}
            }
        }
        bytes
    }
}

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = format!("{}/../fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let mut all: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("a seed can be read")))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{dir} is empty");
    all
}

fn replay(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).expect("a target of that name");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for (path, seed) in seeds(name) {
        // Printed only when the test fails: which input it was.
        println!("{path}");
        target(&seed);
        for _ in 0..CHANGED {
            let changed = dice.change(&seed);
            println!("{changed:02x?}");
            target(&changed);
        }
    }
}

#[test]
fn pipeline_seeds() {
    replay("pipeline");
}

#[test]
fn ring_seeds() {
    replay("ring");
}

#[test]
fn config_seeds() {
    replay("config");
}

#[test]
fn reassembly_seeds() {
    replay("reassembly");
}

#[test]
fn cni_seeds() {
    replay("cni");
}

#[test]
fn every_target_is_replayed_and_run() {
    let targets = format!("{}/../fuzz/fuzz_targets", env!("CARGO_MANIFEST_DIR"));
    let mut there: Vec<_> = std::fs::read_dir(targets).expect("the targets").flatten().map(|e| e.path()).collect();
    there.sort();
    let there: Vec<_> = there.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    let mut known: Vec<_> = TARGETS.iter().map(|(name, _)| *name).chain(["parse", "gso", "gro"]).collect();
    known.sort_unstable();
    assert_eq!(there, known);
}
