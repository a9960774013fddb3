//! Configuration as a broken or hostile agent sends it: records of any bytes, and well-formed messages of any content.

mod objects;
mod policy;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1::{FromDataplane, Key, Object, ToDataplane};
use podplane_config::valid::{Assembler, State, Transaction};

use crate::input::Input;
use objects::{made, object};

/// Messages of an input: enough for objects to meet each other.
const MESSAGES: usize = 32;

/// A byte for each message: how long the record is, or (from 128 on) which message is made from the bytes that follow.
///
/// # Panics
/// If a transaction is judged otherwise than all that it leads to at once, a promise of valid states is broken, or a
/// message does not survive its own encoding.
pub fn config(data: &[u8]) {
    let mut input = Input::new(data);
    let mut assembler = Assembler::default();
    BASE.with(|base| {
        let mut world = base.get_or_init(World::base).clone();
        // What the open transaction says.
        let mut open = Vec::new();
        for _ in 0..MESSAGES {
            let Some(kind) = input.u8() else { break };
            let message = if kind < 128 { decoded(input.take(kind.into())) } else { made(kind, &mut input) };
            let Some(message) = message else { continue };
            let encoded = postcard::to_stdvec(&message).expect("a message of this size can be encoded");
            assert_eq!(postcard::from_bytes(&encoded), Ok(message.clone()));
            match assembler.message(message.clone()) {
                Ok(Some(transaction)) => world.apply(&transaction, &std::mem::take(&mut open)),
                Ok(None) => open.push(message),
                // The connection is given up; what was open goes with it.
                Err(_) => (assembler, open) = (Assembler::default(), Vec::new()),
            }
        }
    });
}

/// As the link does it: nothing may follow a message.
fn decoded(record: &[u8]) -> Option<ToDataplane> {
    let _ = postcard::from_bytes::<FromDataplane>(record);
    postcard::take_from_bytes(record).ok().filter(|(_, rest)| rest.is_empty()).map(|(message, _)| message)
}

thread_local! {
    static BASE: OnceCell<World> = const { OnceCell::new() };
}

/// A state, and the objects that it was made of.
#[derive(Clone)]
struct World {
    state: State,
    raw: BTreeMap<Key, Object>,
}

impl World {
    /// A node, a peer and a pod, so that much of what comes contradicts something.
    fn base() -> World {
        let mut bytes = Input::new(&[0, 0, 0, 1, 0, 5, 0]);
        let objects = [0x80, 0x90, 0xa0].map(|kind| object(kind, &mut bytes));
        let raw: BTreeMap<_, _> = objects.into_iter().flatten().map(|object| (object.key(), object)).collect();
        let state = State::default().apply(&whole(&raw)).expect("the base is valid");
        assert!(state.local.is_some() && state.peers.len() == 1 && state.endpoints.len() == 1);
        World { state, raw }
    }

    fn apply(&mut self, transaction: &Transaction, messages: &[ToDataplane]) {
        let raw = after(if transaction.is_full() { BTreeMap::new() } else { self.raw.clone() }, messages);
        // Only what a transaction touches is checked; that must come to the same as checking everything.
        let at_once = State::default().apply(&whole(&raw));
        match self.state.apply(transaction) {
            Ok(next) => {
                assert_eq!(at_once.as_ref(), Ok(&next));
                promises(&next);
                assert_eq!(next.apply(transaction), Ok(next.clone()), "saying it again changes nothing");
                *self = World { state: next, raw };
            }
            Err(refusal) => {
                assert!(at_once.is_err(), "refused only in steps: {refusal}");
                assert!(!refusal.object.is_empty() && !refusal.reason.is_empty(), "{refusal}");
            }
        }
    }
}

/// The objects after a transaction's messages.
fn after(mut raw: BTreeMap<Key, Object>, messages: &[ToDataplane]) -> BTreeMap<Key, Object> {
    for message in messages {
        match message {
            ToDataplane::Upsert(object) => drop(raw.insert(object.key(), object.clone())),
            ToDataplane::Delete(key) => drop(raw.remove(key)),
            ToDataplane::Extend(more) => {
                if let Some(Object::Service(service)) = raw.get_mut(&Key::Service(more.name.clone())) {
                    service.ports.extend(more.ports.iter().cloned());
                }
            }
            ToDataplane::Begin { .. } | ToDataplane::Commit { .. } => {}
        }
    }
    raw
}

/// All objects in one full transaction.
fn whole(raw: &BTreeMap<Key, Object>) -> Transaction {
    let mut assembler = Assembler::default();
    let begin = ToDataplane::Begin { generation: 9, full: true };
    let objects = raw.values().cloned().map(ToDataplane::Upsert);
    let mut closed = None;
    for message in [begin].into_iter().chain(objects).chain([ToDataplane::Commit { generation: 9 }]) {
        closed = assembler.message(message).expect("messages in order");
    }
    closed.expect("a whole transaction")
}

/// What whoever compiles a state relies on, said the slow way.
fn promises(state: &State) {
    let local = state.local.iter().map(|n| (&n.addresses, n.vtep, n.pod_cidrs));
    let peers = state.peers.values().map(|p| (&p.addresses, p.vtep, p.pod_cidrs));
    let nodes: Vec<_> = local.chain(peers).collect();
    let ranges: Vec<IpNet> = nodes.iter().flat_map(|n| n.2.iter()).collect();
    let mut addresses: Vec<IpAddr> = nodes.iter().flat_map(|n| n.0.iter().copied()).collect();
    for (i, range) in ranges.iter().enumerate() {
        assert!(!ranges[..i].iter().any(|other| other.contains(&range.network()) || range.contains(&other.network())));
        assert!(!addresses.iter().any(|address| range.contains(address)), "{range} holds a node's address");
    }
    for (own, vtep, _) in &nodes {
        assert!(own.contains(vtep) && own.iter().all(|a| !a.is_multicast() && !a.is_loopback() && !a.is_unspecified()));
        assert!(state.local.as_ref().is_none_or(|local| local.vtep.is_ipv4() == vtep.is_ipv4()));
    }
    addresses.extend(state.local.iter().flat_map(|n| n.pod_cidrs.gateways().iter()));
    for endpoint in state.endpoints.values() {
        assert!(endpoint.addresses.iter().next().is_some() && !endpoint.mac.is_group());
        addresses.extend(endpoint.addresses.iter());
    }
    policy::promises(state);
    let all = addresses.len();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), all, "two owners of one address");
}
