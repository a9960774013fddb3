//! The compiled policies against rules that are asked in turn, over random changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podplane_tables::policy::{
    Action, Change, Decision, Effects, L4, MAX_RULES, NetSpec, PeersSpec, Policies, PolicyError, Ports, Query, RuleId,
    RuleSetId, RuleSpec, SelectorId, Tier,
};
use proptest::prelude::*;
use proptest::sample::select;

/// What is configured, as it was said.
#[derive(Clone, Default)]
struct Model {
    addresses: BTreeMap<IpAddr, BTreeSet<SelectorId>>,
    rules: BTreeMap<RuleId, Arc<RuleSpec>>,
    sets: BTreeMap<RuleSetId, Arc<[RuleId]>>,
    pod_ranges: Vec<(IpAddr, u8)>,
}

fn inside((net, length): (IpAddr, u8), address: IpAddr) -> bool {
    let same = |a: &[u8], b: &[u8]| (0..usize::from(length)).all(|i| (a[i / 8] ^ b[i / 8]) >> (7 - i % 8) & 1 == 0);
    match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => same(&net.octets(), &address.octets()),
        (IpAddr::V6(net), IpAddr::V6(address)) => same(&net.octets(), &address.octets()),
        _ => false,
    }
}

impl Model {
    fn apply(&mut self, change: &Change<'_>) {
        for (address, selectors) in change.addresses {
            match selectors {
                Some(selectors) => self.addresses.insert(*address, selectors.iter().copied().collect()),
                None => self.addresses.remove(address),
            };
        }
        for (id, rule) in change.rules {
            match rule {
                Some(rule) => self.rules.insert(*id, Arc::clone(rule)),
                None => self.rules.remove(id),
            };
        }
        for (id, set) in change.sets {
            match set {
                Some(set) => self.sets.insert(*id, Arc::clone(set)),
                None => self.sets.remove(id),
            };
        }
        if let Some(ranges) = change.pod_ranges {
            self.pod_ranges = ranges.to_vec();
        }
    }

    /// Whether some set names a rule that is not there.
    fn dangles(&self) -> bool {
        self.sets.values().any(|set| set.iter().any(|rule| !self.rules.contains_key(rule)))
    }

    /// Whether a selector or binding that the rule names matches the address.
    fn owned(&self, rule: &RuleSpec, selectors: &[SelectorId], (address, stranger): (IpAddr, bool)) -> bool {
        match self.addresses.get(&address) {
            Some(_) if stranger => rule.action == Action::Deny && !selectors.is_empty(),
            Some(has) => selectors.iter().any(|selector| has.contains(selector)),
            None => {
                let pod = self.pod_ranges.iter().any(|range| inside(*range, address));
                pod && rule.action == Action::Deny && !selectors.is_empty()
            }
        }
    }

    fn matches(&self, rule: &RuleSpec, peer: IpAddr, stranger: bool, l4: L4) -> bool {
        let peers = match &rule.peers {
            PeersSpec::Any => true,
            PeersSpec::Of { selectors, nets } => {
                let block = |net: &NetSpec| inside(net.net, peer) && !net.except.iter().any(|net| inside(*net, peer));
                self.owned(rule, selectors, (peer, stranger)) || nets.iter().any(block)
            }
        };
        let ports = match (&rule.ports, l4.port) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ports), Some(port)) => {
                ports.iter().any(|p| p.protocol == l4.protocol && (p.first..=p.last).contains(&port))
            }
        };
        peers && ports && rule.named.is_none_or(|binding| self.owned(rule, &[binding], (peer, stranger)))
    }

    fn judge(&self, query: &Query) -> Decision {
        let Query { set, peer, l4, own, stranger } = *query;
        let Some(set) = self.sets.get(&set) else { return Decision { accept: false, rule: None } };
        for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
            let rules = || set.iter().map(|id| (*id, &self.rules[id])).filter(|(_, rule)| rule.tier == tier);
            if own && tier == Tier::NetworkPolicy && rules().next().is_some() {
                return Decision { accept: true, rule: None };
            }
            let Some((id, rule)) = rules().find(|(_, rule)| self.matches(rule, peer, stranger, l4)) else { continue };
            if rule.action != Action::Pass {
                return Decision { accept: rule.action == Action::Accept, rule: Some(id) };
            }
        }
        Decision { accept: true, rule: None }
    }
}

/// Addresses at the borders of the blocks below.
const ADDRESSES: [&str; 18] = [
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.127",
    "10.0.0.128",
    "10.0.1.0",
    "10.1.0.1",
    "9.255.255.255",
    "0.0.0.0",
    "255.255.255.255",
    "fd00::",
    "fd00::1",
    "fd00::1:0",
    "fd00:1::5",
    "::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db8::1",
];
const NETS: [(&str, u8); 16] = [
    ("0.0.0.0", 0),
    ("10.0.0.0", 8),
    ("10.0.0.7", 16),
    ("10.0.0.0", 24),
    ("10.0.0.0", 25),
    ("10.0.0.128", 25),
    ("10.0.0.2", 31),
    ("10.0.0.1", 32),
    ("255.255.255.255", 32),
    ("128.0.0.0", 1),
    ("::", 0),
    ("fd00::", 16),
    ("fd00::", 64),
    ("fd00::", 112),
    ("fd00::1", 128),
    ("8000::", 1),
];
const PORTS: [u16; 7] = [0, 1, 79, 80, 81, 8080, 65535];
const PROTOCOLS: [u8; 3] = [6, 17, 132];
const SETS: u32 = 4;
const RULES: u32 = 14;
const SELECTORS: u32 = 6;

fn address() -> impl Strategy<Value = IpAddr> {
    select(&ADDRESSES[..]).prop_map(|text| text.parse().expect("an address"))
}

fn net() -> impl Strategy<Value = (IpAddr, u8)> {
    select(&NETS[..]).prop_map(|(text, length)| (text.parse().expect("an address"), length))
}

fn selectors(most: usize) -> impl Strategy<Value = Vec<SelectorId>> {
    proptest::collection::vec((0..SELECTORS).prop_map(SelectorId), 0..most)
}

fn peers() -> impl Strategy<Value = PeersSpec> {
    let block = (net(), proptest::collection::vec(net(), 0..3))
        .prop_map(|(net, except)| NetSpec { net, except: except.into() });
    let of = (selectors(3), proptest::collection::vec(block, 0..3))
        .prop_map(|(selectors, nets)| PeersSpec::Of { selectors: selectors.into(), nets: nets.into() });
    prop_oneof![1 => Just(PeersSpec::Any), 4 => of]
}

fn rule() -> impl Strategy<Value = RuleSpec> {
    let tier = prop_oneof![1 => Just(Tier::Admin), 2 => Just(Tier::NetworkPolicy), 1 => Just(Tier::Baseline)];
    let action = prop_oneof![2 => Just(Action::Accept), 2 => Just(Action::Deny), 1 => Just(Action::Pass)];
    let port = (select(&PROTOCOLS[..]), select(&PORTS[..]), select(&PORTS[..])).prop_map(|(protocol, a, b)| Ports {
        protocol,
        first: a.min(b),
        last: a.max(b),
    });
    let ports = prop_oneof![1 => Just(None), 3 => proptest::collection::vec(port, 0..3).prop_map(Some)];
    let named = prop_oneof![3 => Just(None), 1 => (0..SELECTORS).prop_map(|n| Some(SelectorId(n)))];
    (tier, action, peers(), named, ports).prop_map(|(tier, action, peers, named, ports)| RuleSpec {
        tier,
        action,
        peers,
        named,
        ports: ports.map(Into::into),
    })
}

/// A change, owning what it names.
#[derive(Clone, Debug)]
struct Step {
    addresses: Vec<(IpAddr, Option<Vec<SelectorId>>)>,
    rules: Vec<(RuleId, Option<Arc<RuleSpec>>)>,
    sets: Vec<(RuleSetId, Option<Arc<[RuleId]>>)>,
    pod_ranges: Option<Vec<(IpAddr, u8)>>,
}

fn step() -> impl Strategy<Value = Step> {
    let owner = (address(), prop_oneof![1 => Just(None), 3 => selectors(4).prop_map(Some)]);
    let id = (0..RULES).prop_map(RuleId);
    let content = prop_oneof![1 => Just(None), 5 => rule().prop_map(|rule| Some(Arc::new(rule)))];
    let list = proptest::collection::vec(id.clone(), 0..10).prop_map(|list| Some(list.into()));
    let set = ((0..SETS).prop_map(RuleSetId), prop_oneof![1 => Just(None), 5 => list]);
    (
        proptest::collection::vec(owner, 0..5),
        proptest::collection::vec((id, content), 0..4),
        proptest::collection::vec(set, 0..3),
        prop_oneof![4 => Just(None), 1 => proptest::collection::vec(net(), 0..3).prop_map(Some)],
    )
        .prop_map(|(addresses, rules, sets, pod_ranges)| Step { addresses, rules, sets, pod_ranges })
}

/// All rules at once, so that later steps find them.
fn all_rules() -> impl Strategy<Value = Step> {
    let sets = proptest::collection::vec(proptest::collection::vec((0..RULES).prop_map(RuleId), 0..20), SETS as usize);
    (proptest::collection::vec(rule(), RULES as usize), sets).prop_map(|(rules, sets)| Step {
        addresses: Vec::new(),
        rules: (0..).zip(rules).map(|(id, rule)| (RuleId(id), Some(Arc::new(rule)))).collect(),
        sets: (0..).zip(sets).map(|(id, list)| (RuleSetId(id), Some(list.into()))).collect(),
        pod_ranges: None,
    })
}

impl Step {
    fn with<T>(&self, run: impl FnOnce(&Change<'_>) -> T) -> T {
        let addresses: Vec<_> = self.addresses.iter().map(|(address, list)| (*address, list.as_deref())).collect();
        run(&Change {
            addresses: &addresses,
            rules: &self.rules,
            sets: &self.sets,
            pod_ranges: self.pod_ranges.as_deref(),
        })
    }
}

fn questions() -> Vec<Query> {
    let ports = PROTOCOLS.iter().flat_map(|protocol| PORTS.map(|port| L4 { protocol: *protocol, port: Some(port) }));
    let all: Vec<L4> = ports.chain([L4 { protocol: 1, port: None }, L4 { protocol: 47, port: Some(80) }]).collect();
    let mut questions = Vec::new();
    for set in 0..=SETS {
        for address in ADDRESSES.map(|text| text.parse().expect("an address")) {
            for l4 in &all {
                for (own, stranger) in [(false, false), (true, false), (false, true), (true, true)] {
                    questions.push(Query { set: RuleSetId(set), peer: address, l4: *l4, own, stranger });
                }
            }
        }
    }
    questions
}

/// Every answer equals the oracle's; those that changed are covered by the effects.
fn compare(policies: &Policies, model: &Model, before: Option<(&Policies, &Effects)>) {
    let queries = questions();
    let mut in_bulk = vec![Decision { accept: false, rule: None }; queries.len()];
    let hits = |rule: &RuleId| policies.hits(*rule);
    let before_hits: u64 = model.rules.keys().map(hits).sum();
    policies.judge_bulk(&queries, &mut in_bulk);
    let counted = in_bulk.iter().filter(|decision| decision.rule.is_some()).count() as u64;
    assert_eq!(model.rules.keys().map(hits).sum::<u64>(), before_hits + counted);
    for (query, bulk) in queries.into_iter().zip(in_bulk) {
        let expected = model.judge(&query);
        let decision = policies.peek(&query);
        assert_eq!(decision, expected, "{query:?}");
        assert_eq!(bulk, expected, "in bulk: {query:?}");
        if let Some((before, effects)) = before {
            let covered = effects.addresses.contains(&query.peer) || effects.sets.contains(&query.set);
            assert!(covered || before.peek(&query) == decision, "{query:?}: {effects:?}");
        }
    }
    assert_eq!(policies.addresses(), model.addresses.len());
    let classes: BTreeSet<_> = model.addresses.values().collect();
    assert_eq!(policies.classes(), classes.len());
    for text in ADDRESSES {
        let address: IpAddr = text.parse().expect("an address");
        let expected: Option<Vec<_>> = model.addresses.get(&address).map(|has| has.iter().copied().collect());
        assert_eq!(policies.selectors_of(address), expected.as_deref());
    }
    assert_eq!(policies.rules().map(|(id, spec)| (id, Arc::clone(spec))).collect::<BTreeMap<_, _>>(), model.rules);
    assert_eq!(policies.sets().map(|(id, list)| (id, Arc::clone(list))).collect::<BTreeMap<_, _>>(), model.sets);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn equals_rules_in_turn(first in all_rules(), steps in proptest::collection::vec(step(), 1..16)) {
        let (mut policies, mut model) = (Policies::default(), Model::default());
        for step in [first].iter().chain(&steps) {
            let mut next = model.clone();
            step.with(|change| next.apply(change));
            match step.with(|change| policies.with(change)) {
                Ok((changed, effects)) => {
                    prop_assert!(!next.dangles());
                    compare(&changed, &next, Some((&policies, &effects)));
                    // The snapshot before is as it was.
                    compare(&policies, &model, None);
                    (policies, model) = (changed, next);
                }
                Err(error) => {
                    let refused = matches!(error, PolicyError::NoRule { .. });
                    prop_assert!(refused && next.dangles(), "{}", error);
                }
            }
        }
        // All that was learned step by step is what is learned at once.
        let whole = Step {
            addresses: model.addresses.iter().map(|(a, s)| (*a, Some(s.iter().copied().collect()))).collect(),
            rules: model.rules.iter().map(|(id, rule)| (*id, Some(Arc::clone(rule)))).collect(),
            sets: model.sets.iter().map(|(id, set)| (*id, Some(Arc::clone(set)))).collect(),
            pod_ranges: Some(model.pod_ranges.clone()),
        };
        let (at_once, _) = whole.with(|change| Policies::default().with(change)).expect("nothing dangles");
        compare(&at_once, &model, None);
    }
}

fn rule_of(action: Action, peers: PeersSpec, ports: Option<Ports>) -> Option<Arc<RuleSpec>> {
    let ports = ports.map(|ports| Box::from([ports]));
    Some(Arc::new(RuleSpec { tier: Tier::NetworkPolicy, action, peers, named: None, ports }))
}

fn refused(policies: &Policies, change: &Change<'_>) -> PolicyError {
    policies.with(change).expect_err("a change that cannot be")
}

#[test]
fn what_cannot_be_is_refused_as_a_whole() {
    let ports = |first, last| Ports { protocol: 6, first, last };
    let any = rule_of(Action::Accept, PeersSpec::Any, None);
    let rules = [(RuleId(1), any.clone())];
    let sets = [(RuleSetId(1), Some(Arc::from([RuleId(1)])))];
    let (policies, _) =
        Policies::default().with(&Change { rules: &rules, sets: &sets, ..Change::default() }).expect("a valid change");

    let back = rule_of(Action::Accept, PeersSpec::Any, Some(ports(81, 80)));
    let change = Change { rules: &[(RuleId(2), back)], ..Change::default() };
    assert_eq!(refused(&policies, &change), PolicyError::Ports(RuleId(2), ports(81, 80)));

    let long: (IpAddr, u8) = ("10.0.0.0".parse().expect("an address"), 33);
    let change = Change { pod_ranges: Some(&[long]), ..Change::default() };
    assert_eq!(refused(&policies, &change), PolicyError::Prefix(long.0, 33));
    let net = NetSpec { net: (long.0, 8), except: Box::new([long]) };
    let block = rule_of(Action::Accept, PeersSpec::Of { selectors: Box::new([]), nets: Box::new([net]) }, None);
    let change = Change { rules: &[(RuleId(2), block)], ..Change::default() };
    assert_eq!(refused(&policies, &change), PolicyError::Prefix(long.0, 33));

    let change = Change { rules: &[(RuleId(1), None)], ..Change::default() };
    assert_eq!(refused(&policies, &change), PolicyError::NoRule { set: RuleSetId(1), rule: RuleId(1) });
    let change = Change { sets: &[(RuleSetId(2), Some(Arc::from([RuleId(9)])))], ..Change::default() };
    assert_eq!(refused(&policies, &change), PolicyError::NoRule { set: RuleSetId(2), rule: RuleId(9) });

    // As many rules as a set can have, and one more.
    let many: Vec<_> = (0..=MAX_RULES as u32).map(|n| (RuleId(n), any.clone())).collect();
    let list: Arc<[RuleId]> = many.iter().map(|(id, _)| *id).collect();
    let most = [(RuleSetId(2), Some(list[..MAX_RULES].into()))];
    let (full, _) = policies.with(&Change { rules: &many, sets: &most, ..Change::default() }).expect("just enough");
    let set = [(RuleSetId(2), Some(list))];
    let change = Change { sets: &set, ..Change::default() };
    let rules = MAX_RULES + 1;
    assert_eq!(refused(&full, &change), PolicyError::TooManyRules { set: RuleSetId(2), rules });
}

#[test]
fn the_last_of_many_rules_decides_and_a_new_first_one_takes_over() {
    let only = |port| rule_of(Action::Accept, PeersSpec::Any, Some(Ports { protocol: 6, first: port, last: port }));
    let mut rules: Vec<_> = (0..3000).map(|n| (RuleId(u32::from(n)), only(n))).collect();
    rules.push((RuleId(3000), rule_of(Action::Deny, PeersSpec::Any, None)));
    let list: Vec<RuleId> = rules.iter().map(|(id, _)| *id).collect();
    let sets = [(RuleSetId(1), Some(list[..].into()))];
    let (policies, effects) =
        Policies::default().with(&Change { rules: &rules, sets: &sets, ..Change::default() }).expect("a valid change");
    assert_eq!(effects, Effects { addresses: vec![], sets: vec![RuleSetId(1)] });

    let peer = "10.0.0.1".parse().expect("an address");
    let asked = |policies: &Policies, port| {
        let l4 = L4 { protocol: 6, port: Some(port) };
        policies.judge(&Query { set: RuleSetId(1), peer, l4, own: false, stranger: false })
    };
    assert_eq!(asked(&policies, 2999), Decision { accept: true, rule: Some(RuleId(2999)) });
    assert_eq!(asked(&policies, 3000), Decision { accept: false, rule: Some(RuleId(3000)) });

    let longer: Vec<RuleId> = [RuleId(4000)].into_iter().chain(list).collect();
    let rules = [(RuleId(4000), rule_of(Action::Deny, PeersSpec::Any, None))];
    let sets = [(RuleSetId(1), Some(longer.into()))];
    let (next, _) = policies.with(&Change { rules: &rules, sets: &sets, ..Change::default() }).expect("a valid change");
    assert_eq!(asked(&next, 2999), Decision { accept: false, rule: Some(RuleId(4000)) });
    // Both snapshots count the same rule's hits.
    assert_eq!(asked(&policies, 2999).rule, Some(RuleId(2999)));
    assert_eq!([next.hits(RuleId(2999)), next.hits(RuleId(3000)), next.hits(RuleId(4000))], [2, 1, 1]);
}
