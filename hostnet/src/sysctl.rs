//! Network sysctls of the caller's network namespace, through `/proc/sys/net` or where `PODPLANE_SYSCTL_NET` says that it is.
//!
//! Container runtimes make `/proc/sys` of a container that is not privileged read-only, and let nothing be mounted over
//! it. The host's `/proc/sys/net` mounted elsewhere can be written, and shows each caller its own namespace: so a pod
//! on the host's network needs no privileges for it but CAP_NET_ADMIN.

use std::{env, fs, path::PathBuf, sync::OnceLock};

use crate::{Error, Result};

/// IP family of a per-interface sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `net/ipv4`.
    V4,
    /// `net/ipv6`.
    V6,
}

/// The folder `net` of the sysctls.
pub(crate) fn root() -> &'static std::path::Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| chosen(env::var_os("PODPLANE_SYSCTL_NET")))
}

/// Only an absolute path says where it is: what a relative one means changes with the working directory.
fn chosen(said: Option<std::ffi::OsString>) -> PathBuf {
    let said = said.map(PathBuf::from).filter(|path| path.is_absolute());
    said.unwrap_or_else(|| "/proc/sys/net".into())
}

/// `/proc/sys/net/ipv{4,6}/conf/IFNAME/KEY`. Names with a slash or dots alone would leave the folder: refused.
fn path(family: Family, ifname: &str, key: &str) -> Result<PathBuf> {
    for part in [ifname, key] {
        if part.is_empty() || part == "." || part == ".." || part.contains('/') {
            return Err(Error::Invalid(format!("\"{part}\" cannot be part of a sysctl's name")));
        }
    }
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    Ok(root().join(family).join("conf").join(ifname).join(key))
}

/// Reads a per-interface sysctl; `None` where the kernel has none of that name (IPv6 not built in, an older kernel).
pub fn get(family: Family, ifname: &str, key: &str) -> Result<Option<String>> {
    let path = path(family, ifname, key)?;
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // `stable_secret` that was never set reads as EIO.
        Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

/// Writes a per-interface sysctl, unless it has the value already.
pub fn set(family: Family, ifname: &str, key: &str, value: &str) -> Result<()> {
    if get(family, ifname, key)?.as_deref() == Some(value) {
        return Ok(());
    }
    let path = path(family, ifname, key)?;
    // Not fs::write: it would try to create a missing one.
    let write = || std::io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(&path)?, value.as_bytes());
    write().map_err(|e| Error::io(format!("write \"{value}\" to {}", path.display()), e))
}

/// Like [`set`], but a sysctl that this kernel does not have is no error.
pub fn set_if_present(family: Family, ifname: &str, key: &str, value: &str) -> Result<()> {
    match set(family, ifname, key, value) {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// Switches IPv6 off on an interface: it loses its addresses and sends no router or multicast solicitations.
/// A kernel without IPv6 has nothing to switch off.
pub fn disable_ipv6(ifname: &str) -> Result<()> {
    set_if_present(Family::V6, ifname, "disable_ipv6", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_usual_one_unless_an_absolute_path_is_said() {
        for (said, root) in [(None, "/proc/sys/net"), (Some("/host/net"), "/host/net"), (Some("net"), "/proc/sys/net")]
        {
            assert_eq!(chosen(said.map(Into::into)), PathBuf::from(root));
        }
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        for bad in ["", ".", "..", "a/b", "../all"] {
            assert!(set(Family::V4, bad, "forwarding", "1").is_err(), "{bad}");
            assert!(get(Family::V4, "lo", bad).is_err(), "{bad}");
        }
        assert!(get(Family::V4, "lo", "forwarding").unwrap().is_some());
        assert_eq!(get(Family::V4, "lo", "no_such_key").unwrap(), None);
    }
}
