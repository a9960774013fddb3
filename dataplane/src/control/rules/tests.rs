//! Rules that follow step by step against ones that follow at once.

use std::net::IpAddr;

use podplane_config::v1::{Address, Net, Object, Peers, PortRange, Protocol, Rule, RuleAction, RuleSet, ToDataplane};
use podplane_config::valid::{Assembler, State};

use super::*;

fn address(n: u8, selectors: &[u32]) -> Object {
    let (owner, name) = (format!("uid-{n}"), format!("default/{n}"));
    Object::Address(Address { address: IpAddr::from([10, 244, 0, n]), owner, name, selectors: selectors.to_vec() })
}

fn rule(id: u32, tier: v1::Tier, action: RuleAction, port: u16) -> Object {
    let prefix = |text: &str| text.parse().expect("a range");
    Object::Rule(Rule {
        id,
        name: format!("rule {id}"),
        tier,
        action,
        peers: Peers::Of {
            selectors: vec![id, 9],
            nets: vec![Net { net: prefix("10.0.0.0/8"), except: vec![prefix("10.1.0.0/16")] }],
        },
        named: (id == 2).then_some(77),
        ports: Some(vec![PortRange { protocol: Protocol::Udp, first: port, last: port + 1 }]),
    })
}

fn set(id: u32, rules: &[u32]) -> Object {
    Object::RuleSet(RuleSet { id, rules: rules.to_vec() })
}

fn apply(state: &State, full: bool, objects: Vec<Object>) -> State {
    let mut assembler = Assembler::default();
    assembler.message(ToDataplane::Begin { generation: 1, full }).expect("begin");
    for object in objects {
        assembler.message(ToDataplane::Upsert(object)).expect("a message in order");
    }
    let whole = assembler.message(ToDataplane::Commit { generation: 1 }).expect("commit").expect("a transaction");
    state.apply(&whole).expect("a valid state")
}

fn begin() -> Vec<Object> {
    vec![
        address(1, &[4, 9]),
        address(2, &[]),
        rule(1, v1::Tier::Admin, RuleAction::Pass, 80),
        rule(2, v1::Tier::Baseline, RuleAction::Deny, 53),
        set(5, &[1, 2]),
        set(6, &[2]),
    ]
}

#[test]
fn following_step_by_step_is_following_at_once() {
    let first = apply(&State::default(), true, begin());
    let changed = vec![address(1, &[4]), rule(1, v1::Tier::Admin, RuleAction::Deny, 81), set(6, &[1])];
    let second = apply(&first, false, changed);
    let third = apply(&second, true, begin()[1..4].to_vec());
    let mut stepped = Rules::default();
    for state in [&first, &second, &third, &first] {
        let before = stepped.map().clone();
        stepped = stepped.follow(&state.policy);
        assert_eq!(*stepped.map(), *Rules::default().follow(&state.policy).map());
        // The second step left these alone.
        if std::ptr::eq(state, &second) {
            assert!(Arc::ptr_eq(&before.rules[&RuleId(2)], &stepped.map().rules[&RuleId(2)]));
            assert!(Arc::ptr_eq(&before.sets[&RuleSetId(5)], &stepped.map().sets[&RuleSetId(5)]));
        }
    }
}

#[test]
fn a_rule_says_what_it_said() {
    let state = apply(&State::default(), true, begin());
    let rules = Rules::default().follow(&state.policy);
    let spec = &rules.map().rules[&RuleId(2)];
    assert_eq!((spec.tier, spec.action, spec.named), (Tier::Baseline, Action::Deny, Some(SelectorId(77))));
    assert_eq!(spec.ports.as_deref(), Some(&[Ports { protocol: 17, first: 53, last: 54 }][..]));
    let PeersSpec::Of { selectors, nets } = &spec.peers else { panic!("{spec:?}") };
    assert_eq!(**selectors, [SelectorId(2), SelectorId(9)]);
    assert_eq!(nets[0].net, (IpAddr::from([10, 0, 0, 0]), 8));
    assert_eq!(*nets[0].except, [(IpAddr::from([10, 1, 0, 0]), 16)]);
    assert_eq!(*rules.map().addresses[&IpAddr::from([10, 244, 0, 1])], [SelectorId(4), SelectorId(9)]);
    let policy = v1::EndpointPolicy { ingress: Some(5), egress: None };
    assert_eq!(of_endpoint(policy), PortPolicy { ingress: Some(RuleSetId(5)), egress: None });
}
