//! What became of each Service and each of its endpoints, for people.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podplane_config::v1::{self, Choice, FrontendKind, Protocol};

use super::Services;
use super::choose::{choose, why_not};
use super::compile::{Context, Slices, gather, policies};
use super::facts::{PortFacts, ServiceFacts};
use super::slices::EndpointFacts;
use crate::node::Family;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReport {
    /// "namespace/name".
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    pub kind: String,
    /// Why it is not served at all.
    pub skipped: Option<String>,
    /// What of its slices is not used, and why.
    pub slices_refused: Vec<String>,
    /// Its ports, one entry for each family.
    pub ports: Vec<PortReport>,
}

/// A port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// Its name; may be empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// Its family.
    pub family: Family,
    /// Session affinity by client address, in seconds.
    pub affinity_seconds: Option<u32>,
    /// Where it is served.
    pub frontends: Vec<FrontendReport>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointReport>,
}

/// Where a port is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendReport {
    /// What made it.
    pub kind: FrontendKind,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Endpoints for traffic from pods and this node; `Err`: what it gets instead.
    pub inside: Result<usize, Choice>,
    /// Endpoints for traffic from outside; `Err`: what it gets instead.
    pub outside: Result<usize, Choice>,
}

/// An endpoint of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointReport {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None`: its slice has no port of that name and protocol.
    pub port: Option<u16>,
    /// "namespace/name" of its pod; empty if it is none.
    pub pod: String,
    /// Its node; may be empty.
    pub node: String,
    /// Condition.
    pub ready: bool,
    /// Condition.
    pub serving: bool,
    /// Condition.
    pub terminating: bool,
    /// Why no traffic goes there from this node; `None`: some does.
    pub unused: Option<String>,
}

impl Services {
    /// All Services; `told` knows what the dataplane was told of one.
    pub(crate) fn report<'a>(
        &'a self,
        context: Context<'_>,
        told: impl Fn(&str) -> Option<&'a v1::Service>,
    ) -> Vec<ServiceReport> {
        let none = Slices::new();
        let report = |(path, facts): (&String, &ServiceFacts)| {
            let slices = self.slices.get(path).unwrap_or(&none);
            let refused = |(name, _): (&String, _)| {
                self.slice_problems.get(name).map(|problem| format!("EndpointSlice {name}: {problem}"))
            };
            ServiceReport {
                name: path.clone(),
                kind: facts.kind.clone(),
                skipped: facts.skipped.clone(),
                slices_refused: slices.iter().filter_map(refused).collect(),
                ports: ports(facts, slices, told(path), context),
            }
        };
        self.services.iter().map(report).collect()
    }
}

fn ports(facts: &ServiceFacts, slices: &Slices, told: Option<&v1::Service>, context: Context<'_>) -> Vec<PortReport> {
    let families = [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| facts.cluster_ip(*family).is_some());
    let each = families.flat_map(|family| facts.ports.iter().map(move |port| (family, port)));
    let report = |(family, port): (Family, &PortFacts)| {
        let is_it = |p: &&v1::ServicePort| {
            p.name == port.name && p.protocol == port.protocol && family.has(p.frontends[0].address)
        };
        let told = told.and_then(|service| service.ports.iter().find(is_it));
        let size = |sets: &[Vec<v1::Backend>], choice| match choice {
            Choice::Set(index) => Ok(sets.get(usize::from(index)).map_or(0, Vec::len)),
            other => Err(other),
        };
        let frontend = |sets: &[Vec<v1::Backend>], f: &v1::Frontend| FrontendReport {
            kind: f.kind,
            address: f.address,
            port: f.port,
            inside: size(sets, f.inside),
            outside: size(sets, f.outside),
        };
        let frontends = told.map(|port| port.frontends.iter().map(|f| frontend(&port.sets, f)).collect());
        PortReport {
            name: port.name.clone(),
            protocol: port.protocol,
            port: port.port,
            family,
            affinity_seconds: facts.affinity_seconds,
            frontends: frontends.unwrap_or_default(),
            endpoints: endpoints(facts, port, family, slices, context),
        }
    };
    each.map(report).collect()
}

fn endpoints(
    facts: &ServiceFacts,
    port: &PortFacts,
    family: Family,
    slices: &Slices,
    context: Context<'_>,
) -> Vec<EndpointReport> {
    let here = context.here();
    let gathered = gather(slices, family, port, here);
    let all: Vec<&EndpointFacts> = gathered.values().copied().collect();
    let policies = policies(facts, port, family, context.settings);
    let usable = choose(&all, policies, here);
    let report = |endpoint: &EndpointFacts, port: Option<u16>, unused: Option<String>| EndpointReport {
        address: endpoint.address,
        port,
        pod: endpoint.pod.clone(),
        node: endpoint.node.clone(),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        unused,
    };
    let used = gathered.iter().enumerate().map(|(i, ((_, number), endpoint))| {
        report(endpoint, Some(*number), why_not(i, endpoint, &usable, policies, here))
    });
    let mut reports: Vec<EndpointReport> = used.collect();
    let known: BTreeSet<IpAddr> = gathered.keys().map(|(address, _)| *address).collect();
    let others = slices.values().filter(|slice| slice.family == family).flat_map(|slice| &slice.endpoints);
    for endpoint in others.filter(|endpoint| !known.contains(&endpoint.address)) {
        let reason = format!("its slice has no port {:?} {}", port.name, port.protocol);
        reports.push(report(endpoint, None, Some(reason)));
    }
    reports
}
