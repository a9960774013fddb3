//! What can go wrong, in terms that name the cause and, where there is one, the cure.

use std::io;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done to the node's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{what}: {}{}{}", io::Error::from_raw_os_error(*.errno), .detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default(), cure(*.errno))]
    Kernel {
        /// What was attempted, with the names involved.
        what: String,
        /// The kernel's errno, positive.
        errno: i32,
        /// The kernel's own explanation (extended acknowledgement), where it gave one.
        detail: Option<String>,
    },
    /// A system call on a file, socket or namespace failed.
    #[error("{what}: {cause}{}", .cause.raw_os_error().map(cure).unwrap_or_default())]
    Io {
        /// What was attempted, with the path or name.
        what: String,
        /// The system's error.
        cause: io::Error,
    },
    /// The kernel answered with something that this build does not understand.
    #[error("{what}: cannot read the kernel's answer: {reason}")]
    Decode {
        /// What was attempted.
        what: String,
        /// What did not parse.
        reason: String,
    },
    /// A named thing does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// What an operator can do about errors whose text alone does not say it.
fn cure(errno: i32) -> &'static str {
    match errno {
        libc::EPERM | libc::EACCES => " (needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN in this network namespace)",
        libc::EOPNOTSUPP => " (this kernel or device does not support it)",
        _ => "",
    }
}

impl Error {
    /// The errno behind the error, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            Error::Io { cause, .. } => cause.raw_os_error(),
            _ => None,
        }
    }

    /// Whether what was to be read, changed or removed is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound(_))
            || matches!(
                self.errno(),
                Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
            )
    }

    /// Whether what was to be created exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether there is no route to a destination, or one that forbids it.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL))
            && matches!(self, Error::Kernel { .. })
    }

    /// Wraps a system error with what was attempted.
    pub(crate) fn io(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Error::Io { what: what.into(), cause: cause.into() }
    }
}

/// Turns "it is not there" into success, for removals that must be idempotent.
pub(crate) fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// Turns "it is there already" into success.
pub(crate) fn exists_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_exists() => Ok(()),
        other => other,
    }
}
