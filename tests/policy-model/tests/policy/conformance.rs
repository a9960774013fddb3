//! The upstream conformance cases of ClusterNetworkPolicy, as data: `conformance/cases.yaml`.

use std::collections::BTreeMap;

use podplane_policy_model::api::{ClusterNetworkPolicySpec, Labels, NetworkPolicySpec};
use podplane_policy_model::objects::{Cluster, Container, ContainerPort, Name, Pod, Protocol, Service};
use podplane_policy_model::oracle::L4;
use serde::Deserialize;
use serde_json::Value;

use crate::traffic::{Client, Question};
use crate::wire::node;
use crate::world::{RANGES, World, nodes, place};

#[derive(Deserialize)]
struct File {
    labels: String,
    pods: Vec<PodCase>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct PodCase {
    namespace: String,
    name: String,
    node: usize,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    upstream: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    say: String,
    policies: Vec<Policy>,
    expect: Vec<String>,
}

#[derive(Deserialize)]
struct Policy {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    spec: Value,
}

/// The ports of upstream's base manifests that have names.
fn ports() -> Vec<ContainerPort> {
    let port = |name: &str, protocol, number| ContainerPort {
        name: name.to_owned(),
        protocol: Some(protocol),
        number,
        of: Container::Main,
    };
    vec![port("web", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)]
}

fn world(file: &File) -> World {
    let mut c = Cluster { nodes: nodes(RANGES), ..Cluster::default() };
    for node in c.nodes.values_mut() {
        node.labels = Labels::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    }
    let mut w = World::new(2, c.clone());
    for (n, case) in file.pods.iter().enumerate() {
        let labels = Labels::from([(file.labels.clone(), case.namespace.clone())]);
        c.namespaces.insert(case.namespace.clone(), labels.clone());
        let mut of_pod = labels;
        of_pod.insert("statefulset.kubernetes.io/pod-name".into(), case.name.clone());
        let ips = [false, true].map(|v6| place(v6, case.node, n)).to_vec();
        let service = Service {
            cluster_ips: [format!("10.96.2.{}", n + 1), format!("fd00:96::2{:02x}", n + 1)]
                .map(|a| a.parse().expect("an address"))
                .to_vec(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 30_000 + n as u16,
            backend: ips.clone(),
            target: 80,
        };
        c.services.insert(case.name.clone(), service);
        let uid = format!("uid-{n}");
        let (phase, terminating, host_network) = ("Running", false, false);
        let pod = Pod { uid, labels: of_pod, node: case.node, phase, terminating, host_network, ips, ports: ports() };
        c.pods.insert((case.namespace.clone(), case.name.clone()), pod);
    }
    w.become_of(c);
    w
}

/// Names of pods in `networks` are their addresses.
fn addressed(spec: &mut Value, by_name: &BTreeMap<&str, (&Name, &Pod)>) {
    match spec {
        Value::Object(fields) => {
            if let Some(Value::Array(nets)) = fields.get_mut("networks") {
                let named: Vec<Value> = nets
                    .iter()
                    .flat_map(|net| match net.as_str().and_then(|name| by_name.get(name)) {
                        Some((_, pod)) => {
                            pod.ips.iter().map(|ip| Value::from(ipnet::IpNet::from(*ip).to_string())).collect()
                        }
                        None => vec![net.clone()],
                    })
                    .collect();
                *nets = named;
            }
            fields.values_mut().for_each(|v| addressed(v, by_name));
        }
        Value::Array(all) => all.iter_mut().for_each(|v| addressed(v, by_name)),
        _ => {}
    }
}

#[test]
fn all_conformance_cases_of_cluster_network_policy_agree() {
    let file: File = serde_saphyr::from_str(include_str!("../../conformance/cases.yaml")).expect("readable data");
    let (mut expectations, mut failed) = (0, Vec::new());
    for case in &file.cases {
        let mut w = world(&file);
        for step in &case.steps {
            let before = w.truth.clone();
            let by_name: BTreeMap<&str, (&Name, &Pod)> =
                before.pods.iter().map(|(n, p)| (n.1.as_str(), (n, p))).collect();
            w.truth.policies.clear();
            w.truth.cluster_policies.clear();
            for policy in &step.policies {
                let mut spec = policy.spec.clone();
                addressed(&mut spec, &by_name);
                if policy.kind == "NetworkPolicy" {
                    let spec: NetworkPolicySpec = serde_json::from_value(spec).expect("a NetworkPolicy");
                    w.truth.policies.insert((policy.namespace.clone(), policy.name.clone()), spec);
                } else {
                    let spec: ClusterNetworkPolicySpec = serde_json::from_value(spec).expect("a ClusterNetworkPolicy");
                    w.truth.cluster_policies.insert(policy.name.clone(), spec);
                }
            }
            (0..2).for_each(|n| w.follow(n));
            expectations += step.expect.len();
            for v6 in [false, true] {
                let asked: Vec<_> = step.expect.iter().map(|e| expectation(e, v6, &by_name, &before)).collect();
                if let Err(error) = w.try_packets(&asked) {
                    failed.push(format!("{} ({}), {}: {error}", case.name, case.upstream, step.say));
                }
                for (client, _, dst, l4, expected) in &asked {
                    let Client::Pod(client) = client else { continue };
                    let client = before.pods[client].ips[usize::from(v6)];
                    if before.services.values().all(|s| !s.cluster_ips.contains(dst)) {
                        let said = crate::pairs::one(&w, client, *dst, *l4);
                        if said != (*expected, *expected) {
                            failed.push(format!("{}, {}: {client} -> {dst} {l4:?}: {said:?}", case.name, step.say));
                        }
                    }
                }
            }
        }
    }
    println!("{} cases, {expectations} expectations in two families", file.cases.len());
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
    assert!(file.cases.len() >= 35 && expectations >= 390, "the file is not whole");
}

/// "CLIENT SERVER PROTOCOL/PORT yes|no". A pod's Service may lead to the pod itself.
fn expectation(text: &str, v6: bool, by_name: &BTreeMap<&str, (&Name, &Pod)>, c: &Cluster) -> Question {
    let [client, server, port, verdict] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let (name, pod) = by_name[client];
    let dst = match server.strip_prefix("service:") {
        Some(service) => c.services[service].cluster_ips[usize::from(v6)],
        None if server == "other-node" => node(v6, 1 - pod.node),
        None => by_name[server].1.ips[usize::from(v6)],
    };
    let (protocol, port) = port.split_once('/').expect("a protocol and a port");
    let protocol = Protocol::ALL.into_iter().find(|p| p.text() == protocol).expect("a protocol");
    let expected = match verdict {
        "yes" => true,
        "no" => false,
        _ => panic!("{text}"),
    };
    (Client::Pod(name.clone()), v6, dst, L4::Port(protocol, port.parse().expect("a port")), expected)
}
