//! Two rings and a bell between two processes.
//!
//! One side creates the memory and sends its file to the other over a Unix stream socket; from then on the socket is
//! the bell of both sides. A socket, not an eventfd: its ends are two file descriptions, so the peer cannot take
//! `O_NONBLOCK` from ours and make us wait, and the peer's death is heard at once.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::map::{Map, MapError, Part};
use crate::ring::{Consumer, Corrupt, HEADER_WORDS, Producer, PushError, max_record};

/// Data words of each ring: 4 MiB, which holds a full synchronisation of some ten thousand objects.
pub const DATA_WORDS: usize = 512 * 1024;
const RING_WORDS: usize = HEADER_WORDS + DATA_WORDS;

/// The longest record in bytes.
pub const MAX_RECORD: usize = max_record(DATA_WORDS);

/// One side's two rings.
#[derive(Debug)]
pub struct Rings {
    producer: Producer<Part>,
    consumer: Consumer<Part>,
}

/// Makes the memory: the creator's rings, and the file for the other side.
pub fn create() -> Result<(Rings, OwnedFd), MapError> {
    let map = Arc::new(Map::create(2 * RING_WORDS)?);
    let file = map.fd().try_clone_to_owned().map_err(|source| MapError::System { what: "dup", source })?;
    let producer = Producer::new(Part::new(map.clone(), 0, RING_WORDS));
    let consumer = Consumer::new(Part::new(map, RING_WORDS, RING_WORDS));
    Ok((Rings { producer, consumer }, file))
}

/// The other side's rings, from the file that it received.
pub fn attach(file: OwnedFd) -> Result<Rings, MapError> {
    let map = Arc::new(Map::attach(file, 2 * RING_WORDS)?);
    let producer = Producer::new(Part::new(map.clone(), RING_WORDS, RING_WORDS));
    let consumer = Consumer::new(Part::new(map, 0, RING_WORDS));
    Ok(Rings { producer, consumer })
}

/// What the bell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// The peer is there.
    Open,
    /// The peer closed its end or died; what it sent before can still be received.
    Closed,
}

/// One side's end of the channel.
#[derive(Debug)]
pub struct End {
    rings: Rings,
    bell: UnixStream,
}

impl End {
    /// Joins the rings with the socket over which they were agreed.
    pub fn new(rings: Rings, bell: UnixStream) -> std::io::Result<End> {
        bell.set_nonblocking(true)?;
        Ok(End { rings, bell })
    }

    /// Sends one record and rings. It is not heard yet by a peer that has died: see [`End::hush`].
    pub fn send(&mut self, record: &[u8]) -> Result<(), PushError> {
        self.rings.producer.push(record)?;
        // A full socket rings already; a broken one is reported by `hush`.
        let _ = (&self.bell).write(&[1]);
        Ok(())
    }

    /// Copies the next record into `into`; `false` when there is none.
    pub fn receive(&mut self, into: &mut Vec<u8>) -> Result<bool, Corrupt> {
        self.rings.consumer.pop(into)
    }

    /// Silences the bell. To be called before the ring is read empty: after it, a record might wait unheard.
    /// Bounded: a peer that rings without end does not keep us here.
    pub fn hush(&self) -> Bell {
        let mut bytes = [0; 4096];
        match (&self.bell).read(&mut bytes) {
            Ok(0) => Bell::Closed,
            Ok(_) => Bell::Open,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Bell::Open,
            Err(_) => Bell::Closed,
        }
    }
}

impl AsFd for End {
    /// Readable once the other side has rung or gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn pair() -> (End, End) {
        let (a, b) = UnixStream::pair().unwrap();
        let (rings, file) = create().unwrap();
        (End::new(rings, a).unwrap(), End::new(attach(file).unwrap(), b).unwrap())
    }

    #[test]
    fn records_pass_in_both_directions() {
        let (mut a, mut b) = pair();
        let mut record = Vec::new();
        a.send(b"down").unwrap();
        b.send(b"up").unwrap();
        assert_eq!((b.hush(), b.receive(&mut record).unwrap(), &record[..]), (Bell::Open, true, &b"down"[..]));
        assert_eq!((a.hush(), a.receive(&mut record).unwrap(), &record[..]), (Bell::Open, true, &b"up"[..]));
        assert!(!a.receive(&mut record).unwrap());
    }

    #[test]
    fn what_a_dead_peer_sent_is_still_received() {
        let (mut a, b) = pair();
        let mut record = Vec::new();
        {
            let mut b = b;
            b.send(b"last words").unwrap();
        }
        a.hush();
        assert_eq!(a.hush(), Bell::Closed);
        assert!(a.receive(&mut record).unwrap());
        assert_eq!(record, b"last words");
    }

    #[test]
    fn a_peer_that_is_not_read_fills_the_ring_and_loses_nothing() {
        let (mut a, mut b) = pair();
        let mut sent = 0u32;
        while a.send(&[sent.to_le_bytes(); 256].concat()).is_ok() {
            sent += 1;
        }
        assert!(sent as usize >= DATA_WORDS * 8 / 1100);
        let mut record = Vec::new();
        for i in 0..sent {
            assert!(b.receive(&mut record).unwrap());
            assert_eq!(record[..4], i.to_le_bytes());
        }
        assert!(!b.receive(&mut record).unwrap());
    }
}
