use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::snapshot::testing::{config, pod};
use crate::snapshot::{Prefix, Snapshot, SnapshotConfig, SnapshotError};

fn ip(last: u8) -> IpAddr {
    [10, 244, 1, last].into()
}

fn vip(last: u8) -> IpAddr {
    [10, 96, 0, last].into()
}

fn service(frontends: &[(IpAddr, u16)], backends: &[(u8, u16)]) -> ServiceConfig {
    let frontend = |(address, port): &(IpAddr, u16)| FrontendConfig {
        kind: FrontendKind::ClusterIp,
        address: *address,
        port: *port,
        inside: Choice::Set(0),
        outside: Choice::Set(0),
        sources: None,
    };
    ServiceConfig {
        protocol: Protocol::Tcp,
        affinity_seconds: None,
        sets: vec![backends.iter().map(|(last, port)| Backend { address: ip(*last), port: *port }).collect()],
        frontends: frontends.iter().map(frontend).collect(),
    }
}

fn with(services: &[(u32, ServiceConfig)]) -> SnapshotConfig {
    let mut c = config(2);
    c.ports.push(pod(2, 0));
    c.services = services.iter().map(|(id, s)| (ServiceId(*id), Arc::new(s.clone()))).collect();
    c
}

fn compile(c: &SnapshotConfig, before: Option<&Snapshot>) -> Snapshot {
    Snapshot::compile(c, before).expect("valid")
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    use SnapshotError as E;
    let good = service(&[(vip(1), 80)], &[(1, 80), (2, 80)]);
    let refused = |change: &dyn Fn(&mut ServiceConfig)| {
        let mut bad = good.clone();
        change(&mut bad);
        Snapshot::compile(&with(&[(7, bad)]), None).expect_err("must be refused")
    };
    let id = ServiceId(7);
    assert!(Snapshot::compile(&with(&[(7, good.clone())]), None).is_ok());
    let twice = with(&[(7, good.clone()), (8, good.clone())]);
    let error = Snapshot::compile(&twice, None).expect_err("must be refused");
    assert!(matches!(error, E::FrontendTwice(a, 80, Protocol::Tcp, _, _) if a == vip(1)), "{error}");
    assert_eq!(refused(&|s| s.frontends[0].port = 0), E::FrontendInvalid(id, vip(1), 0));
    assert_eq!(refused(&|s| s.frontends[0].inside = Choice::Set(1)), E::FrontendInvalid(id, vip(1), 80));
    let six: IpAddr = "fd00:96::1".parse().expect("an address");
    assert_eq!(refused(&|s| s.frontends[0].address = six), E::FrontendInvalid(id, six, 80));
    assert_eq!(refused(&|s| s.sets[0].swap(0, 1)), E::SetInvalid(id, 0));
    assert_eq!(refused(&|s| s.sets[0].clear()), E::SetInvalid(id, 0));
    let local = Backend { address: [169, 254, 1, 1].into(), port: 80 };
    assert_eq!(refused(&|s| s.sets[0] = vec![local]), E::BackendInvalid(id, local));
    let loops = Backend { address: [127, 0, 0, 1].into(), port: 80 };
    assert_eq!(refused(&|s| s.sets[0] = vec![loops]), E::BackendInvalid(id, loops));
    let long = Prefix { addr: vip(0), len: 33 };
    assert_eq!(refused(&|s| s.frontends[0].sources = Some(vec![long])), E::FrontendInvalid(id, vip(1), 80));
}

#[test]
fn equal_sets_share_a_table_and_unchanged_services_all() {
    let a = service(&[(vip(1), 80)], &[(1, 80), (2, 80)]);
    let b = service(&[(vip(1), 443)], &[(1, 8443), (2, 8443)]);
    let c = service(&[(vip(2), 80)], &[(1, 80), (3, 80)]);
    let mut wanted = with(&[(1, a), (2, b), (3, c.clone())]);
    let first = compile(&wanted, None);
    let table = |s: &Snapshot, address, port| match s.services().find(address, 6, port).map(|f| f.target(false)) {
        Some(Target::Set(set)) => Arc::as_ptr(&set.maglev),
        other => panic!("{other:?}"),
    };
    assert_eq!(table(&first, vip(1), 80), table(&first, vip(1), 443), "ports of one Service");
    assert_ne!(table(&first, vip(1), 80), table(&first, vip(2), 80));
    let mut grown = c;
    grown.sets[0].push(Backend { address: ip(4), port: 80 });
    wanted.services.insert(ServiceId(3), Arc::new(grown));
    let second = compile(&wanted, Some(&first));
    let at = |s: &Snapshot| s.services().find(vip(1), 6, 80).map(std::ptr::from_ref);
    assert_eq!(at(&first), at(&second), "shared");
    assert_ne!(table(&first, vip(2), 80), table(&second, vip(2), 80));
    assert!(Arc::ptr_eq(&first.vteps, &second.vteps) && Arc::ptr_eq(&first.ports, &second.ports));
}

#[test]
fn tables_take_no_more_memory_than_they_may() {
    let set = |backends: &[u8]| backends.iter().map(|b| (*b, 80)).collect::<Vec<_>>();
    // 251 places of two bytes for two backends.
    let mut wanted = SnapshotConfig { table_limit: Some(3 * 502), ..with(&[]) };
    for n in 1..=3u8 {
        wanted.services.insert(ServiceId(n.into()), Arc::new(service(&[(vip(n), 80)], &set(&[n, n + 1]))));
    }
    let first = compile(&wanted, None);
    assert_eq!(first.service_table_bytes(), 3 * 502);
    let mut more = wanted.clone();
    more.services.insert(ServiceId(4), Arc::new(service(&[(vip(4), 80)], &set(&[4, 5]))));
    let refused = Snapshot::compile(&more, Some(&first)).map(|s| s.generation());
    let full = SnapshotError::ServiceMemory { limit: 1506, has: 1506, backends: 2 };
    assert_eq!(refused, Err(full));
    // One that shares a table, and one that needs none to speak of another's place, are no more.
    more.services.insert(ServiceId(4), Arc::new(service(&[(vip(4), 80)], &set(&[1, 2]))));
    assert_eq!(compile(&more, Some(&first)).service_table_bytes(), 3 * 502);
    wanted.services.remove(ServiceId(3));
    let second = compile(&wanted, Some(&first));
    assert_eq!(second.service_table_bytes(), 3 * 502, "the former snapshot still has its own");
    drop(first);
    assert_eq!(second.service_table_bytes(), 2 * 502);
    wanted.services.insert(ServiceId(4), Arc::new(service(&[(vip(4), 80)], &set(&[4, 5]))));
    assert_eq!(compile(&wanted, Some(&second)).service_table_bytes(), 3 * 502);
}

#[test]
fn what_a_former_process_served_is_known_as_former() {
    let wanted = with(&[(1, service(&[(vip(1), 80)], &[(1, 80)]))]);
    let mut first = compile(&wanted, None);
    let node = first.local().expect("configured").vtep;
    assert!(!first.services().has_host_backends());
    let served = Served { frontends: vec![(vip(1), 6, 80), (vip(2), 17, 53)], host_backends: vec![(node, 6, 9090)] };
    first.remember(&served);
    assert!(!first.services().was_frontend(vip(1), 6, 80), "it is one");
    assert!(first.services().has_host_backends() && first.services().is_host_backend(node, 6, 9090));
    let second = compile(&with(&[]), Some(&first));
    for s in [&first, &second] {
        assert!(s.services().was_frontend(vip(2), 17, 53) && s.services().has_address(vip(2)));
    }
}

#[test]
fn what_changed_is_stamped_and_nothing_else() {
    let mut wanted =
        with(&[(1, service(&[(vip(1), 80)], &[(1, 80), (2, 80)])), (2, service(&[(vip(2), 80)], &[(3, 80)]))]);
    let first = compile(&wanted, None);
    // An endpoint in the place of another.
    wanted.services.insert(ServiceId(1), Arc::new(service(&[(vip(1), 80)], &[(1, 80), (9, 80)])));
    let second = compile(&wanted, Some(&first));
    let stamp = |s: &Snapshot, a| s.changed().address(a);
    assert_eq!((stamp(&second, ip(2)), stamp(&second, ip(9))), (2, 2));
    assert_eq!((stamp(&second, vip(1)), stamp(&second, ip(1)), stamp(&second, vip(2))), (0, 0, 0));
    // No endpoint.
    let mut none = service(&[(vip(1), 80)], &[(1, 80)]);
    none.sets.clear();
    (none.frontends[0].inside, none.frontends[0].outside) = (Choice::Reject, Choice::Reject);
    wanted.services.insert(ServiceId(1), Arc::new(none));
    let third = compile(&wanted, Some(&second));
    assert_eq!((stamp(&third, vip(1)), stamp(&third, vip(2))), (3, 0));
    // Gone.
    wanted.services.remove(ServiceId(2));
    let fourth = compile(&wanted, Some(&third));
    assert_eq!(stamp(&fourth, vip(2)), 4);
    assert!(fourth.services().find(vip(2), 6, 80).is_none() && fourth.services().was_frontend(vip(2), 6, 80));
    assert!(third.services().is_cluster_ip(vip(2)) && !fourth.services().is_cluster_ip(vip(2)));
}

#[test]
fn a_frontend_moves_between_services_and_hits_stay_with_their_service() {
    let mut wanted = with(&[(1, service(&[(vip(1), 80)], &[(1, 80)])), (2, service(&[(vip(2), 80)], &[(2, 80)]))]);
    let first = compile(&wanted, None);
    let hits = |s: &Snapshot, address| s.frontends().find(|f| f.address == address).map(|f| f.hits);
    for worker in [0, 1, 1] {
        first.services().find(vip(1), 6, 80).expect("there").hit(WorkerId(worker));
    }
    wanted.services.insert(ServiceId(1), Arc::new(service(&[(vip(1), 80)], &[(1, 80), (2, 80)])));
    let second = compile(&wanted, Some(&first));
    assert_eq!((hits(&second, vip(1)), hits(&second, vip(2))), (Some(3), Some(0)));
    wanted.services.insert(ServiceId(1), Arc::new(service(&[(vip(2), 80)], &[(1, 80)])));
    wanted.services.insert(ServiceId(2), Arc::new(service(&[(vip(1), 80)], &[(2, 80)])));
    let third = compile(&wanted, Some(&second));
    assert_eq!(hits(&third, vip(1)), Some(0), "another Service's now");
    assert_eq!(third.changed().address(vip(1)), 3);
    // A refused configuration leaves nothing behind.
    let mut bad = wanted.clone();
    bad.services.insert(ServiceId(3), Arc::new(service(&[(vip(1), 80)], &[(2, 80)])));
    assert!(Snapshot::compile(&bad, Some(&third)).is_err());
    assert_eq!(compile(&wanted, Some(&third)).frontends().count(), 2);
}
