//! Network namespaces: open, enter for the length of a closure, create and delete named ones as `ip netns` does.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, fstatfs},
};

use crate::{Error, Result};

/// Where `ip netns` keeps its names.
pub const RUN_DIR: &str = "/run/netns";

/// `NSFS_MAGIC` (linux/magic.h): the file system that namespaces are files of.
const NSFS: FsType = FsType(0x6e73_6673);

/// An open network namespace; it lives at least as long as this does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace that `path` names (`/run/netns/NAME`, `/proc/PID/ns/net`).
    ///
    /// The last component may be a symbolic link of procfs only: the file must be on nsfs, so a link that somebody
    /// planted opens nothing but another namespace, and [`Netns::open_nofollow`] not even that.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), 0)
    }

    /// Like [`Netns::open`], but refuses a path whose last component is a symbolic link, except below `/proc`,
    /// where the kernel makes the links.
    pub fn open_nofollow(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = if path.starts_with("/proc") { 0 } else { libc::O_NOFOLLOW };
        Self::open_with(path, flags)
    }

    fn open_with(path: &Path, flags: i32) -> Result<Self> {
        let what = || format!("open network namespace {}", path.display());
        // O_NONBLOCK: a FIFO planted in its place must not hang us.
        let open = OpenOptions::new().read(true).custom_flags(flags | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
        let file = open.map_err(|e| Error::io(what(), e))?;
        let kind = fstatfs(&file).map_err(|e| Error::io(what(), e))?.filesystem_type();
        if kind != NSFS {
            return Err(Error::NotFound(format!("{}: {} is not a namespace", what(), path.display())));
        }
        Ok(Netns { file, path: path.to_path_buf() })
    }

    /// The caller's own namespace.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same namespace.
    pub fn same_as(&self, other: &Netns) -> Result<bool> {
        let id = |n: &Netns| -> Result<(u64, u64)> {
            let meta = n.file.metadata().map_err(|e| Error::io(format!("stat {}", n.path.display()), e))?;
            Ok((meta.dev(), meta.ino()))
        };
        Ok(id(self)? == id(other)?)
    }

    /// Runs `f` inside the namespace, on a thread of its own that ends with it: the caller's thread never changes.
    /// A panic of `f` is passed on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let body = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|e| Error::io(format!("enter network namespace {}", self.path.display()), e))?;
            Ok(f())
        };
        thread::scope(|scope| match scope.spawn(body).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Creates the namespace `name` below [`RUN_DIR`], as `ip netns add` does: visible to `ip netns`, kept by a mount.
    /// `lo` is down in it. Exists already: an error.
    pub fn create(name: &str) -> Result<Self> {
        let path = named(name)?;
        prepare_run_dir()?;
        let what = || format!("create network namespace {name}");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o444);
        options.open(&path).map_err(|e| Error::io(what(), e))?;
        let bind = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        };
        let made = thread::scope(|scope| scope.spawn(bind).join());
        if let Err(e) = made.unwrap_or(Err(nix::Error::EFAULT)) {
            let _ = fs::remove_file(&path);
            return Err(Error::io(what(), e));
        }
        Self::open(path)
    }

    /// Removes the name `name`; the namespace itself goes with its last user. No such name: no error.
    pub fn delete(name: &str) -> Result<()> {
        let path = named(name)?;
        let what = || format!("delete network namespace {name}");
        loop {
            match umount2(&path, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                // Not a mount (any more), or nothing there.
                Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
                Err(e) => return Err(Error::io(what(), e)),
            }
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(what(), e)),
            _ => Ok(()),
        }
    }

    /// Names below [`RUN_DIR`] that start with `prefix`.
    pub fn list(prefix: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(format!("list {RUN_DIR}"), e)),
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|n| n.starts_with(prefix)).collect();
        names.sort();
        Ok(names)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn named(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') || name.len() > 200 {
        return Err(Error::Invalid(format!("\"{name}\" cannot name a network namespace")));
    }
    Ok(Path::new(RUN_DIR).join(name))
}

/// The folder must be a shared mount point, so that a deleted name's mount goes in every mount namespace that copied it.
fn prepare_run_dir() -> Result<()> {
    let what = || format!("prepare {RUN_DIR}");
    fs::create_dir_all(RUN_DIR).map_err(|e| Error::io(what(), e))?;
    let share = || mount(None::<&str>, RUN_DIR, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(nix::Error::EINVAL) => {
            mount(Some(RUN_DIR), RUN_DIR, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
                .and_then(|()| share())
                .map_err(|e| Error::io(what(), e))
        }
        other => other.map_err(|e| Error::io(what(), e)),
    }
}
