//! The token buckets that bound a worker's answers: ICMP errors (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8) and
//! TCP resets. One of each for each port that packets came in by, so that a pod which provokes answers keeps no other from
//! learning its path's MTU.

use podplane_packet::id::PortId;

use crate::env::Millis;

/// How many answers are sent.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Per second and port, over a longer time.
    per_second: u32,
    /// At once after a quiet time.
    bucket: u32,
}

/// ICMP errors.
const ERRORS: Rate = Rate { per_second: 1000, bucket: 100 };
/// Resets. Many, for each one ends a client's wait and is no longer than what provoked it; bounded, so that a flood of SYNs
/// for a Service without endpoints is not sent back whole.
const RESETS: Rate = Rate { per_second: 20_000, bucket: 2000 };

/// A worker's buckets.
#[derive(Debug)]
pub(crate) struct Limiters {
    ports: Box<[(Limiter, Limiter)]>,
}

impl Limiters {
    /// Full buckets.
    pub(crate) fn new(now: Millis) -> Limiters {
        Limiters { ports: vec![(Limiter::new(now, ERRORS), Limiter::new(now, RESETS)); PortId::MAX].into() }
    }

    /// Takes a token for an error about what came in by `port`, if there is one.
    pub(crate) fn allow(&mut self, port: PortId, now: Millis) -> bool {
        self.ports.get_mut(port.index()).is_some_and(|(errors, _)| errors.allow(now, ERRORS))
    }

    /// Takes a token for a reset of what came in by `port`, if there is one.
    pub(crate) fn allow_reset(&mut self, port: PortId, now: Millis) -> bool {
        self.ports.get_mut(port.index()).is_some_and(|(_, resets)| resets.allow(now, RESETS))
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
    const fn new(now: Millis, rate: Rate) -> Limiter {
        Limiter { level: rate.bucket * 1000, last: now }
    }

    /// Takes a token if there is one.
    fn allow(&mut self, now: Millis, rate: Rate) -> bool {
        let elapsed = now.wrapping_sub(self.last);
        self.last = now;
        self.level = elapsed.saturating_mul(rate.per_second).saturating_add(self.level).min(rate.bucket * 1000);
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
        for rate in [ERRORS, RESETS] {
            let mut l = Limiter::new(Millis::MAX - 5, rate);
            let mut sent = |now, tries| (0..tries).filter(|_| l.allow(now, rate)).count() as u32;
            assert_eq!(sent(Millis::MAX - 5, 10_000), rate.bucket);
            assert_eq!(sent(14, 10_000), 20 * rate.per_second / 1000, "20 ms");
            assert_eq!(sent(1_000_000, 10_000), rate.bucket, "never more than the bucket");
        }
    }

    #[test]
    fn each_port_and_kind_has_its_own() {
        let mut l = Limiters::new(0);
        assert_eq!((0..500).filter(|_| l.allow(PortId(5), 0)).count() as u32, ERRORS.bucket);
        assert!(l.allow(PortId(6), 0) && l.allow_reset(PortId(5), 0));
        assert!(!l.allow(PortId(PortId::MAX as u16), 0), "no such port");
    }
}
