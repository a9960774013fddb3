//! The workers' clock: the time stamp counter, from one start for all of them, because flows that one worker dates
//! are read by another.

use dpdk_glue::time::{cycles, hz};
use podplane_pipeline::Millis;

/// A clock without system calls. Copies stand at the same time; counters of sockets may differ by some cycles.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    /// Nanoseconds per cycle, a fixed-point number with 32 fractional bits.
    nanos_per_cycle: u64,
}

impl Clock {
    /// A clock that stands at 0. To be made once EAL has started, which measures the counter.
    pub fn start() -> Clock {
        let nanos_per_cycle = (1_000_000_000u128 << 32) / u128::from(hz().max(1));
        Clock { start: cycles(), nanos_per_cycle: nanos_per_cycle as u64 }
    }

    /// Nanoseconds since the start.
    #[inline]
    pub fn nanos(&self) -> u64 {
        let ticks = cycles().saturating_sub(self.start);
        ((u128::from(ticks) * u128::from(self.nanos_per_cycle)) >> 32) as u64
    }
}

/// The pipeline's time at `nanos`: wraps after 49 days.
#[inline]
pub fn millis(nanos: u64) -> Millis {
    (nanos / 1_000_000) as Millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_the_wall_clock() {
        // A busy machine may stop this thread between any two readings, so ours is held between two of the other clock.
        let before = std::time::Instant::now();
        let clock = Clock::start();
        let after = std::time::Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let shortest = after.elapsed().as_nanos() as u64;
        let ours = clock.nanos();
        let longest = before.elapsed().as_nanos() as u64;
        // EAL measures the counter within a tenth of a second, on such a machine not to the last percent.
        let right = shortest / 5 * 4..longest / 4 * 5;
        assert!(right.contains(&ours), "{ours} is not in {right:?}");
        assert_eq!((millis(999_999), millis(1_000_000)), (0, 1));
    }
}
