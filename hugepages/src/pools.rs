//! The kernel's hugepage pools in sysfs (Documentation/admin-guide/mm/hugetlbpage.rst).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The sizes of pages that x86-64 has and DPDK uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PageSize {
    /// 2 MiB.
    #[serde(rename = "2M")]
    Mib2,
    /// 1 GiB.
    #[serde(rename = "1G")]
    Gib1,
}

impl PageSize {
    /// In MiB.
    pub fn mib(self) -> u64 {
        match self {
            PageSize::Mib2 => 2,
            PageSize::Gib1 => 1024,
        }
    }

    fn folder(self) -> String {
        format!("hugepages-{}kB", self.mib() * 1024)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageSize::Mib2 => "2M",
            PageSize::Gib1 => "1G",
        })
    }
}

impl FromStr for PageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "2M" => Ok(PageSize::Mib2),
            "1G" => Ok(PageSize::Gib1),
            _ => Err("2M or 1G".to_owned()),
        }
    }
}

/// One pool: pages of one size on one NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The NUMA node.
    pub numa: u32,
    /// The pages' size.
    pub size: PageSize,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
}

/// Who keeps pools: the kernel, or a test in its place.
pub trait Pools {
    /// All pools of all NUMA nodes.
    fn pools(&self) -> Result<Vec<Pool>>;
    /// Asks for a pool of `pages` pages; answers how many there are then, which may be fewer.
    fn set_total(&self, numa: u32, size: PageSize, pages: u64) -> Result<u64>;
}

/// A mounted sysfs.
#[derive(Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The one at `root`.
    pub fn new(root: &Path) -> Sysfs {
        Sysfs { root: root.to_owned() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn pool_dir(&self, numa: u32, size: PageSize) -> PathBuf {
        self.root.join(format!("devices/system/node/node{numa}/hugepages")).join(size.folder())
    }
}

impl Pools for Sysfs {
    fn pools(&self) -> Result<Vec<Pool>> {
        let nodes = self.root.join("devices/system/node");
        let entries =
            fs::read_dir(&nodes).with_context(|| format!("reading {}: is sysfs mounted?", nodes.display()))?;
        let mut pools = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(numa) = name.to_str().and_then(|n| n.strip_prefix("node")?.parse().ok()) else { continue };
            for size in [PageSize::Mib2, PageSize::Gib1] {
                let dir = self.pool_dir(numa, size);
                if dir.exists() {
                    let (total, free) = (number(&dir.join("nr_hugepages"))?, number(&dir.join("free_hugepages"))?);
                    pools.push(Pool { numa, size, total, free });
                }
            }
        }
        if pools.is_empty() {
            bail!("this kernel has no hugepages of 2 MiB or 1 GiB: run the dataplane with --no-huge (slower)");
        }
        pools.sort_by_key(|pool| (pool.numa, pool.size));
        Ok(pools)
    }

    fn set_total(&self, numa: u32, size: PageSize, pages: u64) -> Result<u64> {
        let file = self.pool_dir(numa, size).join("nr_hugepages");
        fs::write(&file, pages.to_string())
            .with_context(|| format!("writing {pages} to {}: this needs root", file.display()))?;
        number(&file)
    }
}

fn number(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} is no number in {}", text.trim(), path.display()))
}
