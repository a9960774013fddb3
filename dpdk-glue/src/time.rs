//! The time stamp counter, and a clock that costs no system call.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The CPU's time stamp counter, in cycles of [`hz`].
#[inline(always)]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86-64 CPU and touches no memory.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: reads a counter register.
    return unsafe { dpdk_sys::shim_tsc() };
}

/// Cycles a second. Measured by EAL when it starts; measured here, in 50 ms, if it has not started yet.
pub fn hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        // SAFETY: reads a variable that EAL sets during its start.
        match unsafe { dpdk_sys::rte_get_tsc_hz() } {
            0 => measure(),
            hz => hz,
        }
    })
}

fn measure() -> u64 {
    let (start, first) = both_clocks();
    std::thread::sleep(Duration::from_millis(50));
    let (end, last) = both_clocks();
    let ticks = u128::from(last.saturating_sub(first));
    (ticks * 1_000_000_000 / end.duration_since(start).as_nanos().max(1)) as u64
}

/// The wall clock and the counter at one moment: the closest of some readings, for a thread may be stopped in between.
fn both_clocks() -> (Instant, u64) {
    let read = |_| {
        let (before, wall, after) = (cycles(), Instant::now(), cycles());
        (after.wrapping_sub(before), wall, before)
    };
    let closest = (0..16).map(read).min_by_key(|(took, ..)| *took);
    closest.map_or_else(|| (Instant::now(), cycles()), |(_, wall, counter)| (wall, counter))
}

/// A coarse clock for one thread: nanoseconds since it was made, as of the last [`update`](Self::update). Reading costs
/// a load; a worker updates it once a burst. The TSC is taken to be invariant, as DPDK does.
#[derive(Debug)]
pub struct CoarseClock {
    start: u64,
    now_ns: u64,
    /// Nanoseconds per cycle as a fixed-point number with 32 fractional bits.
    mult: u64,
}

impl CoarseClock {
    /// A clock that stands at 0.
    pub fn new() -> Self {
        let mult = (1_000_000_000u128 << 32) / u128::from(hz().max(1));
        Self { start: cycles(), now_ns: 0, mult: mult as u64 }
    }

    /// Reads the counter and returns the new time in nanoseconds. Never goes back.
    #[inline]
    pub fn update(&mut self) -> u64 {
        let ticks = cycles().saturating_sub(self.start);
        let ns = ((u128::from(ticks) * u128::from(self.mult)) >> 32) as u64;
        // Counters of different sockets may differ by some cycles after a migration.
        self.now_ns = self.now_ns.max(ns);
        self.now_ns
    }

    /// The time of the last update, in nanoseconds.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

impl Default for CoarseClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_follows_the_wall_clock() {
        // A busy machine may stop this thread between any two readings, so ours is held between two of the other clock.
        hz();
        let before = Instant::now();
        let mut clock = CoarseClock::new();
        let after = Instant::now();
        std::thread::sleep(Duration::from_millis(40));
        let shortest = after.elapsed().as_nanos() as u64;
        let coarse = clock.update();
        let longest = before.elapsed().as_nanos() as u64;
        let right = shortest / 20 * 19..longest / 19 * 20;
        assert!(right.contains(&coarse), "{coarse} is not in {right:?}");
        assert_eq!(clock.now_ns(), coarse);
    }
}
