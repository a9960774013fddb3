//! What the index answers about what is in force.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::v1;
use podplane_config::valid::MIN_MTU;

use super::{Index, Withheld};
use crate::k8s::{Kind, ObjectKey};
use crate::node::NodeFacts;
use crate::policy::{PodPolicyReport, PolicyReport, Verdict};
use crate::services::{Context, HealthCheck, ServiceReport};
use crate::settings::NodeTraffic;

impl Index {
    /// All that should be in force, as of the last [`Index::settle`].
    pub fn objects(&self) -> &BTreeMap<v1::Key, v1::Object> {
        self.told.objects()
    }

    /// This node, if its Node object is there and in force, as of the last [`Index::settle`].
    pub fn local(&self) -> Option<&NodeFacts> {
        self.resolved.nodes.get(&self.settings.node)
    }

    /// The pods' MTU in bytes, once the uplink's is known.
    pub fn pod_mtu(&self) -> Option<u16> {
        self.uplink_mtu.map(|mtu| mtu.saturating_sub(self.settings.underlay.overhead()))
    }

    /// Why no pod can be connected on this node, as of the last [`Index::settle`].
    pub fn obstacle(&self) -> Option<String> {
        let node = &self.settings.node;
        let Some(local) = self.local() else {
            let key = ObjectKey { kind: Kind::Node, namespace: String::new(), name: node.clone() };
            return Some(match self.invalid.get(&key).or_else(|| self.resolved.refused.get(node)) {
                Some(reason) => format!("this node's Node object \"{node}\" cannot be used: {reason}"),
                None => format!("there is no Node object \"{node}\" yet (is --node right?)"),
            });
        };
        if local.pod_cidrs.is_empty() {
            return Some(format!("Node \"{node}\" has no spec.podCIDRs yet: a controller must give it a range"));
        }
        match (self.uplink_mtu, self.pod_mtu()) {
            (Some(uplink), Some(mtu)) if mtu < MIN_MTU => Some(format!(
                "the uplink's MTU of {uplink} leaves {mtu} bytes for pods, {MIN_MTU} is the least: \
                 raise the uplink's MTU to {} or more",
                MIN_MTU + self.settings.underlay.overhead()
            )),
            _ => None,
        }
    }

    /// The ranges of all nodes' pods, as of the last [`Index::settle`].
    pub fn pod_ranges(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.resolved.nodes.values().flat_map(|facts| facts.pod_cidrs.iter().copied())
    }

    /// Objects that are not, or not wholly, in force, with the reason, as of the last [`Index::settle`].
    pub fn refused(&self) -> impl Iterator<Item = (ObjectKey, &str)> {
        let cluster = |kind: Kind, name: &String| ObjectKey { kind, namespace: String::new(), name: name.clone() };
        let invalid = self.invalid.iter().map(|(key, reason)| (key.clone(), reason.as_str()));
        let nodes = self.resolved.refused.iter();
        let nodes = nodes.map(move |(name, reason)| (cluster(Kind::Node, name), reason.as_str()));
        let cidrs = self.cidrs_refused.iter();
        let cidrs = cidrs.map(move |(name, reason)| (cluster(Kind::ServiceCidr, name), reason.as_str()));
        let services = self.services.problems().map(|(kind, path, reason)| {
            let (namespace, name) = path.split_once('/').unwrap_or(("", path));
            (ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }, reason)
        });
        let policies = self.policy.problems().map(|(key, problem)| (key.clone(), problem));
        invalid.chain(nodes).chain(cidrs).chain(services).chain(policies)
    }

    /// Host ports of endpoints that are not in force, with the reason, as of the last [`Index::settle`].
    pub fn refused_host_ports(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.host_ports_refused.iter().map(|(id, reason)| Withheld { id: id.clone(), reason: reason.clone() })
    }

    /// All Services with what became of each endpoint, as of the last [`Index::settle`].
    pub fn services(&self) -> Vec<ServiceReport> {
        let context = Context { settings: &self.settings, nodes: &self.resolved, here: &self.surroundings };
        self.services.report(context, |path| match self.told.get(&v1::Key::Service(path.to_owned())) {
            Some(v1::Object::Service(service)) => Some(service),
            _ => None,
        })
    }

    /// What load balancers may ask this node about its endpoints, as of the last [`Index::settle`].
    pub fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.services.health_checks()
    }

    /// What of this node's own traffic concerns the dataplane, as of the last [`Index::settle`]. `None` before this
    /// node is known.
    pub fn node_traffic(&self) -> Option<NodeTraffic> {
        let here = &self.surroundings;
        self.local()?;
        let endpoints = self.told.objects().values().filter_map(|object| match object {
            v1::Object::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        });
        let host_ports = endpoints.flat_map(|endpoint| &endpoint.host_ports);
        let is_elsewhere =
            |address: &IpAddr| self.resolved.owner(*address).is_some_and(|name| name != self.settings.node);
        Some(NodeTraffic {
            service_cidrs: here.service_cidrs.clone(),
            addresses: here.addresses.clone(),
            node_port_addresses: here.node_port_addresses.clone(),
            node_ports: self.settings.node_ports,
            masquerade_ports: self.settings.masquerade_ports,
            outer: self.services.outer().iter().filter(|place| !is_elsewhere(&place.0)).copied().collect(),
            host_ports: host_ports.map(|port| (port.address, port.protocol, port.port)).collect(),
        })
    }

    /// Endpoints that are not told to the dataplane, as of the last [`Index::settle`].
    pub fn withheld(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.withheld.iter().map(|(id, reason)| Withheld { id: id.clone(), reason: reason.clone() })
    }

    /// Whether an endpoint is withheld because of what is not known of its pod yet: that may come any moment.
    pub fn awaits_pod(&self, id: &str) -> Option<&str> {
        match self.policy.verdict(id) {
            Some(Verdict::Withheld(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Endpoints that deny everything because their pods' policy is not known, with the reason, as of the last
    /// [`Index::settle`].
    pub fn denied(&self) -> impl Iterator<Item = Withheld> + '_ {
        self.endpoints.keys().filter_map(|id| match self.policy.verdict(id)? {
            Verdict::Rules(_, Some(reason)) => Some(Withheld { id: id.clone(), reason: reason.clone() }),
            _ => None,
        })
    }

    /// What policies do not know for lack of room, and what follows from it, as of the last [`Index::settle`].
    pub fn shortages(&self) -> Vec<String> {
        self.policy.shortages()
    }

    #[cfg(test)]
    pub(crate) fn limits(&mut self) -> &mut crate::policy::Limits {
        self.policy.limits()
    }

    /// All policies, as of the last [`Index::settle`].
    pub fn policies(&self) -> Vec<PolicyReport> {
        self.policy.policies()
    }

    /// What applies to each endpoint of this node, as of the last [`Index::settle`].
    pub fn pod_policies(&self) -> Vec<PodPolicyReport> {
        self.policy.pod_policies()
    }

    /// Selectors, rules and lists of rules that are kept.
    pub fn policy_sizes(&self) -> [usize; 3] {
        self.policy.sizes()
    }
}
