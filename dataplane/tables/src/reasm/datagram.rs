//! The records of virtual reassembly: datagrams in hashed chains and in the order of their birth, fragments of each in
//! the order of their arrival. Indices into fixed pools throughout.

use podplane_packet::id::PortId;

use super::{DatagramKey, First, Refusal};
use crate::Millis;

/// No index.
pub(super) const NONE: u32 = u32::MAX;

/// One datagram whose fragments are coming.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) key: DatagramKey,
    /// Who pays: the port of the fragment that came first.
    pub(super) port: PortId,
    pub(super) born: Millis,
    pub(super) first: Option<First>,
    /// The payload's length, once the last fragment came.
    pub(super) total: Option<u32>,
    /// The highest end of any fragment.
    pub(super) reach: u32,
    /// Bytes that came; no two fragments overlap, so this is a sum.
    pub(super) covered: u32,
    pub(super) count: u16,
    /// The whole datagram is refused.
    pub(super) refused: Option<Refusal>,
    head: u32,
    tail: u32,
    /// The first fragment that may still have its buffer.
    held: u32,
    chain: u32,
    older: u32,
    younger: u32,
}

impl Datagram {
    pub(super) fn new(key: DatagramKey, port: PortId, born: Millis) -> Self {
        Datagram {
            key,
            port,
            born,
            first: None,
            total: None,
            reach: 0,
            covered: 0,
            count: 0,
            refused: None,
            head: NONE,
            tail: NONE,
            held: NONE,
            chain: NONE,
            older: NONE,
            younger: NONE,
        }
    }
}

/// One fragment that came.
#[derive(Debug)]
pub(super) struct Piece<B> {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) port: PortId,
    pub(super) next: u32,
    /// Until it is released.
    pub(super) buf: Option<B>,
}

impl<B> Piece<B> {
    pub(super) fn new(start: u32, end: u32, port: PortId, buf: B) -> Self {
        Piece { start, end, port, next: NONE, buf: Some(buf) }
    }
}

/// Both kinds of records.
#[derive(Debug)]
pub(super) struct Pool<B> {
    chains: Box<[u32]>,
    datagrams: Vec<Datagram>,
    free_datagrams: Vec<u32>,
    pieces: Vec<Piece<B>>,
    free_pieces: Vec<u32>,
    most_datagrams: usize,
    most_pieces: usize,
    oldest: u32,
    youngest: u32,
}

impl<B> Pool<B> {
    pub(super) fn new(datagrams: usize, pieces: usize) -> Self {
        Pool {
            chains: vec![NONE; datagrams.next_power_of_two()].into(),
            datagrams: Vec::with_capacity(datagrams),
            free_datagrams: Vec::with_capacity(datagrams),
            pieces: Vec::with_capacity(pieces),
            free_pieces: Vec::with_capacity(pieces),
            most_datagrams: datagrams,
            most_pieces: pieces,
            oldest: NONE,
            youngest: NONE,
        }
    }

    pub(super) fn datagrams_used(&self) -> usize {
        self.datagrams.len() - self.free_datagrams.len()
    }

    pub(super) fn get(&self, at: u32) -> &Datagram {
        &self.datagrams[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Datagram {
        &mut self.datagrams[at as usize]
    }

    pub(super) fn piece_mut(&mut self, at: u32) -> &mut Piece<B> {
        &mut self.pieces[at as usize]
    }

    pub(super) fn oldest(&self) -> u32 {
        self.oldest
    }

    /// The fragments of a datagram in the order of their arrival.
    pub(super) fn pieces(&self, at: u32) -> impl Iterator<Item = &Piece<B>> {
        let mut next = self.get(at).head;
        std::iter::from_fn(move || {
            let piece = self.pieces.get(next as usize)?;
            next = piece.next;
            Some(piece)
        })
    }

    pub(super) fn first_held(&self, at: u32) -> u32 {
        self.get(at).held
    }

    pub(super) fn none_held(&mut self, at: u32) {
        self.get_mut(at).held = NONE;
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.chains.len() - 1)
    }

    pub(super) fn find(&self, key: &DatagramKey, hash: u64) -> Option<u32> {
        let mut at = self.chains[self.bucket(hash)];
        while at != NONE {
            let datagram = self.get(at);
            if datagram.key == *key {
                return Some(at);
            }
            at = datagram.chain;
        }
        None
    }

    /// Adds a datagram as the youngest. `None`: there is no room.
    pub(super) fn insert(&mut self, mut datagram: Datagram, hash: u64) -> Option<u32> {
        let bucket = self.bucket(hash);
        datagram.chain = self.chains[bucket];
        datagram.older = self.youngest;
        let at = if let Some(at) = self.free_datagrams.pop() {
            self.datagrams[at as usize] = datagram;
            at
        } else if self.datagrams.len() < self.most_datagrams {
            self.datagrams.push(datagram);
            (self.datagrams.len() - 1) as u32
        } else {
            return None;
        };
        self.chains[bucket] = at;
        match self.youngest {
            NONE => self.oldest = at,
            youngest => self.get_mut(youngest).younger = at,
        }
        self.youngest = at;
        Some(at)
    }

    /// Removes a datagram and its fragments, which must have been released.
    pub(super) fn remove(&mut self, at: u32, hash: u64) {
        self.clear(at);
        let (chain, older, younger) = (self.get(at).chain, self.get(at).older, self.get(at).younger);
        let bucket = self.bucket(hash);
        if self.chains[bucket] == at {
            self.chains[bucket] = chain;
        } else {
            let mut before = self.chains[bucket];
            while self.get(before).chain != at {
                before = self.get(before).chain;
            }
            self.get_mut(before).chain = chain;
        }
        match older {
            NONE => self.oldest = younger,
            _ => self.get_mut(older).younger = younger,
        }
        match younger {
            NONE => self.youngest = older,
            _ => self.get_mut(younger).older = older,
        }
        self.free_datagrams.push(at);
    }

    /// Forgets the fragments of a datagram, which must have been released.
    pub(super) fn clear(&mut self, at: u32) {
        let mut next = self.get(at).head;
        while next != NONE {
            debug_assert!(self.pieces[next as usize].buf.is_none());
            self.free_pieces.push(next);
            next = self.pieces[next as usize].next;
        }
        let datagram = self.get_mut(at);
        (datagram.head, datagram.tail, datagram.held, datagram.count) = (NONE, NONE, NONE, 0);
    }

    /// Adds a fragment as the last to have come. `Err`: there is no room; the piece comes back.
    pub(super) fn append(&mut self, at: u32, piece: Piece<B>) -> Result<(), Piece<B>> {
        let index = if let Some(index) = self.free_pieces.pop() {
            self.pieces[index as usize] = piece;
            index
        } else if self.pieces.len() < self.most_pieces {
            self.pieces.push(piece);
            (self.pieces.len() - 1) as u32
        } else {
            return Err(piece);
        };
        let datagram = self.get_mut(at);
        let tail = datagram.tail;
        datagram.tail = index;
        datagram.count += 1;
        if datagram.held == NONE {
            datagram.held = index;
        }
        match tail {
            NONE => datagram.head = index,
            _ => self.pieces[tail as usize].next = index,
        }
        Ok(())
    }
}
