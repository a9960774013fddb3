//! The world and its history: which flows are known, which backend each client has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use podplane_model::objects::{Cluster, Protocol, Service};
use podplane_model::oracle::PortId;
use podplane_packet::id::Mac;
use podplane_pipeline::sim::{Sim, SimPod};

use crate::chain::Chain;
use crate::walk::{Expected, Outcome, expected};
use crate::wire::{self, ACK, FIN, Place, RST, SYN, Seen, Sent, What};

/// What names a flow.
pub type Key = (Place, SocketAddr, SocketAddr, Protocol);

/// A flow that the dataplane knows.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// How its packets arrived.
    pub seen: Seen,
    /// When a packet was seen last.
    last: u32,
    /// Its client has closed it.
    closed: bool,
    /// It may have expired and been made anew, just as it was.
    doubtful: bool,
}

/// What must come of a packet of a flow that was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// As before.
    Kept,
    /// As a first packet.
    Anew,
    /// One or the other: it may have expired.
    Either,
}

/// The world.
pub struct World {
    pub sim: Sim,
    pods: Vec<SimPod>,
    macs: Vec<Mac>,
    /// What the API server has.
    pub truth: Cluster,
    /// What each node has heard of it and accepted.
    pub views: Vec<Cluster>,
    chains: Vec<Chain>,
    flows: BTreeMap<Key, Flow>,
    /// The backend that a client of a node has, and since when.
    affinity: BTreeMap<(usize, IpAddr, PortId), (SocketAddr, u32)>,
    /// Ports of clients: one for each address, so that no two connections look alike after translation.
    clients: BTreeMap<(SocketAddr, Protocol, Place), u16>,
    /// Those that got a packet lately, the last first.
    pub recent: Vec<Key>,
    /// What was done, for people.
    pub log: Vec<String>,
    /// How often the history came to what is worth a test.
    pub seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(workers: u8, truth: Cluster) -> World {
        let (sim, pods) = wire::sim(workers);
        let macs = sim.nodes.iter().map(|n| n.uplink_mac()).collect();
        let chains = (0..2).map(|n| Chain::new(n, &pods)).collect();
        let mut world = World {
            sim,
            pods,
            macs,
            views: vec![truth.clone(), truth.clone()],
            truth,
            chains,
            flows: BTreeMap::new(),
            affinity: BTreeMap::new(),
            clients: BTreeMap::new(),
            recent: Vec::new(),
            log: Vec::new(),
            seen: BTreeMap::new(),
        };
        (0..2).for_each(|n| world.restart(n));
        world
    }

    /// A node hears what is different by now. A mistake changes nothing.
    pub fn follow(&mut self, n: usize) {
        let before = &self.views[n].services;
        let mut view = self.truth.clone();
        view.services.retain(|name, s| !s.is_mistaken() || before.contains_key(name));
        for (name, service) in &mut view.services {
            if service.is_mistaken() {
                service.clone_from(&before[name]);
            }
        }
        self.see(n, view);
        self.chains[n].follow(&self.truth, &mut self.sim.nodes[n], &self.macs);
    }

    /// A node's agent begins anew.
    pub fn restart(&mut self, n: usize) {
        let mut view = self.truth.clone();
        view.services.retain(|_, s| !s.is_mistaken());
        self.see(n, view);
        self.chains[n].start(&self.truth, &mut self.sim.nodes[n], &self.macs);
    }

    /// Whose ports are no longer the same ports has forgotten its clients, or not.
    fn see(&mut self, n: usize, view: Cluster) {
        let identity = |s: &Service| Service {
            affinity: None,
            internal_local: false,
            external_local: false,
            ranges: Vec::new(),
            ..s.clone()
        };
        let all = |c: &Cluster| c.services.iter().map(|(name, s)| (name.clone(), identity(s))).collect::<Vec<_>>();
        if all(&self.views[n]) != all(&view) {
            self.affinity.retain(|(judge, _, _), _| *judge != n);
        }
        self.views[n] = view;
    }

    pub fn wait(&mut self, millis: u32) {
        self.sim.advance(millis);
    }

    /// A client's packet; `again`: which of its connections. `Err`: what should not have come of it.
    pub fn send(
        &mut self,
        from: Place,
        client: u8,
        dst: SocketAddr,
        protocol: Protocol,
        again: u16,
        flags: u8,
    ) -> Result<(), String> {
        let v6 = dst.is_ipv6();
        let src = match from {
            Place::Host(_) if dst.ip().is_loopback() => Ipv4Addr::LOCALHOST.into(),
            Place::Pod(p) => wire::pod(v6, p),
            Place::Host(n) => wire::node(v6, n),
            Place::Wire(_) => wire::outside(v6, client),
        };
        if dst.ip().is_loopback() && !matches!(from, Place::Host(_)) {
            return Ok(());
        }
        let fresh = 2000 + 4 * self.clients.len() as u16;
        let port = *self.clients.entry((dst, protocol, from)).or_insert(fresh) + again % 4;
        let flags = if protocol == Protocol::Tcp { flags } else { 0 };
        self.packet(Sent { from, src: SocketAddr::new(src, port), dst, protocol, flags })
    }

    /// The next packet of a flow that was in use lately.
    pub fn again(&mut self, which: usize, flags: u8) -> Result<(), String> {
        let Some((from, src, dst, protocol)) = self.recent.get(which).copied() else { return Ok(()) };
        let flags = if protocol == Protocol::Tcp { flags } else { 0 };
        self.packet(Sent { from, src, dst, protocol, flags })
    }

    fn packet(&mut self, sent: Sent) -> Result<(), String> {
        self.sim.now = self.sim.now.wrapping_add(20);
        let Some(mut wanted) = expected(&self.views, &sent) else { return Ok(()) };
        let key = (sent.from, sent.src, sent.dst, sent.protocol);
        let before = self.flows.get(&key).copied();
        let fate = before.map_or(Fate::Anew, |flow| self.fate(&flow, &sent, &wanted));
        self.stick(&sent, &mut wanted);
        let drops = self.sim.all_drops();
        let got = wire::send(&mut self.sim, &self.pods, sent)?;
        self.log.push(format!("{} {sent:?} -> {got:?}", self.sim.now));
        let kept = before.is_some_and(|flow| is_kept(&flow, &sent, &got));
        self.count(&sent, &wanted, before.filter(|_| kept && fate == Fate::Kept), fate, &got);
        if kept && fate != Fate::Anew {
            let flow = self.flows.get_mut(&key).expect("known");
            flow.last = self.sim.now;
            flow.doubtful |= fate == Fate::Either;
            flow.closed = flow.closed && sent.flags & SYN == 0 || sent.flags & (FIN | RST) != 0;
            self.note(key);
            return Ok(());
        }
        if fate == Fate::Kept || !self.is_expected(&sent, &wanted, &got) {
            let dropped: Vec<_> = self.sim.all_drops().into_iter().filter(|d| !drops.contains(d)).collect();
            let known = before.map(|flow| (fate, flow));
            return Err(format!(
                "{sent:?}\n  got {got:?}, dropped {dropped:?}\n  wanted {wanted:?}\n  known {known:?}"
            ));
        }
        self.learn(key, &sent, &wanted, &got);
        Ok(())
    }

    /// Notes what kind of case this was.
    fn count(&mut self, sent: &Sent, wanted: &Expected, kept: Option<Flow>, fate: Fate, got: &[Seen]) {
        let known = self.flows.contains_key(&(sent.from, sent.src, sent.dst, sent.protocol));
        let is_one = |flow: &Flow| match &wanted.outcome {
            Outcome::Arrives(all) => all.iter().any(|a| a.dst == flow.seen.dst),
            Outcome::Refused | Outcome::Nothing => false,
        };
        let case = match (kept, got) {
            (Some(flow), _) if !is_one(&flow) => "a connection whose backend left",
            (Some(_), _) if sent.protocol == Protocol::Udp => "a UDP flow whose backend stays",
            (Some(_), _) => "a connection whose backend stays",
            (None, _) if known && fate == Fate::Anew && sent.protocol == Protocol::Udp => "a UDP flow made anew",
            (None, _) if known && fate == Fate::Anew => "a connection opened again",
            (None, _) if known => "a flow that may have expired",
            (None, [seen]) if seen.dst == sent.dst && seen.src == sent.src => "no Service",
            (None, [seen]) if seen.dst == sent.dst => "no Service, masqueraded",
            (None, [seen]) if matches!(wanted.outcome, Outcome::Arrives(_)) => match seen.src {
                src if src == sent.src && sent.from.node() != seen.at.node() => "the client's address on another node",
                src if src == sent.src => "the client's address",
                src if src.port() == sent.src.port() => "the gateway's address",
                _ => "masqueraded",
            },
            (None, [_]) => "refused",
            (None, _) => "silence",
        };
        *self.seen.entry(case).or_default() += 1;
        let from = match (sent.from, &wanted.outcome) {
            (Place::Wire(_), Outcome::Arrives(_)) if kept.is_none() => "a client outside",
            (Place::Wire(_), Outcome::Refused) => "a client outside, refused",
            (Place::Wire(_), Outcome::Nothing) => "a client outside, silence",
            (Place::Host(_), Outcome::Arrives(_)) if kept.is_none() => "a client on a node",
            _ => return,
        };
        *self.seen.entry(from).or_default() += 1;
    }

    /// What must become of a known flow: TCP and SCTP keep their backend, others as long as it is one.
    fn fate(&self, flow: &Flow, sent: &Sent, wanted: &Expected) -> Fate {
        let idle = self.sim.now.wrapping_sub(flow.last);
        let lifetime = match sent.protocol {
            Protocol::Tcp if flow.closed => 8_000,
            Protocol::Tcp => 55_000,
            Protocol::Udp => 28_000,
            Protocol::Sctp => 200_000,
        };
        let is_one = || match &wanted.outcome {
            Outcome::Arrives(all) => all.iter().any(|a| (a.at, a.dst) == (flow.seen.at, flow.seen.dst)),
            Outcome::Refused | Outcome::Nothing => false,
        };
        let translated = flow.seen.dst != sent.dst;
        match sent.protocol {
            _ if idle >= lifetime => Fate::Either,
            // Another connection with the same ports.
            Protocol::Tcp if flow.closed && sent.flags & (SYN | ACK) == SYN => {
                if translated && !flow.doubtful {
                    Fate::Anew
                } else {
                    Fate::Either
                }
            }
            Protocol::Tcp | Protocol::Sctp => Fate::Kept,
            Protocol::Udp if is_one() => Fate::Kept,
            Protocol::Udp => Fate::Anew,
        }
    }

    /// A client that has a backend keeps it for its next connection, if that still is one and the time is not over.
    fn stick(&mut self, sent: &Sent, wanted: &mut Expected) {
        let Some((port, seconds)) = &wanted.affinity else { return };
        let Some((backend, since)) = self.affinity.get(&(wanted.judge, sent.src.ip(), port.clone())) else { return };
        if let Outcome::Arrives(all) = &mut wanted.outcome
            && self.sim.now.wrapping_sub(*since) < seconds * 1000
            && all.iter().any(|a| a.dst == *backend)
        {
            *self.seen.entry(if all.len() > 1 { "a client that has a backend" } else { "one backend" }).or_default() +=
                1;
            all.retain(|a| a.dst == *backend);
        }
    }

    fn is_expected(&self, sent: &Sent, wanted: &Expected, got: &[Seen]) -> bool {
        match (&wanted.outcome, got) {
            (Outcome::Arrives(all), [seen]) => all.iter().any(|a| a.is(sent, seen)),
            (Outcome::Refused, [seen]) => {
                let told = match (sent.protocol, seen.what) {
                    (Protocol::Tcp, What::Packet(Protocol::Tcp, flags)) => {
                        flags & RST != 0 && (seen.src, seen.dst) == (sent.dst, sent.src)
                    }
                    (Protocol::Udp | Protocol::Sctp, What::PortUnreachable) => {
                        (seen.src.ip(), seen.dst.ip()) == (sent.dst.ip(), sent.src.ip())
                    }
                    _ => false,
                };
                told && seen.at == sent.from
            }
            // Nobody answers a reset (RFC 9293 section 3.10.7.1).
            (Outcome::Refused, []) => sent.flags & RST != 0,
            (Outcome::Nothing, []) => true,
            _ => false,
        }
    }

    fn learn(&mut self, key: Key, sent: &Sent, wanted: &Expected, got: &[Seen]) {
        self.flows.remove(&key);
        let (Outcome::Arrives(_), [seen]) = (&wanted.outcome, got) else { return };
        if let Some((port, _)) = &wanted.affinity {
            let client = (wanted.judge, sent.src.ip(), port.clone());
            self.affinity.insert(client, (seen.dst, self.sim.now));
        }
        if wanted.tracked {
            let closed = sent.flags & (FIN | RST) != 0;
            self.flows.insert(key, Flow { seen: *seen, last: self.sim.now, closed, doubtful: false });
            self.note(key);
        }
    }

    fn note(&mut self, key: Key) {
        self.recent.retain(|other| *other != key);
        self.recent.insert(0, key);
        self.recent.truncate(12);
    }

    /// Whoever got a flow's last packet answers it.
    pub fn answer(&mut self, which: usize, flags: u8) -> Result<(), String> {
        let Some(key) = self.recent.get(which).copied() else { return Ok(()) };
        let Some(flow) = self.flows.get(&key).copied() else { return Ok(()) };
        let (from, src, dst, protocol) = key;
        self.sim.now = self.sim.now.wrapping_add(20);
        let forward = Sent { from, src, dst, protocol, flags: ACK };
        let Some(wanted) = expected(&self.views, &forward) else { return Ok(()) };
        let fate = self.fate(&flow, &forward, &wanted);
        // Whether it has expired is the timers' business.
        if fate == Fate::Either || flow.closed {
            return Ok(());
        }
        let flags = if protocol == Protocol::Tcp { flags } else { 0 };
        let answer = Sent { from: flow.seen.at, src: flow.seen.dst, dst: flow.seen.src, protocol, flags };
        let drops = self.sim.all_drops();
        let got = wire::send(&mut self.sim, &self.pods, answer)?;
        self.log.push(format!("{} answer {answer:?} -> {got:?}", self.sim.now));
        let back = Seen { at: from, src: dst, dst: src, what: What::Packet(protocol, flags) };
        let fine = match got.as_slice() {
            [seen] => *seen == back,
            // A backend that is none any more may be heard or not, but never untranslated.
            [] => fate == Fate::Anew,
            _ => false,
        };
        if !fine {
            let dropped: Vec<_> = self.sim.all_drops().into_iter().filter(|d| !drops.contains(d)).collect();
            return Err(format!(
                "answer {answer:?}\n  got {got:?}, dropped {dropped:?}\n  wanted {back:?}\n  {fate:?}"
            ));
        }
        let case = if fate == Fate::Kept { "an answer" } else { "an answer of a backend that left" };
        *self.seen.entry(case).or_default() += 1;
        if let Some(flow) = self.flows.get_mut(&key).filter(|_| !got.is_empty()) {
            flow.last = self.sim.now;
        }
        Ok(())
    }
}

/// Whether a packet arrived as the flow's packets did before.
fn is_kept(flow: &Flow, sent: &Sent, got: &[Seen]) -> bool {
    got == [Seen { what: What::Packet(sent.protocol, sent.flags), ..flow.seen }]
}
