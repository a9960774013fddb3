//! The world and its history: what the API server has, what each node has heard of it, and flows that are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podplane_packet::id::Mac;
use podplane_pipeline::sim::Sim;
use podplane_policy_model::api::Labels;
use podplane_policy_model::objects::{Cluster, Name, Node, Pod, Protocol, Service};

use crate::random::{Counts, Op, PLACES, PodPlan, SPACES};
use crate::side::Side;
use crate::traffic::Flow;
use crate::wire::{self, node};

/// A small generator, for choices that need not be told apart by the shrinking of a case.
#[derive(Clone, Copy, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// A number below `n` (splitmix64).
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// The world.
pub struct World {
    pub sim: Sim,
    pub sides: Vec<Side>,
    pub macs: Vec<Mac>,
    /// What the API server has.
    pub truth: Cluster,
    incarnations: u32,
    /// The next port of a client, and the next mark.
    pub next: (u16, u32),
    pub flows: Vec<Flow>,
    /// What was done, for people.
    pub log: Vec<String>,
    pub counts: Counts,
}

/// The nodes, with ranges of pods.
pub fn nodes(ranges: [[&str; 2]; 2]) -> BTreeMap<usize, Node> {
    let node = |(n, ranges): (usize, [&str; 2])| {
        let (name, addresses) = (format!("n{n}"), vec![node(false, n), node(true, n)]);
        let pod_cidrs = ranges.map(|net| net.parse().expect("a range")).to_vec();
        (n, Node { name, labels: Labels::new(), addresses, pod_cidrs })
    };
    ranges.into_iter().enumerate().map(node).collect()
}

/// The ranges of random clusters.
pub const RANGES: [[&str; 2]; 2] = [["10.244.1.0/24", "fd00:244:1::/64"], ["10.244.2.0/24", "fd00:244:2::/64"]];

/// The addresses that pods of a node may have.
pub fn place(v6: bool, node: usize, n: usize) -> IpAddr {
    let (node, n) = (node + 1, n + 10);
    let text = if v6 { format!("fd00:244:{node}::{n:x}") } else { format!("10.244.{node}.{n}") };
    text.parse().expect("an address")
}

fn slot_name(slot: usize) -> Name {
    (SPACES[slot % SPACES.len()].to_owned(), format!("p{slot}"))
}

fn policy_name(space: usize, n: usize) -> Name {
    (SPACES[space].to_owned(), format!("np{n}"))
}

impl World {
    /// Two nodes that know `truth`, which has no pods of theirs yet.
    pub fn new(workers: u8, truth: Cluster) -> World {
        let sim = wire::sim(workers);
        let macs = sim.nodes.iter().map(|n| n.uplink_mac()).collect();
        let sides = (0..2).map(Side::new).collect();
        let (flows, log) = (Vec::new(), Vec::new());
        let mut world =
            World { sim, sides, macs, truth, incarnations: 0, next: (2000, 1), flows, log, counts: Counts::new() };
        (0..2).for_each(|n| world.restart(n));
        world
    }

    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.counts.entry(what).or_default() += n;
    }

    /// A node's agent begins anew.
    pub fn restart(&mut self, n: usize) {
        self.sides[n].start(&self.truth, &mut self.sim.nodes[n], &self.macs);
    }

    /// The agents tell their dataplanes what is different.
    fn commit(&mut self) {
        for n in (0..2).filter(|n| self.sides[*n].dirty).collect::<Vec<_>>() {
            self.sides[n].commit(&mut self.sim.nodes[n], &self.macs);
        }
    }

    /// The world becomes another one: pods come and go with their objects. Nobody has heard of it yet.
    pub fn become_of(&mut self, truth: Cluster) {
        for (name, pod) in &self.truth.pods {
            if truth.pods.get(name).is_none_or(|now| now.uid != pod.uid) {
                (0..2).for_each(|n| self.sides[n].detach(name));
            }
        }
        self.truth = truth;
        let pods: Vec<Name> = self.truth.pods.keys().cloned().collect();
        for name in pods {
            if self.sides.iter().all(|s| !s.attached.contains_key(&name)) {
                self.attach(&name);
            }
        }
    }

    /// A node's runtime connects a pod. Its agent may not have heard of it.
    pub fn attach(&mut self, name: &Name) {
        let pod = self.truth.pods[name].clone();
        self.sides[pod.node].attach(name, &pod, self.sim.config.workers);
    }

    /// A node hears of all differences.
    pub fn follow(&mut self, n: usize) {
        self.deliver(n, 16, 1);
    }

    /// A node hears of so many of the differences (in sixteenths), in a random order.
    pub fn deliver(&mut self, n: usize, part: u8, order: u64) {
        let mut chance = Chance(order);
        let mut keys = self.sides[n].differences(&self.truth);
        for last in (1..keys.len()).rev() {
            keys.swap(last, chance.below(last + 1));
        }
        keys.truncate((keys.len() * usize::from(part)).div_ceil(16));
        self.sides[n].hear(&self.truth, &keys, chance);
        self.commit();
    }

    /// Does something; nothing, where it makes no sense.
    pub fn act(&mut self, op: &Op) {
        match op {
            Op::Pod(slot, plan) => self.start_pod(*slot, plan),
            Op::Relabel(slot, labels) => {
                self.truth.pods.entry(slot_name(*slot)).and_modify(|pod| pod.labels.clone_from(labels));
            }
            Op::Finish(slot, phase, stays) => {
                let name = slot_name(*slot);
                let Some(pod) = self.truth.pods.get_mut(&name) else { return };
                pod.phase = phase;
                if !stays {
                    self.detach(&name);
                }
            }
            Op::Terminate(slot) => {
                self.truth.pods.entry(slot_name(*slot)).and_modify(|pod| pod.terminating = true);
            }
            Op::Unplug(slot, ends) => {
                let name = slot_name(*slot);
                self.truth.pods.entry(name.clone()).and_modify(|pod| pod.terminating |= ends);
                self.detach(&name);
            }
            Op::Delete(slot, before) => {
                let name = slot_name(*slot);
                if !before {
                    self.detach(&name);
                }
                self.truth.pods.remove(&name);
            }
            Op::Namespace(n, labels) => drop(self.truth.namespaces.insert(SPACES[*n].to_owned(), labels.clone())),
            Op::NoNamespace(n) => {
                // Its pods and policies go first, as the API server has it.
                let name = SPACES[*n];
                let pods: Vec<Name> = self.truth.pods.keys().filter(|(space, _)| space == name).cloned().collect();
                for pod in pods {
                    self.detach(&pod);
                    self.truth.pods.remove(&pod);
                }
                self.truth.policies.retain(|(space, _), _| space != name);
                self.truth.namespaces.remove(name);
            }
            Op::Policy(n, i, spec) => {
                if self.truth.namespaces.contains_key(SPACES[*n]) {
                    self.truth.policies.insert(policy_name(*n, *i), spec.clone());
                }
            }
            Op::NoPolicy(n, i) => drop(self.truth.policies.remove(&policy_name(*n, *i))),
            Op::ClusterPolicy(i, spec) => drop(self.truth.cluster_policies.insert(format!("cnp{i}"), spec.clone())),
            Op::NoClusterPolicy(i) => drop(self.truth.cluster_policies.remove(&format!("cnp{i}"))),
            Op::NodeLabels(n, labels) => {
                self.truth.nodes.entry(*n).and_modify(|node| node.labels.clone_from(labels));
            }
            Op::Service(i, slot, protocol, target) => self.lead(*i, &slot_name(*slot), *protocol, *target),
            Op::NoService(i) => drop(self.truth.services.remove(&format!("s{i}"))),
            Op::Deliver(n, part, order) => self.deliver(*n, *part, *order),
            Op::Restart(n) => self.restart(*n),
            Op::Wait(millis) => self.sim.advance(*millis),
        }
        self.commit();
        self.log.push(format!("{op:?}"));
    }

    fn detach(&mut self, name: &Name) {
        for n in 0..2 {
            self.sides[n].detach(name);
        }
    }

    fn start_pod(&mut self, slot: usize, plan: &PodPlan) {
        let name = slot_name(slot);
        if !self.truth.namespaces.contains_key(&name.0) {
            return;
        }
        self.detach(&name);
        self.truth.pods.remove(&name);
        let used: BTreeSet<IpAddr> =
            self.sides[plan.node].attached.values().flat_map(|a| a.addresses.clone()).collect();
        let is_free =
            |place: &usize| [false, true].iter().all(|v6| !used.contains(&self::place(*v6, plan.node, *place)));
        let Some(place) = (0..PLACES).map(|n| (plan.place + n) % PLACES).find(is_free) else { return };
        let ips = match plan.host_network {
            true => vec![node(false, plan.node), node(true, plan.node)],
            false => plan.families.iter().map(|v6| self::place(*v6, plan.node, place)).collect(),
        };
        self.incarnations += 1;
        let pod = Pod {
            uid: format!("uid-{}", self.incarnations),
            labels: plan.labels.clone(),
            node: plan.node,
            phase: "Running",
            terminating: false,
            host_network: plan.host_network,
            ips,
            ports: plan.ports.clone(),
        };
        self.truth.pods.insert(name.clone(), pod);
        if !plan.host_network {
            self.attach(&name);
        }
    }

    /// A Service leads to a pod.
    pub fn lead(&mut self, i: usize, name: &Name, protocol: Protocol, target: u16) {
        let Some(pod) = self.truth.pods.get(name).filter(|pod| !pod.host_network) else { return };
        let service = Service {
            cluster_ips: [format!("10.96.0.{}", i + 1), format!("fd00:96::{:x}", i + 1)]
                .map(|ip| ip.parse().expect("an address"))
                .to_vec(),
            protocol,
            port: 8000,
            node_port: 30_000 + i as u16,
            backend: pod.ips.clone(),
            target,
        };
        self.truth.services.insert(format!("s{i}"), service);
    }
}
