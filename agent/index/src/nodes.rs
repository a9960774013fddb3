//! All nodes together: who keeps what two of them claim.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use podplane_config::valid::MAX_PEERS;

use crate::node::NodeFacts;

/// What one node said.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Its last word that makes sense by itself.
    pub(crate) current: NodeFacts,
    /// The word before: it stands in where the last one collides with an older node.
    pub(crate) previous: Option<NodeFacts>,
}

impl Claim {
    pub(crate) fn new(current: NodeFacts) -> Self {
        Claim { current, previous: None }
    }

    /// Takes a new word; whether it differs from the last one.
    pub(crate) fn update(&mut self, facts: NodeFacts) -> bool {
        if facts == self.current {
            return false;
        }
        self.previous = Some(std::mem::replace(&mut self.current, facts));
        true
    }
}

/// What is in force of all that was claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The nodes that are used.
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    /// The nodes whose last word is not used, with the reason.
    pub(crate) refused: BTreeMap<String, String>,
    addresses: BTreeMap<IpAddr, String>,
    /// First address to range and owner; disjoint.
    ranges: BTreeMap<IpAddr, (IpNet, String)>,
}

impl Resolved {
    /// Lets older nodes choose first; then names decide. A pure function of the claims, so that all agents of a
    /// cluster that see the same objects agree.
    pub(crate) fn of(claims: &BTreeMap<String, Claim>) -> Self {
        let mut order: Vec<_> = claims.iter().collect();
        order.sort_by(|(a, ca), (b, cb)| (&ca.current.created, a).cmp(&(&cb.current.created, b)));
        let mut resolved = Resolved::default();
        for (name, claim) in order {
            let Err(reason) = resolved.admit(name, &claim.current) else { continue };
            let reason = match &claim.previous {
                Some(previous) if resolved.admit(name, previous).is_ok() => {
                    format!("{reason}; what it said before stays in force")
                }
                _ => format!("{reason}; the node is left out"),
            };
            resolved.refused.insert(name.clone(), reason);
        }
        resolved
    }

    /// Who has `address` as a node's own.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(String::as_str)
    }

    /// The pods' range that contains `address`, and whose it is.
    pub(crate) fn range_at(&self, address: IpAddr) -> Option<(IpNet, &str)> {
        let (_, (net, owner)) = self.ranges.range(..=address).next_back()?;
        net.contains(&address).then_some((*net, owner))
    }

    /// What of pods or nodes lies within or around `net`.
    pub(crate) fn within(&self, net: &IpNet) -> Option<String> {
        if let Some((range, owner)) = self.overlap(net) {
            return Some(format!("{range}, or a part of it: the pods' range of node {owner}"));
        }
        let (address, owner) = self.addresses.range(net.network()..=net.broadcast()).next()?;
        Some(format!("{address}, an address of node {owner}"))
    }

    fn admit(&mut self, name: &str, facts: &NodeFacts) -> Result<(), String> {
        // One node is this one, the others are peers.
        if self.nodes.len() > MAX_PEERS {
            return Err(format!("a dataplane takes {MAX_PEERS} other nodes"));
        }
        for &address in &facts.addresses {
            if let Some(owner) = self.addresses.get(&address) {
                return Err(format!("status.addresses: {address} is also an address of node {owner}"));
            }
            if let Some((net, owner)) = self.range_at(address) {
                return Err(format!("status.addresses: {address} lies in {net}, the pods' range of node {owner}"));
            }
        }
        for net in &facts.pod_cidrs {
            if let Some((other, owner)) = self.overlap(net) {
                return Err(format!("spec.podCIDRs: {net} overlaps {other} of node {owner}"));
            }
            if let Some((address, owner)) = self.addresses.range(net.network()..=net.broadcast()).next() {
                return Err(format!("spec.podCIDRs: {net} contains {address}, an address of node {owner}"));
            }
        }
        self.addresses.extend(facts.addresses.iter().map(|a| (*a, name.to_owned())));
        self.ranges.extend(facts.pod_cidrs.iter().map(|net| (net.network(), (*net, name.to_owned()))));
        self.nodes.insert(name.to_owned(), facts.clone());
        Ok(())
    }

    /// The ranges in force are disjoint, so the last that begins within or before `net` is the one to look at.
    fn overlap(&self, net: &IpNet) -> Option<(IpNet, &str)> {
        let (_, (other, owner)) = self.ranges.range(..=net.broadcast()).next_back()?;
        (other.broadcast() >= net.network()).then_some((*other, owner))
    }
}
