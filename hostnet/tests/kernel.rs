//! Links, addresses, routes, rules, neighbours, offloads, events and ingress drop against a real kernel.
#![allow(missing_docs)]

mod common;

use std::{
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use common::Space;
use nix::poll::{PollFd, PollFlags, poll};
use podplane_hostnet::{
    Address, LinkChange, Mac, NeighState, Netns, Peer, Route, Rule, Veth,
    ethtool::{Ethtool, NOT_IN_VIRTIO},
    events::{Event, Events, Interest},
    ingress_drop, node_routes,
    node_rules::{self, NodeRules, Served},
    reserved_ports, routes, sysctl,
    takeover::{self, HostPortSpec},
};

fn pair(near: &mut Space, far: &mut Space) -> (u32, u32) {
    let peer = Peer { name: "eth0", mac: Some(Mac([2, 0, 0, 0, 0, 2])), netns: Some(&far.netns) };
    near.netlink.create_veth(&Veth { name: "v0", mac: Some(Mac([2, 0, 0, 0, 0, 1])), mtu: Some(1450), peer }).unwrap();
    let (a, b) = (near.netlink.need_link("v0").unwrap().index, far.netlink.need_link("eth0").unwrap().index);
    near.netlink.set_up(a, true).unwrap();
    far.netlink.set_up(b, true).unwrap();
    (a, b)
}

#[test]
fn links() {
    let (mut near, mut far) = (Space::new("near"), Space::new("far"));
    let (a, b) = pair(&mut near, &mut far);
    let link = near.netlink.link("v0").unwrap().unwrap();
    assert_eq!((link.mac, link.mtu, link.up), (Some(Mac([2, 0, 0, 0, 0, 1])), 1450, true));
    assert_eq!((link.kind.as_deref(), link.link), (Some("veth"), Some(b)));
    assert_eq!(near.netlink.link("nope").unwrap(), None);
    assert_eq!(near.netlink.link_by_index(9999).unwrap(), None);
    assert!(near.netlink.link("a/b").is_err());
    let again = Peer { name: "eth1", mac: None, netns: None };
    let taken = near.netlink.create_veth(&Veth { name: "v0", mac: None, mtu: None, peer: again }).unwrap_err();
    assert!(taken.is_exists(), "{taken}");
    assert_eq!(near.netlink.link("eth1").unwrap(), None);

    near.netlink.create_bridge("br0").unwrap();
    let bridge = near.netlink.need_link("br0").unwrap();
    let change =
        LinkChange { master: Some(bridge.index), mtu: Some(1400), promiscuous: Some(true), ..LinkChange::default() };
    near.netlink.change_link(a, &change).unwrap();
    let link = near.netlink.link_by_index(a).unwrap().unwrap();
    assert_eq!((link.master, link.mtu, link.promiscuous), (Some(bridge.index), 1400, true));
    near.netlink.change_link(a, &LinkChange { master: Some(0), up: Some(false), ..LinkChange::default() }).unwrap();
    near.netlink.change_link(a, &LinkChange { name: Some("renamed"), ..LinkChange::default() }).unwrap();
    let sizes = LinkChange { gso_max_size: Some(32_000), gso_max_segs: Some(20), ..LinkChange::default() };
    near.netlink.change_link(a, &sizes).unwrap();
    let shown = near.sh("ip -d link show renamed");
    assert!(shown.contains("gso_max_size 32000") && shown.contains("gso_max_segs 20"), "{shown}");
    let to_far = LinkChange::default().into_netns(&far.netns);
    near.netlink.change_link(a, &to_far).unwrap();
    assert_eq!(near.netlink.link("renamed").unwrap(), None);
    assert!(far.netlink.link("renamed").unwrap().is_some());
    far.netlink.delete_link("renamed").unwrap();
    far.netlink.delete_link("renamed").unwrap();
    assert_eq!(far.netlink.link("eth0").unwrap(), None);
}

#[test]
fn addresses_routes_rules_neighbours() {
    let (mut near, mut far) = (Space::new("near"), Space::new("far"));
    let (a, b) = pair(&mut near, &mut far);
    for (space, index, v4, v6) in
        [(&mut near, a, "10.9.0.1/24", "fd09::1/64"), (&mut far, b, "10.9.0.2/24", "fd09::2/64")]
    {
        for net in [v4, v6] {
            space.netlink.add_address(&Address::new(index, net.parse().unwrap())).unwrap();
        }
    }
    assert!(near.ok("ping -c1 -W20 10.9.0.2 && ping -c1 -W20 fd09::2"), "no duplicate detection to wait for");
    for (address, is_known) in [("10.9.0.2", true), ("fd09::2", true), ("10.9.0.3", false), ("fd09::3", false)] {
        let known = near.netlink.neighbour(a, address.parse().unwrap()).unwrap();
        assert_eq!(known.is_some_and(|n| n.state == NeighState::Valid && n.mac.is_some()), is_known, "{address}");
    }
    let mut present = near.netlink.addresses(Some(a)).unwrap();
    present.retain(|x| x.net == "fd09::1/64".parse().unwrap());
    assert_eq!(present.len(), 1);
    near.netlink.delete_address(&present[0]).unwrap();
    near.netlink.delete_address(&present[0]).unwrap();
    assert!(!near.sh("ip -6 addr show dev v0").contains("fd09::1"));

    let gateway: IpAddr = "169.254.1.1".parse().unwrap();
    let route = Route::new("10.77.0.0/16".parse().unwrap(), a)
        .via(gateway, true)
        .from_source(Some("10.9.0.1".parse().unwrap()));
    near.netlink.add_route(&route.clone().with_mtu(Some(1400))).unwrap();
    assert!(near.netlink.add_route(&route).unwrap_err().is_exists());
    let shown = near.sh("ip route show 10.77.0.0/16");
    assert_eq!(shown.trim(), "10.77.0.0/16 via 169.254.1.1 dev v0 proto 80 src 10.9.0.1 onlink mtu 1400");
    let got = near.netlink.route_to("10.77.3.4".parse().unwrap(), None).unwrap();
    assert_eq!(
        (got.hops[0].gateway, got.hops[0].index, got.src),
        (Some(gateway), a, Some("10.9.0.1".parse().unwrap()))
    );
    let nowhere = near.netlink.route_to("203.0.113.1".parse().unwrap(), None).unwrap_err();
    assert_eq!(nowhere.errno(), Some(libc::ENETUNREACH), "{nowhere}");
    near.sh("ip route add blackhole 203.0.113.0/24");
    assert!(nowhere.is_unreachable());
    assert!(near.netlink.route_to("203.0.113.1".parse().unwrap(), None).unwrap_err().is_unreachable());
    near.netlink.replace_route(&Route { table: 100, ..route.clone() }).unwrap();
    assert!(near.netlink.routes().unwrap().iter().any(|r| r.table == 100 && r.dst == route.dst));
    near.netlink.delete_route(&route).unwrap();
    near.netlink.delete_route(&route).unwrap();
    assert_eq!(near.sh("ip route show 10.77.0.0/16"), "");
    near.sh("ip route add 10.78.0.0/16 nexthop via 10.9.0.2 dev v0 weight 3 nexthop via 10.9.0.3 dev v0");
    let all = near.netlink.routes().unwrap();
    let multipath = all.iter().find(|r| r.dst == "10.78.0.0/16".parse().unwrap()).unwrap().clone();
    let before = near.sh("ip route show 10.78.0.0/16");
    near.netlink.delete_route(&multipath).unwrap();
    near.netlink.append_route(&multipath).unwrap();
    assert_eq!(near.sh("ip route show 10.78.0.0/16"), before);

    let mut rule = Rule::new(false, 50, 100);
    (rule.dst, rule.iif) = (Some("10.9.0.1/32".parse().unwrap()), Some("lo".into()));
    (rule.ip_proto, rule.dports) = (Some(6), Some((30000, 32767)));
    near.netlink.add_rule(&rule).unwrap();
    near.netlink.add_rule(&rule).unwrap();
    let shown = near.sh("ip rule show pref 50");
    let wanted = "50:\tfrom all to 10.9.0.1 iif lo ipproto tcp dport 30000-32767 lookup 100 proto 80";
    assert_eq!(shown.trim(), wanted);
    assert!(near.netlink.rules().unwrap().contains(&rule));
    near.netlink.delete_rule(&rule).unwrap();
    near.netlink.delete_rule(&rule).unwrap();
    assert_eq!(near.sh("ip rule show pref 50"), "");

    near.netlink.set_permanent_neighbour(a, gateway, Mac::GATEWAY).unwrap();
    let wanted: IpAddr = "10.9.0.2".parse().unwrap();
    near.netlink.delete_neighbour(a, wanted).unwrap();
    near.netlink.manage_neighbour(a, wanted).unwrap();
    let resolved = wait(|| {
        let all = near.netlink.neighbours(Some(a)).unwrap();
        assert!(
            all.iter().any(|n| n.address == gateway && n.state == NeighState::Permanent && n.mac == Some(Mac::GATEWAY))
        );
        all.into_iter().find(|n| n.address == wanted && n.state == NeighState::Valid)
    });
    assert_eq!((resolved.mac, resolved.managed), (Some(Mac([2, 0, 0, 0, 0, 2])), true));
    near.netlink.delete_neighbour(a, wanted).unwrap();
}

fn wait<T>(mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = f() {
            return value;
        }
        assert!(Instant::now() < end, "it did not happen within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn events_arrive_on_a_descriptor() {
    let (mut near, mut far) = (Space::new("near"), Space::new("far"));
    let interest = Interest::LINKS | Interest::NEIGHBOURS | Interest::ROUTES;
    let mut events = near.run(move || Events::subscribe(interest)).unwrap();
    assert_eq!(events.pending().unwrap(), []);
    let (a, _) = pair(&mut near, &mut far);
    near.netlink.set_permanent_neighbour(a, "10.1.1.1".parse().unwrap(), Mac::GATEWAY).unwrap();
    near.netlink.add_route(&Route::new("10.1.0.0/16".parse().unwrap(), a)).unwrap();
    near.netlink.delete_link("v0").unwrap();
    let (mut link, mut neighbour, mut route, mut gone) = (false, false, false, false);
    while !(link && neighbour && route && gone) {
        let ready = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], 60_000u16).unwrap();
        assert_eq!(ready, 1, "link {link} neighbour {neighbour} route {route} gone {gone}");
        for event in events.pending().unwrap() {
            match event {
                Event::Link(l) => link |= l.name == "v0" && l.up,
                Event::LinkGone(l) => gone |= l.index == a,
                Event::Neighbour(n) => neighbour |= n.mac == Some(Mac::GATEWAY),
                Event::RoutesChanged { protocol, gone: false } => route |= protocol == routes::PROTO_PODPLANE,
                _ => {}
            }
        }
    }
}

#[test]
fn offloads_that_virtio_cannot_say_are_off() {
    let (mut near, mut far) = (Space::new("near"), Space::new("far"));
    pair(&mut near, &mut far);
    let mut ethtool = Ethtool::open_in(&far.netns).unwrap();
    let before = ethtool.active_features("eth0").unwrap();
    assert!(before.iter().any(|f| f == "tx-gre-segmentation"), "{before:?}");
    ethtool.keep_to_virtio("eth0").unwrap();
    let after = ethtool.active_features("eth0").unwrap();
    assert!(!after.iter().any(|f| NOT_IN_VIRTIO.contains(&f.as_str())), "{after:?}");
    assert!(after.iter().any(|f| f == "tx-tcp-segmentation"), "TCP stays: {after:?}");
    // A name that no kernel knows is skipped, the others are applied.
    ethtool.set_features("eth0", &[("no-such-feature", true), ("tx-gre-segmentation", true)]).unwrap();
    assert!(ethtool.active_features("eth0").unwrap().iter().any(|f| f == "tx-gre-segmentation"));
    let error = ethtool.keep_to_virtio("eth9").unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("eth9"), "{error}");
}

#[test]
fn ingress_drop_deafens_the_kernel() {
    let (mut near, mut far) = (Space::new("near"), Space::new("far"));
    let (a, b) = pair(&mut near, &mut far);
    near.netlink.add_address(&Address::new(a, "10.9.0.1/24".parse().unwrap())).unwrap();
    far.netlink.add_address(&Address::new(b, "10.9.0.2/24".parse().unwrap())).unwrap();
    assert!(far.ok("ping -c1 -W20 10.9.0.1"));
    for _ in 0..2 {
        near.run(|| ingress_drop::add("v0")).unwrap();
    }
    assert!(near.sh("nft list ruleset").contains("policy drop"));
    assert!(!far.ok("ping -c1 -W1 10.9.0.1"));
    near.sh("ip link add d1 type veth peer name d2");
    near.run(|| ingress_drop::add("d1")).unwrap();
    assert_eq!(near.run(|| ingress_drop::list().unwrap().len()), 2);
    near.run(|| ingress_drop::remove("v0")).unwrap();
    assert!(far.ok("ping -c1 -W20 10.9.0.1"));
    assert!(near.run(|| ingress_drop::is_on("d1")).unwrap());
    near.run(|| ingress_drop::remove("d1").and_then(|()| ingress_drop::remove("d1"))).unwrap();
    assert_eq!(near.sh("nft list ruleset"), "", "the table goes with its last chain");
    let error = near.run(|| ingress_drop::add("nope")).unwrap_err();
    assert!(error.to_string().contains("nope"), "{error}");
    assert_eq!(near.sh("nft list ruleset"), "", "nothing half-done");
}

#[test]
fn a_chain_of_a_device_that_went_is_made_anew() {
    let (mut near, mut far) = (Space::new("near"), Space::new("far"));
    pair(&mut near, &mut far);
    near.run(|| ingress_drop::add("v0")).unwrap();
    near.netlink.delete_link("v0").unwrap();
    let (a, b) = pair(&mut near, &mut far);
    near.netlink.add_address(&Address::new(a, "10.9.0.1/24".parse().unwrap())).unwrap();
    far.netlink.add_address(&Address::new(b, "10.9.0.2/24".parse().unwrap())).unwrap();
    near.run(|| ingress_drop::add("v0")).unwrap();
    assert!(!far.ok("ping -c1 -W1 10.9.0.1"));
}

#[test]
fn many_processes_share_the_drop_table() {
    let near = Space::new("near");
    near.sh("for i in 0 1 2 3; do ip link add d$i type veth peer name e$i; done");
    std::thread::scope(|scope| {
        for i in 0..4 {
            let netns = &near.netns;
            scope.spawn(move || {
                let name = format!("d{i}");
                netns
                    .run(|| {
                        for _ in 0..15 {
                            ingress_drop::add(&name).unwrap();
                            assert!(ingress_drop::is_on(&name).unwrap(), "deleted under our feet");
                            ingress_drop::remove(&name).unwrap();
                        }
                    })
                    .unwrap();
            });
        }
    });
    assert_eq!(near.sh("nft list ruleset"), "");
}

#[test]
fn namespaces() {
    let space = Space::new("ns");
    assert!(Netns::list("pp-hostnet-ns").unwrap().contains(&space.name));
    assert!(Netns::create(&space.name).is_err(), "the name is taken");
    assert!(Netns::create("../evil").is_err());
    let here = Netns::current().unwrap();
    assert!(!here.same_as(&space.netns).unwrap());
    assert!(space.run(|| Netns::current().unwrap()).same_as(&space.netns).unwrap());
    assert!(Netns::open("/etc/hostname").is_err(), "not a namespace");
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(space.netns.path(), &link).unwrap();
    assert!(Netns::open(&link).is_ok());
    assert!(Netns::open_nofollow(&link).is_err(), "a link is not followed");
    assert!(Netns::open_nofollow("/proc/self/ns/net").is_ok());
    assert!(space.run(|| sysctl::get(sysctl::Family::V4, "lo", "rp_filter")).unwrap().is_some());
}

#[test]
fn node_routes_touch_only_what_differs() {
    let mut space = Space::new("routes");
    let state = tempfile::tempdir().unwrap();
    let missing = node_routes::ensure(&mut space.netlink, &Default::default()).unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let spec = HostPortSpec {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        mtu: 1500,
        addresses: vec!["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()],
        routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), 0).via("192.0.2.1".parse().unwrap(), false)],
    };
    let facts = space.run(|| takeover::create_host_port(&spec, state.path())).unwrap();
    assert_eq!((facts.uplink, facts.mac, facts.mtu), (None, spec.mac, 1500));
    let again = space.run(|| takeover::create_host_port(&spec, state.path())).unwrap();
    assert_eq!(again.host_port_index, facts.host_port_index, "made once");
    assert!(space.sh("ip route show default").contains("via 192.0.2.1 dev podplane0"));

    let mut wanted = node_routes::NodeRoutes {
        prefixes: ["10.244.0.0/24", "10.244.1.0/24", "fd00:1::/64", "fd00:2::/64"].map(|p| p.parse().unwrap()).to_vec(),
        source_v4: Some("192.0.2.10".parse().unwrap()),
        source_v6: Some("2001:db8::10".parse().unwrap()),
        mtu: Some(1450),
    };
    let changed = node_routes::ensure(&mut space.netlink, &wanted).unwrap();
    // Of each prefix a route for what the node sends and one for what it forwards; of each family a rule.
    assert_eq!((changed.set, changed.removed, changed.neighbours), (2 * 4 + 2, 0, 4));
    assert_eq!(node_routes::ensure(&mut space.netlink, &wanted).unwrap(), Default::default());
    let shown = space.sh("ip route get 10.244.1.7; ip -6 route get fd00:2::7; ip neigh show dev podplane0");
    assert!(shown.contains("via 169.254.1.1 dev podplane0 table 101 src 192.0.2.10"), "{shown}");
    assert!(
        shown.contains("via fe80::50:50ff:fe00:1 dev podplane0 table 101") && shown.contains("src 2001:db8::10"),
        "{shown}"
    );
    assert!(shown.contains("fe80::50:50ff:fe00:1 lladdr 02:50:50:00:00:01 PERMANENT"), "{shown}");
    assert!(!shown.contains("fe80::1 "), "which may be the node's real router: {shown}");
    space.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    space.sh(
        "ip link add c0 type veth peer name c1; ip link set c0 up; ip link set c1 up; ip addr add 172.17.0.1/16 dev c0",
    );
    space.sh("ip addr add fd00:17::1/64 dev c0 nodad");
    let forwarded = "ip route get 10.244.1.7 from 172.17.0.2 iif c0; ip -6 route get fd00:2::7 from fd00:17::2 iif c0";
    let shown = space.sh(&format!("{forwarded}; ip neigh show dev podplane0"));
    assert!(shown.contains("via 169.254.1.2 dev podplane0"), "{shown}");
    assert!(shown.contains("via fe80::50:50ff:fe00:2 dev podplane0"), "{shown}");
    assert!(shown.contains("169.254.1.2 lladdr 02:50:50:00:00:02 PERMANENT"), "{shown}");
    assert!(shown.contains("fe80::50:50ff:fe00:2 lladdr 02:50:50:00:00:02 PERMANENT"), "{shown}");
    // Whatever others have the main table asked for: their rules lie behind.
    space.sh("ip rule add pref 200 lookup main suppress_prefixlength 0; ip rule add pref 201 lookup 7");
    assert!(space.sh("ip route get 10.244.1.7").contains("via 169.254.1.1 dev podplane0 table 101"));
    // Without our rule nothing is the node's.
    space.sh("ip rule del pref 104");
    assert!(space.sh("ip route get 10.244.1.7").contains("via 169.254.1.2"));
    let changed = node_routes::ensure(&mut space.netlink, &wanted).unwrap();
    assert_eq!((changed.set, changed.removed, changed.neighbours), (1, 0, 0));
    space.sh("ip rule del pref 200; ip rule del pref 201; ip link del c0");

    wanted.prefixes.remove(1);
    wanted.prefixes.push("10.244.9.0/24".parse().unwrap());
    space.sh(
        "ip route del 10.244.0.0/24; ip neigh del 169.254.1.1 dev podplane0; ip route add 10.250.0.0/16 dev podplane0",
    );
    let changed = node_routes::ensure(&mut space.netlink, &wanted).unwrap();
    assert_eq!((changed.set, changed.removed, changed.neighbours), (3, 2, 1));
    wanted.source_v4 = None;
    let changed = node_routes::ensure(&mut space.netlink, &wanted).unwrap();
    assert_eq!((changed.set, changed.removed), (4, 0));
    node_routes::remove_all(&mut space.netlink).unwrap();
    assert_eq!(
        space.sh("ip route show proto 80 table all; ip -6 route show proto 80 table all; ip neigh show nud permanent"),
        ""
    );
    assert!(!space.sh("ip rule; ip -6 rule").contains("lookup 101"));
    assert!(space.sh("ip route").contains("10.250.0.0/16"), "not ours");
    assert_eq!(space.run(|| takeover::restore(state.path())).unwrap(), takeover::Restored::GivenBack);
    assert_eq!(space.sh("nft list ruleset; ip link | grep podplane || true"), "");
}

#[test]
fn node_rules_lead_own_addresses_to_the_host_port_and_go_again() {
    let mut space = Space::new("rules");
    let state = tempfile::tempdir().unwrap();
    let missing = node_rules::ensure(&mut space.netlink, &NodeRules::default()).unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let before = space.sh("ip rule; ip -6 rule");
    let spec = HostPortSpec {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        mtu: 1500,
        addresses: vec!["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()],
        routes: Vec::new(),
    };
    space.run(|| takeover::create_host_port(&spec, state.path())).unwrap();
    let served = |address: &str, protocol, ports| Served { address: address.parse().unwrap(), protocol, ports };
    let mut wanted = NodeRules {
        served: vec![
            served("192.0.2.10", 6, (30_000, 32_767)),
            served("192.0.2.10", 17, (30_000, 32_767)),
            served("2001:db8::10", 6, (30_000, 32_767)),
            served("127.0.0.1", 17, (8080, 8080)),
            served("192.0.2.10", 132, (5000, 5000)),
        ],
        source_v4: Some("192.0.2.10".parse().unwrap()),
        source_v6: Some("2001:db8::10".parse().unwrap()),
        mtu: Some(1450),
        ..NodeRules::default()
    };
    let changed = node_rules::ensure(&mut space.netlink, &wanted).unwrap();
    // Of each family a neighbour, a default route, and the local rule made there and removed here; five rules.
    assert_eq!((changed.set, changed.removed), (2 * 4 + 5, 0));
    assert_eq!(node_rules::ensure(&mut space.netlink, &wanted).unwrap(), node_rules::Changed::default());
    let rules = space.sh("ip rule");
    // The kernel answers no "route get" for it.
    assert!(rules.contains("to 192.0.2.10 iif lo ipproto sctp dport 5000 lookup 100 proto 80"), "{rules}");
    assert!(rules.starts_with("90:\t") && rules.contains("100:\tfrom all lookup local proto 80"), "{rules}");
    let way = |space: &Space, what: &str| space.sh(&format!("ip route get {what} || true"));
    for (what, through) in [
        ("192.0.2.10 ipproto tcp dport 30080", true),
        ("192.0.2.10 ipproto udp dport 32767", true),
        ("192.0.2.10 ipproto tcp dport 32768", false),
        ("192.0.2.10 ipproto tcp dport 22", false),
        ("2001:db8::10 ipproto tcp dport 30080", true),
        ("2001:db8::10 ipproto tcp dport 22", false),
        ("127.0.0.1 ipproto udp dport 8080", true),
        ("127.0.0.1 ipproto tcp dport 8080", false),
    ] {
        assert_eq!(way(&space, what).contains("dev podplane0 table 100"), through, "{what}: {}", way(&space, what));
    }
    // What the host port brings is delivered.
    let inward = way(&space, "192.0.2.10 from 192.0.2.77 iif podplane0 ipproto tcp dport 30080");
    assert!(inward.contains("local 192.0.2.10"), "{inward}");

    // Somebody undoes it; something is not wanted any more; something of somebody else is there.
    space.sh(
        "ip rule del pref 100; ip rule add pref 0 lookup local; ip route flush table 100; ip rule add pref 95 lookup 7",
    );
    wanted.served.remove(0);
    let changed = node_rules::ensure(&mut space.netlink, &wanted).unwrap();
    assert_eq!((changed.set, changed.removed), (2 + 1, 1), "the local rule's move, the IPv4 default");
    assert!(!way(&space, "192.0.2.10 ipproto tcp dport 30080").contains("podplane0"));
    assert!(way(&space, "192.0.2.10 ipproto udp dport 30080").contains("podplane0"));

    node_rules::remove_all(&mut space.netlink).unwrap();
    node_rules::remove_all(&mut space.netlink).unwrap();
    space.sh("ip rule del pref 95");
    assert_eq!(space.sh("ip rule; ip -6 rule"), before);
    assert_eq!(space.sh("ip route show table 100; ip -6 route show table 100"), "");
    space.run(|| takeover::restore(state.path())).unwrap();
}

#[test]
fn nobody_is_forwarded_under_an_own_ipv6_address() {
    let mut space = Space::new("guard");
    let state = tempfile::tempdir().unwrap();
    let before = space.sh("ip rule; ip -6 rule");
    let spec = HostPortSpec {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        mtu: 1500,
        addresses: vec!["2001:db8::10/64".parse().unwrap()],
        routes: Vec::new(),
    };
    space.run(|| takeover::create_host_port(&spec, state.path())).unwrap();
    space.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    space.sh("ip link add c0 type veth peer name c1; ip link set c0 up; ip link set c1 up");
    space.sh("ip addr add 2001:db8:c::1/64 dev c0 nodad; ip -6 route add 2001:db8:44::/64 dev podplane0");
    let own = |all: &[&str]| all.iter().map(|a| a.parse().unwrap()).collect();
    let mut wanted = NodeRules { own_v6: own(&["2001:db8::10", "2001:db8:c::1"]), ..NodeRules::default() };
    let passes = |space: &Space, what: &str| {
        let way = space.sh(&format!("ip -6 route get 2001:db8:44::5 {what} 2>&1 || true"));
        way.contains("dev podplane0") && !way.contains("blackhole")
    };
    assert!(passes(&space, "from 2001:db8::10 iif c0"), "the kernel takes it for nothing strange");
    // Of each family the local rule made there and removed here.
    let changed = node_rules::ensure(&mut space.netlink, &wanted).unwrap();
    assert_eq!((changed.set, changed.removed), (2 * 2 + 4, 0), "{}", space.sh("ip -6 rule"));
    assert_eq!(node_rules::ensure(&mut space.netlink, &wanted).unwrap(), node_rules::Changed::default());
    assert!(!passes(&space, "from 2001:db8::10 iif c0") && !passes(&space, "from 2001:db8:c::1 iif c0"));
    assert!(passes(&space, "from 2001:db8:c::2 iif c0"), "others are forwarded");
    assert!(passes(&space, "from 2001:db8::10") && passes(&space, ""), "the node itself sends");
    let inward = space.sh("ip -6 route get 2001:db8::10 from 2001:db8:c::1 iif podplane0");
    assert!(inward.contains("local 2001:db8::10"), "what the host port brings is delivered: {inward}");
    wanted.own_v6.pop();
    let changed = node_rules::ensure(&mut space.netlink, &wanted).unwrap();
    assert_eq!((changed.set, changed.removed), (0, 1));
    assert!(passes(&space, "from 2001:db8:c::1 iif c0") && !passes(&space, "from 2001:db8::10 iif c0"));
    wanted.own_v6.clear();
    assert_eq!(node_rules::ensure(&mut space.netlink, &wanted).unwrap().removed, 3);
    node_rules::remove_all(&mut space.netlink).unwrap();
    assert_eq!(space.sh("ip rule; ip -6 rule"), before);
    space.run(|| takeover::restore(state.path())).unwrap();
}

#[test]
fn ports_are_reserved_beside_others_and_given_back() {
    let space = Space::new("reserved");
    let state = tempfile::tempdir().unwrap();
    let now = |space: &Space| space.sh("cat /proc/sys/net/ipv4/ip_local_reserved_ports").trim().to_owned();
    let ensure = |space: &Space, ports| space.run(|| reserved_ports::ensure(state.path(), ports)).unwrap();
    space.sh("echo 8080,50000-50009 > /proc/sys/net/ipv4/ip_local_reserved_ports");
    assert!(ensure(&space, (49_152, 65_535)));
    assert!(!ensure(&space, (49_152, 65_535)));
    assert_eq!(now(&space), "8080,49152-65535");
    // Other settings, and somebody who empties it.
    assert!(ensure(&space, (60_000, 65_535)));
    assert_eq!(now(&space), "8080,50000-50009,60000-65535");
    space.sh("echo 9090 > /proc/sys/net/ipv4/ip_local_reserved_ports");
    assert!(ensure(&space, (60_000, 65_535)));
    assert_eq!(now(&space), "9090,60000-65535");
    space.run(|| reserved_ports::remove(state.path())).unwrap();
    space.run(|| reserved_ports::remove(state.path())).unwrap();
    assert_eq!(now(&space), "9090");
    space.sh("echo > /proc/sys/net/ipv4/ip_local_reserved_ports");
    assert!(ensure(&space, (60_000, 65_535)));
    space.run(|| reserved_ports::remove(state.path())).unwrap();
    assert_eq!(now(&space), "", "nothing was there, and nothing stays");
}
