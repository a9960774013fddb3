//! `podplane-cni install` and `uninstall`: the plugin's program and its network configuration, into the host's folders
//! and out of them.
//!
//! A runtime may read both folders at any moment, so each file comes into being whole: written beside its place, flushed,
//! renamed. The program comes first and goes last: a configuration that names a program that is not there would fail
//! every pod.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde_json::json;

/// The program's name: the `type` in the configuration.
const PROGRAM: &str = "podplane-cni";
/// What runtimes read in the folder of configurations, by the ends of names.
const CONFIGURATIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Why a file could not be put into its place or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The command line.
    #[error(
        "{0}; the options are --bin-dir, --conf-dir, --conf-name, --agent-socket and --state-dir, each with a value"
    )]
    Usage(String),
    /// The host's folders.
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// Where things go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Folder of plugins' programs.
    pub bin_dir: PathBuf,
    /// Folder of network configurations; the runtime takes the first by name.
    pub conf_dir: PathBuf,
    /// Name of ours in it.
    pub conf_name: String,
    /// `agentSocket` of the configuration, as the host sees it.
    pub agent_socket: PathBuf,
    /// `stateDir` of the configuration, as the host sees it.
    pub state_dir: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
            conf_name: "10-podplane.conflist".into(),
            agent_socket: "/run/podplane/agent.sock".into(),
            state_dir: "/var/lib/podplane".into(),
        }
    }
}

impl Places {
    /// From the words after `install` or `uninstall`.
    ///
    /// # Errors
    /// A word that is no option, an option without a value, a name of a configuration that no runtime reads.
    pub fn from_words(mut words: impl Iterator<Item = String>) -> Result<Places, InstallError> {
        let mut places = Places::default();
        while let Some(word) = words.next() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let value = value.or_else(|| words.next()).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| InstallError::Usage(format!("{option} has no value")))?;
            match option.as_str() {
                "--bin-dir" => places.bin_dir = value.into(),
                "--conf-dir" => places.conf_dir = value.into(),
                "--conf-name" => places.conf_name = value,
                "--agent-socket" => places.agent_socket = value.into(),
                "--state-dir" => places.state_dir = value.into(),
                _ => return Err(InstallError::Usage(format!("{option} is not known"))),
            }
        }
        let name = &places.conf_name;
        if name.contains('/') || !name.ends_with(".conflist") || name.starts_with('.') {
            return Err(InstallError::Usage(format!("--conf-name {name} is no file name that ends in .conflist")));
        }
        Ok(places)
    }

    /// The network configuration.
    pub fn conflist(&self) -> String {
        let list = json!({
            "cniVersion": "1.1.0",
            "name": "podplane",
            "plugins": [{
                "type": PROGRAM,
                "agentSocket": self.agent_socket,
                "stateDir": self.state_dir,
                "capabilities": { "portMappings": true },
            }],
        });
        format!("{list:#}\n")
    }

    /// Installs the program `from` (this one: `/proc/self/exe`) and the configuration; returns what an operator should
    /// know. Repeating it is harmless.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn install(&self, from: &Path) -> Result<Vec<String>, InstallError> {
        let program = fs::read(from).map_err(io_error("read", from))?;
        put(&self.bin_dir, PROGRAM, &program, 0o755)?;
        put(&self.conf_dir, &self.conf_name, self.conflist().as_bytes(), 0o644)?;
        Ok(self.first_by_name()?.into_iter().collect())
    }

    /// Removes the configuration, then the program. What is not there is no error.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn uninstall(&self) -> Result<(), InstallError> {
        for path in [self.conf_dir.join(&self.conf_name), self.bin_dir.join(PROGRAM)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// A warning if the runtime takes another configuration than ours.
    fn first_by_name(&self) -> Result<Option<String>, InstallError> {
        let entries = fs::read_dir(&self.conf_dir).map_err(io_error("read", &self.conf_dir))?;
        let read = |name: &OsString| {
            Path::new(name).extension().is_some_and(|end| CONFIGURATIONS.iter().any(|known| end == *known))
        };
        let first = entries.flatten().map(|entry| entry.file_name()).filter(read).min();
        Ok(first.filter(|first| first.to_str() != Some(&self.conf_name)).map(|first| {
            let first = self.conf_dir.join(first);
            format!(
                "the runtime takes {} before {}: remove that network from the node, or give ours an earlier name with --conf-name",
                first.display(),
                self.conf_name
            )
        }))
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |cause| InstallError::Io { what, path, cause }
}

/// A file that is there whole or not at all, also after a loss of power.
fn put(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
    let place = folder.join(name);
    // With an end that no runtime reads. One left by a kill is overwritten by the next.
    let new = folder.join(format!(".{name}.new"));
    let written = (|| {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        // Also where the file was there, and whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, &place)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|cause| {
        let _ = fs::remove_file(&new);
        io_error("write", &place)(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places { bin_dir: root.join("opt/cni/bin"), conf_dir: root.join("etc/cni/net.d"), ..Places::default() }
    }

    fn words(line: &str) -> Result<Places, InstallError> {
        Places::from_words(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_taken_or_refused() {
        assert_eq!(words("").unwrap(), Places::default());
        let some = words("--bin-dir /b --conf-dir=/c --conf-name 00-x.conflist --agent-socket /r/a --state-dir=/s");
        let some = some.unwrap();
        assert_eq!((some.bin_dir, some.conf_dir), ("/b".into(), "/c".into()));
        assert_eq!((some.conf_name.as_str(), some.agent_socket), ("00-x.conflist", "/r/a".into()));
        assert_eq!(some.state_dir, PathBuf::from("/s"));
        for (bad, reason) in [
            ("--bin-dir", "no value"),
            ("--bin-dir=", "no value"),
            ("--to /x", "not known"),
            ("--conf-name ../x.conflist", "no file name"),
            ("--conf-name .x.conflist", "no file name"),
            ("--conf-name x.new", "no file name"),
        ] {
            let refused = words(bad).unwrap_err().to_string();
            assert!(refused.contains(reason), "{bad}: {refused}");
        }
    }

    #[test]
    fn what_is_installed_is_what_the_plugin_reads() {
        let root = tempfile::tempdir().unwrap();
        let places = Places { agent_socket: "/run/x/agent.sock".into(), ..places(root.path()) };
        let from = root.path().join("program");
        fs::write(&from, b"\x7fELF").unwrap();
        for _ in 0..2 {
            assert_eq!(places.install(&from).unwrap(), Vec::<String>::new());
        }
        let program = places.bin_dir.join(PROGRAM);
        assert_eq!(fs::read(&program).unwrap(), b"\x7fELF");
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        let list: serde_json::Value =
            serde_json::from_slice(&fs::read(places.conf_dir.join("10-podplane.conflist")).unwrap()).unwrap();
        // As a runtime hands it to the plugin.
        let mut one = list["plugins"][0].clone();
        one["cniVersion"] = list["cniVersion"].clone();
        one["name"] = list["name"].clone();
        let config = crate::config::Config::parse(one.to_string().as_bytes()).unwrap();
        assert_eq!(config.agent_socket, PathBuf::from("/run/x/agent.sock"));
        assert_eq!(one["capabilities"]["portMappings"], true);
        let left = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((left(&places.bin_dir), left(&places.conf_dir)), (1, 1), "nothing is left beside");

        for _ in 0..2 {
            places.uninstall().unwrap();
        }
        assert_eq!((left(&places.bin_dir), left(&places.conf_dir)), (0, 0));
    }

    #[test]
    fn a_network_that_comes_before_ours_is_named() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        fs::create_dir_all(&places.conf_dir).unwrap();
        for harmless in ["05-other.bak", "99-other.conflist", "README"] {
            fs::write(places.conf_dir.join(harmless), "{}").unwrap();
        }
        assert!(places.install(Path::new("/proc/self/exe")).unwrap().is_empty());
        fs::write(places.conf_dir.join("05-other.conflist"), "{}").unwrap();
        let warnings = places.install(Path::new("/proc/self/exe")).unwrap();
        assert!(warnings[0].contains("05-other.conflist"), "{warnings:?}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        places.install(Path::new("/proc/self/exe")).unwrap();
        let before = fs::read(places.conf_dir.join(&places.conf_name)).unwrap();
        // A folder where the new file would be written first.
        fs::create_dir(places.conf_dir.join(".10-podplane.conflist.new")).unwrap();
        let changed = Places { state_dir: "/elsewhere".into(), ..places.clone() };
        let refused = changed.install(Path::new("/proc/self/exe")).unwrap_err().to_string();
        assert!(refused.contains("10-podplane.conflist"), "{refused}");
        assert_eq!(fs::read(places.conf_dir.join(&places.conf_name)).unwrap(), before);
    }
}
