//! A port over a DPDK device. What the device cannot do (segmentation, checksums, chains) is done here in software.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dpdk_glue::ethdev::{DevError, Granted, Port, PortConfig, RxOffloads, RxQueue, TxOffloads, TxQueue as DeviceQueue};
use dpdk_glue::flags;
use podplane_packet::buf::{Csum, Meta, PacketBuf};
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::parse;
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::buffers::SMALL;
use super::coalesce::Coalescer;
use super::soft::{Cut, Soften};
use super::{
    BURST, Buffers, Burst, LinkState, OpenError, Pkt, Pools, PortFacts, Role, RxOutcome, TxFrom, TxOutcome, TxQueue,
};

/// Bytes that one visit to an uplink receives, roughly: two merged frames of 64 KiB, which stay in the cache.
const VISIT_BYTES: usize = 128 << 10;

/// How long a device may take nothing before what waits for it is dropped.
const PATIENCE: Duration = Duration::from_millis(100);

/// The device itself: control's.
#[derive(Debug)]
pub(crate) struct Shared {
    port: Mutex<Port>,
}

impl Shared {
    pub(crate) fn state(&self) -> LinkState {
        match self.port.lock().unwrap_or_else(PoisonError::into_inner).link() {
            Ok(link) if link.up => LinkState::Up,
            _ => LinkState::Down,
        }
    }

    pub(crate) fn receive_overruns(&self) -> u64 {
        self.port
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stats()
            .map_or(0, |s| s.rx_missed.saturating_add(s.rx_no_buffer))
    }
}

/// One worker's end of a DPDK device.
#[derive(Debug)]
pub struct EthdevPort {
    rx: Option<RxQueue>,
    tx: Option<DeviceQueue>,
    port: PortId,
    /// Whether the device sends chains.
    chains: bool,
    /// Whether TCP segments are merged.
    uplink: bool,
    coalescer: Coalescer,
    /// What was received and found no room in the burst.
    waiting: VecDeque<Pkt>,
    /// What is ready for the device, in order.
    staged: Box<ArrayVec<Pkt, BURST>>,
    /// The queue's front while it is being cut.
    cut: Option<Cut>,
    /// Since when the device has taken nothing.
    stalled: Option<Instant>,
    /// The device is closed with its last queue.
    _shared: Arc<Shared>,
}

impl EthdevPort {
    /// Opens a device for `workers` workers; an end for each.
    pub(crate) fn open(
        port: PortId,
        devargs: &str,
        role: Role,
        workers: u8,
        pools: &Pools,
        mtu: Option<u16>,
    ) -> Result<(PortFacts, Arc<Shared>, Vec<EthdevPort>), OpenError> {
        let device = |e: DevError| OpenError::Device { name: devargs.to_owned(), cause: e };
        let mut dev = Port::attach(&pools.eal, devargs).map_err(device)?;
        let info = dev.info().map_err(device)?;
        let (queues, home) = queues(role, workers, info.max_rx_queues.min(info.max_tx_queues));
        let expected = mtu.map_or_else(|| dev.mtu(), Ok).map_err(device)?;
        let pool = if usize::from(expected) + 22 > SMALL { &pools.large } else { &pools.small };
        let config = PortConfig {
            rx_pools: vec![pool.clone(); usize::from(queues)],
            tx_queues: queues,
            rx_offloads: RxOffloads::IPV4_CKSUM
                | RxOffloads::TCP_CKSUM
                | RxOffloads::UDP_CKSUM
                | RxOffloads::VLAN_STRIP,
            tx_offloads: TxOffloads::MULTI_SEGS,
            mtu,
            rx_interrupts: true,
            ..PortConfig::default()
        };
        let granted = start(&mut dev, &config).map_err(device)?;
        if role == Role::Uplink {
            // Drivers that cannot are promiscuous already, or see only what is theirs.
            let _ = dev.set_promiscuous(true);
        }
        let facts = PortFacts {
            name: dev.name().to_owned(),
            mac: Mac(dev.mac().map_err(device)?),
            mtu: granted.mtu,
            ifindex: info.ifindex,
            tx: home.map_or(TxFrom::Any, TxFrom::Home),
        };
        let taken: Vec<_> = (0..queues).map(|q| (dev.rx_queue(q), dev.tx_queue(q))).collect();
        let shared = Arc::new(Shared { port: Mutex::new(dev) });
        let mut taken = taken.into_iter();
        let chains = granted.tx_offloads.contains(TxOffloads::MULTI_SEGS);
        let ends = (0..workers)
            .map(|w| {
                let mine = home.is_none_or(|h| h == WorkerId(w));
                let (rx, tx) = if mine { taken.next().unwrap_or_default() } else { (None, None) };
                Self {
                    rx,
                    tx,
                    port,
                    chains,
                    uplink: role == Role::Uplink,
                    coalescer: Coalescer::default(),
                    waiting: VecDeque::with_capacity(BURST),
                    staged: Box::default(),
                    cut: None,
                    stalled: None,
                    _shared: Arc::clone(&shared),
                }
            })
            .collect();
        Ok((facts, shared, ends))
    }

    /// What tells of packets by itself, as a tap's own descriptor does. An interrupt that must be armed is not waited
    /// for: such a queue is visited by time.
    pub(crate) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.rx.as_ref().filter(|rx| rx.tells_by_itself())?.interrupt_fd()
    }

    pub(crate) fn polls_rx(&self) -> bool {
        self.rx.is_some()
    }

    pub(crate) fn sends(&self) -> bool {
        self.tx.is_some()
    }

    pub(crate) fn rx(&mut self, _: &mut Buffers, burst: &mut Burst, _: &WorkerCounters) -> RxOutcome {
        let Some(rx) = &mut self.rx else { return RxOutcome::default() };
        if self.uplink {
            return self.rx_merging(burst);
        }
        let before = burst.len();
        rx.rx_burst(burst);
        for pkt in &mut burst[before..] {
            describe(pkt, self.port);
        }
        RxOutcome { more: burst.is_full(), state: LinkState::Up }
    }

    /// Receives, merging TCP segments, as long as the device has full bursts and the burst room.
    fn rx_merging(&mut self, burst: &mut Burst) -> RxOutcome {
        let Self { rx: Some(rx), coalescer, waiting, port, .. } = self else { return RxOutcome::default() };
        let (mut bytes, mut more) = (0, true);
        while !burst.is_full() {
            if let Some(mut pkt) = waiting.pop_front() {
                describe(&mut pkt, *port);
                bytes += pkt.len();
                coalescer.add(pkt, burst);
                continue;
            }
            if !more || bytes > VISIT_BYTES {
                break;
            }
            let mut got = Burst::new();
            more = rx.rx_burst(&mut got) == BURST;
            waiting.extend(got);
        }
        coalescer.finish(burst);
        RxOutcome { more: more || !waiting.is_empty(), state: LinkState::Up }
    }

    pub(crate) fn tx(&mut self, bufs: &mut Buffers, queue: &mut TxQueue, counters: &WorkerCounters) -> TxOutcome {
        let mut out = TxOutcome::default();
        if self.tx.is_none() {
            while let Some(pkt) = queue.pop() {
                counters.count_drop(pkt.meta().port, DropReason::PortDown);
            }
            return out;
        }
        loop {
            self.stage(&bufs.pools, queue, counters);
            let Some(tx) = &mut self.tx else { break };
            if self.staged.is_empty() {
                break;
            }
            let lengths: u64 = self.staged.iter().map(|p| p.len() as u64).sum();
            let sent = tx.tx_burst(&mut *self.staged);
            let left: u64 = self.staged.iter().map(|p| p.len() as u64).sum();
            out.packets += sent as u32;
            out.bytes += lengths - left;
            if sent == 0 {
                self.full(counters, &mut out);
                break;
            }
            self.stalled = None;
        }
        out
    }

    /// The device takes nothing now. For how long already?
    fn full(&mut self, counters: &WorkerCounters, out: &mut TxOutcome) {
        let now = Instant::now();
        if now - *self.stalled.get_or_insert(now) < PATIENCE {
            out.blocked = true;
            return;
        }
        for pkt in self.staged.drain(..) {
            counters.count_drop(pkt.meta().port, DropReason::TxDevice);
        }
    }

    /// Makes packets from the queue ready for the device, as many as fit.
    fn stage(&mut self, pools: &Pools, queue: &mut TxQueue, counters: &WorkerCounters) {
        while !self.staged.is_full() {
            if let Some(cut) = &mut self.cut {
                match cut.next(pools) {
                    Some(Ok(pkt)) => self.staged.push(pkt),
                    Some(Err(reason)) => {
                        counters.count_drop(cut.port(), reason);
                        self.cut = None;
                    }
                    None => self.cut = None,
                }
                continue;
            }
            let Some(pkt) = queue.pop() else { break };
            let from = pkt.meta().port;
            match Soften::new(pkt, self.chains, pools) {
                Ok(Soften::Ready(pkt)) => self.staged.push(pkt),
                Ok(Soften::Cut(cut)) => self.cut = Some(cut),
                Err(reason) => counters.count_drop(from, reason),
            }
        }
    }
}

/// Starts the device, without receive interrupts if it does not start with them.
fn start(dev: &mut Port, config: &PortConfig) -> Result<Granted, DevError> {
    let with = |dev: &mut Port, config: &PortConfig| {
        let granted = dev.configure(config)?;
        dev.start().map(|()| granted)
    };
    with(dev, config).or_else(|_| with(dev, &PortConfig { rx_interrupts: false, ..config.clone() }))
}

/// How many queues to use, and who has the only one if they do not suffice for every worker.
fn queues(role: Role, workers: u8, device: u16) -> (u16, Option<WorkerId>) {
    match role {
        Role::Uplink if device >= u16::from(workers) => (u16::from(workers), None),
        Role::Uplink => (1, Some(WorkerId(0))),
        Role::Single { home } => (1, Some(home)),
    }
}

/// Writes the metadata of a packet that the device received.
fn describe(pkt: &mut Pkt, port: PortId) {
    let m = pkt.mbuf();
    let found = m.flags();
    let vlan = (found & flags::RX_VLAN_STRIPPED != 0).then(|| m.vlan_tci());
    let csum = match found & flags::RX_L4_CKSUM_MASK {
        flags::RX_L4_CKSUM_GOOD => Csum::Good,
        flags::RX_L4_CKSUM_NONE => partial(pkt),
        _ => Csum::Unknown,
    };
    pkt.mbuf_mut().set_flags(0);
    *pkt.meta_mut() = Meta { port, csum, vlan, ..Meta::default() };
}

/// The device says that the checksum is only partial; believed where our own parse finds one.
fn partial(pkt: &Pkt) -> Csum {
    let Ok(p) = parse(pkt.head(), pkt.len()) else { return Csum::Unknown };
    p.csum_offset().map_or(Csum::Unknown, |offset| Csum::Partial { start: p.l4_off, offset })
}
