//! Judging allocates nothing, one by one and in bulk, whichever way it takes.
//!
//! Counted is what the test's own thread does: the harness allocates when it likes.
#![allow(unsafe_code)]

mod counting;

use std::net::IpAddr;
use std::sync::Arc;

use counting::allocations;
use podplane_tables::policy::{
    Action, Change, Decision, L4, NetSpec, PeersSpec, Policies, Query, RuleId, RuleSetId, RuleSpec, SelectorId, Tier,
};

#[test]
fn judging_does_not_allocate() {
    let net = |text: &str, length| (text.parse::<IpAddr>().expect("an address"), length);
    let block = |net| NetSpec { net, except: Box::new([]) };
    let rule = |tier, action, named| {
        let nets = Box::new([block(net("10.0.0.0", 8)), block(net("fd00::", 16))]);
        let peers = PeersSpec::Of { selectors: Box::new([SelectorId(1)]), nets };
        Some(Arc::new(RuleSpec { tier, action, peers, named, ports: None }))
    };
    // A rule that passes, one whose binding nobody has, and one that decides.
    let rules = [
        (RuleId(1), rule(Tier::Admin, Action::Pass, None)),
        (RuleId(2), rule(Tier::NetworkPolicy, Action::Deny, Some(SelectorId(9)))),
        (RuleId(3), rule(Tier::Baseline, Action::Deny, None)),
    ];
    let sets = [(RuleSetId(1), Some(Arc::from([RuleId(1), RuleId(2), RuleId(3)])))];
    let pods = [net("10.0.0.1", 0).0, net("fd00::1", 0).0];
    let selectors = [SelectorId(1)];
    let addresses = pods.map(|pod| (pod, Some(&selectors[..])));
    let change = Change { addresses: &addresses, rules: &rules, sets: &sets, pod_ranges: None };
    let policies = Policies::default().with(&change).expect("a valid change").0;

    let outside = [net("10.9.9.9", 0).0, net("8.8.8.8", 0).0, net("2001:db8::1", 0).0];
    let peers = [pods[0], pods[1], outside[0], outside[1], outside[2]];
    let l4 = L4 { protocol: 6, port: Some(80) };
    let queries = peers.map(|peer| Query { set: RuleSetId(1), peer, l4, own: false, stranger: false });
    let mut decisions = [Decision { accept: false, rule: None }; 5];
    let before = allocations();
    policies.judge_bulk(&queries, &mut decisions);
    let one_by_one =
        peers.map(|peer| policies.judge(&Query { set: RuleSetId(1), peer, l4, own: false, stranger: false }));
    assert_eq!(allocations() - before, 0);
    assert_eq!(one_by_one, decisions);
    assert_eq!(one_by_one.map(|decision| decision.accept), [false, false, false, true, true]);
}
