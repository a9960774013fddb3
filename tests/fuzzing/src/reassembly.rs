//! Virtual reassembly: any fragments in any order, against a list of spans; and with limits that are soon reached.

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};

use podplane_packet::id::PortId;
use podplane_tables::reasm::{DatagramKey, First, Fragment, Limits, Outcome, Reassembly, Refusal};

use crate::input::Input;

/// Datagrams that an input can name.
const DATAGRAMS: u8 = 4;
/// Fragments of an input: below every limit of the roomy table, so that the oracle needs none.
const FRAGMENTS: u32 = 100;

/// One datagram as the oracle sees it.
#[derive(Debug, Default)]
struct Slow {
    spans: Vec<(u32, u32)>,
    total: Option<u32>,
    known: bool,
    held: Vec<u32>,
    refused: Option<Refusal>,
}

type Event = (u32, Result<First, Refusal>);

struct World {
    roomy: Reassembly<u32>,
    tight: Reassembly<u32>,
    slow: [Option<Slow>; DATAGRAMS as usize],
    now: u32,
    events: Vec<Event>,
    expected: Vec<Event>,
}

const TIGHT: Limits =
    Limits { datagrams: 3, pod_datagrams: 2, fragments: 5, held: 6, pod_held: 4, held_bytes: 4000, timeout: 15_000 };

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World {
        roomy: Reassembly::new(Limits { datagrams: 16, held: 256, pod_held: 256, ..Limits::default() }, [7, 8]),
        tight: Reassembly::new(TIGHT, [9, 10]),
        slow: Default::default(),
        now: u32::MAX - 100_000,
        events: Vec::new(),
        expected: Vec::new(),
    });
}

/// Four bytes a fragment: datagram, port and flags, offset, length.
///
/// # Panics
/// If the table differs from the oracle, loses a buffer or exceeds a limit.
pub fn reassembly(data: &[u8]) {
    WORLD.with_borrow_mut(|w| {
        let mut input = Input::new(data);
        let mut given = 0;
        let mut back = 0;
        while given < FRAGMENTS {
            let Some((n, f, wait)) = fragment(&mut input) else { break };
            if wait > 0 {
                back += w.later(wait);
            }
            back += w.push(n, &f, given);
            given += 1;
            assert_eq!(given as usize, back + w.tight.held());
        }
        w.finish();
    });
}

/// The fragment, which datagram it is of, and how many milliseconds pass before.
fn fragment(input: &mut Input<'_>) -> Option<(u8, Fragment, u32)> {
    let (flags, at, len) = (input.u8()?, input.u8()?, input.u8()?);
    let n = flags & (DATAGRAMS - 1);
    let more = flags & 4 != 0;
    // Offsets are near the beginning or near the end of what an IP packet holds.
    let offset = if at < 0xc0 { u32::from(at) * 8 } else { 65_536 - u32::from(0x100 - u16::from(at)) * 8 };
    let len = if flags & 8 != 0 { u32::from(len) } else { u32::from(len) * 8 };
    let whole_header = flags & 0x10 == 0;
    let wait = if flags & 0x80 != 0 { 1 << (flags >> 3 & 15) } else { 0 };
    let port = PortId(u16::from(flags >> 5 & 3));
    let first = (offset == 0 && whole_header).then(|| first(n));
    Some((n, Fragment { key: key(n), port, offset, len, more, first }, wait))
}

fn key(n: u8) -> DatagramKey {
    match n & 1 {
        0 => DatagramKey::v4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), n.into(), 17, 0),
        _ => DatagramKey::v6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, n.into(), 0),
    }
}

fn first(n: u8) -> First {
    First { proto: 17, sport: n.into(), dport: 53 }
}

fn event(outcome: Outcome<u32>) -> Event {
    match outcome {
        Outcome::Pass(id, first) => (id, Ok(first)),
        Outcome::Refuse(id, refusal) => (id, Err(refusal)),
    }
}

impl World {
    /// Gives a fragment to both tables and to the oracle; answers how many buffers the tight table gave back.
    fn push(&mut self, n: u8, f: &Fragment, id: u32) -> usize {
        self.events.clear();
        self.expected.clear();
        let events = &mut self.events;
        self.roomy.push(self.now, f, id, |outcome| events.push(event(outcome)));
        Self::oracle(&mut self.slow[usize::from(n)], n, f, id, &mut self.expected);
        assert_eq!(self.events, self.expected, "{f:?}");
        let known = self.slow.iter().flatten();
        assert_eq!(self.roomy.held(), known.clone().map(|d| d.held.len()).sum::<usize>());
        assert_eq!(self.roomy.datagrams(), known.count());
        let mut back = 0;
        self.tight.push(self.now, f, id, |_| back += 1);
        assert!(self.tight.held() <= TIGHT.held && self.tight.datagrams() <= TIGHT.datagrams);
        back
    }

    fn oracle(slot: &mut Option<Slow>, n: u8, f: &Fragment, id: u32, out: &mut Vec<Event>) {
        if f.len == 0 || (f.more && !f.len.is_multiple_of(8)) {
            return out.push((id, Err(Refusal::Malformed)));
        }
        if f.offset == 0 && !f.more && f.first.is_some() {
            return out.push((id, Ok(first(n))));
        }
        let slow = slot.get_or_insert_default();
        if let Some(refusal) = slow.refused {
            return out.push((id, Err(refusal)));
        }
        match slow.judge(f) {
            Some(Refusal::Duplicate) => return out.push((id, Err(Refusal::Duplicate))),
            Some(refusal) => {
                slow.refused = Some(refusal);
                out.extend(slow.held.drain(..).chain([id]).map(|id| (id, Err(refusal))));
                return;
            }
            None => {}
        }
        let end = f.offset + f.len;
        slow.spans.push((f.offset, end));
        slow.total = if f.more { slow.total } else { Some(end) };
        slow.known |= f.offset == 0;
        slow.held.push(id);
        if slow.known {
            out.extend(slow.held.drain(..).map(|id| (id, Ok(first(n)))));
            if slow.total == Some(slow.spans.iter().map(|(start, end)| end - start).sum()) {
                *slot = None;
            }
        }
    }

    /// Time passes, and both tables end what is over; answers how many buffers the tight one gave back.
    fn later(&mut self, millis: u32) -> usize {
        self.now = self.now.wrapping_add(millis);
        // The oracle knows no clock: after a wait that may have ended something, everything is ended.
        self.end()
    }

    fn end(&mut self) -> usize {
        self.now = self.now.wrapping_add(TIGHT.timeout);
        let held: usize = self.slow.iter().flatten().map(|d| d.held.len()).sum();
        let mut released = 0;
        self.roomy.expire(self.now, 1000, |outcome| {
            assert_eq!(event(outcome).1, Err(Refusal::Timeout));
            released += 1;
        });
        assert_eq!(released, held);
        self.slow = Default::default();
        let mut back = 0;
        self.tight.expire(self.now, 1000, |_| back += 1);
        back
    }

    fn finish(&mut self) {
        self.end();
        for table in [&self.roomy, &self.tight] {
            assert_eq!((table.held(), table.datagrams(), table.next_deadline()), (0, 0, None));
        }
    }
}

impl Slow {
    fn judge(&self, f: &Fragment) -> Option<Refusal> {
        let end = f.offset + f.len;
        let reach = self.spans.iter().map(|span| span.1).max().unwrap_or(0);
        let conflict = match self.total {
            Some(total) if f.more => end >= total,
            Some(total) => end != total,
            None => !f.more && reach > end,
        };
        if f.offset == 0 && f.first.is_none() {
            Some(Refusal::Malformed)
        } else if end > 65_535 {
            Some(Refusal::TooLong)
        } else if conflict {
            Some(Refusal::EndConflict)
        } else if self.spans.contains(&(f.offset, end)) {
            Some(Refusal::Duplicate)
        } else if self.spans.iter().any(|span| span.0 < end && f.offset < span.1) {
            Some(Refusal::Overlap)
        } else {
            None
        }
    }
}
