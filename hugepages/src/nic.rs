//! What a NIC needs before a dataplane can drive it: to exist, an IOMMU, a driver for user space.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Drivers of the kernel that leave the device to a user-space driver.
const USER_SPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers whose DPDK counterpart works beside them (bifurcated): nothing is to be bound.
const BIFURCATED: [&str; 2] = ["mlx5_core", "mlx4_core"];

/// A NIC as it was found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// PCI address.
    pub address: String,
    /// The kernel's driver that holds it.
    pub driver: Option<String>,
    /// What keeps a dataplane from driving it.
    pub problems: Vec<Problem>,
}

/// A problem and the command that fixes it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
}

/// Looks at the NIC with that PCI address.
pub fn look(sysfs: &Path, address: &str) -> Nic {
    let device = sysfs.join("bus/pci/devices").join(address);
    let mut problems = Vec::new();
    let mut problem = |what: &str, fix: String| problems.push(Problem { what: what.to_owned(), fix });
    let driver =
        fs::read_link(device.join("driver")).ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    if address.contains('/') || !device.exists() {
        problem("there is no such PCI device", "lspci -D | grep -i ethernet".to_owned());
    } else if !driver.as_deref().is_some_and(|d| USER_SPACE.contains(&d) || BIFURCATED.contains(&d)) {
        problem(
            "its driver is the kernel's own",
            format!("modprobe vfio-pci && driverctl set-override {address} vfio-pci"),
        );
    }
    let groups = fs::read_dir(sysfs.join("kernel/iommu_groups")).is_ok_and(|mut groups| groups.next().is_some());
    if !groups && driver.as_deref() == Some("vfio-pci") {
        problem(
            "the IOMMU is off: the device could reach all memory",
            "add intel_iommu=on (or amd_iommu=on) iommu=pt to the kernel's parameters and boot again".to_owned(),
        );
    }
    Nic { address: address.to_owned(), driver, problems }
}
