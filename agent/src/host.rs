//! What the agent asks of the node's own network, small enough to be replaced in tests.

use podplane_hostnet::{Netlink, Result, ingress_drop};

/// The node's interfaces.
pub trait HostLinks: Send + Sync + 'static {
    /// Whether there is an interface of that name in this namespace.
    fn exists(&self, ifname: &str) -> Result<bool>;

    /// Removes an interface and its ingress drop; one that is not there is no error.
    fn remove(&self, ifname: &str) -> Result<()>;
}

/// The kernel's.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl HostLinks for Kernel {
    fn exists(&self, ifname: &str) -> Result<bool> {
        Ok(Netlink::open()?.link(ifname)?.is_some())
    }

    fn remove(&self, ifname: &str) -> Result<()> {
        Netlink::open()?.delete_link(ifname)?;
        // An interface that went with its pod's namespace leaves its chain behind (Linux 6.16).
        ingress_drop::remove(ifname)
    }
}
