//! Owners, rules and rule sets from a few bytes each: few numbers, so that they find each other.

use podplane_config::v1::{
    Address, EndpointPolicy, Key, Net, Object, Peers, PortRange, Rule, RuleAction, RuleSet, Tier,
};
use podplane_config::valid::State;

use super::objects::{address, name, port, protocol, range};
use crate::input::Input;

pub(super) fn object(kind: u8, input: &mut Input<'_>) -> Option<Object> {
    let (n, odds) = (input.u8()?, input.u8()?);
    Some(match kind & 3 {
        0 => Object::Address(Address {
            address: address(n, odds & 1 != 0),
            owner: name(odds >> 1),
            name: name(n),
            selectors: numbers(odds >> 5, input)?,
        }),
        1 | 3 => Object::Rule(rule(n, odds, input)?),
        _ => Object::RuleSet(RuleSet { id: (n & 3).into(), rules: numbers(odds & 7, input)? }),
    })
}

/// The object that a number removes.
pub(super) fn key(kind: u8, n: u8) -> Key {
    match kind & 3 {
        0 => Key::Address(address(n, false)),
        1 => Key::Rule((n & 7).into()),
        _ => Key::RuleSet((n & 3).into()),
    }
}

/// The rules of an endpoint whose identity is made of `n`.
pub(super) fn of_endpoint(n: u8) -> EndpointPolicy {
    let set = u32::from(n >> 5 & 3);
    EndpointPolicy { ingress: (n & 8 != 0).then_some(set), egress: (n & 16 != 0).then_some(set ^ 1) }
}

fn numbers(count: u8, input: &mut Input<'_>) -> Option<Vec<u32>> {
    (0..count).map(|_| input.u8().map(|n| (n & 7).into())).collect()
}

fn rule(n: u8, odds: u8, input: &mut Input<'_>) -> Option<Rule> {
    let tiers = [Tier::Admin, Tier::NetworkPolicy, Tier::NetworkPolicy, Tier::Baseline];
    let actions = [RuleAction::Accept, RuleAction::Deny, RuleAction::Pass, RuleAction::Accept];
    let peers = if odds & 1 != 0 {
        Peers::Any
    } else {
        let selectors = numbers(odds >> 1 & 3, input)?;
        let mut nets = Vec::new();
        for _ in 0..odds >> 3 & 3 {
            let (net, inner) = (input.u8()?, input.u8()?);
            let except = (inner & 1 != 0).then(|| range(inner, inner & 2 != 0));
            nets.push(Net { net: range(net, inner & 2 != 0), except: except.into_iter().collect() });
        }
        Peers::Of { selectors, nets }
    };
    let mut ports = None;
    if odds & 0x20 != 0 {
        let more = input.u8()?;
        let one = || PortRange { protocol: protocol(more), first: port(more), last: port(more >> 2) };
        ports = Some((0..more >> 7).map(|_| one()).collect());
    }
    Some(Rule {
        id: (n & 7).into(),
        name: name(n >> 3 & 7),
        tier: tiers[usize::from(n >> 6)],
        action: actions[usize::from(odds >> 6)],
        peers,
        named: (n & 0x20 != 0).then_some(3),
        ports,
    })
}

/// What whoever compiles a policy relies on, said the slow way.
pub(super) fn promises(state: &State) {
    let policy = &state.policy;
    for (address, owner) in &policy.addresses {
        assert!(*address == owner.address && !owner.owner.is_empty() && owner.selectors.is_sorted_by(|a, b| a < b));
    }
    for (id, rule) in &policy.rules {
        assert!(*id == rule.id && !rule.name.is_empty());
        let ports = rule.ports.as_ref();
        assert!(ports.is_none_or(|all| !all.is_empty() && all.iter().all(|p| p.first > 0 && p.first <= p.last)));
        if let Peers::Of { nets, .. } = &rule.peers {
            assert!(nets.iter().all(|net| net.except.iter().all(|except| net.net.contains(except))));
        }
    }
    for (id, set) in &policy.sets {
        assert!(*id == set.id);
        let tiers: Vec<Tier> = set.rules.iter().map(|rule| policy.rules[rule].tier).collect();
        assert!(tiers.is_sorted(), "tiers out of order: {tiers:?}");
    }
    let named = state.endpoints.values().flat_map(|e| [e.policy.ingress, e.policy.egress]).flatten();
    assert!(named.into_iter().all(|set| policy.sets.contains_key(&set)));
}
