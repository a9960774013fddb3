//! Services, host ports and policy as the pipeline compiles them, the former under numbers that stay theirs.
//!
//! A catalog follows the validated configuration step by step: only what differs from the step before is touched, and
//! copies share what is alike, so that one Service changed among ten thousand costs microseconds, and a configuration
//! that cannot be compiled is forgotten by dropping the copy.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{HashMap, OrdMap};
use podplane_config::v1;
use podplane_config::valid::{Service, ServicePort, State};
use podplane_pipeline::snapshot::services::{
    Backend, Choice, FrontendConfig, FrontendKind, Protocol, ServiceConfig, ServiceId, ServiceMap,
};

use super::compile::prefix;
use super::rules::Rules;

/// What a number stands for: one port of a Service or one host port, in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// "namespace/name" of the Service; of a host port, of its pod, or the endpoint's identity where it has no pod.
    pub service: Arc<str>,
    /// The port's name, or the number of a host port.
    pub port: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// IPv4; otherwise IPv6.
    pub is_ipv4: bool,
    /// A pod's host port, by the endpoint's identity.
    pub endpoint: Option<Arc<str>>,
}

/// Services and host ports by their numbers, and policy.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    ids: HashMap<Identity, ServiceId>,
    names: HashMap<u32, Identity>,
    /// The next number. Each is given once in four thousand million.
    next: u32,
    map: ServiceMap,
    /// What the catalog has followed so far.
    services: OrdMap<Arc<str>, Arc<Service>>,
    /// The same of host ports.
    host_ports: OrdMap<Identity, Arc<ServiceConfig>>,
    rules: Rules,
}

impl Catalog {
    /// The catalog of `state`, made from this one.
    #[must_use]
    pub fn follow(&self, state: &State) -> Catalog {
        let mut next = self.clone();
        for change in self.services.diff(&state.services) {
            match change {
                DiffItem::Add(_, service) => next.set(None, Some(service)),
                DiffItem::Update { old: (_, old), new: (_, new) } => next.set(Some(old), Some(new)),
                DiffItem::Remove(_, service) => next.set(Some(service), None),
            }
        }
        next.services = state.services.clone();
        next.set_host_ports(host_ports(state));
        next.rules = self.rules.follow(&state.policy);
        next
    }

    /// What the pipeline compiles.
    pub fn map(&self) -> &ServiceMap {
        &self.map
    }

    /// Policy.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What a number stands for.
    pub fn identity(&self, id: ServiceId) -> Option<&Identity> {
        self.names.get(&id.0)
    }

    fn set(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        let ports = |service: Option<&Arc<Service>>| -> Vec<(Identity, ServicePort)> {
            let all = |s: &Arc<Service>| s.ports.iter().map(|p| (identity(s, p), p.clone())).collect();
            service.map(all).unwrap_or_default()
        };
        let (old, new) = (ports(old), ports(new));
        for (gone, _) in old.iter().filter(|(id, _)| !new.iter().any(|(other, _)| other == id)) {
            self.remove(gone);
        }
        for (identity, port) in &new {
            if !old.iter().any(|(id, before)| id == identity && before == port) {
                self.insert(identity, Arc::new(config(port)));
            }
        }
    }

    fn set_host_ports(&mut self, wanted: OrdMap<Identity, Arc<ServiceConfig>>) {
        let before = std::mem::replace(&mut self.host_ports, wanted.clone());
        for change in before.diff(&wanted) {
            match change {
                DiffItem::Add(identity, config) | DiffItem::Update { new: (identity, config), .. } => {
                    self.insert(identity, Arc::clone(config));
                }
                DiffItem::Remove(identity, _) => self.remove(identity),
            }
        }
    }

    fn insert(&mut self, identity: &Identity, config: Arc<ServiceConfig>) {
        let id = match self.ids.get(identity) {
            Some(id) => *id,
            None => {
                let id = ServiceId(self.next);
                self.next = self.next.wrapping_add(1);
                self.ids.insert(identity.clone(), id);
                self.names.insert(id.0, identity.clone());
                id
            }
        };
        self.map.insert(id, config);
    }

    fn remove(&mut self, identity: &Identity) {
        if let Some(id) = self.ids.remove(identity) {
            self.names.remove(&id.0);
            self.map.remove(id);
        }
    }
}

fn identity(service: &Service, port: &ServicePort) -> Identity {
    Identity {
        service: Arc::clone(&service.name),
        port: port.name.as_str().into(),
        protocol: protocol(port.protocol),
        is_ipv4: port.is_ipv4(),
        endpoint: None,
    }
}

fn config(port: &ServicePort) -> ServiceConfig {
    let backend = |b: &v1::Backend| Backend { address: b.address, port: b.port };
    let frontend = |f: &v1::Frontend| FrontendConfig {
        kind: match f.kind {
            v1::FrontendKind::ClusterIp => FrontendKind::ClusterIp,
            v1::FrontendKind::NodePort => FrontendKind::NodePort,
            v1::FrontendKind::LoadBalancer => FrontendKind::LoadBalancer,
            v1::FrontendKind::ExternalIp => FrontendKind::ExternalIp,
        },
        address: f.address,
        port: f.port,
        inside: choice(f.inside),
        outside: choice(f.outside),
        sources: f.sources.as_ref().map(|nets| nets.iter().copied().map(prefix).collect()),
    };
    ServiceConfig {
        protocol: protocol(port.protocol),
        affinity_seconds: port.affinity_seconds,
        sets: port.sets.iter().map(|set| set.iter().map(backend).collect()).collect(),
        frontends: port.frontends.iter().map(frontend).collect(),
    }
}

fn choice(choice: v1::Choice) -> Choice {
    match choice {
        v1::Choice::Set(set) => Choice::Set(set),
        v1::Choice::Reject => Choice::Reject,
        v1::Choice::Drop => Choice::Drop,
    }
}

fn protocol(protocol: v1::Protocol) -> Protocol {
    match protocol {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    }
}

/// Host ports: frontends with one backend, their pod.
fn host_ports(state: &State) -> OrdMap<Identity, Arc<ServiceConfig>> {
    let mut wanted: OrdMap<Identity, ServiceConfig> = OrdMap::new();
    for (&(address, transport, port), id) in state.host_ports() {
        let Some(endpoint) = state.endpoints.get(id) else { continue };
        let pod = match address {
            IpAddr::V4(_) => endpoint.addresses.v4.map(IpAddr::V4),
            IpAddr::V6(_) => endpoint.addresses.v6.map(IpAddr::V6),
        };
        let serves =
            |h: &&v1::HostPort| h.protocol == transport && h.port == port && h.address.is_none_or(|own| own == address);
        let (Some(pod), Some(host_port)) = (pod, endpoint.host_ports.iter().find(serves)) else { continue };
        let identity = Identity {
            service: if endpoint.pod.is_empty() { id.as_str().into() } else { endpoint.pod.as_str().into() },
            port: port.to_string().into(),
            protocol: protocol(transport),
            is_ipv4: address.is_ipv4(),
            endpoint: Some(id.as_str().into()),
        };
        let config = wanted.entry(identity).or_insert_with(|| ServiceConfig {
            protocol: protocol(transport),
            affinity_seconds: None,
            sets: Vec::new(),
            frontends: Vec::new(),
        });
        // Two host addresses may lead to two ports of the pod.
        let set = vec![Backend { address: pod, port: host_port.target }];
        let index = config.sets.iter().position(|s| *s == set).unwrap_or_else(|| {
            config.sets.push(set);
            config.sets.len() - 1
        });
        let inside = Choice::Set(index as u16);
        config.frontends.push(FrontendConfig {
            kind: FrontendKind::HostPort,
            address,
            port,
            inside,
            // What is for the node itself never comes by the uplink.
            outside: if address.is_loopback() { Choice::Drop } else { inside },
            sources: None,
        });
    }
    wanted.into_iter().map(|(identity, config)| (identity, Arc::new(config))).collect()
}

#[cfg(all(test, not(loom)))]
mod tests;
