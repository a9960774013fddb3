//! A node's way from objects to its snapshot: index, messages, validation, catalog. Nothing of it is imitated.

use std::collections::{BTreeMap, BTreeSet};

use podplane_config::v1::{self, ToDataplane};
use podplane_config::valid::{Assembler, State};
use podplane_dataplane::control::catalog::Catalog;
use podplane_dataplane::control::compile;
use podplane_index::{Changes, Family, Index, ObjectKey, Settings, manifest};
use podplane_model::objects::{self, Cluster, Protocol};
use podplane_packet::id::Mac;
use podplane_pipeline::sim::{SimNode, SimPod};
use serde_json::Value;

/// Agent and control of one node.
pub struct Chain {
    me: usize,
    index: Index,
    state: State,
    catalog: Catalog,
    generation: u64,
    /// What the agent was told, by name.
    told: BTreeMap<String, Value>,
    pods: Vec<SimPod>,
}

impl Chain {
    pub fn new(me: usize, pods: &[SimPod]) -> Chain {
        Chain {
            me,
            index: Index::new(Settings::new("", Family::Ipv4, 1)),
            state: State::default(),
            catalog: Catalog::default(),
            generation: 0,
            told: BTreeMap::new(),
            pods: pods.iter().copied().filter(|pod| pod.node == me).collect(),
        }
    }

    /// The agent begins anew, with all objects.
    pub fn start(&mut self, cluster: &Cluster, node: &mut SimNode, macs: &[Mac]) {
        let mut settings = Settings::new(cluster.nodes[self.me].name.clone(), Family::Ipv4, 4242);
        settings.external_ips = cluster.external_ips;
        settings.no_masquerade = super::wire::no_masquerade();
        self.index = Index::new(settings);
        self.index.set_uplink_mtu(1500);
        for (n, pod) in self.pods.iter().enumerate() {
            self.index.attach(endpoint(n, pod, cluster)).expect("an endpoint");
        }
        self.told.clear();
        self.tell(cluster);
        drop(self.index.settle());
        let all: Changes = self.index.objects().iter().map(|(k, o)| (k.clone(), Some(o.clone()))).collect();
        self.commit(all, true, node, macs);
    }

    /// The agent hears what is different by now.
    pub fn follow(&mut self, cluster: &Cluster, node: &mut SimNode, macs: &[Mac]) {
        self.tell(cluster);
        let changes = self.index.settle();
        self.commit(changes, false, node, macs);
    }

    fn tell(&mut self, cluster: &Cluster) {
        let now = texts(cluster);
        let gone: BTreeSet<String> = self.told.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        for name in gone {
            let before = self.told.remove(&name).expect("there");
            let key: ObjectKey = read(&before).key();
            self.index.delete(&key);
        }
        for (name, text) in now {
            if self.told.get(&name) != Some(&text) {
                // A mistake is refused by itself.
                let _ = self.index.apply(read(&text));
                self.told.insert(name, text);
            }
        }
    }

    fn commit(&mut self, changes: Changes, full: bool, node: &mut SimNode, macs: &[Mac]) {
        self.generation += 1;
        let generation = self.generation;
        let mut messages = vec![ToDataplane::Begin { generation, full }];
        for (key, object) in changes {
            match object {
                Some(object) => messages.extend(v1::upsert(object).expect("small enough")),
                None => messages.push(ToDataplane::Delete(key)),
            }
        }
        messages.push(ToDataplane::Commit { generation });
        let mut assembler = Assembler::default();
        let mut whole = None;
        for message in messages {
            let bytes = postcard::to_stdvec(&message).expect("encodable");
            whole = assembler.message(postcard::from_bytes(&bytes).expect("decodable")).expect("in order");
        }
        self.state = self.state.apply(&whole.expect("a transaction")).expect("the agent settles contradictions");
        self.catalog = self.catalog.follow(&self.state);
        let local = self.state.local.as_ref().expect("this node");
        node.config.local = Some(compile::local(local));
        node.config.peers = self
            .state
            .peers
            .values()
            .map(|peer| compile::peer(peer, super::wire::node_of(peer.vtep).map(|n| macs[n])))
            .collect();
        node.config.services = self.catalog.map().clone();
        node.publish();
    }
}

/// What the plugin told the agent of a pod.
fn endpoint(n: usize, pod: &SimPod, cluster: &Cluster) -> v1::Endpoint {
    let mine = |b: &std::net::SocketAddr| b.ip() == std::net::IpAddr::V4(pod.v4);
    let host_ports = cluster.host_ports.iter().filter(|h| h.backends.iter().any(mine));
    let host_port = |h: &objects::HostPort| v1::HostPort {
        protocol: match h.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
            Protocol::Sctp => v1::Protocol::Sctp,
        },
        address: None,
        port: h.port,
        target: h.backends[0].port(),
    };
    v1::Endpoint {
        id: format!("container{n}/eth0"),
        pod: format!("ns/pod{n}"),
        port: v1::PortKind::Veth { host_ifname: format!("pp{n}") },
        mac: pod.mac.0,
        addresses: vec![pod.v4.into(), pod.v6.into()],
        host_ports: host_ports.map(host_port).collect(),
        policy: Default::default(),
    }
}

fn texts(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::from([("cidr".to_owned(), objects::service_cidr(&cluster.service_cidrs))]);
    all.extend(cluster.nodes.iter().map(|n| (format!("node/{}", n.name), objects::node(n))));
    all.extend(cluster.services.iter().map(|(name, s)| (format!("service/{name}"), objects::service(name, s))));
    let slice =
        |(name, s): (&String, &objects::Slice)| (format!("slice/{name}"), objects::slice(name, s, &cluster.nodes));
    all.extend(cluster.slices.iter().map(slice));
    all
}

fn read(text: &Value) -> podplane_index::Object {
    let mut objects = manifest::parse(&text.to_string()).expect("a manifest").objects;
    objects.remove(0).object
}
