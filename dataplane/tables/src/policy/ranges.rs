//! Blocks of addresses and ranges of ports as spans of a line.

use std::net::IpAddr;

use super::Point;
use super::intervals::Key;
use super::spec::{NetSpec, PeersSpec, PolicyError, Ports, RuleSpec};

/// First and last point of each span: apart from one another, ascending.
pub(super) type Ranges<K> = Vec<(K, K)>;

/// The spans of a rule's blocks in both families.
pub(super) fn nets(spec: &RuleSpec) -> (Ranges<u32>, Ranges<u128>) {
    let (mut v4, mut v6) = (Ranges::new(), Ranges::new());
    if let PeersSpec::Of { nets, .. } = &spec.peers {
        for NetSpec { net, except } in nets {
            let except = except.iter().map(|net| prefix(*net));
            match prefix(*net) {
                Prefix::V4(net) => v4.extend(without(net, except.filter_map(Prefix::v4).collect())),
                Prefix::V6(net) => v6.extend(without(net, except.filter_map(Prefix::v6).collect())),
            }
        }
    }
    (joined(v4), joined(v6))
}

/// The spans of all prefixes in both families.
pub(super) fn prefixes(all: &[(IpAddr, u8)]) -> (Ranges<u32>, Ranges<u128>) {
    let prefixes = || all.iter().map(|net| prefix(*net));
    (joined(prefixes().filter_map(Prefix::v4).collect()), joined(prefixes().filter_map(Prefix::v6).collect()))
}

/// The spans of a rule's ports, on the line of [`port`]; `None`: everything.
pub(super) fn ports(spec: &RuleSpec) -> Option<Ranges<u32>> {
    let spans = |ports: &Ports| (port(ports.protocol, ports.first), port(ports.protocol, ports.last));
    spec.ports.as_ref().map(|all| joined(all.iter().map(spans).collect()))
}

/// A port's point: the line has one stretch for each protocol, those of which rules speak side by side.
#[inline(always)]
pub(super) const fn port(protocol: u8, port: u16) -> u32 {
    let stretch = match protocol {
        6 => 0,
        17 => 1,
        132 => 2,
        other => 3 + other as u32,
    };
    stretch << 16 | port as u32
}

/// Refuses a prefix that is longer than the address.
pub(super) fn check((address, length): (IpAddr, u8)) -> Result<(), PolicyError> {
    let width = if address.is_ipv4() { 32 } else { 128 };
    if length <= width { Ok(()) } else { Err(PolicyError::Prefix(address, length)) }
}

enum Prefix {
    V4((u32, u32)),
    V6((u128, u128)),
}

impl Prefix {
    fn v4(self) -> Option<(u32, u32)> {
        if let Prefix::V4(range) = self { Some(range) } else { None }
    }

    fn v6(self) -> Option<(u128, u128)> {
        if let Prefix::V6(range) = self { Some(range) } else { None }
    }
}

fn prefix((address, length): (IpAddr, u8)) -> Prefix {
    match Point::from(address) {
        Point::V4(address) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            Prefix::V4((address & !host, address | host))
        }
        Point::V6(address) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            Prefix::V6((address & !host, address | host))
        }
    }
}

/// Prefixes nest or are apart, so what is left begins and ends at exceptions' borders.
fn without<K: Key>(net: (K, K), mut except: Ranges<K>) -> Ranges<K> {
    // One outside cuts nothing; one around all leaves nothing.
    except.retain(|hole| hole.0 <= net.1 && hole.1 >= net.0);
    let holes = joined(except);
    let mut left = Ranges::new();
    let mut from = Some(net.0);
    for (first, last) in holes {
        if let Some(before) =
            first.previous().filter(|before| first > net.0 && from.is_some_and(|from| from <= *before))
        {
            left.extend(from.map(|from| (from, before)));
        }
        from = last.next();
    }
    left.extend(from.filter(|from| *from <= net.1).map(|from| (from, net.1)));
    left
}

/// Overlapping and touching spans made one.
fn joined<K: Key>(mut all: Ranges<K>) -> Ranges<K> {
    all.sort_unstable();
    let mut joined = Ranges::<K>::with_capacity(all.len());
    for (first, last) in all {
        match joined.last_mut() {
            Some(before) if before.1.next().is_none_or(|next| first <= next) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}
