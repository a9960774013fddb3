//! Bad configuration and bad calls: an error that names cause and cure, and nothing half-done.

use std::path::PathBuf;
use std::process::{Command, Output};

use podplane_tests::cni::{Sandbox, traces};
use podplane_tests::{Lab, bin_dir, eventually, succeed, text};

/// A namespace and a folder of a test, gone when it ends.
struct Machine {
    netns: String,
    dir: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let machine = Machine { netns: name.to_owned(), dir: std::env::temp_dir().join(name) };
        machine.remove();
        std::fs::create_dir_all(&machine.dir).expect("a folder");
        succeed(Command::new("ip").args(["netns", "add", name]));
        // No link-local addresses that come up by themselves while states are compared.
        machine.sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
             ip link set lo up; ip link add eth0 type veth peer name far0; ip link set eth0 up; ip link set far0 up
             ip addr add 192.0.2.1/24 dev eth0; ip addr add 203.0.113.77/24 dev far0
             ip route add 198.51.100.0/24 via 192.0.2.254");
        // The kernel says so a moment later, and states are compared word by word.
        eventually("both devices are up", || {
            let links = machine.sh("ip -br link show type veth");
            links.lines().all(|line| line.split_whitespace().nth(1) == Some("UP")).then_some(())
        });
        machine
    }

    fn remove(&self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.netns]).output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    fn sh(&self, script: &str) -> String {
        succeed(Command::new("ip").args(["netns", "exec", &self.netns, "sh", "-ec", script]))
    }

    /// All that the programs change on a node, as other programs see it.
    fn state(&self) -> String {
        self.sh("ip -br link; ip -br addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all
             nft list ruleset; grep . /proc/sys/net/ipv4/conf/*/rp_filter")
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        // A wrongly accepted configuration must not run for ever.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "timeout", "120"]).arg(bin_dir().join(program));
        command.args(args).output().expect("ip runs")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.remove();
    }
}

#[track_caller]
fn refused(machine: &Machine, program: &str, args: &[&str], says: &[&str]) {
    let before = machine.state();
    let out = machine.run(program, args);
    let said = text(&out);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{program} {args:?}: {:?}\n{said}", out.status);
    for part in says {
        assert!(said.contains(part), "{program} {args:?} does not say {part:?}:\n{said}");
    }
    let error = said.lines().last().unwrap_or_default();
    assert!(!error.contains("backtrace"), "{said}");
    assert_eq!(machine.state(), before, "{program} {args:?} left something behind");
}

#[test]
fn a_dataplane_that_cannot_start_says_why_and_changes_nothing() {
    let machine = Machine::new("t-bad-dp");
    let (run, state, file) = (machine.path("run"), machine.path("state"), machine.path("file"));
    std::fs::write(&file, "").expect("a file");
    let folders = ["--run-dir", &run, "--state-dir", &state, "--no-huge", "--memory", "64"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--uplink", "iface:nope0"], &["no interface nope0", "there are: ", "eth0"]),
        (&["--uplink", "ethdev:net_af_packet0,iface=nope0"], &["no interface nope0"]),
        (&["--uplink", "ethdev:net_nosuch0"], &["net_nosuch0", "check the driver's name"]),
        (&["--uplink", "iface:lo"], &["lo cannot be the uplink", "loopback"]),
        (&["--uplink", "eth0"], &["\"eth0\" is no device", "iface:NAME, ethdev:DEVARGS or pci:ADDRESS"]),
        (&["--uplink", "pci:zz"], &["\"zz\" is no PCI address", "dpdk-devbind.py"]),
        (&["--uplink", "iface:eth0", "--mtu", "9000"], &["--mtu 9000 is more than eth0 carries", "leave it out"]),
        (
            &["--uplink", "ethdev:net_tap0,iface=tbad0", "--host-address", "203.0.113.77/24"],
            &["203.0.113.77 is on far0 already", "ip addr del 203.0.113.77/24 dev far0"],
        ),
        (&["--uplink", "iface:eth0", "--lcores", "1023"], &["CPU 1023", "choose one"]),
        (&["--uplink", "iface:eth0", "--log", "a=b=c"], &["is no filter"]),
        (&[], &["--uplink"]),
    ];
    for (args, says) in cases {
        refused(&machine, "podplane-dataplane", &[&folders, *args].concat(), says);
    }
    // More than any machine of today has: without hugepages the kernel would promise it and kill somebody later.
    let greedy =
        ["--run-dir", &run, "--state-dir", &state, "--no-huge", "--uplink", "iface:eth0", "--memory", "1048576"];
    refused(&machine, "podplane-dataplane", &greedy, &["--memory 1048576 is more than", "give a smaller --memory"]);
    let file_for_folder = ["--run-dir", &file, "--state-dir", &state, "--no-huge", "--uplink", "iface:eth0"];
    refused(&machine, "podplane-dataplane", &file_for_folder, &["cannot make the folder", "--run-dir"]);
    let read_only = ["--run-dir", &run, "--state-dir", "/sys/kernel", "--no-huge", "--uplink", "iface:eth0"];
    refused(&machine, "podplane-dataplane", &read_only, &["/sys/kernel"]);
}

#[test]
fn an_agent_that_cannot_start_says_why_and_changes_nothing() {
    let machine = Machine::new("t-bad-agent");
    let (run, state, objects, file) =
        (machine.path("run"), machine.path("state"), machine.path("objects"), machine.path("file"));
    std::fs::create_dir(&objects).expect("a folder");
    std::fs::write(&file, "").expect("a file");
    let agent = |source: &str, run: &str, state: &str, says: &[&str]| {
        let args = ["--node", "n1", "--source", source, "--run-dir", run, "--state-dir", state];
        refused(&machine, "podplane-agent", &args, says);
    };
    agent(&machine.path("nothing"), &run, &state, &["cannot read the folder of objects", "make it", "--source"]);
    agent(&file, &run, &state, &["cannot read the folder of objects", "Not a directory"]);
    agent(&objects, &file, &state, &["cannot make the folder", "--run-dir"]);
    agent(&objects, &run, "/sys/kernel", &["/sys/kernel"]);
    std::fs::create_dir_all(&state).expect("a folder");
    std::fs::write(machine.path("state/ipam.redb"), "this is no store").expect("a file");
    agent(&objects, &run, &state, &["ipam.redb"]);
    std::fs::write(machine.path("state/uplink.json"), "{").expect("a file");
    let cleanup = ["cleanup", "--run-dir", &run, "--state-dir", &state];
    refused(&machine, "podplane-agent", &cleanup, &["uplink.json", "damaged", "remove it"]);
}

#[test]
fn a_second_dataplane_is_refused_and_harms_nobody() {
    let lab = Lab::up("t-bad-second", &["--nodes", "2"]);
    let (_, b) = (lab.pod("default/a", 1), lab.pod("default/b", 2));
    let run_dir = lab.node(1, "run_dir").as_str().expect("a folder").to_owned();
    let other = std::env::temp_dir().join("t-bad-second").display().to_string();
    let program = bin_dir().join("podplane-dataplane").display().to_string();
    for run in [&run_dir, &other] {
        let folders = ["--run-dir", run, "--state-dir", &other, "--uplink", "iface:eth0"];
        let command = [&["timeout", "120", &program, "--no-huge", "--memory", "64"], &folders[..]].concat();
        let out = lab.node_exec(1, &command).output().expect("it starts");
        assert_eq!(out.status.code(), Some(1), "{}", text(&out));
        assert!(text(&out).contains("is the dataplane of this network namespace already: stop it"), "{}", text(&out));
        lab.ping("default/a", &b);
    }
    let _ = std::fs::remove_dir_all(other);
    let agent = bin_dir().join("podplane-agent").display().to_string();
    let manifests = format!("/run/podplane-lab/{}/manifests", lab.name());
    let state_dir = run_dir.strip_suffix("run").expect("RUN").to_owned() + "state";
    let options = ["--node", "node1", "--source", &manifests, "--run-dir", &run_dir, "--state-dir", &state_dir];
    let out = lab.node_exec(1, &[&["timeout", "120", &agent], &options[..]].concat()).output().expect("it starts");
    assert!(!out.status.success() && text(&out).contains("another agent"), "{}", text(&out));
    lab.pod("default/c", 1);
    lab.ping("default/c", &b);
}

#[test]
fn objects_that_make_no_sense_are_named_and_the_last_good_state_stays() {
    let lab = Lab::up("t-bad-objects", &["--nodes", "2"]);
    let (_, b) = (lab.pod("default/a", 1), lab.pod("default/b", 2));
    let manifests = PathBuf::from("/run/podplane-lab").join(lab.name()).join("manifests");
    // A Node that breaks a peer's own object, in place of it, and a file that is no YAML.
    let files = std::fs::read_dir(&manifests).expect("a folder").flatten().map(|entry| entry.path());
    let node2 = files
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("node2")))
        .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"Node\"")))
        .expect("the lab's object of node2");
    let good = std::fs::read_to_string(&node2).expect("readable");
    let problems = || {
        let run_dir = lab.node(1, "run_dir");
        let args = ["--run-dir", run_dir.as_str().expect("a folder"), "status"];
        succeed(&mut podplane_tests::podplane(&args))
    };
    let name_it = |path: &PathBuf, line: u32, reason: &str| {
        let place = format!("{}:{line}", path.display());
        let log = format!("/run/podplane-lab/{}/logs/agent-1.log", lab.name());
        eventually("the problem is named with file, line and reason", || {
            let (said, log) = (problems(), std::fs::read_to_string(&log).expect("a log"));
            let logged = log.contains(&format!("file={}", path.display())) && log.contains(reason);
            (logged && said.lines().any(|l| l.contains(&place) && l.contains(reason))).then_some(())
        });
    };
    std::fs::write(&node2, good.replace("10.244.2.0/24", "10.244.2.0/99")).expect("writable");
    name_it(&node2, 1, "10.244.2.0/99");
    let broken = manifests.join("broken.yaml");
    std::fs::write(&broken, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n bad: [\n").expect("writable");
    name_it(&broken, 5, "did not find expected key");
    // Both nodes go on with what they knew.
    lab.ping("default/a", &b);
    lab.pod("default/c", 1);
    lab.ping("default/c", &b);
    std::fs::write(&node2, good).expect("writable");
    std::fs::remove_file(&broken).expect("it is there");
    eventually("the problems are gone", || {
        let said = problems();
        // Events tell what was.
        let mut now = said.lines().filter(|line| !line.starts_with("event"));
        now.all(|line| !line.contains("broken.yaml") && !line.contains("10.244.2.0/99")).then_some(())
    });
    lab.ping("default/a", &b);
}

#[test]
fn calls_of_the_plugin_that_make_no_sense_are_refused_and_leave_nothing() {
    let lab = Lab::up("t-bad-cni", &["--nodes", "1"]);
    let before = traces(&lab, 1);
    let refused = |sandbox: &Sandbox<'_>, code: u32, says: &str| {
        let out = sandbox.call("ADD");
        let said = text(&out);
        assert!(!out.status.success() && said.contains(&format!("\"code\":{code},")), "{says}: {said}");
        assert!(said.contains(says), "{says}: {said}");
        assert_eq!(traces(&lab, 1), before, "{says}");
    };
    let set = |sandbox: &mut Sandbox<'_>, name: &'static str, value: &str| {
        sandbox.env.retain(|(other, _)| *other != name);
        sandbox.env.push((name, value.to_owned()));
    };
    for (name, value, says) in [
        ("CNI_IFNAME", "way-too-long-for-one", "CNI_IFNAME"),
        ("CNI_IFNAME", "a/b", "CNI_IFNAME"),
        ("CNI_CONTAINERID", "../x", "CNI_CONTAINERID"),
        ("CNI_NETNS", "/run/netns/t-bad-cni-none", "No such file"),
        ("CNI_NETNS", "/etc/hostname", "CNI_NETNS"),
        ("CNI_NETNS", "relative", "absolute path"),
        ("CNI_NETNS", "/proc/self/ns/net", "CNI_NETNS"),
        ("CNI_ARGS", "K8S_POD_NAME=x", "K8S_POD_NAMESPACE"),
    ] {
        let mut sandbox = Sandbox::new(&lab, 1, "bad");
        set(&mut sandbox, name, value);
        refused(&sandbox, 4, says);
    }
    let mut sandbox = Sandbox::new(&lab, 1, "bad");
    let link = std::env::temp_dir().join("t-bad-cni-link");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(format!("/run/netns/{}", sandbox.netns), &link).expect("a link");
    set(&mut sandbox, "CNI_NETNS", link.to_str().expect("a path"));
    refused(&sandbox, 4, "symbolic link");
    std::fs::remove_file(&link).expect("it is there");
    drop(sandbox);

    for (key, value, code, says) in [
        ("cniVersion", "9.9.9", 1, "supported: 0.3.0"),
        ("name", "../x", 7, "name"),
        ("agentSocket", "relative", 7, "absolute path"),
        ("agentSocket", "/nonexistent/agent.sock", 11, "start podplane-agent"),
    ] {
        let mut sandbox = Sandbox::new(&lab, 1, "bad");
        sandbox.config[key] = value.into();
        refused(&sandbox, code, says);
    }
    let mut sandbox = Sandbox::new(&lab, 1, "bad");
    sandbox.config["ipam"] = serde_json::json!({ "type": "host-local" });
    refused(&sandbox, 2, "remove \\\"ipam\\\"");
    drop(sandbox);
    // An interface of that name is somebody else's.
    let sandbox = Sandbox::new(&lab, 1, "bad");
    let link = ["-n", &sandbox.netns, "link", "add", "eth0", "type", "veth", "peer", "name", "x0"];
    succeed(Command::new("ip").args(link));
    refused(&sandbox, 4, "there is an interface of that name");
    succeed(Command::new("ip").args(["-n", &sandbox.netns, "link", "show", "eth0"]));
}
