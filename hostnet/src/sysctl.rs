//! Per-interface network sysctls of the caller's network namespace, through `/proc/sys/net`.

use std::{fs, path::PathBuf};

use crate::{Error, Result};

/// IP family of a per-interface sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `net/ipv4`.
    V4,
    /// `net/ipv6`.
    V6,
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
    Ok(PathBuf::from(format!("/proc/sys/net/{family}/conf/{ifname}/{key}")))
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
    fn names_cannot_leave_the_folder() {
        for bad in ["", ".", "..", "a/b", "../all"] {
            assert!(set(Family::V4, bad, "forwarding", "1").is_err(), "{bad}");
            assert!(get(Family::V4, "lo", bad).is_err(), "{bad}");
        }
        assert!(get(Family::V4, "lo", "forwarding").unwrap().is_some());
        assert_eq!(get(Family::V4, "lo", "no_such_key").unwrap(), None);
    }
}
