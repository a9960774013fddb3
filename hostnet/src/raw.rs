//! Netlink at the level of bytes: one request, its answers, the kernel's explanation of a refusal; attributes.

use std::{io, os::fd::AsFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Error, Result};

const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 16;
/// Extended acknowledgement: the attribute that holds the kernel's text (linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Largest datagram that the kernel builds for a dump is 32 KiB.
const BUFFER: usize = 64 * 1024;
/// The kernel answers while it handles `send`; silence for this long is a fault to report, not to wait for.
const ANSWER_MS: u16 = 10_000;
/// A dump that changed under the reader is repeated this many times.
const DUMP_TRIES: usize = 8;

/// One answer: message type and the bytes behind the netlink header.
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// A request in the making.
pub(crate) struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

/// A netlink socket for requests and answers.
pub(crate) struct RawSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

enum Step {
    More,
    Done,
    Interrupted,
}

impl RawSocket {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, ...) in the caller's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Refusals come with the kernel's text, and without a copy of the request in front of it.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| Error::io(format!("open a netlink socket (protocol {protocol})"), e))?;
        Ok(RawSocket { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends one request and collects its answers until its acknowledgement or the end of its dump.
    pub(crate) fn request(&mut self, what: &dyn Fn() -> String, request: &Request) -> Result<Vec<Reply>> {
        let dump = request.flags & NLM_F_DUMP == NLM_F_DUMP;
        let flags = NLM_F_REQUEST | request.flags | if dump { 0 } else { NLM_F_ACK };
        for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1).max(1);
            let message = message(request.kind, flags, self.sequence, &request.payload);
            self.send(what, &message)?;
            let mut replies = Vec::new();
            if self.collect(what, self.sequence, &mut replies)? {
                return Ok(replies);
            }
        }
        Err(Error::Decode { what: what(), reason: "the tables changed during every attempt to read them".into() })
    }

    /// Sends several messages as one datagram; the answers of all of them are awaited, the first refusal is returned.
    /// For nfnetlink batches, in which only messages with `NLM_F_ACK` are answered.
    pub(crate) fn batch(&mut self, what: &dyn Fn() -> String, requests: &[Request]) -> Result<()> {
        let mut bytes = Vec::new();
        let mut awaited = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1).max(1);
            if request.flags & NLM_F_ACK != 0 {
                awaited.push(self.sequence);
            }
            bytes.extend(message(request.kind, NLM_F_REQUEST | request.flags, self.sequence, &request.payload));
        }
        let last = self.sequence;
        let first = last.wrapping_sub(requests.len() as u32 - 1);
        self.send(what, &bytes)?;
        let mut refusal = None;
        while !awaited.is_empty() && refusal.is_none() {
            self.receive(what)?;
            for m in messages(&self.buffer) {
                if !(first..=last).contains(&m.sequence) || m.kind != NLMSG_ERROR {
                    continue;
                }
                awaited.retain(|s| *s != m.sequence);
                if let Err(e) = acknowledgement(what, m.payload) {
                    refusal.get_or_insert(e);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn send(&mut self, what: &dyn Fn() -> String, bytes: &[u8]) -> Result<()> {
        let sent = self.socket.send(bytes, 0).map_err(|e| Error::io(what(), e))?;
        if sent != bytes.len() {
            return Err(Error::io(what(), io::Error::from(io::ErrorKind::WriteZero)));
        }
        Ok(())
    }

    /// Answers of `sequence`; `false`: a dump was inconsistent and must be repeated.
    fn collect(&mut self, what: &dyn Fn() -> String, sequence: u32, replies: &mut Vec<Reply>) -> Result<bool> {
        let mut consistent = true;
        loop {
            self.receive(what)?;
            for m in messages(&self.buffer) {
                if m.sequence != sequence {
                    // An answer to a request that was given up earlier.
                    continue;
                }
                match step(what, m.kind, m.flags, m.payload)? {
                    Step::Done => return Ok(consistent && m.flags & NLM_F_DUMP_INTR == 0),
                    Step::Interrupted => consistent = false,
                    Step::More => {}
                }
                if m.kind > NLMSG_DONE {
                    replies.push(Reply { kind: m.kind, payload: m.payload.to_vec() });
                }
            }
        }
    }

    /// Waits for one datagram; leaves it in the buffer, or nothing where a signal came first.
    fn receive(&mut self, what: &dyn Fn() -> String) -> Result<()> {
        self.buffer.clear();
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(ANSWER_MS)) {
            Ok(0) => return Err(Error::io(what(), io::Error::from(io::ErrorKind::TimedOut))),
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(()),
            Err(e) => return Err(Error::io(what(), e)),
        }
        self.socket.recv(&mut self.buffer, 0).map_err(|e| Error::io(what(), e))?;
        Ok(())
    }
}

fn step(what: &dyn Fn() -> String, kind: u16, flags: u16, payload: &[u8]) -> Result<Step> {
    match kind {
        NLMSG_ERROR => acknowledgement(what, payload).map(|()| Step::Done),
        NLMSG_DONE => Ok(Step::Done),
        NLMSG_NOOP => Ok(Step::More),
        _ if flags & NLM_F_DUMP_INTR != 0 => Ok(Step::Interrupted),
        _ => Ok(Step::More),
    }
}

/// `struct nlmsgerr`: errno (negative, 0 = success), the request's header, then attributes.
fn acknowledgement(what: &dyn Fn() -> String, payload: &[u8]) -> Result<()> {
    let code = payload.get(..4).map_or(-libc::EPROTO, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if code == 0 {
        return Ok(());
    }
    let detail = payload.get(4 + HEADER..).and_then(|tail| {
        attributes(tail)
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
            .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_string())
    });
    Err(Error::Kernel { what: what(), errno: code.unsigned_abs() as i32, detail })
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = HEADER + payload.len();
    let mut bytes = Vec::with_capacity(length + 3);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// A netlink message inside a datagram.
pub(crate) struct Message<'a> {
    pub(crate) sequence: u32,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram; stops at the first that does not fit.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let u16_at = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let length = u32_at(0)? as usize;
        let (kind, flags, sequence) = (u16_at(4)?, u16_at(6)?, u32_at(8)?);
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { sequence, kind, flags, payload })
    })
}

/// The attributes in `bytes` as (type without flags, value); stops at the first that does not fit.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|nla: std::result::Result<NlaBuffer<&[u8]>, _>| {
        let nla = nla.ok()?;
        let value = nla.into_inner().get(4..4 + nla.value_length())?;
        Some((nla.kind(), value))
    })
}

/// Builds attributes.
#[derive(Default)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    /// Appends an attribute with `value`.
    pub(crate) fn push(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a string with its terminating zero.
    pub(crate) fn push_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.push(kind, &bytes)
    }

    /// Appends a container, filled by `fill`.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) -> &mut Self {
        let mut inner = Attributes::default();
        fill(&mut inner);
        self.push(kind | netlink_packet_core::NLA_F_NESTED, &inner.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip() {
        let mut built = Attributes::default();
        built.push(1, b"abc").push_str(2, "eth0").nest(3, |inner| {
            inner.push(7, &[9]);
        });
        let got: Vec<_> = attributes(&built.0).collect();
        assert_eq!(got[0], (1, &b"abc"[..]));
        assert_eq!(got[1], (2, &b"eth0\0"[..]));
        assert_eq!(got[2].0, 3);
        assert_eq!(attributes(got[2].1).collect::<Vec<_>>(), [(7, &[9u8][..])]);
    }

    #[test]
    fn damaged_datagrams_end_the_iteration() {
        let good = message(20, 0, 5, &[1, 2, 3]);
        assert_eq!(messages(&good).count(), 1);
        for cut in 0..19 {
            assert_eq!(messages(&good[..cut]).count(), 0, "{cut}");
        }
        let mut lying = good.clone();
        lying[0] = 200;
        assert_eq!(messages(&lying).count(), 0);
        lying[0] = 4;
        assert_eq!(messages(&lying).count(), 0);
    }

    #[test]
    fn refusals_carry_the_text() {
        let mut payload = (-libc::EINVAL).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        let mut text = Attributes::default();
        text.push_str(NLMSGERR_ATTR_MSG, "no such thing");
        payload.extend(text.0);
        let error = acknowledgement(&|| "test".into(), &payload).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("no such thing"), "{error}");
    }
}
