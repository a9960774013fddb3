//! Taking an uplink over from the kernel, and giving it back.
//!
//! The node's addresses and routes move from the uplink to the **host port**, a veth pair in the node's namespace:
//! [`HOST_PORT`] is the node's side, [`DATAPLANE_PORT`] the dataplane's. The uplink is left without addresses, without
//! IPv6, deaf (ingress drop) and promiscuous.
//!
//! What the uplink was like is on disk before anything is changed, and removed from there after everything was given
//! back. In between every step can be repeated, so a process that is killed anywhere leaves a state from which
//! [`take_over`] (by the next dataplane: it adopts what is there) and [`restore`] (by anyone) both go on.
//!
//! All functions act in the caller's network namespace and exclude each other by a lock on the state folder.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podplane_packet::id::Mac;

use crate::{Error, Netlink, Result, ingress_drop, routes::Route};

mod give_back;
mod record;
mod take;

pub(crate) use record::boot_id;
pub use record::{HostPortState, Record, UplinkState};

/// The node's side of the host port.
pub const HOST_PORT: &str = "podplane0";
/// The dataplane's side of the host port.
pub const DATAPLANE_PORT: &str = "podplane0-dp";

/// Called after each step with its name; an error stops there. For tests that stop at every step in turn.
pub type OnStep<'a> = &'a mut dyn FnMut(&'static str) -> Result<()>;

/// What the dataplane needs to know of the ports that it now owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The uplink's name; `None` where it is no kernel interface.
    pub uplink: Option<String>,
    /// The uplink's index.
    pub uplink_index: Option<u32>,
    /// The node's Ethernet address, on the uplink and on the host port.
    pub mac: Mac,
    /// MTU of uplink and host port in bytes.
    pub mtu: u32,
    /// The node's addresses, now on the host port.
    pub addresses: Vec<IpNet>,
    /// [`HOST_PORT`].
    pub host_port: String,
    /// Its index: where next hops are resolved and routes point to.
    pub host_port_index: u32,
    /// [`DATAPLANE_PORT`], to be opened by the dataplane.
    pub dataplane_port: String,
    /// Its index.
    pub dataplane_port_index: u32,
}

/// A host port for an uplink that the kernel does not know (a PCI NIC that DPDK drives).
#[derive(Clone, Debug)]
pub struct HostPortSpec {
    /// The uplink's Ethernet address.
    pub mac: Mac,
    /// The uplink's MTU in bytes.
    pub mtu: u32,
    /// The node's addresses.
    pub addresses: Vec<IpNet>,
    /// Routes through the host port; the interface indices in them are ignored.
    pub routes: Vec<Route>,
}

/// What [`restore`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// No record: nothing was taken over.
    Nothing,
    /// Everything is as it was.
    GivenBack,
    /// The record is from before the machine's last start; it was dropped and nothing else touched.
    Outdated,
    /// The uplink does not exist any more; the host port was removed.
    UplinkGone,
}

/// Takes `uplink` over. A take-over that a killed process left (complete or half-way) is adopted: its record stays in
/// force, and what is missing is done. One of another uplink is given back first.
///
/// # Errors
/// The interface does not exist, has no Ethernet address, belongs to a bridge or bond, or is the host port itself;
/// a host port without a record; anything the kernel refuses. After an error [`restore`] gives back what was changed.
pub fn take_over(uplink: &str, state_dir: &Path) -> Result<Facts> {
    take_over_stepwise(uplink, state_dir, &mut |_| Ok(()))
}

/// [`take_over`] with a call after each step.
pub fn take_over_stepwise(uplink: &str, state_dir: &Path, on_step: OnStep<'_>) -> Result<Facts> {
    let _lock = record::lock(state_dir)?;
    let mut netlink = Netlink::open()?;
    let record = match adoptable(&mut netlink, state_dir, Some(uplink))? {
        Some(record) => record,
        None => {
            let record = Record::capture(&mut netlink, uplink)?;
            record.write(state_dir)?;
            record
        }
    };
    on_step("record written")?;
    take::host_port(&mut netlink, &record, on_step)?;
    take::uplink(&mut netlink, &record, on_step)?;
    take::facts(&mut netlink, &record)
}

/// Makes the host port for an uplink without a kernel interface. An existing one is corrected to `spec`.
///
/// # Errors
/// One of the addresses is on another interface; a host port without a record; anything the kernel refuses.
pub fn create_host_port(spec: &HostPortSpec, state_dir: &Path) -> Result<Facts> {
    let _lock = record::lock(state_dir)?;
    let mut netlink = Netlink::open()?;
    adoptable(&mut netlink, state_dir, None)?;
    not_taken(&mut netlink, &spec.addresses)?;
    let record = Record::without_uplink(spec)?;
    record.write(state_dir)?;
    take::host_port(&mut netlink, &record, &mut |_| Ok(()))?;
    take::facts(&mut netlink, &record)
}

/// Gives everything back from the record alone, then removes host port and record. Can be called at any time, by
/// several processes, after a take-over or a restore that did not finish.
pub fn restore(state_dir: &Path) -> Result<Restored> {
    restore_stepwise(state_dir, &mut |_| Ok(()))
}

/// [`restore`] with a call after each step.
pub fn restore_stepwise(state_dir: &Path, on_step: OnStep<'_>) -> Result<Restored> {
    if !state_dir.exists() {
        return Ok(Restored::Nothing);
    }
    let _lock = record::lock(state_dir)?;
    give_back::all(&mut Netlink::open()?, state_dir, on_step)
}

/// Whether a take-over is on record, and of what. Does not wait for one that is going on.
pub fn read_record(state_dir: &Path) -> Result<Option<Record>> {
    Record::read(state_dir)
}

/// The path of the record in `state_dir`.
pub fn record_path(state_dir: &Path) -> PathBuf {
    state_dir.join("uplink.json")
}

/// An error if another interface of the node has one of `addresses`: the kernel would not mind, and the node would
/// answer for it in two places.
fn not_taken(netlink: &mut Netlink, addresses: &[IpNet]) -> Result<()> {
    let host_port = netlink.link(HOST_PORT)?.map(|link| link.index);
    for present in netlink.addresses(None)?.iter().filter(|a| Some(a.index) != host_port) {
        if let Some(taken) = addresses.iter().find(|wanted| wanted.addr() == present.net.addr()) {
            let holder = netlink.links()?.into_iter().find(|link| link.index == present.index);
            let holder = holder.map_or_else(|| format!("interface {}", present.index), |link| link.name);
            return Err(Error::Invalid(format!(
                "the address {} is on {holder} already: remove it there (`ip addr del {} dev {holder}`), or give the \
                 host port another",
                taken.addr(),
                present.net
            )));
        }
    }
    Ok(())
}

/// The record that is in force for `uplink`; one that is not is settled first.
fn adoptable(netlink: &mut Netlink, state_dir: &Path, uplink: Option<&str>) -> Result<Option<Record>> {
    let port_exists = netlink.link(HOST_PORT)?.is_some();
    let Some(record) = Record::read(state_dir)? else {
        return match port_exists {
            false => Ok(None),
            true => Err(Error::Invalid(format!(
                "{HOST_PORT} exists, but {} does not: what the uplink had before cannot be known. Give the uplink its \
                 addresses and routes, then remove the port with: ip link del {HOST_PORT}",
                record_path(state_dir).display()
            ))),
        };
    };
    let same = record.uplink.as_ref().map(|u| u.name.as_str()) == uplink;
    // Host port and ingress drop come before any change to the uplink: where neither is, nothing was changed yet
    // (or the machine or namespace is a new one), and what the uplink is like now is what counts.
    let touched = port_exists || uplink.map(ingress_drop::is_on).transpose()?.unwrap_or(false);
    if same && touched && record.is_of_this_boot()? {
        return Ok(Some(record));
    }
    if touched || !same {
        give_back::all(netlink, state_dir, &mut |_| Ok(()))?;
    }
    Ok(None)
}
