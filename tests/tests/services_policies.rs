//! Who may use an address and which endpoints it leads to: source ranges, traffic policies, health checks, topology.
//!
//! Three nodes in two zones: nodes 1 and 2 in `here`, node 3 in `there`.

use std::collections::BTreeSet;

use podplane_tests::services::{Client, Talker, bracketed, connect, fetch, idler, program, server, service};
use podplane_tests::{Lab, eventually, succeed};
use serde_json::Value;

const NODES: [[&str; 2]; 3] =
    [["10.77.0.11", "fd00:10:77::11"], ["10.77.0.12", "fd00:10:77::12"], ["10.77.0.13", "fd00:10:77::13"]];
const OUTSIDE: [&str; 2] = ["10.77.0.1", "fd00:10:77::1"];

fn lab(name: &str, manifests: &[String]) -> Lab {
    let lab = Lab::up(name, &["--nodes", "3", "--workers", "2", "--zones", "here,here,there"]);
    lab.apply(&manifests.concat());
    lab
}

fn pod(lab: &Lab, verb: &str, name: &str) {
    succeed(&mut lab.command(&["pod", verb, &format!("default/{name}")]));
}

/// Packets that a node dropped for a reason.
fn drops(lab: &Lab, node: u8, reason: &str) -> u64 {
    let answer = lab.ask(node, "drops");
    let rows = answer["drops"].as_array().expect("drops").iter().filter(|row| row["reason"] == reason);
    rows.filter_map(|row| row["packets"].as_u64()).sum()
}

fn host_net(address: &str) -> String {
    format!("'{address}/{}'", if address.contains(':') { 128 } else { 32 })
}

#[test]
fn only_the_source_ranges_reach_a_balancers_address() {
    let lab = lab("t-ranges", &[server("a", 1, "web", "", ""), idler("friend", 1, ""), idler("stranger", 1, "")]);
    let (friend, stranger) = (Client::pod("friend"), Client::pod("stranger"));
    let serve = |allowed: &[&str]| {
        let ranges = allowed.iter().map(|address| host_net(address)).collect::<Vec<_>>().join(", ");
        lab.apply(&service("web", "web", &format!("type: LoadBalancer, loadBalancerSourceRanges: [{ranges}],")));
    };
    let pod = lab.addresses("default/friend");
    let mut allowed: Vec<&str> = pod.iter().map(String::as_str).collect();
    allowed.extend(NODES[0]);
    allowed.extend(OUTSIDE);
    serve(&allowed);
    let (balanced, cluster) = (lab.balancer_ips("default/web"), lab.cluster_ips("default/web"));
    let node_port = lab.node_port("default/web");
    for family in 0..2 {
        for client in [&friend, &Client::Node(1), &Client::outside()] {
            lab.until_answers(client, &balanced[family], 80);
        }
        let before = drops(&lab, 1, "service-source");
        lab.meets(&stranger, &balanced[family], 80, "silence", "not among the source ranges");
        assert!(drops(&lab, 1, "service-source") > before, "silence has a name");
        // They are about the balancer's addresses only.
        lab.meets(&stranger, &cluster[family], 80, "open", "the ClusterIP has no source ranges");
        lab.meets(&stranger, NODES[0][family], node_port, "open", "nor has the node port");
    }
    lab.meets(&Client::Node(2), &balanced[0], 80, "silence", "a node that is not among the source ranges");
    serve(&allowed[..4]);
    for address in &balanced {
        eventually("the world outside is not allowed any more", || {
            (connect(&lab, &Client::outside(), address, 80) == "silence").then_some(())
        });
        lab.meets(&friend, address, 80, "open", "the others are");
    }
}

/// Status, headers and body of what a load balancer is told.
fn health(lab: &Lab, node: &str, port: u16) -> (String, String, Value) {
    let url = format!("http://{}:{port}/healthz", bracketed(node));
    let said = succeed(&mut lab.exec("@outside", &["curl", "-sS", "-i", "--max-time", "60", &url]));
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    (status.to_owned(), headers.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn a_local_policy_keeps_traffic_on_the_node_and_says_where_endpoints_are() {
    let local = service("web", "web", "type: LoadBalancer, externalTrafficPolicy: Local,");
    let lab = lab("t-local", &[server("a", 1, "web", "", ""), idler("client", 2, ""), local]);
    let (balanced, node_port) = (lab.balancer_ips("default/web"), lab.node_port("default/web"));
    let check = lab.get("Service", "default/web")["spec"]["healthCheckNodePort"].as_u64().expect("a port") as u16;
    for family in 0..2 {
        let seen = Ok(vec![("a".to_owned(), OUTSIDE[family].to_owned()); 2]);
        lab.until_answers(&Client::outside(), NODES[0][family], node_port);
        assert_eq!(fetch(&lab, &Client::outside(), NODES[0][family], node_port, 2), seen, "the client's own address");
        assert_eq!(fetch(&lab, &Client::outside(), &balanced[family], 80, 2), seen, "the client's own address");
        let before = drops(&lab, 2, "service-no-local-endpoint");
        lab.meets(&Client::outside(), NODES[1][family], node_port, "silence", "it has no endpoint");
        assert!(drops(&lab, 2, "service-no-local-endpoint") > before, "silence has a name");
        // What comes from inside may go anywhere.
        for client in [Client::pod("client"), Client::Node(2)] {
            lab.meets(&client, NODES[1][family], node_port, "open", "from inside");
            lab.meets(&client, &balanced[family], 80, "open", "from inside");
        }
    }
    let says = |node: usize, family: usize, status: &str, endpoints: u64| {
        let (line, headers, body) = health(&lab, NODES[node][family], check);
        let service = serde_json::json!({ "namespace": "default", "name": "web" });
        let expected = serde_json::json!({
            "service": service, "localEndpoints": endpoints, "serviceProxyHealthy": true,
        });
        // As kube-proxy's, RFC 9110 field names in any case.
        let weight = format!("x-load-balancing-endpoint-weight: {endpoints}");
        let fields = ["content-type: application/json", "x-content-type-options: nosniff", &weight];
        line.contains(status) && body == expected && fields.iter().all(|field| headers.contains(field))
    };
    for family in 0..2 {
        for (node, status, endpoints) in [(0, " 200 ", 1), (1, " 503 ", 0)] {
            eventually(&format!("node {} says{status}", node + 1), || {
                says(node, family, status, endpoints).then_some(())
            });
        }
    }
    pod(&lab, "unready", "a");
    eventually("a node that lost its endpoint says so", || says(0, 0, " 503 ", 0).then_some(()));
    lab.meets(&Client::outside(), NODES[0][0], node_port, "refused", "nobody has an endpoint");
    pod(&lab, "ready", "a");
    eventually("and that it has one again", || says(0, 0, " 200 ", 1).then_some(()));
}

#[test]
fn topology_hints_keep_traffic_near_while_there_is_somebody_near() {
    let lab = lab(
        "t-near",
        &[
            server("a", 1, "web", "", ""),
            server("b", 2, "web", "", ""),
            server("c", 3, "web", "", ""),
            idler("client", 1, ""),
            idler("far", 3, ""),
            service("zone", "web", "trafficDistribution: PreferClose,"),
            service("node", "web", "trafficDistribution: PreferSameNode,"),
        ],
    );
    let (zone, node) = (lab.cluster_ips("default/zone"), lab.cluster_ips("default/node"));
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    // Of two backends each is missed by all of 24 connections once in eight million runs.
    let answers = |client: &Client, address: &str| -> Option<BTreeSet<String>> {
        let answers = fetch(&lab, client, address, 80, 24).ok()?;
        Some(answers.into_iter().map(|(name, _)| name).collect())
    };
    let become_ = |client: &Client, address: &str, expected: &[&str]| {
        eventually(&format!("{client:?} -> {address} is answered by {expected:?}"), || {
            (answers(client, address)? == set(expected)).then_some(())
        });
    };
    let (near, far) = (Client::pod("client"), Client::pod("far"));
    for family in 0..2 {
        become_(&near, &zone[family], &["a", "b"]);
        become_(&far, &zone[family], &["c"]);
        become_(&near, &node[family], &["a"]);
        become_(&Client::Node(3), &node[family], &["c"]);
    }
    // No endpoint on the node: the zone; none in the zone either: all.
    pod(&lab, "unready", "a");
    become_(&near, &node[0], &["b"]);
    become_(&near, &zone[0], &["b"]);
    pod(&lab, "unready", "b");
    become_(&near, &node[0], &["c"]);
    become_(&near, &zone[0], &["c"]);
}

/// The client keeps its address, so a backend cannot tell by which node it came: its node must.
#[test]
fn a_client_may_come_by_two_entry_nodes() {
    let web = service("web", "web", "type: NodePort,");
    let lab = lab("t-entries", &[server("c", 3, "web", "", ""), web]);
    let port = lab.node_port("default/web");
    for family in 0..2 {
        let [first, second] = [NODES[0][family], NODES[1][family]];
        for entry in [first, second] {
            lab.until_answers(&Client::outside(), entry, port);
        }
        let before = drops(&lab, 3, "entry-conflict");
        let talker = Talker::start(&lab, &Client::outside(), &["entries", first, second, &port.to_string()]);
        let said = talker.finish();
        let answer = format!("c {}", OUTSIDE[family]);
        // The same connection twice is none; after its end, and for datagrams, the way is a new one.
        let expected = ["silence", "open"].into_iter().chain([answer.as_str(); 6]).collect::<Vec<_>>();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
        assert!(drops(&lab, 3, "entry-conflict") > before, "silence has a name");
    }
}

/// `ipMode: Proxy` leaves a balancer's address to the balancer, which may do more than to forward.
#[test]
fn a_balancer_that_is_a_proxy_is_not_bypassed() {
    const PROXY: &str = "192.0.2.99";
    let status = |mode: &str| {
        service("web", "web", "type: LoadBalancer,").replace(
            "\n---\n",
            &format!("\nstatus: {{loadBalancer: {{ingress: [{{ip: {PROXY}, ipMode: {mode}}}]}}}}\n---\n"),
        )
    };
    let lab = lab("t-proxy", &[server("a", 2, "web", "", ""), idler("client", 1, ""), status("Proxy")]);
    succeed(&mut lab.exec("@outside", &["ip", "addr", "add", &format!("{PROXY}/32"), "dev", "lo"]));
    let [python, script] = program("serve.py");
    let mut proxy = lab.exec("@outside", &[&python, &script, "proxy", "80"]).spawn().expect("the server starts");
    let outcome = std::panic::catch_unwind(|| {
        let (client, node) = (Client::pod("client"), Client::Node(1));
        lab.until_answers(&client, PROXY, 80);
        assert_eq!(fetch(&lab, &client, PROXY, 80, 1), Ok(vec![("proxy".to_owned(), NODES[0][0].to_owned())]));
        assert_eq!(fetch(&lab, &node, PROXY, 80, 1), Ok(vec![("proxy".to_owned(), NODES[0][0].to_owned())]));
        lab.apply(&status("VIP"));
        let own = lab.addresses("default/client")[0].clone();
        eventually("the address is served here", || {
            (fetch(&lab, &client, PROXY, 80, 1).ok()? == [("a".to_owned(), own.clone())]).then_some(())
        });
    });
    proxy.kill().expect("our own child");
    proxy.wait().expect("our own child");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
