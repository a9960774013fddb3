//! Lines of JSON over the socket, bounded in length and time, and the files that ride on them.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{LinkError, MAX_LINE, io};

/// Files that ride on a greeting: the rings, and a flow memory.
pub(super) const FILES: usize = 2;

pub(super) fn to_line<T: Serialize>(message: &T) -> Result<Vec<u8>, LinkError> {
    let mut line = serde_json::to_vec(message).map_err(|e| LinkError::Protocol(e.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

pub(super) fn from_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, LinkError> {
    serde_json::from_slice(line).map_err(|e| LinkError::Protocol(e.to_string()))
}

pub(super) fn say<T: Serialize>(mut stream: &UnixStream, message: &T) -> Result<(), LinkError> {
    stream.write_all(&to_line(message)?).map_err(io("writing to the peer"))
}

/// Says a line with files that ride on its first byte.
pub(super) fn say_with(mut stream: &UnixStream, line: Vec<u8>, files: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    let first = sendmsg(stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(&line[first..])
}

/// Reads up to the end of a line. `within` bounds the whole line, not each read.
pub(super) fn read_line(mut stream: &UnixStream, max: usize, within: Duration) -> Result<Vec<u8>, LinkError> {
    let deadline = Instant::now() + within;
    let (mut line, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).map_err(io("setting a time limit"))?;
        let n = stream.read(&mut chunk).map_err(io("reading from the peer"))?;
        if n == 0 {
            return Err(LinkError::Closed);
        }
        line.extend_from_slice(&chunk[..n]);
        if line.last() == Some(&b'\n') {
            return Ok(line);
        }
        if line.len() > max || Instant::now() >= deadline {
            return Err(LinkError::Protocol(format!("no complete line within {max} bytes and {within:?}")));
        }
    }
}

/// A greeting, with the files that ride on its first byte. The kernel closes what is more than we have room for.
pub(super) fn read_line_and_files(
    stream: &UnixStream,
    within: Duration,
) -> Result<(Vec<u8>, ArrayVec<OwnedFd, FILES>), LinkError> {
    stream.set_read_timeout(Some(within)).map_err(io("setting a time limit"))?;
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| io("waiting for the peer's greeting")(e.into()))?;
    if got.bytes == 0 {
        return Err(LinkError::Closed);
    }
    let mut files = ArrayVec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more.take(files.remaining_capacity()));
        }
    }
    let mut line = bytes[..got.bytes].to_vec();
    if line.last() != Some(&b'\n') {
        line.extend(read_line(stream, MAX_LINE, within)?);
    }
    Ok((line, files))
}
