//! From wanted to compiled: every check, the FIB, stable VTEP indices, and the stamps of what changed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podplane_packet::id::{PortId, WorkerId};

use podplane_tables::VtepIndex;
use podplane_tables::changed::ChangedCells;
use podplane_tables::fib::{Fib, NextHop};

use super::nets::{Nets, usable};
use super::outside::Outside;
use super::policy::{Policy, PortPolicy};
use super::services::{Services, Terms};
use super::{
    Local, LocalConfig, MIN_MTU, PeerConfig, Places, PortClass, PortEntry, Prefix, Snapshot, SnapshotConfig,
    SnapshotError, Vtep, Wanted,
};

/// The smallest MTU without IPv6 (RFC 791: every host takes 576 bytes).
const MIN_MTU_V4: u16 = 576;

impl Snapshot {
    /// Compiles a configuration. `previous` is the snapshot in force: indices of VTEPs are kept, the generation is one
    /// higher, and **what changed is stamped in the cells that both share**, so the result must be published before
    /// another is compiled.
    ///
    /// # Errors
    /// [`SnapshotError`]: what is wrong. Nothing is stamped then.
    pub fn compile(config: &SnapshotConfig, previous: Option<&Snapshot>) -> Result<Snapshot, SnapshotError> {
        if config.workers == 0 || usize::from(config.workers) > WorkerId::MAX {
            return Err(SnapshotError::Workers(config.workers));
        }
        let generation = previous.map_or(1, |p| p.generation + 1);
        // One seed for all snapshots: the owner of a packet must not depend on which one a worker holds. Before the node
        // is known no packet has an owner.
        let seed = previous.filter(|p| p.local.is_some()).map_or(config.seed, |p| p.seed);
        let changed = match previous {
            Some(previous) => Arc::clone(&previous.changed),
            None => Arc::new(ChangedCells::new(config.seed)),
        };
        let same = previous.filter(|p| p.workers == config.workers && p.wanted.is(config));
        let placed = previous.filter(|p| p.workers == config.workers && p.wanted.places.is(config));
        let base = match (same, placed) {
            (Some(same), _) => Base::of(same),
            (None, Some(placed)) if placed.wanted.differs_in_policy_alone(config) => {
                Base::with_policies(placed, config)?
            }
            _ => Base::compile(config, previous, generation)?,
        };
        let (own, cluster_seed): (&[IpAddr], _) =
            config.local.as_ref().map_or((&[], [0; 2]), |l| (&l.addresses, l.cluster_seed));
        // A table is known by its backends alone, so another seed starts anew.
        let before = previous.filter(|p| p.local().map_or([0; 2], |l| l.cluster_seed) == cluster_seed);
        let terms = Terms { seed: cluster_seed, workers: config.workers, table_limit: config.table_limit };
        let (services, change) = Services::compile(&config.services, own, terms, before.map(|p| &p.services))?;
        let outside = Outside::compile(&config.outside, previous.map(|p| &p.outside))?;
        let (policy, judged) = Policy::compile(config, previous.map(|p| &p.policy), placed.is_some(), same.is_some())?;
        let Base { ports, local, vteps, fib, wanted } = base;
        let workers = config.workers;
        let snapshot = Snapshot {
            generation,
            workers,
            seed,
            ports,
            local,
            vteps,
            fib,
            wanted,
            services,
            outside,
            policy,
            changed,
        };
        if let Some(previous) = previous {
            stamp(previous, &snapshot);
            snapshot.outside.stamp(&previous.outside, &snapshot.changed, generation);
            change.stamp(&snapshot.changed, generation);
            judged.stamp(&snapshot.ports, &snapshot.changed, generation);
        }
        Ok(snapshot)
    }
}

/// What ports, this node and its peers compile to.
struct Base {
    ports: Arc<[Option<PortEntry>]>,
    local: Option<Arc<Local>>,
    vteps: Arc<[Option<Vtep>]>,
    fib: Fib,
    wanted: Arc<Wanted>,
}

impl Base {
    /// That of a snapshot.
    fn of(s: &Snapshot) -> Base {
        let (ports, vteps) = (Arc::clone(&s.ports), Arc::clone(&s.vteps));
        Base { ports, local: s.local.clone(), vteps, fib: s.fib.clone(), wanted: Arc::clone(&s.wanted) }
    }

    /// That of a snapshot, but for which rules ports have: no route depends on those.
    fn with_policies(s: &Snapshot, config: &SnapshotConfig) -> Result<Base, SnapshotError> {
        let wanted = Wanted { ports: config.ports.clone(), places: Arc::clone(&s.wanted.places) };
        Ok(Base { ports: ports(config)?.into(), wanted: Arc::new(wanted), ..Base::of(s) })
    }

    fn compile(config: &SnapshotConfig, previous: Option<&Snapshot>, generation: u32) -> Result<Base, SnapshotError> {
        let ports = ports(config)?;
        let mut routes = Routes::default();
        let local = match &config.local {
            Some(local) => Some(compile_local(local, &ports, &mut routes)?),
            None => None,
        };
        let vteps = compile_peers(config, local.as_ref(), &ports, previous, generation, &mut routes)?;
        if let (Some(wanted), Some(local)) = (&config.local, &local) {
            routes.pods(&ports)?;
            routes.unannounced(wanted, local);
        }
        let fib = routes.into_fib()?;
        let mut places =
            Places { local: config.local.clone(), peers: config.peers.clone(), by_vtep: vec![None; vteps.len()] };
        let index: HashMap<IpAddr, usize> =
            vteps.iter().enumerate().filter_map(|(i, v)| Some((v.as_ref()?.addr, i))).collect();
        for peer in &config.peers {
            if let Some(&i) = index.get(&peer.vtep) {
                places.by_vtep[i] = Some((peer.addresses.clone(), peer.pod_cidrs.clone()));
            }
        }
        let wanted = Wanted { ports: config.ports.clone(), places: Arc::new(places) };
        let (ports, vteps) = (ports.into(), vteps.into());
        Ok(Base { ports, local: local.map(Arc::new), vteps, fib, wanted: Arc::new(wanted) })
    }
}

fn ports(config: &SnapshotConfig) -> Result<Box<[Option<PortEntry>]>, SnapshotError> {
    let mut ports: Vec<Option<PortEntry>> = Vec::new();
    for &(id, entry) in &config.ports {
        if id.index() >= PortId::MAX {
            return Err(SnapshotError::PortOutOfRange(id));
        }
        if ports.len() <= id.index() {
            ports.resize(id.index() + 1, None);
        }
        let class = match id {
            PortId::UPLINK => PortClass::Uplink,
            PortId::HOST => PortClass::Host,
            _ => PortClass::Pod,
        };
        if class != entry.kind {
            return Err(SnapshotError::PortClass(id, entry.kind));
        }
        if entry.home.0 >= config.workers {
            return Err(SnapshotError::Home(id, entry.home, config.workers));
        }
        if (entry.v4.is_some() || entry.v6.is_some()) != (class == PortClass::Pod) {
            return Err(SnapshotError::PortAddresses(id));
        }
        if class != PortClass::Pod && entry.policy != PortPolicy::default() {
            return Err(SnapshotError::PortPolicy(id));
        }
        let min = if entry.v6.is_some() { MIN_MTU } else { MIN_MTU_V4 };
        if entry.mtu < min {
            return Err(SnapshotError::Mtu(format!("port {id:?}"), entry.mtu));
        }
        if ports[id.index()].replace(entry).is_some() {
            return Err(SnapshotError::PortTwice(id));
        }
    }
    Ok(ports.into_boxed_slice())
}

fn compile_local(
    config: &LocalConfig,
    ports: &[Option<PortEntry>],
    routes: &mut Routes,
) -> Result<Local, SnapshotError> {
    if !config.addresses.contains(&config.vtep) {
        return Err(SnapshotError::VtepNotLocal(config.vtep));
    }
    let uplink = ports.first().copied().flatten().ok_or(SnapshotError::NoUplink)?;
    for &address in &config.addresses {
        routes.host(address, NextHop::Host)?;
    }
    let (mut gateway_v4, mut gateway_v6) = (None, None);
    for &prefix in &config.pod_cidrs {
        let gateway = routes.pod_range(prefix, NextHop::Blackhole)?;
        routes.host(gateway, NextHop::Gateway)?;
        let twice = match gateway {
            IpAddr::V4(a) => gateway_v4.replace(a).is_some(),
            IpAddr::V6(a) => gateway_v6.replace(a).is_some(),
        };
        if twice {
            return Err(SnapshotError::PrefixInvalid(prefix));
        }
    }
    let min = if gateway_v6.is_some() { MIN_MTU } else { MIN_MTU_V4 };
    if config.pod_mtu < min {
        return Err(SnapshotError::Mtu("the pods".to_owned(), config.pod_mtu));
    }
    let masquerade = compile_masquerade(config)?;
    let nets = |list: &[Prefix]| {
        let bad = list.iter().copied().find(|p| p.network().is_none());
        bad.map_or_else(|| Ok(Nets::new(list).unwrap_or_default()), |p| Err(SnapshotError::PrefixInvalid(p)))
    };
    Ok(Local {
        announced: config.addresses.as_slice().into(),
        masquerade_v4: masquerade.0,
        masquerade_v6: masquerade.1,
        masquerade_ports: masquerade.2,
        service_cidrs: nets(&config.service_cidrs)?,
        no_masquerade: nets(&config.no_masquerade)?,
        cluster_seed: config.cluster_seed,
        vtep: config.vtep,
        vni: config.vni,
        gateway_v4,
        gateway_v6,
        pod_mtu: config.pod_mtu,
        uplink_mac: uplink.mac,
    })
}

type Masqueraded = (Option<Ipv4Addr>, Option<Ipv6Addr>, (u16, u16));

fn compile_masquerade(config: &LocalConfig) -> Result<Masqueraded, SnapshotError> {
    let Some(wanted) = &config.masquerade else { return Ok((None, None, (u16::MAX, 0))) };
    let (mut v4, mut v6) = (None, None);
    for address in &wanted.addresses {
        let twice = match *address {
            IpAddr::V4(a) => v4.replace(a).is_some(),
            IpAddr::V6(a) => v6.replace(a).is_some(),
        };
        if twice || !config.addresses.contains(address) {
            return Err(SnapshotError::MasqueradeInvalid);
        }
    }
    let (first, last) = wanted.ports;
    if first < 1024 || first > last {
        return Err(SnapshotError::MasqueradeInvalid);
    }
    Ok((v4, v6, wanted.ports))
}

fn compile_peers(
    config: &SnapshotConfig,
    local: Option<&Local>,
    ports: &[Option<PortEntry>],
    previous: Option<&Snapshot>,
    generation: u32,
    routes: &mut Routes,
) -> Result<Box<[Option<Vtep>]>, SnapshotError> {
    let (Some(local), Some(Some(uplink))) = (local, ports.first()) else { return Ok(Box::default()) };
    let known: HashMap<IpAddr, (VtepIndex, u32)> =
        previous.into_iter().flat_map(Snapshot::vteps).map(|(id, v)| (v.addr, (id, v.since))).collect();
    let mut vteps: Vec<Option<Vtep>> = vec![None; previous.map_or(0, |p| p.vteps.len())];
    let mut fresh: Vec<&PeerConfig> = Vec::new();
    let mut place = |peer: &PeerConfig, id: VtepIndex, since: u32, vteps: &mut Vec<Option<Vtep>>| {
        if peer.vtep.is_ipv4() != local.vtep.is_ipv4() {
            return Err(SnapshotError::VtepFamily(peer.vtep, local.vtep));
        }
        routes.host(peer.vtep, NextHop::Node(id))?;
        for &address in peer.addresses.iter().filter(|a| **a != peer.vtep) {
            routes.host(address, NextHop::Node(id))?;
        }
        for &prefix in &peer.pod_cidrs {
            routes.pod_range(prefix, NextHop::Vtep(id))?;
        }
        if vteps.len() <= id.index() {
            vteps.resize(id.index() + 1, None);
        }
        if vteps[id.index()].is_some() {
            return Err(SnapshotError::AddressTwice(peer.vtep));
        }
        vteps[id.index()] = Some(Vtep::new(peer.vtep, peer.next_hop, local, uplink.mtu, since));
        Ok(())
    };
    for peer in &config.peers {
        match known.get(&peer.vtep) {
            Some(&(id, since)) => place(peer, id, since, &mut vteps)?,
            None => fresh.push(peer),
        }
    }
    let mut free = 0;
    for peer in fresh {
        while vteps.get(free).is_some_and(Option::is_some) {
            free += 1;
        }
        if free >= VtepIndex::MAX {
            return Err(SnapshotError::TooManyPeers);
        }
        place(peer, VtepIndex(free as u16), generation, &mut vteps)?;
    }
    Ok(vteps.into_boxed_slice())
}

/// All routes before they become a FIB: who claims what.
#[derive(Default)]
struct Routes {
    hosts: HashMap<IpAddr, NextHop>,
    ranges: Vec<(Prefix, NextHop)>,
}

impl Routes {
    /// Claims one address. The same claim twice is one.
    fn host(&mut self, address: IpAddr, route: NextHop) -> Result<(), SnapshotError> {
        if !usable(address) {
            return Err(SnapshotError::AddressInvalid(address));
        }
        match self.hosts.insert(address, route) {
            Some(other) if other != route => Err(SnapshotError::AddressTwice(address)),
            _ => Ok(()),
        }
    }

    /// Claims a pod range and returns its node's address, network + 1.
    fn pod_range(&mut self, prefix: Prefix, route: NextHop) -> Result<IpAddr, SnapshotError> {
        let invalid = SnapshotError::PrefixInvalid(prefix);
        let Some(network) = prefix.network() else { return Err(invalid) };
        let first = match network {
            IpAddr::V4(a) if (8..=30).contains(&prefix.len) => IpAddr::V4((u32::from(a) + 1).into()),
            IpAddr::V6(a) if (8..=126).contains(&prefix.len) => IpAddr::V6((u128::from(a) + 1).into()),
            _ => return Err(invalid),
        };
        if !usable(first) {
            return Err(invalid);
        }
        self.ranges.push((Prefix { addr: network, len: prefix.len }, route));
        Ok(first)
    }

    fn pods(&mut self, ports: &[Option<PortEntry>]) -> Result<(), SnapshotError> {
        for (i, entry) in ports.iter().enumerate() {
            let Some(entry) = entry else { continue };
            for address in entry.addresses() {
                self.host(address, NextHop::Local(PortId(i as u16)))?;
            }
        }
        Ok(())
    }

    /// Takes in what only this node's kernel knows, where nobody else claims it: leftovers of another network plugin and
    /// addresses that several nodes hold are no reason to refuse a configuration.
    fn unannounced(&mut self, config: &LocalConfig, local: &Local) {
        for &address in config.unannounced.iter().filter(|a| usable(**a) && !local.service_cidrs.contains(**a)) {
            let len = if address.is_ipv4() { 32 } else { 128 };
            let here = Prefix { addr: address, len };
            if !self.ranges.iter().any(|(range, _)| range.overlaps(&here)) {
                self.hosts.entry(address).or_insert(NextHop::Host);
            }
        }
    }

    /// Refuses ranges that overlap and builds the FIB.
    fn into_fib(mut self) -> Result<Fib, SnapshotError> {
        self.ranges.sort_unstable_by_key(|(p, _)| *p);
        if let Some(pair) = self.ranges.windows(2).find(|w| w[0].0.overlaps(&w[1].0)) {
            return Err(SnapshotError::PrefixInvalid(pair[1].0));
        }
        let prefixes = self.ranges.into_iter().map(|(p, hop)| (p.addr, p.len, hop));
        // Both have been checked for length and uniqueness, so the table has nothing left to refuse.
        Fib::build(prefixes, self.hosts).map_err(|e| SnapshotError::Routes(e.to_string()))
    }
}

/// Stamps what differs between two snapshots, so that flows judged by the old one are judged again.
fn stamp(old: &Snapshot, new: &Snapshot) {
    let (cells, generation) = (&new.changed, new.generation);
    if Arc::ptr_eq(&old.wanted, &new.wanted) {
        return;
    }
    for i in 0..old.ports.len().max(new.ports.len()) {
        let id = PortId(i as u16);
        let (before, after) = (old.port(id), new.port(id));
        if before != after {
            cells.stamp_port(id, generation);
            for entry in [before, after].into_iter().flatten() {
                entry.addresses().for_each(|a| cells.stamp_address(a, generation));
            }
        }
    }
    let (before, after) = (&old.wanted.places, &new.wanted.places);
    if Arc::ptr_eq(before, after) {
        return;
    }
    // Ranges cover addresses without number: where one comes, goes or moves, everything is judged again.
    if before.ranges() != after.ranges() || before.local != after.local {
        cells.stamp_all(generation);
    }
    for i in 0..old.vteps.len().max(new.vteps.len()) {
        let id = VtepIndex(i as u16);
        if old.vtep(id).map(|v| v.since) != new.vtep(id).map(|v| v.since) {
            cells.stamp_vtep(id, generation);
        }
        let (before, after) = (before.addresses(id), after.addresses(id));
        if before != after {
            before.iter().chain(after).for_each(|a| cells.stamp_address(*a, generation));
        }
    }
}

impl Wanted {
    /// Whether a configuration wants the same of ports, this node and its peers.
    fn is(&self, config: &SnapshotConfig) -> bool {
        self.ports == config.ports && self.places.is(config)
    }

    /// Whether a configuration, which wants the same of this node and its peers, wants the same of ports but for policy.
    fn differs_in_policy_alone(&self, config: &SnapshotConfig) -> bool {
        let bare = |&(id, port): &(PortId, PortEntry)| (id, PortEntry { policy: PortPolicy::default(), ..port });
        self.ports.iter().map(bare).eq(config.ports.iter().map(bare))
    }
}

impl Places {
    /// Whether a configuration wants the same.
    fn is(&self, config: &SnapshotConfig) -> bool {
        self.local == config.local && self.peers == config.peers
    }

    fn ranges(&self) -> impl PartialEq + use<> {
        let mut all: Vec<(usize, Prefix)> = self
            .by_vtep
            .iter()
            .enumerate()
            .flat_map(|(i, p)| p.iter().flat_map(move |p| p.1.iter().map(move |r| (i, *r))))
            .collect();
        all.sort_unstable();
        all
    }

    fn addresses(&self, vtep: VtepIndex) -> &[IpAddr] {
        self.by_vtep.get(vtep.index()).and_then(Option::as_ref).map_or(&[], |p| &p.0)
    }
}

#[cfg(test)]
mod tests;
