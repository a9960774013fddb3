//! From buffers to frames on a packet socket.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use podplane_packet::buf::{Csum, Gso, PacketBuf};
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::KernelPort;
use super::frame::Layout;
use super::mmsg::{SendArrays, TX_PIECES_PER_FRAME};
use super::vnet::VnetHdr;
use crate::ports::cut::{Cutter, set_v4};
use crate::ports::inner::VXLAN;
use crate::ports::sum::Sum;
use crate::ports::{BURST, Buffers, LinkState, Pkt, TxOutcome, TxQueue};

/// Datagrams in one UDP GSO frame at most: what kernels before 6.9 take (UDP_MAX_SEGMENTS).
const DATAGRAMS: usize = 64;
/// Bytes of datagrams in one UDP GSO frame at most: an IPv4 packet with its own and a UDP header in front.
const DATAGRAM_BYTES: usize = 65_535 - 20 - 8;

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
            if !pkt.complete_checksum() {
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
        let outer = usize::from(pkt.meta().tunnel).checked_sub(VXLAN)?;
        let inner = pkt.head().get(outer + VXLAN..)?;
        let cutter = Cutter::new(inner, pkt.len() - outer - VXLAN, pkt.meta().gso)?;
        let datagram = VXLAN + cutter.headers() + cutter.size();
        let most = (DATAGRAM_BYTES / datagram).clamp(1, DATAGRAMS);
        let (mut done, count) = (resume, cutter.count());
        while done < count {
            let n = most.min(count - done);
            let pieces = 2 + 2 * n + pkt.segment_count();
            if pieces >= TX_PIECES_PER_FRAME {
                return None;
            }
            if !self.arrays.fits(pieces, outer + 4 + n * (VXLAN + cutter.headers())) {
                return Some(Added::Full);
            }
            self.add_datagrams(pkt, outer, &cutter, done, n)?;
            done += n;
            self.end(Note { packet, resume: if done == count { 0 } else { done } });
        }
        Some(Added::All)
    }

    /// One frame of the datagrams `first .. first + n`.
    fn add_datagrams(&mut self, pkt: &Pkt, outer: usize, cutter: &Cutter, first: usize, n: usize) -> Option<()> {
        let head = pkt.head();
        let layout = Layout::of(&head[..outer])?;
        if layout.l4 + 8 != outer {
            return None;
        }
        let tag = pkt.meta().vlan;
        let shift = if tag.is_some() { 4 } else { 0 };
        let headers = VXLAN + cutter.headers();
        let bytes: usize = (first..first + n).map(|i| headers + cutter.payload(i).1).sum();
        let udp = (layout.l4 + shift) as u16;
        let partial = Csum::Partial { start: layout.l4 as u16, offset: 6 };
        let vnet = match n {
            1 => VnetHdr::encode(partial, Gso::None, &head[..outer], shift as u16)?,
            _ => VnetHdr::udp_gso(udp, (headers + cutter.size()) as u16),
        };
        self.arrays.begin(vnet);
        let range = self.arrays.push_arena(outer + shift);
        write_outer(self.arrays.arena(range), &head[..outer], &layout, tag, bytes);
        for i in first..first + n {
            let range = self.arrays.push_arena(headers);
            let (at, len) = cutter.payload(i);
            let mut sum = Sum::default();
            let whole = pkt.for_each_slice(outer + VXLAN + at, len, &mut |s| {
                sum.add(s);
                self.arrays.push(s);
            });
            let out = self.arrays.arena(range);
            out[..VXLAN].copy_from_slice(&head[outer..outer + VXLAN]);
            cutter.write(&head[outer + VXLAN..], i, sum, &mut out[VXLAN..]);
            whole.then_some(())?;
        }
        Some(())
    }
}

/// A tag as it stands in a frame.
fn tag_bytes(tci: u16) -> [u8; 4] {
    let [high, low] = tci.to_be_bytes();
    [0x81, 0x00, high, low]
}

/// Writes outer headers for `bytes` bytes behind the UDP header, the UDP checksum in its partial form.
fn write_outer(out: &mut [u8], outer: &[u8], layout: &Layout, tag: Option<u16>, bytes: usize) {
    let shift = out.len() - outer.len();
    out[..12].copy_from_slice(&outer[..12]);
    if let Some(tci) = tag {
        out[12..16].copy_from_slice(&tag_bytes(tci));
    }
    out[12 + shift..].copy_from_slice(&outer[12..]);
    let out = &mut out[shift..];
    let Layout { l3, l4, v4, .. } = *layout;
    if v4 {
        let id = u16::from_be_bytes([out[l3 + 4], out[l3 + 5]]);
        set_v4(&mut out[l3..l4], l4 - l3 + 8 + bytes, id);
    } else {
        out[l3 + 4..l3 + 6].copy_from_slice(&((l4 - l3 - 40 + 8 + bytes) as u16).to_be_bytes());
    }
    out[l4 + 4..l4 + 6].copy_from_slice(&((8 + bytes) as u16).to_be_bytes());
    let sum = layout.pseudo_sum(out, 8 + bytes);
    out[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
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
                self.drop_front(queue, counters);
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
                        self.drop_front(queue, counters);
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

    fn drop_front(&mut self, queue: &mut TxQueue, counters: &WorkerCounters) {
        self.resume = 0;
        if let Some(pkt) = queue.pop() {
            counters.count_drop(pkt.meta().port, DropReason::TxDevice);
        }
    }

    fn drop_queue(&mut self, queue: &mut TxQueue, counters: &WorkerCounters, reason: DropReason) {
        self.resume = 0;
        while let Some(pkt) = queue.pop() {
            counters.count_drop(pkt.meta().port, reason);
        }
    }
}
