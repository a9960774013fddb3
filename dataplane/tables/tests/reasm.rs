//! Virtual reassembly against a slow oracle that keeps bytes, and its bounds.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use podplane_packet::id::PortId;
use podplane_tables::reasm::{DatagramKey, First, Fragment, Limits, Outcome, Reassembly, Refusal};
use proptest::collection::vec;
use proptest::prelude::*;

const POD: PortId = PortId(5);

fn key(n: u8) -> DatagramKey {
    match n % 2 {
        0 => DatagramKey::v4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), n.into(), 17, 0),
        _ => DatagramKey::v6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, n.into(), 0),
    }
}

fn first(n: u8) -> First {
    First { proto: 17, sport: n.into(), dport: 53 }
}

fn fragment(n: u8, offset: u32, len: u32, more: bool) -> Fragment {
    Fragment { key: key(n), port: POD, offset, len, more, first: (offset == 0).then(|| first(n)) }
}

/// One byte map per datagram, forgotten when whole.
#[derive(Default)]
struct Oracle {
    datagrams: HashMap<u8, Slow>,
}

#[derive(Default)]
struct Slow {
    bytes: HashMap<u32, usize>,
    spans: Vec<(u32, u32)>,
    total: Option<u32>,
    known: bool,
    held: Vec<u32>,
    refused: Option<Refusal>,
}

type Event = (u32, Result<First, Refusal>);

impl Oracle {
    fn push(&mut self, n: u8, f: &Fragment, id: u32) -> Vec<Event> {
        if f.len == 0 || (f.more && !f.len.is_multiple_of(8)) {
            return vec![(id, Err(Refusal::Malformed))];
        }
        if f.offset == 0 && !f.more {
            return vec![(id, Ok(first(n)))];
        }
        let slow = self.datagrams.entry(n).or_default();
        if let Some(refusal) = slow.refused {
            return vec![(id, Err(refusal))];
        }
        let end = f.offset + f.len;
        let reach = slow.bytes.keys().max().map_or(0, |b| b + 1);
        let conflict = match slow.total {
            Some(total) if f.more => end >= total,
            Some(total) => end != total,
            None => !f.more && reach > end,
        };
        let refusal = if end > 65_535 {
            Some(Refusal::TooLong)
        } else if conflict {
            Some(Refusal::EndConflict)
        } else if slow.spans.contains(&(f.offset, end)) {
            return vec![(id, Err(Refusal::Duplicate))];
        } else if (f.offset..end).any(|b| slow.bytes.contains_key(&b)) {
            Some(Refusal::Overlap)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            slow.refused = Some(refusal);
            return slow.held.drain(..).chain([id]).map(|i| (i, Err(refusal))).collect();
        }
        slow.spans.push((f.offset, end));
        slow.bytes.extend((f.offset..end).map(|b| (b, 0)));
        slow.total = if f.more { slow.total } else { Some(end) };
        slow.known |= f.offset == 0;
        slow.held.push(id);
        if !slow.known {
            return Vec::new();
        }
        let events = slow.held.drain(..).map(|i| (i, Ok(first(n)))).collect();
        if slow.total == Some(slow.bytes.len() as u32) {
            self.datagrams.remove(&n);
        }
        events
    }
}

fn push(r: &mut Reassembly<u32>, now: u32, f: &Fragment, id: u32) -> Vec<Event> {
    let mut events = Vec::new();
    r.push(now, f, id, |outcome| events.push(event(outcome)));
    events
}

fn event(outcome: Outcome<u32>) -> Event {
    match outcome {
        Outcome::Pass(id, first) => (id, Ok(first)),
        Outcome::Refuse(id, refusal) => (id, Err(refusal)),
    }
}

/// Mostly the pieces of one cut of a datagram in some order, sometimes anything.
fn arrivals() -> impl Strategy<Value = Vec<(u8, u32, u32, bool)>> {
    let regular = (0u8..4, 0u32..6).prop_map(|(n, i)| (n, i * 16, if i == 5 { 11 } else { 16 }, i != 5));
    let odd = (0u8..4, 0u32..12, 0u32..40, any::<bool>()).prop_map(|(n, o, len, more)| (n, o * 8, len, more));
    let far = (0u8..4, 8100u32..8192, 8u32..200).prop_map(|(n, o, len)| (n, o * 8, len / 8 * 8, true));
    vec(prop_oneof![20 => regular, 1 => odd, 1 => far], 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_oracle(arrivals in arrivals()) {
        let mut fast = Reassembly::new(Limits::default(), [7, 8]);
        let mut slow = Oracle::default();
        for (id, (n, offset, len, more)) in (0..).zip(arrivals) {
            let f = fragment(n, offset, len, more);
            prop_assert_eq!(push(&mut fast, 0, &f, id), slow.push(n, &f, id));
            prop_assert_eq!(fast.held(), slow.datagrams.values().map(|d| d.held.len()).sum::<usize>());
            prop_assert_eq!(fast.datagrams(), slow.datagrams.len());
        }
        let mut rest: Vec<u32> = slow.datagrams.values().flat_map(|d| d.held.clone()).collect();
        let mut timed_out = Vec::new();
        fast.expire(Limits::default().timeout, 1000, |o| timed_out.push(event(o)));
        prop_assert!(timed_out.iter().all(|e| e.1 == Err(Refusal::Timeout)));
        let mut ids: Vec<u32> = timed_out.iter().map(|e| e.0).collect();
        rest.sort_unstable();
        ids.sort_unstable();
        prop_assert_eq!(ids, rest);
        prop_assert_eq!((fast.held(), fast.datagrams(), fast.next_deadline()), (0, 0, None));
    }

    /// However small the limits and whatever comes: nothing is lost, nothing exceeds its bound, everything ends.
    #[test]
    fn bounds_hold(
        limits in (1usize..6, 1usize..4, 1usize..6, 1usize..10, 1usize..6, 16usize..200),
        arrivals in arrivals(), steps in vec(0u32..8000, 80), ports in vec(0u16..4, 80),
    ) {
        let (datagrams, pod_datagrams, fragments, held, pod_held, held_bytes) = limits;
        let limits = Limits { datagrams, pod_datagrams, fragments, held, pod_held, held_bytes, timeout: 15_000 };
        let mut fast = Reassembly::new(limits, [7, 8]);
        let (mut now, mut given, mut back) = (u32::MAX - 20_000, 0, 0);
        for (((n, offset, len, more), step), port) in arrivals.into_iter().zip(steps).zip(ports) {
            let f = Fragment { port: PortId(port), ..fragment(n, offset, len, more) };
            back += push(&mut fast, now, &f, given).len() as u32;
            given += 1;
            prop_assert_eq!(given, back + fast.held() as u32);
            prop_assert!(fast.held() <= held && fast.datagrams() <= datagrams);
            now = now.wrapping_add(step);
            if step % 2 == 0 {
                fast.expire(now, 1, |_| back += 1);
            }
        }
        fast.expire(now.wrapping_add(15_000), 1000, |_| back += 1);
        prop_assert_eq!((given, fast.datagrams()), (back, 0));
    }
}

#[test]
fn later_fragments_follow_at_once_and_the_last_forgets_the_datagram() {
    let mut r = Reassembly::new(Limits::default(), [0; 2]);
    assert_eq!(push(&mut r, 0, &fragment(2, 16, 16, true), 1), []);
    assert_eq!(push(&mut r, 0, &fragment(2, 0, 16, true), 2), [(1, Ok(first(2))), (2, Ok(first(2)))]);
    assert_eq!(push(&mut r, 0, &fragment(2, 32, 5, false), 3), [(3, Ok(first(2)))]);
    assert_eq!(r.datagrams(), 0);
}

#[test]
fn a_first_fragment_without_ports_refuses_the_datagram() {
    let mut r = Reassembly::new(Limits::default(), [0; 2]);
    push(&mut r, 0, &fragment(1, 8, 8, false), 1);
    let tiny = Fragment { first: None, ..fragment(1, 0, 8, true) };
    assert_eq!(push(&mut r, 0, &tiny, 2), [(1, Err(Refusal::Malformed)), (2, Err(Refusal::Malformed))]);
}

#[test]
fn one_pod_leaves_room_for_the_others_and_unknown_ports_none() {
    let limits = Limits { pod_held: 3, pod_datagrams: 2, ..Limits::default() };
    let mut r = Reassembly::new(limits, [0; 2]);
    for i in 0..3 {
        assert_eq!(push(&mut r, 0, &fragment(1, 8 + 8 * i, 8, true), i), []);
    }
    let events = push(&mut r, 0, &fragment(1, 80, 8, true), 3);
    assert_eq!(events.len(), 4, "a datagram that cannot be held whole is given up");
    assert!(events.iter().all(|e| e.1 == Err(Refusal::PortHeldFull)));
    assert_eq!(push(&mut r, 0, &fragment(2, 8, 8, true), 4), []);
    assert_eq!(push(&mut r, 0, &fragment(3, 8, 8, true), 5), [(5, Err(Refusal::PortDatagrams))]);
    let other = Fragment { port: PortId(6), ..fragment(3, 8, 8, true) };
    assert_eq!(push(&mut r, 0, &other, 6), []);
    let unknown = Fragment { port: PortId(u16::MAX), ..fragment(3, 16, 8, true) };
    assert_eq!(push(&mut r, 0, &unknown, 7), [(7, Err(Refusal::PortDatagrams))]);
}

#[test]
fn an_identification_is_free_again_after_the_timeout_also_before_tidying() {
    let mut r = Reassembly::new(Limits::default(), [0; 2]);
    push(&mut r, 0, &fragment(1, 8, 8, true), 1);
    assert_eq!(r.next_deadline(), Some(15_000));
    assert_eq!(push(&mut r, 15_000, &fragment(1, 0, 16, true), 2), [(1, Err(Refusal::Timeout)), (2, Ok(first(1)))]);
}
