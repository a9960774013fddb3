//! One dataplane in a network namespace: a second one would take uplink and host port from the first, whatever its
//! folders are, and remove them when it ends.
//!
//! The mark is an abstract Unix socket. It belongs to the network namespace, and the kernel removes it with its
//! process, however that ends. It guards against mistakes, not against attackers: anybody may take the name, so only a
//! holder who could be a dataplane (root, or our own user) is believed.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with,
    sockopt::socket_peercred,
};

/// The socket's name, behind the zero byte that makes it an abstract one.
const NAME: &[u8] = b"podplane-dataplane";

/// Why this process may not be the dataplane of its network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NotAlone {
    /// There is one.
    #[error("process {0} is the dataplane of this network namespace already: stop it first (`kill {0}`)")]
    Another(i32),
    /// The kernel refused the mark.
    #[error("cannot mark this network namespace as served: {0}")]
    Kernel(io::Error),
}

/// The mark; given back on drop. `None` inside: somebody who cannot be a dataplane has the name.
#[derive(Debug)]
pub struct Alone(Option<Arc<UnixListener>>);

impl Alone {
    /// Marks this network namespace as served by this process.
    ///
    /// # Errors
    /// [`NotAlone`].
    pub fn claim() -> Result<Alone, NotAlone> {
        Alone::claim_as(NAME)
    }

    fn claim_as(name: &[u8]) -> Result<Alone, NotAlone> {
        let address = SocketAddr::from_abstract_name(name).map_err(NotAlone::Kernel)?;
        let mark = match UnixListener::bind_addr(&address) {
            Ok(mark) => Arc::new(mark),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return holder(name).map(|()| Alone(None)),
            Err(error) => return Err(NotAlone::Kernel(error)),
        };
        // Who comes asks the kernel who we are and is let go: a full queue would answer nobody.
        let own = Arc::clone(&mark);
        let let_go = move || while own.accept().is_ok() {};
        std::thread::Builder::new().name("mark".to_owned()).spawn(let_go).map_err(NotAlone::Kernel)?;
        Ok(Alone(Some(mark)))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(mark) = &self.0 {
            // Ends the thread; it has the socket too.
            let _ = shutdown(mark, Shutdown::Both);
        }
    }
}

/// An error if the name's holder may be a dataplane.
fn holder(name: &[u8]) -> Result<(), NotAlone> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let ask = || -> Result<_, Errno> {
        let visitor = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&visitor, &SocketAddrUnix::new_abstract_name(name)?)?;
        socket_peercred(&visitor)
    };
    match ask() {
        Ok(peer) if peer.uid.is_root() || peer.uid == rustix::process::geteuid() => {
            Err(NotAlone::Another(peer.pid.as_raw_nonzero().get()))
        }
        Ok(peer) => {
            tracing::warn!(uid = peer.uid.as_raw(), "a user's process has the name of the dataplane's mark; ignored");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%error, "cannot tell who has the name of the dataplane's mark; ignored");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_of_the_first_until_that_ends() {
        let name = format!("podplane-test-{}", std::process::id());
        let first = Alone::claim_as(name.as_bytes()).unwrap();
        // More often than a queue is long that nobody empties.
        for _ in 0..500 {
            let second = Alone::claim_as(name.as_bytes());
            assert!(matches!(second, Err(NotAlone::Another(pid)) if pid == std::process::id() as i32), "{second:?}");
        }
        drop(first);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        // The thread that lets visitors go has the socket a moment longer.
        while Alone::claim_as(name.as_bytes()).is_err() {
            assert!(std::time::Instant::now() < deadline, "the mark was not given back");
        }
    }
}
