//! A node always reaches its pods; whom it forwards for, masqueraded or not, is somebody outside.

use std::io::Write;
use std::process::{Command, Stdio};

use podplane_tests::policy::{drops, policy, server};
use podplane_tests::services::program;
use podplane_tests::{Lab, eventually, succeed};
use serde_json::json;

/// A container of the node's behind a device of its own, as Docker makes them.
struct Container {
    name: String,
}

const ADDRESSES: [&str; 2] = ["172.29.0.2", "fd00:29::2"];

impl Container {
    /// Behind node 1, whose kernel masquerades what it sends.
    fn new(lab: &Lab) -> Container {
        let container = Container { name: format!("{}-container", lab.name()) };
        let name = &container.name;
        let _ = Command::new("ip").args(["netns", "del", name]).output();
        succeed(Command::new("ip").args(["netns", "add", name]));
        let on_node = format!(
            "ip link add docker0 type veth peer name eth0 netns {name}
             ip addr add 172.29.0.1/16 dev docker0; ip addr add fd00:29::1/64 dev docker0 nodad; ip link set docker0 up
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
             nft add table ip docker; nft add table ip6 docker
             nft 'add chain ip docker out {{ type nat hook postrouting priority srcnat; }}'
             nft 'add chain ip6 docker out {{ type nat hook postrouting priority srcnat; }}'
             nft add rule ip docker out ip saddr 172.29.0.0/16 oifname != docker0 masquerade
             nft add rule ip6 docker out ip6 saddr fd00:29::/64 oifname != docker0 masquerade"
        );
        succeed(&mut lab.node_exec(1, &["sh", "-ec", &on_node]));
        let inside = "ip link set lo up; ip addr add 172.29.0.2/16 dev eth0; ip addr add fd00:29::2/64 dev eth0 nodad
             ip link set eth0 up; ip route add default via 172.29.0.1; ip -6 route add default via fd00:29::1";
        succeed(&mut container.exec(&["sh", "-ec", inside]));
        container
    }

    fn exec(&self, command: &[&str]) -> Command {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", &self.name]).args(command);
        ip
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Which of the targets answer; `start` makes the command that runs another one somewhere.
fn reached(start: impl Fn(&[&str]) -> Command, targets: &[(&str, &str, u16)]) -> Vec<bool> {
    let [python, script] = program("policy.py");
    let mut command = start(&[&python, &script, "probe"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let line = json!({"window": 4, "targets": targets}).to_string();
    // It ends when nothing more is asked.
    writeln!(child.stdin.take().expect("piped"), "{line}").expect("the program reads");
    let out = child.wait_with_output().expect("the program ends");
    serde_json::from_slice(&out.stdout).expect("a list")
}

#[test]
fn whom_the_node_masquerades_is_not_the_node() {
    let lab = Lab::up("t-polnode", &["--nodes", "2", "--workers", "2"]);
    let names = ["web", "alt", "dns"];
    lab.apply(
        &[
            server("x", "open", 1, "app: open", names),
            server("x", "shut", 1, "app: shut", names),
            server("x", "far", 2, "app: shut", names),
            policy("x", "shut", "{podSelector: {matchLabels: {app: shut}}, policyTypes: [Ingress]}"),
        ]
        .concat(),
    );
    let container = Container::new(&lab);
    let [open, shut, far] = ["x/open", "x/shut", "x/far"].map(|pod| lab.addresses(pod));
    let of = |pod: &[String; 2]| -> Vec<(&'static str, String, u16)> {
        pod.iter().flat_map(|a| [("tcp", a.clone(), 80), ("udp", a.clone(), 53)]).collect()
    };
    let all: Vec<_> = [&open, &shut, &far].into_iter().flat_map(of).collect();
    let targets: Vec<(&str, &str, u16)> = all.iter().map(|(kind, a, port)| (*kind, a.as_str(), *port)).collect();
    let from_node = |command: &[&str]| lab.node_exec(1, command);
    let from_container = |command: &[&str]| container.exec(command);
    let wanted = |open: bool, shut: bool, far: bool| [[open; 4], [shut; 4], [far; 4]].concat();
    // Kubelets reach the pods of their node, whatever is forbidden; other nodes' pods are judged there.
    eventually("the node reaches its own pods", || {
        (reached(from_node, &targets) == wanted(true, true, false)).then_some(())
    });
    eventually("the container reaches the pod that is open", || {
        (reached(from_container, &targets) == wanted(true, false, false)).then_some(())
    });
    let before = drops(&lab, 1, "policy-ingress");
    assert_eq!(reached(from_container, &targets), wanted(true, false, false));
    assert!(drops(&lab, 1, "policy-ingress") >= before + 4, "each family and protocol is dropped by name");

    // An isolated pod's connection to the container is answered by the way of what is forwarded.
    let [python, script] = program("policy.py");
    let mut serving =
        container.exec(&[&python, &script, "serve", "80", "53"]).stdin(Stdio::null()).spawn().expect("it starts");
    let back: Vec<_> = ADDRESSES.iter().flat_map(|a| [("tcp", *a, 80), ("udp", *a, 53)]).collect();
    let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the isolated pod is answered", || {
            (reached(|command| lab.exec("x/shut", command), &back) == [true; 4]).then_some(())
        });
    }));
    let _ = serving.kill();
    let _ = serving.wait();
    if let Err(panic) = answered {
        std::panic::resume_unwind(panic);
    }

    // Without masquerading it is the container's own address that is judged.
    succeed(&mut lab.node_exec(1, &["sh", "-ec", "nft delete table ip docker; nft delete table ip6 docker"]));
    let net = |a: &str, length: u8| format!("{{ipBlock: {{cidr: '{a}/{length}'}}}}");
    let from = [net(ADDRESSES[0], 32), net(ADDRESSES[1], 128)].join(", ");
    lab.apply(&policy(
        "x",
        "let-in",
        &format!(
            "{{podSelector: {{matchLabels: {{app: shut}}}}, ingress: [{{from: [{from}], ports: [{{port: 80}}]}}]}}"
        ),
    ));
    eventually("the container is let in by its address", || {
        let shut = [[true, false, true, false], [false; 4]].concat();
        (reached(from_container, &targets[4..])[..4] == shut[..4]).then_some(())
    });
}
