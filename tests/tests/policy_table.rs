//! Real connections under a table of policies: what is allowed connects, what is denied times out, in both families.
//!
//! Five pods on two nodes and the two nodes themselves try all pods, ports and Services at once, for each policy. What
//! must come of it says the oracle of `tests/policy-model`, from the API's text.

use std::collections::BTreeMap;
use std::time::Instant;

use podplane_policy_model::api::Labels;
use podplane_policy_model::objects::{Cluster, Container, ContainerPort, Name, Node, Pod, Protocol};
use podplane_policy_model::oracle::{self, Direction, L4};
use podplane_tests::policy::{Program, Target, server, try_all};
use podplane_tests::services::Client;
use podplane_tests::{Lab, PATIENCE, eventually};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long a connection that is to be denied is tried. One that takes longer than this is tried again, if it is to be
/// allowed.
const WINDOW: f64 = 0.4;

#[derive(Deserialize)]
struct Case {
    say: String,
    policies: Vec<Value>,
    allows: Option<String>,
    denies: Option<String>,
}

/// Namespace, name, node, labels, names of the ports TCP 80, TCP 81, UDP 53.
const PODS: [(&str, &str, u8, &str, [&str; 3]); 5] = [
    ("xs", "a", 1, "app: a", ["web", "alt", "dns"]),
    ("xs", "b", 2, "app: b", ["web", "alt", "dns"]),
    ("ys", "a", 2, "app: a", ["web", "alt", "dns"]),
    ("ys", "b", 1, "app: b, tier: t", ["web", "alt", "dns"]),
    ("zs", "c", 1, "app: c", ["alt", "web", "dns"]),
];
const SPACES: [(&str, &str); 3] = [("xs", "team: p"), ("ys", "team: q"), ("zs", "team: q, env: prod")];
const PORTS: [(Protocol, u16); 3] = [(Protocol::Tcp, 80), (Protocol::Tcp, 81), (Protocol::Udp, 53)];

fn labels(text: &str) -> Labels {
    let pair = |pair: &str| pair.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned()));
    text.split(", ").filter_map(pair).collect()
}

struct Table {
    lab: Lab,
    cluster: Cluster,
    /// Pods, then nodes.
    probers: Vec<(Program, Vec<Target>)>,
    /// What each prober's targets are: the server's pod, what is asked of it, in which family.
    meant: Vec<Vec<(Name, L4, bool)>>,
}

impl Table {
    fn up() -> Table {
        let lab = Lab::up("t-poltable", &["--nodes", "2", "--workers", "2"]);
        let mut manifests = String::new();
        for (name, labels) in SPACES {
            manifests +=
                &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n---\n");
        }
        for (space, name, node, labels, names) in PODS {
            manifests += &server(space, name, node, &format!("{labels}, pod: {space}-{name}"), names);
            manifests += &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {space}}}\n\
                 spec: {{selector: {{pod: {space}-{name}}}, ipFamilyPolicy: RequireDualStack, \
                 ports: [{{port: 8000, targetPort: 80}}]}}\n---\n"
            );
        }
        lab.apply(&manifests);
        let cluster = cluster(&lab);
        let mut table = Table { lab, cluster, probers: Vec::new(), meant: Vec::new() };
        for (space, name, ..) in PODS {
            table.prober(&Client::In(format!("{space}/{name}")), Some((space, name)));
        }
        (1..=2).for_each(|node| table.prober(&Client::Node(node), None));
        table
    }

    fn prober(&mut self, at: &Client, own: Option<(&str, &str)>) {
        let (mut targets, mut meant) = (Vec::new(), Vec::new());
        for (name, pod) in &self.cluster.pods {
            let services = self.lab.cluster_ips(&format!("{}/{}", name.0, name.1));
            // A pod reaches itself without a packet; through its Service it takes one.
            let is_own = own == Some((&name.0, &name.1));
            for (family, service) in services.iter().enumerate() {
                for (protocol, port) in PORTS.into_iter().filter(|_| !is_own) {
                    let kind = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
                    targets.push((kind, pod.ips[family].to_string(), port));
                    meant.push((name.clone(), L4::Port(protocol, port), family == 1));
                }
                targets.push(("tcp", service.clone(), 8000));
                meant.push((name.clone(), L4::Port(Protocol::Tcp, 80), family == 1));
            }
        }
        self.probers.push((Program::start(&self.lab, at, &["probe"]), targets));
        self.meant.push(meant);
    }

    /// What must come of all of it.
    fn expected(&self) -> Vec<Vec<bool>> {
        let who =
            PODS.iter().map(|(space, name, ..)| Ok((space.to_string(), name.to_string()))).chain([Err(1), Err(2)]);
        let verdict =
            |who: &Result<Name, u8>, (server, l4, v6): &(Name, L4, bool)| may(&self.cluster, who, server, *l4, *v6);
        who.zip(&self.meant).map(|(who, meant)| meant.iter().map(|m| verdict(&who, m)).collect()).collect()
    }

    /// Puts the policies of a case in the place of those before.
    fn put(&mut self, case: &Case, before: &mut Vec<Value>) {
        let mut policies: Vec<Value> = case.policies.iter().map(|p| self.object(p)).collect();
        let key = |p: &Value| (p["kind"].clone(), p["metadata"]["namespace"].clone(), p["metadata"]["name"].clone());
        let gone: Vec<Value> = before.iter().filter(|b| policies.iter().all(|p| key(p) != key(b))).cloned().collect();
        let manifest = |all: &[Value]| all.iter().map(|p| format!("{p}\n---\n")).collect::<String>();
        if !policies.is_empty() {
            self.lab.apply(&manifest(&policies));
        }
        if !gone.is_empty() {
            self.lab.delete(&manifest(&gone));
        }
        self.cluster.policies.clear();
        self.cluster.cluster_policies.clear();
        for policy in &policies {
            let name = policy["metadata"]["name"].as_str().expect("a name").to_owned();
            let spec = policy["spec"].clone();
            if policy["kind"] == "NetworkPolicy" {
                let space = policy["metadata"]["namespace"].as_str().expect("a namespace").to_owned();
                self.cluster.policies.insert((space, name), serde_json::from_value(spec).expect("a specification"));
            } else {
                let spec = serde_json::from_value(spec).expect("a specification");
                self.cluster.cluster_policies.insert(name, spec);
            }
        }
        std::mem::swap(before, &mut policies);
    }

    /// The whole object of one of the table's short forms.
    fn object(&self, short: &Value) -> Value {
        let kind = short["kind"].as_str().expect("a kind");
        let version =
            if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "policy.networking.k8s.io/v1alpha2" };
        let mut metadata = json!({"name": short["name"]});
        if kind == "NetworkPolicy" {
            metadata["namespace"] = short["namespace"].clone();
        }
        let mut text = short["spec"].to_string();
        for (name, pod) in &self.cluster.pods {
            for (family, bits) in [(4, 32), (6, 128)] {
                let address = pod.ips[usize::from(family == 6)];
                text = text.replace(&format!("@{family}:{}/{}", name.0, name.1), &format!("{address}/{bits}"));
            }
        }
        let spec: Value = serde_json::from_str(&text).expect("still JSON");
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    }

    /// Tries until all is as it must be. At first, old policies are still in force.
    fn check(&mut self, case: &Case) -> Result<(), String> {
        let expected = self.expected();
        self.hand_made(case)?;
        let deadline = Instant::now() + PATIENCE;
        let mut window = WINDOW;
        loop {
            let got = try_all(&mut self.probers, window);
            // On a busy machine what is allowed takes longer.
            window = (window * 1.5).min(4.0);
            if got == expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                let mut wrong = Vec::new();
                for (at, (got, wanted)) in got.iter().zip(&expected).enumerate() {
                    for (n, _) in got.iter().zip(wanted).enumerate().filter(|(_, (got, wanted))| got != wanted) {
                        wrong.push(format!(
                            "prober {at} -> {:?} ({:?}): {}",
                            self.meant[at][n], self.probers[at].1[n], got[n]
                        ));
                    }
                }
                return Err(format!("{}: {} wrong: {:#?}", case.say, wrong.len(), &wrong[..wrong.len().min(8)]));
            }
        }
    }

    /// The table's own opinion is the oracle's.
    fn hand_made(&self, case: &Case) -> Result<(), String> {
        for (text, wanted) in [(&case.allows, true), (&case.denies, false)] {
            let Some(text) = text else { continue };
            let [client, server, port] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
            let mut parts = port.split('/');
            let protocol = if parts.next() == Some("tcp") { Protocol::Tcp } else { Protocol::Udp };
            let port = parts.next().and_then(|p| p.parse().ok()).expect("a port");
            let name = |text: &str| text.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned()));
            let who = name(client).ok_or_else(|| client.trim_start_matches("node").parse().expect("a node"));
            let families = match parts.next() {
                None => vec![false, true],
                Some(family) => vec![family == "6"],
            };
            for v6 in families {
                let server = name(server).expect("a pod");
                if may(&self.cluster, &who, &server, L4::Port(protocol, port), v6) != wanted {
                    return Err(format!("{}: the oracle does not say that of {text}", case.say));
                }
            }
        }
        Ok(())
    }
}

/// What the oracle says of a connection: by a pod, or by a node's process.
fn may(c: &Cluster, who: &Result<Name, u8>, server: &Name, l4: L4, v6: bool) -> bool {
    let family = usize::from(v6);
    let pod = &c.pods[server];
    let client = match who {
        Ok(client) => c.pods[client].ips[family],
        Err(node) if usize::from(*node) == pod.node => return true,
        Err(node) => c.nodes[&usize::from(*node)].addresses[family],
    };
    let out = match who {
        Ok(client) => {
            oracle::selected(c, client, &c.pods[client], Direction::Egress).may(&oracle::other(c, pod.ips[family]), l4)
        }
        Err(_) => true,
    };
    out && oracle::selected(c, server, pod, Direction::Ingress).may(&oracle::other(c, client), l4)
}

/// The lab as the oracle knows it.
fn cluster(lab: &Lab) -> Cluster {
    let mut c = Cluster::default();
    for node in 1..=2usize {
        let addresses = [format!("10.77.0.1{node}"), format!("fd00:10:77::1{node}")];
        let ranges = [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")];
        let (name, labels) = (format!("node{node}"), Labels::new());
        let addresses = addresses.map(|a| a.parse().expect("an address")).to_vec();
        let pod_cidrs = ranges.map(|n| n.parse().expect("a range")).to_vec();
        c.nodes.insert(node, Node { name, labels, addresses, pod_cidrs });
    }
    c.namespaces = SPACES.iter().map(|(name, text)| (name.to_string(), labels(text))).collect::<BTreeMap<_, _>>();
    for (space, name, node, text, names) in PODS {
        let mut labels = labels(text);
        labels.insert("pod".into(), format!("{space}-{name}"));
        let port = |(name, (protocol, number)): (&str, (Protocol, u16))| ContainerPort {
            name: name.to_owned(),
            protocol: Some(protocol),
            number,
            of: Container::Main,
        };
        let pod = Pod {
            uid: format!("{space}/{name}"),
            labels,
            node: node.into(),
            phase: "Running",
            terminating: false,
            host_network: false,
            ips: lab.addresses(&format!("{space}/{name}")).iter().map(|a| a.parse().expect("an address")).collect(),
            ports: names.into_iter().zip(PORTS).map(port).collect(),
        };
        c.pods.insert((space.to_owned(), name.to_owned()), pod);
    }
    c
}

#[test]
fn connections_are_as_policies_say() {
    let cases: Vec<Case> = serde_saphyr::from_str(include_str!("policies/table.yaml")).expect("a table");
    assert!(cases.len() >= 60);
    let mut table = Table::up();
    let everything =
        |table: &mut Table| try_all(&mut table.probers, 2.0).iter().flatten().all(|open| *open).then_some(());
    eventually("everybody reaches everybody", || everything(&mut table));
    let (mut before, mut failed) = (Vec::new(), Vec::new());
    let mut tried = 0;
    for case in &cases {
        table.put(case, &mut before);
        tried += table.meant.iter().map(Vec::len).sum::<usize>();
        failed.extend(table.check(case).err());
    }
    println!("{} cases, {tried} connections", cases.len());
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
