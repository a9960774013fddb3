//! Finding devices, attaching and detaching them at run time.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::DevError;
use super::info;
use crate::errno::Errno;

/// The ports that a [`super::Port`] owns. Its lock also orders attaching and detaching, which DPDK does not.
static OWNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

fn owned() -> MutexGuard<'static, BTreeSet<u16>> {
    // A panic while it was held leaves the set right: it changes in single steps.
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds or makes the device that the arguments name and takes its first port that nobody owns.
pub(super) fn attach(devargs: &str) -> Result<u16, DevError> {
    let name = device_of(devargs);
    let Some(c_devargs) = CString::new(devargs).ok().filter(|_| !name.is_empty()) else {
        return Err(DevError::Arguments(devargs.to_owned()));
    };
    let mut owned = owned();
    let mut ports = ports_of(&name);
    if ports.is_empty() {
        // SAFETY: EAL runs; the string is copied.
        let ret = unsafe { dpdk_sys::rte_dev_probe(c_devargs.as_ptr()) };
        ports = ports_of(&name);
        if ports.is_empty() {
            let errno = Errno::check(ret).err().unwrap_or(Errno::NO_DEVICE);
            return Err(DevError::Attach { devargs: devargs.to_owned(), errno, hint: hint(&name, errno) });
        }
    }
    match ports.iter().find(|port| !owned.contains(port)) {
        Some(&port) => {
            owned.insert(port);
            Ok(port)
        }
        None => Err(DevError::InUse(name)),
    }
}

/// Closes a stopped port and removes its device when that was its last port.
pub(super) fn detach(port: u16) {
    let mut owned = owned();
    let device = info::raw(port, "").map_or(std::ptr::null_mut(), |info| info.device);
    // SAFETY: the port exists, is stopped, and its owner gives it up. A device without ports is used by nobody.
    unsafe {
        dpdk_sys::rte_eth_dev_close(port);
        if !device.is_null() && dpdk_sys::rte_eth_find_next_of(0, device) >= dpdk_sys::RTE_MAX_ETHPORTS as u16 {
            dpdk_sys::rte_dev_remove(device);
        }
    }
    owned.remove(&port);
}

/// DPDK's name of a port.
pub(super) fn port_name(port: u16) -> String {
    let mut name = [0 as c_char; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: the array has the length that DPDK writes at most, ended by a zero.
    match unsafe { dpdk_sys::rte_eth_dev_get_name_by_port(port, name.as_mut_ptr()) } {
        // SAFETY: as above.
        0 => unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
        _ => format!("port {port}"),
    }
}

/// The ports of the device of that name.
fn ports_of(device: &str) -> Vec<u16> {
    let mut found = Vec::new();
    let mut port = 0;
    loop {
        // SAFETY: EAL runs; any number may be asked for.
        let next = unsafe { dpdk_sys::rte_eth_find_next(port) };
        if next >= dpdk_sys::RTE_MAX_ETHPORTS as u16 {
            return found;
        }
        if info::raw(next, "").is_ok_and(|info| info::device_name(&info) == device) {
            found.push(next);
        }
        port = next + 1;
    }
}

/// The device's name in its arguments, as its bus spells it.
fn device_of(devargs: &str) -> String {
    let name = devargs.split(',').next().unwrap_or_default().trim();
    let name = ["pci:", "vdev:", "auxiliary:"].iter().find_map(|bus| name.strip_prefix(bus)).unwrap_or(name);
    let short_pci = name.len() == 7 && name.as_bytes()[2] == b':' && name.as_bytes()[5] == b'.';
    let name = if short_pci { format!("0000:{name}") } else { name.to_owned() };
    if is_pci(&name) { name.to_ascii_lowercase() } else { name }
}

fn is_pci(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() == 12 && bytes[4] == b':' && bytes[7] == b':' && bytes[10] == b'.'
}

fn hint(name: &str, errno: Errno) -> &'static str {
    if is_pci(name) {
        return "a PCI device must be allowed when EAL starts and be bound to vfio-pci (dpdk-devbind.py -b vfio-pci \
                ADDRESS); `dpdk-devbind.py -s` lists them";
    }
    match errno.number() {
        libc::EEXIST => "a device of that name exists already; choose another name",
        libc::EPERM | libc::EACCES => "the driver lacks rights; run with CAP_NET_ADMIN and CAP_NET_RAW",
        _ => {
            "check the driver's name, its arguments and that its plugin is installed (Debian: librte-net-*, or all by \
             libdpdk-dev; elsewhere give its path as a driver); EAL's messages on standard error say more"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::device_of;

    #[test]
    fn the_device_is_what_its_bus_calls_it() {
        assert_eq!(device_of("net_tap0,iface=tap0"), "net_tap0");
        assert_eq!(device_of("vdev:net_null3"), "net_null3");
        assert_eq!(device_of("01:00.0"), "0000:01:00.0");
        assert_eq!(device_of("pci:0000:AF:00.1,rx=1"), "0000:af:00.1");
        assert_eq!(device_of(",iface=x"), "");
    }
}
