//! What an uplink was like before it was taken over, on disk.

use std::{
    fs::{self, File},
    io::Write,
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use podplane_packet::id::Mac;
use serde::{Deserialize, Serialize};

use super::{DATAPLANE_PORT, HOST_PORT, HostPortSpec, record_path};
use crate::{
    Error, Netlink, Result,
    addresses::{Address, SECONDARY},
    neighbours::NeighState,
    parse_mac,
    routes::{PROTO_KERNEL, PROTO_PODPLANE, PROTO_STATIC, Route, TABLE_LOCAL, UNICAST},
    sysctl::{self, Family},
};

/// Version of the record's form.
const VERSION: u32 = 1;
/// `IFF_LOOPBACK`.
const IFF_LOOPBACK: u32 = 8;

/// A take-over on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form.
    pub version: u32,
    /// Which start of the machine it is from (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// What to give back; `None` where the uplink is no kernel interface.
    pub uplink: Option<UplinkState>,
    /// What the host port is made from.
    pub host_port: HostPortState,
}

/// An interface as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkState {
    /// Name; the interface is found again by it.
    pub name: String,
    /// Index at that time, which the routes' hops are in terms of.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// Promiscuous.
    pub promiscuous: bool,
    /// Addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// Routes through it, those aside that come and go with addresses.
    pub routes: Vec<Route>,
    /// Permanent neighbours: address and Ethernet address.
    pub neighbours: Vec<(IpAddr, String)>,
    /// IPv6 sysctls that the take-over changes; empty without IPv6.
    pub sysctls_v6: Vec<(String, String)>,
}

/// What the host port is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPortState {
    /// Ethernet address.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes; hops through index `routes_index` go through the host port.
    pub routes: Vec<Route>,
    /// See `routes`.
    pub routes_index: u32,
    /// Permanent neighbours.
    pub neighbours: Vec<(IpAddr, String)>,
}

impl HostPortState {
    /// The Ethernet address.
    pub(super) fn mac(&self) -> Result<Mac> {
        parse_mac(&self.mac)
    }
}

/// IPv6 sysctls of the uplink that the take-over changes, in the order in which they can be put back.
const CHANGED_V6: [&str; 2] = ["disable_ipv6", "addr_gen_mode"];

impl Record {
    /// Reads what `name` is like now.
    pub(super) fn capture(netlink: &mut Netlink, name: &str) -> Result<Self> {
        let Some(link) = netlink.link(name)? else {
            let names: Vec<String> = netlink.links()?.into_iter().map(|l| l.name).collect();
            return Err(Error::NotFound(format!(
                "there is no interface {name} to take over; there are: {}",
                names.join(", ")
            )));
        };
        let refuse = |why: &str| Err(Error::Invalid(format!("{name} cannot be the uplink: {why}")));
        if name == HOST_PORT || name == DATAPLANE_PORT {
            return refuse("it is Podplane's own host port");
        }
        if link.flags & IFF_LOOPBACK != 0 {
            return refuse("it is the loopback interface");
        }
        let Some(mac) = link.mac else { return refuse("it has no Ethernet address") };
        if let Some(master) = link.master {
            let master = netlink.link_by_index(master)?.map_or(format!("interface {master}"), |l| l.name);
            return refuse(&format!(
                "it belongs to {master}; release it (ip link set {name} nomaster) or name {master}"
            ));
        }
        let addresses = netlink.addresses(Some(link.index))?;
        let routes = recorded_routes(netlink, link.index)?;
        let neighbours = permanent_neighbours(netlink, link.index)?;
        let mut sysctls_v6 = Vec::new();
        for key in CHANGED_V6 {
            sysctls_v6.extend(sysctl::get(Family::V6, name, key)?.map(|value| (key.to_string(), value)));
        }
        let host_port = HostPortState {
            mac: mac.to_string(),
            mtu: link.mtu,
            addresses: addresses.clone(),
            routes: routes.clone(),
            routes_index: link.index,
            neighbours: neighbours.clone(),
        };
        let uplink = UplinkState {
            name: name.to_string(),
            index: link.index,
            up: link.up,
            promiscuous: link.promiscuous,
            addresses,
            routes,
            neighbours,
            sysctls_v6,
        };
        Ok(Record { version: VERSION, boot_id: boot_id()?, uplink: Some(uplink), host_port })
    }

    /// A record of a host port alone.
    pub(super) fn without_uplink(spec: &HostPortSpec) -> Result<Self> {
        let mut routes = spec.routes.clone();
        routes.iter_mut().flat_map(|r| &mut r.hops).for_each(|h| h.index = 0);
        // Routes of our own number are the agent's (`node_routes`), which would remove these.
        routes.iter_mut().filter(|r| r.protocol == PROTO_PODPLANE).for_each(|r| r.protocol = PROTO_STATIC);
        let host_port = HostPortState {
            mac: spec.mac.to_string(),
            mtu: spec.mtu,
            addresses: spec.addresses.iter().map(|net: &IpNet| Address::new(0, *net)).collect(),
            routes,
            routes_index: 0,
            neighbours: Vec::new(),
        };
        Ok(Record { version: VERSION, boot_id: boot_id()?, uplink: None, host_port })
    }

    /// Whether the machine has not been started since.
    pub(super) fn is_of_this_boot(&self) -> Result<bool> {
        Ok(self.boot_id == boot_id()?)
    }

    /// Reads the record of `state_dir`; `None`: there is none.
    pub(super) fn read(state_dir: &Path) -> Result<Option<Self>> {
        let path = record_path(state_dir);
        let what = || format!("read {}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(what(), e)),
        };
        let record: Record = serde_json::from_str(&text).map_err(|e| {
            Error::Invalid(format!("{}: {e}; the file is damaged: put a good one in its place or remove it", what()))
        })?;
        if record.version != VERSION {
            let other = record.version;
            return Err(Error::Invalid(format!(
                "{}: version {other}, expected {VERSION}: restore with the Podplane that wrote it",
                what()
            )));
        }
        Ok(Some(record))
    }

    /// Writes the record so that it survives a crash at any point: whole or not at all.
    pub(super) fn write(&self, state_dir: &Path) -> Result<()> {
        let path = record_path(state_dir);
        let temporary = state_dir.join("uplink.json.tmp");
        let text =
            serde_json::to_string_pretty(self).map_err(|e| Error::Invalid(format!("write {}: {e}", path.display())))?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(state_dir)?.sync_all()
        };
        write().map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    /// Removes the record of `state_dir`, durably.
    pub(super) fn remove(state_dir: &Path) -> Result<()> {
        let path = record_path(state_dir);
        match fs::remove_file(&path).and_then(|()| File::open(state_dir)?.sync_all()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}

/// Excludes other take-overs and restores: a lock on the folder itself, so that no file is left behind.
pub(super) fn lock(state_dir: &Path) -> Result<Flock<File>> {
    let what = || format!("lock {}", state_dir.display());
    fs::create_dir_all(state_dir).map_err(|e| Error::io(what(), e))?;
    let folder = File::open(state_dir).map_err(|e| Error::io(what(), e))?;
    Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, e)| Error::io(what(), e))
}

pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).map_err(|e| Error::io(format!("read {path}"), e))?.trim().to_string())
}

/// Routes through `index` that do not come by themselves with an address.
fn recorded_routes(netlink: &mut Netlink, index: u32) -> Result<Vec<Route>> {
    let mut routes = netlink.routes()?;
    routes.retain(|r| r.uses(index) && !(r.protocol == PROTO_KERNEL && (r.table == TABLE_LOCAL || r.kind != UNICAST)));
    Ok(routes)
}

fn permanent_neighbours(netlink: &mut Netlink, index: u32) -> Result<Vec<(IpAddr, String)>> {
    let neighbours = netlink.neighbours(Some(index))?.into_iter().filter(|n| n.state == NeighState::Permanent);
    Ok(neighbours.filter_map(|n| Some((n.address, n.mac?.to_string()))).collect())
}

/// The addresses that have to be set; secondary IPv4 addresses become so again by their order.
pub(super) fn in_order(addresses: &[Address]) -> impl Iterator<Item = &Address> {
    let secondary = |a: &&Address| !a.is_v6() && a.flags & SECONDARY != 0;
    addresses.iter().filter(move |a| !secondary(a)).chain(addresses.iter().filter(secondary))
}
