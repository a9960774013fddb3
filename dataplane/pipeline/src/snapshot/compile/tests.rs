use super::super::testing::{config, peer, pod};
use super::*;

fn refused(change: impl FnOnce(&mut SnapshotConfig)) -> SnapshotError {
    let mut c = config(2);
    c.ports.push(pod(2, 0));
    c.peers.push(peer(2));
    assert!(Snapshot::compile(&c, None).is_ok());
    change(&mut c);
    Snapshot::compile(&c, None).expect_err("must be refused")
}

#[test]
fn what_is_not_valid_is_refused_by_name() {
    use SnapshotError as E;
    let ip = |a: [u8; 4]| IpAddr::from(a);
    assert_eq!(refused(|c| c.workers = 0), E::Workers(0));
    assert_eq!(refused(|c| c.workers = 65), E::Workers(65));
    assert_eq!(refused(|c| c.ports[2].0 = PortId(1026)), E::PortOutOfRange(PortId(1026)));
    assert_eq!(refused(|c| c.ports.push(pod(2, 0))), E::PortTwice(PortId(2)));
    assert_eq!(refused(|c| c.ports[2].0 = PortId::HOST), E::PortClass(PortId::HOST, PortClass::Pod));
    assert_eq!(refused(|c| c.ports[2].1.home = WorkerId(2)), E::Home(PortId(2), WorkerId(2), 2));
    assert_eq!(refused(|c| c.ports[2].1.v4 = None), E::PortAddresses(PortId(2)));
    assert_eq!(refused(|c| c.ports[1].1.v4 = Some([10, 1, 1, 1].into())), E::PortAddresses(PortId::HOST));
    assert_eq!(refused(|c| c.ports[2].1.mtu = 500), E::Mtu("port PortId(2)".to_owned(), 500));
    assert_eq!(refused(|c| c.ports.retain(|(id, _)| *id != PortId::UPLINK)), E::NoUplink);
    let mut twin = pod(3, 0);
    twin.1.v4 = Some([10, 244, 1, 2].into());
    assert_eq!(refused(|c| c.ports.push(twin)), E::AddressTwice(ip([10, 244, 1, 2])));
    let mut gateway = pod(3, 0);
    gateway.1.v4 = Some([10, 244, 1, 1].into());
    assert_eq!(refused(|c| c.ports.push(gateway)), E::AddressTwice(ip([10, 244, 1, 1])));
    assert_eq!(refused(|c| c.peers.push(peer(2))), E::AddressTwice(ip([192, 0, 2, 2])));
    assert_eq!(refused(|c| c.peers.push(peer(1))), E::AddressTwice(ip([192, 0, 2, 1])));
    assert_eq!(refused(|c| c.peers[0].vtep = ip([127, 0, 0, 1])), E::AddressInvalid(ip([127, 0, 0, 1])));
    let v6: IpAddr = "2001:db8::1".parse().expect("an address");
    assert_eq!(refused(|c| c.peers[0].vtep = v6), E::VtepFamily(v6, ip([192, 0, 2, 1])));
    let overlap = Prefix { addr: ip([10, 244, 2, 128]), len: 25 };
    let mut other = peer(3);
    other.pod_cidrs = vec![overlap];
    assert_eq!(refused(|c| c.peers.push(other)), E::PrefixInvalid(overlap));
    let long = Prefix { addr: ip([10, 9, 0, 0]), len: 33 };
    assert_eq!(refused(|c| c.peers[0].pod_cidrs = vec![long]), E::PrefixInvalid(long));
    let stray = ip([192, 0, 2, 77]);
    assert_eq!(refused(|c| c.local.as_mut().expect("a node").vtep = stray), E::VtepNotLocal(stray));
}

#[test]
fn a_vtep_keeps_its_index_and_a_reused_one_is_stamped() {
    let mut c = config(1);
    c.peers = vec![peer(2), peer(3), peer(4)];
    let first = Snapshot::compile(&c, None).expect("valid");
    let of = |s: &Snapshot, last: u8| s.vteps().find(|(_, v)| v.addr == IpAddr::from([192, 0, 2, last])).map(|v| v.0);
    let (two, three, four) = (of(&first, 2), of(&first, 3), of(&first, 4));
    assert!(two.is_some() && two != three && three != four);
    // The order of peers does not matter, and one that goes leaves the others alone.
    c.peers = vec![peer(4), peer(3)];
    let second = Snapshot::compile(&c, Some(&first)).expect("valid");
    assert_eq!((of(&second, 2), of(&second, 3), of(&second, 4)), (None, three, four));
    c.peers.push(peer(5));
    let third = Snapshot::compile(&c, Some(&second)).expect("valid");
    assert_eq!(of(&third, 5), two, "the free index");
    let two = two.expect("an index");
    assert_eq!(third.changed().vtep(two), 3);
    assert_eq!(third.vtep(two).map(|v| v.since), Some(3));
    let three = three.expect("an index");
    assert_eq!(third.changed().vtep(three), 0, "nobody touched it");
    // Another MAC on the way changes no verdict.
    c.peers[1].next_hop = None;
    let fourth = Snapshot::compile(&c, Some(&third)).expect("valid");
    assert_eq!(fourth.changed().vtep(three), 0);
    assert_eq!(fourth.vtep(three).and_then(|v| v.next_hop), None);
}

#[test]
fn a_pod_that_comes_or_goes_is_stamped_and_its_neighbour_is_not() {
    let mut c = config(1);
    c.ports.push(pod(2, 0));
    let first = Snapshot::compile(&c, None).expect("valid");
    c.ports.push(pod(3, 0));
    let second = Snapshot::compile(&c, Some(&first)).expect("valid");
    let cells = second.changed();
    assert_eq!((cells.port(PortId(3)), cells.address(IpAddr::from([10, 244, 1, 3]))), (2, 2));
    assert_eq!(cells.port(PortId(2)), 0);
    assert_eq!(second.route([10, 244, 1, 3].into()), Some(NextHop::Local(PortId(3))));
    assert_eq!(second.route([10, 244, 1, 9].into()), Some(NextHop::Blackhole));
    assert_eq!(second.route([10, 244, 1, 1].into()), Some(NextHop::Gateway));
    assert_eq!(second.route([192, 0, 2, 1].into()), Some(NextHop::Host));
    assert_eq!(second.route([203, 0, 113, 1].into()), None);
    c.peers.push(peer(2));
    let third = Snapshot::compile(&c, Some(&second)).expect("valid");
    assert_eq!(third.changed().address(IpAddr::from([10, 244, 2, 77])), 3, "a whole range came: all is judged again");
}
