//! How often a rule decided.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::mem;

/// Threads that count by themselves; those that come later share the last place.
const OWN: usize = 7;

/// A counter with places of their own for the first threads that count, so that counting is a load and a store: a locked
/// addition costs as much as a fifth of a decision.
#[derive(Debug, Default)]
pub(super) struct Hits([AtomicU64; OWN + 1]);

/// The next thread's place.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The place of this thread in all counters.
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The place of the calling thread.
#[inline(always)]
fn place() -> usize {
    PLACE.with(|place| {
        if place.get() == usize::MAX {
            // Places are not given back, so no two threads ever have the same one of their own.
            place.set(NEXT.fetch_add(1, Ordering::Relaxed).min(OWN));
        }
        place.get()
    })
}

impl Hits {
    /// One more.
    #[inline(always)]
    pub(super) fn count(&self) {
        let place = place();
        let counter = &self.0[place.min(OWN)];
        if place < OWN {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        } else {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks for the line that [`Hits::count`] writes.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        mem::prefetch(&self.0[0]);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().fold(0, |total, counter| total.wrapping_add(counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hit_is_lost_among_many_threads() {
        let hits = Hits::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * OWN {
                scope.spawn(|| (0..10_000).for_each(|_| hits.count()));
            }
        });
        assert_eq!(hits.total(), 2 * OWN as u64 * 10_000);
    }
}
