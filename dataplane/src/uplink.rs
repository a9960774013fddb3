//! The uplink and the host port: taken over from the kernel and opened; given back on drop.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podplane_hostnet::takeover::{self, HostPortSpec, Restored};
use podplane_packet::id::{Mac, PortId, WorkerId};

use crate::args::{Args, Uplink};
use crate::ports::{OpenError, OpenedPort, Pools, PortOpener, Role};

/// Why uplink and host port are not there. What was changed has been put back.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] podplane_hostnet::Error),
    /// A port.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// More than the device carries.
    #[error("--mtu {wanted} is more than {name} carries ({has} bytes): leave it out, or raise the device's MTU first")]
    Mtu {
        /// The device.
        name: String,
        /// What was asked for, in bytes.
        wanted: u16,
        /// What it has, in bytes.
        has: u16,
    },
    /// More than can be said in a packet.
    #[error("the uplink's MTU of {0} bytes is more than Podplane carries (9702): set a smaller one")]
    MtuTooLarge(u32),
}

/// Uplink and host port, open.
#[derive(Debug)]
pub struct Node {
    /// The device to the other nodes.
    pub uplink: OpenedPort,
    /// The dataplane's side of the host port.
    pub host: OpenedPort,
    /// What the kernel's side is.
    pub facts: takeover::Facts,
    /// The uplink's MTU in bytes, as it is used.
    pub mtu: u16,
    /// Gives everything back.
    pub taken: Taken,
}

/// A take-over that is given back on drop.
#[derive(Debug)]
pub struct Taken {
    state_dir: PathBuf,
}

impl Drop for Taken {
    fn drop(&mut self) {
        match takeover::restore(&self.state_dir) {
            Ok(Restored::Nothing) => {}
            Ok(restored) => tracing::info!(?restored, "the uplink is the kernel's again"),
            Err(error) => tracing::error!(
                %error,
                "the uplink could not be given back; the agent tries again in some seconds, or start and stop the \
                 dataplane again"
            ),
        }
    }
}

/// The largest MTU: a jumbo frame with room for the outer headers in the largest buffers.
const MAX_MTU: u32 = 9702;
/// The smallest: IPv6's 1280 and the outer headers over an IPv6 underlay.
const MIN_MTU: u16 = 1350;

/// What is used of a link's MTU that changed while we run: within what we carry, and no more than `wanted`.
pub fn usable_mtu(link: u32, wanted: Option<u16>) -> u16 {
    let most = wanted.unwrap_or(MAX_MTU as u16);
    if link < u32::from(MIN_MTU) {
        tracing::error!(link, "the uplink's MTU is too small for IPv6 through the tunnel: give it {MIN_MTU} at least");
    }
    (link.min(most.into()) as u16).max(MIN_MTU)
}

/// The home of the host port.
pub const HOST_HOME: WorkerId = WorkerId(0);

impl Node {
    /// Takes over what `args` names and opens both ports.
    ///
    /// # Errors
    /// [`UplinkError`]; everything is as it was before.
    pub fn take(args: &Args, opener: &PortOpener, pools: &Pools) -> Result<Node, UplinkError> {
        match args.taken_over() {
            Some(name) => take_kernel_interface(args, name, opener, pools),
            None => take_device(args, opener, pools),
        }
    }

    /// The node's Ethernet address, on the uplink and on the host port.
    pub fn mac(&self) -> Mac {
        self.facts.mac
    }
}

fn take_kernel_interface(args: &Args, name: &str, opener: &PortOpener, pools: &Pools) -> Result<Node, UplinkError> {
    // Made first: a take-over that fails half-way is given back too.
    let taken = Taken { state_dir: args.state_dir.clone() };
    let facts = takeover::take_over(name, &args.state_dir)?;
    if facts.mtu > MAX_MTU {
        return Err(UplinkError::MtuTooLarge(facts.mtu));
    }
    let uplink = open_uplink(args, opener, pools)?;
    let has = facts.mtu.min(u32::from(uplink.facts.mtu)) as u16;
    finish(args, opener, uplink, facts, has, taken)
}

/// An uplink that the kernel does not know: its address and MTU are known only once it is open.
fn take_device(args: &Args, opener: &PortOpener, pools: &Pools) -> Result<Node, UplinkError> {
    if args.host_address.is_empty() {
        tracing::warn!(
            "the node has no address on its uplink: give --host-address unless one is configured on {}",
            takeover::HOST_PORT
        );
    }
    let uplink = open_uplink(args, opener, pools)?;
    let has = uplink.facts.mtu;
    let mac = if args.uplink.is_tap() { beside(uplink.facts.mac) } else { uplink.facts.mac };
    let spec = HostPortSpec {
        mac,
        mtu: u32::from(args.mtu.unwrap_or(has)),
        addresses: with_link_local(&args.host_address, mac),
        routes: Vec::new(),
    };
    let taken = Taken { state_dir: args.state_dir.clone() };
    let facts = takeover::create_host_port(&spec, &args.state_dir)?;
    finish(args, opener, uplink, facts, has, taken)
}

/// With the link-local address that IPv6 nodes have on every link (RFC 4291 section 2.8, appendix A): without one the
/// kernel resolves no neighbour by itself. The host port makes none, because those of interfaces are taken over.
fn with_link_local(addresses: &[IpNet], mac: Mac) -> Vec<IpNet> {
    let is_link_local = |net: &IpNet| matches!(net.addr(), IpAddr::V6(a) if a.is_unicast_link_local());
    let mut all = addresses.to_vec();
    if all.iter().any(|net| net.addr().is_ipv6()) && !all.iter().any(is_link_local) {
        let [a, b, c, d, e, f] = mac.0.map(u16::from);
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f);
        all.extend(IpNet::new(address.into(), 64));
    }
    all
}

fn finish(
    args: &Args,
    opener: &PortOpener,
    uplink: OpenedPort,
    facts: takeover::Facts,
    has: u16,
    taken: Taken,
) -> Result<Node, UplinkError> {
    let mtu = args.mtu.unwrap_or(has);
    if mtu > has {
        return Err(UplinkError::Mtu { name: uplink.facts.name, wanted: mtu, has });
    }
    let host = opener.open_interface(PortId::HOST, &facts.dataplane_port, Role::Single { home: HOST_HOME })?;
    Ok(Node { uplink, host, facts, mtu, taken })
}

fn open_uplink(args: &Args, opener: &PortOpener, pools: &Pools) -> Result<OpenedPort, OpenError> {
    match &args.uplink {
        Uplink::Iface(name) => opener.open_interface(PortId::UPLINK, name, Role::Uplink),
        Uplink::Ethdev(device) | Uplink::Pci(device) => opener.open_ethdev(PortId::UPLINK, device, Role::Uplink, pools),
    }
}

/// Another address than a tap's own, which its kernel side has too: a bridge that the tap is a port of would keep
/// frames to that address for itself.
fn beside(mac: Mac) -> Mac {
    let mut bytes = mac.0;
    bytes[0] = bytes[0] & !1 | 2;
    bytes[5] ^= 0x80;
    Mac(bytes)
}

/// Makes the folders that the dataplane writes to.
///
/// # Errors
/// The kernel's, with the folder's name.
pub fn make_folders(folders: &[&Path]) -> std::io::Result<()> {
    for folder in folders {
        std::fs::create_dir_all(folder).map_err(|e| {
            std::io::Error::new(
                e.kind(),
                format!("cannot make the folder {}: {e}; name another with --run-dir or --state-dir", folder.display()),
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_mtu_is_used_within_limits() {
        assert_eq!(usable_mtu(1500, None), 1500);
        assert_eq!(usable_mtu(9000, Some(1500)), 1500);
        assert_eq!(usable_mtu(1400, Some(1500)), 1400);
        assert_eq!(usable_mtu(65_536, None), MAX_MTU as u16);
        assert_eq!(usable_mtu(576, None), MIN_MTU);
    }

    #[test]
    fn who_has_ipv6_has_a_link_local_address() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let mac = Mac([0x02, 0x64, 0x74, 0x61, 0x70, 0x80]);
        let with = |list: &[&str]| with_link_local(&nets(list), mac);
        assert_eq!(with(&["10.0.0.1/24"]), nets(&["10.0.0.1/24"]));
        assert_eq!(with(&["fd00::1/64"]), nets(&["fd00::1/64", "fe80::64:74ff:fe61:7080/64"]));
        assert_eq!(with(&["fd00::1/64", "fe80::1/64"]), nets(&["fd00::1/64", "fe80::1/64"]));
    }

    #[test]
    fn the_node_behind_a_tap_has_an_address_of_its_own() {
        let tap = Mac([0x02, 0x64, 0x74, 0x61, 0x70, 0x00]);
        assert_ne!(beside(tap), tap);
        assert!(!beside(tap).is_group());
        assert_eq!(beside(Mac([0x01, 0, 0, 0, 0, 0])).0[0], 2, "unicast and locally administered");
    }
}
