//! The forwarding table against a linear scan.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The slow oracle: all routes, one after the other.
fn linear(routes: &[Route], addr: IpAddr) -> Option<NextHop> {
    let bits = |a: IpAddr| match a {
        IpAddr::V4(a) => (u128::from(u32::from(a)) << 96, true),
        IpAddr::V6(a) => (u128::from(a), false),
    };
    let (wanted, v4) = bits(addr);
    let matching = routes.iter().filter(|(a, len, _)| {
        let (route, route4) = bits(*a);
        route4 == v4 && (route ^ wanted).checked_shr(128 - u32::from(*len)).unwrap_or(0) == 0
    });
    matching.max_by_key(|r| r.1).map(|r| r.2)
}

fn hop() -> impl Strategy<Value = NextHop> {
    prop_oneof![
        (0u16..1026).prop_map(|p| NextHop::Local(PortId(p))),
        (0u16..16384).prop_map(|v| NextHop::Vtep(VtepIndex(v))),
        Just(NextHop::Gateway),
        Just(NextHop::Host),
        Just(NextHop::Blackhole),
    ]
}

/// Addresses that share bytes and bits with each other, so that prefixes nest.
fn near() -> impl Strategy<Value = u128> {
    let byte = prop_oneof![4 => Just(10u8), 2 => Just(0), 1 => Just(0x0b), 1 => any::<u8>()];
    vec(byte, 16).prop_map(|b| u128::from_be_bytes(b.try_into().unwrap()))
}

fn address() -> impl Strategy<Value = IpAddr> {
    (near(), any::<bool>()).prop_map(|(bits, v4)| match v4 {
        true => Ipv4Addr::from((bits >> 96) as u32).into(),
        false => Ipv6Addr::from(bits).into(),
    })
}

fn route() -> impl Strategy<Value = Route> {
    (address(), 0u8..=128, hop()).prop_map(|(addr, len, hop)| match addr {
        IpAddr::V4(_) => (addr, len % 33, hop),
        IpAddr::V6(_) => (addr, len, hop),
    })
}

/// Removes routes whose prefix another has.
fn distinct(routes: Vec<Route>) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::new();
    for r in routes {
        if Fib::build(kept.iter().copied().chain([r]), []).is_ok() {
            kept.push(r);
        }
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_a_linear_scan(
        routes in vec(route(), 0..60),
        hosts in vec((address(), hop()), 0..20),
        probes in vec(address(), 50),
    ) {
        let routes = distinct(routes);
        let mut all = Vec::new();
        let mut kept = Vec::new();
        for &(addr, hop) in &hosts {
            if !kept.iter().any(|&(a, _)| a == addr) {
                kept.push((addr, hop));
                all.push((addr, if addr.is_ipv4() { 32 } else { 128 }, hop));
            }
        }
        // A host hides a prefix of full length.
        let full = |r: &Route| kept.iter().any(|&(a, _)| a == r.0) && r.1 == if r.0.is_ipv4() { 32 } else { 128 };
        all.extend(routes.iter().filter(|r| !full(r)));
        let fib = Fib::build(routes.clone(), []).unwrap().with_hosts(kept.clone()).unwrap();
        let edges = routes.iter().map(|r| r.0).chain(kept.iter().map(|h| h.0));
        for addr in probes.into_iter().chain(edges) {
            prop_assert_eq!(fib.lookup(addr), linear(&all, addr), "{}", addr);
        }
    }
}

#[test]
fn contradictions_and_long_prefixes_are_refused() {
    let net: IpAddr = "10.1.2.0".parse().unwrap();
    let same: IpAddr = "10.1.2.99".parse().unwrap();
    assert!(Fib::build([(net, 24, NextHop::Host), (same, 24, NextHop::Host)], []).is_ok());
    assert_eq!(
        Fib::build([(net, 24, NextHop::Host), (same, 24, NextHop::Gateway)], []).unwrap_err(),
        FibError::Twice(net, 24, NextHop::Host, NextHop::Gateway)
    );
    assert_eq!(Fib::build([(net, 33, NextHop::Host)], []).unwrap_err(), FibError::Length(net, 33));
    assert!(Fib::build([], [(net, NextHop::Host), (net, NextHop::Gateway)]).is_err());
}

#[test]
fn ten_thousand_prefixes_are_modest_and_hosts_share_the_trie() {
    let routes = (0..10_000u32).flat_map(|i| {
        let hop = NextHop::Vtep(VtepIndex(i as u16));
        [
            (Ipv4Addr::from(0x0a00_0000 + (i << 8)).into(), 24, hop),
            (Ipv6Addr::from((0xfd00u128 << 112) + (u128::from(i) << 64)).into(), 64, hop),
        ]
    });
    let fib = Fib::build(routes, []).unwrap();
    assert!(fib.memory() < 1 << 20, "{} bytes", fib.memory());
    let pods = fib.with_hosts([("10.0.7.9".parse().unwrap(), NextHop::Local(PortId(5)))]).unwrap();
    assert!(Arc::ptr_eq(&fib.trie4, &pods.trie4));
    assert_eq!(pods.lookup4(Ipv4Addr::new(10, 0, 7, 9)), Some(NextHop::Local(PortId(5))));
    assert_eq!(pods.lookup4(Ipv4Addr::new(10, 0, 7, 8)), Some(NextHop::Vtep(VtepIndex(7))));
    assert_eq!(fib.lookup4(Ipv4Addr::new(10, 0, 7, 9)), Some(NextHop::Vtep(VtepIndex(7))));
}
