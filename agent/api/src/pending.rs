//! Removals that could not be delivered because the agent was down: one file of JSON each, left by the CNI plugin in
//! the state directory, delivered and removed by the agent.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::types::{AttachmentId, DelRequest};

/// The folder in the state directory.
pub const FOLDER: &str = "pending-del";

/// The folder of `state_dir`.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

/// Leaves `request` for the agent, durably: after this returned it survives a crash of the node. Leaving the same
/// attachment twice leaves one record.
pub fn leave(state_dir: &Path, request: &DelRequest) -> io::Result<PathBuf> {
    let folder = folder(state_dir);
    fs::create_dir_all(&folder)?;
    let path = folder.join(file_name(&request.attachment));
    // A name of its own per process: two runtimes may leave the same attachment at once.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::File::create(&draft)?;
    file.write_all(&serde_json::to_vec(request)?)?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    fs::File::open(&folder)?.sync_all()?;
    Ok(path)
}

/// Whether a file of the folder is a finished record, by its name.
pub fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
        && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

/// Reads a record.
pub fn read(path: &Path) -> io::Result<DelRequest> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Container IDs are the runtime's and may be long or hold a slash; the name is a hash, the content is what counts.
fn file_name(id: &AttachmentId) -> String {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    format!("{:016x}.json", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(container: &str) -> DelRequest {
        DelRequest { attachment: AttachmentId { container_id: container.into(), ifname: "eth0".into() } }
    }

    #[test]
    fn what_is_left_is_found() {
        let state = tempfile::tempdir().unwrap();
        let path = leave(state.path(), &request("a/../b")).unwrap();
        assert_eq!(path.parent(), Some(&*folder(state.path())));
        assert!(is_record(&path));
        assert_eq!(read(&path).unwrap(), request("a/../b"));
        assert_eq!(leave(state.path(), &request("a/../b")).unwrap(), path);
        leave(state.path(), &request("c")).unwrap();
        assert_eq!(fs::read_dir(folder(state.path())).unwrap().count(), 2);
    }

    #[test]
    fn drafts_are_no_records() {
        for name in ["x.12.tmp", ".x.json", "x"] {
            assert!(!is_record(Path::new(name)), "{name}");
        }
    }
}
