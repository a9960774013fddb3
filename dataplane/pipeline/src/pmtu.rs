//! Path MTUs to peers that turned out narrower than our uplink.

use podplane_tables::{Millis, VtepIndex};

use crate::snapshot::Vtep;

/// How long a learnt MTU holds (RFC 1191 section 6.3, RFC 8201 section 4).
pub(crate) const LIFETIME: Millis = 10 * 60 * 1000;

/// What one worker learnt, by VTEP.
#[derive(Debug)]
pub(crate) struct Pmtu {
    learned: Box<[Learned]>,
    /// Nothing was ever learnt: the usual case, which need not touch the table.
    empty: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    /// 0: nothing.
    mtu: u16,
    /// Which of the index's successive users it is about.
    since: u32,
    until: Millis,
}

impl Pmtu {
    pub(crate) fn new() -> Pmtu {
        Pmtu { learned: vec![Learned::default(); VtepIndex::MAX].into(), empty: true }
    }

    /// Notes that the path takes inner packets of `mtu` bytes at most.
    pub(crate) fn learn(&mut self, vtep: VtepIndex, since: u32, mtu: u16, now: Millis) {
        if let Some(entry) = self.learned.get_mut(vtep.index()) {
            *entry = Learned { mtu, since, until: now.wrapping_add(LIFETIME) };
            self.empty = false;
        }
    }

    /// The longest inner packet towards a peer.
    #[inline]
    pub(crate) fn of(&mut self, vtep: VtepIndex, entry: &Vtep, now: Millis) -> u16 {
        if self.empty { entry.mtu } else { self.lookup(vtep, entry, now) }
    }

    #[cold]
    fn lookup(&mut self, vtep: VtepIndex, entry: &Vtep, now: Millis) -> u16 {
        let Some(learned) = self.learned.get_mut(vtep.index()).filter(|l| l.mtu != 0) else { return entry.mtu };
        // Not "has the time come": the clock wraps, and after 25 days without a packet it would lie ahead again.
        if learned.since != entry.since || !(1..=LIFETIME).contains(&learned.until.wrapping_sub(now)) {
            learned.mtu = 0;
            return entry.mtu;
        }
        learned.mtu.min(entry.mtu)
    }
}
