//! Packets of the world: first ones, and those of connections that are open, compared with where the oracle has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use podplane_packet::id::Mac;
use podplane_policy_model::objects::{Name, Protocol, Service};
use podplane_policy_model::oracle::{self, Direction, L4};

use crate::policies::asked;
use crate::random::PLACES;
use crate::side::Side;
use crate::wire::{self, ACK, Place, ROUTER, SYN, Sent, node, outside, settle};
use crate::world::{Chance, World, place};

/// Who opens a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    Pod(Name),
    /// A node's own process.
    Host(usize),
    /// Somebody outside, by a node's port.
    Outside(usize, u8),
}

/// A connection that was opened and let through.
#[derive(Clone, Debug)]
pub struct Flow {
    sent: Sent,
    /// The pods at its ends, by UID: a flow ends with them.
    ends: BTreeSet<String>,
    /// Where its server is, and under which address it knows its client.
    server: Place,
    server_mac: Mac,
    peer: IpAddr,
    to: IpAddr,
}

/// A connection and whether it is let through: client, whether IPv6, where to, what for.
pub type Question = (Client, bool, IpAddr, L4, bool);

impl World {
    /// Where a client is, its MAC and its address of a family.
    fn seat(&self, client: &Client, v6: bool) -> Option<(Place, Mac, IpAddr)> {
        match client {
            Client::Pod(name) => {
                let side = self.sides.iter().position(|s| s.is_connected(name))?;
                let pod = &self.sides[side].attached[name];
                let address = pod.addresses.iter().find(|a| a.is_ipv6() == v6)?;
                Some((Place::Pod(side, pod.port), pod.mac, *address))
            }
            Client::Host(n) => Some((Place::Host(*n), self.macs[*n], node(v6, *n))),
            Client::Outside(n, who) => Some((Place::Wire(*n), ROUTER, outside(v6, *who))),
        }
    }

    /// Where a first packet arrives that was sent at `from` to `dst`, and which server it is for; nothing if policy
    /// forbids it or nobody is there.
    fn expected(&self, from: Place, src: IpAddr, dst: IpAddr, l4: L4) -> (Option<Place>, IpAddr, L4) {
        let n = from.node();
        let (server, l4) = self.sides[n].translate(dst, l4);
        let egress = match from {
            Place::Pod(..) => self.sides[n].subject_at(src).map(|subject| (n, subject, Direction::Egress, server)),
            _ => None,
        };
        let to = (0..2).find(|m| self.sides[*m].subject_at(server).is_some());
        let ingress = to.and_then(|m| Some((m, self.sides[m].subject_at(server)?, Direction::Ingress, src)));
        for (judge, (name, pod), direction, peer) in egress.into_iter().chain(ingress) {
            let own_node = self.truth.nodes[&judge].addresses.contains(&peer);
            let side = &self.sides[judge];
            let may = |pod| oracle::selected(side.known(), name, pod, direction).may(&side.other(peer), l4);
            if !own_node && !pod.is_some_and(may) {
                return (None, server, l4);
            }
        }
        let at_node = (0..2).find(|m| node(server.is_ipv6(), *m) == server).map(Place::Host);
        let in_range = self.truth.nodes.values().flat_map(|n| &n.pod_cidrs).any(|net| net.contains(&server));
        let at = match to {
            Some(m) => self.sides[m].port_at(server).map(|port| Place::Pod(m, port)),
            None if in_range => None,
            None => at_node.or(Some(Place::Wire(n))),
        };
        (at, server, l4)
    }

    /// Sends first packets of random connections and next packets of those that are open, both ways; compares where they
    /// arrive.
    pub fn traffic(&mut self, fresh: usize, chance: &mut Chance) -> Result<(), String> {
        let mut expected: BTreeMap<u32, (Sent, Option<Place>)> = BTreeMap::new();
        // Flows that are open: a packet of the client first, and an answer in the same burst.
        let flows = std::mem::take(&mut self.flows);
        let mut kept = Vec::new();
        for flow in flows {
            if !self.goes_on(&flow) {
                continue;
            }
            let Sent { from, src, dst, l4, .. } = flow.sent;
            let at = self.expected(from, src.ip(), dst, l4).0.filter(|at| *at == flow.server);
            let answers = chance.below(2) == 1;
            if answers {
                let answer = self.answer(&flow);
                self.put(answer, at.map(|_| from), &mut expected);
            } else {
                self.put(flow.sent, at, &mut expected);
            }
            let case = match (answers, at) {
                (false, Some(_)) => "a client's packet of a connection",
                (true, Some(_)) => "an answer of a connection",
                (false, None) => "a client's packet of a connection that is forbidden by now",
                (true, None) => "an answer of a connection that is forbidden by now",
            };
            self.count(case, 1);
            if at.is_some() {
                kept.push(flow);
            }
        }
        self.compare(&expected)?;
        expected.clear();
        self.flows = kept;
        let mut opened = Vec::new();
        for _ in 0..fresh {
            let Some((sent, client)) = self.draw(chance) else { continue };
            let (at, server, _) = self.expected(sent.from, sent.src.ip(), sent.dst, sent.l4);
            let mark = self.put(sent, at, &mut expected);
            if let Some(at) = at {
                opened.push((mark, sent, client, at, server));
            }
        }
        self.count("first packets", expected.len() as u64);
        self.count("first packets that arrive", opened.len() as u64);
        let seen = self.compare(&expected)?;
        for (mark, sent, client, server, to) in opened {
            self.open(sent, &client, server, to, seen[&mark]);
        }
        Ok(())
    }

    /// Remembers a connection, if both of its ends can speak on.
    fn open(&mut self, sent: Sent, client: &Client, server: Place, to: IpAddr, peer: IpAddr) {
        let uid_at = |place: Place, address: IpAddr| match place {
            Place::Pod(n, _) => self.sides[n].uid_at(address),
            _ => None,
        };
        // What was translated has other stories, which the tests of Services tell.
        let plain = sent.dst == to && peer == sent.src.ip();
        let server_mac = match server {
            Place::Pod(n, _) => self.sides[n].mac_at(to),
            Place::Host(n) => Some(self.macs[n]),
            Place::Wire(_) => None,
        };
        let Some(server_mac) = server_mac.filter(|_| plain && !matches!(client, Client::Outside(..))) else { return };
        let ends = [uid_at(sent.from, sent.src.ip()), uid_at(server, to)].into_iter().flatten().collect();
        let sent = Sent { flags: ACK, ..sent };
        if self.flows.len() < 60 {
            self.flows.push(Flow { sent, ends, server, server_mac, peer, to });
        }
    }

    /// Whether a flow's pods are still there, and connected.
    fn goes_on(&self, flow: &Flow) -> bool {
        let connected = |uid: &String| self.sides.iter().any(|s| s.has_uid(uid));
        flow.ends.iter().all(connected)
    }

    fn answer(&self, flow: &Flow) -> Sent {
        let (l4, port) = match flow.sent.l4 {
            L4::Port(protocol, port) => (L4::Port(protocol, flow.sent.src.port()), port),
            L4::Portless => (L4::Portless, flow.sent.src.port()),
        };
        let src = SocketAddr::new(flow.to, port);
        Sent { from: flow.server, mac: flow.server_mac, src, dst: flow.peer, l4, flags: ACK, reply: true }
    }

    fn put(&mut self, sent: Sent, at: Option<Place>, expected: &mut BTreeMap<u32, (Sent, Option<Place>)>) -> u32 {
        let mark = self.next.1;
        self.next.1 += 1;
        wire::inject(&mut self.sim, &sent, mark);
        expected.insert(mark, (sent, at));
        mark
    }

    /// Sends first packets; which of them did not fare as expected.
    pub fn try_packets(&mut self, questions: &[Question]) -> Result<(), String> {
        let mut expected = BTreeMap::new();
        for (client, v6, dst, l4, arrives) in questions {
            let (from, mac, src) = self.seat(client, *v6).ok_or("a client that is not connected")?;
            let src = SocketAddr::new(src, self.next_port());
            let sent = Sent { from, mac, src, dst: *dst, l4: *l4, flags: SYN, reply: false };
            let (at, ..) = self.expected(from, src.ip(), *dst, *l4);
            if at.is_some() != *arrives {
                return Err(format!("{sent:?}: the oracle says {at:?}, expected {arrives}"));
            }
            self.put(sent, at, &mut expected);
        }
        self.count("first packets", questions.len() as u64);
        self.compare(&expected).map(drop)
    }

    fn next_port(&mut self) -> u16 {
        self.next.0 = if self.next.0 == 29_000 { 2000 } else { self.next.0 + 1 };
        self.next.0
    }

    /// Lets everything run; what did not arrive where it should. Answers under which address each packet's sender was
    /// seen.
    fn compare(&mut self, expected: &BTreeMap<u32, (Sent, Option<Place>)>) -> Result<BTreeMap<u32, IpAddr>, String> {
        let drops = self.sim.all_drops();
        let seen = settle(&mut self.sim);
        for (mark, (sent, wanted)) in expected {
            let got = seen.get(mark).map(|seen| seen.at);
            if got != *wanted {
                let new: Vec<_> = self.sim.all_drops().into_iter().filter(|d| !drops.contains(d)).collect();
                return Err(format!(
                    "{sent:?}\n  arrived at {got:?}, expected {wanted:?}; drops of the burst: {new:?}"
                ));
            }
        }
        Ok(seen.into_iter().map(|(mark, seen)| (mark, seen.src)).collect())
    }

    /// A random connection.
    fn draw(&mut self, chance: &mut Chance) -> Option<(Sent, Client)> {
        let pods: Vec<Name> = self.sides.iter().flat_map(Side::connected).collect();
        let v6 = chance.below(2) == 1;
        let any = |chance: &mut Chance| pods.get(chance.below(pods.len())).cloned();
        let client = match chance.below(8) {
            0 => Client::Host(chance.below(2)),
            1 => Client::Outside(chance.below(2), 1 + chance.below(2) as u8),
            _ => Client::Pod(any(chance)?),
        };
        let (from, mac, src) = self.seat(&client, v6)?;
        let services: Vec<Service> = self.sides[from.node()].known().services.values().cloned().collect();
        let service = services.get(chance.below(services.len())).cloned();
        let port = asked()[chance.below(asked().len())];
        let protocol = Protocol::ALL[chance.below(3)];
        let l4 = if chance.below(10) == 0 { L4::Portless } else { L4::Port(protocol, port) };
        let (dst, l4) = match (&client, chance.below(8)) {
            (Client::Outside(n, _), _) => {
                let service = service.filter(|s| s.backend.iter().any(|b| b.is_ipv6() == v6))?;
                (node(v6, *n), L4::Port(service.protocol, service.node_port))
            }
            (_, 0 | 1) if service.is_some() => {
                let service = service.filter(|s| s.backend.iter().any(|b| b.is_ipv6() == v6))?;
                let vip = service.cluster_ips.iter().find(|a| a.is_ipv6() == v6)?;
                (*vip, L4::Port(service.protocol, service.port))
            }
            (Client::Pod(_), 2) => (node(v6, chance.below(2)), l4),
            (Client::Pod(_), 3) => (outside(v6, 1 + chance.below(2) as u8), l4),
            // Also to addresses that nobody has.
            _ => (place(v6, chance.below(2), chance.below(PLACES)), l4),
        };
        let sent = Sent { from, mac, src: SocketAddr::new(src, self.next_port()), dst, l4, flags: SYN, reply: false };
        // A pod's packet to itself never leaves it, and a node's own to one of its own addresses neither.
        (src != dst
            && !(matches!(client, Client::Host(_)) && self.truth.nodes.values().any(|n| n.addresses.contains(&dst))))
        .then_some((sent, client))
    }
}
