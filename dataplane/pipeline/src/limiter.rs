//! The token bucket that bounds the ICMP errors of one worker (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8).

use crate::env::Millis;

/// ICMP errors that a worker sends per second, over a longer time.
pub(crate) const RATE_PER_SECOND: u32 = 1000;
/// ICMP errors that it sends at once after a quiet time.
pub(crate) const BUCKET: u32 = 100;

/// A token bucket over a coarse, wrapping clock.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Thousandths of a token.
    level: u32,
    last: Millis,
}

impl Limiter {
    /// A full bucket.
    pub(crate) const fn new(now: Millis) -> Limiter {
        Limiter { level: BUCKET * 1000, last: now }
    }

    /// Takes a token if there is one.
    pub(crate) fn allow(&mut self, now: Millis) -> bool {
        let elapsed = now.wrapping_sub(self.last);
        self.last = now;
        self.level = elapsed.saturating_mul(RATE_PER_SECOND).saturating_add(self.level).min(BUCKET * 1000);
        let ok = self.level >= 1000;
        if ok {
            self.level -= 1000;
        }
        ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate_across_the_wrap() {
        let mut l = Limiter::new(Millis::MAX - 5);
        let burst = (0..1000).filter(|_| l.allow(Millis::MAX - 5)).count();
        assert_eq!(burst, BUCKET as usize);
        let later = (0..1000).filter(|_| l.allow(14)).count();
        assert_eq!(later, 20, "20 ms at one per millisecond");
        let quiet = (0..1000).filter(|_| l.allow(1_000_000)).count();
        assert_eq!(quiet, BUCKET as usize, "never more than the bucket");
    }
}
