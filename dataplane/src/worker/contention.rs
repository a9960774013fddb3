//! Whether others wait for a CPU, so that a worker with nothing to do does not spin in their place.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Nanoseconds for which an answer holds: the kernel is asked once a millisecond at most.
const VALID_FOR: u64 = 1_000_000;

/// One worker's view of the machine's load.
#[derive(Debug)]
pub struct Contention {
    /// Its fourth field is the number of threads that run or want to.
    loadavg: Option<File>,
    cpus: u32,
    asked_at: Option<u64>,
    contended: bool,
}

impl Contention {
    /// Nobody was asked yet.
    pub fn new() -> Contention {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Contention { loadavg: File::open("/proc/loadavg").ok(), cpus, asked_at: None, contended: true }
    }

    /// Whether more threads want to run than there are CPUs, as of `now` or up to a millisecond before (nanoseconds).
    /// Where the kernel does not say, they are taken to.
    pub fn is_contended(&mut self, now: u64) -> bool {
        if self.asked_at.is_none_or(|at| now.saturating_sub(at) >= VALID_FOR) {
            self.asked_at = Some(now);
            self.contended = self.runnable().is_none_or(|runnable| runnable > self.cpus);
        }
        self.contended
    }

    fn runnable(&self) -> Option<u32> {
        let mut text = [0; 64];
        let len = self.loadavg.as_ref()?.read_at(&mut text, 0).ok()?;
        runnable_in(&text[..len])
    }
}

impl Default for Contention {
    fn default() -> Self {
        Self::new()
    }
}

/// The 3 of `0.50 0.40 0.30 3/345 12345`.
fn runnable_in(loadavg: &[u8]) -> Option<u32> {
    let field = loadavg.split(|b| *b == b' ').nth(3)?;
    let number = field.split(|b| *b == b'/').next()?;
    str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_runnable_threads_is_read() {
        assert_eq!(runnable_in(b"0.50 0.40 0.30 3/345 12345\n"), Some(3));
        assert_eq!(runnable_in(b"0.50 0.40"), None);
        assert_eq!(runnable_in(b""), None);
        assert!(Contention::new().runnable().is_some_and(|n| n >= 1), "this thread runs");
    }

    #[test]
    fn an_answer_holds_for_a_millisecond() {
        let mut contention = Contention { loadavg: None, cpus: 4, asked_at: None, contended: false };
        assert!(contention.is_contended(5), "unknown is taken for contended");
        contention.contended = false;
        assert!(!contention.is_contended(VALID_FOR));
        assert!(contention.is_contended(5 + VALID_FOR));
    }
}
