//! How long to wait before the next attempt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Waits that double, each shortened by chance, so that a server that comes back is not asked by all at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The first wait at most.
    const LEAST: Duration = Duration::from_millis(400);
    /// The longest wait.
    pub(super) const MOST: Duration = Duration::from_secs(30);

    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let most = Self::LEAST.saturating_mul(1 << self.failures.min(16)).min(Self::MOST);
        self.failures = self.failures.saturating_add(1);
        most / 2 + most.mul_f64(chance() / 2.0)
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// From `time` up to a quarter more.
pub(super) fn jitter(time: Duration) -> Duration {
    time + time.mul_f64(chance() / 4.0)
}

/// From 0 to 1: each state of the standard library's hashes has keys of its own.
fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_are_never_alike() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        for (n, wait) in waits.iter().enumerate() {
            let most = Backoff::LEAST.saturating_mul(1 << n.min(16)).min(Backoff::MOST);
            assert!(*wait >= most / 2 && *wait <= most, "{n}: {wait:?}");
        }
        let late = &waits[10..];
        assert!(late.iter().any(|wait| *wait != late[0]), "{late:?}");
        backoff.reset();
        assert!(backoff.next() <= Backoff::LEAST);
        let around = jitter(Duration::from_secs(100));
        assert!(around >= Duration::from_secs(100) && around <= Duration::from_secs(125));
    }
}
