//! Whose an address is.

use std::collections::HashMap;
use std::net::IpAddr;

use super::pods::{PodId, Pods};

/// Who says that an address is theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// The endpoint of this node that has it: nobody else can.
    pub(super) endpoint: Option<String>,
    /// Nodes, by name.
    pub(super) nodes: Vec<String>,
    /// Pods, and when they said so first.
    pods: Vec<(PodId, u64)>,
}

/// All claims, by address.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<IpAddr, Claims>);

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner<'o> {
    Endpoint(&'o str),
    Node(&'o [String]),
    Pod(PodId),
}

impl Owners {
    /// Who has an address. Of several pods that claim it, the one that is not about to end, then the one that came to
    /// it last: an address is used again before everybody has said goodbye.
    pub(super) fn owner(&self, address: IpAddr, pods: &Pods) -> Option<Owner<'_>> {
        let claims = self.0.get(&address)?;
        if let Some(endpoint) = &claims.endpoint {
            return Some(Owner::Endpoint(endpoint));
        }
        if !claims.nodes.is_empty() {
            return Some(Owner::Node(&claims.nodes));
        }
        let order = |(id, moment): &&(PodId, u64)| {
            let facts = pods.get(*id).map(|pod| &pod.facts);
            facts.map(|facts| (!facts.terminating, *moment, facts.created.clone(), facts.name.clone()))
        };
        claims.pods.iter().max_by_key(order).map(|(id, _)| Owner::Pod(*id))
    }

    /// A pod's addresses change.
    pub(super) fn pod(&mut self, id: PodId, moment: u64, before: &[IpAddr], now: &[IpAddr]) {
        for address in before.iter().filter(|address| !now.contains(address)) {
            self.edit(*address, |claims| claims.pods.retain(|(other, _)| *other != id));
        }
        for address in now.iter().filter(|address| !before.contains(address)) {
            self.edit(*address, |claims| {
                claims.pods.retain(|(other, _)| *other != id);
                claims.pods.push((id, moment));
            });
        }
    }

    /// An endpoint of this node has an address, or no longer.
    pub(super) fn endpoint(&mut self, address: IpAddr, endpoint: Option<&str>) {
        self.edit(address, |claims| claims.endpoint = endpoint.map(str::to_owned));
    }

    /// A node has an address, or no longer.
    pub(super) fn node(&mut self, address: IpAddr, node: &str, has: bool) {
        self.edit(address, |claims| {
            claims.nodes.retain(|other| other != node);
            if has {
                claims.nodes.push(node.to_owned());
                claims.nodes.sort_unstable();
            }
        });
    }

    fn edit(&mut self, address: IpAddr, change: impl FnOnce(&mut Claims)) {
        let claims = self.0.entry(address).or_default();
        change(claims);
        if *claims == Claims::default() {
            self.0.remove(&address);
        }
    }
}
