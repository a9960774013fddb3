//! What `podplane doctor` knows of a host: read once, judged by [`super::checks`] alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::DoctorArgs;

/// Transport protocols whose ports are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, listening sockets.
    Tcp,
    /// UDP, bound sockets; those of the kernel (VXLAN devices) are among them.
    Udp,
}

/// Hugepages of one size, over all NUMA nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of a page in KiB.
    pub page_kib: u64,
    /// Pages reserved.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
}

/// The device to the other nodes, as asked for and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nic {
    /// None was named.
    Unnamed,
    /// A kernel interface.
    Interface {
        /// Its name.
        name: String,
        /// Whether it is there.
        exists: bool,
        /// `up`, `down`, `unknown`, ... (RFC 2863).
        state: String,
        /// MTU in bytes.
        mtu: u64,
        /// Whether it is a bridge or belongs to a bridge or bond: then another device is meant.
        bridged: bool,
    },
    /// A PCI device.
    Pci {
        /// Its address.
        address: String,
        /// Whether it is there.
        exists: bool,
        /// The kernel's driver that holds it.
        driver: Option<String>,
    },
    /// Any other DPDK device: nothing to look at.
    Other,
}

/// What the API server answered to the agent's program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Api {
    /// Its address.
    pub url: String,
    /// Its version.
    pub version: Option<String>,
    /// What is wrong, with the cure.
    pub error: Option<String>,
    /// How many seconds its clock is ahead of ours.
    pub clock_ahead_seconds: Option<i64>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// The CPU's flags as in /proc/cpuinfo.
    pub cpu_flags: BTreeSet<String>,
    /// Number of CPUs.
    pub cpus: usize,
    /// `MemAvailable` in MiB.
    pub memory_mib: u64,
    /// Hugepages, smallest first.
    pub hugepages: Vec<Pool>,
    /// Number of IOMMU groups; none: it is off.
    pub iommu_groups: usize,
    /// The uplink.
    pub nic: Nic,
    /// Whether the kernel has nf_tables; `None`: it does not say.
    pub nf_tables: Option<bool>,
    /// Sockets of container runtimes that are there.
    pub runtimes: Vec<PathBuf>,
    /// Plugins' programs; `None`: the folder is missing.
    pub plugins: Option<Vec<String>>,
    /// Network configurations in the runtime's order; `None`: the folder is missing.
    pub networks: Option<Vec<String>>,
    /// Ports in use.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter: Option<u8>,
    /// Whether IPv6 is there and not switched off for the whole machine.
    pub ipv6: bool,
    /// Whether a program keeps the clock; `None`: none that we know of says.
    pub clock_kept: Option<bool>,
    /// Whether a kube-proxy runs.
    pub kube_proxy: bool,
    /// Whether Podplane's agent answers already, and so holds ports that would else be another's.
    pub agent_runs: bool,
    /// The API server; `None`: it was not named.
    pub api: Option<Api>,
}

/// Reads the host under `args.root` (`/`).
pub fn gather(run_dir: &Path, args: &DoctorArgs) -> Facts {
    let host = Host(&args.root);
    Facts {
        kernel: host.line("proc/sys/kernel/osrelease").unwrap_or_default(),
        cpu_flags: cpu_flags(&host.text("proc/cpuinfo")),
        cpus: host.text("proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
        memory_mib: memory_available(&host.text("proc/meminfo")),
        hugepages: host.hugepages(),
        iommu_groups: host.names("sys/kernel/iommu_groups").map_or(0, |groups| groups.len()),
        nic: host.nic(args.uplink.as_deref()),
        nf_tables: host.nf_tables(),
        runtimes: ["run/containerd/containerd.sock", "run/crio/crio.sock", "run/k3s/containerd/containerd.sock"]
            .map(|socket| args.root.join(socket))
            .into_iter()
            .filter(|socket| socket.exists())
            .collect(),
        plugins: host.names(&args.cni_bin_dir),
        networks: host.names(&args.cni_conf_dir).map(configurations),
        ports: host.ports(),
        rp_filter: host.line("proc/sys/net/ipv4/conf/all/rp_filter").and_then(|value| value.parse().ok()),
        ipv6: host.line("proc/sys/net/ipv6/conf/all/disable_ipv6").is_some_and(|value| value == "0"),
        clock_kept: host.clock_kept(),
        kube_proxy: host.runs("kube-proxy"),
        agent_runs: UnixStream::connect(run_dir.join("agent.sock")).is_ok(),
        api: ask_api(args),
    }
}

/// A host's files, below a folder.
struct Host<'a>(&'a Path);

impl Host<'_> {
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn text(&self, path: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn line(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    fn number(&self, path: impl AsRef<Path>) -> u64 {
        self.line(path).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Names in a folder, sorted; `None`: there is no such folder.
    fn names(&self, folder: impl AsRef<Path>) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.path(folder)).ok()?;
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Some(names)
    }

    fn hugepages(&self) -> Vec<Pool> {
        let folder = "sys/kernel/mm/hugepages";
        let pool = |name: String| {
            let page_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let of = |file: &str| self.number(Path::new(folder).join(&name).join(file));
            Some(Pool { page_kib, total: of("nr_hugepages"), free: of("free_hugepages") })
        };
        let mut pools: Vec<Pool> = self.names(folder).unwrap_or_default().into_iter().filter_map(pool).collect();
        pools.sort_by_key(|pool| pool.page_kib);
        pools
    }

    fn nic(&self, uplink: Option<&str>) -> Nic {
        let Some(uplink) = uplink else { return Nic::Unnamed };
        match uplink.split_once(':') {
            Some(("iface", name)) => {
                let device = Path::new("sys/class/net").join(name);
                Nic::Interface {
                    name: name.to_owned(),
                    exists: self.path(&device).exists(),
                    state: self.line(device.join("operstate")).unwrap_or_default(),
                    mtu: self.number(device.join("mtu")),
                    bridged: self.path(device.join("master")).exists() || self.path(device.join("bridge")).exists(),
                }
            }
            Some(("pci", device)) => {
                let address = device.split(',').next().unwrap_or_default().to_owned();
                let device = Path::new("sys/bus/pci/devices").join(&address);
                let driver = fs::read_link(self.path(device.join("driver"))).ok();
                let driver = driver.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
                Nic::Pci { exists: self.path(&device).exists(), address, driver }
            }
            _ => Nic::Other,
        }
    }

    fn nf_tables(&self) -> Option<bool> {
        if self.path("sys/module/nf_tables").exists() {
            return Some(true);
        }
        let modules = Path::new("lib/modules").join(self.line("proc/sys/kernel/osrelease")?);
        let lists = ["modules.builtin", "modules.dep"].map(|list| self.text(modules.join(list)));
        let known = lists.iter().any(|list| !list.is_empty());
        known.then(|| lists.iter().any(|list| list.contains("/nf_tables.ko")))
    }

    fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        let files = [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)];
        let of = |(file, protocol)| {
            let text = self.text(Path::new("proc/net").join(file));
            bound_ports(&text, protocol).into_iter().map(move |port| (protocol, port)).collect::<Vec<_>>()
        };
        files.into_iter().flat_map(of).collect()
    }

    fn clock_kept(&self) -> Option<bool> {
        if self.path("run/systemd/timesync/synchronized").exists() || self.path("run/chrony/chronyd.pid").exists() {
            return Some(true);
        }
        // It is there and has not got an answer yet.
        self.path("run/systemd/timesync").exists().then_some(false)
    }

    fn runs(&self, program: &str) -> bool {
        let processes = self.names("proc").unwrap_or_default();
        let is_process = |name: &String| name.bytes().all(|b| b.is_ascii_digit());
        let named = |pid: &String| self.line(Path::new("proc").join(pid).join("comm")).as_deref() == Some(program);
        processes.iter().filter(|name| is_process(name)).any(named)
    }
}

/// What runtimes read, in their order.
fn configurations(names: Vec<String>) -> Vec<String> {
    let ends = ["conf", "conflist", "json"];
    let read = |name: &String| Path::new(name).extension().is_some_and(|end| ends.iter().any(|known| end == *known));
    names.into_iter().filter(read).collect()
}

fn cpu_flags(cpuinfo: &str) -> BTreeSet<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_whitespace().map(str::to_owned).collect()
}

fn memory_available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Local ports of /proc/net/tcp and its like: of TCP those in state LISTEN (0A), of UDP all.
fn bound_ports(table: &str, protocol: Protocol) -> Vec<u16> {
    let port = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let local = columns.next()?;
        let state = columns.nth(1)?;
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (protocol == Protocol::Udp || state == "0A").then_some(port)
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// Lets the agent's program ask: it has the client and the credentials' rules, and we stay without either.
fn ask_api(args: &DoctorArgs) -> Option<Api> {
    if args.api_server.is_none() && args.kubeconfig.is_none() {
        return None;
    }
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("podplane-agent"));
    let program = beside.filter(|program| program.exists()).unwrap_or_else(|| "podplane-agent".into());
    let mut command = Command::new(&program);
    command.arg("check-api").stdin(Stdio::null()).stderr(Stdio::piped());
    let options = [
        ("--api-server", args.api_server.clone().map(PathBuf::from)),
        ("--kubeconfig", args.kubeconfig.clone()),
        ("--credentials", args.credentials.clone()),
    ];
    for (option, value) in options.into_iter().filter_map(|(option, value)| Some((option, value?))) {
        command.arg(option).arg(value);
    }
    let url = args.api_server.clone().unwrap_or_default();
    let failed = |error: String| Api { url: url.clone(), error: Some(error), ..Api::default() };
    Some(match command.output() {
        Err(e) => failed(format!("{} cannot be executed: {e}", program.display())),
        Ok(done) => serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| failed(String::from_utf8_lossy(&done.stderr).trim().to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn args(root: &Path) -> DoctorArgs {
        DoctorArgs { root: root.to_owned(), uplink: Some("pci:0000:01:00.0,mac=x".into()), ..DoctorArgs::example() }
    }

    fn put(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_host_is_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(
            root,
            &[
                ("proc/sys/kernel/osrelease", "6.1.0-1-amd64\n"),
                ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse4_2 aes\n\nprocessor\t: 1\nflags\t: fpu\n"),
                ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:  2097152 kB\n"),
                (
                    "proc/net/tcp",
                    "  sl local\n 0: 00000000:2810 00000000:0000 0A 0\n 1: 0100007F:0016 0100007F:9999 01 0\n",
                ),
                ("proc/net/udp6", "  sl local\n 0: 00000000000000000000000000000000:12B5 0:0 07 0\n"),
                ("proc/sys/net/ipv4/conf/all/rp_filter", "1\n"),
                ("proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n"),
                ("proc/77/comm", "kube-proxy\n"),
                ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
                ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "600\n"),
                ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "512\n"),
                ("sys/kernel/iommu_groups/0/type", "DMA\n"),
                ("sys/bus/pci/drivers/ixgbe/x", ""),
                ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x8086\n"),
                ("lib/modules/6.1.0-1-amd64/modules.dep", "kernel/net/netfilter/nf_tables.ko.xz:\n"),
                ("run/containerd/containerd.sock", ""),
                ("opt/cni/bin/loopback", ""),
                ("etc/cni/net.d/10-podplane.conflist", ""),
                ("etc/cni/net.d/05-other.conflist", ""),
                ("etc/cni/net.d/01-notes.txt", ""),
            ],
        );
        symlink("../../drivers/ixgbe", root.join("sys/bus/pci/devices/0000:01:00.0/driver")).unwrap();
        let facts = gather(&root.join("run/podplane"), &args(root));
        assert_eq!((facts.kernel.as_str(), facts.cpus, facts.memory_mib), ("6.1.0-1-amd64", 2, 2048));
        assert!(facts.cpu_flags.contains("sse4_2") && facts.cpu_flags.contains("aes"));
        assert_eq!(facts.ports, BTreeSet::from([(Protocol::Tcp, 10256), (Protocol::Udp, 4789)]));
        let pool = |page_kib, total, free| Pool { page_kib, total, free };
        assert_eq!(facts.hugepages, [pool(2048, 600, 512), pool(1_048_576, 0, 0)]);
        let nic = Nic::Pci { address: "0000:01:00.0".into(), exists: true, driver: Some("ixgbe".into()) };
        assert_eq!((facts.nic, facts.iommu_groups), (nic, 1));
        assert_eq!((facts.nf_tables, facts.rp_filter, facts.ipv6), (Some(true), Some(1), true));
        assert_eq!(facts.networks.unwrap(), ["05-other.conflist", "10-podplane.conflist"]);
        assert_eq!(facts.plugins.unwrap(), ["loopback"]);
        assert_eq!((facts.runtimes.len(), facts.kube_proxy, facts.agent_runs), (1, true, false));
        assert_eq!((facts.clock_kept, facts.api), (None, None));
    }

    #[test]
    fn a_host_that_says_nothing_is_no_panic() {
        let root = tempfile::tempdir().unwrap();
        let facts = gather(root.path(), &args(root.path()));
        assert_eq!((facts.nf_tables, facts.plugins, facts.networks), (None, None, None));
        assert_eq!(facts.nic, Nic::Pci { address: "0000:01:00.0".into(), exists: false, driver: None });
    }
}
