//! Everybody reaches everybody, over each kind of uplink, with more workers than cores.

use podplane_tests::{Lab, eventually, succeed};
use std::process::{Child, Stdio};

/// Ping, HTTP and TCP between every pair of pods of three nodes, and between nodes and pods.
fn everybody_reaches_everybody(name: &str, uplink: &[&str]) {
    let lab = Lab::up(name, &[&["--nodes", "3", "--workers", "4"], uplink].concat());
    let pods: Vec<_> = (1..=3u8)
        .flat_map(|node| ["a", "b"].map(|pod| (format!("default/{pod}{node}"), node)))
        .map(|(pod, node)| (lab.pod(&pod, node), pod))
        .collect();
    for (addresses, pod) in &pods {
        for (_, from) in pods.iter().filter(|(_, from)| from != pod) {
            lab.ping(from, addresses);
        }
        for address in addresses {
            for node in 1..=3 {
                succeed(&mut lab.node_exec(node, &["ping", "-c", "1", "-W", "20", address]));
            }
        }
        for node in ["10.77.0.11", "10.77.0.12", "10.77.0.13", "fd00:10:77::12"] {
            succeed(&mut lab.exec(pod, &["ping", "-c", "1", "-W", "20", node]));
        }
    }
    let servers: Vec<_> = pods.iter().map(|(_, pod)| Servers::start(&lab, pod)).collect();
    for (addresses, server) in &pods {
        for (_, client) in pods.iter().filter(|(_, client)| client != server) {
            transfer(&lab, client, addresses);
        }
    }
    drop(servers);
}

/// Over HTTP and at full speed, both families.
fn transfer(lab: &Lab, client: &str, [v4, v6]: &[String; 2]) {
    for url in [format!("http://{v4}:8080/"), format!("http://[{v6}]:8080/")] {
        // The server may have just been started.
        eventually("an answer over HTTP", || {
            let out = lab.exec(client, &["curl", "-sf", "--max-time", "3", &url]).output().unwrap();
            out.status.success().then_some(())
        });
    }
    for address in [v4, v6] {
        // It may have just been started, or be busy still with the end of the transfer before.
        eventually("a transfer at full speed", || {
            let out = lab.exec(client, &["timeout", "60", "iperf3", "-c", address, "-n", "4M", "-J"]).output().unwrap();
            out.status.success().then_some(())
        });
    }
}

/// What a pod serves; stopped when dropped.
struct Servers(Vec<Child>);

impl Servers {
    fn start(lab: &Lab, pod: &str) -> Servers {
        let start = |command: &[&str]| {
            let mut command = lab.exec(pod, command);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server starts")
        };
        let http = ["python3", "-m", "http.server", "--bind", "::", "8080"];
        Servers(vec![start(&http), start(&["iperf3", "-s"])])
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            // The command became the server itself.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[test]
fn over_a_kernel_interface() {
    everybody_reaches_everybody("t-iface", &["--uplink", "iface"]);
}

#[test]
fn over_net_af_packet() {
    everybody_reaches_everybody("t-afpacket", &["--uplink", "af_packet"]);
}

#[test]
fn over_net_tap() {
    everybody_reaches_everybody("t-tap", &["--uplink", "tap"]);
}

#[test]
fn over_an_ipv6_underlay() {
    everybody_reaches_everybody("t-v6", &["--underlay", "ipv6"]);
}
