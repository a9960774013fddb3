//! An object's messages: one, or several where a Service is too large for one.

use super::{Key, MAX_MESSAGE, Object, Service, ServicePort, ToDataplane};

/// What a message needs beside a Service's name and ports, at most: tags and lengths.
const ENVELOPE: usize = 64;

/// Something that no message can carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// One port of a Service.
    #[error(
        "port {port:?} needs {bytes} bytes of configuration, {MAX_MESSAGE} is the limit: it has too many endpoints"
    )]
    Port {
        /// Its name.
        port: String,
        /// What it needs.
        bytes: usize,
    },
    /// Another object.
    #[error("{key:?} needs {bytes} bytes of configuration, {MAX_MESSAGE} is the limit")]
    Object {
        /// What names it.
        key: Key,
        /// What it needs.
        bytes: usize,
    },
}

/// The messages that create or replace `object`.
///
/// # Errors
/// A Service's port or another object that is too large for a message. None within the bounds of [`crate::valid`] is,
/// but a port with tens of thousands of ranges of sources.
pub fn upsert(object: Object) -> Result<Vec<ToDataplane>, TooLarge> {
    let Object::Service(Service { name, ports }) = object else { return whole(object).map(|message| vec![message]) };
    let room = room(&name);
    let mut parts = vec![Vec::new()];
    let mut used = 0;
    for port in ports {
        let bytes = fit(&port, room)?;
        if used + bytes > room {
            parts.push(Vec::new());
            used = 0;
        }
        used += bytes;
        parts.last_mut().unwrap_or_else(|| unreachable!("there is a first part")).push(port);
    }
    let mut services = parts.into_iter().map(|ports| Service { name: name.clone(), ports });
    let first = services.next().map(|service| ToDataplane::Upsert(Object::Service(service)));
    Ok(first.into_iter().chain(services.map(ToDataplane::Extend)).collect())
}

/// Whether [`upsert`] can make the messages of a Service.
///
/// # Errors
/// As [`upsert`].
pub fn fits(service: &Service) -> Result<(), TooLarge> {
    let room = room(&service.name);
    service.ports.iter().try_for_each(|port| fit(port, room).map(drop))
}

fn whole(object: Object) -> Result<ToDataplane, TooLarge> {
    // Encoding into nothing cannot fail.
    let bytes = postcard::experimental::serialized_size(&object).unwrap_or(usize::MAX);
    if bytes > MAX_MESSAGE - ENVELOPE {
        return Err(TooLarge::Object { key: object.key(), bytes });
    }
    Ok(ToDataplane::Upsert(object))
}

fn room(name: &str) -> usize {
    MAX_MESSAGE.saturating_sub(ENVELOPE + name.len())
}

fn fit(port: &ServicePort, room: usize) -> Result<usize, TooLarge> {
    let bytes = encoded(port);
    if bytes > room { Err(TooLarge::Port { port: port.name.clone(), bytes }) } else { Ok(bytes) }
}

/// The encoded length of a port, in bytes, at most.
fn encoded(port: &ServicePort) -> usize {
    // Varints: a length or index takes 5 bytes at most here, a port 3. An address takes 1 + 16, a range one more.
    let backends: usize = port.sets.iter().map(|set| 5 + 20 * set.len()).sum();
    let frontends: usize =
        port.frontends.iter().map(|frontend| 40 + 18 * frontend.sources.as_ref().map_or(0, Vec::len)).sum();
    5 + port.name.len() + 1 + 6 + 5 + backends + 5 + frontends
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use ipnet::IpNet;

    use super::*;
    use crate::v1::{self, Backend, Choice, Frontend, FrontendKind, Net, Peers, PortRange, Protocol, RuleSet};
    use crate::v1::{RuleAction, Tier};
    use crate::valid::MAX_SELECTORS_PER_RULE;
    use crate::valid::{MAX_NETS_PER_RULE, MAX_PORTS_PER_RULE, MAX_RULES_PER_SET, MAX_SELECTORS};

    fn port(name: usize, backends: u16) -> ServicePort {
        let address = |n: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, n, u16::MAX));
        ServicePort {
            name: format!("port-{name}"),
            protocol: Protocol::Sctp,
            affinity_seconds: Some(u32::MAX),
            sets: vec![(0..backends).map(|n| Backend { address: address(n), port: u16::MAX }).collect()],
            frontends: vec![Frontend {
                kind: FrontendKind::ExternalIp,
                address: address(0),
                port: u16::MAX,
                inside: Choice::Set(u16::MAX),
                outside: Choice::Set(u16::MAX),
                sources: Some(vec!["fd00:ffff::/128".parse().unwrap(); 9]),
            }],
        }
    }

    #[test]
    fn the_estimate_is_never_below_what_is_encoded() {
        for backends in [0, 1, 127, 128, 5000] {
            let port = port(1, backends);
            let bytes = postcard::to_stdvec(&port).unwrap().len();
            assert!((bytes..bytes * 3 / 2 + 64).contains(&encoded(&port)), "{bytes}: {}", encoded(&port));
        }
    }

    #[test]
    fn a_service_of_many_ports_is_told_in_parts_and_loses_none() {
        // 100 ports, 1,500 endpoints of one family: 3 MB.
        let ports: Vec<_> = (0..100).map(|n| port(n, 1500)).collect();
        let messages = upsert(Object::Service(Service { name: "a/b".into(), ports: ports.clone() })).unwrap();
        assert!((3..8).contains(&messages.len()), "{}", messages.len());
        let mut told = Vec::new();
        for (n, message) in messages.into_iter().enumerate() {
            assert!(postcard::to_stdvec(&message).unwrap().len() <= MAX_MESSAGE);
            match message {
                ToDataplane::Upsert(Object::Service(service)) if n == 0 => told.extend(service.ports),
                ToDataplane::Extend(service) if n > 0 => told.extend(service.ports),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, ports);
    }

    #[test]
    fn the_largest_port_that_is_valid_fits_and_a_larger_one_is_named() {
        let most = crate::valid::MAX_BACKENDS_PER_PORT as u16;
        let service = |backends| Object::Service(Service { name: "a/b".into(), ports: vec![port(7, backends)] });
        assert_eq!(upsert(service(most)).unwrap().len(), 1);
        let Err(TooLarge::Port { port, .. }) = upsert(service(60_000)) else { panic!("it fits") };
        assert_eq!(port, "port-7");
    }

    #[test]
    fn the_largest_rules_that_are_valid_fit_and_larger_ones_are_named() {
        let ids = |n: usize| (0..n as u32).map(|i| u32::MAX - i).rev().collect::<Vec<_>>();
        let net = |n: usize| IpNet::new(IpAddr::V6(((u128::MAX << 64) | n as u128).into()), 128).unwrap();
        let rule = |nets: usize| v1::Rule {
            id: u32::MAX,
            name: "x".repeat(512),
            tier: Tier::Baseline,
            action: RuleAction::Pass,
            peers: Peers::Of {
                selectors: ids(MAX_SELECTORS_PER_RULE),
                nets: (0..nets).map(|n| Net { net: net(n), except: Vec::new() }).collect(),
            },
            named: Some(u32::MAX),
            ports: Some(vec![
                PortRange { protocol: Protocol::Sctp, first: u16::MAX, last: u16::MAX };
                MAX_PORTS_PER_RULE
            ]),
        };
        let (owner, name) = ("x".repeat(512), "y".repeat(512));
        let address = v1::Address { address: net(0).addr(), owner, name, selectors: ids(MAX_SELECTORS) };
        for object in [
            Object::Rule(rule(MAX_NETS_PER_RULE)),
            Object::RuleSet(RuleSet { id: u32::MAX, rules: ids(MAX_RULES_PER_SET) }),
            Object::Address(address),
        ] {
            let messages = upsert(object).unwrap();
            assert!(matches!(&messages[..], [one] if postcard::to_stdvec(one).unwrap().len() <= MAX_MESSAGE));
        }
        let larger = upsert(Object::Rule(rule(2 * MAX_NETS_PER_RULE)));
        assert!(matches!(larger, Err(TooLarge::Object { key: Key::Rule(u32::MAX), .. })));
    }
}
