//! How the memory given to the dataplane is divided.

use podplane_packet::id::PortId;

use crate::ports::PoolSizes;
use crate::ports::buffers::{LARGE, SMALL};

/// Bytes of the flow tables for one half-entry of each family, index and timers included, roughly.
const FLOW_BYTES: u64 = 448;
/// The fewest half-entries of each family with which a worker makes sense.
const LEAST_FLOWS: u64 = 4096;
/// The most: the tables' limit is far above, but nobody has measured it.
const MOST_FLOWS: u64 = 1 << 22;

/// One pod has at most one over this of a worker's table (of one family): a pod that opens flows as fast as it can
/// leaves seven eighths to the others, and a proxy on a node with the default memory still has some ten thousand. Where
/// several such pods together fill the table, its last eighth is left to pods with few flows: see
/// [`Quota`](podplane_tables::quota::Quota).
const QUOTA_PART: u64 = 8;
/// The least quota, for nodes with little memory.
const LEAST_QUOTA: u64 = 1024;

/// How the memory is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// What DPDK reserves, in MiB: buffers, rings, devices.
    pub eal_mib: u32,
    /// Half-entries of each family in each worker's flow tables.
    pub flows: usize,
    /// How many of them one pod may have.
    pub port_quota: u32,
}

impl Division {
    /// Divides `mib` MiB (64 at least) among the buffers and `workers` workers: seven eighths for DPDK, one for flows.
    pub fn of(mib: u32, workers: u8) -> Division {
        let flow_mib = mib / 8;
        let eal_mib = mib - flow_mib;
        let flows =
            ((u64::from(flow_mib) << 20) / FLOW_BYTES / u64::from(workers.max(1))).clamp(LEAST_FLOWS, MOST_FLOWS);
        Division { eal_mib, flows: flows as usize, port_quota: (flows / QUOTA_PART).max(LEAST_QUOTA) as u32 }
    }

    /// The pools that fit DPDK's part, with or without hugepages.
    pub fn pools(&self, hugepages: bool) -> PoolSizes {
        // A quarter stays for DPDK's own rings and for devices' queues.
        let bytes = (u64::from(self.eal_mib) << 20) * 3 / 4;
        let count = |percent: u64, room: usize| (bytes * percent / 100 / footprint(room, hugepages)) as u32;
        PoolSizes { small: count(40, SMALL), large: count(54, LARGE), slices: count(6, 0) }
    }
}

/// The machine has less memory than is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--memory {wanted_mib} is more than the {free_mib} MiB of memory that are free and there are no hugepages for it: give \
     a smaller --memory, or free some"
)]
pub struct NotFree {
    /// What is asked for, in MiB.
    pub wanted_mib: u32,
    /// What there is, in MiB.
    pub free_mib: u64,
}

/// Whether the machine has `mib` MiB to give, where there are no hugepages whose number the kernel would hold us to:
/// ordinary memory is promised freely, and who takes too much of it is killed.
///
/// # Errors
/// The cause and the cure.
pub fn is_free(mib: u32) -> Result<(), NotFree> {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    match free {
        Some(free_mib) if free_mib < u64::from(mib) => Err(NotFree { wanted_mib: mib, free_mib }),
        _ => Ok(()),
    }
}

/// `MemAvailable` of /proc/meminfo, in MiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Bytes that a buffer with `room` bytes of data takes. No buffer lies across the pages that it could: without
/// hugepages a small one takes a page of its own, and a large one whole pages.
fn footprint(room: usize, hugepages: bool) -> u64 {
    let bytes = room as u64 + 512;
    if hugepages || room == 0 { bytes } else { bytes.next_multiple_of(4096) }
}

// 250 pods find room: what is divided is shared, nothing is reserved for a port.
const _: () = assert!(PortId::MAX > 252);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_machine_has_is_refused() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    4096 kB\n"), Some(4));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        is_free(1).unwrap();
        assert!(is_free(u32::MAX).unwrap_err().to_string().contains("--memory"));
    }

    #[test]
    fn everything_fits_what_was_given() {
        for mib in [64, 256, 1024, 16 * 1024] {
            for workers in [1, 2, 8, 64] {
                let division = Division::of(mib, workers);
                for hugepages in [false, true] {
                    let pools = division.pools(hugepages);
                    assert!(pools.bytes() <= (u64::from(division.eal_mib) << 20) * 3 / 4, "{mib} MiB: {pools:?}");
                    assert!(pools.large >= 1024 && pools.small >= 4096, "{mib} MiB: {pools:?}");
                }
                assert!(division.port_quota as usize <= division.flows / 4, "one pod leaves the others most");
                assert!(division.eal_mib < mib);
            }
        }
    }

    #[test]
    fn the_default_holds_a_hundred_thousand_connections_of_two_workers() {
        assert!(Division::of(1024, 2).flows >= 100_000);
    }
}
