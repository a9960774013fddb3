//! How long it takes from a change to its being in force.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::desired::Version;

/// The most changes that are followed; of more the oldest count for all behind.
const MAX: usize = 4096;
/// The most times of one change that are followed: a change may be of many slices at once.
const MAX_TRIGGERS: usize = 1024;

/// Times changes of the configuration.
#[derive(Debug)]
pub struct Programming {
    waiting: Mutex<VecDeque<Change>>,
    last: Mutex<Option<SystemTime>>,
    /// From the moment when the agent saw a change.
    pub(super) seen: Histogram,
    /// From the time that the object itself states.
    pub(super) stated: Histogram,
}

#[derive(Debug)]
struct Change {
    version: Version,
    seen: Instant,
    /// When the Services' endpoints changed, as the controller that wrote the slices says.
    stated: Vec<SystemTime>,
}

impl Default for Programming {
    fn default() -> Self {
        // From half a millisecond to two minutes.
        let histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 18));
        Programming { waiting: Mutex::default(), last: Mutex::default(), seen: histogram(), stated: histogram() }
    }
}

impl Programming {
    /// `version` has to be in force from now on.
    pub fn changed(&self, version: Version, mut stated: Vec<SystemTime>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        stated.truncate(MAX_TRIGGERS);
        if waiting.len() < MAX {
            waiting.push_back(Change { version, seen: Instant::now(), stated });
        }
    }

    /// `version` is in force, and so are all before it.
    pub fn applied(&self, version: Version) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.front().is_some_and(|change| change.version <= version) {
            let Some(change) = waiting.pop_front() else { return };
            self.seen.observe(now.saturating_duration_since(change.seen).as_secs_f64());
            for stated in change.stated {
                // Clocks of two machines: what lies ahead took no time.
                self.stated.observe(clock.duration_since(stated).unwrap_or_default().as_secs_f64());
            }
        }
    }

    /// When anything came into force last.
    pub fn last_applied(&self) -> Option<SystemTime> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the oldest change has been waiting.
    pub fn oldest(&self) -> Option<Duration> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.front().map(|change| change.seen.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::value;

    #[test]
    fn each_change_counts_once_when_it_is_in_force() {
        let programming = Programming::default();
        assert_eq!(programming.oldest(), None);
        programming.changed(1, Vec::new());
        programming
            .changed(2, vec![SystemTime::now() - Duration::from_secs(3), SystemTime::now() + Duration::from_secs(9)]);
        programming.changed(3, Vec::new());
        assert!(programming.oldest().is_some());
        programming.applied(2);
        programming.applied(2);
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("seen", "-", programming.seen.clone());
        registry.register("stated", "-", programming.stated.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert_eq!(value(&text, "seen_count"), 2.0, "{text}");
        assert_eq!(value(&text, "stated_count"), 2.0);
        assert!((3.0..60.0).contains(&value(&text, "stated_sum")), "{text}");
        assert!(programming.oldest().is_some(), "the third waits");
        programming.applied(9);
        assert_eq!(programming.oldest(), None);
    }
}
