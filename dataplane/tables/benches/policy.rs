//! Policies: decisions, and what changes cost, at 10,000 rules. In CPU time of the calling thread, so that what else
//! the machine does matters less.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use podplane_tables::policy::{
    Action, Change, Decision, L4, NetSpec, PeersSpec, Policies, Ports, Query, RuleId, RuleSetId, RuleSpec, SelectorId,
    Tier,
};
use rustix::time::{ClockId, clock_gettime};

const RULES: u32 = 10_000;
/// Policies of ten rules each; the selector of the first matches the new address.
const POLICIES: u32 = 1_000;
const BURST: usize = 32;
/// The selector that matches every pod.
const ALL: SelectorId = SelectorId(1_000_000);
const ISOLATION: RuleId = RuleId(1_000_000);

fn scramble(n: u64) -> u64 {
    let x = (n ^ (n >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let x = (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    x ^ (x >> 33)
}

fn random(n: u32, salt: u64, below: u32) -> u32 {
    (scramble(u64::from(n) * 64 + salt) % u64::from(below)) as u32
}

fn pod(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

/// Rule `n`: of policy `n / 10`, about the pods of one selector and, one in ten, a block; one or two ports.
fn rule(n: u32, selector: SelectorId) -> RuleSpec {
    let port = |salt| Ports { protocol: 6, first: 1000 + random(n, salt, 300) as u16 * 5, last: 0 };
    let ports = [port(1), port(2)].map(|ports| Ports { last: ports.first, ..ports });
    let net = (Ipv4Addr::from(0xc000_0000 + (random(n, 3, 1 << 16) << 8)).into(), 24);
    let nets = if n.is_multiple_of(10) { Some(NetSpec { net, except: Box::new([]) }) } else { None };
    RuleSpec {
        tier: Tier::NetworkPolicy,
        action: Action::Accept,
        peers: PeersSpec::Of { selectors: Box::new([selector]), nets: nets.into_iter().collect() },
        named: None,
        ports: Some(ports[..1 + (n % 2) as usize].into()),
    }
}

fn isolation() -> RuleSpec {
    RuleSpec { tier: Tier::NetworkPolicy, action: Action::Deny, peers: PeersSpec::Any, named: None, ports: None }
}

/// What control says at once.
#[derive(Default)]
struct Load {
    addresses: Vec<(IpAddr, Vec<SelectorId>)>,
    rules: Vec<(RuleId, Option<Arc<RuleSpec>>)>,
    sets: Vec<(RuleSetId, Option<Arc<[RuleId]>>)>,
}

impl Load {
    fn apply(&self) -> Policies {
        let addresses: Vec<_> = self.addresses.iter().map(|(address, list)| (*address, Some(&list[..]))).collect();
        let change =
            Change { addresses: &addresses, rules: &self.rules, sets: &self.sets, pod_ranges: Some(&[(pod(0), 16)]) };
        Policies::default().with(&change).expect("a valid change").0
    }
}

/// All rules dealt out to so many sets, each with the isolation rule at its end; 10,000 pods of 1,000 namespaces, each
/// with eight selectors.
fn load(sets: u32, selector: impl Fn(u32) -> SelectorId) -> Load {
    let mut load = Load::default();
    let mut lists = BTreeMap::<u32, Vec<RuleId>>::new();
    for n in 0..RULES {
        load.rules.push((RuleId(n), Some(Arc::new(rule(n, selector(n))))));
        lists.entry(n % sets).or_default().push(RuleId(n));
    }
    load.rules.push((ISOLATION, Some(Arc::new(isolation()))));
    for (set, mut list) in lists {
        list.push(ISOLATION);
        load.sets.push((RuleSetId(set), Some(list.into())));
    }
    for n in 0..10_000 {
        let mut selectors = vec![ALL, SelectorId(10_000 + n / 10), SelectorId(20_000 + n % 50)];
        selectors.extend((0..5).map(|salt| SelectorId(random(n / 5, 10 + salt, 2_000))));
        load.addresses.push((pod(n), selectors));
    }
    load
}

fn by_policy(n: u32) -> SelectorId {
    let rules = RULES / POLICIES;
    SelectorId(if n.is_multiple_of(rules) { n / rules } else { POLICIES + random(n, 6, POLICIES) })
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The CPU time of so many runs.
fn cpu<T>(times: u64, mut run: impl FnMut() -> T) -> Duration {
    let started = cpu_time();
    for _ in 0..times {
        black_box(run());
    }
    cpu_time() - started
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy_judge");
    for (name, sets) in [("10k_rules_in_one_set", 1), ("10k_rules_in_250_sets", 250)] {
        let policies = load(sets, by_policy).apply();
        let queries: Vec<Query> = (0..1 << 14)
            .map(|n| {
                let port = 1000 + random(n, 21, 300) as u16 * 5;
                let set = RuleSetId(random(n, 20, sets));
                Query {
                    set,
                    peer: pod(random(n, 22, 10_000)),
                    l4: L4 { protocol: 6, port: Some(port) },
                    own: false,
                    stranger: false,
                }
            })
            .collect();
        let mut at = 0;
        let mut next = || {
            at = (at + BURST) % queries.len();
            &queries[at..at + BURST]
        };
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(format!("{name}/one"), |b| {
            b.iter_custom(|times| cpu(times, || next().iter().filter(|q| policies.judge(q).accept).count()));
        });
        let mut decisions = [Decision { accept: false, rule: None }; BURST];
        group.bench_function(format!("{name}/bulk"), |b| {
            b.iter_custom(|times| cpu(times, || policies.judge_bulk(black_box(next()), &mut decisions)));
        });
    }
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy_change");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    for (name, sets) in [("10k_rules_in_one_set", 1), ("10k_rules_in_250_sets", 250)] {
        let base = load(sets, by_policy).apply();
        // Drops of the old and the new are control's work, too, but not on the way of a change to the workers.
        let mut bench = |what: &str, base: &Policies, change: &Change<'_>| {
            group.bench_function(format!("{name}/{what}"), |b| {
                b.iter_custom(|times| {
                    let one = || {
                        let started = cpu_time();
                        let changed = base.with(change).expect("valid");
                        let took = cpu_time() - started;
                        drop(changed);
                        took
                    };
                    (0..times).map(|_| one()).sum()
                });
            });
        };
        let selected: Vec<SelectorId> = (0..POLICIES).map(SelectorId).collect();
        let new = pod(20_000);
        let add = Change { addresses: &[(new, Some(&selected))], ..Change::default() };
        bench("address_that_1000_policies_select_comes", &base, &add);
        let with = base.with(&add).expect("valid").0;
        bench("and_goes", &with, &Change { addresses: &[(new, None)], ..Change::default() });
        let known = base.selectors_of(pod(7)).expect("a pod").to_vec();
        bench(
            "address_of_a_known_class_comes",
            &base,
            &Change { addresses: &[(new, Some(&known))], ..Change::default() },
        );

        let id = RuleId(RULES / 2);
        let spec = rule(id.0, by_policy(id.0));
        let mut one = |what: &str, spec: RuleSpec| {
            bench(what, &base, &Change { rules: &[(id, Some(Arc::new(spec)))], ..Change::default() });
        };
        let other = Ports { protocol: 6, first: 7, last: 9999 };
        one("rule_gets_other_ports", RuleSpec { ports: Some(Box::new([other])), ..spec.clone() });
        let some = PeersSpec::Of { selectors: Box::new([SelectorId(20_001)]), nets: Box::new([]) };
        one("rule_gets_a_selector_of_200_pods", RuleSpec { peers: some, ..spec.clone() });
        let everybody = PeersSpec::Of { selectors: Box::new([ALL]), nets: Box::new([]) };
        one("rule_gets_the_selector_of_all_pods", RuleSpec { peers: everybody, ..spec.clone() });
        let net = NetSpec { net: (Ipv4Addr::UNSPECIFIED.into(), 0), except: Box::new([(pod(0), 8)]) };
        let block = PeersSpec::Of { selectors: Box::new([]), nets: Box::new([net]) };
        one("rule_gets_a_block", RuleSpec { peers: block, ..spec.clone() });

        let list = base.set(RuleSetId(0)).expect("a set");
        let mut longer = list.to_vec();
        longer.insert(list.len() / 2, RuleId(RULES));
        let (rules, sets) = ([(RuleId(RULES), Some(Arc::new(spec)))], [(RuleSetId(0), Some(longer.into()))]);
        bench("set_gets_a_rule_in_its_middle", &base, &Change { rules: &rules, sets: &sets, ..Change::default() });
    }
}

/// 10,000 pods of 1,000 namespaces, 2,000 policies of five rules, 500 sets: all at once.
fn whole(c: &mut Criterion) {
    let load = load(500, |n| SelectorId(n / 5));
    let started = Instant::now();
    let policies = load.apply();
    println!("{policies:?} in {:.1?}: {} KiB", started.elapsed(), policies.memory() >> 10);
    let mut group = c.benchmark_group("policy_load");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(300));
    group.bench_function("10000_addresses_2000_policies", |b| b.iter_custom(|times| cpu(times, || load.apply())));
}

criterion_group!(benches, decisions, changes, whole);
criterion_main!(benches);
