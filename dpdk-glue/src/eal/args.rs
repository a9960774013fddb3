//! From a configuration to EAL's arguments.

use std::path::{Path, PathBuf};

use super::EalError;

/// Where the kernel tells how many hugepages are free.
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

/// Whether EAL's memory lies in hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// In hugepages if enough are free, else without and with a warning.
    #[default]
    Auto,
    /// Without (`--no-huge`), with a warning: slower, and no physical device can reach the buffers without an IOMMU.
    Off,
    /// In hugepages; without enough free ones the start fails.
    Required,
}

/// Which PCI devices EAL takes when it starts. They cannot be added later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pci {
    /// None; the bus is not even scanned.
    #[default]
    Off,
    /// Those with these addresses or device arguments (`0000:01:00.0`, `0000:01:00.0,key=value`).
    Allow(Vec<String>),
    /// All that are bound to a driver that DPDK can use.
    All,
}

/// How EAL is to start.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// The program's name in EAL's messages.
    pub program: String,
    /// `--lcores`: EAL's own lcores and their CPUs. `None`: lcore 0 alone, which is the calling thread, on the CPUs
    /// that it may run on now. Workers register themselves ([`crate::Lcore`]) and need not be listed.
    pub lcores: Option<String>,
    /// Memory for pools and rings in MiB, reserved at the start.
    pub memory_mib: u32,
    /// Hugepages or not.
    pub hugepages: Hugepages,
    /// PCI devices.
    pub pci: Pci,
    /// Driver plugins (`-d`: a library or a folder of them) beside those in the distribution's folder.
    pub drivers: Vec<PathBuf>,
    /// EAL's log level: `error`, `warning`, `notice`, `info` or `debug`.
    pub log_level: String,
    /// Further arguments, passed as they are.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            program: "podplane".to_owned(),
            lcores: None,
            memory_mib: 256,
            hugepages: Hugepages::Auto,
            pci: Pci::Off,
            drivers: Vec::new(),
            log_level: "warning".to_owned(),
            extra: Vec::new(),
        }
    }
}

/// The arguments, and what was decided on the way.
pub(super) struct Plan {
    pub(super) args: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) hugepages: bool,
}

impl EalConfig {
    pub(super) fn plan(&self) -> Result<Plan, EalError> {
        self.plan_with(free_hugepages_mib(Path::new(HUGEPAGES)))
    }

    fn plan_with(&self, free_mib: u64) -> Result<Plan, EalError> {
        let enough = free_mib >= u64::from(self.memory_mib);
        let hugepages = match self.hugepages {
            Hugepages::Off => false,
            Hugepages::Auto => enough,
            Hugepages::Required if enough => true,
            Hugepages::Required => return Err(self.no_hugepages(free_mib)),
        };
        let mut args = vec![self.program.clone(), "--no-telemetry".to_owned()];
        // A name of our own, so that the folder that EAL makes for it can be removed (remove_runtime_dir).
        args.push(format!("--file-prefix=podplane-{}", std::process::id()));
        args.push("--lcores".to_owned());
        args.push(self.lcores.clone().unwrap_or_else(|| format!("0@({})", cpu_list(&allowed_cpus()))));
        args.extend(["-m".to_owned(), self.memory_mib.to_string()]);
        args.push(format!("--log-level={}", self.log_level));
        // DPDK refuses --in-memory with --no-huge (which is a "legacy" memory mode); --no-shconf is what is left of it.
        args.extend(
            if hugepages { &["--in-memory"][..] } else { &["--no-huge", "--no-shconf", "--iova-mode=va"] }
                .iter()
                .map(|a| (*a).to_owned()),
        );
        match &self.pci {
            Pci::Off => args.push("--no-pci".to_owned()),
            Pci::Allow(devices) if devices.is_empty() => args.push("--no-pci".to_owned()),
            Pci::Allow(devices) => args.extend(devices.iter().flat_map(|d| ["-a".to_owned(), d.clone()])),
            Pci::All => {}
        }
        for driver in &self.drivers {
            args.extend(["-d".to_owned(), driver.display().to_string()]);
        }
        args.extend(self.extra.iter().cloned());
        let warnings = if hugepages { Vec::new() } else { vec![self.warning(free_mib)] };
        Ok(Plan { args, warnings, hugepages })
    }

    fn pages(&self) -> u32 {
        self.memory_mib.div_ceil(2)
    }

    fn no_hugepages(&self, free_mib: u64) -> EalError {
        EalError::NoHugepages { wanted_mib: self.memory_mib, free_mib, pages: self.pages() }
    }

    fn warning(&self, free_mib: u64) -> String {
        let cause = match self.hugepages {
            Hugepages::Off => "switched off in the configuration".to_owned(),
            _ => format!("{free_mib} MiB of hugepages are free, {} MiB are wanted", self.memory_mib),
        };
        format!(
            "running without hugepages ({cause}): slower, and physical NICs need an IOMMU; to fix it run \
             podplane-hugepages, or `sysctl vm.nr_hugepages={}`, and restart",
            self.pages()
        )
    }
}

/// Free hugepages of all sizes in MiB; 0 where the kernel has none.
fn free_hugepages_mib(root: &Path) -> u64 {
    let Ok(sizes) = std::fs::read_dir(root) else { return 0 };
    let mib = |entry: std::fs::DirEntry| -> Option<u64> {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 = std::fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(free * kib / 1024)
    };
    sizes.flatten().filter_map(mib).sum()
}

/// The CPUs that the calling thread may run on; CPU 0 if the kernel does not say.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is plain data, for which all zeroes is the empty set; the kernel fills at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return vec![0];
        }
        set
    };
    // SAFETY: reads a bit of the set, within its size.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// `0-3,8` from a sorted list.
fn cpu_list(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[usize]| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_listed_as_ranges() {
        assert_eq!(cpu_list(&[0]), "0");
        assert_eq!(cpu_list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert!(!allowed_cpus().is_empty());
    }

    #[test]
    fn too_few_hugepages_mean_none_a_warning_or_an_error() {
        let auto = EalConfig { memory_mib: 64, ..EalConfig::default() };
        let plan = auto.plan_with(63).unwrap();
        assert!(!plan.hugepages && plan.args.iter().any(|a| a == "--no-huge"));
        assert!(plan.warnings[0].contains("63 MiB") && plan.warnings[0].contains("vm.nr_hugepages=32"));
        let plan = auto.plan_with(64).unwrap();
        assert!(plan.hugepages && plan.warnings.is_empty() && !plan.args.iter().any(|a| a == "--no-huge"));

        let strict = EalConfig { hugepages: Hugepages::Required, ..auto };
        assert!(matches!(strict.plan_with(63), Err(EalError::NoHugepages { wanted_mib: 64, free_mib: 63, pages: 32 })));
        let off = EalConfig { hugepages: Hugepages::Off, ..strict };
        assert!(!off.plan_with(1000).unwrap().hugepages);
    }

    #[test]
    fn pci_devices_are_named_or_off() {
        let args = |pci| EalConfig { pci, ..EalConfig::default() }.plan_with(0).unwrap().args;
        assert!(args(Pci::Off).contains(&"--no-pci".to_owned()));
        assert!(args(Pci::Allow(vec![])).contains(&"--no-pci".to_owned()));
        let some = args(Pci::Allow(vec!["0000:01:00.0".to_owned()]));
        assert!(some.windows(2).any(|w| w == ["-a", "0000:01:00.0"]) && !some.contains(&"--no-pci".to_owned()));
        assert!(!args(Pci::All).iter().any(|a| a == "-a" || a == "--no-pci"));
    }
}
