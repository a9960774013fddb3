//! The bursts: DPDK's inline functions, in Rust.

use std::ffi::c_void;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use arrayvec::ArrayVec;
use dpdk_sys::{rte_eth_fp_ops, rte_mbuf};

use super::error::DevError;
use super::port::{Direction, Shared};
use crate::errno::Errno;
use crate::mbuf::MbufRepr;

/// A receive queue. One thread works with it at a time; it keeps its port from stopping.
#[derive(Debug)]
pub struct RxQueue {
    shared: Arc<Shared>,
    queue: u16,
    fd: Option<RawFd>,
    /// The descriptor is an eventfd, which stays readable until it is read.
    eventfd: bool,
}

/// A transmit queue. One thread works with it at a time; it keeps its port from stopping.
#[derive(Debug)]
pub struct TxQueue {
    shared: Arc<Shared>,
    queue: u16,
}

/// The driver's functions for a port. Read anew for each burst, since DPDK may exchange them.
#[inline(always)]
fn ops(port: u16) -> *const rte_eth_fp_ops {
    // SAFETY: the array has an entry for each port number that DPDK gives out; no reference to it is made.
    unsafe { (&raw const rte_eth_fp_ops).cast::<rte_eth_fp_ops>().add(usize::from(port)) }
}

/// The callback list of a queue (packet capture), which another thread may set at any time.
///
/// # Safety
/// `table` is the callback table of one direction of a port, and has an entry for `queue`.
#[inline(always)]
unsafe fn callback(table: *mut *mut c_void, queue: u16) -> *mut c_void {
    // SAFETY: the caller's; the entry is aligned like any pointer. It is only followed, so relaxed suffices.
    unsafe { AtomicPtr::from_ptr(table.add(usize::from(queue))) }.load(Ordering::Relaxed)
}

impl RxQueue {
    pub(super) fn new(shared: Arc<Shared>, queue: u16) -> Self {
        let fd = match shared.rx_interrupts {
            // SAFETY: the port and queue exist.
            true => unsafe { dpdk_sys::rte_eth_dev_rx_intr_ctl_q_get_fd(shared.id, queue) },
            false => -1,
        };
        let eventfd = fd >= 0
            && std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|to| to.ends_with("anon_inode:[eventfd]"));
        Self { shared, queue, fd: (fd >= 0).then_some(fd), eventfd }
    }

    /// Receives packets into the room that `out` has and returns how many.
    #[inline]
    pub fn rx_burst<P: MbufRepr, const N: usize>(&mut self, out: &mut ArrayVec<P, N>) -> usize {
        let len = out.len();
        let room = (N - len).min(usize::from(u16::MAX)) as u16;
        // SAFETY: there is room for that many pointers behind len, and a P is such a pointer (MbufRepr); the driver
        // says how many packets it wrote, which belong to us from then on.
        unsafe {
            let n = self.burst(out.as_mut_ptr().add(len).cast(), room);
            out.set_len(len + usize::from(n));
            usize::from(n)
        }
    }

    /// `rte_eth_rx_burst`.
    ///
    /// # Safety
    /// `packets` has room for that many pointers.
    #[inline(always)]
    unsafe fn burst(&mut self, packets: *mut *mut rte_mbuf, room: u16) -> u16 {
        let (port, queue) = (self.shared.id, self.queue);
        // SAFETY: a started port has functions, and data for each of its queues; the port cannot stop while this queue
        // exists, and &mut self keeps the queue to one thread.
        unsafe {
            let ops = ops(port);
            let rx = (*ops).rx_pkt_burst.unwrap_unchecked();
            let n = rx(*(*ops).rxq.data.add(usize::from(queue)), packets, room);
            let callback = callback((*ops).rxq.clbk.cast(), queue);
            if callback.is_null() {
                return n;
            }
            dpdk_sys::rte_eth_call_rx_callbacks(port, queue, packets, n, room, callback)
        }
    }

    /// The queue's number.
    pub fn number(&self) -> u16 {
        self.queue
    }

    /// What becomes readable when packets arrive, once [armed](Self::enable_interrupt). `None`: the driver has none,
    /// or the port was configured without; poll it by a timer.
    pub fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the driver keeps the descriptor open until the port stops, which this queue prevents.
        self.fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Whether [the descriptor](Self::interrupt_fd) is readable for as long as packets wait, without being armed.
    pub fn tells_by_itself(&self) -> bool {
        self.fd.is_some() && !self.eventfd
    }

    /// Arms the interrupt. Receive once more afterwards: packets that came before do not trigger it.
    pub fn enable_interrupt(&mut self) -> Result<(), DevError> {
        // SAFETY: the port and queue exist.
        let ret = unsafe { dpdk_sys::rte_eth_dev_rx_intr_enable(self.shared.id, self.queue) };
        self.shared.check(self.always_armed(ret), "arming the receive interrupt")
    }

    /// Disarms the interrupt, and clears it.
    pub fn disable_interrupt(&mut self) -> Result<(), DevError> {
        // SAFETY: the port and queue exist.
        let ret = unsafe { dpdk_sys::rte_eth_dev_rx_intr_disable(self.shared.id, self.queue) };
        if let (Some(fd), true) = (self.fd, self.eventfd) {
            let mut ready = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut count = 0u64;
            // SAFETY: pollfd and the counter are ours. The descriptor may block: it is read only when readable.
            unsafe {
                if libc::poll(&mut ready, 1, 0) == 1 {
                    libc::read(fd, (&raw mut count).cast(), size_of::<u64>());
                }
            }
        }
        self.shared.check(self.always_armed(ret), "disarming the receive interrupt")
    }

    /// Drivers such as net_tap give a descriptor that tells of packets by itself, and nothing to arm it with.
    fn always_armed(&self, ret: i32) -> i32 {
        if ret == -libc::ENOTSUP && self.fd.is_some() { 0 } else { ret }
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        self.shared.give_back(Direction::Rx, self.queue);
    }
}

impl TxQueue {
    pub(super) fn new(shared: Arc<Shared>, queue: u16) -> Self {
        Self { shared, queue }
    }

    /// Sends from the front of `packets`, in order; those that the device takes leave it. Returns how many: fewer than
    /// there are means that the device is full (or does not like the next packet).
    #[inline]
    pub fn tx_burst<P: MbufRepr, const N: usize>(&mut self, packets: &mut ArrayVec<P, N>) -> usize {
        const { assert!(N <= u16::MAX as usize, "a burst has at most 65535 packets") };
        let count = packets.len() as u16;
        // SAFETY: the packets are ours, and a P is a pointer to an mbuf (MbufRepr). With the length at 0 they are given
        // up; those that the driver did not take, the last ones, are moved to the front and taken back.
        unsafe {
            packets.set_len(0);
            let first = packets.as_mut_ptr();
            let (sent, left) = self.burst(first.cast(), count);
            if left != 0 {
                std::ptr::copy(first.add(usize::from(sent)), first, usize::from(left));
                packets.set_len(usize::from(left));
            }
            usize::from(sent)
        }
    }

    /// `rte_eth_tx_burst`: how many were sent, and how many remain behind them. (A callback that drops packets
    /// compacts the array; its drops are neither.)
    ///
    /// # Safety
    /// `packets` are that many mbufs of the caller's, who gives up those that are sent or no longer there.
    #[inline(always)]
    unsafe fn burst(&mut self, packets: *mut *mut rte_mbuf, mut count: u16) -> (u16, u16) {
        let (port, queue) = (self.shared.id, self.queue);
        // SAFETY: as for the receive burst.
        unsafe {
            let ops = ops(port);
            let callback = callback((*ops).txq.clbk.cast(), queue);
            if !callback.is_null() {
                count = dpdk_sys::rte_eth_call_tx_callbacks(port, queue, packets, count, callback);
            }
            let tx = (*ops).tx_pkt_burst.unwrap_unchecked();
            let sent = tx(*(*ops).txq.data.add(usize::from(queue)), packets, count);
            (sent, count - sent)
        }
    }

    /// Lets the driver prepare packets with offloads (pseudo-header sums, limits). Returns how many from the front are
    /// fit to be sent; the next one is not, for the reason given.
    #[inline]
    pub fn tx_prepare<P: MbufRepr, const N: usize>(&mut self, packets: &mut ArrayVec<P, N>) -> (usize, Option<Errno>) {
        const { assert!(N <= u16::MAX as usize, "a burst has at most 65535 packets") };
        let count = packets.len() as u16;
        // SAFETY: as in tx_burst; the driver changes the packets' bytes but keeps none.
        let fit = unsafe {
            let ops = ops(self.shared.id);
            let Some(prepare) = (*ops).tx_pkt_prepare else { return (usize::from(count), None) };
            prepare(*(*ops).txq.data.add(usize::from(self.queue)), packets.as_mut_ptr().cast(), count)
        };
        (usize::from(fit), (fit < count).then(Errno::last))
    }

    /// The queue's number.
    pub fn number(&self) -> u16 {
        self.queue
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.shared.give_back(Direction::Tx, self.queue);
    }
}
