//! From frames on a packet socket to buffers.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use podplane_packet::buf::{Csum, PacketBuf};
use podplane_packet::checksum::complete;
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::mmsg::{NO_IOV, RX_PIECES, Received, RecvArrays, Tag};
use super::vnet::Fix;
use super::{KernelPort, VISIT_BYTES};
use crate::ports::buffers::{LARGE_PER_FRAME, Pools, Spare};
use crate::ports::split::Split;
use crate::ports::{BURST, Buffers, Burst, LinkState, Pkt, RxOutcome};

/// Frames asked for at once at least, however big they are.
const ASK_LEAST: usize = 4;
/// Errors of single frames that one visit looks past.
const ERRORS_A_VISIT: usize = 8;

/// Scratch for one recvmmsg: the arrays, and buffers to receive into. A slot's buffers that a frame did not need stay,
/// so a small packet costs one small buffer.
#[derive(Debug)]
pub(crate) struct RecvBatch {
    arrays: Box<RecvArrays>,
    slots: [Slot; BURST],
}

#[derive(Debug, Default)]
struct Slot {
    small: Spare,
    large: [Spare; LARGE_PER_FRAME],
}

impl RecvBatch {
    pub(crate) fn new() -> RecvBatch {
        RecvBatch { arrays: RecvArrays::new(), slots: Default::default() }
    }

    /// Sees that the first `count` slots have buffers, and returns how many have a small one at least.
    fn fill(&mut self, pools: &Pools, count: usize) -> usize {
        for i in 0..count {
            let slot = &mut self.slots[i];
            let iovs = &mut self.arrays.iovs[i];
            let Some(small) = spare(&mut slot.small, &pools.small) else { return i };
            iovs[1] = small;
            for (piece, large) in slot.large.iter_mut().enumerate() {
                iovs[2 + piece] = spare(large, &pools.large).unwrap_or(NO_IOV);
            }
        }
        count
    }

    fn recv(&mut self, fd: BorrowedFd<'_>, count: usize) -> std::io::Result<usize> {
        // SAFETY: `fill` made pieces 1.. of the first `count` rows describe the rooms of empty mbufs that the slots
        // own (or nothing), and they have not been touched since.
        unsafe { self.arrays.recv(fd, count) }
    }

    /// Takes up to `count` frames off the socket into no buffers, and returns how many.
    fn discard(&mut self, fd: BorrowedFd<'_>, count: usize) -> std::io::Result<usize> {
        for row in &mut self.arrays.iovs[..count.min(BURST)] {
            row[1..].fill(NO_IOV);
        }
        // SAFETY: pieces 1.. of the first `count` rows are empty.
        unsafe { self.arrays.recv(fd, count) }
    }

    /// The frame in slot `i` as a packet.
    fn take(&mut self, i: usize, got: &Received) -> Result<Pkt, DropReason> {
        let slot = &mut self.slots[i];
        let complete = slot.large.iter().all(Option::is_some);
        if got.truncated {
            return Err(if complete { DropReason::RxTruncated } else { DropReason::NoBuffers });
        }
        if got.len < 14 {
            return Err(DropReason::RxTruncated);
        }
        let mut head = slot.small.take().ok_or(DropReason::NoBuffers)?;
        let mut left = got.len - set_len(&mut head, got.len);
        for large in &mut slot.large {
            if left == 0 {
                break;
            }
            let mut part = large.take().ok_or(DropReason::NoBuffers)?;
            left -= set_len(&mut part, left);
            head.chain(part).map_err(|_| DropReason::RxTruncated)?;
        }
        Ok(Pkt::new(head))
    }
}

/// Sees that there is an empty buffer, and says where to write into it.
fn spare(slot: &mut Spare, pool: &dpdk_glue::Mempool) -> Option<libc::iovec> {
    if slot.is_none() {
        *slot = pool.alloc();
    }
    let (at, len) = slot.as_mut()?.room();
    Some(libc::iovec { iov_base: at.cast(), iov_len: len })
}

/// Says that the kernel wrote `len` bytes, or as many as fit; returns how many.
fn set_len(mbuf: &mut dpdk_glue::Mbuf, len: usize) -> usize {
    let n = len.min(mbuf.room().1);
    mbuf.set_len(n);
    n
}

impl KernelPort {
    pub(crate) fn rx(&mut self, bufs: &mut Buffers, burst: &mut Burst, counters: &WorkerCounters) -> RxOutcome {
        if !self.receives {
            return RxOutcome::default();
        }
        self.take_backlog(&bufs.pools, burst, counters);
        let mut more = burst.is_full();
        let mut errors = 0;
        while !burst.is_full() && errors < ERRORS_A_VISIT && self.shared.last_state() != LinkState::Gone {
            let wanted = self.ask.min(burst.remaining_capacity());
            let count = bufs.recv.fill(&bufs.pools, wanted);
            let fd = self.shared.socket(self.socket).as_fd();
            if count == 0 {
                // Lost either way, and here they can be counted.
                let lost = bufs.recv.discard(fd, wanted).unwrap_or(0);
                (0..lost).for_each(|_| counters.count_drop(self.port, DropReason::NoBuffers));
                more = lost == wanted;
                break;
            }
            match bufs.recv.recv(fd, count) {
                Ok(n) => {
                    self.received(bufs, n, burst, counters);
                    more = n == count || !self.backlog.is_empty() || self.split.is_some();
                    break;
                }
                Err(e) => match e.raw_os_error().unwrap_or(0) {
                    libc::EAGAIN => break,
                    libc::EINTR => errors += 1,
                    libc::ENETDOWN | libc::ENXIO | libc::ENODEV => {
                        self.shared.note_lost(self.socket);
                        break;
                    }
                    // One frame whose offloads the virtio header cannot express; the kernel dropped it.
                    _ => {
                        counters.count_drop(self.port, DropReason::RxTruncated);
                        errors += 1;
                        more = true;
                    }
                },
            }
        }
        RxOutcome { more, state: self.shared.last_state() }
    }

    /// Makes packets of `n` received frames. They may become more than the burst has room for: the rest waits.
    fn received(&mut self, bufs: &mut Buffers, n: usize, burst: &mut Burst, counters: &WorkerCounters) {
        let mut bytes = 0;
        for i in 0..n {
            let got = bufs.recv.arrays.received(i);
            bytes += got.len;
            match bufs.recv.take(i, &got).and_then(|pkt| self.describe(pkt, &got)) {
                Ok(pkt) => self.backlog.push_back(pkt),
                Err(reason) => counters.count_drop(self.port, reason),
            }
        }
        if n > 0 {
            self.shared.note(LinkState::Up);
            self.ask = (VISIT_BYTES * n / bytes.max(1)).clamp(ASK_LEAST, BURST);
        }
        self.take_backlog(&bufs.pools, burst, counters);
    }

    /// Writes the metadata, and makes the bytes agree with them.
    fn describe(&self, mut pkt: Pkt, got: &Received) -> Result<Pkt, DropReason> {
        let decoded = got.header.decode(pkt.head(), pkt.len()).map_err(|_| DropReason::BadOffload)?;
        match decoded.fix {
            Fix::None => {}
            Fix::Complete { start, offset } => {
                pkt.meta_mut().csum = Csum::Partial { start, offset };
                complete(&mut pkt).map_err(|_| DropReason::BadOffload)?;
            }
            Fix::Pseudo { start, offset, sum } => {
                let at = start + offset;
                pkt.head_mut()[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        let meta = pkt.meta_mut();
        (meta.port, meta.csum, meta.gso) = (self.port, decoded.csum, decoded.gso);
        match got.tag {
            None => {}
            Some(Tag { tpid: 0x8100, tci }) => meta.vlan = Some(tci),
            Some(tag) => put_back(&mut pkt, tag).ok_or(DropReason::NoHeadroom)?,
        }
        Ok(pkt)
    }

    /// Moves what waits into the burst, taking merged VXLAN apart and merging TCP segments on the way.
    fn take_backlog(&mut self, pools: &Pools, burst: &mut Burst, counters: &WorkerCounters) {
        while !burst.is_full() {
            if let Some(split) = &mut self.split {
                match split.next(pools, &mut self.coalescer, burst) {
                    Some(Ok(())) => {}
                    Some(Err(reason)) => counters.count_drop(self.port, reason),
                    None => self.split = None,
                }
                continue;
            }
            let Some(pkt) = self.backlog.pop_front() else { break };
            if !self.uplink {
                burst.push(pkt);
                continue;
            }
            match Split::new(pkt) {
                Ok(split) => self.split = Some(split),
                Err(pkt) => self.coalescer.add(pkt, burst),
            }
        }
        self.coalescer.finish(burst);
    }
}

/// Puts a service tag, for which the metadata have no place, back into the frame.
fn put_back(pkt: &mut Pkt, tag: Tag) -> Option<()> {
    let head = pkt.prepend(4)?;
    head.copy_within(4..16, 0);
    head[12..14].copy_from_slice(&tag.tpid.to_be_bytes());
    head[14..16].copy_from_slice(&tag.tci.to_be_bytes());
    pkt.meta_mut().shift(4);
    Some(())
}

const _: () = assert!(RX_PIECES == 2 + LARGE_PER_FRAME);
