//! Nodes, as far as policy is concerned: whom `nodes` selects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::labels::LabelMap;
use super::selectors::{SelectorId, Selectors};
use crate::k8s;
use crate::node::is_unicast;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    id: u32,
    created: String,
    labels: LabelMap,
    /// Of all types: `nodes` goes by all addresses of a node's status.
    pub(super) addresses: Vec<IpAddr>,
    /// Selectors of nodes that it matches, sorted.
    pub(super) matched: Vec<SelectorId>,
}

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_name: BTreeMap<String, NodeState>,
    last: u32,
}

impl Nodes {
    /// Takes a node's object; answers its addresses of before, and whether anything changed.
    pub(super) fn put(&mut self, node: &k8s::Node) -> (Vec<IpAddr>, bool) {
        let metadata = &node.metadata;
        let listed = node.status.addresses.iter().flatten().filter_map(|address| address.address.parse().ok());
        let mut addresses: Vec<IpAddr> = listed.filter(|address| is_unicast(*address)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let labels = metadata.labels.clone().unwrap_or_default();
        let created = metadata.creation_timestamp.clone().unwrap_or_default();
        let last = &mut self.last;
        let state = self.by_name.entry(metadata.name.clone()).or_insert_with(|| {
            *last += 1;
            NodeState { id: *last, ..NodeState::default() }
        });
        let before = state.addresses.clone();
        let changed = before != addresses || state.labels != labels || state.created != created;
        (state.addresses, state.labels, state.created) = (addresses, labels, created);
        (before, changed)
    }

    pub(super) fn remove(&mut self, name: &str, selectors: &mut Selectors) -> Option<NodeState> {
        let state = self.by_name.remove(name)?;
        selectors.follow(state.id, &state.matched, &[]);
        Some(state)
    }

    pub(super) fn get(&self, name: &str) -> Option<&NodeState> {
        self.by_name.get(name)
    }

    /// Of several nodes that claim an address, the oldest.
    pub(super) fn oldest<'n>(&self, names: &'n [String]) -> Option<&'n str> {
        let known = names.iter().filter_map(|name| Some((&self.by_name.get(name)?.created, name)));
        known.min().map(|(_, name)| name.as_str())
    }

    /// Brings up to date who matches what.
    pub(super) fn rematch(&mut self, selectors: &mut Selectors) {
        for node in self.by_name.values_mut() {
            let matching = selectors.of_nodes().filter(|(_, labels)| labels.matches(&node.labels));
            let mut now: Vec<SelectorId> = matching.map(|(id, _)| id).collect();
            now.sort_unstable();
            let before = std::mem::replace(&mut node.matched, now);
            selectors.follow(node.id, &before, &node.matched);
        }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.by_name.values().flat_map(|node| node.addresses.iter().copied())
    }
}
