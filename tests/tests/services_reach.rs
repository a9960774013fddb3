//! Everybody reaches every kind of Service, and backends see whom they should.
//!
//! Two nodes, a backend on each; each case is an address, a client, the backends that must answer and the source that
//! they must see (the table in docs/services.md).

use podplane_tests::Lab;
use podplane_tests::services::{Checks, Client, idler, server, server_on, service, service_to};

const NODES: [[&str; 2]; 2] = [["10.77.0.11", "fd00:10:77::11"], ["10.77.0.12", "fd00:10:77::12"]];
const OUTSIDE: [&str; 2] = ["10.77.0.1", "fd00:10:77::1"];
/// The nodes' own addresses in their pod ranges.
const GATEWAYS: [[&str; 2]; 2] = [["10.244.1.1", "fd00:10:244:1::1"], ["10.244.2.1", "fd00:10:244:2::1"]];
/// Where pods on the host network listen: apart from each other and from pods.
const HOST_SERVER: u16 = 9080;

fn manifests() -> String {
    [
        server("a", 1, "web", "", ""),
        server("b", 2, "web", "", ""),
        server(
            "solo",
            1,
            "solo",
            "",
            "{containerPort: 8080, hostPort: 7080}, {containerPort: 8080, hostPort: 7080, protocol: UDP}",
        ),
        server_on("h1", 1, "host", HOST_SERVER, "hostNetwork: true,", ""),
        server_on("h2", 2, "host", HOST_SERVER, "hostNetwork: true,", ""),
        idler("client", 1, ""),
        idler("host-client", 1, "hostNetwork: true,"),
        service("cluster", "web", ""),
        service("port", "web", "type: NodePort,"),
        service("balanced", "web", "type: LoadBalancer,"),
        service("extern", "web", "externalIPs: [192.0.2.80, '2001:db8:80::1'],"),
        service("solo", "solo", "type: NodePort,"),
        service_to("host", "host", HOST_SERVER, "type: NodePort,"),
    ]
    .concat()
}

fn same(source: &str) -> impl Fn(&str) -> String {
    move |_| source.to_owned()
}

struct Reach {
    lab: Lab,
    checks: Checks,
}

impl Reach {
    fn up(name: &str, args: &[&str]) -> Reach {
        let lab = Lab::up(name, &[&["--nodes", "2", "--workers", "2", "--agent-arg=--external-ips"], args].concat());
        lab.apply(&manifests());
        lab.until_answers(&Client::pod("client"), &lab.cluster_ips("default/host")[0], 80);
        Reach { lab, checks: Checks::default() }
    }

    fn web(&mut self, what: &str, client: &Client, address: &str, port: u16, source: &str) {
        self.checks.answers(&self.lab, what, client, address, port, &["a", "b"], &same(source));
    }

    /// Node 2's node port from node 1: what it sends back to node 1 it sends under its own address, to see the answers.
    fn elsewhere(&mut self, client: &Client, family: usize, node_port: u16, own: &str) {
        let seen = |name: &str| if name == "a" { NODES[1][family] } else { own }.to_owned();
        let (address, what) = (NODES[1][family], "another node's NodePort");
        self.checks.answers(&self.lab, what, client, address, node_port, &["a", "b"], &seen);
    }

    /// A pod that is no backend reaches every kind of address, and is seen by its own.
    fn pods(&mut self) {
        let client = Client::pod("client");
        let own = self.lab.addresses("default/client");
        let (cluster, balanced) = (self.lab.cluster_ips("default/cluster"), self.lab.balancer_ips("default/balanced"));
        let node_port = self.lab.node_port("default/port");
        let external = ["192.0.2.80", "2001:db8:80::1"];
        for family in 0..2 {
            let own = &own[family];
            self.web("ClusterIP from a pod", &client, &cluster[family], 80, own);
            self.web("a balancer's address from a pod", &client, &balanced[family], 80, own);
            self.web("an external address from a pod", &client, external[family], 80, own);
            self.web("NodePort of its node from a pod", &client, NODES[0][family], node_port, own);
            self.elsewhere(&client, family, node_port, own);
            let host = self.lab.cluster_ips("default/host");
            let what = "backends on the host network from a pod";
            self.checks.answers(&self.lab, what, &client, &host[family], 80, &["h1", "h2"], &same(own));
            for node in NODES[..1].iter() {
                let what = "hostPort from a pod";
                self.checks.answers(&self.lab, what, &client, node[family], 7080, &["solo"], &same(own));
            }
        }
    }

    /// A pod reaches itself through its own Service and its own host port.
    fn hairpin(&mut self) {
        let client = Client::pod("solo");
        let (cluster, node_port) = (self.lab.cluster_ips("default/solo"), self.lab.node_port("default/solo"));
        for family in 0..2 {
            let gateway = same(GATEWAYS[0][family]);
            let cases = [
                (cluster[family].as_str(), 80, "ClusterIP from its own backend"),
                (NODES[0][family], node_port, "NodePort from its own backend"),
                (NODES[0][family], 7080, "hostPort from its own pod"),
            ];
            for (address, port, what) in cases {
                self.checks.answers(&self.lab, what, &client, address, port, &["solo"], &gateway);
            }
        }
    }

    /// Processes on node 1, and pods on its network, reach everything.
    fn nodes(&mut self) {
        let (cluster, balanced) = (self.lab.cluster_ips("default/cluster"), self.lab.balancer_ips("default/balanced"));
        let (node_port, host) = (self.lab.node_port("default/port"), self.lab.cluster_ips("default/host"));
        for client in [Client::Node(1), Client::pod("host-client")] {
            for family in 0..2 {
                let own = NODES[0][family];
                self.web("ClusterIP from a node", &client, &cluster[family], 80, own);
                self.web("a balancer's address from a node", &client, &balanced[family], 80, own);
                self.web("a node's own NodePort", &client, own, node_port, own);
                self.elsewhere(&client, family, node_port, own);
                // To a backend on the same host the node comes by its address in the pod range, so that replies return.
                let seen = |name: &str| if name == "h1" { GATEWAYS[0][family] } else { own }.to_owned();
                let what = "backends on the host network from a node";
                self.checks.answers(&self.lab, what, &client, &host[family], 80, &["h1", "h2"], &seen);
                let what = "a node's own hostPort";
                self.checks.answers(&self.lab, what, &client, own, 7080, &["solo"], &same(own));
            }
        }
        let what = "hostPort on 127.0.0.1";
        // The kernel has chosen the node's address as source by the time that the packet is ours.
        let node = same(NODES[0][0]);
        self.checks.answers(&self.lab, what, &Client::Node(1), "127.0.0.1", 7080, &["solo"], &node);
    }

    /// The host beside the cluster reaches what is meant for it, and pods see it.
    fn outside(&mut self) {
        let client = Client::outside();
        let (balanced, node_port) = (self.lab.balancer_ips("default/balanced"), self.lab.node_port("default/port"));
        let host_port = self.lab.node_port("default/host");
        for family in 0..2 {
            let own = OUTSIDE[family];
            for node in NODES {
                self.web("NodePort from outside", &client, node[family], node_port, own);
            }
            self.web("a balancer's address from outside", &client, &balanced[family], 80, own);
            for (entry, local) in [(0, "h1"), (1, "h2")] {
                let node = NODES[entry][family];
                // Replies of a host-network backend elsewhere would not come back through the entry node.
                let seen = |name: &str| if name == local { own } else { node }.to_owned();
                let what = "backends on the host network from outside";
                self.checks.answers(&self.lab, what, &client, node, host_port, &["h1", "h2"], &seen);
            }
            let what = "hostPort from outside";
            self.checks.answers(&self.lab, what, &client, NODES[0][family], 7080, &["solo"], &same(own));
        }
    }
}

fn everybody_reaches_services(name: &str, args: &[&str]) {
    let mut reach = Reach::up(name, args);
    reach.pods();
    reach.hairpin();
    reach.nodes();
    reach.outside();
    reach.checks.done();
}

#[test]
fn over_a_kernel_interface() {
    everybody_reaches_services("t-svc", &[]);
}

#[test]
fn over_net_tap_and_ipv6() {
    everybody_reaches_services("t-svctap", &["--uplink", "tap", "--underlay", "ipv6"]);
}
