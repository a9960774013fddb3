//! Where a set's rules stand: the positions of its rows' bits, with gaps for rules to come.

use std::collections::HashSet;
use std::sync::Arc;

use super::hits::Hits;
use super::row::{self, POSITIONS};
use super::sharded::Sharded;
use super::spec::{Action, PeersSpec, RuleId, SelectorId, Tier};
use super::{Policies, Rule};

/// How many rules a set can have.
pub const MAX_RULES: usize = POSITIONS;

/// Each so-manieth place stays free when all rules are placed anew.
const GAP: usize = 8;
/// Rules that make room for others before all are placed anew.
const PUSHED: usize = 64;

/// A rule at its position.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) rule: RuleId,
    pub(super) tier: Tier,
    pub(super) action: Action,
    /// The binding that the peer must match although a row of blocks has the bit: such rows know no owners.
    pub(super) guard: Option<SelectorId>,
    /// Written by workers, relaxed; read by control.
    pub(super) hits: Arc<Hits>,
}

impl Slot {
    fn new(id: RuleId, rule: &Rule) -> Slot {
        let blocks = matches!(&rule.spec.peers, PeersSpec::Of { nets, .. } if !nets.is_empty());
        Slot {
            rule: id,
            tier: rule.spec.tier,
            action: rule.spec.action,
            guard: rule.spec.named.filter(|_| blocks),
            hits: Arc::clone(&rule.hits),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Layout {
    /// By position.
    pub(super) slots: Arc<[Option<Slot>]>,
    /// The position of each rule.
    places: Sharded<u32, u32>,
    /// Of each tier, where those after it begin.
    after: [u32; 3],
    /// Where the tier NetworkPolicy begins, if a rule is of it.
    pub(super) network_policy: Option<u32>,
    /// Whether some rule has a guard.
    pub(super) guarded: bool,
    /// Chunks of a row that has all positions.
    pub(super) chunks: usize,
}

impl Layout {
    /// The rules of a list in the order of judging, each once.
    pub(super) fn order(list: &[RuleId], policies: &Policies) -> Vec<RuleId> {
        let tier = |rule: &RuleId| policies.rules.get(&rule.0).map(|rule| rule.spec.tier);
        let mut order: Vec<(Option<Tier>, RuleId)> = list.iter().map(|rule| (tier(rule), *rule)).collect();
        order.sort_by_key(|(tier, _)| *tier);
        let mut order: Vec<RuleId> = order.into_iter().map(|(_, rule)| rule).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|two| two[0] == two[1]) {
            let mut seen = HashSet::new();
            order.retain(|rule| seen.insert(*rule));
        }
        order
    }

    /// Gives the rules of `order` positions, near to those they have here; `true`: all are placed anew, and nothing
    /// that was built for the old positions holds.
    pub(super) fn placed(&self, order: &[RuleId], policies: &Policies) -> (Layout, bool) {
        let near = place(order.iter().map(|rule| self.position(*rule)).collect());
        let fresh = near.is_none();
        let positions = near.unwrap_or_else(|| spread(order.len()));
        let mut slots: Vec<Option<Slot>> = vec![None; positions.last().map_or(0, |last| *last as usize + 1)];
        let mut places = if fresh { Sharded::default() } else { self.places.clone() };
        for (rule, position) in order.iter().zip(positions) {
            slots[position as usize] = policies.rules.get(&rule.0).map(|found| Slot::new(*rule, found));
            if places.get(&rule.0) != Some(&position) {
                places.insert(rule.0, position);
            }
        }
        let gone = |(rule, position): &&(u32, u32)| {
            slots.get(*position as usize).and_then(Option::as_ref).is_none_or(|slot| slot.rule.0 != *rule)
        };
        for (rule, _) in places.clone().iter().filter(gone) {
            places.remove(rule);
        }
        (Layout::new(slots, places), fresh)
    }

    /// The same positions for rules of other content, but of the same tier.
    pub(super) fn patched(&self, changed: impl Iterator<Item = (RuleId, u32)>, policies: &Policies) -> Layout {
        let mut slots = self.slots.to_vec();
        for (rule, position) in changed {
            slots[position as usize] = policies.rules.get(&rule.0).map(|found| Slot::new(rule, found));
        }
        Layout::new(slots, self.places.clone())
    }

    fn new(slots: Vec<Option<Slot>>, places: Sharded<u32, u32>) -> Layout {
        let rules = || slots.iter().enumerate().filter_map(|(at, slot)| Some((at as u32, slot.as_ref()?)));
        let first = |tiers: &[Tier]| rules().find(|(_, slot)| tiers.contains(&slot.tier)).map(|(at, _)| at);
        let network_policy = first(&[Tier::NetworkPolicy]);
        let end = slots.len() as u32;
        let after = [first(&[Tier::NetworkPolicy, Tier::Baseline]), first(&[Tier::Baseline]), None];
        Layout {
            network_policy,
            after: after.map(|at| at.unwrap_or(end)),
            guarded: rules().any(|(_, slot)| slot.guard.is_some()),
            chunks: row::chunks(slots.len()),
            slots: slots.into(),
            places,
        }
    }

    pub(super) fn position(&self, rule: RuleId) -> Option<u32> {
        self.places.get(&rule.0).copied()
    }

    /// Where the tiers after this one begin.
    #[inline(always)]
    pub(super) fn after(&self, tier: Tier) -> usize {
        self.after[tier as usize] as usize
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = (RuleId, u32)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((slot.as_ref()?.rule, at as u32)))
    }

    /// Bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.slots) + self.places.memory()
    }
}

/// Positions of so many rules, with gaps if there is room.
fn spread(rules: usize) -> Vec<u32> {
    let gap = |i: usize| i + i / (GAP - 1);
    let gaps = rules == 0 || gap(rules - 1) < POSITIONS;
    (0..rules).map(|i| if gaps { gap(i) } else { i } as u32).collect()
}

/// Ascending positions for rules of which some have one already: as many as possible keep it. `None` if it is better
/// to place all anew.
fn place(mut at: Vec<Option<u32>>) -> Option<Vec<u32>> {
    keep_ascending(&mut at);
    if at.iter().flatten().count() * 2 < at.len() {
        return None;
    }
    let (mut from, mut pushed) = (0, 0);
    while let Some(start) = (from..at.len()).find(|i| at[*i].is_none()) {
        // The run without positions, and the places between its neighbours.
        let mut end = (start..at.len()).find(|i| at[*i].is_some()).unwrap_or(at.len());
        let low = start.checked_sub(1).and_then(|i| at[i]).map_or(0, |position| position as usize + 1);
        let room = loop {
            let run = end - start;
            let high =
                at.get(end).copied().flatten().map_or((low + run * GAP / (GAP - 1)).min(POSITIONS), |p| p as usize);
            if high >= low + run {
                break high - low;
            }
            pushed += 1;
            if end == at.len() || pushed > PUSHED {
                return None;
            }
            at[end] = None;
            end = (end..at.len()).find(|i| at[*i].is_some()).unwrap_or(at.len());
        };
        let run = end - start;
        for (i, place) in at[start..end].iter_mut().enumerate() {
            *place = Some((low + (2 * i + 1) * room / (2 * run)) as u32);
        }
        from = end;
    }
    let all: Vec<u32> = at.into_iter().flatten().collect();
    let sparse = all.last().is_some_and(|last| *last as usize > 2 * all.len() + 512);
    (!sparse).then_some(all)
}

/// Leaves the longest ascending part of the positions.
fn keep_ascending(at: &mut [Option<u32>]) {
    if at.iter().flatten().is_sorted() {
        return;
    }
    // tails[n]: the index of the least position that ends an ascending part of n + 1 positions.
    let mut tails: Vec<usize> = Vec::new();
    let mut before = vec![None; at.len()];
    for i in (0..at.len()).filter(|i| at[*i].is_some()) {
        let length = tails.partition_point(|tail| at[*tail] < at[i]);
        before[i] = length.checked_sub(1).map(|n| tails[n]);
        if length == tails.len() { tails.push(i) } else { tails[length] = i }
    }
    let mut keep = vec![false; at.len()];
    let mut next = tails.last().copied();
    while let Some(i) = next {
        keep[i] = true;
        next = before[i];
    }
    for (place, keep) in at.iter_mut().zip(keep) {
        *place = place.filter(|_| keep);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn places_ascend_and_most_stay(
            gaps in proptest::collection::vec(1u32..4, 1..60),
            moves in proptest::collection::vec((0usize..60, 0usize..60), 0..6),
            fresh in proptest::collection::vec(0usize..60, 0..20),
        ) {
            let mut next = 0;
            let mut at: Vec<Option<u32>> = gaps.iter().map(|gap| { next += gap; Some(next) }).collect();
            for (from, to) in &moves {
                let moved = at.remove(from % at.len());
                at.insert(to % (at.len() + 1), moved);
            }
            for place in &fresh {
                at.insert(place % (at.len() + 1), None);
            }
            let had = at.iter().flatten().count();
            if let Some(placed) = place(at.clone()) {
                prop_assert_eq!(placed.len(), at.len());
                prop_assert!(placed.windows(2).all(|two| two[0] < two[1]));
                prop_assert!((placed[placed.len() - 1] as usize) < POSITIONS);
                if fresh.is_empty() {
                    let kept = at.iter().zip(&placed).filter(|(old, new)| **old == Some(**new)).count();
                    // Whoever moved, and who stood where it goes.
                    prop_assert!(kept + moves.len() * (1 + PUSHED) >= had);
                }
            }
        }

        #[test]
        fn one_new_rule_moves_few(rules in 20usize..200, new in 0usize..200) {
            let old = spread(rules);
            let mut at: Vec<Option<u32>> = old.iter().copied().map(Some).collect();
            at.insert(new % (rules + 1), None);
            let placed = place(at.clone()).expect("there are gaps");
            prop_assert!(placed.windows(2).all(|two| two[0] < two[1]));
            let kept = at.iter().zip(&placed).filter(|(old, new)| **old == Some(**new)).count();
            prop_assert!(kept + GAP >= rules);
        }
    }

    #[test]
    fn full_rows_are_placed_without_gaps() {
        assert_eq!(spread(POSITIONS).last(), Some(&(POSITIONS as u32 - 1)));
        assert_eq!(place(vec![Some(POSITIONS as u32 - 1), None]), None, "no room at the end");
    }
}
