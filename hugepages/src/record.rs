//! What `setup` reserved, so that `release` gives back that much and no more.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::pools::PageSize;

/// Pages that were added to one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The NUMA node.
    pub numa: u32,
    /// The pages' size.
    pub size: PageSize,
    /// How many.
    pub pages: u64,
}

/// All that was added and not given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record(Vec<Entry>);

impl Record {
    /// The record at `path`; empty if there is none.
    pub fn read(path: &Path) -> Result<Record> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!("{} is damaged: remove it; the pages stay reserved until the next boot", path.display())
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Record::default()),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes it whole.
    pub fn write(&self, path: &Path) -> Result<()> {
        let doing = || format!("writing {}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(doing)?;
        }
        let tmp = path.with_extension("tmp");
        fs::write(&tmp, serde_json::to_vec(self)?).with_context(doing)?;
        fs::rename(&tmp, path).with_context(doing)
    }

    /// Removes it.
    pub fn remove(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("removing {}", path.display())),
            _ => Ok(()),
        }
    }

    /// What it holds.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Notes that `pages` were added.
    pub fn add(&mut self, numa: u32, size: PageSize, pages: u64) {
        match self.0.iter_mut().find(|entry| entry.numa == numa && entry.size == size) {
            Some(entry) => entry.pages += pages,
            None => self.0.push(Entry { numa, size, pages }),
        }
    }

    /// Notes that `pages` were not added after all.
    pub fn take(&mut self, numa: u32, size: PageSize, pages: u64) {
        for entry in self.0.iter_mut().filter(|entry| entry.numa == numa && entry.size == size) {
            entry.pages = entry.pages.saturating_sub(pages);
        }
    }
}
