//! Two thousand policies among ten thousand pods, and what both sides of a comparison are told about them.

use std::net::{IpAddr, Ipv4Addr};

use podplane_config::v1::{
    Address, EndpointPolicy, Net, Object, Peer, Peers, PortRange, Protocol, Rule, RuleAction, RuleSet, Tier,
};

use crate::node::pod_addresses;

/// Pods of the cluster, those of this node included.
pub const ADDRESSES: u32 = 10_000;
/// Policies: each of [`RULES_EACH`] rules.
pub const POLICIES: u32 = 2_000;
/// Rules of each policy, the first ones of ingress.
pub const RULES_EACH: u32 = 5;
/// Of these so many are of ingress.
const INGRESS_EACH: u32 = 3;
/// Rules of all policies. The one that isolates comes on top.
pub const RULES: u32 = POLICIES * RULES_EACH;
/// Policies that select an address to come: the first rule of each has a selector that matches nobody else.
pub const WAITING: u32 = 1_000;
/// The other rules' selectors; each matches about a hundred pods.
const SELECTORS: u32 = 1_000;
const SELECTORS_EACH: u32 = 10;
/// The first rule of policy `p` is for port `OWN_PORTS + p` and no other rule is.
const OWN_PORTS: u16 = 20_000;

fn random(n: u32, salt: u32, below: u32) -> u32 {
    let x = ((u64::from(n) << 32) | u64::from(salt)).wrapping_mul(0x7fb5_d329_728e_a185);
    let x = (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    ((x ^ (x >> 33)) % u64::from(below)) as u32
}

/// The address of pod `n`: the first ones are this node's, which has so many of its own.
pub fn address(n: u32, own: u8) -> IpAddr {
    match u8::try_from(n) {
        Ok(n) if n < own => pod_addresses(n + 1)[0],
        _ => Ipv4Addr::from(0x0af5_0000 + n).into(),
    }
}

/// Pod `n`, which these selectors match.
pub fn pod(n: u32, own: u8, selectors: Vec<u32>) -> Object {
    let name = format!("bench/pod{}", n + 1);
    Object::Address(Address { address: address(n, own), owner: format!("uid-{n}"), name, selectors })
}

/// The selectors that match pod `n`: of the ten thousand pods hardly two have the same.
pub fn selectors(n: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..SELECTORS_EACH).map(|salt| WAITING + random(n, salt, SELECTORS)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The name of rule `n`.
pub fn rule_name(n: u32) -> String {
    format!("NetworkPolicy bench/p{} rule {}", n / RULES_EACH, n % RULES_EACH)
}

/// The first rule of policy `p`.
pub fn first_rule(p: u32) -> u32 {
    p * RULES_EACH
}

/// Whom it is about at first.
pub fn first_selector(p: u32) -> u32 {
    if p < WAITING { p } else { WAITING + random(first_rule(p), 31, SELECTORS) }
}

/// The port that only the first rule of policy `p` is for; there are several, for changes.
pub fn own_port(p: u32, version: u32) -> u16 {
    OWN_PORTS + (version % 4 * POLICIES + p) as u16
}

/// The first rule of policy `p`, about this selector and the port of this version; 0 at first.
pub fn changed(p: u32, selector: u32, version: u32) -> Object {
    accept(first_rule(p), selector, &[own_port(p, version)])
}

fn accept(n: u32, selector: u32, ports: &[u16]) -> Object {
    let block = Ipv4Addr::from(0xac10_0000 + random(n, 30, 1 << 12) * 256);
    let net = format!("{block}/24").parse().unwrap_or_else(|_| unreachable!("{block} is an address"));
    let nets = if n.is_multiple_of(10) { vec![Net { net, except: Vec::new() }] } else { Vec::new() };
    let range = |&port: &u16| PortRange { protocol: Protocol::Tcp, first: port, last: port };
    let peers = Peers::Of { selectors: vec![selector], nets };
    let ports = Some(ports.iter().map(range).collect());
    rule(n, rule_name(n), RuleAction::Accept, peers, ports)
}

fn rule(id: u32, name: String, action: RuleAction, peers: Peers, ports: Option<Vec<PortRange>>) -> Object {
    Object::Rule(Rule { id, name, tier: Tier::NetworkPolicy, action, peers, named: None, ports })
}

fn rules() -> impl Iterator<Item = Object> {
    let port = |n, salt| 1000 + random(n, salt, 300) as u16 * 5;
    let isolation = rule(RULES, "NetworkPolicy isolation".to_owned(), RuleAction::Deny, Peers::Any, None);
    let of_policies = (0..RULES).map(move |n| match (n / RULES_EACH, n % RULES_EACH) {
        (p, 0) => changed(p, first_selector(p), 0),
        (_, 1) => accept(n, WAITING + random(n, 31, SELECTORS), &[port(n, 32), port(n, 33)]),
        _ => accept(n, WAITING + random(n, 31, SELECTORS), &[port(n, 32)]),
    });
    of_policies.chain([isolation])
}

/// The pods of this node that policy `p` selects, numbered from 0; the first of them is `p % own`.
fn selected(p: u32, own: u32) -> [u32; 2] {
    [p % own, (p + 1 + p / own) % own]
}

/// The rule sets of pod `i`, numbered from 0, of a node with so many of its own.
fn sets(i: u32, own: u8) -> [Object; 2] {
    let policies: Vec<u32> = (0..POLICIES).filter(|p| selected(*p, own.into()).contains(&i)).collect();
    let set = |direction: u32, of: std::ops::Range<u32>| {
        let rules = policies.iter().flat_map(|p| of.clone().map(move |k| first_rule(*p) + k));
        Object::RuleSet(RuleSet { id: i * 2 + direction, rules: rules.chain([RULES]).collect() })
    };
    [set(0, 0..INGRESS_EACH), set(1, INGRESS_EACH..RULES_EACH)]
}

/// Everything, as the agent would tell it: `objects` of the node, whose first `own` pods have their policy by it.
pub fn all(mut objects: Vec<Object>, own: u8) -> Vec<Object> {
    let endpoints = objects.iter_mut().filter_map(|object| match object {
        Object::Endpoint(endpoint) => Some(endpoint),
        _ => None,
    });
    for (i, endpoint) in (0..u32::from(own)).zip(endpoints) {
        endpoint.policy = EndpointPolicy { ingress: Some(i * 2), egress: Some(i * 2 + 1) };
    }
    objects.push(far());
    objects.extend((0..ADDRESSES).map(|n| pod(n, own, selectors(n))));
    objects.extend(rules());
    objects.extend((0..own.into()).flat_map(|i| sets(i, own)));
    objects
}

/// The node that has all other pods.
fn far() -> Object {
    let vtep = Ipv4Addr::new(10, 9, 0, 2).into();
    let pods = "10.245.0.0/16".parse().unwrap_or_else(|_| unreachable!("it is a network"));
    Object::Peer(Peer { name: "node2".into(), vtep, addresses: vec![vtep], pod_cidrs: vec![pods] })
}

/// What an element of nftables' maps is a range of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Addresses.
    Addresses,
    /// Addresses, and ports beside them.
    AddressesAndPorts,
}

impl Ranges {
    /// Both.
    pub const ALL: [Ranges; 2] = [Ranges::Addresses, Ranges::AddressesAndPorts];

    /// The map's name, its type, and what a packet is looked up by.
    fn words(self) -> [&'static str; 3] {
        match self {
            Ranges::Addresses => ["plain", "ipv4_addr", "ip saddr"],
            Ranges::AddressesAndPorts => ["ports", "ipv4_addr . inet_service", "ip saddr . tcp dport"],
        }
    }

    /// Element `n`, which is elsewhere in every other version.
    fn element(self, n: u32, version: u32) -> String {
        let net = Ipv4Addr::from(0xac10_0000 + n * 16 + version % 2 * 8);
        match self {
            Ranges::Addresses => format!("{net}/29 : accept"),
            Ranges::AddressesAndPorts => format!("{net}/29 . 1000-1009 : accept"),
        }
    }

    fn elements(self, verb: &str, version: u32, of: impl Iterator<Item = u32>) -> String {
        let elements: Vec<String> = of.map(|n| self.element(n, version)).collect();
        format!("{verb} element ip policies {} {{ {} }}\n", self.words()[0], elements.join(",\n"))
    }

    /// For `nft -f`: as many ranges as there are rules, in a verdict map that a base chain looks into; version 0.
    pub fn rules(self) -> String {
        let [name, of, by] = self.words();
        let table = format!(
            "table ip policies {{
 map {name} {{ type {of} : verdict; flags interval; }}
 chain forward {{ type filter hook forward priority filter; {by} vmap @{name}; drop; }}
}}
"
        );
        table + &self.elements("add", 0, 0..RULES)
    }

    /// One transaction: element `n` of the version before becomes that of `version`.
    pub fn one(self, n: u32, version: u32) -> String {
        self.elements("delete", version + 1, n..n + 1) + &self.elements("add", version, n..n + 1)
    }

    /// One transaction: all elements are replaced.
    pub fn all(self, version: u32) -> String {
        format!("flush map ip policies {}\n", self.words()[0]) + &self.elements("add", version, 0..RULES)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use super::*;

    #[test]
    fn every_rule_is_in_force_at_a_pod_and_few_pods_are_alike() {
        for own in [2, 200] {
            let objects = all(Vec::new(), own);
            let keys: BTreeSet<_> = objects.iter().map(Object::key).collect();
            assert_eq!(keys.len(), objects.len());
            let used: BTreeSet<u32> = objects.iter().filter_map(set_rules).flatten().copied().collect();
            assert!(used.into_iter().eq(0..=RULES));
        }
        let classes: HashSet<_> = (0..ADDRESSES).map(selectors).collect();
        assert!(classes.len() > 9_900, "{}", classes.len());
    }

    fn set_rules(object: &Object) -> Option<&Vec<u32>> {
        match object {
            Object::RuleSet(set) => Some(&set.rules),
            _ => None,
        }
    }

    #[test]
    fn a_thousand_rules_wait_and_ports_of_first_rules_are_theirs_alone() {
        let mut ports = BTreeMap::<u16, u32>::new();
        let mut waiting = 0;
        for object in rules() {
            let Object::Rule(rule) = object else { panic!("no rule") };
            let Peers::Of { selectors, .. } = rule.peers else { continue };
            waiting += usize::from(selectors.iter().any(|s| *s < WAITING));
            rule.ports.iter().flatten().for_each(|range| *ports.entry(range.first).or_default() += 1);
        }
        assert_eq!(waiting, WAITING as usize);
        assert!((0..POLICIES).all(|p| ports[&own_port(p, 0)] == 1));
        assert!((0..POLICIES).all(|p| (1..4).all(|version| !ports.contains_key(&own_port(p, version)))));
    }
}
