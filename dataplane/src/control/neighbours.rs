//! Neighbours on the uplink's network: resolved by the node's kernel on the host port, which reaches that network at
//! L2, so ARP and ND need no code of ours.
//!
//! Two sorts: gateways (next hops of peers and of routes), which the kernel keeps resolved for as long as they are
//! wanted; and hosts that workers asked for, which are refreshed while there is room and forgotten when they do not
//! answer. Each keeps its index while it is here, for flows hold the index.
//!
//! How many hosts may be unanswered is shared among the ports whose packets ask: where there are too many, the port with the
//! most gives way, so that a pod that scans the network keeps no other from its neighbours.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use podplane_hostnet::{Mac, NeighState, Neighbour, Netlink, Result};
use podplane_packet::id::PortId;

/// The most hosts that are known at once; the one asked for longest ago makes room.
const HOSTS: usize = 4096;
/// The most hosts that have not answered yet: a scan of the network must not displace those that are in use.
const UNANSWERED: usize = 256;
/// After which a host that does not answer is forgotten: the kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often the kernel is made to verify a host.
const REFRESH: Duration = Duration::from_secs(30);

/// What is asked of the kernel, about one device.
pub trait Kernel {
    /// The device.
    fn index(&self) -> u32;
    /// All neighbours that it knows there.
    fn all(&mut self) -> Vec<Neighbour>;
    /// One of them.
    fn one(&mut self, address: IpAddr) -> Option<Neighbour>;
    /// It is to keep one resolved.
    fn manage(&mut self, address: IpAddr);
    /// It is to resolve one once.
    fn resolve(&mut self, address: IpAddr);
    /// It is to forget one.
    fn forget(&mut self, address: IpAddr);
}

/// The kernel of this node, and the node's side of the host port.
pub struct HostPort {
    netlink: Netlink,
    index: u32,
}

impl Kernel for HostPort {
    fn index(&self) -> u32 {
        self.index
    }

    fn all(&mut self) -> Vec<Neighbour> {
        self.netlink.neighbours(Some(self.index)).unwrap_or_default()
    }

    fn one(&mut self, address: IpAddr) -> Option<Neighbour> {
        self.netlink.neighbour(self.index, address).ok().flatten()
    }

    fn manage(&mut self, address: IpAddr) {
        if let Err(error) = self.netlink.manage_neighbour(self.index, address) {
            tracing::warn!(hop = %address, %error, "the kernel does not resolve a next hop");
        }
    }

    fn resolve(&mut self, address: IpAddr) {
        if let Err(error) = self.netlink.use_neighbour(self.index, address) {
            tracing::debug!(%address, %error, "cannot ask for a neighbour");
        }
    }

    fn forget(&mut self, address: IpAddr) {
        if let Err(error) = self.netlink.delete_neighbour(self.index, address) {
            tracing::debug!(%address, %error, "cannot forget a neighbour");
        }
    }
}

/// One neighbour.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: IpAddr,
    /// The last that was known. One that stops answering keeps it while the kernel goes on asking.
    mac: Option<Mac>,
    /// `None`: a gateway.
    asked: Option<Asked>,
    /// An administrator set it: it is not ours to remove.
    permanent: bool,
}

/// A worker's question for a host.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The port whose packet it was for.
    by: PortId,
    at: Instant,
    /// When the kernel was last told to verify it.
    verified: Instant,
}

/// All neighbours that are in use or asked for.
pub struct Neighbours<K = HostPort> {
    kernel: K,
    entries: Vec<Option<Entry>>,
    index: HashMap<IpAddr, usize>,
}

impl<K> std::fmt::Debug for Neighbours<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Neighbours {
    /// Knows none yet. `host_index`: the interface index of the node's side of the host port.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn new(host_index: u32) -> Result<Neighbours> {
        Ok(Neighbours::of(HostPort { netlink: Netlink::open()?, index: host_index }))
    }
}

impl<K: Kernel> Neighbours<K> {
    fn of(kernel: K) -> Neighbours<K> {
        Neighbours { kernel, entries: Vec::new(), index: HashMap::new() }
    }

    /// Keeps these gateways resolved and no others.
    pub fn keep(&mut self, wanted: &BTreeSet<IpAddr>) {
        let gone = self.entries.iter().flatten().filter(|e| e.asked.is_none() && !wanted.contains(&e.address));
        for address in gone.map(|e| e.address).collect::<Vec<_>>() {
            self.forget(address);
        }
        let is_gateway = |address| self.get(address).is_some_and(|e| e.asked.is_none());
        let fresh: Vec<IpAddr> = wanted.iter().copied().filter(|a| !is_gateway(*a)).collect();
        if fresh.is_empty() {
            return;
        }
        // An address that an administrator set stays as it is.
        let known = self.kernel.all();
        for address in fresh {
            self.place(address, None);
            if !known.iter().any(|n| n.address == address && n.state == NeighState::Permanent) {
                self.kernel.manage(address);
            }
        }
        for neighbour in &known {
            self.changed(neighbour);
        }
    }

    /// Resolves a host that a worker has a packet for, which came in by port `by`. Known ones, and those on the way, are
    /// left alone. `true`: the kernel knew it already, and will not say so again.
    pub fn ask(&mut self, address: IpAddr, by: PortId, now: Instant) -> bool {
        if self.get(address).is_some() || !self.make_room(by, now) {
            return false;
        }
        self.place(address, Some(Asked { by, at: now, verified: now }));
        self.kernel.resolve(address);
        self.kernel.one(address).is_some_and(|neighbour| self.changed(&neighbour))
    }

    /// A neighbour changed. `true`: somebody's Ethernet address is another now.
    pub fn changed(&mut self, neighbour: &Neighbour) -> bool {
        if neighbour.index != self.kernel.index() {
            return false;
        }
        let Some(entry) = self.index.get(&neighbour.address).and_then(|i| self.entries[*i].as_mut()) else {
            return false;
        };
        entry.permanent = neighbour.state == NeighState::Permanent;
        match neighbour.state {
            NeighState::Permanent | NeighState::Valid => match neighbour.mac {
                Some(mac) => entry.mac.replace(mac) != Some(mac),
                None => false,
            },
            // A host that is gone is forgotten, so that nothing waits for it; a gateway keeps its last.
            NeighState::Failed if entry.asked.is_some() => {
                let known = entry.mac.is_some();
                self.forget(neighbour.address);
                known
            }
            NeighState::Failed | NeighState::Incomplete => false,
        }
    }

    /// Reads all again, because events were lost. `true`: something is different.
    pub fn read(&mut self) -> bool {
        // Not `any`: each must be looked at.
        self.kernel.all().iter().fold(false, |changed, n| self.changed(n) | changed)
    }

    /// Asks again for gateways that have not answered, has hosts verified, and forgets those that do not answer. To be
    /// called every few seconds. `true`: something is different.
    pub fn retry(&mut self, now: Instant) -> bool {
        let (mut again, mut silent) = (Vec::new(), Vec::new());
        for entry in self.entries.iter_mut().flatten() {
            match (&mut entry.asked, entry.mac) {
                (None, None) => again.push(entry.address),
                (Some(asked), None) if now.duration_since(asked.at) >= PATIENCE => silent.push(entry.address),
                (Some(asked), Some(_)) if now.duration_since(asked.verified) >= REFRESH => {
                    asked.verified = now;
                    again.push(entry.address);
                }
                _ => {}
            }
        }
        again.into_iter().for_each(|address| self.kernel.resolve(address));
        silent.iter().for_each(|address| self.forget(*address));
        !silent.is_empty()
    }

    /// The Ethernet address of a neighbour.
    pub fn mac(&self, address: IpAddr) -> Option<Mac> {
        self.get(address)?.mac
    }

    /// All by their indices; a free index holds the unspecified address.
    pub fn table(&self) -> Vec<(IpAddr, Option<Mac>)> {
        let free = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), None);
        self.entries.iter().map(|e| e.map_or(free, |e| (e.address, e.mac))).collect()
    }

    fn get(&self, address: IpAddr) -> Option<&Entry> {
        self.entries[*self.index.get(&address)?].as_ref()
    }

    /// Whether one more host that `by` asks for has a place; takes that of another, if need be.
    fn make_room(&mut self, by: PortId, now: Instant) -> bool {
        let hosts = || self.entries.iter().flatten().filter_map(|e| Some((e, e.asked?)));
        if hosts().filter(|(e, _)| e.mac.is_none()).count() >= UNANSWERED {
            return self.displace_unanswered(by);
        }
        if hosts().count() < HOSTS {
            return true;
        }
        let oldest = hosts().min_by_key(|(_, asked)| asked.at).filter(|(_, asked)| asked.at < now);
        match oldest.map(|(e, _)| e.address) {
            Some(address) => {
                self.forget(address);
                true
            }
            None => false,
        }
    }

    /// Forgets the longest unanswered host of the port that has the most of them, if that is more than `by` will have.
    fn displace_unanswered(&mut self, by: PortId) -> bool {
        let unanswered =
            || self.entries.iter().flatten().filter(|e| e.mac.is_none()).filter_map(|e| Some((e.address, e.asked?)));
        let mut counts: HashMap<PortId, usize> = HashMap::new();
        unanswered().for_each(|(_, asked)| *counts.entry(asked.by).or_default() += 1);
        let mine = counts.get(&by).copied().unwrap_or_default();
        let Some((&most, _)) = counts.iter().max_by_key(|(_, n)| **n).filter(|(_, n)| **n > mine + 1) else {
            return false;
        };
        let longest = unanswered().filter(|(_, asked)| asked.by == most).min_by_key(|(_, asked)| asked.at);
        let Some((address, _)) = longest else { return false };
        self.forget(address);
        true
    }

    fn place(&mut self, address: IpAddr, asked: Option<Asked>) {
        let known = self.index.get(&address).copied();
        let mac = known.and_then(|i| self.entries[i].as_ref()).and_then(|e| e.mac);
        let at = known.or_else(|| self.entries.iter().position(Option::is_none)).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[at] = Some(Entry { address, mac, asked, permanent: false });
        self.index.insert(address, at);
    }

    fn forget(&mut self, address: IpAddr) {
        let Some(at) = self.index.remove(&address) else { return };
        if !self.entries[at].take().is_some_and(|entry| entry.permanent) {
            self.kernel.forget(address);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
