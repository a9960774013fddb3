//! The environment abstraction layer: DPDK's start and end.

mod args;

pub use args::{EalConfig, Hugepages, Pci};

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;
use crate::lcore;

/// EAL starts once in the life of a process; even after a failure or its end it cannot start again.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Why EAL did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// A second start in one process.
    #[error("EAL was already started in this process; it starts once (restart the process to change its arguments)")]
    AlreadyStarted,
    /// An argument holds a zero byte.
    #[error("EAL argument {0:?} holds a zero byte; remove it")]
    ZeroByte(String),
    /// Hugepages were required and are not there.
    #[error(
        "{wanted_mib} MiB of free hugepages are required, {free_mib} MiB are there; reserve some (podplane-hugepages, \
         or `sysctl vm.nr_hugepages={pages}`), or allow running without"
    )]
    NoHugepages {
        /// What the configuration asks for, in MiB.
        wanted_mib: u32,
        /// What is free on all sizes and sockets, in MiB.
        free_mib: u64,
        /// The number of 2 MiB pages that satisfies it.
        pages: u32,
    },
    /// `rte_eal_init` failed.
    #[error("EAL did not start with {args:?}: {errno}; {hint} (EAL's own messages are on standard error)")]
    Init {
        /// The arguments given to it.
        args: Vec<String>,
        /// DPDK's reason.
        errno: Errno,
        /// What to do about it.
        hint: &'static str,
    },
}

/// EAL, started. Cheap to clone; EAL ends when the last clone is gone, and everything made from it holds one.
#[derive(Clone, Debug)]
pub struct Eal(Arc<Started>);

#[derive(Debug)]
struct Started {
    warnings: Vec<String>,
    hugepages: bool,
}

impl Eal {
    /// Starts EAL: always in memory (no files, no secondary processes), without telemetry. The calling thread becomes
    /// the main lcore.
    pub fn init(config: &EalConfig) -> Result<Self, EalError> {
        let plan = config.plan()?;
        let mut owned = Vec::with_capacity(plan.args.len());
        for arg in &plan.args {
            owned.push(CString::new(arg.as_str()).map_err(|_| EalError::ZeroByte(arg.clone()))?);
        }
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyStarted);
        }
        // EAL keeps pointers into its arguments and permutes the array: both live as long as the process.
        let argc = owned.len() as c_int;
        let mut argv: Vec<*mut c_char> = owned.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        let argv = Box::leak(argv.into_boxed_slice());
        // SAFETY: argv holds argc strings and a null behind them, all leaked; the swap above makes this the only call.
        let ret = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        if ret < 0 {
            let errno = Errno::last();
            return Err(EalError::Init { args: plan.args, errno, hint: hint(errno) });
        }
        lcore::adopt_current();
        remove_runtime_dir();
        Ok(Self(Arc::new(Started { warnings: plan.warnings, hugepages: plan.hugepages })))
    }

    /// What the operator should know about this start: cause and cure, one sentence each, to be logged.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Whether buffers lie in hugepages.
    pub fn has_hugepages(&self) -> bool {
        self.0.hugepages
    }

    /// Ends EAL now if nothing made from it is left; `false`: pools, ports, registered threads, buffers or other
    /// clones still hold it, and it goes on until they are gone.
    pub fn shutdown(self) -> bool {
        Arc::into_inner(self.0).is_some()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        lcore::forget_current();
        // SAFETY: pools, ports and registered threads hold a clone of this, and a pool with buffers outside is leaked
        // with its clone: nothing that points into EAL's memory is left.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// The DPDK that this process runs with, such as "DPDK 22.11.11".
pub fn dpdk_version() -> String {
    // SAFETY: returns a string of static lifetime.
    unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
}

/// Removes the folder that EAL makes for its files even when it is to have none, and its parent if that is empty too.
fn remove_runtime_dir() {
    // SAFETY: returns a string that lives as long as the process.
    let dir = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    let dir = Path::new(OsStr::from_bytes(dir.to_bytes()));
    // Both fail, as they should, where something is inside; then other processes of DPDK or arguments of the caller's
    // account for it.
    if std::fs::remove_dir(dir).is_ok()
        && let Some(parent) = dir.parent()
    {
        let _ = std::fs::remove_dir(parent);
    }
}

fn hint(errno: Errno) -> &'static str {
    match errno.number() {
        libc::EACCES | libc::EPERM => "run as root, or give the process access to hugepages and devices",
        libc::ENOMEM => "reserve more hugepages, or ask for less memory",
        libc::EINVAL => "check the arguments",
        libc::ENODEV => "check the devices and the driver plugins",
        libc::EAGAIN => "a resource was busy: try again",
        _ => "see the messages",
    }
}
