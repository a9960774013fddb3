//! recvmmsg and sendmmsg over arrays that are made once. The arrays hold raw pointers; who fills them (`recv`, `send`)
//! sees to it that what they point to lives until the call is over.
#![allow(unsafe_code)]

use std::ffi::c_uint;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::socket::checked;
use super::vnet::VnetHdr;
use crate::ports::BURST;

/// Room for one control message with a `tpacket_auxdata`: 16 bytes of header, 20 of data, padded.
const CONTROL: usize = 48;
const PACKET_AUXDATA: libc::c_int = 8;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// `struct tpacket_auxdata` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct AuxData {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

/// A VLAN tag that the kernel took out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Tag protocol: 0x8100, or 0x88a8 for a service tag.
    pub(crate) tpid: u16,
    /// Tag control information, host byte order.
    pub(crate) tci: u16,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// An empty iovec.
pub(crate) const NO_IOV: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

const NO_MSG: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

/// Pieces of one received frame: the virtio header, a small buffer, large ones.
pub(crate) const RX_PIECES: usize = 2 + crate::ports::buffers::LARGE_PER_FRAME;

/// The arrays of a recvmmsg of up to a burst of frames. Boxed: they point into each other.
pub(crate) struct RecvArrays {
    pub(crate) iovs: [[libc::iovec; RX_PIECES]; BURST],
    headers: [VnetHdr; BURST],
    control: [Control; BURST],
    msgs: [libc::mmsghdr; BURST],
}

// SAFETY: the pointers inside point to memory that the same owner holds (its own fields, and buffers of the batch
// beside it) and are used only by calls that have `&mut` to it, so moving all of it to another thread is sound.
unsafe impl Send for RecvArrays {}

/// What arrived in one slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes of the frame, without the virtio header; 0 if not even that came.
    pub(crate) len: usize,
    /// The frame was longer than the slot.
    pub(crate) truncated: bool,
    /// The virtio header.
    pub(crate) header: VnetHdr,
    /// The VLAN tag.
    pub(crate) tag: Option<Tag>,
}

impl fmt::Debug for RecvArrays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvArrays").finish_non_exhaustive()
    }
}

impl RecvArrays {
    pub(crate) fn new() -> Box<RecvArrays> {
        Box::new(RecvArrays {
            iovs: [[NO_IOV; RX_PIECES]; BURST],
            headers: [VnetHdr::default(); BURST],
            control: [Control([0; CONTROL]); BURST],
            msgs: [NO_MSG; BURST],
        })
    }

    /// Receives into the first `count` slots and says how many were filled.
    ///
    /// # Safety
    /// In the first `count` rows of `iovs`, every piece but the first is either empty or describes memory that may be
    /// written until this returns.
    pub(crate) unsafe fn recv(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let count = count.min(BURST);
        for i in 0..count {
            self.iovs[i][0] = libc::iovec { iov_base: (&raw mut self.headers[i]).cast(), iov_len: VnetHdr::LEN };
            let hdr = &mut self.msgs[i].msg_hdr;
            hdr.msg_iov = self.iovs[i].as_mut_ptr();
            hdr.msg_iovlen = RX_PIECES;
            hdr.msg_control = (&raw mut self.control[i]).cast();
            hdr.msg_controllen = CONTROL;
        }
        // SAFETY: the headers point to iovecs, control and header memory inside `self`; what the other pieces describe
        // is writable by this function's own contract. No name and no timeout is asked for.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.msgs.as_mut_ptr(),
                count as c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        checked(n as isize)
    }

    /// What the last [`RecvArrays::recv`] put in slot `i`, one of those it filled.
    pub(crate) fn received(&self, i: usize) -> Received {
        let msg = &self.msgs[i];
        Received {
            len: (msg.msg_len as usize).saturating_sub(VnetHdr::LEN),
            truncated: msg.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            header: self.headers[i],
            tag: tag(&self.control[i].0[..msg.msg_hdr.msg_controllen.min(CONTROL)]),
        }
    }
}

/// Reads the VLAN tag from a control buffer (cmsg(3)): the packet auxdata is the only message that was asked for.
fn tag(control: &[u8]) -> Option<Tag> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let word = |at: usize| Some(u32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(control.get(at..at + 2)?.try_into().ok()?));
    let (level, kind) = (word(HEADER - 8)?, word(HEADER - 4)?);
    if level != libc::SOL_PACKET as u32 || kind != PACKET_AUXDATA as u32 {
        return None;
    }
    let status = word(HEADER + std::mem::offset_of!(AuxData, status))?;
    if status & TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = match status & TP_STATUS_VLAN_TPID_VALID {
        0 => 0x8100,
        _ => half(HEADER + std::mem::offset_of!(AuxData, vlan_tpid))?,
    };
    Some(Tag { tpid, tci: half(HEADER + std::mem::offset_of!(AuxData, vlan_tci))? })
}

/// Pieces of all messages of one sendmmsg.
pub(crate) const TX_PIECES: usize = 2048;
/// Pieces of one message (the kernel's UIO_MAXIOV).
pub(crate) const TX_PIECES_PER_FRAME: usize = 1024;
/// Bytes of headers that are written for sending and exist in no buffer.
pub(crate) const TX_ARENA: usize = 48 << 10;

/// The arrays of a sendmmsg of up to a burst of frames, and an arena for headers written while sending.
pub(crate) struct SendArrays {
    msgs: [libc::mmsghdr; BURST],
    headers: [VnetHdr; BURST],
    iovs: [libc::iovec; TX_PIECES],
    arena: [u8; TX_ARENA],
    /// Messages, pieces and arena bytes in use; the last message's first piece.
    frames: usize,
    pieces: usize,
    bytes: usize,
    first: usize,
}

// SAFETY: as for `RecvArrays`; the pointers are set and used within one `&mut` borrow of the sender.
unsafe impl Send for SendArrays {}

impl fmt::Debug for SendArrays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendArrays").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl SendArrays {
    pub(crate) fn new() -> Box<SendArrays> {
        Box::new(SendArrays {
            msgs: [NO_MSG; BURST],
            headers: [VnetHdr::default(); BURST],
            iovs: [NO_IOV; TX_PIECES],
            arena: [0; TX_ARENA],
            frames: 0,
            pieces: 0,
            bytes: 0,
            first: 0,
        })
    }

    /// Forgets all frames.
    pub(crate) fn clear(&mut self) {
        (self.frames, self.pieces, self.bytes, self.first) = (0, 0, 0, 0);
    }

    /// How many frames are ready.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Whether another frame of at most `pieces` pieces and `bytes` bytes of arena fits.
    pub(crate) fn fits(&self, pieces: usize, bytes: usize) -> bool {
        self.frames < BURST
            && pieces < TX_PIECES_PER_FRAME
            && self.pieces + pieces < TX_PIECES
            && self.bytes + bytes <= TX_ARENA
    }

    /// Begins a frame with its virtio header; [`SendArrays::fits`] was asked.
    pub(crate) fn begin(&mut self, header: VnetHdr) {
        self.headers[self.frames] = header;
        self.first = self.pieces;
        let at = (&raw mut self.headers[self.frames]).cast::<u8>();
        self.iovs[self.pieces] = libc::iovec { iov_base: at.cast(), iov_len: VnetHdr::LEN };
        self.pieces += 1;
    }

    /// Adds bytes that a buffer holds. They are read by [`SendArrays::send`], whose contract keeps them alive.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.iovs[self.pieces] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            self.pieces += 1;
        }
    }

    /// Adds `len` bytes of the arena, to be written by [`SendArrays::arena`]; returns where they are.
    pub(crate) fn push_arena(&mut self, len: usize) -> Range<usize> {
        let range = self.bytes..self.bytes + len;
        let room = &mut self.arena[range.clone()];
        self.iovs[self.pieces] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: len };
        self.pieces += 1;
        self.bytes += len;
        range
    }

    /// Bytes of the arena.
    pub(crate) fn arena(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.arena[range]
    }

    /// Ends the frame that was begun.
    pub(crate) fn end(&mut self) {
        let hdr = &mut self.msgs[self.frames].msg_hdr;
        hdr.msg_iov = (&raw mut self.iovs[self.first]).cast();
        hdr.msg_iovlen = self.pieces - self.first;
        self.frames += 1;
    }

    /// Sends the frames from `from` on and says how many the kernel took.
    ///
    /// # Safety
    /// All bytes pushed since [`SendArrays::clear`] are still alive and unchanged.
    pub(crate) unsafe fn send(&mut self, fd: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        let msgs = &mut self.msgs[from..self.frames];
        // SAFETY: the messages point to iovecs inside `self` (a box that has not moved since they were set), those to
        // headers and arena inside `self` or to bytes that are alive by this function's contract; they are only read.
        let n = unsafe { libc::sendmmsg(fd.as_raw_fd(), msgs.as_mut_ptr(), msgs.len() as c_uint, libc::MSG_DONTWAIT) };
        checked(n as isize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_read_from_auxdata_only() {
        let mut c = [0u8; CONTROL];
        assert_eq!(tag(&c), None);
        c[0..8].copy_from_slice(&36u64.to_ne_bytes());
        c[8..12].copy_from_slice(&(libc::SOL_PACKET as u32).to_ne_bytes());
        c[12..16].copy_from_slice(&(PACKET_AUXDATA as u32).to_ne_bytes());
        c[16..20].copy_from_slice(&(TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID).to_ne_bytes());
        c[32..34].copy_from_slice(&42u16.to_ne_bytes());
        c[34..36].copy_from_slice(&0x88a8u16.to_ne_bytes());
        assert_eq!(tag(&c), Some(Tag { tpid: 0x88a8, tci: 42 }));
        assert_eq!(tag(&c[..30]), None);
        c[16..20].copy_from_slice(&TP_STATUS_VLAN_VALID.to_ne_bytes());
        assert_eq!(tag(&c), Some(Tag { tpid: 0x8100, tci: 42 }));
    }
}
