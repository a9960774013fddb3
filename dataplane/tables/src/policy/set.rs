//! One set, compiled: its rows.

use std::collections::HashMap;
use std::sync::Arc;

use super::intervals::{Intervals, Span};
use super::layout::Layout;
use super::ranges::{self, Ranges};
use super::row::{Bits, Row};
use super::sharded::Sharded;
use super::spec::{Action, PeersSpec, RuleId, RuleSpec, SelectorId};

#[derive(Clone, Default)]
pub(super) struct Set {
    /// As control gave it.
    pub(super) list: Arc<[RuleId]>,
    pub(super) layout: Layout,
    /// The rules that match every address.
    pub(super) base: Row,
    /// The rules that match an address in a pod range without owner, but for those with blocks.
    pub(super) unknown: Row,
    /// Whether an address without owner may be treated in another way in a pod range than outside.
    pub(super) knows_pod_ranges: bool,
    /// The rules that match the addresses of a class, but for blocks. `base` for classes that are not here.
    pub(super) classes: Sharded<u32, Row>,
    /// The rows of `classes`, each once; perhaps some that were.
    pool: Sharded<Row, ()>,
    /// The rules that match what has no ports.
    pub(super) portless: Row,
    /// The rules that match a port, on the line of [`ranges::port`].
    pub(super) ports: Arc<Intervals<u32>>,
    /// The rules with a block that has the address.
    pub(super) nets4: Arc<Intervals<u32>>,
    pub(super) nets6: Arc<Intervals<u128>>,
}

/// A rule and its position.
type Placed = Option<(u32, Arc<RuleSpec>)>;

/// A rule before and after a change, with its position; `None`: not of the set.
pub(super) struct Moved {
    pub(super) before: Placed,
    pub(super) after: Placed,
}

impl Moved {
    /// Whether the two differ in position, or in something that `part` takes from the rule.
    fn differs<'a, T: PartialEq>(&'a self, part: impl Fn(&'a RuleSpec) -> T) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.0 != after.0 || part(&before.1) != part(&after.1),
            _ => true,
        }
    }

    /// Whether the rule's slot in the layout has to change, its position aside.
    pub(super) fn alters_slot(&self) -> bool {
        self.differs(|rule| (rule.tier, rule.action, rule.named, &rule.peers))
    }

    /// Whether a class's row may have to change.
    pub(super) fn alters_classes(&self) -> bool {
        self.differs(|rule| (&rule.peers, rule.named))
    }
}

/// Whether the rule matches every address.
fn is_base(rule: &RuleSpec) -> bool {
    rule.peers == PeersSpec::Any && rule.named.is_none()
}

/// Whether the rule matches an address of a pod range without owner; not by its blocks.
fn matches_unknown(rule: &RuleSpec) -> bool {
    let denies = rule.action == Action::Deny;
    match &rule.peers {
        PeersSpec::Any => denies || rule.named.is_none(),
        PeersSpec::Of { selectors, .. } => denies && !selectors.is_empty(),
    }
}

/// Whether the rule matches an address of these selectors; not by its blocks.
pub(super) fn matches_class(rule: &RuleSpec, selectors: &[SelectorId]) -> bool {
    let has = |selector: &SelectorId| selectors.binary_search(selector).is_ok();
    let peers = match &rule.peers {
        PeersSpec::Any => true,
        PeersSpec::Of { selectors, .. } => selectors.iter().any(has),
    };
    peers && rule.named.as_ref().is_none_or(has)
}

/// Selectors one of which an address's class has if the rule matches it, but for rules that match every address and for
/// blocks.
pub(super) fn triggers(rule: &RuleSpec) -> &[SelectorId] {
    match (&rule.peers, &rule.named) {
        (PeersSpec::Of { selectors, .. }, None) => selectors,
        (PeersSpec::Of { selectors, .. }, Some(_)) if selectors.is_empty() => &[],
        (_, Some(named)) => std::slice::from_ref(named),
        (PeersSpec::Any, None) => &[],
    }
}

/// The positions of the rules that `has` picks, before and after.
fn positions(moved: &[&Moved], has: impl Fn(&RuleSpec) -> bool) -> (Bits, Bits) {
    let pick = |side: fn(&Moved) -> &Placed| -> Bits {
        moved.iter().filter_map(|moved| side(moved).as_ref()).filter(|(_, rule)| has(rule)).map(|(at, _)| *at).collect()
    };
    (pick(|moved| &moved.before), pick(|moved| &moved.after))
}

/// Spans to clear and spans to set.
type Spans<K> = (Vec<Span<K>>, Vec<Span<K>>);

impl Set {
    /// A set whose rules have no positions yet.
    pub(super) fn new(list: Arc<[RuleId]>) -> Set {
        Set { list, ..Set::default() }
    }

    /// What the rules' changes do to the rows, but for rows of classes of which a rule has a selector now: those are
    /// [`Set::set_classes`]'s.
    pub(super) fn move_rules(&mut self, moved: &[Moved]) {
        let all: Vec<&Moved> = moved.iter().collect();
        let (clear, set) = positions(&all, matches_unknown);
        self.unknown = self.unknown.edit(&set, &clear);
        let (clear, set) = positions(&all, |rule| rule.ports.is_none());
        self.portless = self.portless.edit(&set, &clear);
        self.move_ports(moved);
        self.move_nets(moved);
        self.move_peers(moved);
        self.knows_pod_ranges = self.layout.guarded || self.unknown != self.base;
    }

    fn move_peers(&mut self, moved: &[Moved]) {
        let altered: Vec<&Moved> = moved.iter().filter(|moved| moved.alters_classes()).collect();
        let (clear, set) = (positions(&altered, |_| true).0, positions(&altered, is_base).1);
        if clear.is_empty() && set.is_empty() {
            return;
        }
        self.base = self.base.edit(&set, &clear);
        // Classes share rows: each is edited once.
        let mut edited: HashMap<usize, Row> = HashMap::new();
        let mut rows = Vec::new();
        for (class, row) in self.classes.iter() {
            let new = edited.entry(row.identity()).or_insert_with(|| row.edit(&set, &clear));
            if !new.is(row) {
                rows.push((*class, new.clone()));
            }
        }
        for (class, row) in rows {
            self.set_class(class, row);
        }
    }

    fn move_ports(&mut self, moved: &[Moved]) {
        let spans = |side: &Placed, spans: &mut Vec<Span<u32>>| {
            if let Some((at, rule)) = side {
                let ranges = ranges::ports(rule).unwrap_or_else(|| vec![(u32::MIN, u32::MAX)]);
                spans.extend(ranges.into_iter().map(|(first, last)| (first, last, *at)));
            }
        };
        let (mut clear, mut set) = (Vec::new(), Vec::new());
        for moved in moved.iter().filter(|moved| moved.differs(|rule| &rule.ports)) {
            spans(&moved.before, &mut clear);
            spans(&moved.after, &mut set);
        }
        if !clear.is_empty() || !set.is_empty() {
            self.ports = Arc::new(self.ports.edit(&clear, &set));
        }
    }

    fn move_nets(&mut self, moved: &[Moved]) {
        let (mut v4, mut v6): (Spans<u32>, Spans<u128>) = Default::default();
        for moved in moved.iter().filter(|moved| moved.differs(|rule| &rule.peers)) {
            for (side, v4, v6) in [(&moved.before, &mut v4.0, &mut v6.0), (&moved.after, &mut v4.1, &mut v6.1)] {
                let Some((at, rule)) = side else { continue };
                let (nets4, nets6) = ranges::nets(rule);
                extend(v4, nets4, *at);
                extend(v6, nets6, *at);
            }
        }
        if !v4.0.is_empty() || !v4.1.is_empty() {
            self.nets4 = Arc::new(self.nets4.edit(&v4.0, &v4.1));
        }
        if !v6.0.is_empty() || !v6.1.is_empty() {
            self.nets6 = Arc::new(self.nets6.edit(&v6.0, &v6.1));
        }
    }

    /// Adds positions to the rows of classes: (class, position), sorted.
    pub(super) fn set_classes(&mut self, bits: &[(u32, u32)]) {
        for bits in bits.chunk_by(|a, b| a.0 == b.0) {
            let class = bits[0].0;
            let positions = bits.iter().map(|(_, position)| *position).collect();
            let row = self.classes.get(&class).unwrap_or(&self.base).edit(&positions, &Bits::default());
            self.set_class(class, row);
        }
    }

    fn set_class(&mut self, class: u32, row: Row) {
        if row == self.base {
            self.classes.remove(&class);
            return;
        }
        let row = match self.pool.get_key(&row) {
            Some(pooled) => pooled.clone(),
            None => {
                self.pool.insert(row.clone(), ());
                row
            }
        };
        self.classes.insert(class, row);
        if self.pool.len() > 2 * self.classes.len() + 16 {
            self.pool = Sharded::default();
            for (_, row) in self.classes.iter() {
                self.pool.insert(row.clone(), ());
            }
        }
    }

    /// No address is of the class any longer.
    pub(super) fn forget_class(&mut self, class: u32) {
        self.classes.remove(&class);
    }

    /// Bytes; rows that the set shares with others of its own count once.
    pub(super) fn memory(&self) -> usize {
        let mut rows = HashMap::new();
        let singles = [&self.base, &self.unknown, &self.portless];
        let pooled = self.pool.iter().map(|(row, ())| row);
        let cut = self.ports.rows().chain(self.nets4.rows()).chain(self.nets6.rows());
        for row in singles.into_iter().chain(pooled).chain(cut) {
            rows.insert(row.identity(), row.memory());
        }
        rows.values().sum::<usize>()
            + size_of::<Set>()
            + size_of_val(&*self.list)
            + self.layout.memory()
            + self.classes.memory()
            + self.pool.memory()
            + self.ports.memory()
            + self.nets4.memory()
            + self.nets6.memory()
    }
}

fn extend<K>(spans: &mut Vec<Span<K>>, ranges: Ranges<K>, position: u32) {
    spans.extend(ranges.into_iter().map(|(first, last)| (first, last, position)));
}
