//! Services and the world outside, as control wants them: plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podplane_packet::id::Mac;
use podplane_packet::wire::proto;

use crate::snapshot::Prefix;

/// A transport protocol that Services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    #[inline]
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => proto::TCP,
            Protocol::Udp => proto::UDP,
            Protocol::Sctp => proto::SCTP,
        }
    }

    /// The protocol of that number, if it is one that Services have.
    #[inline]
    pub const fn from_number(number: u8) -> Option<Protocol> {
        match number {
            proto::TCP => Some(Protocol::Tcp),
            proto::UDP => Some(Protocol::Udp),
            proto::SCTP => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Names one port of one Service in one family for as long as it exists. Control gives the numbers and gives none to
/// another within a day, for that is how long a client's backend may be remembered under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// Where a Service's traffic goes in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// A backend of the set with this index in [`ServiceConfig::sets`].
    Set(u16),
    /// A refusal: TCP reset, ICMP port unreachable.
    Reject,
    /// Silence.
    Drop,
}

/// What a frontend is: the sort of address that clients use. Only [`FrontendKind::ClusterIp`] means something to the
/// packet path (an address in use within the ServiceCIDRs); the rest is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendKind {
    /// The Service's own address.
    ClusterIp,
    /// A node's address and a port of the node port range.
    NodePort,
    /// A load balancer's address.
    LoadBalancer,
    /// One of `externalIPs`.
    ExternalIp,
    /// A pod's `hostPort`.
    HostPort,
}

/// An address and port that clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendConfig {
    /// What it is.
    pub kind: FrontendKind,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What pods and the node get.
    pub inside: Choice,
    /// What comes plain by the uplink gets.
    pub outside: Choice,
    /// The only clients that are served; others are dropped silently. `None`: all.
    pub sources: Option<Vec<Prefix>>,
}

/// One port of a Service in one family, or a pod's host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// The protocol.
    pub protocol: Protocol,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// Sets of backends, of one family each, not empty, sorted, without duplicates.
    pub sets: Vec<Vec<Backend>>,
    /// The addresses that clients use.
    pub frontends: Vec<FrontendConfig>,
}

/// How many parts a [`ServiceMap`] has.
const SHARDS: usize = 256;

/// One part of the map: few entries, so that changing it costs little.
type Shard = BTreeMap<ServiceId, Arc<ServiceConfig>>;

/// All Services, in a map that is cheap to clone and to compare with its former state: parts that nobody changed are
/// shared, and an entry that is the same [`Arc`] is known to be the same.
#[derive(Clone, Debug)]
pub struct ServiceMap {
    shards: Box<[Arc<Shard>]>,
}

impl Default for ServiceMap {
    fn default() -> Self {
        let empty = Arc::default();
        ServiceMap { shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect() }
    }
}

impl ServiceMap {
    /// Adds or replaces; returns what was there.
    pub fn insert(&mut self, id: ServiceId, service: Arc<ServiceConfig>) -> Option<Arc<ServiceConfig>> {
        Arc::make_mut(&mut self.shards[Self::shard(id)]).insert(id, service)
    }

    /// Removes; returns what was there.
    pub fn remove(&mut self, id: ServiceId) -> Option<Arc<ServiceConfig>> {
        let shard = &mut self.shards[Self::shard(id)];
        if !shard.contains_key(&id) {
            return None;
        }
        Arc::make_mut(shard).remove(&id)
    }

    /// The Service of that name.
    pub fn get(&self, id: ServiceId) -> Option<&Arc<ServiceConfig>> {
        self.shards[Self::shard(id)].get(&id)
    }

    /// All, in no order that means something.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceId, &Arc<ServiceConfig>)> {
        self.shards.iter().flat_map(|s| s.iter().map(|(id, service)| (*id, service)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|s| s.is_empty())
    }

    /// Tells what differs from `before`: (name, before, now). What is the same [`Arc`] or equal is not told.
    pub(in crate::snapshot) fn diff<'a>(
        &'a self,
        before: &'a ServiceMap,
        tell: &mut dyn FnMut(ServiceId, Option<&'a Arc<ServiceConfig>>, Option<&'a Arc<ServiceConfig>>),
    ) {
        for (now, old) in self.shards.iter().zip(&before.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)) {
            for (id, service) in now.iter() {
                match old.get(id) {
                    Some(was) if Arc::ptr_eq(was, service) || was == service => {}
                    was => tell(*id, was, Some(service)),
                }
            }
            for (id, was) in old.iter().filter(|(id, _)| !now.contains_key(id)) {
                tell(*id, Some(was), None);
            }
        }
    }

    const fn shard(id: ServiceId) -> usize {
        id.0 as usize % SHARDS
    }
}

impl FromIterator<(ServiceId, Arc<ServiceConfig>)> for ServiceMap {
    fn from_iter<T: IntoIterator<Item = (ServiceId, Arc<ServiceConfig>)>>(all: T) -> Self {
        let mut map = ServiceMap::default();
        for (id, service) in all {
            map.insert(id, service);
        }
        map
    }
}

/// Addresses and ports that are given to what leaves the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Addresses of this node, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The first and the last port, which nobody else on the node uses.
    pub ports: (u16, u16),
}

/// How a range outside the cluster is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It is on the uplink's own network.
    OnLink,
    /// By a router on the uplink's own network.
    Gateway(IpAddr),
    /// By another device of the node: its own stack is given the packet.
    Host,
    /// The node's administrator wants nothing to get there.
    Nowhere,
}

/// The world outside the cluster, as the node's kernel knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutsideConfig {
    /// Ranges and how they are reached; the longest match counts.
    pub routes: Vec<(Prefix, Reach)>,
    /// Neighbours on the uplink's network and their MACs, `None` while they are being resolved. Control keeps each at
    /// its index across snapshots. All gateways of `routes` must be among them. An index that is free holds the
    /// unspecified address.
    pub neighbours: Vec<(IpAddr, Option<Mac>)>,
}
