//! Every pair of addresses, every protocol and port: what the compiled tables say, against the oracle.

use std::net::IpAddr;

use podplane_packet::wire::proto;
use podplane_pipeline::{Direction as Side, Judgement, Origin};
use podplane_policy_model::objects::{Name, Pod, Protocol};
use podplane_policy_model::oracle::{self, Direction, L4, Other, Selected};

use crate::policies::asked;
use crate::wire::{node, outside};
use crate::world::World;

/// All that is asked for, of each pair.
pub fn questions() -> Vec<L4> {
    let ports = asked();
    let all = Protocol::ALL.into_iter().flat_map(|p| ports.iter().map(move |n| L4::Port(p, *n)));
    all.chain([L4::Portless]).collect()
}

/// Protocol number and port of a question, as packets have them.
pub fn numbers(l4: L4, v6: bool) -> (u8, u16) {
    match l4 {
        L4::Port(Protocol::Tcp, port) => (proto::TCP, port),
        L4::Port(Protocol::Udp, port) => (proto::UDP, port),
        L4::Port(Protocol::Sctp, port) => (proto::SCTP, port),
        L4::Portless => (if v6 { proto::ICMPV6 } else { proto::ICMP }, 0),
    }
}

/// What the oracle needs of one end of a pair.
struct End<'a> {
    address: IpAddr,
    /// The node whose pod it is.
    pod: Option<(usize, &'a Name, Option<&'a Pod>)>,
    /// Its policies, by direction.
    ingress: Option<Selected<'a>>,
    egress: Option<Selected<'a>>,
    /// Whose it is, as each node knows.
    others: [Other<'a>; 2],
}

/// Who uses which address, beside pods.
fn strangers(v6: bool) -> Vec<IpAddr> {
    let unowned: [&str; 2] = if v6 { ["fd00:244:1::99", "fd00:244:2::99"] } else { ["10.244.1.99", "10.244.2.99"] };
    let unowned = unowned.map(|a| a.parse().expect("an address"));
    [node(v6, 0), node(v6, 1), outside(v6, 1), outside(v6, 2)].into_iter().chain(unowned).collect()
}

/// Compares all pairs of one family, and answers how many verdicts that were, and of them how many denials.
pub fn compare(w: &World, v6: bool, questions: &[L4]) -> Result<(u64, u64), String> {
    let mut addresses: Vec<IpAddr> = w.sides.iter().flat_map(|s| s.addresses()).filter(|a| a.is_ipv6() == v6).collect();
    addresses.extend(strangers(v6));
    addresses.sort_unstable();
    addresses.dedup();
    let ends: Vec<End<'_>> = addresses.iter().map(|a| end(w, *a)).collect();
    let (mut count, mut denied) = (0, 0);
    for client in &ends {
        for server in ends.iter().filter(|server| client.pod.is_some() || server.pod.is_some()) {
            for l4 in questions {
                count += 1;
                let (expected, got) = (expected(w, client, server, *l4), judged(w, client, server, *l4));
                denied += u64::from(!expected);
                if expected != got.0 {
                    let (c, s) = (client.address, server.address);
                    return Err(format!("{c} -> {s} {l4:?}: expected {expected}, got {:?}", got.1));
                }
            }
        }
    }
    Ok((count, denied))
}

/// What the oracle and the tables say of one connection.
pub fn one(w: &World, client: IpAddr, server: IpAddr, l4: L4) -> (bool, bool) {
    let (client, server) = (end(w, client), end(w, server));
    (expected(w, &client, &server, l4), judged(w, &client, &server, l4).0)
}

fn end(w: &World, address: IpAddr) -> End<'_> {
    let pod = (0..2).find_map(|n| w.sides[n].subject_at(address).map(|(name, pod)| (n, name, pod)));
    let selected = |direction| {
        let (n, name, pod) = pod?;
        Some(oracle::selected(w.sides[n].known(), name, pod?, direction))
    };
    let others = [0, 1].map(|n| w.sides[n].other(address));
    End { address, pod, ingress: selected(Direction::Ingress), egress: selected(Direction::Egress), others }
}

/// What the oracle says: each node judges its own pods, and never its own traffic with them.
fn expected(w: &World, client: &End<'_>, server: &End<'_>, l4: L4) -> bool {
    let side = |me: &End<'_>, rules: &Option<Selected<'_>>, peer: &End<'_>| {
        let Some((n, ..)) = me.pod else { return true };
        let own_node = w.truth.nodes[&n].addresses.contains(&peer.address);
        own_node || rules.as_ref().is_some_and(|rules| rules.may(&peer.others[n], l4))
    };
    side(client, &client.egress, server) && side(server, &server.ingress, client)
}

/// What the nodes' tables say.
fn judged(w: &World, client: &End<'_>, server: &End<'_>, l4: L4) -> (bool, Vec<(usize, Judgement)>) {
    let (proto, port) = numbers(l4, client.address.is_ipv6());
    let mut all = Vec::new();
    let mut accepted = true;
    let mut ask = |n: usize, direction: Side, from: Origin| {
        let snapshot = &w.sim.nodes[n].snapshot;
        for j in snapshot.explain_policy(from, client.address, server.address, proto, port) {
            if j.direction == direction {
                accepted &= j.decision.is_none_or(|d| d.accept);
                all.push((n, j));
            }
        }
    };
    if let Some((n, ..)) = client.pod {
        ask(n, Side::Egress, Origin::Pod);
    }
    if let Some((n, ..)) = server.pod {
        let from = match client.pod {
            Some((m, ..)) if m == n => Origin::Pod,
            _ if w.truth.nodes[&n].addresses.contains(&client.address) => Origin::Node,
            _ => Origin::Elsewhere,
        };
        ask(n, Side::Ingress, from);
    }
    (accepted, all)
}
