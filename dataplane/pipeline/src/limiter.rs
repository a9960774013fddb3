//! The token buckets that bound a worker's ICMP errors (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8): one for
//! each port that packets came in by, so that a pod which provokes errors keeps no other from learning its path's MTU.

use podplane_packet::id::PortId;

use crate::env::Millis;

/// ICMP errors that are sent per second and port, over a longer time.
pub(crate) const RATE_PER_SECOND: u32 = 1000;
/// ICMP errors that are sent at once after a quiet time.
pub(crate) const BUCKET: u32 = 100;

/// A worker's buckets.
#[derive(Debug)]
pub(crate) struct Limiters {
    ports: Box<[Limiter]>,
}

impl Limiters {
    /// Full buckets.
    pub(crate) fn new(now: Millis) -> Limiters {
        Limiters { ports: vec![Limiter::new(now); PortId::MAX].into() }
    }

    /// Takes a token for an error about what came in by `port`, if there is one.
    pub(crate) fn allow(&mut self, port: PortId, now: Millis) -> bool {
        self.ports.get_mut(port.index()).is_some_and(|limiter| limiter.allow(now))
    }
}

/// A token bucket over a coarse, wrapping clock.
#[derive(Clone, Copy, Debug)]
struct Limiter {
    /// Thousandths of a token.
    level: u32,
    last: Millis,
}

impl Limiter {
    /// A full bucket.
    const fn new(now: Millis) -> Limiter {
        Limiter { level: BUCKET * 1000, last: now }
    }

    /// Takes a token if there is one.
    fn allow(&mut self, now: Millis) -> bool {
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
