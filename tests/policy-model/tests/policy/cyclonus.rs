//! cyclonus' generated cases, and what its own simulation says of them: `cyclonus/cases.json`, written by
//! `cyclonus/generate`.

use std::collections::BTreeMap;

use podplane_policy_model::api::{Labels, NetworkPolicySpec};
use podplane_policy_model::objects::{Cluster, Container, ContainerPort, Pod, Protocol, Service};
use podplane_policy_model::oracle::L4;
use serde::Deserialize;

use crate::traffic::Client;
use crate::world::{World, nodes};

#[derive(Deserialize)]
struct File {
    namespaces: BTreeMap<String, Labels>,
    pods: Vec<PodCase>,
    ports: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
struct PodCase {
    namespace: String,
    name: String,
    labels: Labels,
    number: u8,
}

#[derive(Deserialize)]
struct Case {
    description: String,
    families: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    policies: Vec<Policy>,
    namespaces: Option<BTreeMap<String, Labels>>,
    pods: Option<Vec<PodCase>>,
    truth: Vec<String>,
}

#[derive(Deserialize)]
struct Policy {
    metadata: Metadata,
    spec: NetworkPolicySpec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

/// The ranges whose numbers the file's pods have.
const RANGES: [[&str; 2]; 2] = [["192.168.1.0/25", "fd00:c::/121"], ["192.168.1.128/25", "fd00:c::80/121"]];

fn address(v6: bool, number: u8) -> std::net::IpAddr {
    let text = if v6 { format!("fd00:c::{number:x}") } else { format!("192.168.1.{number}") };
    text.parse().expect("an address")
}

fn l4(text: &str) -> L4 {
    let (protocol, port) = text.split_once('/').expect("a protocol and a port");
    let protocol = Protocol::ALL.into_iter().find(|p| p.text() == protocol).expect("a protocol");
    L4::Port(protocol, port.parse().expect("a number"))
}

/// A pod of the file: its containers serve every port under the name that cyclonus gives them.
fn pod(case: &PodCase, ports: &[L4]) -> Pod {
    let port = |l4: &L4| {
        let L4::Port(protocol, number) = *l4 else { unreachable!("ports only") };
        let name = format!("serve-{number}-{}", protocol.text().to_lowercase());
        ContainerPort { name, protocol: Some(protocol), number, of: Container::Main }
    };
    Pod {
        uid: format!("{}-{}-{}", case.namespace, case.name, case.number),
        labels: case.labels.clone(),
        node: usize::from(case.number >= 128),
        phase: "Running",
        terminating: false,
        host_network: false,
        ips: [false, true].map(|v6| address(v6, case.number)).to_vec(),
        ports: ports.iter().map(port).collect(),
    }
}

/// The cluster of a step, and the pods in the order of its table.
fn cluster(file: &File, step: &Step, ports: &[L4]) -> (Cluster, Vec<PodCase>) {
    let pods = step.pods.as_ref().unwrap_or(&file.pods).clone();
    let mut c = Cluster { nodes: nodes(RANGES), ..Cluster::default() };
    c.namespaces = step.namespaces.as_ref().unwrap_or(&file.namespaces).clone();
    c.namespaces.values_mut().for_each(|labels| drop(labels.remove("kubernetes.io/metadata.name")));
    for case in &pods {
        let (name, pod) = ((case.namespace.clone(), case.name.clone()), pod(case, ports));
        // cyclonus asks by Services; one that leads to the pod's port TCP 80 stands for them.
        let service = Service {
            cluster_ips: [format!("10.96.1.{}", case.number), format!("fd00:96::1{:02x}", case.number)]
                .map(|a| a.parse().expect("an address"))
                .to_vec(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 30_000 + u16::from(case.number),
            backend: pod.ips.clone(),
            target: 80,
        };
        c.services.insert(format!("s-{}-{}", case.namespace, case.name), service);
        c.pods.insert(name, pod);
    }
    for policy in &step.policies {
        c.policies.insert((policy.metadata.namespace.clone(), policy.metadata.name.clone()), policy.spec.clone());
    }
    (c, pods)
}

/// What the oracle, the tables and packets say of every pair is what cyclonus says. (Of a pod and itself it says what
/// policies say of two pods that look alike; a pod always reaches itself.)
#[test]
fn all_cases_of_cyclonus_agree() {
    let file: File =
        serde_json::from_str(include_str!("../../cyclonus/cases.json")).expect("the file that generate wrote");
    let ports: Vec<L4> = file.ports.iter().map(|p| l4(p)).collect();
    let mut w = World::new(2, Cluster { nodes: nodes(RANGES), ..Cluster::default() });
    let (mut asked, mut packets, mut failed) = (0u32, 0, Vec::new());
    for (number, case) in file.cases.iter().enumerate() {
        // A world has room for the flows of some dozens of cases.
        if number % 40 == 39 {
            w = World::new(2, Cluster { nodes: nodes(RANGES), ..Cluster::default() });
        }
        for (n, step) in case.steps.iter().enumerate() {
            let (cluster, pods) = cluster(&file, step, &ports);
            w.become_of(cluster);
            let order = number as u64;
            (0..2).for_each(|node| w.deliver(node, 16, order));
            let mut questions = Vec::new();
            for family in &case.families {
                let v6 = family == "IPv6";
                for (from, line) in pods.iter().zip(&step.truth) {
                    for (to, word) in pods.iter().zip(line.split(' ')) {
                        for (port, truth) in ports.iter().zip(word.bytes()) {
                            let own = (&from.namespace, &from.name) == (&to.namespace, &to.name);
                            questions.push((v6, from.clone(), to.clone(), *port, own || truth == b'1', own));
                        }
                    }
                }
            }
            asked += questions.len() as u32;
            match ask(&mut w, &questions, number) {
                Ok(sent) => packets += sent,
                Err(error) => {
                    failed.push(format!("case {number} {:?} step {n} {:?}: {error}", case.description, case.families))
                }
            }
        }
    }
    println!("{} cases, {asked} verdicts, {packets} of them also as packets", file.cases.len());
    assert!(failed.is_empty(), "{} of {} cases: {:#?}", failed.len(), file.cases.len(), &failed[..failed.len().min(5)]);
    assert!(file.cases.len() >= 250 && asked > 200_000, "the file is not whole");
}

type Question = (bool, PodCase, PodCase, L4, bool, bool);

fn ask(w: &mut World, questions: &[Question], salt: usize) -> Result<usize, String> {
    let mut packets = Vec::new();
    for (n, (v6, from, to, port, expected, own)) in questions.iter().enumerate() {
        let (client, server) = (address(*v6, from.number), address(*v6, to.number));
        let what = || format!("{}/{} -> {}/{} {port:?}", from.namespace, from.name, to.namespace, to.name);
        let (oracle, tables) = crate::pairs::one(w, client, server, *port);
        if (oracle, tables) != (*expected, *expected) {
            return Err(format!("{}: cyclonus {expected}, oracle {oracle}, tables {tables}", what()));
        }
        // One in eight as a packet, those to TCP 80 through a Service.
        if !own && (n + salt).is_multiple_of(8) {
            let dst = match port {
                L4::Port(Protocol::Tcp, 80) => {
                    let service = &w.truth.services[&format!("s-{}-{}", to.namespace, to.name)];
                    service.cluster_ips[usize::from(*v6)]
                }
                _ => server,
            };
            packets.push((Client::Pod((from.namespace.clone(), from.name.clone())), *v6, dst, *port, *expected));
        }
    }
    w.try_packets(&packets).map(|()| packets.len())
}
