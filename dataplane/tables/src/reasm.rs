//! Virtual reassembly: fragments are never merged, only held until the datagram's first fragment says which flow they
//! belong to; then they are released in the order of their arrival, and later ones follow at once.
//!
//! Overlapping fragments refuse their whole datagram, those still to come included, in IPv6 (RFC 5722 section 4) and
//! in IPv4 likewise (RFC 1858, RFC 8900 section 3.7); those already released cannot complete without them. An exact
//! duplicate is dropped alone (RFC 8200 section 4.5). Everything is bounded, per worker and per source port, and
//! allocated at construction.

mod datagram;

use std::net::{Ipv4Addr, Ipv6Addr};

use podplane_packet::id::PortId;
use thiserror::Error;

use crate::flow::siphash13;
use crate::{Millis, reached};
use datagram::{Datagram, NONE, Piece, Pool};

/// The longest payload that fragments may add up to: an IP packet's length has 16 bits.
const LONGEST: u32 = 65_535;

/// Which datagram a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    src: u128,
    dst: u128,
    /// Identification, protocol, zone, family.
    rest: u64,
}

impl DatagramKey {
    /// RFC 791: source, destination, protocol and identification. The zone keeps ingress classes apart.
    pub fn v4(src: Ipv4Addr, dst: Ipv4Addr, id: u16, proto: u8, zone: u8) -> Self {
        let rest = u64::from(id) | u64::from(proto) << 32 | u64::from(zone) << 40 | 1 << 48;
        DatagramKey { src: u32::from(src).into(), dst: u32::from(dst).into(), rest }
    }

    /// RFC 8200 section 4.5: source, destination and identification.
    pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, id: u32, zone: u8) -> Self {
        DatagramKey { src: src.into(), dst: dst.into(), rest: u64::from(id) | u64::from(zone) << 40 }
    }

    fn hash(&self, seed: [u64; 2]) -> u64 {
        let (s, d) = (self.src, self.dst);
        siphash13(seed, &[s as u64, (s >> 64) as u64, d as u64, (d >> 64) as u64, self.rest])
    }
}

/// What only the first fragment tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct First {
    /// The transport protocol (in IPv6 behind all extension headers).
    pub proto: u8,
    /// Source port, host byte order; for ICMP echo the identifier.
    pub sport: u16,
    /// Destination port, host byte order; for ICMP echo the identifier.
    pub dport: u16,
}

/// One fragment, as its headers describe it.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Which datagram it belongs to.
    pub key: DatagramKey,
    /// The port that it came in on.
    pub port: PortId,
    /// Where its payload starts in the datagram's fragmentable part, in bytes.
    pub offset: u32,
    /// How many bytes of it there are.
    pub len: u32,
    /// Whether more fragments follow.
    pub more: bool,
    /// The transport header, if the offset is 0 and the header is whole.
    pub first: Option<First>,
}

/// Why a fragment was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// It overlaps another, or another of its datagram did: the whole datagram is refused.
    #[error("fragments of one datagram overlap")]
    Overlap,
    /// It is an exact duplicate; the datagram goes on.
    #[error("an exact duplicate of a fragment")]
    Duplicate,
    /// No payload, not a multiple of 8 bytes though more follow, or a first fragment that splits the transport header.
    #[error("an impossible fragment, or one that splits the transport header")]
    Malformed,
    /// It ends beyond the longest IP packet.
    #[error("fragments add up to more than an IP packet holds")]
    TooLong,
    /// Two fragments disagree on where the datagram ends.
    #[error("fragments disagree on the datagram's end")]
    EndConflict,
    /// The datagram has more fragments than allowed.
    #[error("too many fragments in one datagram")]
    TooManyFragments,
    /// The worker follows as many datagrams as it may.
    #[error("too many datagrams at once")]
    TooManyDatagrams,
    /// The source port has as many datagrams as it may.
    #[error("too many datagrams of this port at once")]
    PortDatagrams,
    /// The worker holds as many fragments or bytes as it may.
    #[error("too many held fragments")]
    HeldFull,
    /// The source port's fragments fill its part of what may be held.
    #[error("too many held fragments of this port")]
    PortHeldFull,
    /// The first fragment did not come in time.
    #[error("the first fragment did not come in time")]
    Timeout,
}

/// What becomes of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<B> {
    /// It goes on, with what the first fragment told.
    Pass(B, First),
    /// It is dropped.
    Refuse(B, Refusal),
}

/// How much is kept. `pod_*` bound one pod's port; the uplink and the host port, which many senders share, may use
/// half of the whole each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams in all.
    pub datagrams: usize,
    /// Datagrams of one pod.
    pub pod_datagrams: usize,
    /// Fragments of one datagram.
    pub fragments: usize,
    /// Buffers held in all.
    pub held: usize,
    /// Buffers held of one pod.
    pub pod_held: usize,
    /// Payload bytes held in all.
    pub held_bytes: usize,
    /// Milliseconds from a datagram's first arrival to its end. RFC 791 suggests 15 s.
    pub timeout: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            datagrams: 2048,
            pod_datagrams: 256,
            fragments: 128,
            held: 1024,
            pod_held: 128,
            held_bytes: 4 << 20,
            timeout: 15_000,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct PortUse {
    datagrams: u32,
    held: u32,
}

/// The datagrams that one worker follows. `B` is the buffer.
#[derive(Debug)]
pub struct Reassembly<B> {
    limits: Limits,
    pool: Pool<B>,
    ports: Box<[PortUse]>,
    held: usize,
    held_bytes: usize,
    seed: [u64; 2],
}

impl<B> Reassembly<B> {
    /// Nothing held. `seed` keys the hash of the datagrams.
    pub fn new(limits: Limits, seed: [u64; 2]) -> Self {
        // A datagram that is followed has fragments that passed: those are remembered too, without their buffers.
        let pieces = limits.held + 8 * limits.datagrams;
        Reassembly {
            limits,
            pool: Pool::new(limits.datagrams, pieces),
            ports: vec![PortUse::default(); PortId::MAX].into(),
            held: 0,
            held_bytes: 0,
            seed,
        }
    }

    /// How many buffers it holds at most.
    pub fn capacity(&self) -> usize {
        self.limits.held
    }

    /// How many buffers are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many datagrams are followed, refused ones included until their time is over.
    pub fn datagrams(&self) -> usize {
        self.pool.datagrams_used()
    }

    /// Takes one fragment. `out` gets what becomes of it and of the fragments that waited for it, in the order of
    /// their arrival; nothing if it is held.
    pub fn push(&mut self, now: Millis, fragment: &Fragment, buf: B, mut out: impl FnMut(Outcome<B>)) {
        let last = fragment.offset.saturating_add(fragment.len);
        if fragment.len == 0 || (fragment.more && !fragment.len.is_multiple_of(8)) {
            return out(Outcome::Refuse(buf, Refusal::Malformed));
        }
        if fragment.offset == 0
            && !fragment.more
            && let Some(first) = fragment.first
        {
            return out(Outcome::Pass(buf, first)); // RFC 6946: an atomic fragment waits for nobody.
        }
        let at = match self.datagram(now, fragment, &mut out) {
            Ok(at) => at,
            Err(refusal) => return out(Outcome::Refuse(buf, refusal)),
        };
        if let Some(refusal) = self.pool.get(at).refused {
            return out(Outcome::Refuse(buf, refusal));
        }
        match self.check(at, fragment, last) {
            Ok(()) => self.accept(at, fragment, last, buf, &mut out),
            Err(Refusal::Duplicate) => out(Outcome::Refuse(buf, Refusal::Duplicate)),
            Err(refusal) => {
                self.refuse(at, refusal, &mut out);
                out(Outcome::Refuse(buf, refusal));
            }
        }
    }

    /// Ends up to `budget` datagrams whose time is over; `out` gets the fragments that they held.
    pub fn expire(&mut self, now: Millis, budget: usize, mut out: impl FnMut(Outcome<B>)) {
        for _ in 0..budget {
            let at = self.pool.oldest();
            if at == NONE || !self.over(at, now) {
                return;
            }
            self.refuse(at, Refusal::Timeout, &mut out);
            self.end(at);
        }
    }

    /// When [`Reassembly::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Millis> {
        let at = self.pool.oldest();
        (at != NONE).then(|| self.pool.get(at).born.wrapping_add(self.limits.timeout))
    }

    /// The fragment's datagram, made if it is the first to come.
    fn datagram(&mut self, now: Millis, fragment: &Fragment, out: &mut impl FnMut(Outcome<B>)) -> Result<u32, Refusal> {
        let hash = fragment.key.hash(self.seed);
        if fragment.port.index() >= self.ports.len() {
            return Err(Refusal::PortDatagrams);
        }
        if let Some(at) = self.pool.find(&fragment.key, hash) {
            if !self.over(at, now) {
                return Ok(at);
            }
            // Only not tidied up yet: the identification is another datagram's now.
            self.refuse(at, Refusal::Timeout, out);
            self.end(at);
        }
        let most = Self::share(fragment.port, self.limits.datagrams, self.limits.pod_datagrams);
        if self.ports[fragment.port.index()].datagrams as usize >= most {
            return Err(Refusal::PortDatagrams);
        }
        let datagram = Datagram::new(fragment.key, fragment.port, now);
        let at = self.pool.insert(datagram, hash).ok_or(Refusal::TooManyDatagrams)?;
        self.ports[fragment.port.index()].datagrams += 1;
        Ok(at)
    }

    fn over(&self, at: u32, now: Millis) -> bool {
        reached(now, self.pool.get(at).born.wrapping_add(self.limits.timeout))
    }

    fn share(port: PortId, all: usize, pod: usize) -> usize {
        if port < PortId::FIRST_POD { all / 2 } else { pod }
    }

    /// Whether the fragment fits those that came before it.
    fn check(&self, at: u32, fragment: &Fragment, last: u32) -> Result<(), Refusal> {
        let datagram = self.pool.get(at);
        if fragment.offset == 0 && fragment.first.is_none() {
            return Err(Refusal::Malformed);
        }
        if last > LONGEST {
            return Err(Refusal::TooLong);
        }
        let conflict = match (fragment.more, datagram.total) {
            (true, Some(total)) => last >= total,
            (true, None) => false,
            (false, Some(total)) => last != total,
            (false, None) => datagram.reach > last,
        };
        if conflict {
            return Err(Refusal::EndConflict);
        }
        for piece in self.pool.pieces(at) {
            if piece.start == fragment.offset && piece.end == last {
                return Err(Refusal::Duplicate);
            }
            if piece.start < last && fragment.offset < piece.end {
                return Err(Refusal::Overlap);
            }
        }
        if usize::from(datagram.count) >= self.limits.fragments {
            return Err(Refusal::TooManyFragments);
        }
        if datagram.first.is_some() || fragment.first.is_some() { Ok(()) } else { self.may_hold(fragment) }
    }

    fn may_hold(&self, fragment: &Fragment) -> Result<(), Refusal> {
        let port = self.ports.get(fragment.port.index()).map_or(u32::MAX, |p| p.held) as usize;
        if port >= Self::share(fragment.port, self.limits.held, self.limits.pod_held) {
            return Err(Refusal::PortHeldFull);
        }
        let bytes = self.held_bytes + fragment.len as usize;
        if self.held >= self.limits.held || bytes > self.limits.held_bytes {
            return Err(Refusal::HeldFull);
        }
        Ok(())
    }

    fn accept(&mut self, at: u32, fragment: &Fragment, last: u32, buf: B, out: &mut impl FnMut(Outcome<B>)) {
        let datagram = self.pool.get_mut(at);
        datagram.first = datagram.first.or(fragment.first);
        if !fragment.more {
            datagram.total = Some(last);
        }
        datagram.reach = datagram.reach.max(last);
        datagram.covered += fragment.len;
        let (first, whole) = (datagram.first, datagram.total == Some(datagram.covered));
        if let Err(piece) = self.pool.append(at, Piece::new(fragment.offset, last, fragment.port, buf)) {
            // No record is left to remember it by, so overlaps could not be seen any more.
            self.refuse(at, Refusal::HeldFull, out);
            return piece.buf.into_iter().for_each(|buf| out(Outcome::Refuse(buf, Refusal::HeldFull)));
        }
        self.held += 1;
        self.held_bytes += fragment.len as usize;
        self.ports[fragment.port.index()].held += 1;
        if let Some(first) = first {
            self.release(at, |buf| out(Outcome::Pass(buf, first)));
            if whole {
                self.end(at);
            }
        }
    }

    /// Gives the held buffers of a datagram to `sink`, in the order of arrival.
    fn release(&mut self, at: u32, mut sink: impl FnMut(B)) {
        let mut next = self.pool.first_held(at);
        while next != NONE {
            let piece = self.pool.piece_mut(next);
            let (len, port) = (piece.end - piece.start, piece.port);
            if let Some(buf) = piece.buf.take() {
                self.held -= 1;
                self.held_bytes -= len as usize;
                self.ports[port.index()].held -= 1;
                sink(buf);
            }
            next = self.pool.piece_mut(next).next;
        }
        self.pool.none_held(at);
    }

    /// Refuses what a datagram holds and what will still come of it.
    fn refuse(&mut self, at: u32, refusal: Refusal, out: &mut impl FnMut(Outcome<B>)) {
        self.release(at, |buf| out(Outcome::Refuse(buf, refusal)));
        self.pool.clear(at);
        self.pool.get_mut(at).refused = Some(refusal);
    }

    /// Forgets a datagram that holds nothing.
    fn end(&mut self, at: u32) {
        let datagram = self.pool.get(at);
        let (port, hash) = (datagram.port, datagram.key.hash(self.seed));
        self.ports[port.index()].datagrams -= 1;
        self.pool.remove(at, hash);
    }
}
