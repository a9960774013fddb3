//! What a Service says, checked by itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::objects::{name, unicast};
use super::{MAX_BACKENDS_PER_PORT, Refusal, refuse};
use crate::v1::{self, Backend, Choice, Frontend, Protocol};

/// The longest affinity, in seconds: Kubernetes' own limit.
const MAX_AFFINITY: u32 = 86_400;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// "namespace/name".
    pub name: Arc<str>,
    /// Its ports, each with another name, protocol or family.
    pub ports: Vec<ServicePort>,
}

/// A Service's port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name in the Service; may be empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Session affinity by client address, in seconds, not 0.
    pub affinity_seconds: Option<u32>,
    /// The sets of backends: none empty, each sorted and without duplicates, all of the frontends' family.
    pub sets: Vec<Arc<[Backend]>>,
    /// Where it is served: at least one. What a choice names is there.
    pub frontends: Vec<Frontend>,
}

impl ServicePort {
    /// Whether it is served at IPv4 addresses; otherwise at IPv6 ones.
    pub fn is_ipv4(&self) -> bool {
        self.frontends.first().is_some_and(|frontend| frontend.address.is_ipv4())
    }

    /// The set of a choice, if it is one.
    pub fn set(&self, choice: Choice) -> Option<&Arc<[Backend]>> {
        match choice {
            Choice::Set(index) => self.sets.get(usize::from(index)),
            Choice::Reject | Choice::Drop => None,
        }
    }

    /// The backends of all sets together.
    pub(super) fn backends(&self) -> usize {
        self.sets.iter().map(|set| set.len()).sum()
    }
}

pub(super) fn service(raw: &v1::Service) -> Result<Service, Refusal> {
    let object = format!("Service {}", raw.name);
    name(&object, &raw.name)?;
    let mut seen = BTreeSet::new();
    let mut ports = Vec::with_capacity(raw.ports.len());
    for raw in &raw.ports {
        let port = port(&object, raw)?;
        if !seen.insert((&raw.name, raw.protocol, port.is_ipv4())) {
            return refuse(object, format!("port {:?} {} stands there twice in a family", raw.name, raw.protocol));
        }
        ports.push(port);
    }
    Ok(Service { name: raw.name.as_str().into(), ports })
}

fn port(object: &str, raw: &v1::ServicePort) -> Result<ServicePort, Refusal> {
    let object = format!("{object}, port {:?} {}", raw.name, raw.protocol);
    if !raw.name.is_empty() {
        name(&object, &raw.name)?;
    }
    let Some(is_ipv4) = raw.frontends.first().map(|frontend| frontend.address.is_ipv4()) else {
        return refuse(object, "it has no address");
    };
    if let Some(seconds) = raw.affinity_seconds.filter(|seconds| !(1..=MAX_AFFINITY).contains(seconds)) {
        return refuse(object, format!("an affinity of {seconds} seconds: 1 to {MAX_AFFINITY} are possible"));
    }
    let backends: usize = raw.sets.iter().map(Vec::len).sum();
    if backends > MAX_BACKENDS_PER_PORT {
        return refuse(object, format!("{backends} backends in its sets: {MAX_BACKENDS_PER_PORT} is the limit"));
    }
    let mut distinct = BTreeSet::new();
    for set in &raw.sets {
        check_set(&object, set, is_ipv4)?;
        if !distinct.insert(set) {
            return refuse(object, "two of its sets are alike");
        }
    }
    for frontend in &raw.frontends {
        check_frontend(&object, frontend, raw.sets.len(), is_ipv4)?;
    }
    Ok(ServicePort {
        name: raw.name.clone(),
        protocol: raw.protocol,
        affinity_seconds: raw.affinity_seconds,
        sets: raw.sets.iter().map(|set| set.as_slice().into()).collect(),
        frontends: raw.frontends.clone(),
    })
}

fn check_set(object: &str, set: &[Backend], is_ipv4: bool) -> Result<(), Refusal> {
    if set.is_empty() {
        return refuse(object, "a set without a backend: the choice must be Reject or Drop");
    }
    for backend in set {
        check_place(object, "backend", backend.address, backend.port, is_ipv4)?;
    }
    match set.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => refuse(object, format!("backend {} is not in order, or stands there twice", pair[1].address)),
        None => Ok(()),
    }
}

fn check_frontend(object: &str, frontend: &Frontend, sets: usize, is_ipv4: bool) -> Result<(), Refusal> {
    check_place(object, "frontend", frontend.address, frontend.port, is_ipv4)?;
    for choice in [frontend.inside, frontend.outside] {
        if let Choice::Set(index) = choice
            && usize::from(index) >= sets
        {
            return refuse(object, format!("frontend {} names set {index} of {sets}", frontend.address));
        }
    }
    let other = frontend.sources.iter().flatten().find(|net| net.addr().is_ipv4() != is_ipv4);
    match other {
        Some(net) => refuse(object, format!("frontend {}: sources {net} of the other family", frontend.address)),
        None => Ok(()),
    }
}

fn check_place(object: &str, what: &str, address: IpAddr, port: u16, is_ipv4: bool) -> Result<(), Refusal> {
    unicast(object, address)?;
    if address.is_ipv4() != is_ipv4 {
        return refuse(object, format!("{what} {address} is of the other family"));
    }
    if port == 0 {
        return refuse(object, format!("{what} {address} has port 0, which is none"));
    }
    Ok(())
}
