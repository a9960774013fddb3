//! Owners, rules and rule sets: refusals by name, and incremental states against ones made at once.

use std::sync::Arc;

use super::*;
use crate::v1::{
    Address, EndpointPolicy, Net, Peers, PortRange, Protocol, Rule, RuleAction, RuleSet, Tier, ToDataplane,
};

fn owner(address: &str, selectors: &[u32]) -> Address {
    let (owner, name) = ("3f1c".to_owned(), "default/web".to_owned());
    Address { address: ip(address), owner, name, selectors: selectors.to_vec() }
}

fn rule(id: u32, tier: Tier) -> Rule {
    let peers = Peers::Of {
        selectors: vec![7, 3],
        nets: vec![Net { net: net("10.0.0.0/8"), except: vec![net("10.1.0.0/16")] }],
    };
    let ports = Some(vec![PortRange { protocol: Protocol::Tcp, first: 80, last: 90 }]);
    Rule {
        id,
        name: format!("NetworkPolicy default/{id}"),
        tier,
        action: RuleAction::Accept,
        peers,
        named: None,
        ports,
    }
}

fn set(id: u32, rules: &[u32]) -> Object {
    Object::RuleSet(RuleSet { id, rules: rules.to_vec() })
}

fn guarded(id: &str, last: u8, ingress: Option<u32>, egress: Option<u32>) -> v1::Endpoint {
    v1::Endpoint { policy: EndpointPolicy { ingress, egress }, ..pod(id, last) }
}

fn whole() -> Vec<Object> {
    let rules = [(1, Tier::Admin), (2, Tier::NetworkPolicy), (3, Tier::NetworkPolicy), (4, Tier::Baseline)];
    let mut all: Vec<Object> = rules.into_iter().map(|(id, tier)| Object::Rule(rule(id, tier))).collect();
    all.extend([set(1, &[1, 2, 4]), set(2, &[3]), Object::Address(owner("10.244.2.2", &[1, 5]))]);
    all.extend([Object::Local(node()), Object::Endpoint(guarded("a", 2, Some(1), Some(2)))]);
    all
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let refused = |change: fn(&mut Rule)| {
        let mut rule = rule(1, Tier::Admin);
        change(&mut rule);
        refusal([Object::Rule(rule)])
    };
    assert!(refused(|r| r.name.clear()).contains("no name"));
    assert!(refused(|r| r.ports = Some(Vec::new())).contains("for no port"));
    let ports = |r: &mut Rule, first, last| r.ports = Some(vec![PortRange { protocol: Protocol::Udp, first, last }]);
    let below = rule_with(|r| ports(r, 9, 8));
    assert!(refusal([below]).contains("ports 9 to 8 are none"));
    assert!(refusal([rule_with(|r| ports(r, 0, 8))]).contains("ports 0 to 8 are none"));
    let beside = |except: &str| {
        let nets = vec![Net { net: net("10.0.0.0/8"), except: vec![net(except)] }];
        refusal([rule_with(|r| r.peers = Peers::Of { selectors: Vec::new(), nets })])
    };
    assert!(beside("11.0.0.0/16").contains("11.0.0.0/16 cannot be left out of 10.0.0.0/8"));
    assert!(beside("0.0.0.0/0").contains("not within") && beside("fd00::/8").contains("not within"));
    let many = |selectors: usize, nets: usize| {
        let nets = vec![Net { net: net("10.0.0.0/8"), except: vec![net("10.0.0.0/9")] }; nets];
        refusal([rule_with(|r| r.peers = Peers::Of { selectors: vec![1; selectors], nets })])
    };
    assert!(many(MAX_SELECTORS_PER_RULE + 1, 0).contains("selectors: 16384 is the limit"));
    assert!(many(0, MAX_NETS_PER_RULE / 2 + 1).contains("nets: 32768 is the limit"), "with what is left out");
    let ranges = vec![PortRange { protocol: Protocol::Tcp, first: 1, last: 1 }; MAX_PORTS_PER_RULE + 1];
    assert!(refusal([rule_with(|r| r.ports = Some(ranges))]).contains("ranges of ports: 16384 is the limit"));
    assert!(refusal([set(1, &vec![1; MAX_RULES_PER_SET + 1])]).contains("rules: 28672 is the limit"));
    assert!(refusal([set(1, &[2, 1, 2])]).contains("rule 2 stands there twice"));
    let address = |change: fn(&mut Address)| {
        let mut address = owner("10.244.2.2", &[1, 5]);
        change(&mut address);
        refusal([Object::Address(address)])
    };
    assert!(address(|a| a.address = ip("224.0.0.1")).contains("no address that"));
    assert!(address(|a| a.owner.clear()).contains("no name"));
    assert!(address(|a| a.name = "a\nb".into()).contains("no name"));
    assert!(address(|a| a.selectors = vec![5, 1]).contains("selector 1 is not in order"));
    assert!(address(|a| a.selectors = vec![5, 5]).contains("twice"));
    assert!(address(|a| a.selectors = (0..=MAX_SELECTORS as u32).collect()).contains("65536 is the limit"));
}

fn rule_with(change: impl FnOnce(&mut Rule)) -> Object {
    let mut rule = rule(1, Tier::Admin);
    change(&mut rule);
    Object::Rule(rule)
}

#[test]
fn what_is_named_must_be_there_and_in_order() {
    assert!(refusal([set(1, &[9])]).contains("rule set 1: its rule 9 is not there"));
    let missing = refusal([Object::Local(node()), Object::Endpoint(guarded("a", 2, Some(1), None))]);
    assert_eq!(missing, "endpoint a: its rule set 1 of ingress is not there");
    let missing = refusal([Object::Local(node()), Object::Endpoint(guarded("a", 2, None, Some(7)))]);
    assert!(missing.contains("rule set 7 of egress"), "{missing}");
    let (admin, baseline) = (Object::Rule(rule(1, Tier::Admin)), Object::Rule(rule(2, Tier::Baseline)));
    let order = refusal([admin, baseline, set(1, &[2, 1])]);
    assert!(order.contains("rule 1 of tier Admin stands after one of Baseline"), "{order}");
}

#[test]
fn what_is_still_named_is_not_removed() {
    let state = State::default().apply(&transaction(true, whole())).unwrap();
    let without = |keys: &[Key], objects: Vec<Object>| {
        let mut assembler = Assembler::default();
        assembler.message(ToDataplane::Begin { generation: 1, full: false }).unwrap();
        keys.iter().for_each(|key| drop(assembler.message(ToDataplane::Delete(key.clone())).unwrap()));
        objects.into_iter().for_each(|object| drop(assembler.message(ToDataplane::Upsert(object)).unwrap()));
        let whole = assembler.message(ToDataplane::Commit { generation: 1 }).unwrap().unwrap();
        state.apply(&whole).map_err(|refusal| refusal.to_string())
    };
    assert!(without(&[Key::Rule(2)], Vec::new()).unwrap_err().contains("rule set 1: its rule 2 is not there"));
    assert!(without(&[Key::RuleSet(2)], Vec::new()).unwrap_err().contains("rule set 2 of egress is not there"));
    let both = without(&[Key::Rule(2)], vec![set(1, &[1, 4])]).unwrap();
    assert_eq!((both.policy.rules.len(), both.policy.sets[&1].rules.as_slice()), (3, &[1, 4][..]));
    let free = Object::Endpoint(pod("a", 2));
    let gone = without(&[Key::RuleSet(1), Key::RuleSet(2), Key::Rule(1)], vec![free]).unwrap();
    assert_eq!(gone.policy.sets.len(), 0);
    let tier = without(&[], vec![Object::Rule(rule(2, Tier::Baseline))]).unwrap();
    assert_eq!(tier.policy.rules[&2].tier, Tier::Baseline, "still in order");
    let tier = without(&[], vec![Object::Rule(rule(1, Tier::Baseline))]);
    assert!(tier.unwrap_err().contains("stands after"), "a rule's tier is looked at where it is used");
}

#[test]
fn what_says_the_same_stays_the_same_allocation() {
    let state = State::default().apply(&transaction(true, whole())).unwrap();
    let again = state.apply(&transaction(true, whole())).unwrap();
    assert_eq!(state, again);
    let (old, new) = (&state.policy, &again.policy);
    assert!(old.rules.values().zip(new.rules.values()).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(old.sets.values().zip(new.sets.values()).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(old.addresses.values().zip(new.addresses.values()).all(|(a, b)| Arc::ptr_eq(a, b)));
    let Peers::Of { selectors, .. } = &old.rules[&1].peers else { panic!("peers") };
    assert_eq!(selectors, &[3, 7], "sorted");
}

fn any_change() -> impl Strategy<Value = (Key, Option<Object>)> {
    let tier = prop::sample::select(vec![Tier::Admin, Tier::NetworkPolicy, Tier::NetworkPolicy, Tier::Baseline]);
    let rules = prop::option::weighted(0.8, prop::collection::vec(0u32..5, 0..5));
    let policy = (prop::option::of(0u32..3), prop::option::of(0u32..3));
    prop_oneof![
        4 => (0u32..5, prop::option::weighted(0.8, tier))
            .prop_map(|(id, tier)| (Key::Rule(id), tier.map(|tier| Object::Rule(rule(id, tier))))),
        4 => (0u32..3, rules).prop_map(|(id, rules)| (Key::RuleSet(id), rules.map(|mut rules| {
            rules.sort_unstable();
            rules.dedup();
            set(id, &rules)
        }))),
        2 => (2u8..4, prop::option::of(policy)).prop_map(|(n, policy)| {
            let id = n.to_string();
            let object = policy.map(|(ingress, egress)| Object::Endpoint(guarded(&id, n, ingress, egress)));
            (Key::Endpoint(id), object)
        }),
        2 => (2u8..5, prop::option::of(prop::collection::btree_set(0u32..9, 0..4))).prop_map(|(n, selectors)| {
            let address = format!("10.244.2.{n}");
            let selectors = selectors.map(|set| set.into_iter().collect::<Vec<_>>());
            (Key::Address(ip(&address)), selectors.map(|all| Object::Address(owner(&address, &all))))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Step by step is as at once: the same refusals, the same state.
    #[test]
    fn incremental_states_are_what_full_ones_are(
        steps in prop::collection::vec(prop::collection::vec(any_change(), 1..6), 1..16)
    ) {
        compare(State::default().apply(&transaction(true, whole())).unwrap(), whole(), steps)?;
    }
}
