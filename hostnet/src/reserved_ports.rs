//! Ports that the kernel must not give to the node's own sockets (`net.ipv4.ip_local_reserved_ports`, which holds for
//! both families), in the caller's network namespace.
//!
//! The kernel keeps a set of ports, not who asked for them. So what was there before is written down, and only what we
//! added is taken away again.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, takeover::boot_id};

const KEY: &str = "ipv4/ip_local_reserved_ports";

/// What was there before, and what we added.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    boot_id: String,
    before: Vec<(u16, u16)>,
    ours: (u16, u16),
}

fn record_path(state_dir: &Path) -> PathBuf {
    state_dir.join("reserved-ports.json")
}

/// Has the ports from `ports.0` to `ports.1` reserved beside what others reserved; whether that was new. What was
/// there before is noted in `state_dir`.
pub fn ensure(state_dir: &Path, ports: (u16, u16)) -> Result<bool> {
    let now = read()?;
    let record = load(state_dir)?;
    if record.as_ref().is_some_and(|record| record.ours == ports) && contains(&now, ports) {
        return Ok(false);
    }
    // What we added before, with other settings, is not somebody else's.
    let before = record.map_or(now.clone(), |record| without(&now, record.ours, &record.before));
    save(state_dir, &Record { boot_id: boot_id()?, before: before.clone(), ours: ports })?;
    let mut all = before;
    all.push(ports);
    write(&join(all))?;
    Ok(true)
}

/// Takes away what [`ensure`] added.
pub fn remove(state_dir: &Path) -> Result<()> {
    if let Some(record) = load(state_dir)? {
        write(&without(&read()?, record.ours, &record.before))?;
    }
    match fs::remove_file(record_path(state_dir)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove the record of reserved ports", e)),
        _ => Ok(()),
    }
}

fn load(state_dir: &Path) -> Result<Option<Record>> {
    let text = match fs::read_to_string(record_path(state_dir)) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read the record of reserved ports", e)),
    };
    // One of another boot, or one that was cut short, says nothing about this kernel.
    let record: Option<Record> = serde_json::from_str(&text).ok();
    let boot_id = boot_id()?;
    Ok(record.filter(|record| record.boot_id == boot_id))
}

fn save(state_dir: &Path, record: &Record) -> Result<()> {
    let path = record_path(state_dir);
    let new = path.with_extension("json.new");
    let text = serde_json::to_string(record).unwrap_or_default();
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(state_dir)?;
        let mut file = fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(|e| Error::io(format!("write {}", path.display()), e))
}

fn read() -> Result<Vec<(u16, u16)>> {
    let path = crate::sysctl::root().join(KEY);
    let text = fs::read_to_string(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    parse(&text).ok_or_else(|| Error::Invalid(format!("{KEY} says \"{}\"", text.trim())))
}

fn parse(text: &str) -> Option<Vec<(u16, u16)>> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let ranges = parts.map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    ranges.collect()
}

fn write(ranges: &[(u16, u16)]) -> Result<()> {
    let parts: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    // A write of nothing at all is taken for "no change": a newline empties the set.
    let text = parts.join(",") + "\n";
    let path = crate::sysctl::root().join(KEY);
    let write = || fs::OpenOptions::new().write(true).open(&path)?.write_all(text.as_bytes());
    write().map_err(|e| Error::io(format!("write \"{}\" to {}", text.trim(), path.display()), e))
}

fn contains(ranges: &[(u16, u16)], (first, last): (u16, u16)) -> bool {
    join(ranges.to_vec()).iter().any(|range| range.0 <= first && last <= range.1)
}

/// Sorted, and joined where they touch.
fn join(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// `all` less `ours`, but with what was there `before` it.
fn without(all: &[(u16, u16)], ours: (u16, u16), before: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut rest = Vec::new();
    for &(first, last) in all {
        if first < ours.0 {
            rest.push((first, last.min(ours.0 - 1)));
        }
        if last > ours.1 {
            rest.push((first.max(ours.1 + 1), last));
        }
    }
    let overlap = |&(first, last): &(u16, u16)| {
        let both = (first.max(ours.0), last.min(ours.1));
        (both.0 <= both.1).then_some(both)
    };
    rest.extend(before.iter().filter_map(overlap));
    join(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(parse("\n"), Some(vec![]));
        assert_eq!(parse("80,100-200,65535\n"), Some(vec![(80, 80), (100, 200), (65535, 65535)]));
        assert_eq!(parse("80-x"), None);
    }

    fn ports(ranges: &[(u16, u16)]) -> std::collections::BTreeSet<u16> {
        ranges.iter().flat_map(|(first, last)| *first..=*last).collect()
    }

    fn range() -> impl Strategy<Value = (u16, u16)> {
        (0..200u16, 0..30u16).prop_map(|(first, more)| (first + 65_300, (first + 65_300).saturating_add(more)))
    }

    proptest! {
        #[test]
        fn ranges_are_sets_of_ports(before in prop::collection::vec(range(), 0..5), ours in range(), late in range()) {
            let mut all = before.clone();
            all.extend([ours, late]);
            let joined = join(all.clone());
            prop_assert_eq!(ports(&joined), ports(&all));
            prop_assert!(joined.windows(2).all(|pair| pair[0].1 < pair[1].0));
            prop_assert_eq!(contains(&before, ours), ports(&[ours]).is_subset(&ports(&before)));
            // What others added meanwhile stays, unless it is within ours.
            let mut expected = ports(&before);
            expected.extend(ports(&[late]).difference(&ports(&[ours])));
            prop_assert_eq!(ports(&without(&joined, ours, &before)), expected);
        }
    }
}
