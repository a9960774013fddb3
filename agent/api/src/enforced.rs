//! The mark that a first configuration has been enforced on this node since it was started.
//!
//! CNI STATUS fails before that and never after: a runtime that hears of trouble declares the node not ready, and with
//! it every pod that runs there. The mark is a file in the run directory, so that it outlives the agent; it names the
//! boot, where that directory should not be emptied by one.

use std::io;
use std::path::Path;

/// The file's name in the run directory.
const FILE: &str = "enforced";
/// Where the kernel tells which boot this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

fn boot() -> String {
    std::fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned()
}

/// Sets the mark.
///
/// # Errors
/// The file cannot be written.
pub fn mark(run_dir: &Path) -> io::Result<()> {
    let draft = run_dir.join(".enforced");
    std::fs::write(&draft, boot())?;
    std::fs::rename(draft, run_dir.join(FILE))
}

/// Whether it is set.
pub fn is_marked(run_dir: &Path) -> bool {
    std::fs::read_to_string(run_dir.join(FILE)).is_ok_and(|text| text == boot())
}

/// Takes it away: for uninstalling.
pub fn clear(run_dir: &Path) {
    let _ = std::fs::remove_file(run_dir.join(FILE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_another_boot_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_marked(dir.path()));
        mark(dir.path()).unwrap();
        assert!(is_marked(dir.path()));
        std::fs::write(dir.path().join(FILE), "another").unwrap();
        assert!(!is_marked(dir.path()));
        clear(dir.path());
        clear(dir.path());
        assert!(!is_marked(dir.path()));
    }
}
