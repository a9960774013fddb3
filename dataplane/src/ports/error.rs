//! Why a port could not be opened, and what to do about it.

use std::io;

/// A port that could not be opened. Each text says the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such interface.
    #[error("interface {name} does not exist in this network namespace: check the name with `ip link`")]
    NoInterface {
        /// The name that was asked for.
        name: String,
    },
    /// A name that cannot be an interface's.
    #[error("{name:?} cannot be an interface's name (1 to 15 bytes, no '/' and no space)")]
    BadName {
        /// The name that was asked for.
        name: String,
    },
    /// Not allowed to open packet sockets.
    #[error(
        "opening {name} needs CAP_NET_RAW and CAP_NET_ADMIN: run the dataplane as root or give it both capabilities"
    )]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// The interface is down, and several workers can share it only while it is up.
    #[error("interface {name} is down: `ip link set {name} up` (several workers can share it only while it is up)")]
    Down {
        /// The interface.
        name: String,
    },
    /// Not an Ethernet device.
    #[error("interface {name} is no Ethernet device (hardware type {kind}): name one that is")]
    NotEthernet {
        /// The interface.
        name: String,
        /// ARPHRD_ number.
        kind: u16,
    },
    /// The MTU does not fit the overlay.
    #[error("{name} has an MTU of {mtu}, Podplane needs {need} or more there: `ip link set {name} mtu {need}`")]
    MtuTooSmall {
        /// The interface.
        name: String,
        /// What it has, in bytes.
        mtu: u32,
        /// What is needed, in bytes.
        need: u32,
    },
    /// The kernel lacks an option of packet sockets.
    #[error("{name}: the kernel refused {option} ({cause}): Podplane needs Linux 5.17 or newer with CONFIG_PACKET")]
    Option {
        /// The interface.
        name: String,
        /// The socket option.
        option: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// Something else that the kernel refused.
    #[error("{name}: {action} failed: {cause}")]
    Io {
        /// The interface.
        name: String,
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// DPDK refused the device; its own error says what to do.
    #[error("ethdev {name}: {cause}")]
    Device {
        /// The device arguments.
        name: String,
        /// DPDK's answer.
        cause: dpdk_glue::ethdev::DevError,
    },
}
