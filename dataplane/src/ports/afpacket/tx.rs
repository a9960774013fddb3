//! From buffers to frames on a packet socket.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use podplane_packet::buf::{Csum, Gso, PacketBuf};
use podplane_packet::checksum::{Accumulator, complete};
use podplane_packet::gso::Segmenter;
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::KernelPort;
use super::mmsg::{SendArrays, TX_PIECES_PER_FRAME};
use super::vnet::VnetHdr;
use crate::ports::{BURST, Buffers, LinkState, Pkt, TxOutcome, TxQueue};

/// Datagrams in one UDP GSO frame at most: what kernels before 6.9 take (UDP_MAX_SEGMENTS).
const DATAGRAMS: usize = 64;
/// Bytes of datagrams in one UDP GSO frame at most: an IPv4 packet with its own and a UDP header in front.
const DATAGRAM_BYTES: usize = 65_535 - 20 - 8;

/// Bytes of outer headers up to VXLAN's at most: the metadata count them in a byte.
const MAX_OUTER: usize = 255;

/// How long a device may refuse everything (ENOBUFS: a full ring, or no carrier) before what waits for it is dropped.
const REFUSING: Duration = Duration::from_millis(20);
/// The same for a full socket buffer (EAGAIN): the frames are on their way, somebody holds them.
const FULL: Duration = Duration::from_millis(500);

/// Scratch for one sendmmsg: the arrays, and which packet of the queue each frame belongs to.
#[derive(Debug)]
pub(crate) struct SendBatch {
    arrays: Box<SendArrays>,
    notes: [Note; BURST],
}

/// Whose frame this is.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    /// The packet's place in the queue when the batch was made.
    packet: usize,
    /// Segments of the packet that are sent once this frame is; 0: all of it.
    resume: usize,
}

/// Whether a packet went into the batch.
enum Added {
    All,
    /// The batch is full; some frames of the packet may be in it.
    Full,
    /// The packet's metadata contradict its headers.
    Bad,
}

impl SendBatch {
    pub(crate) fn new() -> SendBatch {
        SendBatch { arrays: SendArrays::new(), notes: [Note::default(); BURST] }
    }

    /// Makes frames of as many packets as fit. `true`: the queue's first packet cannot be sent.
    fn prepare(&mut self, queue: &mut TxQueue, resume: usize) -> bool {
        self.arrays.clear();
        let mut packet = 0;
        while let Some(pkt) = queue.get_mut(packet) {
            match self.add(pkt, packet, if packet == 0 { resume } else { 0 }) {
                Added::All => packet += 1,
                Added::Full => break,
                Added::Bad => {
                    if packet == 0 {
                        // The packet will be dropped: none of its frames may be sent from memory that is free by then.
                        self.arrays.clear();
                    }
                    return packet == 0;
                }
            }
        }
        false
    }

    fn add(&mut self, pkt: &mut Pkt, packet: usize, resume: usize) -> Added {
        let meta = *pkt.meta();
        if meta.tunnel > 0 {
            if meta.gso != Gso::None {
                return self.add_tunnelled(pkt, packet, resume).unwrap_or(Added::Bad);
            }
            if complete(pkt).is_err() {
                return Added::Bad;
            }
        }
        let csum = pkt.meta().csum;
        let shift = if meta.vlan.is_some() { 4 } else { 0 };
        let Some(header) = VnetHdr::encode(csum, meta.gso, pkt.head(), shift) else { return Added::Bad };
        let pieces = 4 + pkt.segment_count();
        if pieces >= TX_PIECES_PER_FRAME || pkt.head().len() < 14 {
            return Added::Bad;
        }
        if !self.arrays.fits(pieces, 4) {
            return Added::Full;
        }
        self.arrays.begin(header);
        if let Some(tci) = meta.vlan {
            self.arrays.push(&pkt.head()[..12]);
            let tag = self.arrays.push_arena(4);
            self.arrays.arena(tag).copy_from_slice(&tag_bytes(tci));
            self.arrays.push(&pkt.head()[12..]);
        } else {
            self.arrays.push(pkt.head());
        }
        for s in pkt.segments().skip(1) {
            self.arrays.push(s);
        }
        self.end(Note { packet, resume: 0 });
        Added::All
    }

    fn end(&mut self, note: Note) {
        self.notes[self.arrays.frames()] = note;
        self.arrays.end();
    }

    /// VXLAN datagrams of one inner GSO frame, ready made and gathered behind one set of outer headers: to the kernel
    /// one UDP GSO frame. `None`: metadata and headers contradict each other.
    fn add_tunnelled(&mut self, pkt: &Pkt, packet: usize, resume: usize) -> Option<Added> {
        let cutter = Segmenter::new(pkt).ok().filter(|s| s.tunnel() > 0)?;
        let outer = cutter.header_len() - cutter.datagram_headers();
        let datagram = cutter.datagram_headers() + cutter.size();
        let most = (DATAGRAM_BYTES / datagram).clamp(1, DATAGRAMS);
        let (mut done, count) = (resume, cutter.segments());
        while done < count {
            let n = most.min(count - done);
            let pieces = 2 + 2 * n + pkt.segment_count();
            if pieces >= TX_PIECES_PER_FRAME {
                return None;
            }
            if !self.arrays.fits(pieces, outer + 4 + n * cutter.datagram_headers()) {
                return Some(Added::Full);
            }
            self.add_datagrams(pkt, &cutter, done, n)?;
            done += n;
            self.end(Note { packet, resume: if done == count { 0 } else { done } });
        }
        Some(Added::All)
    }

    /// One frame of the datagrams `first .. first + n`.
    fn add_datagrams(&mut self, pkt: &Pkt, cutter: &Segmenter, first: usize, n: usize) -> Option<()> {
        let head = pkt.head();
        let tag = pkt.meta().vlan;
        let shift = if tag.is_some() { 4 } else { 0 };
        let headers = cutter.datagram_headers();
        let outer = cutter.header_len() - headers;
        let bytes: usize = (first..first + n).map(|i| headers + cutter.payload(i).1).sum();
        let mut written = [0; MAX_OUTER];
        let written = written.get_mut(..outer)?;
        let udp = cutter.write_udp_gso(head, bytes, written)?;
        let vnet = match n {
            1 => VnetHdr::encode(Csum::Partial { start: udp as u16, offset: 6 }, Gso::None, written, shift as u16)?,
            _ => VnetHdr::udp_gso((udp + shift) as u16, (headers + cutter.size()) as u16),
        };
        self.arrays.begin(vnet);
        let range = self.arrays.push_arena(outer + shift);
        let out = self.arrays.arena(range);
        out[shift..].copy_from_slice(written);
        if let Some(tci) = tag {
            out.copy_within(4..16, 0);
            out[12..16].copy_from_slice(&tag_bytes(tci));
        }
        for i in first..first + n {
            let range = self.arrays.push_arena(headers);
            let (at, len) = cutter.payload(i);
            let mut sum = Accumulator::default();
            let whole = pkt.for_each_slice(at, len, &mut |s| {
                sum.add(s);
                self.arrays.push(s);
            });
            cutter.write_datagram(head, i, sum.finish(), self.arrays.arena(range)).filter(|()| whole)?;
        }
        Some(())
    }
}

/// A tag as it stands in a frame.
fn tag_bytes(tci: u16) -> [u8; 4] {
    let [high, low] = tci.to_be_bytes();
    [0x81, 0x00, high, low]
}

/// What the kernel's answer means for the queue.
enum Refusal {
    Again,
    Busy(Duration, DropReason),
    Lost,
    Frame,
}

impl From<std::io::Error> for Refusal {
    fn from(e: std::io::Error) -> Refusal {
        match e.raw_os_error().unwrap_or(0) {
            libc::EINTR => Refusal::Again,
            libc::EAGAIN => Refusal::Busy(FULL, DropReason::TxQueueFull),
            libc::ENOBUFS | libc::ENOMEM => Refusal::Busy(REFUSING, DropReason::TxDevice),
            libc::ENETDOWN | libc::ENXIO | libc::ENODEV => Refusal::Lost,
            _ => Refusal::Frame,
        }
    }
}

impl KernelPort {
    pub(crate) fn tx(&mut self, bufs: &mut Buffers, queue: &mut TxQueue, counters: &WorkerCounters) -> TxOutcome {
        let mut out = TxOutcome::default();
        if self.shared.last_state() == LinkState::Gone {
            self.drop_queue(queue, counters, DropReason::PortDown);
        }
        while !queue.is_empty() && !out.blocked {
            if bufs.send.prepare(queue, self.resume) {
                self.drop_front(queue, counters, DropReason::BadOffload);
            }
            self.send(&mut bufs.send, queue, counters, &mut out);
        }
        out
    }

    /// Sends the batch that was made of the front of `queue`.
    fn send(&mut self, batch: &mut SendBatch, queue: &mut TxQueue, counters: &WorkerCounters, out: &mut TxOutcome) {
        let mut from = 0;
        while from < batch.arrays.frames() {
            // SAFETY: the frames from `from` on refer to the arena and to packets that are still in the queue: only
            // packets whose last frame lies before `from` are taken out of it, and nothing else changes them here.
            match unsafe { batch.arrays.send(self.shared.socket(self.socket).as_fd(), from) } {
                Ok(n) => {
                    for note in &batch.notes[from..from + n] {
                        self.sent(*note, queue, out);
                    }
                    from += n.max(1);
                }
                Err(e) => match Refusal::from(e) {
                    Refusal::Again => {}
                    Refusal::Busy(patience, reason) => return self.busy(patience, reason, queue, counters, out),
                    Refusal::Lost => {
                        self.shared.note_lost(self.socket);
                        return self.drop_queue(queue, counters, DropReason::PortDown);
                    }
                    Refusal::Frame => {
                        let packet = batch.notes[from].packet;
                        self.drop_front(queue, counters, DropReason::TxDevice);
                        let of_others = |n: &Note| n.packet != packet;
                        let rest = &batch.notes[from..batch.arrays.frames()];
                        from += rest.iter().position(of_others).unwrap_or(rest.len());
                    }
                },
            }
        }
    }

    fn sent(&mut self, note: Note, queue: &mut TxQueue, out: &mut TxOutcome) {
        self.stalled = None;
        self.shared.note(LinkState::Up);
        self.resume = note.resume;
        if note.resume == 0
            && let Some(pkt) = queue.pop()
        {
            out.packets += 1;
            out.bytes += pkt.len() as u64;
        }
    }

    /// The device takes nothing now. For how long already?
    fn busy(
        &mut self,
        patience: Duration,
        reason: DropReason,
        queue: &mut TxQueue,
        counters: &WorkerCounters,
        out: &mut TxOutcome,
    ) {
        let now = Instant::now();
        if now - *self.stalled.get_or_insert(now) >= patience {
            self.drop_queue(queue, counters, reason);
        } else {
            out.blocked = true;
        }
    }

    fn drop_front(&mut self, queue: &mut TxQueue, counters: &WorkerCounters, reason: DropReason) {
        self.resume = 0;
        if let Some(pkt) = queue.pop() {
            counters.count_drop(pkt.meta().port, reason);
        }
    }

    fn drop_queue(&mut self, queue: &mut TxQueue, counters: &WorkerCounters, reason: DropReason) {
        self.resume = 0;
        while let Some(pkt) = queue.pop() {
            counters.count_drop(pkt.meta().port, reason);
        }
    }
}
