//! The decision about a flow.

use std::net::IpAddr;

use super::layout::Slot;
use super::ranges;
use super::row::Rows;
use super::set::Set;
use super::spec::{Action, ClassId, RuleId, RuleSetId, SelectorId};
use super::{Point, Policies};
use crate::mem;

/// Queries that [`Policies::judge_bulk`] works on at the same time.
const BURST: usize = 32;

/// What a flow's server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct L4 {
    /// The protocol's number (IANA).
    pub protocol: u8,
    /// The server's port in host byte order; `None`: the protocol has no ports (ICMP, other).
    pub port: Option<u16>,
}

/// A flow to decide about: what [`Policies::judge`] is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// The pod's set in this direction.
    pub set: RuleSetId,
    /// The other end.
    pub peer: IpAddr,
    /// What the server is asked for.
    pub l4: L4,
    /// Client and server are the same pod.
    pub own: bool,
    /// The other end is not believed to be the owner of its address: selectors that accept or pass do not match, those
    /// that deny do if the address has an owner or lies in a pod range.
    pub stranger: bool,
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

impl Decision {
    /// Of a set that does not exist: nothing is known to allow the flow.
    const NO_SET: Decision = Decision { accept: false, rule: None };
}

/// A flow with what decides about it.
#[derive(Clone, Copy)]
struct Case<'a> {
    set: &'a Set,
    rows: Rows<'a>,
    known: Option<ClassId>,
    /// Nobody is known to own the address who could be the other end, and it is one that somebody should own.
    suspect: bool,
    own: bool,
}

impl Policies {
    /// Decides about a flow between a pod that has `set` in this direction and `peer`: the client's address before
    /// masquerade for ingress, the server's after Service translation for egress. Counts a hit of the rule that decided.
    ///
    /// No allocation, no locks.
    #[inline]
    pub fn judge(&self, query: &Query) -> Decision {
        let Some(set) = self.sets.get(&query.set.0) else { return Decision::NO_SET };
        let point = Point::from(query.peer);
        let (accept, slot) = self.settle(&self.case(set, point, self.known(point), query));
        if let Some(slot) = slot {
            slot.hits.count();
        }
        Decision { accept, rule: slot.map(|slot| slot.rule) }
    }

    /// [`Policies::judge`] for many flows: quicker, for what one waits for the others have time to fetch.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn judge_bulk(&self, queries: &[Query], decisions: &mut [Decision]) {
        assert_eq!(queries.len(), decisions.len());
        for (queries, decisions) in queries.chunks(BURST).zip(decisions.chunks_mut(BURST)) {
            mem::vectorized(
                #[inline(always)]
                || self.judge_burst(queries, decisions),
            );
        }
    }

    #[inline(always)]
    fn judge_burst(&self, queries: &[Query], decisions: &mut [Decision]) {
        let mut sets: [Option<(&Set, Point, Option<ClassId>)>; BURST] = [None; BURST];
        let mut cases: [Option<Case<'_>>; BURST] = [None; BURST];
        let mut slots: [Option<&Slot>; BURST] = [None; BURST];
        for query in queries {
            match Point::from(query.peer) {
                Point::V4(address) => self.addresses4.prefetch(&address),
                Point::V6(address) => self.addresses6.prefetch(&address),
            }
        }
        for (query, found) in queries.iter().zip(&mut sets) {
            let Some(set) = self.sets.get(&query.set.0) else { continue };
            let point = Point::from(query.peer);
            let known = self.known(point);
            if let Some(class) = known {
                set.classes.prefetch(&class.0);
            }
            *found = Some((set, point, known));
        }
        for ((query, found), case) in queries.iter().zip(sets).zip(&mut cases) {
            let Some((set, point, known)) = found else { continue };
            let found = self.case(set, point, known, query);
            found.rows.prefetch();
            *case = Some(found);
        }
        for ((case, slot), decision) in cases.iter().zip(&mut slots).zip(&mut *decisions) {
            let Some(case) = case else {
                *decision = Decision::NO_SET;
                continue;
            };
            let (accept, found) = self.settle(case);
            if let Some(found) = found {
                found.hits.prefetch();
            }
            *slot = found;
            *decision = Decision { accept, rule: found.map(|slot| slot.rule) };
        }
        for slot in slots.iter().flatten() {
            slot.hits.count();
        }
    }

    /// [`Policies::judge`] about an imaginary flow: counts nothing.
    pub fn peek(&self, query: &Query) -> Decision {
        let Some(set) = self.sets.get(&query.set.0) else { return Decision::NO_SET };
        let point = Point::from(query.peer);
        let (accept, slot) = self.settle(&self.case(set, point, self.known(point), query));
        Decision { accept, rule: slot.map(|slot| slot.rule) }
    }

    /// Finds the rows.
    #[inline(always)]
    fn case<'a>(&'a self, set: &'a Set, point: Point, known: Option<ClassId>, query: &Query) -> Case<'a> {
        let ports = match query.l4.port {
            Some(port) => set.ports.get(ranges::port(query.l4.protocol, port)),
            None => &set.portless,
        };
        let claimed = known.is_some() && query.stranger;
        let known = known.filter(|_| !query.stranger);
        let suspect = known.is_none() && set.knows_pod_ranges && (claimed || self.in_pod_range(point));
        let class = match known {
            Some(class) => set.classes.get(&class.0).unwrap_or(&set.base),
            None if suspect => &set.unknown,
            None => &set.base,
        };
        let net = match point {
            Point::V4(address) => set.nets4.get(address),
            Point::V6(address) => set.nets6.get(address),
        };
        let rows = Rows { ports, class, net, chunks: set.layout.chunks };
        Case { set, rows, known, suspect, own: query.own }
    }

    /// Decides by the rows.
    #[inline(always)]
    fn settle<'a>(&self, case: &Case<'a>) -> (bool, Option<&'a Slot>) {
        let layout = &case.set.layout;
        let own = if case.own { layout.network_policy } else { None };
        let mut from = 0;
        while let Some(at) = case.rows.first(from) {
            // Rules ascend by tier: whatever stands there or later, the tier NetworkPolicy has been reached.
            if own.is_some_and(|own| at >= own as usize) {
                return (true, None);
            }
            let Some(slot) = layout.slots.get(at).and_then(Option::as_ref) else { break };
            if slot.guard.is_some_and(|guard| !self.owner_matches(case, guard, slot.action)) {
                from = at + 1;
                continue;
            }
            match slot.action {
                Action::Accept => return (true, Some(slot)),
                Action::Deny => return (false, Some(slot)),
                Action::Pass => from = layout.after(slot.tier),
            }
        }
        (true, None)
    }

    #[inline(always)]
    fn known(&self, point: Point) -> Option<ClassId> {
        match point {
            Point::V4(address) => self.addresses4.get(&address),
            Point::V6(address) => self.addresses6.get(&address),
        }
        .copied()
    }

    fn in_pod_range(&self, point: Point) -> bool {
        match point {
            Point::V4(address) => !self.pod_ranges.0.get(address).is_empty(),
            Point::V6(address) => !self.pod_ranges.1.get(address).is_empty(),
        }
    }

    /// Whether an address that a rule's block has also matches the rule's named port.
    fn owner_matches(&self, case: &Case<'_>, binding: SelectorId, action: Action) -> bool {
        match case.known {
            Some(class) => {
                self.classes.get(&class.0).is_some_and(|class| class.selectors.binary_search(&binding).is_ok())
            }
            None => action == Action::Deny && case.suspect,
        }
    }

    /// The class of an address.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        let point = Point::from(address);
        self.known(point).unwrap_or_else(|| if self.in_pod_range(point) { ClassId::UNKNOWN } else { ClassId::OUTSIDE })
    }
}
