//! Why a dataplane does not start, in a file: who could answer questions is not there.
//!
//! The dataplane writes `RUN/dataplane.trouble` when its start fails and removes it when it forwards. The agent reads it
//! while it has no dataplane, and says it where people look: on the Node, in `podplane status`, to the CNI plugin.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's name in the run directory.
const FILE: &str = "dataplane.trouble";
/// The longest file that is read, in bytes.
const MAX: u64 = 64 * 1024;

/// What a dataplane lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// Hugepages.
    Hugepages,
    /// Memory for buffers and tables.
    Memory,
    /// Something else.
    Other,
}

/// Why a dataplane did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTrouble {
    /// What it lacks.
    pub kind: TroubleKind,
    /// The cause and the cure.
    pub message: String,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(FILE)
}

impl StartTrouble {
    /// Leaves it for the agent, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let draft = run_dir.join(format!(".{FILE}"));
        std::fs::write(&draft, serde_json::to_vec(self)?)?;
        std::fs::rename(draft, path(run_dir))
    }

    /// What the last start left; `None`: nothing, or nothing of this version.
    pub fn read(run_dir: &Path) -> Option<StartTrouble> {
        let path = path(run_dir);
        let metadata = std::fs::symlink_metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() > MAX {
            return None;
        }
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Takes it back; that there is none is no error.
    pub fn clear(run_dir: &Path) {
        let _ = std::fs::remove_file(path(run_dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_left_read_and_taken_back() {
        let dir = std::env::temp_dir().join(format!("podplane-trouble-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(StartTrouble::read(&dir), None);
        let trouble = StartTrouble { kind: TroubleKind::Hugepages, message: "512 MiB wanted".into() };
        trouble.write(&dir).unwrap();
        assert_eq!(StartTrouble::read(&dir), Some(trouble));
        std::fs::write(path(&dir), "{").unwrap();
        assert_eq!(StartTrouble::read(&dir), None);
        StartTrouble::clear(&dir);
        StartTrouble::clear(&dir);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
