//! What is known of a device.

use std::ffi::{CStr, c_char};

use super::config::{RxOffloads, TxOffloads};
use super::error::DevError;
use crate::errno::Errno;

/// A device's identity and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device's name on its bus: a PCI address, or the virtual device's name.
    pub device: String,
    /// The driver, such as `net_tap`.
    pub driver: String,
    /// The kernel interface below it, if the driver says so.
    pub ifindex: Option<u32>,
    /// Smallest MTU.
    pub min_mtu: u16,
    /// Largest MTU.
    pub max_mtu: u16,
    /// Receive queues at most.
    pub max_rx_queues: u16,
    /// Transmit queues at most.
    pub max_tx_queues: u16,
    /// Receive offloads it can do.
    pub rx_offloads: RxOffloads,
    /// Transmit offloads it can do.
    pub tx_offloads: TxOffloads,
    /// Whether it can spread flows over queues.
    pub rss: bool,
}

/// The state of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Megabits a second; `None`: unknown.
    pub speed_mbps: Option<u32>,
}

/// A device's own counters, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets lost because the receive queue was full.
    pub rx_missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost because the pool was empty.
    pub rx_no_buffer: u64,
}

/// DPDK's own description of a port.
pub(super) fn raw(port: u16, name: &str) -> Result<dpdk_sys::rte_eth_dev_info, DevError> {
    let mut info = std::mem::MaybeUninit::zeroed();
    // SAFETY: the port number is checked by DPDK; it fills the structure, for which zeroes are valid too.
    let (ret, info) = unsafe {
        let ret = dpdk_sys::rte_eth_dev_info_get(port, info.as_mut_ptr());
        (ret, info.assume_init())
    };
    match Errno::check(ret) {
        Ok(_) => Ok(info),
        Err(errno) => Err(DevError::Operation { device: name.to_owned(), operation: "reading its description", errno }),
    }
}

/// The name of the device below a port.
pub(super) fn device_name(info: &dpdk_sys::rte_eth_dev_info) -> String {
    if info.device.is_null() {
        return String::new();
    }
    // SAFETY: the device of a port that exists; its name lives as long as the device and is copied here.
    text(unsafe { dpdk_sys::rte_dev_name(info.device) })
}

impl DeviceInfo {
    pub(super) fn from_raw(info: &dpdk_sys::rte_eth_dev_info) -> Self {
        Self {
            device: device_name(info),
            driver: text(info.driver_name),
            ifindex: (info.if_index != 0).then_some(info.if_index),
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            rx_offloads: RxOffloads::from_bits(info.rx_offload_capa),
            tx_offloads: TxOffloads::from_bits(info.tx_offload_capa),
            rss: info.flow_type_rss_offloads != 0,
        }
    }
}

fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and DPDK's names end with a zero.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
