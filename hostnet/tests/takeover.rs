//! Take-over and restore: killed after every step, by turns, repeatedly; the kernel's own words before and after.
#![allow(missing_docs)]

mod common;

use std::{collections::BTreeSet, path::Path};

use common::Space;
use podplane_hostnet::{
    Error, Mac, Peer, Result, Veth,
    takeover::{self, Facts, Restored, read_record, restore, restore_stepwise, take_over, take_over_stepwise},
};

/// A node's namespace with a much-used uplink, and the router at its other end.
struct Node {
    node: Space,
    router: Space,
    state: tempfile::TempDir,
}

/// Primary, secondary, labelled, other network, no prefix route, point to point; IPv6 with and without prefix route;
/// routes of all kinds: default, metrics, other tables, multipath with another device, source, on-link gateway,
/// gateway of the other family; neighbours.
const MUCH_USED: &str = "
    echo 0 > /proc/sys/net/ipv6/conf/up0/accept_ra
    ip link add other0 type veth peer name other1; ip link set other0 up; ip link set other1 up
    ip addr add 198.51.100.1/24 dev other0
    ip link set up0 up
    ip addr add 192.0.2.10/24 brd + dev up0; ip addr add 192.0.2.11/24 dev up0 label up0:1
    ip addr add 203.0.113.5/29 dev up0 noprefixroute metric 50; ip addr add 10.5.0.1 peer 10.5.0.2 dev up0
    ip -6 addr add 2001:db8::10/64 dev up0 nodad; ip -6 addr add 2001:db8:1::10/64 dev up0 noprefixroute nodad
    ip route add default via 192.0.2.1 dev up0 src 192.0.2.10 metric 100 mtu 1400
    ip route add 203.0.113.0/29 dev up0 proto kernel scope link metric 100 src 203.0.113.5
    ip route add 10.50.0.0/16 via 203.0.113.77 dev up0 onlink table 77
    ip route add 10.60.0.0/16 nexthop via 192.0.2.1 dev up0 weight 2 nexthop via 198.51.100.9 dev other0
    ip route add 10.70.0.0/16 dev other0 src 192.0.2.10
    ip route add 10.80.0.0/16 via inet6 2001:db8::1 dev up0
    ip -6 route add default via fe80::fe dev up0 metric 100 pref high
    ip -6 route add 2001:db8:77::/48 via 2001:db8::1 dev up0 table 77
    ip -6 route add 2001:db8:60::/48 nexthop via 2001:db8::1 dev up0 nexthop via 2001:db8::2 dev up0
    ip neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev up0 nud permanent
    ip -6 neigh add 2001:db8::99 lladdr 02:00:00:00:00:99 dev up0 nud permanent";

const SNAPSHOT: &str = "
    ip -d link show | grep -v qdisc | sed 's/^/link /'; ip -o link show up0 | grep -o '<.*>'
    for i in $(ls /proc/sys/net/ipv4/conf | grep -v -e all -e default); do
        ip addr show dev $i | grep -v qdisc | sed \"s/^/addr $i /\"; ip neigh show dev $i nud permanent | sed \"s/^/neigh $i /\"
    done
    ip -4 route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft list ruleset
    grep -H . /proc/sys/net/ipv4/conf/*/* /proc/sys/net/ipv6/conf/*/* 2>/dev/null || true";

impl Node {
    fn new() -> Node {
        let (mut node, router) = (Space::new("node"), Space::new("router"));
        let peer = Peer { name: "eth0", mac: Some(Mac([2, 0, 0, 0, 0, 0xfe])), netns: Some(&router.netns) };
        let up0 = Veth { name: "up0", mac: Some(Mac([2, 0, 0, 0, 0, 7])), mtu: Some(1480), peer };
        node.netlink.create_veth(&up0).unwrap();
        router.sh("ip addr add 192.0.2.1/24 dev eth0; ip -6 addr add 2001:db8::1/64 dev eth0 nodad
             ip link set eth0 up; ip -6 addr add fe80::fe/64 dev eth0 nodad");
        node.sh(MUCH_USED);
        let settled = || {
            let addresses = node.sh("ip -6 addr show");
            addresses.matches("fe80::").count() == 3 && !addresses.contains("tentative")
        };
        let mut tries = 0;
        while !settled() {
            tries += 1;
            assert!(tries < 1200, "duplicate detection of link-local addresses should be over");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Node { node, router, state: tempfile::tempdir().unwrap() }
    }

    fn dir(&self) -> &Path {
        self.state.path()
    }

    fn take(&self) -> Result<Facts> {
        self.node.run(|| take_over("up0", self.dir()))
    }

    fn give(&self) -> Result<Restored> {
        self.node.run(|| restore(self.dir()))
    }

    /// Take-over, stopped after step `n`; the step's name, or `None` where there are fewer.
    fn take_until(&self, n: usize) -> Option<&'static str> {
        self.node.run(|| stop_after(n, |on_step| take_over_stepwise("up0", self.dir(), on_step).map(drop)))
    }

    fn give_until(&self, n: usize) -> Option<&'static str> {
        self.node.run(|| stop_after(n, |on_step| restore_stepwise(self.dir(), on_step).map(drop)))
    }

    /// All that iproute2, sysctl and nft say about the node, as a set of lines (the kernel's order of equals may differ).
    fn snapshot(&self) -> BTreeSet<String> {
        let lines: BTreeSet<String> = self.node.sh(SNAPSHOT).lines().map(|l| l.trim_end().to_string()).collect();
        // An observer that sees nothing would find everything unchanged.
        for wanted in
            ["addr other0     inet 198.51.100.1/24", "neigh", "default", "link ", "/proc/sys/net/ipv6/conf/up0"]
        {
            assert!(lines.iter().any(|l| l.starts_with(wanted)), "{wanted}: {lines:#?}");
        }
        lines
    }

    fn assert_as(&self, before: &BTreeSet<String>, when: &str) {
        // The kernel says a little later that a device is up: on a busy machine not at once.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let mut now = self.snapshot();
        while now != *before && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(50));
            now = self.snapshot();
        }
        let lost: Vec<_> = before.difference(&now).collect();
        let extra: Vec<_> = now.difference(before).collect();
        assert!(lost.is_empty() && extra.is_empty(), "{when}: lost {lost:#?}, extra {extra:#?}");
        let left: Vec<_> = std::fs::read_dir(self.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{when}: {left:?}");
    }
}

fn stop_after(n: usize, f: impl FnOnce(takeover::OnStep<'_>) -> Result<()>) -> Option<&'static str> {
    let (mut count, mut stopped) = (0, None);
    let result = f(&mut |step| {
        count += 1;
        if count > n {
            stopped = Some(step);
            return Err(Error::Invalid("killed by the test".into()));
        }
        Ok(())
    });
    match stopped {
        Some(_) => assert!(result.unwrap_err().to_string().contains("killed by the test")),
        None => result.unwrap(),
    }
    stopped
}

#[test]
fn the_host_port_has_what_the_uplink_had() {
    let node = Node::new();
    let before = node.snapshot();
    let facts = node.take().unwrap();
    assert_eq!((facts.mac, facts.mtu, facts.uplink.as_deref()), (Mac([2, 0, 0, 0, 0, 7]), 1480, Some("up0")));
    assert!(facts.addresses.contains(&"192.0.2.10/24".parse().unwrap()));
    let sh = |c: &str| node.node.sh(c);
    assert_eq!(sh("ip -o addr show dev up0; ip -o addr show dev podplane0-dp"), "", "no addresses");
    let link = sh("ip -d link show up0");
    assert!(link.contains("PROMISC") && link.contains("UP"), "{link}");
    let port = sh("ip addr show dev podplane0");
    for wanted in [
        "02:00:00:00:00:07",
        "mtu 1480",
        "192.0.2.10/24 brd 192.0.2.255",
        "secondary",
        "203.0.113.5/29",
        "10.5.0.1 peer 10.5.0.2",
        "2001:db8::10/64",
        "fe80::ff:fe00:7/64",
    ] {
        assert!(port.contains(wanted), "{wanted}: {port}");
    }
    assert!(!port.contains("tentative"), "{port}");
    let routes = sh("ip route show table all; ip -6 route show table all");
    assert!(!routes.contains("dev up0"), "{routes}");
    for wanted in [
        "default via 192.0.2.1 dev podplane0 src 192.0.2.10 metric 100 mtu 1400",
        "10.50.0.0/16 via 203.0.113.77 dev podplane0 table 77 onlink",
        "nexthop via 198.51.100.9 dev other0",
        "10.70.0.0/16 dev other0 scope link src 192.0.2.10",
        "10.80.0.0/16 via inet6 2001:db8::1 dev podplane0",
        "default via fe80::fe dev podplane0",
        "2001:db8:77::/48 via 2001:db8::1 dev podplane0 table 77",
    ] {
        assert!(routes.contains(wanted), "{wanted}: {routes}");
    }
    assert!(!node.router.ok("ping -c1 -W1 192.0.2.10"), "the kernel is deaf on the uplink");
    let sysctls = sh("cd /proc/sys/net/ipv4/conf/podplane0; cat accept_local rp_filter route_localnet");
    assert_eq!(sysctls.split_whitespace().collect::<Vec<_>>(), ["1", "0", "1"]);
    let drops = sh("nft list ruleset");
    assert!(drops.contains("\"up0\"") && drops.contains("\"podplane0-dp\"") && !drops.contains("\"podplane0\""));

    assert_eq!(node.take().unwrap(), facts, "a restarted dataplane adopts it");
    assert_eq!(node.give().unwrap(), Restored::GivenBack);
    node.assert_as(&before, "restored");
    assert_eq!(node.give().unwrap(), Restored::Nothing);
    assert!(node.router.ok("ping -c1 -W20 192.0.2.10 && ping -c1 -W20 2001:db8::10"));
}

#[test]
fn a_take_over_killed_anywhere_is_given_back() {
    let node = Node::new();
    let before = node.snapshot();
    let mut steps = 0;
    while let Some(step) = node.take_until(steps) {
        assert_eq!(node.give().unwrap(), Restored::GivenBack);
        node.assert_as(&before, &format!("killed after \"{step}\""));
        steps += 1;
    }
    assert!(steps >= 10, "{steps}");
    node.give().unwrap();
    node.assert_as(&before, "in the end");
}

#[test]
fn a_take_over_killed_anywhere_is_adopted() {
    let node = Node::new();
    let before = node.snapshot();
    node.take().unwrap();
    // A new veth pair has a new index and address on the dataplane's side.
    let strip = |s: BTreeSet<String>| -> BTreeSet<String> {
        s.into_iter().filter(|l| !l.contains("link/ether") && !l.contains("podplane0-dp")).collect()
    };
    let taken = strip(node.snapshot());
    node.give().unwrap();
    let mut steps = 0;
    while let Some(step) = node.take_until(steps) {
        node.take().unwrap();
        assert_eq!(strip(node.snapshot()), taken, "killed after \"{step}\"");
        node.give().unwrap();
        node.assert_as(&before, &format!("adopted after \"{step}\""));
        steps += 1;
    }
}

#[test]
fn a_restore_killed_anywhere_goes_on() {
    let node = Node::new();
    let before = node.snapshot();
    for steps in 0.. {
        node.take().unwrap();
        let step = node.give_until(steps);
        let done = matches!(step, None | Some("record removed"));
        let expected = if done { Restored::Nothing } else { Restored::GivenBack };
        assert_eq!(node.give().unwrap(), expected, "killed after {step:?}");
        node.assert_as(&before, &format!("killed after {step:?}"));
        if step.is_none() {
            break;
        }
        // A dataplane that comes in the middle of a restore that was killed.
        node.take().unwrap();
        node.give_until(steps);
        node.take().unwrap();
        assert!(!node.router.ok("ping -c1 -W0.1 192.0.2.10"));
        node.give().unwrap();
        node.assert_as(&before, &format!("taken again after {step:?}"));
    }
}

#[test]
fn what_cannot_be_an_uplink_is_refused_and_nothing_changed() {
    let node = Node::new();
    node.node.sh("ip link add br0 type bridge; ip link set other1 master br0");
    let before = node.snapshot();
    for (name, why) in [("nope", "there are: "), ("lo", "loopback"), ("other1", "belongs to br0")] {
        let error = node.node.run(|| take_over(name, node.dir())).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        node.assert_as(&before, name);
    }
    node.node.sh("ip link add podplane0 type veth peer name podplane0-dp");
    let error = node.take().unwrap_err().to_string();
    assert!(error.contains("ip link del podplane0"), "{error}");
}

#[test]
fn an_address_that_another_interface_has_is_refused() {
    let space = Space::new("taken");
    space.sh("ip link add a0 type veth peer name a1; ip addr add 192.0.2.77/24 dev a0");
    let state = tempfile::tempdir().unwrap();
    let spec = |address: &str| takeover::HostPortSpec {
        mac: Mac([2, 0, 0, 0, 0, 7]),
        mtu: 1500,
        addresses: vec![address.parse().unwrap()],
        routes: Vec::new(),
    };
    let error = space.run(|| takeover::create_host_port(&spec("192.0.2.77/32"), state.path())).unwrap_err().to_string();
    assert!(error.contains("192.0.2.77 is on a0 already") && error.contains("ip addr del"), "{error}");
    assert!(!space.ok("ip link show podplane0") && !takeover::record_path(state.path()).exists());
    // Its own from an earlier call is no other interface's.
    for _ in 0..2 {
        space.run(|| takeover::create_host_port(&spec("192.0.2.78/24"), state.path())).unwrap();
    }
    space.run(|| restore(state.path())).unwrap();
}

#[test]
fn records_that_do_not_fit() {
    let node = Node::new();
    let before = node.snapshot();
    // Another uplink is given back before the new one is taken.
    node.node.run(|| take_over("other0", node.dir())).unwrap();
    node.take().unwrap();
    assert_eq!(read_record(node.dir()).unwrap().unwrap().uplink.unwrap().name, "up0");
    node.give().unwrap();
    node.assert_as(&before, "other0, then up0");
    // A record from before the last start of the machine is not applied.
    node.take_until(0);
    let path = takeover::record_path(node.dir());
    let text = std::fs::read_to_string(&path).unwrap();
    let boot = read_record(node.dir()).unwrap().unwrap().boot_id;
    std::fs::write(&path, text.replace(&boot, "another")).unwrap();
    node.node.sh("ip addr add 192.0.2.77/24 dev up0");
    assert_eq!(node.give().unwrap(), Restored::Outdated);
    assert!(node.node.sh("ip addr show dev up0").contains("192.0.2.77"));
    // A damaged record is named, and not overwritten.
    std::fs::write(&path, "{").unwrap();
    for error in [node.give().map(drop), node.take().map(drop)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("uplink.json") && error.contains("damaged"), "{error}");
    }
    // An uplink that went: the host port goes, and the record.
    std::fs::remove_file(&path).unwrap();
    node.take().unwrap();
    node.node.sh("ip link del up0");
    assert_eq!(node.give().unwrap(), Restored::UplinkGone);
    assert_eq!(node.node.sh("nft list ruleset; ip link | grep podplane || true"), "");
}
