//! Free addresses and ports.
//!
//! An API server draws them at random; the lab takes the lowest of the same upper band, so that a demo shows the same
//! numbers twice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// Ports of nodes that Services may have.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The size of the lower band, which is left to those who choose by hand (KEP-3668).
const STATIC_PORTS: u16 = 86;

/// A free port of all nodes.
pub fn node_port(taken: &BTreeSet<u16>) -> Option<u16> {
    let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
    let split = first + STATIC_PORTS;
    (split..=last).chain(first..split).find(|port| !taken.contains(port))
}

/// A free address of a range: neither the network's nor (IPv4) the broadcast address.
pub fn address(range: IpNet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let size = size(range);
    // KEP-3070: min(max(16, size / 16), 256) addresses are left to those who choose by hand.
    let split = (size / 16).clamp(16, 256).min(size);
    (split..size).chain(0..split).map(|n| nth(range, n + 1)).find(|address| !taken.contains(address))
}

/// Whether an address may be given to somebody.
pub fn is_usable(range: IpNet, address: IpAddr) -> bool {
    range.contains(&address) && (1..=size(range)).contains(&(number(address) - number(range.network())))
}

/// How many addresses can be given.
fn size(range: IpNet) -> u128 {
    let bits = range.max_prefix_len() - range.prefix_len();
    let all = 1u128.checked_shl(bits.into()).unwrap_or(u128::MAX);
    match range {
        IpNet::V4(_) => all.saturating_sub(2),
        IpNet::V6(_) => all.saturating_sub(1),
    }
}

fn nth(range: IpNet, n: u128) -> IpAddr {
    let number = number(range.network()) + n;
    match range {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_upper_band_first_and_run_out() {
        let range: IpNet = "10.96.0.0/27".parse().unwrap();
        let mut taken = BTreeSet::new();
        let mut order = Vec::new();
        while let Some(address) = address(range, &taken) {
            assert!(is_usable(range, address));
            assert!(taken.insert(address), "{address} was given twice");
            order.push(address.to_string());
        }
        assert_eq!((order[0].as_str(), order[14].as_str()), ("10.96.0.17", "10.96.0.1"));
        assert_eq!(order.len(), 30);
        assert!(!is_usable(range, "10.96.0.31".parse().unwrap()) && !is_usable(range, "10.96.0.0".parse().unwrap()));
        assert_eq!(address("fd00:10:96::/112".parse().unwrap(), &taken), Some("fd00:10:96::101".parse().unwrap()));
    }

    #[test]
    fn node_ports_leave_the_lower_band_for_the_last() {
        assert_eq!(node_port(&BTreeSet::new()), Some(30_086));
        assert_eq!(node_port(&(30_086..=32_767).collect()), Some(30_000));
        assert_eq!(node_port(&NODE_PORTS.collect()), None);
    }
}
