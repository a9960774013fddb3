//! What can go wrong with a device.

use crate::errno::Errno;

/// Why an operation on a device failed.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The device arguments cannot be used.
    #[error(
        "device arguments {0:?} are empty or hold a zero byte; give NAME[,KEY=VALUE...], such as net_tap0,iface=tap0"
    )]
    Arguments(String),
    /// No device came of the arguments.
    #[error("no device came of {devargs:?}: {errno}; {hint}")]
    Attach {
        /// The device arguments.
        devargs: String,
        /// DPDK's reason.
        errno: Errno,
        /// What to look at.
        hint: &'static str,
    },
    /// The device is attached already.
    #[error("device {0:?} is in use by this process already; attach it once")]
    InUse(String),
    /// The configuration asks for more than the device has.
    #[error("device {device}: {wanted} {what} asked for, it has {max}; ask for less")]
    TooMany {
        /// The device.
        device: String,
        /// Of what.
        what: &'static str,
        /// Asked for.
        wanted: usize,
        /// There.
        max: u16,
    },
    /// A driver's operation failed.
    #[error("device {device}: {operation} failed: {errno}; EAL's messages on standard error say more")]
    Operation {
        /// The device.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// The driver's reason.
        errno: Errno,
    },
    /// Queues are still in use by their threads.
    #[error("device {0}: its queues are still in use; drop them first")]
    QueuesInUse(String),
    /// The port must be configured first.
    #[error("device {0} is not configured; configure it first")]
    NotConfigured(String),
}
