//! The decision about a flow.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::layout::Slot;
use super::ranges;
use super::row;
use super::spec::{Action, ClassId, RuleId, RuleSetId, SelectorId};
use super::{Point, Policies};

/// What a flow's server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct L4 {
    /// The protocol's number (IANA).
    pub protocol: u8,
    /// The server's port in host byte order; `None`: the protocol has no ports (ICMP, other).
    pub port: Option<u16>,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Whether the flow is allowed.
    pub accept: bool,
    /// The rule that decided. `None`: no rule did; a flow that passes all rules, or the tier NetworkPolicy on its way
    /// from a pod to itself, is allowed; one that is asked of a set that does not exist is not.
    pub rule: Option<RuleId>,
}

impl Policies {
    /// Decides about a flow between a pod that has `set` in this direction and `peer`: the client's address before
    /// masquerade for ingress, the server's after Service translation for egress. `own`: client and server are the same
    /// pod. Counts a hit of the rule that decided.
    ///
    /// No allocation, no locks.
    #[inline]
    pub fn judge(&self, set: RuleSetId, peer: IpAddr, l4: L4, own: bool) -> Decision {
        let (accept, slot) = self.decide(set, peer, l4, own);
        if let Some(slot) = slot {
            slot.hits.fetch_add(1, Ordering::Relaxed);
        }
        Decision { accept, rule: slot.map(|slot| slot.rule) }
    }

    /// [`Policies::judge`] about an imaginary flow: counts nothing.
    pub fn peek(&self, set: RuleSetId, peer: IpAddr, l4: L4, own: bool) -> Decision {
        let (accept, slot) = self.decide(set, peer, l4, own);
        Decision { accept, rule: slot.map(|slot| slot.rule) }
    }

    #[inline(always)]
    fn decide(&self, set: RuleSetId, peer: IpAddr, l4: L4, own: bool) -> (bool, Option<&Slot>) {
        let Some(set) = self.sets.get(&set.0) else { return (false, None) };
        let ports = match l4.port {
            Some(port) => set.ports.get(ranges::port(l4.protocol, port)),
            None => &set.portless,
        };
        let point = Point::from(peer);
        let known = self.known(&point);
        let class = match known {
            Some(class) => set.classes.get(&class.0).unwrap_or(&set.base),
            None if set.knows_pod_ranges() && self.in_pod_range(&point) => &set.unknown,
            None => &set.base,
        };
        let net = match point {
            Point::V4(address) => set.nets4.get(address),
            Point::V6(address) => set.nets6.get(address),
        };
        let own = if own { set.layout.network_policy } else { None };
        let mut from = 0;
        while let Some(at) = row::first(ports, class, net, from) {
            // Rules ascend by tier: whatever stands there or later, the tier NetworkPolicy has been reached.
            if own.is_some_and(|own| at >= own as usize) {
                return (true, None);
            }
            let Some(slot) = set.layout.slots.get(at).and_then(Option::as_ref) else { break };
            if slot.guard.is_some_and(|guard| !self.owner_matches(known, &point, guard, slot.action)) {
                from = at + 1;
                continue;
            }
            match slot.action {
                Action::Accept => return (true, Some(slot)),
                Action::Deny => return (false, Some(slot)),
                Action::Pass => from = set.layout.after(slot.tier),
            }
        }
        (true, None)
    }

    #[inline(always)]
    fn known(&self, point: &Point) -> Option<ClassId> {
        match point {
            Point::V4(address) => self.addresses4.get(address),
            Point::V6(address) => self.addresses6.get(address),
        }
        .copied()
    }

    fn in_pod_range(&self, point: &Point) -> bool {
        match point {
            Point::V4(address) => !self.pod_ranges.0.get(*address).is_empty(),
            Point::V6(address) => !self.pod_ranges.1.get(*address).is_empty(),
        }
    }

    /// Whether an address that a rule's block has also matches the rule's named port.
    fn owner_matches(&self, known: Option<ClassId>, point: &Point, binding: SelectorId, action: Action) -> bool {
        match known {
            Some(class) => {
                self.classes.get(&class.0).is_some_and(|class| class.selectors.binary_search(&binding).is_ok())
            }
            None => action == Action::Deny && self.in_pod_range(point),
        }
    }

    /// The class of an address.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        let point = Point::from(address);
        self.known(&point).unwrap_or_else(
            || {
                if self.in_pod_range(&point) { ClassId::UNKNOWN } else { ClassId::OUTSIDE }
            },
        )
    }
}
