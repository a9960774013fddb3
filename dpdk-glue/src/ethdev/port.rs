//! A device, from attaching to closing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info, rte_eth_rx_mq_mode};

use super::config::{Granted, PortConfig, RxOffloads, TxOffloads};
use super::error::DevError;
use super::info::{self, DeviceInfo, Link, Stats};
use super::probe;
use super::queue::{RxQueue, TxQueue};
use crate::eal::Eal;
use crate::errno::Errno;
use crate::mempool::Mempool;

/// What a port and its queues share. Changed only while no queue exists.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u16,
    pub(super) rx_interrupts: bool,
    name: String,
    started: bool,
    rx_taken: Box<[AtomicBool]>,
    tx_taken: Box<[AtomicBool]>,
    /// The receive queues' pools outlive them.
    pools: Vec<Mempool>,
    _eal: Eal,
}

/// Which side of a port a queue is on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Rx,
    Tx,
}

/// A device. Belongs to one thread at a time (control); closed and detached when it and its queues are dropped.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    /// DPDK's control functions must not run twice at once for a port.
    _one_thread: PhantomData<Cell<()>>,
}

impl Port {
    /// Takes the device that the arguments name (`net_tap0,iface=tap0`, `0000:01:00.0`), making a virtual one.
    pub fn attach(eal: &Eal, devargs: &str) -> Result<Self, DevError> {
        let id = probe::attach(devargs)?;
        let shared = Shared {
            id,
            rx_interrupts: false,
            name: probe::port_name(id),
            started: false,
            rx_taken: Box::new([]),
            tx_taken: Box::new([]),
            pools: Vec::new(),
            _eal: eal.clone(),
        };
        Ok(Self { shared: Arc::new(shared), _one_thread: PhantomData })
    }

    /// DPDK's port number.
    pub fn id(&self) -> u16 {
        self.shared.id
    }

    /// DPDK's name of the port.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What the device is and can do.
    pub fn info(&self) -> Result<DeviceInfo, DevError> {
        Ok(DeviceInfo::from_raw(&self.raw_info()?))
    }

    fn raw_info(&self) -> Result<rte_eth_dev_info, DevError> {
        info::raw(self.shared.id, &self.shared.name)
    }

    /// Stops the port if it runs and sets it up anew. All its queues must have been dropped.
    pub fn configure(&mut self, config: &PortConfig) -> Result<Granted, DevError> {
        self.stop()?;
        let info = self.raw_info()?;
        self.at_most("receive queues", config.rx_pools.len(), info.max_rx_queues)?;
        self.at_most("transmit queues", usize::from(config.tx_queues), info.max_tx_queues)?;
        let rss = if config.rss && config.rx_pools.len() > 1 { hashes() & info.flow_type_rss_offloads } else { 0 };
        let mut granted = Granted {
            rx_offloads: config.rx_offloads.and(RxOffloads::from_bits(info.rx_offload_capa)),
            tx_offloads: config.tx_offloads.and(TxOffloads::from_bits(info.tx_offload_capa)),
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            rss: rss != 0,
            mtu: 0,
        };
        let shared = self.exclusive()?;
        // If a step fails the port has no queues to take.
        shared.rx_taken = flags(0);
        shared.tx_taken = flags(0);
        shared.configure(config, &granted, rss)?;
        shared.set_up_queues(&info, config, &mut granted)?;
        // The old pools go only now, when no queue refers to them any more.
        shared.pools.clone_from(&config.rx_pools);
        shared.rx_taken = flags(config.rx_pools.len());
        shared.tx_taken = flags(usize::from(config.tx_queues));
        shared.rx_interrupts = config.rx_interrupts;
        if let Some(mtu) = config.mtu {
            self.set_mtu(mtu)?;
        }
        Ok(Granted { mtu: self.mtu()?, ..granted })
    }

    fn at_most(&self, what: &'static str, wanted: usize, max: u16) -> Result<(), DevError> {
        if wanted <= usize::from(max) {
            return Ok(());
        }
        Err(DevError::TooMany { device: self.shared.name.clone(), what, wanted, max })
    }

    /// Starts receiving and sending.
    pub fn start(&mut self) -> Result<(), DevError> {
        if self.shared.started {
            return Ok(());
        }
        let shared = self.exclusive()?;
        if shared.rx_taken.is_empty() && shared.tx_taken.is_empty() {
            return Err(DevError::NotConfigured(shared.name.clone()));
        }
        // SAFETY: the port is configured and ours.
        let ret = unsafe { dpdk_sys::rte_eth_dev_start(shared.id) };
        shared.check(ret, "starting")?;
        shared.started = true;
        Ok(())
    }

    /// Stops receiving and sending. All its queues must have been dropped.
    pub fn stop(&mut self) -> Result<(), DevError> {
        if !self.shared.started {
            return Ok(());
        }
        let shared = self.exclusive()?;
        // SAFETY: the port is ours, and no thread has one of its queues.
        let ret = unsafe { dpdk_sys::rte_eth_dev_stop(shared.id) };
        shared.check(ret, "stopping")?;
        shared.started = false;
        Ok(())
    }

    /// Stops, closes and detaches: what dropping does, with the error. While queues are in use the device stays until
    /// they are dropped.
    pub fn close(mut self) -> Result<(), DevError> {
        self.stop()
    }

    /// Takes a receive queue of a started port; `None`: there is no such queue, it is taken, or the port is stopped.
    pub fn rx_queue(&self, queue: u16) -> Option<RxQueue> {
        self.shared.take(Direction::Rx, queue).then(|| RxQueue::new(Arc::clone(&self.shared), queue))
    }

    /// Takes a transmit queue of a started port; `None`: there is no such queue, it is taken, or the port is stopped.
    pub fn tx_queue(&self, queue: u16) -> Option<TxQueue> {
        self.shared.take(Direction::Tx, queue).then(|| TxQueue::new(Arc::clone(&self.shared), queue))
    }

    /// Nobody else has a queue.
    fn exclusive(&mut self) -> Result<&mut Shared, DevError> {
        let name = self.shared.name.clone();
        Arc::get_mut(&mut self.shared).ok_or(DevError::QueuesInUse(name))
    }

    /// The device's Ethernet address.
    pub fn mac(&self) -> Result<[u8; 6], DevError> {
        let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the port exists; the address is ours.
        let ret = unsafe { dpdk_sys::rte_eth_macaddr_get(self.shared.id, &mut mac) };
        self.shared.check(ret, "reading its address")?;
        Ok(mac.addr_bytes)
    }

    /// Largest layer 3 packet in bytes.
    pub fn mtu(&self) -> Result<u16, DevError> {
        let mut mtu = 0;
        // SAFETY: the port exists; the number is ours.
        let ret = unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.shared.id, &mut mtu) };
        self.shared.check(ret, "reading its MTU")?;
        Ok(mtu)
    }

    /// Sets the MTU; some devices must be stopped for it.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), DevError> {
        // SAFETY: the port exists.
        let ret = unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.shared.id, mtu) };
        self.shared.check(ret, "setting its MTU")
    }

    /// Whether the device receives what is not for its address.
    pub fn promiscuous(&self) -> bool {
        // SAFETY: the port exists.
        unsafe { dpdk_sys::rte_eth_promiscuous_get(self.shared.id) == 1 }
    }

    /// Makes the device receive what is not for its address, or not.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), DevError> {
        let id = self.shared.id;
        // SAFETY: the port exists.
        let ret = unsafe {
            if on { dpdk_sys::rte_eth_promiscuous_enable(id) } else { dpdk_sys::rte_eth_promiscuous_disable(id) }
        };
        self.shared.check(ret, "setting promiscuous mode")
    }

    /// The state of the link, as last known; does not wait.
    pub fn link(&self) -> Result<Link, DevError> {
        let mut link = std::mem::MaybeUninit::zeroed();
        // SAFETY: the port exists; DPDK fills the structure, for which zeroes are valid too.
        let (ret, link): (i32, dpdk_sys::rte_eth_link) = unsafe {
            let ret = dpdk_sys::rte_eth_link_get_nowait(self.shared.id, link.as_mut_ptr());
            (ret, link.assume_init())
        };
        self.shared.check(ret, "reading its link")?;
        let speed_mbps = Some(link.link_speed).filter(|&speed| speed != 0 && speed != u32::MAX);
        Ok(Link { up: link.link_status() != 0, speed_mbps })
    }

    /// The device's counters.
    pub fn stats(&self) -> Result<Stats, DevError> {
        let mut stats = std::mem::MaybeUninit::zeroed();
        // SAFETY: the port exists; DPDK fills the structure, for which zeroes are valid too.
        let (ret, s): (i32, dpdk_sys::rte_eth_stats) = unsafe {
            let ret = dpdk_sys::rte_eth_stats_get(self.shared.id, stats.as_mut_ptr());
            (ret, stats.assume_init())
        };
        self.shared.check(ret, "reading its counters")?;
        Ok(Stats {
            rx_packets: s.ipackets,
            tx_packets: s.opackets,
            rx_bytes: s.ibytes,
            tx_bytes: s.obytes,
            rx_missed: s.imissed,
            rx_errors: s.ierrors,
            tx_errors: s.oerrors,
            rx_no_buffer: s.rx_nombuf,
        })
    }
}

impl Shared {
    pub(super) fn check(&self, ret: i32, operation: &'static str) -> Result<(), DevError> {
        match Errno::check(ret) {
            Ok(_) => Ok(()),
            Err(errno) => Err(DevError::Operation { device: self.name.clone(), operation, errno }),
        }
    }

    fn configure(&self, config: &PortConfig, granted: &Granted, rss: u64) -> Result<(), DevError> {
        let conf = eth_conf(config, granted, rss);
        let (rx, tx) = (config.rx_pools.len() as u16, config.tx_queues);
        // SAFETY: the port is stopped and ours; the structure is copied.
        let ret = unsafe { dpdk_sys::rte_eth_dev_configure(self.id, rx, tx, &conf) };
        self.check(ret, "configuring")
    }

    fn set_up_queues(
        &self,
        info: &rte_eth_dev_info,
        config: &PortConfig,
        granted: &mut Granted,
    ) -> Result<(), DevError> {
        let (rx_desc, tx_desc) = (&mut granted.rx_descriptors, &mut granted.tx_descriptors);
        // SAFETY: the port is configured; the numbers are ours.
        let ret = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, rx_desc, tx_desc) };
        self.check(ret, "adjusting the descriptors")?;
        // SAFETY: the port exists. -1, any socket, keeps its meaning in an unsigned number.
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(self.id) } as u32;
        let (mut rx_conf, mut tx_conf) = (info.default_rxconf, info.default_txconf);
        rx_conf.offloads = granted.rx_offloads.bits();
        tx_conf.offloads = granted.tx_offloads.bits();
        for (queue, pool) in (0..).zip(&config.rx_pools) {
            // SAFETY: the port is configured with this queue; the pool lives as long as the port (self.pools).
            let ret =
                unsafe { dpdk_sys::rte_eth_rx_queue_setup(self.id, queue, *rx_desc, socket, &rx_conf, pool.as_ptr()) };
            self.check(ret, "setting up a receive queue")?;
        }
        for queue in 0..config.tx_queues {
            // SAFETY: the port is configured with this queue.
            let ret = unsafe { dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, *tx_desc, socket, &tx_conf) };
            self.check(ret, "setting up a transmit queue")?;
        }
        Ok(())
    }

    fn taken(&self, direction: Direction, queue: u16) -> Option<&AtomicBool> {
        let taken = match direction {
            Direction::Rx => &self.rx_taken,
            Direction::Tx => &self.tx_taken,
        };
        taken.get(usize::from(queue))
    }

    /// Whether the queue is the caller's from now on.
    fn take(&self, direction: Direction, queue: u16) -> bool {
        self.started && self.taken(direction, queue).is_some_and(|taken| !taken.swap(true, Ordering::Acquire))
    }

    pub(super) fn give_back(&self, direction: Direction, queue: u16) {
        if let Some(taken) = self.taken(direction, queue) {
            taken.store(false, Ordering::Release);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.started {
            // SAFETY: the port is ours, and no thread has one of its queues.
            unsafe { dpdk_sys::rte_eth_dev_stop(self.id) };
        }
        probe::detach(self.id);
    }
}

fn flags(n: usize) -> Box<[AtomicBool]> {
    (0..n).map(|_| AtomicBool::new(false)).collect()
}

/// The flows that are spread: by addresses, and ports where there are any.
fn hashes() -> u64 {
    dpdk_sys::SHIM_ETH_RSS_IP | dpdk_sys::SHIM_ETH_RSS_TCP | dpdk_sys::SHIM_ETH_RSS_UDP | dpdk_sys::SHIM_ETH_RSS_SCTP
}

fn eth_conf(config: &PortConfig, granted: &Granted, rss: u64) -> rte_eth_conf {
    // SAFETY: plain data, for which zeroes mean the defaults.
    let mut conf: rte_eth_conf = unsafe { std::mem::zeroed() };
    conf.rxmode.offloads = granted.rx_offloads.bits();
    conf.txmode.offloads = granted.tx_offloads.bits();
    if let Some(mtu) = config.mtu {
        conf.rxmode.mtu = u32::from(mtu);
    }
    if rss != 0 {
        conf.rxmode.mq_mode = rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = rss;
    }
    conf.intr_conf.set_rxq(config.rx_interrupts.into());
    conf
}
