//! Messages become whole transactions.

use std::collections::BTreeMap;
use std::mem::size_of;

use super::{MAX_ADDRESSES, MAX_ENDPOINTS, MAX_PEERS, MAX_RULE_SETS, MAX_RULES, MAX_SERVICES};
use crate::v1;

/// The most messages of one transaction: every object that can exist, removed and made again.
const MAX_MESSAGES: usize =
    2 * (MAX_PEERS + MAX_ENDPOINTS + MAX_SERVICES + MAX_ADDRESSES + MAX_RULES + MAX_RULE_SETS + 1);
/// The most memory that the objects of one transaction may take, in bytes: ten times what 10,000 Services with 100,000
/// endpoints of both families take, and what 150,000 pods of both families with their owners and selectors take.
pub const MAX_TRANSACTION_BYTES: usize = 256 << 20;

/// A whole transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Its generation.
    pub generation: u64,
    pub(super) full: bool,
    /// The last word on each object: `None` removes it.
    pub(super) changes: BTreeMap<v1::Key, Option<v1::Object>>,
}

impl Transaction {
    /// Whether it is a full synchronisation: what it does not name is removed.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// What it says of each object that it names: whether it is there afterwards.
    pub fn keys(&self) -> impl Iterator<Item = (&v1::Key, bool)> {
        self.changes.iter().map(|(key, object)| (key, object.is_some()))
    }
}

/// Collects messages into transactions.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Transaction>,
    messages: usize,
    bytes: usize,
}

/// A message that cannot stand where it stands: the agent is broken, and the connection must be given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// A change or a commit without `Begin`.
    #[error("a change outside of a transaction")]
    NotOpen,
    /// `Begin` inside a transaction.
    #[error("a transaction inside of transaction {0}")]
    Nested(u64),
    /// `Commit` of another generation.
    #[error("transaction {open} was closed as {closed}")]
    OtherGeneration {
        /// That of `Begin`.
        open: u64,
        /// That of `Commit`.
        closed: u64,
    },
    /// `Extend` of what the transaction has not upserted.
    #[error("more ports of Service {0:?}, which this transaction has not begun")]
    NothingToExtend(String),
    /// More messages than objects can exist.
    #[error("a transaction of more than {MAX_MESSAGES} messages")]
    TooLong,
    /// More memory than a configuration can need.
    #[error("a transaction of more than {MAX_TRANSACTION_BYTES} bytes")]
    TooLarge,
}

impl Assembler {
    /// Takes the next message; answers the transaction that it completes.
    pub fn message(&mut self, message: v1::ToDataplane) -> Result<Option<Transaction>, OutOfOrder> {
        match (message, &mut self.open) {
            (v1::ToDataplane::Begin { .. }, Some(open)) => Err(OutOfOrder::Nested(open.generation)),
            (v1::ToDataplane::Begin { generation, full }, None) => {
                self.open = Some(Transaction { generation, full, changes: BTreeMap::new() });
                (self.messages, self.bytes) = (0, 0);
                Ok(None)
            }
            (_, None) => Err(OutOfOrder::NotOpen),
            (v1::ToDataplane::Commit { generation }, Some(open)) if generation == open.generation => {
                Ok(self.open.take())
            }
            (v1::ToDataplane::Commit { generation }, Some(open)) => {
                Err(OutOfOrder::OtherGeneration { open: open.generation, closed: generation })
            }
            (change, Some(_)) => self.change(change).map(|()| None),
        }
    }

    fn change(&mut self, change: v1::ToDataplane) -> Result<(), OutOfOrder> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(OutOfOrder::TooLong);
        }
        self.bytes += match &change {
            v1::ToDataplane::Upsert(object) => object_bytes(object),
            v1::ToDataplane::Extend(service) => service_bytes(service),
            _ => 0,
        };
        if self.bytes > MAX_TRANSACTION_BYTES {
            return Err(OutOfOrder::TooLarge);
        }
        let Some(open) = &mut self.open else { return Err(OutOfOrder::NotOpen) };
        match change {
            v1::ToDataplane::Upsert(object) => drop(open.changes.insert(object.key(), Some(object))),
            v1::ToDataplane::Delete(key) => drop(open.changes.insert(key, None)),
            v1::ToDataplane::Extend(more) => match open.changes.get_mut(&v1::Key::Service(more.name.clone())) {
                Some(Some(v1::Object::Service(service))) => service.ports.extend(more.ports),
                _ => return Err(OutOfOrder::NothingToExtend(more.name)),
            },
            v1::ToDataplane::Begin { .. } | v1::ToDataplane::Commit { .. } => {}
        }
        Ok(())
    }
}

/// The memory that an object takes, about, in bytes: what counts toward [`MAX_TRANSACTION_BYTES`]. Only what a short
/// message can blow up counts exactly: an empty set is one byte in a message and a `Vec` here.
pub fn object_bytes(object: &v1::Object) -> usize {
    let addresses = |n: usize| n * size_of::<std::net::IpAddr>();
    let nets = |n: usize| n * size_of::<ipnet::IpNet>();
    size_of::<v1::Object>()
        + match object {
            v1::Object::Local(local) => {
                addresses(local.addresses.len())
                    + nets(local.pod_cidrs.len() + local.service_cidrs.len() + local.no_masquerade.len())
            }
            v1::Object::Peer(peer) => peer.name.len() + addresses(peer.addresses.len()) + nets(peer.pod_cidrs.len()),
            v1::Object::Endpoint(endpoint) => {
                let ports = endpoint.host_ports.len() * size_of::<v1::HostPort>();
                endpoint.id.len() + endpoint.pod.len() + addresses(endpoint.addresses.len()) + ports
            }
            v1::Object::Service(service) => service_bytes(service),
            v1::Object::Address(address) => {
                address.owner.len() + address.name.len() + address.selectors.len() * size_of::<u32>()
            }
            v1::Object::Rule(rule) => rule_bytes(rule),
            v1::Object::RuleSet(set) => set.rules.len() * size_of::<u32>(),
        }
}

fn rule_bytes(rule: &v1::Rule) -> usize {
    let net = |net: &v1::Net| size_of::<v1::Net>() + net.except.len() * size_of::<ipnet::IpNet>();
    let peers = match &rule.peers {
        v1::Peers::Any => 0,
        v1::Peers::Of { selectors, nets } => selectors.len() * size_of::<u32>() + nets.iter().map(net).sum::<usize>(),
    };
    rule.name.len() + peers + rule.ports.as_ref().map_or(0, Vec::len) * size_of::<v1::PortRange>()
}

fn service_bytes(service: &v1::Service) -> usize {
    let set = |set: &Vec<v1::Backend>| size_of::<Vec<v1::Backend>>() + set.len() * size_of::<v1::Backend>();
    let frontend = |frontend: &v1::Frontend| {
        size_of::<v1::Frontend>() + frontend.sources.as_ref().map_or(0, |s| s.len() * size_of::<ipnet::IpNet>())
    };
    let port = |port: &v1::ServicePort| {
        let sets: usize = port.sets.iter().map(set).sum();
        let frontends: usize = port.frontends.iter().map(frontend).sum();
        size_of::<v1::ServicePort>() + port.name.len() + sets + frontends
    };
    service.name.len() + service.ports.iter().map(port).sum::<usize>()
}
