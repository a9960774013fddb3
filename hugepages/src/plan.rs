//! What is wanted against what is there; pure.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::pools::{PageSize, Pool};

/// What a dataplane needs.
#[derive(Clone, Debug)]
pub struct Need {
    /// Free memory in MiB over all of its NUMA nodes.
    pub mib: u64,
    /// The pages' size.
    pub size: PageSize,
    /// NUMA nodes; all where none is named.
    pub numa: Vec<u32>,
}

/// One pool judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The NUMA node.
    pub numa: u32,
    /// The pages' size.
    pub size: PageSize,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
    /// Pages that must be free.
    pub wanted: u64,
    /// How many of them are not.
    pub short: u64,
}

/// Judges each pool that the need names. The need is spread in equal parts, the first pools taking what is left over.
pub fn judge(pools: &[Pool], need: &Need) -> Result<Vec<Verdict>> {
    let of_size: Vec<_> = pools.iter().filter(|pool| pool.size == need.size).collect();
    for numa in &need.numa {
        if !of_size.iter().any(|pool| pool.numa == *numa) {
            bail!("NUMA node {numa} has no {} pages; those that have: {}", need.size, names(&of_size));
        }
    }
    let named: Vec<_> =
        of_size.into_iter().filter(|pool| need.numa.is_empty() || need.numa.contains(&pool.numa)).collect();
    if named.is_empty() {
        bail!("this machine has no {} pages: use the other --size", need.size);
    }
    let pages = need.mib.div_ceil(need.size.mib());
    let (each, over) = (pages / named.len() as u64, pages % named.len() as u64);
    Ok(named
        .iter()
        .enumerate()
        .map(|(i, pool)| {
            let wanted = each + u64::from((i as u64) < over);
            let Pool { numa, size, total, free } = **pool;
            Verdict { numa, size, total, free, wanted, short: wanted.saturating_sub(free) }
        })
        .collect())
}

fn names(pools: &[&Pool]) -> String {
    pools.iter().map(|pool| pool.numa.to_string()).collect::<Vec<_>>().join(", ")
}
