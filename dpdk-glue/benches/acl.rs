//! Podplane's policies beside DPDK's `rte_acl`: the first rule that matches, out of one pod's rules. `rte_acl` has the same
//! rules as 5-tuples and gets packets in bulk of 32; ours are judged in bulk of 32, too, and one by one, hit counters
//! included. The same packets in the same order, rounds in turn; before that, all must find the same rule for each.
//!
//! Every rule overlaps the traffic: all are about prefixes of one /19 that is full of pods, and each packet is made for
//! one of them. Half name their peers by a block, half by a selector that matches the pods of the prefix.
#![allow(unsafe_code)]

mod common;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use common::{cpu_time, scramble};
use dpdk_glue::{Eal, EalConfig};
use podplane_tables::policy::{
    Action, Change, Decision, L4, NetSpec, PeersSpec, Policies, Ports, Query, RuleId, RuleSetId, RuleSpec, SelectorId,
    Tier,
};

const BURST: usize = 32;
const ROUNDS: usize = 15;
const SET: RuleSetId = RuleSetId(1);
/// The pods that packets go to: 10.0.0.0/19.
const PODS: u32 = 8192;
const NET: u32 = 0x0a00_0000;
/// The pod whose rules these are.
const POD: u32 = 0x0a01_0001;

/// `RTE_ACL_FIELD_TYPE_*`, of an enumeration without a name, for which there are no bindings.
const MASK: u8 = 0;
const RANGE: u8 = 1;
const BITMASK: u8 = 2;

fn main() {
    // `cargo test --benches` runs this too: then a short round only shows that it works.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let memory_mib = if bench { 1024 } else { 128 };
    let eal = Eal::init(&EalConfig { memory_mib, ..EalConfig::default() }).expect("EAL starts");
    for warning in eal.warnings() {
        eprintln!("{warning}");
    }
    let sizes: &[usize] = if bench { &[1_000, 10_000] } else { &[100] };
    println!(
        "{}, ns of CPU time per packet{:>10}{:>12}{:>12}{:>9}{:>9}",
        dpdk_glue::dpdk_version(),
        "one",
        "in bulk",
        "rte_acl",
        "one",
        "in bulk"
    );
    for &rules in sizes {
        compare(rules, if bench { 1 << 16 } else { 1 << 10 }, if bench { ROUNDS } else { 1 });
    }
}

/// A rule in terms of both sides.
struct Rule {
    prefix: (u32, u8),
    by_selector: bool,
    ports: Ports,
}

/// A packet as `rte_acl` reads it, in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tuple {
    protocol: u8,
    pad: [u8; 3],
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// A packet as both sides read it.
struct Packet {
    tuple: Tuple,
    query: Query,
}

fn random(n: u64, salt: u64, below: u32) -> u32 {
    (scramble(n.wrapping_mul(64) + salt) % u64::from(below)) as u32
}

/// Prefixes of 20 to 32 bits; most with one of 200 ports, some with a range; the last rule forbids all.
fn rules(count: usize) -> Vec<Rule> {
    (0..count as u64 - 1)
        .map(|n| {
            let length = 20 + random(n, 1, 13);
            let address = NET + random(n, 2, PODS);
            let protocol = if random(n, 3, 4) == 0 { 17 } else { 6 };
            let first = 1000 + 7 * random(n, 4, 200) as u16;
            let last = if random(n, 5, 5) == 0 { first + random(n, 6, 400) as u16 } else { first };
            Rule {
                prefix: (address & (u32::MAX << (32 - length)), length as u8),
                by_selector: n % 2 == 0,
                ports: Ports { protocol, first, last },
            }
        })
        .collect()
}

fn packets(rules: &[Rule], count: usize) -> Vec<Packet> {
    (0..count as u64)
        .map(|n| {
            let rule = &rules[random(n, 7, rules.len() as u32) as usize];
            let peer = rule.prefix.0 + random(n, 8, 1 << (32 - rule.prefix.1));
            let port = rule.ports.first + random(n, 9, u32::from(rule.ports.last - rule.ports.first) + 1) as u16;
            let protocol = rule.ports.protocol;
            Packet {
                tuple: Tuple {
                    protocol,
                    pad: [0; 3],
                    source: POD.to_be_bytes(),
                    destination: peer.to_be_bytes(),
                    source_port: (20_000 + random(n, 10, 40_000) as u16).to_be_bytes(),
                    destination_port: port.to_be_bytes(),
                },
                query: Query {
                    set: SET,
                    peer: Ipv4Addr::from(peer).into(),
                    l4: L4 { protocol, port: Some(port) },
                    own: false,
                    stranger: false,
                },
            }
        })
        .collect()
}

fn compare(count: usize, packets_count: usize, rounds: usize) {
    let rules = rules(count);
    let packets = packets(&rules, packets_count);
    let started = Instant::now();
    let ours = policies(&rules);
    let built = started.elapsed();
    let started = Instant::now();
    let mut theirs = Acl::build(&rules);
    let theirs_built = started.elapsed();
    let algorithm = theirs.choose(&packets);
    println!(
        "{count} rules: built in {built:.1?}, {} KiB; rte_acl in {theirs_built:.1?}, searches with {algorithm}",
        ours.memory() >> 10
    );
    for burst in packets.chunks(BURST) {
        for ((packet, bulk), theirs) in burst.iter().zip(in_bulk(&ours, burst)).zip(theirs.classify(burst)) {
            let decision = one(&ours, packet);
            assert_eq!(decision, bulk, "one by one and in bulk are the same");
            assert_eq!(decision.rule.map(|rule| rule.0 + 1), Some(theirs), "both find the same rule");
        }
    }
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        times[0].push(time(&packets, |burst| burst.iter().filter(|packet| one(&ours, packet).accept).count()));
        times[1].push(time(&packets, |burst| in_bulk(&ours, burst).iter().filter(|found| found.accept).count()));
        times[2].push(time(&packets, |burst| theirs.classify(burst).iter().filter(|found| **found != 0).count()));
    }
    let [one, bulk, theirs] = times.map(|mut rounds| {
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    });
    let what = format!("{count} rules, all overlap");
    println!("{what:<42}{one:>12.1}{bulk:>12.1}{theirs:>12.1}{:>8.2}x{:>8.2}x", theirs / one, theirs / bulk);
}

fn one(policies: &Policies, packet: &Packet) -> Decision {
    policies.judge(&packet.query)
}

fn in_bulk(policies: &Policies, packets: &[Packet]) -> [Decision; BURST] {
    let packets: &[Packet; BURST] = packets.try_into().expect("a full burst");
    let mut decisions = [Decision { accept: false, rule: None }; BURST];
    policies.judge_bulk(&packets.each_ref().map(|packet| packet.query), &mut decisions);
    decisions
}

/// Nanoseconds per packet of one round.
fn time(packets: &[Packet], mut burst: impl FnMut(&[Packet]) -> usize) -> f64 {
    let start = cpu_time();
    let found: usize = packets.chunks_exact(BURST).map(|packets| burst(black_box(packets))).sum();
    let time = cpu_time() - start;
    assert_eq!(found, packets.len(), "every packet is allowed");
    time.as_nanos() as f64 / found as f64
}

fn policies(rules: &[Rule]) -> Policies {
    let spec = |(n, rule): (usize, &Rule)| RuleSpec {
        tier: Tier::NetworkPolicy,
        action: Action::Accept,
        peers: if rule.by_selector {
            PeersSpec::Of { selectors: Box::new([SelectorId(n as u32)]), nets: Box::new([]) }
        } else {
            let net = (Ipv4Addr::from(rule.prefix.0).into(), rule.prefix.1);
            PeersSpec::Of { selectors: Box::new([]), nets: Box::new([NetSpec { net, except: Box::new([]) }]) }
        },
        named: None,
        ports: Some(Box::new([rule.ports])),
    };
    let isolation =
        RuleSpec { tier: Tier::NetworkPolicy, action: Action::Deny, peers: PeersSpec::Any, named: None, ports: None };
    let specs = rules.iter().enumerate().map(spec).chain([isolation]);
    let specs: Vec<_> = (0..).zip(specs).map(|(n, spec)| (RuleId(n), Some(Arc::new(spec)))).collect();
    // A pod has the selector of each prefix that it is in.
    let owners: Vec<(IpAddr, Vec<SelectorId>)> = (NET..NET + PODS)
        .map(|address| {
            let has = |rule: &Rule| rule.by_selector && (address ^ rule.prefix.0) >> (32 - rule.prefix.1) == 0;
            let selectors = (0..).zip(rules).filter(|(_, rule)| has(rule)).map(|(n, _)| SelectorId(n)).collect();
            (Ipv4Addr::from(address).into(), selectors)
        })
        .collect();
    let addresses: Vec<_> = owners.iter().map(|(address, selectors)| (*address, Some(&selectors[..]))).collect();
    let list: Arc<[RuleId]> = specs.iter().map(|(id, _)| *id).collect();
    let change = Change { addresses: &addresses, rules: &specs, sets: &[(SET, Some(list))], pod_ranges: None };
    Policies::default().with(&change).expect("a valid change").0
}

/// A context of `rte_acl`, built.
struct Acl(NonNull<dpdk_sys::rte_acl_ctx>);

/// `RTE_ACL_RULE_DEF(, 5)`, a macro of C.
#[repr(C)]
struct AclRule {
    data: dpdk_sys::rte_acl_rule_data,
    fields: [dpdk_sys::rte_acl_field; 5],
}

impl Acl {
    fn build(rules: &[Rule]) -> Acl {
        let parameters = dpdk_sys::rte_acl_param {
            name: c"policies".as_ptr(),
            socket_id: -1,
            rule_size: size_of::<AclRule>() as u32,
            max_rule_num: rules.len() as u32 + 1,
        };
        // SAFETY: the parameters and the name live during the call, which copies them.
        let context = NonNull::new(unsafe { dpdk_sys::rte_acl_create(&raw const parameters) }).expect("memory");
        let pod = (POD, 32);
        let any = Ports { protocol: 0, first: 0, last: u16::MAX };
        let all: Vec<AclRule> = rules
            .iter()
            .map(|rule| (rule.prefix, rule.ports, 0xff))
            .chain([((0, 0), any, 0)])
            .enumerate()
            .map(|(n, (prefix, ports, mask))| AclRule {
                data: dpdk_sys::rte_acl_rule_data {
                    category_mask: 1,
                    // The highest wins.
                    priority: (rules.len() + 1 - n) as i32,
                    userdata: n as u32 + 1,
                },
                fields: [
                    field(ports.protocol.into(), mask),
                    field(pod.0.into(), pod.1),
                    field(prefix.0.into(), prefix.1.into()),
                    field(0, u16::MAX.into()),
                    field(ports.first.into(), ports.last.into()),
                ],
            })
            .collect();
        // SAFETY: the rules have the size that the context was made for; the call copies them.
        let added = unsafe { dpdk_sys::rte_acl_add_rules(context.as_ptr(), all.as_ptr().cast(), all.len() as u32) };
        assert_eq!(added, 0, "rules are added");
        let config = config();
        // SAFETY: the context is ours alone, the configuration lives during the call.
        let built = unsafe { dpdk_sys::rte_acl_build(context.as_ptr(), &raw const config) };
        assert_eq!(built, 0, "rules are built");
        Acl(context)
    }

    /// Takes the quickest search that the CPU has for these packets.
    fn choose(&mut self, packets: &[Packet]) -> &'static str {
        // SAFETY: sets a number. Without effect if the user forced another one.
        unsafe { dpdk_sys::rte_vect_set_max_simd_bitwidth(512) };
        let all = [
            ("AVX2", dpdk_sys::rte_acl_classify_alg::RTE_ACL_CLASSIFY_AVX2),
            ("AVX-512, 16 at a time", dpdk_sys::rte_acl_classify_alg::RTE_ACL_CLASSIFY_AVX512X16),
            ("AVX-512, 32 at a time", dpdk_sys::rte_acl_classify_alg::RTE_ACL_CLASSIFY_AVX512X32),
            ("SSE", dpdk_sys::rte_acl_classify_alg::RTE_ACL_CLASSIFY_SSE),
            ("NEON", dpdk_sys::rte_acl_classify_alg::RTE_ACL_CLASSIFY_NEON),
            ("scalar instructions", dpdk_sys::rte_acl_classify_alg::RTE_ACL_CLASSIFY_SCALAR),
        ];
        let mut best = (f64::INFINITY, all[5]);
        for algorithm in all {
            // SAFETY: the context is ours alone; an algorithm that the CPU lacks is refused.
            if unsafe { dpdk_sys::rte_acl_set_ctx_classify(self.0.as_ptr(), algorithm.1) } != 0 {
                continue;
            }
            let took = (0..3).map(|_| time(packets, |burst| self.classify(burst).iter().filter(|f| **f != 0).count()));
            let took = took.fold(f64::INFINITY, f64::min);
            if took < best.0 {
                best = (took, algorithm);
            }
        }
        // SAFETY: as above; it was accepted before.
        let set = unsafe { dpdk_sys::rte_acl_set_ctx_classify(self.0.as_ptr(), best.1.1) };
        assert_eq!(set, 0, "what was possible still is");
        best.1.0
    }

    /// For each packet, one more than the rule that matches first.
    fn classify(&self, packets: &[Packet]) -> [u32; BURST] {
        let packets: &[Packet; BURST] = packets.try_into().expect("a full burst");
        let mut data = packets.each_ref().map(|packet| (&raw const packet.tuple).cast::<u8>());
        let mut results = [0u32; BURST];
        // SAFETY: both arrays have BURST elements; each packet has the bytes that the context's fields say.
        let done = unsafe {
            dpdk_sys::rte_acl_classify(self.0.as_ptr(), data.as_mut_ptr(), results.as_mut_ptr(), BURST as u32, 1)
        };
        debug_assert_eq!(done, 0);
        results
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: created in `build`, freed once, used by nobody else.
        unsafe { dpdk_sys::rte_acl_free(self.0.as_ptr()) };
    }
}

fn field(value: u64, mask_or_last: u64) -> dpdk_sys::rte_acl_field {
    dpdk_sys::rte_acl_field {
        value: dpdk_sys::rte_acl_field_types { u64_: value },
        mask_range: dpdk_sys::rte_acl_field_types { u64_: mask_or_last },
    }
}

/// One category; the five fields where [`Tuple`] has them, the ports as one word, as `rte_acl` wants it.
fn config() -> dpdk_sys::rte_acl_config {
    let field = |index: u8, kind: u8, size: usize, input: u8, offset: usize| dpdk_sys::rte_acl_field_def {
        type_: kind,
        size: size as u8,
        field_index: index,
        input_index: input,
        offset: offset as u32,
    };
    // SAFETY: a structure of integers, for which zeroes are values.
    let mut config: dpdk_sys::rte_acl_config = unsafe { std::mem::zeroed() };
    let fields = [
        field(0, BITMASK, 1, 0, std::mem::offset_of!(Tuple, protocol)),
        field(1, MASK, 4, 1, std::mem::offset_of!(Tuple, source)),
        field(2, MASK, 4, 2, std::mem::offset_of!(Tuple, destination)),
        field(3, RANGE, 2, 3, std::mem::offset_of!(Tuple, source_port)),
        field(4, RANGE, 2, 3, std::mem::offset_of!(Tuple, destination_port)),
    ];
    config.defs[..fields.len()].copy_from_slice(&fields);
    config.num_categories = 1;
    config.num_fields = fields.len() as u32;
    config
}
