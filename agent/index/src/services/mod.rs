//! Services: objects in, what their addresses get out. One slice changed judges one Service again.

mod choose;
mod claims;
mod compile;
mod facts;
mod report;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podplane_config::v1::{self, FrontendKind, Protocol};
use podplane_config::valid::{MAX_BACKENDS, MAX_FRONTENDS, MAX_SERVICES};

pub(crate) use compile::Context;
pub use report::{EndpointReport, FrontendReport, PortReport, ServiceReport};

use crate::k8s;
use crate::settings::Settings;
use claims::Claims;
use compile::{Compiled, Slices, compile, places};
use facts::ServiceFacts;
use slices::SliceFacts;

/// What a load balancer may ask this node about a Service (`spec.healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// "namespace/name".
    pub service: String,
    /// The port to answer at.
    pub port: u16,
    /// Ready IPv4 endpoints on this node; `None`: the Service has no IPv4.
    pub v4: Option<usize>,
    /// Ready IPv6 endpoints on this node; `None`: the Service has no IPv6.
    pub v6: Option<usize>,
}

/// All Services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: BTreeMap<String, ServiceFacts>,
    /// By Service, then by the slice's path.
    slices: BTreeMap<String, Slices>,
    /// Whose a slice is, by the slice's path.
    owners: BTreeMap<String, String>,
    claims: Claims,
    dirty: BTreeSet<String>,
    judged: BTreeMap<String, Judged>,
    /// Left out because the dataplane could not hold them.
    crowded_out: BTreeSet<String>,
    slice_problems: BTreeMap<String, String>,
    /// What load balancers' and external addresses serve.
    outer: BTreeSet<(IpAddr, Protocol, u16)>,
    frontends: usize,
    backends: usize,
}

/// What became of a Service, less what the dataplane is told.
#[derive(Debug, Default)]
struct Judged {
    problems: Option<String>,
    health: Option<HealthCheck>,
    outer: Vec<(IpAddr, Protocol, u16)>,
    frontends: usize,
    backends: usize,
}

impl Services {
    pub(crate) fn service(&mut self, path: String, service: &k8s::Service, settings: &Settings) -> Result<(), String> {
        let facts = ServiceFacts::of(service)?;
        if self.services.get(&path) != Some(&facts) {
            self.replace(path, Some(facts), settings);
        }
        Ok(())
    }

    pub(crate) fn remove_service(&mut self, path: &str, settings: &Settings) {
        if self.services.contains_key(path) {
            self.replace(path.to_owned(), None, settings);
        }
    }

    fn replace(&mut self, path: String, new: Option<ServiceFacts>, settings: &Settings) {
        let of = |facts: Option<&ServiceFacts>| match facts {
            Some(facts) => (facts.created.clone(), places(facts, settings)),
            None => (String::new(), BTreeSet::new()),
        };
        let before = of(self.services.get(&path));
        let after = of(new.as_ref());
        self.dirty.extend(self.claims.replace(&path, (&before.0, &before.1), (&after.0, &after.1)));
        match new {
            Some(facts) => self.services.insert(path.clone(), facts),
            None => self.services.remove(&path),
        };
        self.dirty.insert(path);
    }

    pub(crate) fn slice(&mut self, path: String, slice: &k8s::EndpointSlice) -> Result<(), String> {
        let Some(facts) = SliceFacts::of(slice)? else {
            self.remove_slice(&path);
            return Ok(());
        };
        if self.owners.get(&path) != Some(&facts.service) {
            self.remove_slice(&path);
            self.owners.insert(path.clone(), facts.service.clone());
        }
        let slices = self.slices.entry(facts.service.clone()).or_default();
        if slices.get(&path) != Some(&facts) {
            self.dirty.insert(facts.service.clone());
            slices.insert(path, facts);
        }
        Ok(())
    }

    pub(crate) fn remove_slice(&mut self, path: &str) {
        let Some(owner) = self.owners.remove(path) else { return };
        self.slice_problems.remove(path);
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(path);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.dirty.insert(owner);
    }

    /// The Services that are known.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// The slices that are known.
    pub(crate) fn slice_paths(&self) -> impl Iterator<Item = &str> {
        self.owners.keys().map(String::as_str)
    }

    /// Has all Services judged again: something that concerns all has changed.
    pub(crate) fn touch_all(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// Has those judged again that claim a port at one of `addresses`, or as a node port.
    pub(crate) fn touch_port(&mut self, addresses: impl Iterator<Item = IpAddr>, protocol: Protocol, port: u16) {
        let touched: Vec<String> = self.claims.at_port(addresses, protocol, port).map(str::to_owned).collect();
        self.dirty.extend(touched);
    }

    /// Judges again what has to be; `tell` gets what the dataplane should be told of each.
    pub(crate) fn settle(&mut self, context: Context<'_>, mut tell: impl FnMut(v1::Key, Option<v1::Object>)) {
        let mut dirty = std::mem::take(&mut self.dirty);
        // What goes or shrinks may make room for them.
        dirty.append(&mut self.crowded_out);
        for name in &dirty {
            self.forget(name);
        }
        for name in dirty {
            let service = self.judge(&name, context);
            tell(v1::Key::Service(name), service);
        }
    }

    fn forget(&mut self, name: &str) {
        let Some(judged) = self.judged.remove(name) else { return };
        for place in &judged.outer {
            self.outer.remove(place);
        }
        self.frontends -= judged.frontends;
        self.backends -= judged.backends;
    }

    fn judge(&mut self, name: &str, context: Context<'_>) -> Option<v1::Object> {
        let none = Slices::new();
        let slices = self.slices.get(name).unwrap_or(&none);
        let facts = self.services.get(name);
        for (path, slice) in slices {
            let mut problems = slice.problems.clone();
            if facts.is_none() && !slice.derived {
                problems.push(format!("there is no Service {name}: its endpoints are not used"));
            }
            match problems.is_empty() {
                true => self.slice_problems.remove(path),
                false => self.slice_problems.insert(path.clone(), problems.join("; ")),
            };
        }
        let facts = facts.filter(|facts| facts.skipped.is_none())?;
        let Compiled { service, mut problems, health } = compile(name, facts, slices, &self.claims, context);
        let mut judged = Judged { health, ..Judged::default() };
        let service = service.and_then(|service| match self.fits(&service, &mut judged) {
            Ok(()) => Some(service),
            Err(problem) => {
                problems.push(problem);
                None
            }
        });
        if service.is_none() {
            judged = Judged { health: judged.health, ..Judged::default() };
        }
        judged.problems = (!problems.is_empty()).then(|| problems.join("; "));
        self.outer.extend(&judged.outer);
        self.frontends += judged.frontends;
        self.backends += judged.backends;
        self.judged.insert(name.to_owned(), judged);
        service.map(v1::Object::Service)
    }

    /// Counts a Service; the error says why the dataplane would refuse it, and everything with it.
    fn fits(&mut self, service: &v1::Service, judged: &mut Judged) -> Result<(), String> {
        for port in &service.ports {
            judged.frontends += port.frontends.len();
            judged.backends += port.sets.iter().map(Vec::len).sum::<usize>();
            let is_outer = |kind| matches!(kind, FrontendKind::LoadBalancer | FrontendKind::ExternalIp);
            let outer = port.frontends.iter().filter(|frontend| is_outer(frontend.kind));
            judged.outer.extend(outer.map(|frontend| (frontend.address, port.protocol, frontend.port)));
        }
        if self.judged.len() >= MAX_SERVICES
            || self.frontends + judged.frontends > MAX_FRONTENDS
            || self.backends + judged.backends > MAX_BACKENDS
        {
            self.crowded_out.insert(service.name.clone());
            return Err(format!(
                "the dataplane has no room for more: {MAX_SERVICES} Services, {MAX_FRONTENDS} addresses with ports, \
                 {MAX_BACKENDS} endpoints in sets"
            ));
        }
        v1::fits(service).map_err(|e| e.to_string())
    }

    /// Services and slices that are not, or not wholly, in force: kind, path, reason.
    pub(crate) fn problems(&self) -> impl Iterator<Item = (k8s::Kind, &str, &str)> {
        let judged = self.judged.iter();
        let services = judged.filter_map(|(path, j)| Some((k8s::Kind::Service, path.as_str(), j.problems.as_deref()?)));
        let slices = self.slice_problems.iter().map(|(path, p)| (k8s::Kind::EndpointSlice, path.as_str(), p.as_str()));
        services.chain(slices)
    }

    /// What load balancers may ask this node.
    pub(crate) fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.judged.values().filter_map(|judged| judged.health.as_ref())
    }

    /// What load balancers' and external addresses serve.
    pub(crate) fn outer(&self) -> &BTreeSet<(IpAddr, Protocol, u16)> {
        &self.outer
    }

    /// Who serves a port of the node's addresses: a node port, or a load balancer's or external address that the node
    /// holds.
    pub(crate) fn holder(&self, own: &[IpAddr], at: Option<IpAddr>, protocol: Protocol, port: u16) -> Option<&str> {
        let places: Vec<IpAddr> = at.map_or_else(|| own.to_vec(), |address| vec![address]);
        let touches_node = at.is_none_or(|address| own.contains(&address));
        let outer = places.into_iter().map(|address| claims::Place::Outer(address, protocol, port));
        let node_port = touches_node.then_some(claims::Place::NodePort(protocol, port));
        node_port.into_iter().chain(outer).find_map(|place| self.claims.holder(place))
    }
}

#[cfg(test)]
mod tests;
