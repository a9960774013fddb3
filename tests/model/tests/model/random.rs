//! Random clusters, updates and packets.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use podplane_model::objects::{Cluster, Endpoint, HostPort, Port, Protocol, Service, Slice};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};

use crate::history::World;
use crate::wire::{ACK, FIN, Place, RST, SYN, node, nodes, outside, pod, routed};

/// How many random histories are run.
fn cases() -> u32 {
    std::env::var("MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(256)
}

/// Where chance begins: the same at each run, so that nobody's change fails by others' bad luck; for a long run it is
/// drawn and told.
fn seed() -> u64 {
    let stated = std::env::var("MODEL_SEED").ok().and_then(|n| n.parse().ok());
    let drawn = || std::env::var_os("MODEL_CASES").map(|_| std::hash::RandomState::new().hash_one(0u8));
    let seed = stated.or_else(drawn).unwrap_or(1);
    println!("MODEL_SEED={seed}");
    seed
}

/// How many Services there may be at once.
const SERVICES: usize = 4;
/// Slices: two of each Service.
const SLICES: usize = 2 * SERVICES;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Op {
    Service(usize, Box<Service>),
    NoService(usize),
    Slice(usize, Slice),
    NoSlice(usize),
    /// Another slice with the same content, until the slice changes.
    Twin(usize),
    /// A condition of all endpoints with one address, in one slice.
    Condition(usize, usize, (Option<bool>, Option<bool>, Option<bool>)),
    Zone(usize, Option<String>),
    /// Another range of ClusterIPs comes or goes.
    Range(bool),
    Follow(usize),
    Restart(usize),
    Wait(u32),
    Send {
        from: Place,
        client: u8,
        dst: usize,
        again: u16,
        flags: u8,
    },
    Again {
        which: usize,
        flags: u8,
    },
    Answer {
        which: usize,
        flags: u8,
    },
}

fn v6_or(v6: bool, four: String, six: String) -> IpAddr {
    if v6 { six } else { four }.parse().expect("an address")
}

fn cluster_ip(v6: bool, n: usize) -> IpAddr {
    match n {
        // In the range that comes and goes.
        0 => v6_or(v6, "10.97.0.1".into(), "fd00:97::1".into()),
        n => v6_or(v6, format!("10.96.0.{n}"), format!("fd00:96::{n}")),
    }
}

fn public(v6: bool, n: usize) -> IpAddr {
    v6_or(v6, format!("203.0.113.{n}"), format!("2001:db8:113::{n}"))
}

const PORTS: [(&str, Protocol, u16); 5] = [
    ("a", Protocol::Tcp, 80),
    ("b", Protocol::Udp, 80),
    ("c", Protocol::Tcp, 81),
    ("d", Protocol::Sctp, 80),
    ("e", Protocol::Udp, 53),
];

fn service(i: usize) -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        4 => Just("ClusterIP"), 5 => Just("NodePort"), 8 => Just("LoadBalancer"), 1 => Just("ExternalName")
    ];
    let label = prop_oneof![
        30 => Just(None),
        1 => Just(Some("service.kubernetes.io/service-proxy-name")),
        1 => Just(Some("service.kubernetes.io/headless"))
    ];
    let ranges = prop_oneof![
        6 => Just(vec![]),
        1 => Just(vec!["198.51.100.1/32", "10.244.1.0/24"]),
        1 => Just(vec!["192.0.2.0/24", "2001:db8:51::1/128"]),
        1 => Just(vec!["10.244.2.0/24", "0.0.0.0/0", "fd00:244:1::/64"]),
    ];
    (
        (kind, label, prop::bool::weighted(0.04), 0..5usize, prop_oneof![9 => Just(i + 1), 1 => 0..=SERVICES]),
        (1..32u8, prop_oneof![8 => Just(i), 1 => 0..SERVICES], prop::bool::weighted(0.8), prop::bool::weighted(0.04)),
        (prop_oneof![2 => Just(None), 1 => (1..20u32).prop_map(Some)], any::<bool>(), any::<bool>(), ranges),
        (0..4u8, prop::bool::weighted(0.85), 0..8u8, 0..5u8),
    )
        .prop_map(
            move |((kind, label, headless, families, ip), (mask, block, node_ports, mistake), more, outer)| {
                let (affinity, internal_local, external_local, ranges) = more;
                let (shared, vip, external, created) = outer;
                let families: &[bool] = match families {
                    0 | 1 => &[false],
                    2 => &[true],
                    _ => &[false, true],
                };
                let exposed = matches!(kind, "NodePort" | "LoadBalancer");
                let port = |(n, (name, protocol, port)): (usize, &(&str, Protocol, u16))| Port {
                    name: (*name).to_owned(),
                    protocol: *protocol,
                    port: if mistake { 65_536 } else { u32::from(*port) },
                    node_port: (exposed && node_ports).then_some(30_080 + (block * 8 + n) as u16),
                };
                let wanted = |(n, _): &(usize, _)| mask >> n & 1 == 1;
                let of_families =
                    |address: &dyn Fn(bool) -> IpAddr| families.iter().map(|v6| address(*v6)).collect::<Vec<_>>();
                let mut ingress = Vec::new();
                if kind == "LoadBalancer" {
                    ingress.extend(of_families(&|v6| public(v6, 10 + i)).into_iter().map(|ip| (ip, vip)));
                    if shared == 0 {
                        ingress.extend(of_families(&|v6| public(v6, 5)).into_iter().map(|ip| (ip, true)));
                    }
                }
                let external_ips = match external {
                    0 => of_families(&|v6| public(v6, 100 + i)),
                    1 => of_families(&|v6| public(v6, 5)),
                    2 => of_families(&|v6| cluster_ip(v6, (i + 1) % SERVICES + 1)),
                    _ => Vec::new(),
                };
                Service {
                    created,
                    kind,
                    headless,
                    label,
                    cluster_ips: of_families(&|v6| cluster_ip(v6, ip)),
                    ports: PORTS.iter().enumerate().filter(wanted).map(port).collect(),
                    affinity,
                    internal_local,
                    external_local,
                    ingress,
                    ranges: ranges.iter().map(|net| net.parse().expect("a range")).collect(),
                    external_ips,
                }
            },
        )
}

/// Pods a to d, the nodes' own networks, a server outside, one that pods reach as themselves.
fn place(v6: bool, n: usize) -> (IpAddr, Option<usize>) {
    match n {
        0..4 => (pod(v6, n), Some(n / 2)),
        4 | 5 => (node(v6, n - 4), Some(n - 4)),
        6 => (outside(v6, 80), None),
        _ => (routed(v6), None),
    }
}

fn condition() -> impl Strategy<Value = (Option<bool>, Option<bool>, Option<bool>)> {
    prop_oneof![
        6 => Just((None, None, None)),
        4 => Just((Some(true), Some(true), Some(false))),
        3 => Just((Some(false), Some(false), Some(false))),
        4 => Just((Some(false), Some(true), Some(true))),
        1 => Just((Some(false), Some(false), Some(true))),
        1 => Just((Some(true), Some(true), Some(true))),
        1 => Just((Some(false), None, Some(true))),
    ]
}

fn slice(j: usize) -> impl Strategy<Value = Slice> {
    // Now and then a Service that is not there.
    let owner = prop_oneof![12 => Just(j % SERVICES), 1 => Just(SERVICES)];
    let mask = prop_oneof![4 => any::<u8>(), 1 => Just(0), 3 => 0..16u8];
    let hints = (0..6usize, any::<u16>());
    let conditions = prop::collection::vec(condition(), 8);
    (owner, any::<bool>(), mask, 0..8u8, hints, conditions, prop::bool::weighted(0.6)).prop_map(
        move |(owner, v6, mask, missing, (mode, bits), conditions, all_ready)| {
            // The two slices of a Service differ in the pods' port, so what both say of one place is the same.
            let base = if j < SERVICES { 8080 } else { 9090 };
            let port = |(n, (name, protocol, _)): (usize, &(&str, Protocol, u16))| {
                ((*name).to_owned(), *protocol, base + (n % 3) as u16)
            };
            let hint = |n: usize, names: [&str; 2]| -> Vec<String> {
                let (_, home) = place(v6, n);
                let own = |k: usize| home.is_none_or(|home| home == k);
                let wanted = |k: usize| match mode {
                    2 | 3 => own(k),
                    4 | 5 => bits >> (2 * n + k) & 1 == 1,
                    _ => false,
                };
                (0..2).filter(|k| wanted(*k)).map(|k| names[k].to_owned()).collect()
            };
            let endpoint = |n: usize| {
                let (address, node) = place(v6, n);
                let (ready, serving, terminating) = if all_ready { (None, None, None) } else { conditions[n] };
                let for_zones = if mode.is_multiple_of(2) { hint(n, ["za", "zb"]) } else { Vec::new() };
                let for_nodes = if mode.is_multiple_of(2) { Vec::new() } else { hint(n, ["n0", "n1"]) };
                Endpoint { address, node, ready, serving, terminating, for_zones, for_nodes }
            };
            Slice {
                service: format!("s{owner}"),
                v6,
                ports: PORTS
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| missing >> n & 1 == 0 || missing == 7)
                    .map(port)
                    .collect(),
                endpoints: (0..8).filter(|n| mask >> n & 1 == 1).map(endpoint).collect(),
            }
        },
    )
}

fn zone() -> impl Strategy<Value = Option<String>> {
    prop_oneof![2 => Just(Some("za".to_owned())), 2 => Just(Some("zb".to_owned())), 1 => Just(None)]
}

fn from() -> impl Strategy<Value = Place> {
    prop_oneof![
        4 => (0..4usize).prop_map(Place::Pod),
        2 => (0..2usize).prop_map(Place::Host),
        3 => (0..2usize).prop_map(Place::Wire),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let flags = || prop_oneof![6 => Just(SYN), 6 => Just(ACK), 1 => Just(FIN | ACK), 1 => Just(RST)];
    prop_oneof![
        4 => (0..SERVICES).prop_flat_map(|i| service(i).prop_map(move |s| Op::Service(i, Box::new(s)))),
        1 => (0..SERVICES).prop_map(Op::NoService),
        6 => (0..SLICES).prop_flat_map(|j| slice(j).prop_map(move |s| Op::Slice(j, s))),
        1 => (0..SLICES).prop_map(Op::NoSlice),
        1 => (0..SLICES).prop_map(Op::Twin),
        6 => (0..SLICES, 0..8usize, condition()).prop_map(|(j, n, c)| Op::Condition(j, n, c)),
        1 => (0..2usize, zone()).prop_map(|(n, zone)| Op::Zone(n, zone)),
        1 => any::<bool>().prop_map(Op::Range),
        10 => (0..2usize).prop_map(Op::Follow),
        1 => (0..2usize).prop_map(Op::Restart),
        4 => (0..7_000u32).prop_map(Op::Wait),
        40 => (0..12usize, flags()).prop_map(|(which, flags)| Op::Again { which, flags }),
        60 => (from(), 1..3u8, any::<usize>(), 0..2u16, flags())
            .prop_map(|(from, client, dst, again, flags)| Op::Send { from, client, dst, again, flags }),
        25 => (0..12usize, prop_oneof![Just(ACK), Just(SYN | ACK)]).prop_map(|(which, flags)| Op::Answer { which, flags }),
    ]
}

/// Ranges of ClusterIPs.
pub fn ranges(more: bool) -> Vec<IpNet> {
    let all = ["10.96.0.0/16", "fd00:96::/112", "10.97.0.0/24", "fd00:97::/112"];
    all[..if more { 4 } else { 2 }].iter().map(|net| net.parse().expect("a range")).collect()
}

/// What there is in the beginning.
fn beginning() -> impl Strategy<Value = Cluster> {
    let services: Vec<_> = (0..SERVICES).map(|i| prop::option::weighted(0.9, service(i))).collect();
    let slices: Vec<_> = (0..SLICES).map(|j| prop::option::weighted(0.8, slice(j))).collect();
    (zone(), zone(), any::<bool>(), 0..16u8, services, slices).prop_map(
        |(a, b, external_ips, hosts, services, slices)| {
            let name = |prefix: &str, n: usize| format!("{prefix}{n}");
            let host_port = |p: usize| HostPort {
                node: p / 2,
                protocol: if p.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
                port: 7000,
                backends: [false, true].map(|v6| SocketAddr::new(pod(v6, p), 6000)).to_vec(),
            };
            let all = |(n, service): (usize, Option<Service>)| Some((name("s", n), service?));
            let slice = |(n, slice): (usize, Option<Slice>)| Some((name("slice", n), slice?));
            Cluster {
                nodes: nodes([a, b]),
                services: services.into_iter().enumerate().filter_map(all).collect(),
                slices: slices.into_iter().enumerate().filter_map(slice).collect(),
                host_ports: (0..4).filter(|p| hosts >> p & 1 == 1).map(host_port).collect(),
                service_cidrs: ranges(false),
                external_ips,
            }
        },
    )
}

/// Everything that somebody may send to.
fn destinations(c: &Cluster) -> Vec<(SocketAddr, Protocol)> {
    let mut all = Vec::new();
    for service in c.services.values() {
        let outer = service.ingress.iter().map(|(ip, _)| *ip).chain(service.external_ips.iter().copied());
        let own: Vec<IpAddr> = service.cluster_ips.iter().copied().chain(outer).collect();
        for port in service.ports.iter().filter(|p| p.port < 65_536) {
            all.extend(own.iter().map(|ip| (SocketAddr::new(*ip, port.port as u16), port.protocol)));
            let at = (0..2).flat_map(|n| [node(false, n), node(true, n)]);
            all.extend(
                port.node_port.iter().flat_map(|p| at.clone().map(|ip| (SocketAddr::new(ip, *p), port.protocol))),
            );
        }
    }
    for v6 in [false, true] {
        // A port that most do not have, one that nobody has, an address that nobody has, host ports.
        all.push((SocketAddr::new(cluster_ip(v6, 1), 53), Protocol::Tcp));
        all.push((SocketAddr::new(cluster_ip(v6, 2), 9), Protocol::Udp));
        all.push((SocketAddr::new(cluster_ip(v6, 77), 80), Protocol::Tcp));
        all.push((SocketAddr::new(public(v6, 5), 80), Protocol::Tcp));
        all.push((SocketAddr::new(node(v6, 0), 7000), Protocol::Tcp));
        all.push((SocketAddr::new(node(v6, 1), 7000), Protocol::Udp));
    }
    all.push((SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 7000), Protocol::Tcp));
    all
}

pub fn act(w: &mut World, op: &Op) -> Result<(), String> {
    let name = |prefix: &str, n: &usize| format!("{prefix}{n}");
    match op {
        Op::Service(i, service) => drop(w.truth.services.insert(name("s", i), (**service).clone())),
        Op::NoService(i) => drop(w.truth.services.remove(&name("s", i))),
        Op::Slice(j, slice) => {
            w.truth.slices.remove(&name("twin", j));
            w.truth.slices.insert(name("slice", j), slice.clone());
        }
        Op::NoSlice(j) => drop(w.truth.slices.remove(&name("slice", j))),
        Op::Twin(j) => {
            if let Some(slice) = w.truth.slices.get(&name("slice", j)).cloned() {
                w.truth.slices.insert(name("twin", j), slice);
            }
        }
        Op::Condition(j, n, (ready, serving, terminating)) => {
            w.truth.slices.remove(&name("twin", j));
            let Some(slice) = w.truth.slices.get_mut(&name("slice", j)) else { return Ok(()) };
            let address = place(slice.v6, *n).0;
            for e in slice.endpoints.iter_mut().filter(|e| e.address == address) {
                (e.ready, e.serving, e.terminating) = (*ready, *serving, *terminating);
            }
        }
        Op::Zone(n, zone) => w.truth.nodes[*n].zone.clone_from(zone),
        Op::Range(more) => w.truth.service_cidrs = ranges(*more),
        Op::Follow(n) => w.follow(*n),
        Op::Restart(n) => w.restart(*n),
        Op::Wait(millis) => w.wait(*millis),
        Op::Send { from, client, dst, again, flags } => {
            // What is known in one place may be unknown in another: both are asked for.
            let all = destinations(if dst.is_multiple_of(5) { &w.truth } else { &w.views[from.node()] });
            let (dst, protocol) = all[dst % all.len()];
            return w.send(*from, *client, dst, protocol, *again, *flags);
        }
        Op::Again { which, flags } => return w.again(*which, *flags),
        Op::Answer { which, flags } => return w.answer(*which, *flags),
    }
    if !matches!(op, Op::Wait(_)) {
        w.log.push(format!("{op:?}"));
    }
    Ok(())
}

/// What histories have to come to, or the test would say little.
const CASES: [&str; 21] = [
    "a client on a node",
    "a client outside",
    "a client outside, refused",
    "a client outside, silence",
    "a client that has a backend",
    "a connection opened again",
    "a connection whose backend left",
    "a connection whose backend stays",
    "a flow that may have expired",
    "a UDP flow made anew",
    "a UDP flow whose backend stays",
    "an answer",
    "an answer of a backend that left",
    "masqueraded",
    "no Service",
    "no Service, masqueraded",
    "refused",
    "silence",
    "the client's address",
    "the client's address on another node",
    "the gateway's address",
];

#[test]
fn what_packets_get_is_what_the_oracle_says() {
    let cases = cases();
    let config = ProptestConfig {
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..ProptestConfig::with_cases(cases)
    };
    let workers = prop_oneof![Just(1u8), Just(2), Just(4)];
    let history = (workers, beginning(), prop::collection::vec(op(), 1..160));
    let seen: RefCell<BTreeMap<&str, u64>> = RefCell::default();
    let outcome = TestRunner::new(config).run(&history, |(workers, cluster, ops)| {
        let mut w = World::new(workers, cluster);
        for op in &ops {
            act(&mut w, op).map_err(|e| TestCaseError::fail(format!("{e}\n  log: {:#?}", w.log)))?;
        }
        w.seen.iter().for_each(|(case, n)| *seen.borrow_mut().entry(case).or_default() += n);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let seen = seen.into_inner();
    println!("{cases} histories: {seen:#?}");
    let missing: Vec<_> = CASES.iter().filter(|case| !seen.contains_key(*case)).collect();
    assert!(cases < 200 || missing.is_empty(), "never happened: {missing:?}");
}
