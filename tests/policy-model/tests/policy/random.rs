//! Random clusters, policies of all features, and what happens to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;

use podplane_policy_model::api::{ClusterNetworkPolicySpec, Labels, NetworkPolicySpec};
use podplane_policy_model::objects::{Cluster, Container, ContainerPort, Protocol};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};

use crate::pairs;
use crate::policies::{NAMES, NODE_KEYS, POD_KEYS, PORTS, SPACE_KEYS, cluster_policy, labels_of, policy, protocol};
use crate::world::{Chance, RANGES, World, nodes};

/// Pods that there may be at once.
pub const SLOTS: usize = 12;
/// Namespaces.
pub const SPACES: [&str; 3] = ["blue", "green", "red"];
/// Addresses of pods on a node: few, so that they are used again at once.
pub const PLACES: usize = 6;
/// NetworkPolicies of a namespace, and ClusterNetworkPolicies.
pub const POLICIES: usize = 3;
/// Services.
pub const SERVICES: usize = 3;

/// What a pod is like.
#[derive(Clone, Debug)]
pub struct PodPlan {
    pub node: usize,
    pub labels: Labels,
    pub ports: Vec<ContainerPort>,
    /// IPv4, IPv6, both.
    pub families: &'static [bool],
    pub host_network: bool,
    /// Which of the node's free addresses it gets.
    pub place: usize,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Op {
    /// A pod starts, in place of the one of that name.
    Pod(usize, PodPlan),
    Relabel(usize, Labels),
    /// It succeeds or fails; `true`: its runtime has not taken its network away yet.
    Finish(usize, &'static str, bool),
    Terminate(usize),
    /// Its network is taken away, and its object stays; `true`: with a word that it is about to end.
    Unplug(usize, bool),
    /// Its object goes; `true`: before its network.
    Delete(usize, bool),
    Namespace(usize, Labels),
    NoNamespace(usize),
    Policy(usize, usize, NetworkPolicySpec),
    NoPolicy(usize, usize),
    ClusterPolicy(usize, ClusterNetworkPolicySpec),
    NoClusterPolicy(usize),
    NodeLabels(usize, Labels),
    /// A Service leads to a pod's port.
    Service(usize, usize, Protocol, u16),
    NoService(usize),
    /// A node hears so many of the differences (in sixteenths), in a random order.
    Deliver(usize, u8, u64),
    /// A node's agent begins anew.
    Restart(usize),
    Wait(u32),
}

fn pod() -> impl Strategy<Value = PodPlan> {
    let kind = prop_oneof![4 => Just(Container::Main), 1 => Just(Container::Sidecar), 1 => Just(Container::Init)];
    let port = (select(NAMES), prop::option::weighted(0.8, protocol()), select(PORTS), kind)
        .prop_map(|(name, protocol, number, of)| ContainerPort { name: name.to_owned(), protocol, number, of });
    const FAMILIES: &[&[bool]] = &[&[false, true], &[false, true], &[false], &[true]];
    let families = select(FAMILIES);
    let ports = prop::collection::vec(port, 0..4);
    (0..2usize, labels_of(POD_KEYS), ports, families, prop::bool::weighted(0.05), 0..PLACES).prop_map(
        |(node, labels, ports, families, host_network, place)| PodPlan {
            node,
            labels,
            ports,
            families,
            host_network,
            place,
        },
    )
}

pub fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    prop_oneof![
        6 => (slot(), pod()).prop_map(|(s, p)| Op::Pod(s, p)),
        4 => (slot(), labels_of(POD_KEYS)).prop_map(|(s, l)| Op::Relabel(s, l)),
        1 => (slot(), select(&["Succeeded", "Failed"][..]), any::<bool>()).prop_map(|(s, p, b)| Op::Finish(s, p, b)),
        1 => slot().prop_map(Op::Terminate),
        3 => (slot(), prop::bool::weighted(0.8)).prop_map(|(s, b)| Op::Unplug(s, b)),
        2 => (slot(), prop::bool::weighted(0.3)).prop_map(|(s, b)| Op::Delete(s, b)),
        3 => (0..SPACES.len(), labels_of(SPACE_KEYS)).prop_map(|(n, l)| Op::Namespace(n, l)),
        1 => (0..SPACES.len()).prop_map(Op::NoNamespace),
        8 => (0..SPACES.len(), 0..POLICIES, policy()).prop_map(|(n, i, p)| Op::Policy(n, i, p)),
        2 => (0..SPACES.len(), 0..POLICIES).prop_map(|(n, i)| Op::NoPolicy(n, i)),
        4 => (0..POLICIES, cluster_policy()).prop_map(|(i, p)| Op::ClusterPolicy(i, p)),
        1 => (0..POLICIES).prop_map(Op::NoClusterPolicy),
        1 => (0..2usize, labels_of(NODE_KEYS)).prop_map(|(n, l)| Op::NodeLabels(n, l)),
        2 => (0..SERVICES, slot(), protocol(), select(PORTS)).prop_map(|(i, s, p, n)| Op::Service(i, s, p, n)),
        1 => (0..SERVICES).prop_map(Op::NoService),
        14 => (0..2usize, prop_oneof![2 => Just(16u8), 1 => 1..16u8], any::<u64>()).prop_map(|(n, p, o)| Op::Deliver(n, p, o)),
        1 => (0..2usize).prop_map(Op::Restart),
        2 => (0..4000u32).prop_map(Op::Wait),
    ]
}

/// What there is in the beginning: most of the pods, some policies.
pub fn beginning() -> impl Strategy<Value = Vec<Op>> {
    let pods: Vec<_> =
        (0..SLOTS).map(|s| prop::option::weighted(0.85, pod().prop_map(move |p| Op::Pod(s, p)))).collect();
    let spaces: Vec<_> =
        (0..SPACES.len()).map(|n| labels_of(SPACE_KEYS).prop_map(move |l| Op::Namespace(n, l))).collect();
    let named = (0..SPACES.len()).flat_map(|n| (0..POLICIES).map(move |i| (n, i)));
    let policies: Vec<_> =
        named.map(|(n, i)| prop::option::weighted(0.4, policy().prop_map(move |p| Op::Policy(n, i, p)))).collect();
    let cluster: Vec<_> = (0..POLICIES)
        .map(|i| prop::option::weighted(0.4, cluster_policy().prop_map(move |p| Op::ClusterPolicy(i, p))))
        .collect();
    let services: Vec<_> = (0..SERVICES)
        .map(|i| (0..SLOTS, protocol(), select(PORTS)).prop_map(move |(s, p, n)| Op::Service(i, s, p, n)))
        .collect();
    let nodes: Vec<_> = (0..2).map(|n| labels_of(NODE_KEYS).prop_map(move |l| Op::NodeLabels(n, l))).collect();
    (spaces, nodes, pods, policies, cluster, services).prop_map(|(spaces, nodes, pods, policies, cluster, services)| {
        let sure = spaces.into_iter().chain(nodes);
        let chance = pods.into_iter().chain(policies).chain(cluster).flatten();
        sure.chain(chance).chain(services).collect()
    })
}

/// What was tried, by kind, for people.
pub type Counts = BTreeMap<&'static str, u64>;

/// What histories have to come to, and how often, or the test would say little.
const CASES: [(&str, u64); 8] = [
    ("pair verdicts", 2_000_000),
    ("denials", 200_000),
    ("first packets", 5_000),
    ("first packets that arrive", 2_000),
    ("a client's packet of a connection", 1_000),
    ("a client's packet of a connection that is forbidden by now", 20),
    ("an answer of a connection", 1_000),
    ("an answer of a connection that is forbidden by now", 20),
];

/// How many random histories are run.
fn cases() -> u32 {
    std::env::var("POLICY_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(96)
}

/// Where chance begins: the same at each run, so that nobody's change fails by others' bad luck; for a long run it is
/// drawn and told.
fn seed() -> u64 {
    let stated = std::env::var("POLICY_SEED").ok().and_then(|n| n.parse().ok());
    let drawn = || std::env::var_os("POLICY_CASES").map(|_| std::hash::RandomState::new().hash_one(0u8));
    let seed = stated.or_else(drawn).unwrap_or(1);
    println!("POLICY_SEED={seed}");
    seed
}

/// Runs a history, and compares everything after each step in which a node heard something.
pub fn history(workers: u8, beginning: &[Op], ops: &[Op]) -> Result<Counts, (String, Vec<String>)> {
    let mut w = World::new(workers, Cluster { nodes: nodes(RANGES), ..Cluster::default() });
    let questions = pairs::questions();
    let check = |w: &mut World, step: usize| -> Result<(), String> {
        for v6 in [false, true] {
            let (count, denied) = pairs::compare(w, v6, &questions)?;
            *w.counts.entry("pair verdicts").or_default() += count;
            *w.counts.entry("denials").or_default() += denied;
        }
        w.traffic(60, &mut Chance(step as u64))
    };
    let mut run = || -> Result<(), String> {
        beginning.iter().for_each(|op| w.act(op));
        (0..2).for_each(|n| w.act(&Op::Deliver(n, 16, 7)));
        check(&mut w, 0)?;
        for (step, op) in ops.iter().enumerate() {
            w.act(op);
            if matches!(op, Op::Deliver(..) | Op::Restart(_)) {
                check(&mut w, step + 1)?;
            }
        }
        (0..2).for_each(|n| w.act(&Op::Deliver(n, 16, 7)));
        check(&mut w, ops.len() + 1)
    };
    let outcome = run();
    outcome.map(|()| w.counts).map_err(|e| (e, w.log))
}

#[test]
fn what_the_chain_says_is_what_the_oracle_says() {
    let cases = cases();
    let config = ProptestConfig {
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::with_cases(cases)
    };
    let histories = (prop_oneof![Just(1u8), Just(2)], beginning(), prop::collection::vec(op(), 1..40));
    let counts: RefCell<Counts> = RefCell::default();
    let outcome = TestRunner::new(config).run(&histories, |(workers, beginning, ops)| {
        let more = history(workers, &beginning, &ops)
            .map_err(|(e, log)| TestCaseError::fail(format!("{e}\n  log: {log:#?}")))?;
        more.into_iter().for_each(|(what, n)| *counts.borrow_mut().entry(what).or_default() += n);
        Ok(())
    });
    let counts = counts.into_inner();
    println!("{cases} histories: {counts:#?}");
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let missing: Vec<_> = CASES.iter().filter(|(case, least)| counts.get(case).is_none_or(|n| n < least)).collect();
    assert!(cases < 64 || missing.is_empty(), "too seldom: {missing:?}");
}
