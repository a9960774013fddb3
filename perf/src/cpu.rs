//! CPU time of the whole machine, and whether others load it.
//!
//! What softirqs and helper threads do is charged by the kernel to whichever thread they interrupt or to nobody that a
//! process's own counters show, so a comparison with a kernel path takes the machine's busy time: nothing hides there.
//! Where the kernel's work is bound to threads of its own ([`Threads`]), theirs is finer.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The machine's CPU time in ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    busy: u64,
    total: u64,
}

/// Clock ticks a second (`USER_HZ`), fixed on Linux for x86-64.
const TICKS: f64 = 100.0;

impl Machine {
    /// Now.
    pub fn now() -> Result<Machine> {
        Machine::parse(&fs::read_to_string("/proc/stat").context("reading /proc/stat")?)
    }

    fn parse(stat: &str) -> Result<Machine> {
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields[..] else {
            bail!("/proc/stat has an unknown form: {line}")
        };
        let busy = user + nice + system + irq + softirq + steal;
        Ok(Machine { busy, total: busy + idle + iowait })
    }

    /// Busy CPU-seconds since `before`.
    pub fn busy_since(&self, before: &Machine) -> f64 {
        (self.busy - before.busy) as f64 / TICKS
    }

    /// The busy part of all cores since `before`, 0 to 1.
    pub fn load_since(&self, before: &Machine) -> f64 {
        (self.busy - before.busy) as f64 / ((self.total - before.total) as f64).max(1.0)
    }
}

/// The threads that forward packets, by what the scheduler says that they ran: exact, and blind to what others do. It
/// holds where all the work is known to be in these threads.
#[derive(Clone, Debug)]
pub struct Threads(Vec<u32>);

impl Threads {
    /// The threads of a process whose names start with `prefix`; an error if there is none.
    pub fn of_process(pid: u32, prefix: &str) -> Result<Threads> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("listing threads of {pid}"))? {
            let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
            threads.extend(name.starts_with(prefix).then_some(thread));
        }
        if threads.is_empty() { bail!("process {pid} has no thread {prefix}*") } else { Ok(Threads(threads)) }
    }

    /// The kernel's threads whose names start with one of these; an error if one of them names none.
    pub fn of_kernel(prefixes: &[String]) -> Result<Threads> {
        let mut threads = Vec::new();
        for entry in fs::read_dir("/proc").context("listing processes")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            threads.extend(prefixes.iter().filter(|prefix| name.starts_with(*prefix)).map(|prefix| (prefix, pid)));
        }
        if let Some(missing) = prefixes.iter().find(|prefix| threads.iter().all(|(of, _)| of != prefix)) {
            bail!("the kernel has no thread {missing}*");
        }
        Ok(Threads(threads.into_iter().map(|(_, pid)| pid).collect()))
    }

    /// Nanoseconds that they have run since they started.
    pub fn ran(&self) -> Result<u64> {
        let ran = |thread: &u32| {
            let text =
                fs::read_to_string(format!("/proc/{thread}/schedstat")).context("a forwarding thread is gone")?;
            text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).context("schedstat has an unknown form")
        };
        self.0.iter().map(ran).sum()
    }
}

/// Waits for a second in which others leave the machine alone; an error that says how loaded it stayed.
pub fn wait_quiet(within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let before = Machine::now()?;
        std::thread::sleep(Duration::from_secs(1));
        let load = Machine::now()?.load_since(&before);
        if load < 0.10 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("no result: others keep {:.0} % of this machine busy", load * 100.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_line_is_understood() {
        let before = Machine::parse("cpu  100 0 50 800 50 0 10 0 0 0\ncpu0 1").unwrap();
        let after = Machine::parse("cpu  150 0 60 830 50 0 20 0 0 0\ncpu0 1").unwrap();
        assert!((after.busy_since(&before) - 0.7).abs() < 1e-9);
        assert!((after.load_since(&before) - 0.7).abs() < 1e-9);
        assert!(Machine::parse("intr 1").is_err());
    }

    /// Under a name of its own: a prefix that other tests' threads share would list threads that end meanwhile.
    #[test]
    fn the_time_of_threads_grows_with_their_work() {
        let worker = std::thread::Builder::new().name("spins-alone".to_owned()).spawn(|| {
            let threads = Threads::of_process(std::process::id(), "spins-alone").unwrap();
            let before = threads.ran().unwrap();
            // The kernel adds up when it looks at the thread, at the latest when it stops it.
            let began = Instant::now();
            while threads.ran().unwrap() <= before {
                assert!(began.elapsed() < Duration::from_secs(60), "no work was counted");
            }
        });
        worker.unwrap().join().unwrap();
        assert!(Threads::of_kernel(&["no-such-thread/".to_owned()]).is_err());
    }
}
