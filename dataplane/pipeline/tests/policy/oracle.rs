//! The rules judged one after another, straight from their meaning, and a world of few rules and owners to judge by.

use std::net::IpAddr;
use std::sync::Arc;

use podplane_pipeline::Direction;
use podplane_pipeline::snapshot::{PolicyMap, PortPolicy};
use podplane_tables::policy::{Action, NetSpec, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, SelectorId, Tier};
use proptest::prelude::*;

/// How many selectors there are.
pub const SELECTORS: u32 = 4;
/// How many rules.
pub const RULES: usize = 10;
/// How many pods have policies.
pub const PODS: usize = 3;

/// All that the agent would have said: who owns what, the rules, and which pod has which.
#[derive(Clone, Debug)]
pub struct Book {
    /// The owners' selectors as bits; `None`: nobody is known to own the address.
    pub owners: Vec<(IpAddr, Option<u8>)>,
    pub rules: Vec<RuleSpec>,
    /// Ingress and egress of each pod: numbers of rules, in order.
    pub pods: [[Option<Vec<usize>>; 2]; PODS],
    /// Ranges of pods.
    pub ranges: Vec<(IpAddr, u8)>,
}

fn within(a: IpAddr, (net, len): (IpAddr, u8)) -> bool {
    let equal = |difference: u128, width: u32| difference.checked_shr(width - u32::from(len)).unwrap_or(0) == 0;
    match (a, net) {
        (IpAddr::V4(a), IpAddr::V4(n)) => equal((u32::from(a) ^ u32::from(n)).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => equal(u128::from(a) ^ u128::from(n), 128),
        _ => false,
    }
}

impl Book {
    fn owner(&self, a: IpAddr) -> Option<u8> {
        self.owners.iter().find(|(address, _)| *address == a).and_then(|(_, bits)| *bits)
    }

    fn matches(&self, rule: &RuleSpec, peer: IpAddr, proto: u8, port: Option<u16>) -> bool {
        let among = |p: &Ports| p.protocol == proto && port.is_some_and(|x| p.first <= x && x <= p.last);
        if rule.ports.as_ref().is_some_and(|ports| !ports.iter().any(among)) {
            return false;
        }
        let PeersSpec::Of { selectors, nets } = &rule.peers else { return true };
        let suspect = rule.action == Action::Deny && self.ranges.iter().any(|r| within(peer, *r));
        let selected = match self.owner(peer) {
            Some(bits) => selectors.iter().any(|s| bits >> s.0 & 1 == 1),
            None => suspect && !selectors.is_empty(),
        };
        let excepted = |n: &NetSpec| n.except.iter().any(|e| within(peer, *e));
        selected || nets.iter().any(|n| within(peer, n.net) && !excepted(n))
    }

    /// Whether one end's rules accept.
    pub fn accepts(&self, rules: &[usize], peer: IpAddr, proto: u8, port: Option<u16>) -> bool {
        let mut passed = None;
        for rule in rules.iter().map(|i| &self.rules[*i]) {
            if passed == Some(rule.tier) || !self.matches(rule, peer, proto, port) {
                continue;
            }
            match rule.action {
                Action::Accept => return true,
                Action::Deny => return false,
                Action::Pass => passed = Some(rule.tier),
            }
        }
        true
    }

    /// The rules of a pod.
    pub fn of(&self, pod: usize, direction: Direction) -> Option<&[usize]> {
        self.pods[pod][usize::from(direction == Direction::Egress)].as_deref()
    }

    /// Gives a pod other rules, which judge tier by tier.
    pub fn give(&mut self, pod: usize, egress: bool, rules: Option<Vec<usize>>) {
        let sorted = |mut all: Vec<usize>| {
            all.sort_by_key(|i| self.rules[*i].tier);
            all
        };
        self.pods[pod][usize::from(egress)] = rules.map(sorted);
    }

    /// As the snapshot wants it, and the rule sets of each pod.
    pub fn map(&self) -> (PolicyMap, [PortPolicy; PODS]) {
        let mut map = PolicyMap::default();
        for (address, bits) in &self.owners {
            let Some(bits) = bits else { continue };
            let selectors: Vec<_> = (0..SELECTORS).filter(|i| bits >> i & 1 == 1).map(SelectorId).collect();
            map.addresses.insert(*address, selectors.into());
        }
        for (i, rule) in self.rules.iter().enumerate() {
            map.rules.insert(RuleId(i as u32), Arc::new(rule.clone()));
        }
        let mut policies = [PortPolicy::default(); PODS];
        for (pod, both) in self.pods.iter().enumerate() {
            let mut set = |egress: usize| {
                let rules: Vec<_> = both[egress].as_ref()?.iter().map(|i| RuleId(*i as u32)).collect();
                // One number for each pod and direction, so that contents change under it.
                let id = RuleSetId((2 * pod + egress) as u32);
                map.sets.insert(id, rules.into());
                Some(id)
            };
            policies[pod] = PortPolicy { ingress: set(0), egress: set(1) };
        }
        (map, policies)
    }
}

fn net(v6: bool) -> impl Strategy<Value = NetSpec> {
    let all = if v6 {
        ["fd00:244::", "fd00:244:1::", "2001:db8::", "::"]
    } else {
        ["10.244.0.0", "10.244.1.0", "192.0.2.0", "0.0.0.0"]
    };
    let lens: [u8; 4] = if v6 { [32, 48, 32, 0] } else { [16, 24, 24, 0] };
    let range = move |i: usize| (all[i].parse().expect("an address"), lens[i]);
    (0..4usize, prop::option::of(0..3usize))
        .prop_map(move |(i, except)| NetSpec { net: range(i), except: except.map(range).into_iter().collect() })
}

/// A rule. Its tier does not change with its content, for the order of rules depends on it.
pub fn rule(v6: bool, number: usize) -> impl Strategy<Value = RuleSpec> {
    let action = prop_oneof![3 => Just(Action::Accept), 2 => Just(Action::Deny), 1 => Just(Action::Pass)];
    let of = (prop::collection::vec((0..SELECTORS).prop_map(SelectorId), 0..3), prop::collection::vec(net(v6), 0..2))
        .prop_map(|(selectors, nets)| PeersSpec::Of { selectors: selectors.into(), nets: nets.into() });
    let peers = prop_oneof![1 => Just(PeersSpec::Any), 3 => of];
    let ports = prop::collection::vec((prop_oneof![Just(6u8), Just(17)], 78..82u16, 0..3u16), 1..3).prop_map(|all| {
        all.into_iter().map(|(protocol, first, more)| Ports { protocol, first, last: first + more }).collect()
    });
    (action, peers, prop::option::of(ports)).prop_map(move |(action, peers, ports)| {
        let tier = match number * 3 / RULES {
            0 => Tier::Admin,
            1 => Tier::NetworkPolicy,
            _ => Tier::Baseline,
        };
        // The last of its tier isolates.
        if number == RULES * 2 / 3 {
            let (action, peers) = (Action::Deny, PeersSpec::Any);
            return RuleSpec { tier, action, peers, named: None, ports: None };
        }
        RuleSpec { tier, action, peers, named: None, ports }
    })
}
